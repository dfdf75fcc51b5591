"""The run folder: config, manifest, and the signals that end a run early."""

import contextlib
import dataclasses
import datetime
import fcntl
import functools
import json
import os
import platform
import re
import shutil
import signal
import subprocess
from collections.abc import Collection, Iterator
from contextvars import ContextVar
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

from fjq.atomic import write_atomic
from fjq.config import ABSENT, Experiment, Train, describe_changes, find_changes, from_json, settle, to_dict, to_json
from fjq.errors import InputError
from fjq.keys import make_key
from fjq.log import say
from fjq.optim import make_optimizer
from fjq.task import Dataset, Task

FITTED = 'fitted'  # folder of a run and of saved weights: what was fitted on training rows (`Dataset.save_fitted`)
ORIGIN = 'origin.json'  # beside saved weights: the manifest of the run that they come from
_PACKAGES = ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'grain', 'numpy', 'pyarrow')
_FIXED = re.compile(r'task\..*|train\.(metric|mode)|seed')  # settings that a run keeps to its end
# Of these, what changes neither what the weights mean nor how they are learnt: precision, what is computed again in the
# backward pass, how many paths a forecast draws, and how.
_FREE = re.compile(r'task\.((.*\.)?(dtype|remat\w*)|paths|sampling\..*)')
_FACTS = ('config.json', 'manifest.json')
_LEFT = ('.lock', 'cache', 'wall.jsonl')  # what a start leaves that ends before it writes them, and who timed it
_given: ContextVar[Collection[str]] = ContextVar('given', default=())


class Interrupted(Exception):
    """SIGTERM or Ctrl-C arrived; what was done is saved and the same command goes on from there."""

    def __init__(self, signum: int):
        super().__init__(f'stopped by {signal.Signals(signum).name}; the same command resumes')
        self.exit_code = 128 + signum


def cache_folder(config: Experiment, workdir: Path) -> Path:
    return Path(config.cache) if config.cache else Path(workdir) / 'cache'


def write_facts(config: Experiment, workdir: Path, data: dict[str, Any]) -> None:
    """Writes config.json and manifest.json: what is needed to make the run's numbers again."""
    if jax.process_index() != 0:
        return
    workdir.mkdir(parents=True, exist_ok=True)
    device = jax.devices()[0]
    manifest = {
        'written': datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds'),
        'commit': commit(),
        'seed': config.seed,
        'device': f'{device.device_kind} ({device.platform}) x {jax.device_count()}',
        'processes': jax.process_count(),
        'python': platform.python_version(),
        'versions': {p: metadata.version(p) for p in _PACKAGES},
        'data': data,
    }
    write_atomic(workdir / 'config.json', to_json(config).encode())
    write_atomic(workdir / 'manifest.json', (json.dumps(manifest, indent=1, default=str) + '\n').encode())


