"""Daily files and their columns: found by date, read by name, verified before anything is allocated.

Parquet, csv and csv.gz are read block by block with only the wanted columns; a ticker filter skips the row
groups whose statistics rule it out. Every fault of a file is an InputError that names the file.
"""

import bisect
import csv
import dataclasses
import datetime
import io
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from fjq.errors import InputError

SUFFIXES = ('.parquet', '.csv.gz', '.csv')
KINDS = ('any', 'text', 'number', 'integer', 'time', 'codes')
ARROW = {'text': pa.dictionary(pa.int32(), pa.string()), 'number': pa.float64(), 'integer': pa.int64()}
CSV = {**ARROW, 'integer': pa.float64(), 'codes': pa.string()}  # pandas writes integers with nulls as 0.0
MAX_ROWS = 2**31 - 1  # rows of one file; ten times the largest day of option trades
MAX_BYTES = 2**36  # decoded size that one file may claim
BLOCK_ROWS = 2**20  # rows decoded at a time
BLOCK_BYTES = 2**24  # bytes of csv parsed at a time
_DAMAGED = 'fetch or write the file again'


class DayFile(NamedTuple):
    """One file of one day."""

    date: datetime.date
    path: Path


def list_days(root: str | os.PathLike) -> list[DayFile]:
    """The daily files at most two folders below `root`, by date (flat, YYYY/ and YYYY/MM/ layouts).

    The date is the file name up to its first dot. Names that start with a dot or `._` and names that are no
    date are skipped.

    Raises:
      InputError: no such folder, no daily file in it, or two files of one date.
    """
    root = Path(root)
    if not root.is_dir():
        raise InputError('no such folder', file=root, remedy='give the folder that holds one file a day')
    found: dict[datetime.date, Path] = {}
    for folder, names, files in os.walk(root, followlinks=True):
        depth = len(Path(folder).relative_to(root).parts)
        names[:] = sorted(n for n in names if not n.startswith('.')) if depth < 2 else []
        for name in sorted(files):
            date = date_of(name)
            if date is None or not name.endswith(SUFFIXES):  # a name that starts with a dot has no date
                continue
            path = Path(folder, name)
            if date in found:
                raise InputError(
                    f'{date} is there twice, also as {path}', file=found[date], remedy='keep one of the two'
                )
            found[date] = path
    if not found:
        raise InputError(
            'no daily file in this folder', file=root, remedy='files are named YYYY-MM-DD' + ' or '.join(SUFFIXES)
        )
    return [DayFile(date, found[date]) for date in sorted(found)]


def date_of(name: str) -> datetime.date | None:
    """The date in a file name up to its first dot, or None."""
    try:
        return datetime.date.fromisoformat(name.split('.')[0])
    except ValueError:
        return None


@dataclasses.dataclass(frozen=True)
class Block:
    """Some consecutive rows of a file, those of unwanted tickers left out.

    table: the wanted columns.
    first: file row of the block's first row, before the filter.
    total: rows of the block before the filter.
    kept: positions of the table's rows in the block, or None where all were kept.
    """

    table: pa.Table
    first: int
    total: int
    kept: np.ndarray | None = None

    def rows(self) -> np.ndarray:
        """The file row (from 0, without a header) of each row of the table, int64."""
        return self.first + (np.arange(self.table.num_rows) if self.kept is None else self.kept)

    def row(self, i: int) -> int:
        """The file row of row `i` of the table."""
        return self.first + int(i if self.kept is None else self.kept[i])

    def filter(self, column: str, values: Sequence[str] | None) -> 'Block':
        """The rows whose dictionary column has one of the values, or null; None keeps all."""
        if values is None:
            return self
        mask = _mask(self.table[column], pa.array(values, pa.string()))
        return self if mask.all() else self.select(mask)

    def select(self, mask: np.ndarray) -> 'Block':
        """The rows where the mask is True."""
        kept = np.flatnonzero(mask)
        table = self.table.filter(pa.array(mask))
        return dataclasses.replace(self, table=table, kept=kept if self.kept is None else self.kept[kept])


