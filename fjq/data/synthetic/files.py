"""Files of the simulator, each there whole or not at all."""

import contextlib
import gzip
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fjq.atomic import atomic
from fjq.data.calendar import Date

GZIP_LEVEL = 1
# Columns whose values differ from row to row: a dictionary of them costs more than half the time of writing.
DISTINCT = ('id', 'participant_timestamp', 'sequence_number', 'sip_timestamp', 'trf_timestamp')


@contextlib.contextmanager
def parquet(path: Path, schema: pa.Schema, rows: int | None = None) -> Iterator[Callable[[pa.Table], None]]:
    """Gives a function that adds a table to a new parquet file, as row groups of `rows` rows or as one.

    Columns that the schema lacks are left out.
    """
    few = [name for name in schema.names if name not in DISTINCT]
    with atomic(path) as part, pq.ParquetWriter(part, schema, compression='zstd', use_dictionary=few) as writer:

        def write(table: pa.Table) -> None:
            columns = [_as_type(table[field.name], field.type) for field in schema]
            writer.write_table(pa.table(columns, schema), row_group_size=rows or max(len(table), 1))

        yield write


def _as_type(column: pa.ChunkedArray, type_: pa.DataType) -> pa.ChunkedArray:
    return column if column.type == type_ else column.cast(type_)


@contextlib.contextmanager
def lines(path: Path, header: str) -> Iterator[Callable[[list[pa.Array]], None]]:
    """Gives a function that adds columns of text as comma-separated lines, gzipped where the name ends in .gz.

    The columns hold what the file shall: nothing is quoted here.
    """
    with atomic(path) as part, contextlib.ExitStack() as stack:
        file = stack.enter_context(open(part, 'wb'))
        if path.name.endswith('.gz'):  # without a name and a time inside, so that equal contents give equal files
            file = stack.enter_context(gzip.GzipFile('', 'wb', GZIP_LEVEL, file, mtime=0))
        file.write(header.encode() + b'\n')

        def write(columns: list[pa.Array]) -> None:
            *most, last = (as_text(c) for c in columns)
            text = pc.binary_join_element_wise(*most, pc.binary_join_element_wise(last, '', '\n'), ',')
            for chunk in text.chunks if isinstance(text, pa.ChunkedArray) else [text]:
                # The bytes of a string array lie one after the other: they are the lines.
                ends = np.frombuffer(chunk.buffers()[1], np.int32)[chunk.offset : chunk.offset + len(chunk) + 1]
                file.write(chunk.buffers()[2][ends[0] : ends[-1]])

        yield write


def as_text(column: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """A column as text; numbers as the shortest that reads back the same."""
    return column if pa.types.is_string(column.type) else column.cast(pa.string())


def trade_paths(out: Path, date: Date, layouts: tuple[str, ...], flat: str, archive: str) -> dict[str, Path]:
    """Where each layout keeps the trades of a day: the seed's flat folder, or Polygon's folders by year and month."""
    month = Path('trades_v1', f'{date:%Y}', f'{date:%m}')
    names = dict(
        seed=out / flat / f'{date}.parquet',
        polygon_csv=out / archive / month / f'{date}.csv.gz',
        polygon_parquet=out / f'{archive}_parquet' / month / f'{date}.parquet',
    )
    return {layout: names[layout] for layout in layouts}
