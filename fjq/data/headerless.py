"""Text files of candles whose first line is a candle already: FirstRate's, NinjaTrader's, and others of their order."""

import re
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.csv as pacsv

from fjq.errors import InputError

NAMES = ('time', 'open', 'high', 'low', 'close', 'volume')
_NINJA = r'^\d{8} \d{6};'
_HEAD_BYTES = 2**12


class Headerless(NamedTuple):
    """table: `NAMES`, as text; ninja: stamps are NinjaTrader's, UTC and at the end of a bar."""

    table: pa.Table
    ninja: bool


def open_text(path: Path) -> pa.NativeFile:
    """The bytes of a file of text, unpacked where its name ends in .gz."""
    return pa.input_stream(path, compression='gzip' if path.suffix.lower() == '.gz' else None)


def read_headerless(path: Path) -> Headerless | None:
    """A file of six columns, or of five without the volume; None where a first line names columns, or it is no text:
    what is wrong with such a file is told where it is read.

    Raises:
      InputError: another number of columns, or rows of different lengths.
    """
    if path.name.endswith('.parquet') or not path.is_file():
        return None
    try:
        with open_text(path) as stream:
            head = stream.read(_HEAD_BYTES).decode('utf-8-sig', errors='replace').split('\n')[0].strip()
    except (pa.ArrowException, OSError):
        return None
    if not head.lstrip('"')[:1].isdigit():
        return None
    delimiter = max(',;\t', key=head.count)
    count = head.count(delimiter) + 1
    if not len(NAMES) - 1 <= count <= len(NAMES):
        raise InputError(
            f'{count} columns and no header', file=path, remedy='name them in a first line, or give ' + ', '.join(NAMES)
        )
    names = NAMES[:count]
    try:
        table = pacsv.read_csv(
            open_text(path),
            pacsv.ReadOptions(column_names=names, use_threads=False),
            pacsv.ParseOptions(delimiter=delimiter),
            pacsv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=True),
        )
    except (pa.ArrowException, OSError) as e:
        raise InputError(
            f'it can not be read ({str(e).splitlines()[0]})', file=path, remedy='rows are ' + ', '.join(names)
        ) from e
    return Headerless(table, re.match(_NINJA, head) is not None)
