"""Ticks of one day: prices and trades of many tickers in the order (time, ticker), from one daily file.

Schemas, told apart by their columns:
  stocks, options   ticker, price, size, sip_timestamp; conditions and correction where the vendor has them
  index             ticker, price or value, timestamp; no size
An integer time is nanoseconds since 1970 UTC, a timestamp with a zone is what it says, and a naive timestamp is
wall clock of `TickFiles.zone`. A tick's day is its day in New York.
"""

import dataclasses
import datetime
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fjq.data.calendar import session_bounds
from fjq.data.clock import SECOND, dates_of, day_bounds, find_zone, to_instants
from fjq.data.source import Block, DayFile, cast_columns, column_names, iter_columns
from fjq.data.ticks.conditions import DROPPED, has_condition
from fjq.errors import InputError

STREAMS = ('stocks', 'options', 'index')
SESSIONS = ('all', 'regular')
OPTIONAL = frozenset({'correction', 'conditions'})  # columns that only some vendors have
REASONS = ('ticker', 'correction', 'condition', 'price', 'session')
FIRST_DAY = np.datetime64('1980-01-01')  # no market data is older; integers in another unit than ns are


@dataclasses.dataclass(kw_only=True)
class TickFiles:
    """Where the ticks are and which of them count."""

    root: str = ''  # folder of daily files: flat, YYYY/ or YYYY/MM/
    stream: str = 'index'  # 'stocks', 'options' or 'index'
    time_column: str = ''  # '' = sip_timestamp, or timestamp for the index
    zone: str = 'America/New_York'  # of naive timestamps; integers are ns since 1970 UTC
    tickers: str = ''  # file with one ticker a line: the only ones read; '' = all
    keep_corrections: tuple[int, ...] = (0,)  # values of the column correction that count
    drop_conditions: tuple[int, ...] = DROPPED  # a trade with one of them is left out
    session: str = 'all'  # 'all', or 'regular' = 09:30 to 16:00 New York (13:00 on half days), both ends included
    on_bad_file: str = 'stop'  # 'stop', or 'skip' = count it and go on


class Ticks(NamedTuple):
    """N ticks of one day in the order (time, ticker), equal ones in the order of the file.

    date: the day in New York.
    names: tickers, ascending; there may be some without a tick.
    ticker: int32 [N], index into `names`.
    time: int64 [N], ns since 1970 UTC.
    price: float64 [N], > 0; also 0 in an index, where it means no print yet.
    size: float64 [N], or None where the stream has none.
    """

    date: datetime.date
    names: tuple[str, ...]
    ticker: np.ndarray
    time: np.ndarray
    price: np.ndarray
    size: np.ndarray | None


class DayReport(NamedTuple):
    """What is in a daily file.

    rows: of the file. kept: those that count. dropped: reason -> rows. tickers: distinct ones among the kept.
    first, last: times of the kept rows, ns since 1970 UTC. zero_prices: kept rows with price 0, of an index.
    unsorted: kept rows that are earlier than the row before; reading puts them in order.
    """

    date: datetime.date
    rows: int
    kept: int
    dropped: dict[str, int]
    tickers: int
    first: int
    last: int
    zero_prices: int
    unsorted: int


def check_files(files: TickFiles) -> None:
    """Raises InputError where a choice is unknown."""
    choices = {'stream': STREAMS, 'session': SESSIONS, 'on_bad_file': ('stop', 'skip')}
    for field, known in choices.items():
        if getattr(files, field) not in known:
            what = f'unknown choice {getattr(files, field)!r}'
            raise InputError(what, column=field, remedy='choose one of ' + ', '.join(known))
    find_zone(files.zone, 'zone')


