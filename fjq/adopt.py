"""Settings that a run keeps to its end, and those that may change after its training."""

import contextlib
import dataclasses
import functools
import re
from collections.abc import Collection, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from fjq.config import ABSENT, Experiment, describe_changes, find_changes, settle, to_dict
from fjq.errors import InputError
from fjq.log import say
from fjq.run import read_config

_FIXED = re.compile(r'task\..*|train\.(metric|mode)|seed')  # settings that a run keeps to its end
# Of these, what changes neither what the weights mean nor how they are learnt: precision, what is computed again in the
# backward pass, how many paths a forecast draws, and how.
_FREE = re.compile(r'task\.((.*\.)?(dtype|remat\w*)|paths|sampling\..*)')
_given: ContextVar[Collection[str]] = ContextVar('given', default=())


@contextlib.contextmanager
def given(fields: Collection[str]) -> Iterator[None]:
    """Tells `adopt_task`, while a job runs, which fields of its config the user has set: the others are what its file
    says by now, which is no wish."""
    before = _given.set(fields)
    try:
        yield
    finally:
        _given.reset(before)


def adopt_task(config: Experiment, workdir: Path) -> Experiment:
    """The config with the model that the workdir was trained with: only the weights' own model can read them. What the
    user has set of it (`given`) and is `_FREE` is taken over.

    Raises:
      InputError: the user has set another field to what it was not in training; or the folder holds no run.
    """
    task = read_config(workdir).task
    changes = find_changes({'task': to_dict(task)}, {'task': to_dict(config.task)})
    changes = {name: pair for name, pair in changes.items() if name in _given.get()}
    if fixed := {n: pair for n, pair in changes.items() if not _FREE.fullmatch(n) or ABSENT in pair}:
        raise InputError(
            f'the run was trained with other settings ({describe_changes(fixed)})',
            file=workdir,
            remedy='leave them out, or train anew with them in another --workdir',
        )
    for name in changes:
        *holders, field = name.split('.')[1:]
        find = functools.partial(functools.reduce, getattr, holders)
        setattr(find(task), field, getattr(find(config.task), field))
    if changes:
        say(f'going on with other settings ({describe_changes(changes)})')
    return settle(dataclasses.replace(config, task=task))


def check_resumed(stored: dict[str, Any], now: dict[str, Any], workdir: Path) -> None:
    """Says what a config has otherwise than the one that the checkpoint was written with.

    Raises:
      InputError: the model, its loss, the metric that ranks checkpoints, or the seed is another one. What is `_FREE`
        may change: the function that is learnt stays the same.
    """
    changed = find_changes(stored, now)
    held = lambda name: _FIXED.fullmatch(name) and not _FREE.fullmatch(name)
    if fixed := {n: pair for n, pair in changed.items() if held(n) and ABSENT not in pair}:
        raise InputError(
            f'the run was trained with other settings ({describe_changes(fixed)})',
            file=workdir,
            remedy='restore them, start over with --fresh, or choose another --workdir, with '
            f'--config.init_from={workdir} to begin with these weights',
        )
    if changed:
        say(f'going on with other settings ({describe_changes(changed)})')
