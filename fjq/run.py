"""The run folder: its config, its manifest, and its lock."""

import contextlib
import datetime
import fcntl
import json
import platform
import subprocess
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

from fjq.atomic import write_atomic
from fjq.config import Experiment, from_json, to_json
from fjq.errors import InputError

FITTED = 'fitted'  # folder of a run and of saved weights: what was fitted on training rows (`Dataset.save_fitted`)
ORIGIN = 'origin.json'  # beside saved weights: the manifest of the run that they come from
_PACKAGES = ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'grain', 'numpy', 'pyarrow')


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


def changes_since_training(workdir: Path, fingerprint: dict[str, Any]) -> list[str]:
    """Names of what the data of now have otherwise than those of the run: later days change the chunks, which is as it
    should be; another horizon or feature is not what the model learned."""
    then = read_manifest(workdir).get('data', {})
    now = json.loads(json.dumps(fingerprint, default=str))
    return [name for name in {**then, **now} if then.get(name) != now.get(name)]


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
