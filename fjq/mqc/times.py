"""How long the commands of a run took: `fjq.mqc.launches` writes it, the page of all stages reads it."""

import datetime
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

WALL = 'wall.jsonl'  # in a run folder, a line for each command: job, seconds


def record_time(words: Sequence[str], seconds: float) -> None:
    """Of a command with the arguments `words` of `fjq.launch`, in its run folder, if it came so far as to make one.

    A command that was interrupted and given again has two lines. What starts over deletes the lines with the run.
    """
    asked = dict(word.removeprefix('--').partition('=')[::2] for word in words)
    run = Path(asked['workdir'])
    if run.is_dir():
        with open(run / WALL, 'a') as file:
            file.write(json.dumps({'job': asked.get('job', 'train'), 'seconds': round(seconds, 2)}) + '\n')


def describe_times(run: Path) -> Iterator[tuple[str, str, str, str]]:
    """(run, job, its wall time, what of it was updates), a line a job. The wall time is known of commands that `mqc`
    gave; updates are those of metrics.jsonl, validation and checkpoints left out."""
    jobs: dict[str, float] = {}
    for line in _read_lines(run / WALL):
        jobs[line['job']] = jobs.get(line['job'], 0.0) + line['seconds']
    step, updates = 0, 0.0
    for line in (line for line in _read_lines(run / 'metrics.jsonl') if 'step_s' in line):
        updates += line['step_s'] * (line['step'] - step)
        step = line['step']
    if updates and 'train' not in jobs:
        yield run.name, 'train', '–', _clock(updates)
    for job, seconds in jobs.items():
        yield run.name, job, _clock(seconds), _clock(updates) if job == 'train' else ''


def _read_lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def _clock(seconds: float) -> str:
    return str(datetime.timedelta(seconds=round(seconds)))
