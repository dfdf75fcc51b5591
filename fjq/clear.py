"""Starting over: what a run and its jobs left in a folder goes, what training begins with stays."""

import contextlib
import json
import shutil
from collections.abc import Collection
from pathlib import Path

import jax

from fjq.config import Experiment, to_dict
from fjq.errors import InputError
from fjq.run import lock

_FACTS = ('config.json', 'manifest.json')
_LEFT = ('.lock', 'cache', 'wall.jsonl')  # what a start leaves that ends before it writes them, and who timed it


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
