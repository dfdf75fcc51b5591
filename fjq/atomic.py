"""Files that are there whole or not at all."""

import contextlib
import os
import re
import socket
import uuid
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def atomic(path: str | os.PathLike) -> Iterator[Path]:
    """Gives a name to write to; the file gets its own name when the block ends, and never after an error.

    No other writer has that name: of two that write one file, on one machine or two, the last one stays. Folders are
    made.
    """
    path = Path(path)
    part = path.with_name(f'.{path.name}.{make_mark()}.part')
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield part
        with open(part, 'rb') as file:
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def write_atomic(path: str | os.PathLike, content: bytes) -> None:
    """Writes a file of these bytes."""
    with atomic(path) as part:
        part.write_bytes(content)


def sweep(folder: str | os.PathLike) -> None:
    """Removes what killed writers of this machine left anywhere in a folder."""
    for part in Path(folder).rglob('.*.part'):
        if is_left_over(part.name):
            part.unlink(missing_ok=True)


def make_mark() -> str:
    """A part of a name that says who is writing: the machine, the process, and which of its files."""
    return f'{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}'


def is_left_over(name: str) -> bool:
    """Whether a name has the mark of a process of this machine that is no more."""
    mark = re.search(rf'{re.escape(socket.gethostname())}-(\d+)-[0-9a-f]{{8}}', name)
    return mark is not None and not _is_alive(int(mark[1]))


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
