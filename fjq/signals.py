"""Signals that end a run early, once what was done is saved."""

import contextlib
import os
import signal
from collections.abc import Iterator


class Interrupted(Exception):
    """SIGTERM or Ctrl-C arrived; what was done is saved and the same command goes on from there."""

    def __init__(self, signum: int):
        super().__init__(f'stopped by {signal.Signals(signum).name}; the same command resumes')
        self.exit_code = 128 + signum


@contextlib.contextmanager
def catch_signals() -> Iterator[list[int]]:
    """Collects SIGTERM and SIGINT in the list it yields instead of dying.

    A second Ctrl-C ends the process at once; a second SIGTERM does not: schedulers send several.
    """
    caught: list[int] = []

    def handle(signum, _frame):
        if signum == signal.SIGINT and signum in caught:
            os._exit(128 + signum)
        caught.append(signum)

    old = {}
    with contextlib.suppress(ValueError):  # only the main thread may set handlers
        old = {s: signal.signal(s, handle) for s in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield caught
    finally:
        for signum, handler in old.items():
            signal.signal(signum, handler)