def read_tickers(path: str | os.PathLike, stream: str = '') -> tuple[str, ...] | None:
    """The tickers of a file with one a line, in its order; None for an empty path. Lines that start with # are notes.

    Raises:
      InputError: the file is named but absent, empty, or has a ticker twice.
    """
    if not str(path):
        return None
    if not Path(path).is_file():
        make = '' if stream == 'index' else ', or make the list with --job=top_stocks'
        remedy = f'write one ticker a line{make}, or name no file'
        raise InputError('no such file', file=path, column='tickers', remedy=remedy)
    text = Path(path).read_text(encoding='utf-8')
    lines = [line.strip() for line in text.splitlines()]
    names = [_plain_name(line, stream) for line in lines if line and not line.startswith('#')]
    if not names:
        raise InputError('the file names no ticker', file=path, column='tickers', remedy='write one ticker a line')
    if twice := next((n for i, n in enumerate(names) if n in names[:i]), None):
        raise InputError(f'{twice!r} is there twice', file=path, column='tickers', remedy='keep one of the lines')
    return tuple(names)


def read_day(file: DayFile, files: TickFiles, tickers: Sequence[str] | None = None) -> tuple[Ticks, DayReport]:
    """The ticks of one daily file that count, verified and put in order.

    Args:
      tickers: what `read_tickers(files.tickers)` gave.

    Raises:
      InputError: as `iter_columns`; a null ticker, a null, negative or non-finite price or size, or a time that is
        not of the file's day.
    """
    columns = tick_columns(column_names(file.path), files)
    blocks = iter_columns(file.path, columns, optional=OPTIONAL, tickers=_spellings(tickers, files.stream))
    return collect_ticks(blocks, file.date, files, file.path)


def split_table(
    table: pa.Table, files: TickFiles, tickers: Sequence[str] | None = None
) -> list[tuple[Ticks, DayReport]]:
    """The ticks of a table of one or more days, in the columns of a daily file, one entry a day in order.

    Raises:
      InputError: what `read_day` raises of a file.
    """
    columns = tick_columns(table.column_names, files)
    table = cast_columns(table, columns, OPTIONAL, 'the table')
    if not table.num_rows:
        raise InputError('the table has no rows', remedy='give the ticks of at least one day')
    stamp = table[time_column(files)]
    if stamp.null_count:
        row = int(np.argmax(stamp.is_null().to_numpy()))
        _refuse_cell('the cell is empty', 'the table', time_column(files), row)
    dates = dates_of(_instants(stamp, files))
    if dates.min() < FIRST_DAY:
        row = int(np.argmax(dates < FIRST_DAY))
        raise InputError(
            f'the time {stamp[row].as_py()} is of {dates[row]}',
            file='the table',
            column=time_column(files),
            row=row,
            remedy='give integers as nanoseconds since 1970 UTC, or timestamps',
        )
    days = []
    for date in np.unique(dates):
        rows = np.flatnonzero(dates == date)
        wanted = _spellings(tickers, files.stream)
        block = Block(table.take(pa.array(rows)), 0, len(rows), rows)
        days.append(collect_ticks([block.filter('ticker', wanted)], date.item(), files, 'the table'))
    return days


def collect_ticks(
    blocks: Iterable[Block], date: datetime.date, files: TickFiles, path: str | os.PathLike
) -> tuple[Ticks, DayReport]:
    """The ticks of one day's blocks; see `read_day`."""
    rows, dropped = 0, dict.fromkeys(REASONS, 0)
    parts = {'ticker': [], 'time': [], 'price': [], 'size': []}
    for block in blocks:
        rows += block.total
        for name, values in _take(block, date, files, path, dropped).items():
            parts[name].append(values)
    # A day may fill much of the memory: what is joined and what is sorted replaces what it was made of.
    names, ticker = _join_tickers(parts.pop('ticker'), files.stream, path)
    time, price = _join(parts.pop('time'), np.int64), _join(parts.pop('price'), np.float64)
    size = None if files.stream == 'index' else _join(parts.pop('size'), np.float64)
    dropped['ticker'] = rows - len(time) - sum(dropped.values())
    unsorted = int(np.count_nonzero(time[1:] < time[:-1]))
    if (order := sort_order(ticker, time)) is not None:
        ticker = ticker[order]
        time = time[order]
        price = price[order]
        size = None if size is None else size[order]
    report = DayReport(
        date=date,
        rows=rows,
        kept=len(time),
        dropped=dropped,
        tickers=int(np.count_nonzero(np.bincount(ticker, minlength=1))),
        first=int(time[0]) if len(time) else 0,
        last=int(time[-1]) if len(time) else 0,
        zero_prices=int(np.count_nonzero(price == 0)),
        unsorted=unsorted,
    )
    return Ticks(date, names, ticker, time, price, size), report


