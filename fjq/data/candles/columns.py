"""A table of candles of any layout as columns of numbers: names, header rows, dates.

Layouts, told apart by what is in the file:
  Date,Open,High,Low,Close,Adj Close,Volume            Yahoo, and most others, by name in any order and case
  Price,Close,... / Ticker,AAPL,... / Date,,...        Yahoo's download with three header rows, one asset or many; the
                                                       first two in either order
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

from fjq.data import headerless
from fjq.data.stamps import FIRST_ROW, cast, read_times
from fjq.errors import InputError

PRICES = ('open', 'high', 'low', 'close')
TIMES = ('date', 'datetime', 'timestamp', 'timestamps', 'time')
NAMES = ('symbol', 'ticker', 'name')
ADJUSTED = ('adj close', 'adjusted close', 'adjclose')
SPLITS = ('split ratio', 'stock splits')
_READ = (*PRICES, 'volume', *TIMES, *NAMES, *ADJUSTED, *SPLITS)
_NUMBER = r'^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$'
_HEAD_BYTES = 2**16
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


def read_columns(path: Path, order: str = 'auto') -> list[Columns]:
    """The assets of one file. order: of dates such as 02/01/2024, see `read_times`.

    Raises:
      InputError: no candles, a column that is absent, a date or number that is none.
    """
    try:
        if path.suffix.lower() == '.parquet':
            return from_table(pq.read_table(path), path, order)
        if nameless := headerless.read_headerless(path):
            return from_table(nameless.table, path, order)
        return _read_text(path, order)
    except (pa.ArrowException, UnicodeDecodeError, OSError) as e:
        raise InputError(f'it can not be read ({e})', file=path, remedy='give a CSV or parquet file of candles') from e


def begins_with_candles(path: Path) -> bool:
    """Whether a text names prices in its header or has a candle in its first line, as tokens, tickers and notes do not.
    What comes after, and what can not be read, is told where it is read."""
    try:
        with path.open('rb') as stream:
            _, cells = _split_head(stream.read(_HEAD_BYTES).decode('utf-8-sig', errors='replace'))
    except OSError:
        return True
    named = any(set(PRICES) <= {_plain(c) for c in row} for row in cells[:2])
    most = len(headerless.NAMES)
    return named or (cells[0][0][:1].isdigit() and most - 1 <= len(cells[0]) <= most)


def from_table(table: pa.Table, file: Path | str = 'the table', order: str = 'auto') -> list[Columns]:
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
    time = read_times(table[time_name], file, time_name, order)
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


def _read_text(path: Path, order: str) -> list[Columns]:
    with headerless.open_text(path) as stream:
        text = stream.read().decode('utf-8-sig')
    if not text.strip():
        raise InputError('the file is empty', file=path, remedy='give a file with rows')
    delimiter, cells = _split_head(text)
    if [row[0].lower() for row in cells[:2]] == ['ticker', 'price']:  # group_by='ticker'
        cells[:2] = cells[1::-1]
    if len(cells) < 3 or cells[1][0].lower() != 'ticker':
        return from_table(_parse(text, delimiter, cells[0], skip=1), path, order)
    skip = 3 if _plain(cells[2][0]) in TIMES else 2
    places = [f'{i}' for i in range(len(cells[0]))]
    table, out = _parse(text, delimiter, places, skip=skip), []
    for ticker in dict.fromkeys(c for c in cells[1][1:] if c):
        own = [i for i, t in enumerate(cells[1]) if t == ticker]
        part = pa.table([table['0'], *(table[str(i)] for i in own)], names=['Date', *(cells[0][i] for i in own)])
        out += [_leave_empty_out(c)._replace(id=ticker) for c in from_table(part, path, order)]
    return out


def _split_head(text: str) -> tuple[str, list[list[str]]]:
    """The delimiter, and the cells of the first three lines."""
    head = text.split('\n', 3)[:3]
    delimiter = max(',;\t', key=head[0].count)
    return delimiter, [[c.strip().strip('"') for c in line.strip('\r').split(delimiter)] for line in head]


def _leave_empty_out(columns: Columns) -> Columns:
    """Without the rows of which the other assets of a download alone have prices."""
    there = np.isfinite(np.stack([columns.values[n] for n in PRICES])).any(0)
    values = {n: v[there] for n, v in columns.values.items()}
    return Columns(columns.id, columns.row[there], columns.time[there], values, int((~there).sum()))


def _parse(text: str, delimiter: str, names, skip: int) -> pa.Table:
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
    return cast(column, pa.float64(), file, name).to_numpy().astype(np.float64)
