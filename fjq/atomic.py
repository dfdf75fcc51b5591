"""Files that are there whole or not at all."""

import contextlib
import os
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
    part = path.with_name(f'.{path.name}.{uuid.uuid4().hex[:8]}.part')
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
