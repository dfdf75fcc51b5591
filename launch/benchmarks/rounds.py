"""Sides of a comparison, timed in turns on the same cores."""

import os
import time
from collections.abc import Callable
from typing import NamedTuple

from fjq.heap import keep_freed


class Taken(NamedTuple):
    """Milliseconds of one side, a number a round."""

    wall: list[float]
    cpu: list[float]


def use_cores(count: int, *, keep: bool = True) -> int:
    """All sides compute on the first `count` cores. Freed memory stays with the process if `keep`, for ours as in
    `fjq.launch`, and PyTorch gains too. To be called before thread pools are made."""
    cores = sorted(os.sched_getaffinity(0))[:count]
    os.sched_setaffinity(0, cores)
    if keep:
        keep_freed()
    return len(cores)


def time_rounds(sides: dict[str, Callable], rounds: int) -> dict[str, Taken]:
    """Every side once a round, so that a busy machine slows all; the order turns, so nobody always comes first."""
    taken = {name: Taken([], []) for name in sides}
    for number in range(rounds):
        for name in list(sides) if number % 2 == 0 else list(reversed(sides)):
            start, cpu_start = time.perf_counter(), time.process_time()
            sides[name]()
            taken[name].wall.append(1e3 * (time.perf_counter() - start))
            taken[name].cpu.append(1e3 * (time.process_time() - cpu_start))
    return taken
