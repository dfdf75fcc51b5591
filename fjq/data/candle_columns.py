"""A table of candles of any layout as columns of numbers: names, header rows, dates.

Layouts, told apart by what is in the file:
  Date,Open,High,Low,Close,Adj Close,Volume            Yahoo, and most others, by name in any order and case
  Price,Close,... / Ticker,AAPL,... / Date,,...        Yahoo's download with three header rows, one asset or many
  timestamps,open,high,low,close,volume,amount         K-lines
  20110103 090100;126.35;126.39;126.35;126.39;1579     NinjaTrader, without a header
"""

import io
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from fjq.errors import InputError

PRICES = ('open', 'high', 'low', 'close')
TIMES = ('date', 'datetime', 'timestamp', 'timestamps', 'time')
NAMES = ('symbol', 'ticker', 'name')
ADJUSTED = ('adj close', 'adjusted close', 'adjclose')
SPLITS = ('split ratio', 'stock splits')
_READ = (*PRICES, 'volume', *TIMES, *NAMES, *ADJUSTED, *SPLITS)
NINJA = ('time', 'open', 'high', 'low', 'close', 'volume')
_ISO = (
    r'^(?P<stamp>\d{4}-\d{2}-\d{2}(?:[ T]\d{2}:\d{2}(?::\d{2}(?:\.\d{1,9})?)?)?)'
    r' ?(?P<offset>Z|UTC|[+-]\d{2}:?\d{2})?$'
)
_COMPACT = r'^(\d{4})(\d{2})(\d{2})$'
_COMPACT_TIME = r'^(\d{4})(\d{2})(\d{2})[ T]?(\d{2})(\d{2})(\d{2})$'
_SLASHED = r'^(?P<m>\d{1,2})/(?P<d>\d{1,2})/(?P<y>\d{4})(?P<rest>.*)$'
_UNITS = ((1e11, 's'), (1e14, 'ms'), (1e17, 'us'), (np.inf, 'ns'))  # of an integer stamp, by its size
_NUMBER = r'^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$'
_YEARS = 1678, 2261  # of times in nanoseconds
FIRST_ROW = 'row 0 is the first below the header'
_NO_VALUE = ('', 'nan', 'na', 'n/a', 'null', 'none', '-')


class Columns(NamedTuple):
    """One asset as it stands in its file, unchecked. id: '' where the table names none; row [N]: its rows there;
    empty: rows that hold no price of it, and were left out."""

    id: str
    row: np.ndarray
    time: np.ndarray  # datetime64[ns] [N]
    # open, high, low, close; where given volume, adjusted (the close) and split (its ratio; 0 or 1 = none).
    values: dict[str, np.ndarray]  # float64 [N], NaN = no value
    empty: int = 0


def read_columns(path: Path) -> list[Columns]:
    """The assets of one file.

    Raises:
      InputError: no candles, a column that is absent, a date or number that is none.
    """
    try:
        if path.suffix == '.parquet':
            return from_table(pq.read_table(path), path)
        return _read_text(path)
    except (pa.ArrowException, UnicodeDecodeError, OSError) as e:
        raise InputError(f'it can not be read ({e})', file=path, remedy='give a CSV or parquet file of candles') from e


def from_table(table: pa.Table, file: Path | str = 'the table') -> list[Columns]:
    """The assets of a table whose columns are named."""
    names = {_plain(n): n for n in reversed(table.column_names)}
    plain = [_plain(n) for n in table.column_names]
    for name in (n for n in plain if plain.count(n) > 1 and n in _READ):
        raise InputError('it is there twice', file=file, column=names[name], remedy='keep one of them')
    time_name = next((names[n] for n in TIMES if n in names), None)
    if time_name is None:
        raise InputError(f'no column is a time, of {_list(table.column_names)}', file=file, remedy='name one Date')
    absent = [n for n in PRICES if n not in names]
    if absent:
        raise InputError(
            f'it is absent among {_list(table.column_names)}',
            file=file,
            column=absent[0],
            remedy='give open, high, low and close',
        )
    if not table.num_rows:
        raise InputError('it holds no candle', file=file, remedy='give a file with rows')
    time = read_times(table[time_name], file, time_name)
    wanted = {n: names[n] for n in (*PRICES, 'volume') if n in names}
    if adjusted := next((names[n] for n in ADJUSTED if n in names), None):
        wanted['adjusted'] = adjusted
    if split := next((names[n] for n in SPLITS if n in names), None):
        wanted['split'] = split
    values = {n: _read_numbers(table[given], file, given) for n, given in wanted.items()}
    rows = np.arange(table.num_rows)
    asset = next((names[n] for n in NAMES if n in names), None)
    if asset is None:
        return [Columns('', rows, time, values)]
    of = np.array([str(v).strip() if v is not None else '' for v in table[asset].to_pylist()])
    if (of == '').any():
        row = int((of == '').argmax())
        raise InputError('a candle has no name', file=file, column=asset, row=row, remedy=f'give one; {FIRST_ROW}')
    return [
        Columns(str(name), rows[of == name], time[of == name], {n: v[of == name] for n, v in values.items()})
        for name in np.unique(of)
    ]