def sort_ticks(ticks: Ticks) -> Ticks:
    """The ticks in the order (time, ticker), equal ones as they came."""
    order = sort_order(ticks.ticker, ticks.time)
    if order is None:
        return ticks
    size = None if ticks.size is None else ticks.size[order]
    return ticks._replace(ticker=ticks.ticker[order], time=ticks.time[order], price=ticks.price[order], size=size)


def sort_order(ticker: np.ndarray, time: np.ndarray) -> np.ndarray | None:
    """The permutation that sorts by (time, ticker) and keeps the order of equal ones; None where it is sorted."""
    if ((time[1:] > time[:-1]) | ((time[1:] == time[:-1]) & (ticker[1:] >= ticker[:-1]))).all():
        return None
    return np.lexsort((ticker, time))  # quick on the runs of one ticker that files are made of


def time_column(files: TickFiles) -> str:
    return files.time_column or ('timestamp' if files.stream == 'index' else 'sip_timestamp')


def tick_columns(names: Sequence[str], files: TickFiles) -> dict[str, str]:
    """The columns to read, with their kinds, of a file that has the columns `names`."""
    price = 'value' if files.stream == 'index' and 'price' not in names and 'value' in names else 'price'
    columns = {'ticker': 'text', time_column(files): 'time', price: 'number'}
    if files.stream == 'index':
        return columns
    return {**columns, 'size': 'number', 'correction': 'integer', 'conditions': 'codes'}


def _take(
    block: Block, date: datetime.date, files: TickFiles, path: str | os.PathLike, dropped: dict[str, int]
) -> dict[str, pa.ChunkedArray | np.ndarray]:
    """The rows of a block that count, verified: ticker, time in ns since 1970 UTC, price and size."""
    block = keep_trades(block, files, path, dropped)
    names = ['ticker', time_column(files), 'price' if 'price' in block.table.column_names else 'value']
    names += [] if files.stream == 'index' else ['size']
    for name in names:
        values = block.table[name]
        if values.null_count:
            _refuse_cell('the cell is empty', path, name, block.row(np.argmax(values.is_null().to_numpy())))
    for name in names[2:]:
        values = block.table[name].to_numpy()
        if len(values) and not 0 <= values.min() <= values.max() < np.inf:  # NaN compares false
            i = int(np.argmax(~((values >= 0) & (values < np.inf))))
            _refuse_cell(f'{values[i]} is negative or not finite', path, name, block.row(i))
    if files.stream != 'index':  # nobody trades at 0
        block = _count(block, block.table['price'].to_numpy() > 0, 'price', dropped)
    empty = [_is_empty(chunk) for chunk in block.table['ticker'].chunks]
    if any(e.any() for e in empty):
        _refuse_cell('the cell is empty', path, 'ticker', block.row(np.argmax(np.concatenate(empty))))
    time = _read_time(block, date, files, path)
    if files.session == 'regular':
        first, last = session_bounds(date)
        inside = (time >= first) & (time <= last)
        block, time = _count(block, inside, 'session', dropped), time[inside]
    price, size = (*(block.table[n].to_numpy() for n in names[2:]), None)[:2]
    return {'ticker': block.table['ticker'], 'time': time, 'price': price, 'size': size}


def keep_trades(block: Block, files: TickFiles, path: str | os.PathLike, dropped: dict[str, int]) -> Block:
    """The block without what was corrected or cancelled and what is no price of the market, counted in `dropped`."""
    for reason, keep in (('correction', _is_original), ('condition', _is_price)):
        block = _count(block, keep(block.table, files, path), reason, dropped)
    return block


def _is_empty(tickers: pa.DictionaryArray) -> np.ndarray:
    return tickers.indices.to_numpy() == pc.index(tickers.dictionary, '').as_py()  # -1 = no name is empty


