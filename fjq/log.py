"""What a run says: plain lines, progress of long work, and the metrics file."""

import importlib.util
import json
import math
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from fjq.atomic import write_atomic

T = TypeVar('T')
SECONDS_BETWEEN_LINES = 5.0
SECONDS_BETWEEN_REDRAWS = 0.1


def say(*words: Any) -> None:
    """One plain line on stdout, at once, also when stdout is a pipe."""
    print(*words, flush=True)


def track(iterable: Iterable[T], *, total: int, what: str) -> Iterator[T]:
    """Yields the items and shows how far it is: a bar with rate and time left on a terminal, else plain lines.

    Args:
      iterable: the work, one item a step.
      total: how many items there will be.
      what: the name of the work, shown in front.
    """
    show = _show_bar if sys.stdout.isatty() and os.environ.get('TERM') != 'dumb' else _show_lines
    return show(iterable, total, what)


def _show_lines(iterable: Iterable[T], total: int, what: str) -> Iterator[T]:
    start = last = time.monotonic()
    done = 0
    for done, item in enumerate(iterable, 1):
        yield item
        now = time.monotonic()
        if now - last >= SECONDS_BETWEEN_LINES and done < total:
            last, rate = now, done / (now - start)
            say(f'{what}: {done}/{total} ({done / total:.0%}), {rate:.3g}/s, {_clock((total - done) / rate)} left')
    seconds = time.monotonic() - start
    rate = f', {done / seconds:.3g}/s' if done and seconds > 0 else ''
    say(f'{what}: {done} in {_clock(seconds)}{rate}')


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f'{hours}:{minutes:02d}:{rest:02d}' if seconds >= 60 else f'{seconds:.1f} s'


def _show_bar(iterable: Iterable[T], total: int, what: str) -> Iterator[T]:
    from rich import progress
    from rich.text import Text

    class Rate(progress.ProgressColumn):
        def render(self, task) -> Text:
            speed = task.finished_speed or task.speed
            return Text(f'{speed:.3g}/s' if speed else '-/s', style='progress.data.speed')

    columns = (
        progress.TextColumn('{task.description}'),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        Rate(),
        progress.TimeRemainingColumn(elapsed_when_finished=True),
    )
    with progress.Progress(*columns, refresh_per_second=1 / SECONDS_BETWEEN_REDRAWS) as bar:
        task = bar.add_task(what, total=total)
        done = shown = 0
        last = time.monotonic()
        for item in iterable:
            yield item
            done += 1
            if (
                now := time.monotonic()
            ) - last >= SECONDS_BETWEEN_REDRAWS:  # an update costs 10 us, a step may cost less
                bar.update(task, advance=done - shown)
                shown, last = done, now
        bar.update(task, advance=done - shown)


class Writer:
    """Appends scalars to `folder/metrics.jsonl`, and to TensorBoard events where tensorboardX is installed.

    One line is one JSON object: `step` and the scalars of one call. A non-finite number is written as null.
    """

    def __init__(self, folder: str | os.PathLike):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.path = self.folder / 'metrics.jsonl'
        self._lines = None
        self._events = None
        self._purge_step = None

    def write(self, step: int, scalars: Mapping[str, Any]) -> None:
        """Adds one line. Numbers may be Python, NumPy or JAX scalars."""
        values = {name: _plain(value) for name, value in scalars.items()}
        if self._lines is None:
            self._lines = open(self.path, 'a', encoding='utf-8')
            if importlib.util.find_spec('tensorboardX'):
                from tensorboardX import SummaryWriter

                self._events = SummaryWriter(str(self.folder), purge_step=self._purge_step)
        self._lines.write(json.dumps({'step': int(step), **values}) + '\n')
        self._lines.flush()
        if self._events:
            for name, value in values.items():
                if value is not None:
                    self._events.add_scalar(name, value, int(step))

    def truncate(self, step: int) -> None:
        """Removes the lines after `step` and damaged ones, as a kill leaves: what follows writes them again."""
        self.close()
        self._purge_step = step + 1
        if not self.path.exists():
            return
        kept = [line for line in self.path.read_bytes().splitlines() if _step_of(line) <= step]
        write_atomic(self.path, b''.join(line + b'\n' for line in kept))

    def close(self) -> None:
        """Flushes and closes both files; a later `write` opens them again."""
        for file in (self._lines, self._events):
            if file is not None:
                file.close()
        self._lines = self._events = None

    def __enter__(self) -> 'Writer':
        return self

    def __exit__(self, *_) -> None:
        self.close()


def _plain(value: Any) -> int | float | None:
    value = value.item() if hasattr(value, 'item') else value
    return value if isinstance(value, int) or math.isfinite(value) else None


def _step_of(line: bytes) -> float:
    try:
        return json.loads(line)['step']
    except (ValueError, KeyError, TypeError):
        return math.inf  # not a whole line of ours