def read_config(workdir: Path) -> Experiment:
    """The config that a run folder was trained with.

    Raises:
      InputError: the folder holds no run.
    """
    path = Path(workdir) / 'config.json'
    if not path.is_file():
        raise InputError(
            'there is no run here (config.json is absent)', file=workdir, remedy='train first, or check --workdir'
        )
    try:
        return from_json(path.read_text())
    except ValueError as e:
        raise InputError(f'config.json is damaged ({e})', file=path, remedy='train again, or restore the file') from e


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a run, or of the run that saved weights come from; {} where there is none.

    Raises:
      InputError: it is damaged.
    """
    path = next((p for name in ('manifest.json', ORIGIN) if (p := Path(folder) / name).is_file()), None)
    try:
        return json.loads(path.read_bytes()) if path else {}
    except ValueError as e:
        raise InputError(f'the file is damaged ({e})', file=path, remedy='restore it, or train again') from e


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


def changes_since_training(workdir: Path, fingerprint: dict[str, Any]) -> list[str]:
    """Names of what the data of now have otherwise than those of the run: later days change the chunks, which is as it
    should be; another horizon or feature is not what the model learned."""
    then = read_manifest(workdir).get('data', {})
    now = json.loads(json.dumps(fingerprint, default=str))
    return [name for name in {**then, **now} if then.get(name) != now.get(name)]


def check_settings(config: Experiment, task: Task) -> None:
    """Raises InputError where the split, the training or the optimiser makes no sense: cheap to tell before the data
    are read, which may take hours."""
    _check_data_settings(config, task)
    t = config.train
    for name in ('steps', 'micro_batches', 'log_every', 'eval_every', 'save_every', 'max_bad_steps'):
        if getattr(t, name) < 1:
            raise InputError(f'train.{name} is {getattr(t, name)}', remedy='make it 1 or more')
    if not 0 <= t.ema < 1:
        raise InputError(f'train.ema is {t.ema}', remedy='use 0 for none, or a decay such as 0.999')
    if t.mode not in ('min', 'max'):
        raise InputError(f'train.mode is {t.mode!r}', remedy="choose 'min' or 'max'")
    if hasattr(task, 'figures'):
        for field in ('metric', 'alarm'):
            check_figure(t, field, 'validation', {'loss', *task.figures})
    make_optimizer(config.optim, t.steps, jax.eval_shape(task.init, make_key(config.seed, 'init'))[0])


def check_figure(settings: Train, field: str, who: str, known: set[str]) -> None:
    """Raises InputError where a field of `Train` names none of the known figures of validation or training."""
    name = getattr(settings, field)
    if name and name not in known:
        raise InputError(
            f'train.{field} is {name!r}, which {who} does not give',
            remedy='choose one of ' + ', '.join(sorted(known)),
        )


def _check_data_settings(config: Experiment, task: Task) -> None:
    """Raises InputError where settings of the data make no sense, or do not fit the model, whatever the files hold."""
    if hasattr(config.data, 'check'):
        config.data.check()
    if hasattr(task, 'check_settings'):
        task.check_settings(config.data)
    split = getattr(config.data, 'split', None)
    if split is None:
        return
    valid_start, test_start = split.starts()
    if not valid_start < test_start:
        raise InputError(
            f'train ends at {split.train_end} and valid at {split.valid_end}',
            column='data.split',
            remedy='put train_end before valid_end',
        )
    for name in ('purge_days', 'embargo_days'):
        if not getattr(split, name) >= 0:
            raise InputError(f'{getattr(split, name):g} days', column=f'data.split.{name}', remedy='give 0 or more')


def open_data(config: Experiment, workdir: Path) -> Dataset:
    """The data of a config whose weights lie in `workdir`, checked against the model.

    Raises:
      InputError: what is wrong with a file or a field, or data that the model can not read.
    """
    task = config.task.build()
    _check_data_settings(config, task)
    dataset = config.data.open(cache_folder(config, workdir), config.parallel)
    check_fit(task, dataset, workdir)
    return dataset


def check_fit(task: Task, dataset: Dataset, *workdirs: Path) -> None:
    """Raises InputError where data do not fit the model, or what its weights are bound to is not that of a workdir."""
    if hasattr(task, 'check'):
        task.check(dataset)
    for workdir in workdirs:
        check_bound(task, dataset, read_manifest(workdir), workdir)


def check_bound(task: Task, dataset: Dataset, manifest: dict[str, Any], folder: Path | None = None) -> None:
    """Raises InputError where what weights are bound to is not that of the data in the manifest of their training."""
    then = manifest.get('data', {})
    for name in (n for n in getattr(task, 'bound_to', ()) if then.get(n) is not None):
        now = dataset.fingerprint().get(name)
        if then[name] != now:
            raise InputError(
                f'the weights were trained with the {name} {then[name]}, the data have {now}',
                file=folder,
                remedy=f'give data made with the same {name}, or train anew',
            )


def check_clear(workdir: Path, *configs: Experiment) -> None:
    """Raises InputError where a folder is no run's, or holds more than a run, or what a config's training is to begin
    with."""
    workdir = Path(workdir).resolve()
    if alien := _find_alien(workdir):
        raise InputError(
            f'it is no run folder, or more than that: it holds {alien}',
            file=workdir,
            remedy='leave --fresh out, or choose another --workdir',
        )
    if any(c.init_from and Path(c.init_from).resolve() == workdir for c in configs):
        raise InputError(
            'training is to begin with the weights of this run', file=workdir, remedy='choose another --workdir'
        )


def clear(workdir: Path, *configs: Experiment) -> None:
    """Removes what a run and its jobs left in a folder, whatever it is called. What stays is what training begins with
    (the cache, and what else the run's config or `configs` name inside the folder), and other runs.

    Raises:
      InputError: as `check_clear`, or the run is at work. Nothing is removed.
    """
    workdir = Path(workdir).resolve()
    check_clear(workdir, *configs)
    with lock(workdir):
        kept = [workdir / 'cache', workdir / '.lock', *_find_inputs(workdir, configs)]
        # The facts go last: where this is killed, the folder is still known to be a run's.
        for path in sorted(workdir.iterdir(), key=lambda p: (p.name in _FACTS, p)):
            if any(k.is_relative_to(path) for k in kept):
                continue
            if path.is_symlink() or not path.is_dir():
                path.unlink()
            elif not any(any(path.rglob(name)) for name in ('.lock', 'manifest.json')):  # of another run
                shutil.rmtree(path)


def _find_alien(workdir: Path) -> str:
    """The name of what shows that a folder is not, or not only, a run's: a hidden folder, as homes and projects have;
    without a run, all but what a start leaves that is killed before there is one. '' where nothing does."""
    entries = sorted(workdir.iterdir()) if workdir.is_dir() else []
    hidden = [p for p in entries if p.name.startswith('.') and p.is_dir()]
    if any(map(_is_ours, entries)):
        entries = []
    empty = lambda p: p.name == 'checkpoints' and not any(p.glob('*'))
    left = lambda p: p.name in _LEFT or p.suffix == '.part' or empty(p)
    return next((p.name for p in [*hidden, *entries] if not left(p)), '')


def _is_ours(path: Path) -> bool:
    """Whether a file is a config.json or manifest.json of `write_facts`: other programs have files of these names."""
    try:
        return path.name in _FACTS and {'seed', 'data'} <= set(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return False


def _find_inputs(workdir: Path, configs: Collection[Experiment]) -> list[Path]:
    """Paths inside a run folder that its config or others name: lists that a job made of the data, say, or a cache."""
    known = [to_dict(c) for c in configs]
    with contextlib.suppress(OSError, ValueError):
        known.append(json.loads((workdir / 'config.json').read_text()))
    paths = [Path(leaf).resolve() for leaf in jax.tree.leaves(known) if isinstance(leaf, str) and leaf]
    return [p for p in paths if workdir in p.parents]


def commit() -> str:
    """The git commit of the code, with '+' for uncommitted changes; '' outside a checkout."""
    root = Path(__file__).resolve().parent.parent

    def git(*words: str) -> str:
        return subprocess.run(['git', '-C', root, *words], capture_output=True, text=True, timeout=10).stdout.strip()

    try:
        head = git('rev-parse', '--short', 'HEAD')
        return head + ('+' if head and git('status', '--porcelain', '--untracked-files=no') else '')
    except (OSError, subprocess.SubprocessError):
        return ''


@contextlib.contextmanager
def lock(workdir: Path) -> Iterator[None]:
    """Holds a run folder: two runs in one would write over each other. A killed run lets go by itself.

    Raises:
      InputError: another run holds it, or it can not be made.
    """
    if jax.process_index() > 0:
        yield
        return
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        file = open(workdir / '.lock', 'w')
    except OSError as e:
        raise InputError(
            f'the run folder can not be written ({e.strerror})', file=workdir, remedy='choose another --workdir'
        ) from e
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                'another run is at work in this folder', file=workdir, remedy='wait for it, or choose another --workdir'
            ) from None
        except OSError:
            pass  # a file system without locks
        yield


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