def _count(block: Block, keep: np.ndarray | None, reason: str, dropped: dict[str, int]) -> Block:
    """The block with the rows to keep; the others are counted."""
    if keep is None or keep.all():
        return block
    dropped[reason] += int(np.count_nonzero(~keep))
    return block.select(keep)


def _is_original(table: pa.Table, files: TickFiles, path: str | os.PathLike) -> np.ndarray | None:
    if 'correction' not in table.column_names:
        return None
    return np.isin(table['correction'].fill_null(0).to_numpy(), files.keep_corrections)


def _is_price(table: pa.Table, files: TickFiles, path: str | os.PathLike) -> np.ndarray | None:
    if 'conditions' not in table.column_names:
        return None
    return ~has_condition(table['conditions'], files.drop_conditions, path)


def _read_time(block: Block, date: datetime.date, files: TickFiles, path: str | os.PathLike) -> np.ndarray:
    """ns since 1970 UTC, verified to be of the day."""
    time = _instants(block.table[time_column(files)], files)
    start, end = day_bounds(date)
    if len(time) and not start <= time.min() <= time.max() < end:
        i = int(np.argmax((time < start) | (time >= end)))
        raise InputError(
            f'the time {np.datetime64(int(time[i]), "ns")} UTC is not of {date} in New York',
            file=path,
            column=time_column(files),
            row=block.row(i),
            remedy='name the file by its day; integers are ns since 1970 UTC, naive times are of the field zone',
        )
    return time


def _refuse_cell(what: str, path: str | os.PathLike, column: str, row: int) -> None:
    raise InputError(what, file=path, column=column, row=row, remedy='correct or remove the row')


def _instants(stamp: pa.ChunkedArray, files: TickFiles) -> np.ndarray:
    """ns since 1970 UTC."""
    if not pa.types.is_timestamp(stamp.type):
        return stamp.to_numpy()
    scale = {'s': SECOND, 'ms': 1_000_000, 'us': 1_000, 'ns': 1}[stamp.type.unit]
    time = stamp.cast(pa.int64()).to_numpy() * scale
    if stamp.type.tz is not None:
        return time
    return to_instants(time, find_zone(files.zone, 'zone'), in_order=False)  # files come in blocks of one ticker


def _spellings(tickers: Sequence[str] | None, stream: str) -> Sequence[str] | None:
    if tickers is None or stream != 'index':
        return tickers
    return [prefix + name for name in tickers for prefix in ('', 'I:')]


def _plain_name(name: str, stream: str) -> str:
    """An index without the vendor's mark: I:SPX is SPX."""
    return name.removeprefix('I:') if stream == 'index' else name


def _join(arrays: list[np.ndarray], dtype: type) -> np.ndarray:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays or [np.zeros(0, dtype)])


def _join_tickers(
    parts: list[pa.ChunkedArray], stream: str, path: str | os.PathLike
) -> tuple[tuple[str, ...], np.ndarray]:
    """Distinct names ascending, and the index of each row's name, int32."""
    chunks = [c for p in parts for c in p.chunks]
    if not chunks:
        return (), np.zeros(0, np.int32)
    joined = pa.chunked_array(chunks).unify_dictionaries()
    spelt = joined.chunk(0).dictionary.to_pylist()
    names = [_plain_name(n, stream) for n in spelt]
    codes = np.concatenate([c.indices.to_numpy() for c in joined.chunks])
    if len(set(names)) < len(names):
        _refuse_two_spellings(spelt, names, codes, path)
    distinct, rank = np.unique(np.array(names, object), return_inverse=True)
    return tuple(distinct), rank.astype(np.int32)[codes]


def _refuse_two_spellings(spelt: list[str], names: list[str], codes: np.ndarray, path: str | os.PathLike) -> None:
    used = np.flatnonzero(np.bincount(codes, minlength=len(names)))
    seen: dict[str, str] = {}
    for i in used:
        if names[i] in seen:
            both = ' and '.join(sorted((seen[names[i]], spelt[i])))
            raise InputError(
                f'{both} are one index', file=path, column='ticker', remedy='keep the ticks of one of them'
            )
        seen[names[i]] = spelt[i]
