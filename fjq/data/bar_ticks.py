"""Bars as ticks: every bar gives its open just after it starts and its close when it ends."""

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from fjq.data.clock import SECOND, to_instants
from fjq.data.source import column_names, read_columns
from fjq.errors import InputError

TIMES = ('datetime', 'timestamps', 'timestamp', 'time', 'date', 'window_start', 'ts_event')  # in this order
SYMBOLS = ('ticker', 'symbol')
STAMPS = ('start', 'end')
NINJA = ['time', 'open', 'high', 'low', 'close', 'volume']


class Prices(NamedTuple):
    """Prices in time order: time int64 [N], ns since 1970 UTC; price float64 [N], positive."""

    time: np.ndarray
    price: np.ndarray


def read_bars(path: str | os.PathLike, *, ticker: str, stamp: str, zone) -> Prices:
    """The opens and closes of a file of bars.

    Columns are found by name, in any case. Text without a header in the form `yyyyMMdd HHmmss;o;h;l;c;v` is the export
    of NinjaTrader: UTC, stamped at the end of the bar.

    Args:
      path: parquet, csv or csv.gz.
      ticker: the only one that is kept, where the file has a column `ticker` or `symbol`.
      stamp: whether a bar's time is its 'start' or its 'end' (not for NinjaTrader's).
      zone: tzinfo of naive times; integers are ns since 1970 UTC.

    Raises:
      InputError: a missing column, a null, times out of order, a price that is not positive.
    """
    if stamp not in STAMPS:
        raise InputError(f'unknown choice {stamp!r}', column='bar_time', remedy='choose one of ' + ', '.join(STAMPS))
    path = Path(path)
    if _is_ninja(path):
        table, stamp, zone, column = _read_ninja(path), 'end', None, 'time'
    else:
        table, column = _read_named(path, ticker)
    opens, closes = (_positive(table[name], path, name) for name in ('open', 'close'))
    time = _instants(table[column], path, column, zone)
    step = np.diff(time)
    if (step <= 0).any():
        row = int(np.argmax(step <= 0)) + 1
        raise InputError(
            'the time is not after the row before', file=path, column=column, row=row, remedy='sort the bars by time'
        )
    lengths, counts = np.unique(step, return_counts=True)
    if not len(lengths):
        raise InputError('one bar alone has no length', file=path, remedy='give at least two bars')
    length = int(lengths[np.argmax(counts)])
    start = time if stamp == 'start' else time - length
    # One ns after the start, so that the close of the bar before, at the same instant, is still the price at it.
    times = np.stack([start + 1, start + length], axis=1).ravel()
    return Prices(times, np.stack([opens, closes], axis=1).ravel())


def _is_ninja(path: Path) -> bool:
    if path.suffix not in ('.csv', '.txt') or not path.is_file():
        return False
    with open(path, 'rb') as f:
        return f.read(64).split(b';')[0].replace(b' ', b'').isdigit()


def _read_ninja(path: Path) -> pa.Table:
    types = {'time': pa.string(), **dict.fromkeys(NINJA[1:], pa.float64())}
    try:
        table = pacsv.read_csv(
            path,
            pacsv.ReadOptions(column_names=NINJA, use_threads=False),
            pacsv.ParseOptions(delimiter=';'),
            pacsv.ConvertOptions(column_types=types),
        )
        time = pc.strptime(table['time'], format='%Y%m%d %H%M%S', unit='s')
    except pa.ArrowException as e:
        raise InputError(
            str(e).splitlines()[0].rstrip('.'), file=path, remedy='rows are yyyyMMdd HHmmss;open;high;low;close;volume'
        ) from e
    return table.set_column(0, 'time', time.cast(pa.timestamp('s', 'UTC')))


def _read_named(path: Path, ticker: str) -> tuple[pa.Table, str]:
    names = column_names(path)
    lower = {name.lower(): name for name in names}
    time = next((lower[t] for t in TIMES if t in lower), None)
    if time is None or 'open' not in lower or 'close' not in lower:
        raise InputError(
            'no bars: a time, an open and a close are needed',
            file=path,
            remedy='the file has ' + ', '.join(names[:30]) + '; the time is one of ' + ', '.join(TIMES),
        )
    symbol = next((lower[s] for s in SYMBOLS if s in lower), None)
    columns = {time: 'time', lower['open']: 'number', lower['close']: 'number'}
    only = {'tickers': (ticker,), 'ticker': symbol} if symbol else {}
    table = read_columns(path, columns, **only)
    if not table.num_rows:
        raise InputError(f'no bar of {ticker!r}', file=path, column=symbol, remedy='set the ticker to one of the file')
    return table.rename_columns([n.lower() if n != time else n for n in table.column_names]), time


def _positive(column: pa.ChunkedArray, path: Path, name: str) -> np.ndarray:
    values = column.fill_null(np.nan).to_numpy()
    if (bad := ~((values > 0) & (values < np.inf))).any():
        row = int(np.argmax(bad))
        raise InputError(
            f'{values[row]} is no price', file=path, column=name, row=row, remedy='correct or remove the row'
        )
    return values


def _instants(column: pa.ChunkedArray, path: Path, name: str, zone) -> np.ndarray:
    if column.null_count:
        row = int(np.argmax(column.is_null().to_numpy()))
        raise InputError('a missing value', file=path, column=name, row=row, remedy='correct or remove the row')
    if not pa.types.is_timestamp(column.type):
        return column.to_numpy()
    scale = SECOND // {'s': 1, 'ms': 10**3, 'us': 10**6, 'ns': 10**9}[column.type.unit]
    wall = column.cast(pa.int64()).to_numpy() * scale
    return wall if column.type.tz is not None else to_instants(wall, zone)