def _read_text(path: Path) -> list[Columns]:
    with pa.input_stream(path) as stream:  # unpacks .gz by name
        text = stream.read().decode('utf-8-sig')
    head = [line for line in text.split('\n', 4)[:3]]
    if not text.strip():
        raise InputError('the file is empty', file=path, remedy='give a file with rows')
    delimiter = max(',;\t', key=head[0].count)
    cells = [[c.strip().strip('"') for c in line.strip('\r').split(delimiter)] for line in head]
    if cells[0][0][:1].isdigit():
        if not 5 <= len(cells[0]) <= len(NINJA):
            raise InputError(
                f'{len(cells[0])} columns and no header', file=path, remedy='name the columns in a first line'
            )
        return from_table(_parse(text, delimiter, NINJA[: len(cells[0])]), path)
    if len(cells) < 3 or cells[1][0].lower() != 'ticker':
        return from_table(_parse(text, delimiter, cells[0], skip=1), path)
    skip = 3 if _plain(cells[2][0]) in TIMES else 2
    places = [f'{i}' for i in range(len(cells[0]))]
    table, out = _parse(text, delimiter, places, skip=skip), []
    for ticker in dict.fromkeys(c for c in cells[1][1:] if c):
        own = [i for i, t in enumerate(cells[1]) if t == ticker]
        part = pa.table([table['0'], *(table[str(i)] for i in own)], names=['Date', *(cells[0][i] for i in own)])
        out += [_leave_empty_out(c)._replace(id=ticker) for c in from_table(part, path)]
    return out


def _leave_empty_out(columns: Columns) -> Columns:
    """Without the rows of which the other assets of a download alone have prices."""
    there = np.isfinite(np.stack([columns.values[n] for n in PRICES])).any(0)
    values = {n: v[there] for n, v in columns.values.items()}
    return Columns(columns.id, columns.row[there], columns.time[there], values, int((~there).sum()))


def _parse(text: str, delimiter: str, names, skip: int = 0) -> pa.Table:
    names = [n or f'column {i}' for i, n in enumerate(names)]
    return pacsv.read_csv(
        io.BytesIO(text.encode()),
        read_options=pacsv.ReadOptions(column_names=names, skip_rows=skip),
        parse_options=pacsv.ParseOptions(delimiter=delimiter),
        convert_options=pacsv.ConvertOptions(column_types=dict.fromkeys(names, pa.string())),
    )


def _plain(name: str) -> str:
    return re.sub(r'[\s._]+', ' ', name.strip().lower()).strip()


def _list(names) -> str:
    return ', '.join(repr(n) for n in list(names)[:12])


def _read_numbers(column: pa.ChunkedArray, file, name: str) -> np.ndarray:
    """float64 [N], NaN where the cell is empty or says so."""
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        text = pc.utf8_trim_whitespace(column)
        empty = pc.is_in(pc.utf8_lower(text), value_set=pa.array(_NO_VALUE))
        text = pc.if_else(empty, pa.scalar(None, text.type), text)
        good = pc.fill_null(pc.match_substring_regex(text, _NUMBER), True).to_numpy()
        if not good.all():
            row = int(np.argmin(good))
            raise InputError(
                f'{text[row].as_py()!r} is no number',
                file=file,
                column=name,
                row=row,
                remedy=f'write it as 12.5, or leave the cell empty; {FIRST_ROW}',
            )
        column = text
    return _cast(column, pa.float64(), file, name).to_numpy().astype(np.float64)


def _cast(column: pa.ChunkedArray, kind: pa.DataType, file, name: str) -> pa.ChunkedArray:
    try:
        return column.cast(kind)
    except pa.ArrowException as e:
        what = 'a time' if pa.types.is_temporal(kind) or pa.types.is_string(kind) else 'a number'
        raise InputError(
            f'its type is {column.type}, which is not {what}', file=file, column=name, remedy=f'store it as {what}'
        ) from e