def column_names(path: str | os.PathLike) -> list[str]:
    """The columns of a file, from its header alone."""
    path = _existing(path)
    return _parquet_file(path, ()).schema_arrow.names if path.name.endswith('.parquet') else _csv_header(path)


def read_columns(
    path: str | os.PathLike,
    columns: Sequence[str] | Mapping[str, str],
    *,
    optional: Collection[str] = (),
    tickers: Collection[str] | None = None,
    ticker: str = 'ticker',
) -> pa.Table:
    """The wanted columns of one file as a table; see `iter_columns`."""
    tables = [b.table for b in iter_columns(path, columns, optional=optional, tickers=tickers, ticker=ticker)]
    return pa.concat_tables(tables).unify_dictionaries()


def iter_columns(
    path: str | os.PathLike,
    columns: Sequence[str] | Mapping[str, str],
    *,
    optional: Collection[str] = (),
    tickers: Collection[str] | None = None,
    ticker: str = 'ticker',
) -> Iterator[Block]:
    """The wanted columns of one file, block by block, so that memory holds one block besides what is kept.

    Args:
      path: a parquet, csv or csv.gz file.
      columns: names, or name -> kind. 'text' becomes dictionary<int32, string>, 'number' float64 (integers, decimals
        and decimal text are accepted), 'integer' int64 (whole floats and their text are accepted, NaN is
        null), 'time' stays an int64 or a timestamp, 'codes' is text in csv and as it is in parquet, 'any' as it is.
      optional: columns that may be absent.
      tickers: keep only these values of the column `ticker`.

    Raises:
      InputError: no such file, an unknown format, an empty, truncated or damaged file, a header that claims an
        absurd size, a missing column, a column of the wrong type.
    """
    path = _existing(path)
    kinds = _present(columns, column_names(path), optional, path)
    if tickers is not None:
        kinds, tickers = {**kinds, ticker: 'text'}, sorted(tickers)
    read = _read_parquet if path.name.endswith('.parquet') else _read_csv
    rows = 0
    for block in read(path, kinds, tickers, ticker):
        rows = block.first + block.total
        if rows > MAX_ROWS:
            raise InputError(f'more than {MAX_ROWS:,} rows', file=path, remedy='split the file')
        yield dataclasses.replace(block, table=_cast(block.table, kinds, path, block.first)).filter(ticker, tickers)
    if rows == 0:
        raise InputError('the file has no rows', file=path, remedy='remove it or fetch it again')


def cast_columns(
    table: pa.Table, columns: Sequence[str] | Mapping[str, str], optional: Collection[str], what: str | os.PathLike
) -> pa.Table:
    """The wanted columns of a table in memory as their kinds; see `iter_columns`. Errors name it `what`."""
    return _cast(table, _present(columns, table.column_names, optional, what), what, 0)


def _present(
    columns: Sequence[str] | Mapping[str, str], names: Sequence[str], optional: Collection[str], path: str | os.PathLike
) -> dict[str, str]:
    """Name -> kind of the wanted columns that are there."""
    kinds = dict(columns) if isinstance(columns, Mapping) else dict.fromkeys(columns, 'any')
    if unknown := set(kinds.values()) - set(KINDS):
        raise InputError(f'unknown kind of column {unknown.pop()!r}', remedy='choose one of ' + ', '.join(KINDS))
    if absent := [n for n in kinds if n not in names and n not in optional]:
        has = 'the columns are ' + ', '.join(names[:30])
        raise InputError('no such column', file=path, column=absent[0], remedy=has)
    if twice := [n for n in kinds if names.count(n) > 1]:
        raise InputError('the column is there twice', file=path, column=twice[0], remedy='keep one of the two')
    return {n: kind for n, kind in kinds.items() if n in names}


def _existing(path: str | os.PathLike) -> Path:
    path = Path(path)
    if not path.name.endswith(SUFFIXES):
        raise InputError('unknown format', file=path, remedy='give one of ' + ', '.join(SUFFIXES))
    if not path.is_file():
        raise InputError('no such file', file=path)
    if path.stat().st_size == 0:
        raise InputError('the file is empty', file=path, remedy='remove it or fetch it again')
    return path


