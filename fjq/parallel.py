"""One map over many processes: on this machine with joblib, or on a Dask cluster."""

import dataclasses
import functools
import os
import signal
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from fjq.errors import InputError
from fjq.log import track

Item = TypeVar('Item')
Result = TypeVar('Result')
RESTARTS = 3  # times that work goes on after a local worker process died; a Dask scheduler has its own count
CONNECT_SECONDS = 15


@dataclasses.dataclass(kw_only=True)
class Parallel:
    """Where the work on many files runs."""

    workers: int = 0  # processes on this machine; 0 = one for each core, 1 = no other process
    # Address of a Dask scheduler ('tcp://host:8786'); '' = this machine. Its workers see the files under the same paths
    # and serve one folder at a time: they work in the one that the map was started in.
    scheduler: str = ''


def run(fn: Callable[[Item], Result], items: Sequence[Item], parallel: Parallel, *, what: str) -> list[Result]:
    """`[fn(item) for item in items]`, over processes, with progress.

    Each item has a number and its result is stored under it once, whatever dies and runs again on the way. `fn` may
    run twice on an item whose worker was killed, so what it writes must be the same the second time.

    Args:
      fn: a function of one item, with everything it needs bound to it; it travels by cloudpickle.
      items: what to work on; small things such as paths.
      what: the name of the work in the progress line.

    Returns:
      the results in the order of `items`.

    Raises:
      InputError: the same one that `fn` raised; or workers that keep dying, or a scheduler out of reach.
    """
    items = list(items)
    if parallel.workers < 0:
        raise InputError(f'{parallel.workers} workers', column='parallel.workers', remedy='use 0 for all cores')
    if parallel.scheduler:
        pairs = _run_cluster(fn, items, parallel.scheduler, what)
    else:
        import joblib

        workers = min(parallel.workers or joblib.cpu_count(), len(items))
        pairs = _run_local(fn, items, workers, what) if workers > 1 else ((i, fn(x)) for i, x in enumerate(items))
    results = dict(track(pairs, total=len(items), what=what))
    return [results[i] for i in range(len(items))]


def _call(fn: Callable[[Item], Result], folder: str, i: int, item: Item) -> tuple[int, Result]:
    try:
        os.chdir(folder)  # a worker outlives the map that started it, and relative paths are those of this one
    except OSError as e:
        raise InputError(
            f'a worker can not enter {folder} ({e.strerror})',
            column='parallel.scheduler',
            remedy='start the workers where the files lie under the same paths',
        ) from e
    return i, fn(item)


def _ignore_ctrl_c() -> None:
    """A terminal sends it to all of a group: this process ends its workers, which would answer with the interrupt."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _run_local(fn, items: list, workers: int, what: str) -> Iterator[tuple[int, Any]]:
    import joblib
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    waiting = set(range(len(items)))
    for restart in range(RESTARTS + 1):
        calls = [joblib.delayed(_call)(fn, os.getcwd(), i, items[i]) for i in sorted(waiting)]
        pairs = None
        try:
            # A worker may die while the first items are still being handed out, inside this call.
            map_ = joblib.Parallel(n_jobs=workers, return_as='generator_unordered', initializer=_ignore_ctrl_c)
            pairs = map_(calls)
            for i, result in pairs:
                waiting.remove(i)
                yield i, result
            return
        except TerminatedWorkerError as e:
            if restart == RESTARTS:
                raise InputError(
                    f'worker processes died {RESTARTS + 1} times with {len(waiting)} of {len(items)} items of '
                    f'{what!r} still to do, as they do when memory runs out',
                    column='parallel.workers',
                    remedy=f'use fewer than {workers} workers, or 1 to see the fault itself',
                ) from e
        finally:
            with warnings.catch_warnings():  # leaving early is on purpose: an error or Ctrl-C ends the rest
                warnings.simplefilter('ignore')
                if pairs is not None:
                    pairs.close()


def _run_cluster(fn, items: list, scheduler: str, what: str) -> Iterator[tuple[int, Any]]:
    # Futures, not joblib's Dask backend: that one scatters its arguments to single workers and fails with them, while
    # the scheduler itself runs a lost future again, its argument being part of the task.
    try:
        from distributed import CancelledError, Client, KilledWorker, as_completed
    except ImportError as e:
        raise InputError(
            'a Dask scheduler is named and dask is not installed',
            column='parallel.scheduler',
            remedy='install fjq[cluster], or leave the scheduler empty',
        ) from e
    try:
        client = Client(scheduler, timeout=CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError) as e:
        raise InputError(
            f'no Dask scheduler answers at {scheduler!r}',
            column='parallel.scheduler',
            remedy='start one with `dask scheduler`, or leave the field empty to work on this machine',
        ) from e
    with client:
        try:
            client.wait_for_workers(1, timeout=CONNECT_SECONDS)
        except TimeoutError as e:
            raise InputError(
                f'the Dask scheduler at {scheduler!r} has no workers',
                column='parallel.scheduler',
                remedy=f'start some with `dask worker {scheduler}`',
            ) from e
        run_id = f'{what}-{time.time_ns()}'
        numbers = range(len(items))
        call = functools.partial(_call, fn, os.getcwd())
        futures = client.map(call, numbers, items, key=[f'{run_id}-{i}' for i in numbers], pure=False)
        try:
            for future, result in as_completed(futures, loop=client.loop, with_results=True, raise_errors=False):
                if future.status == 'error':
                    raise result[1]
                if future.status != 'finished':
                    raise CancelledError(future.key)
                yield result
                future.release()
        except (KilledWorker, CancelledError) as e:
            raise InputError(
                f'the Dask cluster at {scheduler!r} gave up on {what!r} ({type(e).__name__})',
                column='parallel.scheduler',
                remedy='look at the log of the workers; they die when memory runs out',
            ) from e
        finally:
            client.cancel(futures)