def read_times(column: pa.ChunkedArray, file, name: str) -> np.ndarray:
    """Stamps as datetime64[ns] [N]. Midnights with an offset are dates and keep theirs; other offsets become UTC.

    Raises:
      InputError: a cell that is no time.
    """
    if pa.types.is_timestamp(column.type) or pa.types.is_date(column.type):
        return _to_times(column, column, file, name)
    if pa.types.is_floating(column.type) or pa.types.is_integer(column.type):
        column = _cast(column, pa.int64(), file, name)
    elif pa.types.is_temporal(column.type):  # a time of day, a duration
        raise InputError(f'its type is {column.type}, which is not a time', file=file, column=name, remedy='add dates')
    text = pc.utf8_trim_whitespace(_cast(column, pa.string(), file, name))
    first = next((v for v in text.to_pylist() if v), '')
    if re.match(r'^\d{9,}$', first):
        stamps = pc.if_else(pc.fill_null(pc.match_substring_regex(text, r'^\d{9,19}$'), False), text, None)
        unit = next(u for size, u in _UNITS if abs(float(first)) < size)
        return _to_times(stamps.cast(pa.int64()).cast(pa.timestamp(unit)), text, file, name)
    if re.match(_COMPACT_TIME, first):
        text = pc.replace_substring_regex(text, _COMPACT_TIME, r'\1-\2-\3 \4:\5:\6')
    elif re.match(_COMPACT, first):
        text = pc.replace_substring_regex(text, _COMPACT, r'\1-\2-\3')
    elif re.match(_SLASHED, first):  # month first, as American vendors write
        parts = pc.extract_regex(text, _SLASHED)
        m, d, y, rest = (pc.struct_field(parts, [n]) for n in ('m', 'd', 'y', 'rest'))
        date = pc.binary_join_element_wise(y, pc.utf8_lpad(m, 2, '0'), pc.utf8_lpad(d, 2, '0'), '-')
        text = pc.binary_join_element_wise(date, rest, '')
    parts = pc.extract_regex(text, _ISO)
    stamp, offset = (pc.struct_field(parts, [n]) for n in ('stamp', 'offset'))
    _refuse_years(pc.utf8_slice_codeunits(stamp, 0, 4).cast(pa.int64()), column, file, name)
    wall = np.array([_moment(s) for s in stamp.to_pylist()], 'datetime64[ns]')
    _refuse_nat(wall, column, file, name)
    given = pc.fill_null(offset, '').to_numpy(zero_copy_only=False)
    if not (given != '').any() or (wall.astype('datetime64[D]') == wall).all():
        return wall
    minutes = {o: _minutes(o) for o in set(given.tolist())}
    return wall - np.array([minutes[o] for o in given.tolist()], 'timedelta64[m]')


def _to_times(stamps: pa.ChunkedArray, cells, file, name: str) -> np.ndarray:
    """Dates or timestamps of any unit as datetime64[ns] [N]; `cells` are for messages."""
    _refuse_years(pc.year(stamps), cells, file, name)
    zone = getattr(stamps.type, 'tz', None)
    return _refuse_nat(stamps.cast(pa.timestamp('ns', zone)).to_numpy(), cells, file, name)


def _refuse_years(year: pa.ChunkedArray, cells, file, name: str) -> None:
    first, last = _YEARS
    bad = pc.fill_null(pc.or_(pc.less(year, first), pc.greater(year, last)), False).to_numpy()
    if bad.any():
        row = int(bad.argmax())
        raise InputError(
            f'{str(cells[row].as_py())!r} lies outside of {first} to {last}',
            file=file,
            column=name,
            row=row,
            remedy=f'correct it; {FIRST_ROW}',
        )


def _moment(stamp: str | None) -> np.datetime64:
    try:
        return np.datetime64(stamp, 'ns') if stamp else np.datetime64('NaT', 'ns')
    except ValueError:
        return np.datetime64('NaT', 'ns')


def _minutes(offset: str) -> int:
    if offset in ('', 'Z', 'UTC'):
        return 0
    hours, minutes = int(offset[1:3]), int(offset[-2:])
    return (60 * hours + minutes) * (-1 if offset[0] == '-' else 1)


def _refuse_nat(time: np.ndarray, cells, file, name: str) -> np.ndarray:
    bad = np.isnat(time)
    if bad.any():
        row = int(bad.argmax())
        raise InputError(
            f'{cells[row].as_py()!r} is no time',
            file=file,
            column=name,
            row=row,
            remedy=f'write it as 2022-12-31 16:00; {FIRST_ROW}',
        )
    return time.astype('datetime64[ns]')
