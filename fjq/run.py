"""The run folder: config, manifest, and the signals that end a run early."""

import contextlib
import dataclasses
import datetime
import fcntl
import json
import os
import platform
import shutil
import signal
import subprocess
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

from fjq.atomic import write_atomic
from fjq.config import Experiment, Train, from_json, settle, to_json
from fjq.errors import InputError
from fjq.keys import make_key
from fjq.optim import make_optimizer
from fjq.task import Dataset, Task

_PACKAGES = ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'grain', 'numpy', 'pyarrow')
_FOLDERS = ('checkpoints', 'forecasts', 'embeddings', 'export', 'report', 'walk_forward')
_FILES = (
    'metrics.jsonl',
    'manifest.json',
    'config.json',
    'report.md',
    'report.html',
    'evaluation.json',
    'calibration.json',
    'failure.json',
    'stages.md',
    'stages.html',
    'wall.jsonl',
)


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


def adopt_task(config: Experiment, workdir: Path) -> Experiment:
    """The config with the model that the workdir was trained with: only the weights' own model can read them."""
    return settle(dataclasses.replace(config, task=read_config(workdir).task))


def changes_since_training(workdir: Path, fingerprint: dict[str, Any]) -> list[str]:
    """Names of what the data of now have otherwise than those of the run: later days change the chunks, which is as it
    should be; another horizon or feature is not what the model learned."""
    path = Path(workdir) / 'manifest.json'
    then = json.loads(path.read_text())['data'] if path.is_file() else {}
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
    for name in getattr(task, 'bound_to', ()):
        for path in (Path(w) / 'manifest.json' for w in workdirs):
            then = json.loads(path.read_text())['data'].get(name) if path.is_file() else None
            now = dataset.fingerprint().get(name)
            if then is not None and then != now:
                raise InputError(
                    f'the weights were trained with the {name} {then}, the data have {now}',
                    file=path.parent,
                    remedy=f'give data made with the same {name}, or train anew',
                )


def start_over(workdir: Path) -> None:
    """Removes what an earlier run left in a folder, caches excepted; refused while that run is at work."""
    with lock(workdir):
        for name in _FOLDERS:
            shutil.rmtree(workdir / name, ignore_errors=True)
        for path in [*(workdir / name for name in _FILES), *workdir.glob('events.out.tfevents.*')]:
            path.unlink(missing_ok=True)


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