def _parquet_file(path: Path, text: Collection[str]) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path, read_dictionary=list(text), page_checksum_verification=True)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as e:
        raise InputError(
            f'not a parquet file, or a truncated one ({_first_line(e)})', file=path, remedy=_DAMAGED
        ) from e


def _read_parquet(path: Path, kinds: Mapping[str, str], tickers: Sequence[str] | None, ticker: str):
    """Yields blocks; one without rows stands for a row group whose bounds rule out every wanted ticker."""
    flat = _parquet_file(path, ())
    text = [n for n, kind in kinds.items() if kind == 'text' and _is_text(flat.schema_arrow.field(n).type)]
    file = _parquet_file(path, text)
    meta, names = file.metadata, list(kinds)
    index = {meta.schema.column(i).path.split('.')[0]: i for i in range(meta.num_columns)}
    groups = [meta.row_group(g) for g in range(meta.num_row_groups)]
    claimed = sum(g.total_byte_size for g in groups)  # of a single column pyarrow can abort on a damaged footer
    if (
        not 0 <= meta.num_rows <= MAX_ROWS
        or sum(g.num_rows for g in groups) != meta.num_rows
        or not 0 <= claimed <= MAX_BYTES
    ):
        raise InputError(
            f'the header claims {meta.num_rows:,} rows in {len(groups)} groups and {claimed:,} bytes',
            file=path,
            remedy=f'the limits are {MAX_ROWS:,} rows and {MAX_BYTES:,} bytes: {_DAMAGED}, or split it',
        )
    first = 0
    for g, group in enumerate(groups):
        if tickers is not None and not _may_hold(group.column(index[ticker]).statistics, tickers):
            nothing = file.schema_arrow.empty_table().select(names)
            yield Block(nothing, first, group.num_rows, np.zeros(0, np.int64))
            first += group.num_rows
            continue
        end = first + group.num_rows
        try:
            for batch in file.iter_batches(BLOCK_ROWS, row_groups=[g], columns=names, use_threads=False):
                yield Block(pa.table(batch), first, batch.num_rows)
                first += batch.num_rows
        except (pa.ArrowException, OSError) as e:
            raise InputError(f'the file is damaged ({_first_line(e)})', file=path, row=first, remedy=_DAMAGED) from e
        if first != end:
            raise InputError('the file ends before its header says', file=path, row=first, remedy=_DAMAGED)


def _may_hold(stats: pq.Statistics | None, tickers: Sequence[str]) -> bool:
    """Whether a row group's bounds leave room for one of the sorted tickers."""
    if stats is None or not stats.has_min_max or not isinstance(stats.min, str):
        return True
    i = bisect.bisect_left(tickers, stats.min)
    return i < len(tickers) and tickers[i] <= stats.max


def _csv_header(path: Path) -> list[str]:
    try:
        with pa.input_stream(str(path), compression='detect') as f:
            head = f.read(2**16).decode('utf-8-sig', errors='ignore')
    except (pa.ArrowException, OSError) as e:
        raise InputError(f'not a csv file, or a damaged one ({_first_line(e)})', file=path, remedy=_DAMAGED) from e
    return next(csv.reader(io.StringIO(head)), [])


