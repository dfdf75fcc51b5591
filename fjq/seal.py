"""Seals: `<step>.sha256.json` beside the folder of a step lists the checksum of each of its files.

A seal is written last and atomically, so a step without one was cut off while it was written, and a step
that differs from its seal was damaged afterwards.
"""

import hashlib
import json
import os
import shutil
from pathlib import Path

_SUFFIX = '.sha256.json'


def make(folder: Path, step: int) -> tuple[Path, bytes]:
    """(file, content) of the seal of `folder/step`, whose files are complete."""
    root = folder / str(step)
    sums = {p.relative_to(root).as_posix(): _digest(p) for p in sorted(root.rglob('*')) if p.is_file()}
    return _path(folder, step), json.dumps(sums, indent=0).encode()


def steps(folder: Path) -> list[int]:
    """Sealed steps, oldest first."""
    names = (p.name.removesuffix(_SUFFIX) for p in folder.glob('*' + _SUFFIX))
    return sorted(int(name) for name in names if name.isdecimal() and (folder / name).is_dir())


def check(folder: Path, step: int, under: str = '') -> str:
    """'' for a whole step, else what is wrong with which file. Files outside the step are never opened.

    Args:
      under: checks only the files whose name starts with this.
    """
    path, root = _path(folder, step), folder / str(step)
    try:
        sums = dict(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return f'{path.name} is unreadable'
    for name, digest in sums.items():
        if not (root / name).resolve().is_relative_to(root.resolve()):
            return f'{path.name} names {name!r}, which lies outside the checkpoint'
        if not (root / name).is_file():
            return f'{step}/{name} is missing'
        if name.startswith(under) and _digest(root / name) != digest:
            return f'{step}/{name} does not match its checksum'
    return ''


def discard_unsealed(folder: Path) -> list[int]:
    """Removes the steps that were cut off, and returns them."""
    sealed = set(steps(folder))
    cut_off = [int(p.name) for p in folder.iterdir() if p.is_dir() and p.name.isdecimal() and int(p.name) not in sealed]
    for step in cut_off:
        shutil.rmtree(folder / str(step))
    return cut_off


def drop_orphans(folder: Path) -> None:
    """Removes the seals of steps that are no longer kept."""
    for path in folder.glob('*' + _SUFFIX):
        if not (folder / path.name.removesuffix(_SUFFIX)).is_dir():
            path.unlink(missing_ok=True)


def set_aside(folder: Path, step: int) -> Path:
    """Renames a damaged step to `damaged-<step>`, for a person to look at."""
    _path(folder, step).unlink(missing_ok=True)
    aside = folder / f'damaged-{step}'
    shutil.rmtree(aside, ignore_errors=True)
    if (folder / str(step)).exists():
        os.replace(folder / str(step), aside)
    return aside


def _path(folder: Path, step: int) -> Path:
    return folder / f'{step}{_SUFFIX}'


def _digest(path: Path) -> str:
    with open(path, 'rb') as f:
        return hashlib.file_digest(f, 'sha256').hexdigest()
