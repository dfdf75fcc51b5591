"""What a loop tells about its own speed: seconds a step, the wait for data, programs compiled."""

import contextlib
import functools
import time
from collections.abc import Callable, Iterator

import jax


class Clock:
    """Seconds a step and the share of them spent waiting for data, since the last reading."""

    def __init__(self):
        self.restart()

    def restart(self) -> None:
        self._start, self._wait, self._steps = time.perf_counter(), 0.0, 0

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self._wait += time.perf_counter() - start

    def stepped(self) -> None:
        self._steps += 1

    def rates(self) -> dict[str, float]:
        elapsed = max(time.perf_counter() - self._start, 1e-9)
        figures = {'step_s': elapsed / max(self._steps, 1), 'data_wait': self._wait / elapsed}
        self.restart()
        return figures


def count_compiles() -> Callable[[], int]:
    """A function that tells how many programs XLA has compiled since this call."""
    seen = _compiled()
    start = len(seen)
    return lambda: len(seen) - start


@functools.cache  # JAX keeps its listeners for good: one is enough
def _compiled() -> list[float]:
    seconds: list[float] = []

    def listen(event: str, duration: float, **_):
        if event.endswith('backend_compile_duration'):
            seconds.append(duration)

    jax.monitoring.register_event_duration_secs_listener(listen)
    return seconds