def _read_csv(path: Path, kinds: Mapping[str, str], tickers: Sequence[str] | None, ticker: str):
    """Yields blocks. Only empty cells are null, so a ticker called NA stays one."""
    types = {n: CSV[kind] for n, kind in kinds.items() if kind in CSV}
    first = 0
    try:
        reader = pacsv.open_csv(
            path,
            pacsv.ReadOptions(use_threads=False, block_size=BLOCK_BYTES),
            convert_options=pacsv.ConvertOptions(column_types=types, include_columns=list(kinds), null_values=['']),
        )
        for batch in reader:
            yield Block(pa.table(batch), first, batch.num_rows)
            first += batch.num_rows
    except (pa.ArrowException, OSError) as e:
        line = _first_line(e)
        row, column = re.search(r'Row #(\d+)', line), re.search(r'CSV column #(\d+)', line)
        raise InputError(
            re.sub(r'^.*(CSV (?:conversion|parse) error)', r'\1', line),
            file=path,
            column=_csv_header(path)[int(column[1])] if column else None,
            row=int(row[1]) - 2 if row else first,
            remedy=_DAMAGED if not column else 'correct the cell',
        ) from e


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _cast(table: pa.Table, kinds: Mapping[str, str], path: str | os.PathLike, first: int) -> pa.Table:
    cast = pa.table({n: _as_kind(table[n], kind, path, n, first) for n, kind in kinds.items()})
    for name in (n for n, kind in kinds.items() if kind == 'text'):
        for chunk in cast[name].chunks:  # pyarrow does not check the codes of a damaged page
            bounds = pc.min_max(chunk.indices)
            low, high = bounds['min'].as_py(), bounds['max'].as_py()
            if low is not None and not 0 <= low <= high < len(chunk.dictionary):
                raise InputError('the file is damaged (bad dictionary code)', file=path, column=name, remedy=_DAMAGED)
    return cast


def _as_kind(values: pa.ChunkedArray, kind: str, path: str | os.PathLike, name: str, first: int) -> pa.ChunkedArray:
    """The column as its kind's type; nulls stay nulls."""
    t = values.type
    if kind in ('any', 'codes') or t == ARROW.get(kind):
        return values
    if kind == 'text' and (_is_text(t) or pa.types.is_dictionary(t) and _is_text(t.value_type)):
        return values.cast(ARROW['text'])
    if kind == 'number' and (pa.types.is_floating(t) or pa.types.is_integer(t) or pa.types.is_decimal(t)):
        return values.cast(pa.float64(), safe=False)
    if kind == 'integer' and pa.types.is_integer(t):
        return values.cast(pa.int64())
    if kind in ('number', 'integer') and (_is_text(t) or pa.types.is_dictionary(t) and _is_text(t.value_type)):
        values, t = _parse_numbers(values, path, name, first), pa.float64()
        if kind == 'number':
            return values
    if kind == 'integer' and pa.types.is_floating(t):
        return _to_integers(values, path, name, first)
    if kind == 'time' and pa.types.is_timestamp(t):
        return values
    if kind == 'time' and pa.types.is_integer(t):
        return values.cast(pa.int64())
    raise InputError(f'the type is {t}, not {kind}', file=path, column=name, remedy=f'store it as a {kind} column')


def _parse_numbers(values: pa.ChunkedArray, path: Path, name: str, first: int) -> pa.ChunkedArray:
    """Decimal text as float64 (vendors write sizes such as "10.000000")."""
    text = values.cast(pa.string())
    try:
        return text.cast(pa.float64())
    except pa.ArrowInvalid as e:
        number = r'^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$'
        bad = pc.invert(pc.fill_null(pc.match_substring_regex(text, number), True)).to_numpy()
        row = int(np.argmax(bad))
        raise InputError(f'{text[row].as_py()!r} is no number', file=path, column=name, row=first + row) from e


def _to_integers(values: pa.ChunkedArray, path: str | os.PathLike, name: str, first: int) -> pa.ChunkedArray:
    """Whole floats as int64, NaN as null."""
    numbers = values.to_numpy().astype(np.float64)
    bad = ~np.isnan(numbers) & (numbers != np.round(numbers))
    bad |= np.isinf(numbers)
    if bad.any():
        row = int(np.argmax(bad))
        raise InputError(f'{numbers[row]} is no whole number', file=path, column=name, row=first + row)
    return pa.chunked_array([pa.array(numbers, from_pandas=True)]).cast(pa.int64())


def _mask(values: pa.ChunkedArray, wanted: pa.Array) -> np.ndarray:
    """Whether a row of a dictionary column is null or one of the wanted values, bool [N]."""
    masks = [np.zeros(0, bool)]
    for chunk in values.chunks:
        hit = pc.is_in(chunk.dictionary, value_set=wanted).to_numpy(zero_copy_only=False)
        masks.append(np.append(hit, True)[chunk.indices.fill_null(len(hit)).to_numpy()])
    return np.concatenate(masks)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or ['no detail'])[0].rstrip('.')
