"""Files of bars of any common vendor, read by name: what is in them, verified, as bars of one instrument.

  datetime,open,high,low,close,volume[,symbol]    most vendors, and K-lines (`timestamps`)
  date,time,open,high,low,close,volume            a day and a time of the day
  2010-01-04 09:30:00,112.3,112.4,112.2,112.4,99  FirstRate: no header
  20110103 090100;126.35;126.39;126.35;126.39;99  NinjaTrader: no header, UTC, stamped at the end of the bar
  ts_event,...,instrument_id,open,...,symbol      Databento ohlcv: prices as such or as integers of 1e-9
  ticker,volume,open,...,window_start,...         Polygon aggregates: ns since 1970 UTC

and parquet of any of these.
"""

import dataclasses
import re
import zoneinfo
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from fjq.config import nearest
from fjq.data import source
from fjq.data.bars import FIELDS, Bars, check_order, check_values, find_length
from fjq.data.candle_columns import read_times
from fjq.data.contracts import Quotes, join_contracts, sort_contracts
from fjq.data.sessions import find_zone, to_instants
from fjq.errors import InputError
from fjq.log import say

TIMES = ('ts_event', 'window_start', 'datetime', 'timestamps', 'timestamp', 'time', 'date')  # in this order
SYMBOLS = ('symbol', 'ticker')
STAMPS = ('auto', 'start', 'end')
CONTRACTS = 'instrument_id'
NAMELESS = ('time', *FIELDS)
FIXED_POINT = 1e-9  # unit of Databento's integer prices
ABSENT = 2**63 - 1  # Databento's price that is none
_COMPACT = r'^\d{8} \d{6}$'
_INSTANT = r'^\d{9,}$|\d{2}:\d{2}.*(Z|UTC|[+-]\d{2}:?\d{2})$'
_SLASHED = r'^(?P<first>\d{1,2})/(?P<second>\d{1,2})/(?P<year>\d{4})'
_MONTH = 28  # days of the shortest


@dataclasses.dataclass(kw_only=True)
class BarFile:
    """A file of bars and how its stamps are meant."""

    path: str = ''  # .csv, .csv.gz, .txt or .parquet
    symbol: str = ''  # the one to read of a file with a column of them; '' = the only one there
    timezone: str = 'America/New_York'  # of the exchange: its midnight, its weekday, its hours
    stamp_zone: str = ''  # of stamps without an offset, where it is another; '' = `timezone`, of NinjaTrader's UTC
    stamps: str = 'auto'  # whether a stamp is the 'start' or 'end' of its bar; 'auto' = end for NinjaTrader, else start
    contracts: str = CONTRACTS  # column of futures contract ids, where the file has it; '' = none

    def read(self) -> Bars:
        """The bars of the file.

        Raises:
          InputError: what is wrong with the file, its first bad row, or a setting.
        """
        if not self.path:
            raise InputError('no file is named', column='path', remedy='name a file of bars')
        path = Path(self.path)
        head = _first_line(path)
        if head[:1].isdigit():
            return self._make(*_read_nameless(path, head), file=path)
        names = source.column_names(path)
        if twins := [n for n in names if names.count(n) > 1]:
            raise InputError('two columns have this name', file=path, column=twins[0], remedy='keep one')
        return self._make(source.read_columns(path, names), '', file=path)

    def from_table(self, table: pa.Table) -> Bars:
        """The bars of a table in memory with named columns."""
        return self._make(table, '', file='the table')

    def _make(self, table: pa.Table, vendor: str, file: Path | str) -> Bars:
        if self.stamps not in STAMPS:
            raise InputError(f'unknown choice {self.stamps!r}', column='stamps', remedy='choose ' + ', '.join(STAMPS))
        names = {name.lower().strip(): name for name in reversed(table.column_names)}
        time = next((names[t] for t in TIMES if t in names), None)
        if time is None:
            has = 'the columns are ' + ', '.join(table.column_names[:30])
            raise InputError(f'no column is a time ({", ".join(TIMES)})', file=file, remedy=has)
        table, rows, name = self._select(table, names, file)
        if not table.num_rows:
            raise InputError('it holds no bar', file=file, remedy='give a file with rows')
        exchange = find_zone(self.timezone)
        zone = find_zone(self.stamp_zone or ('UTC' if vendor == 'ninja' else self.timezone), 'stamp_zone')
        column = _join_date(table, names) if time == names.get('time') and 'date' in names else table[time]
        stamps = _instants(column, file, time, zone)
        values = {field: _numbers(table, names, field, file) for field in FIELDS}
        if time.lower() == 'ts_event' and all(pa.types.is_integer(table[names[f]].type) for f in FIELDS[:4]):
            values |= {f: np.where(values[f] < ABSENT, values[f] * FIXED_POINT, np.nan) for f in FIELDS[:4]}
        check_values(values, rows, file)
        contracts = names.get(self.contracts.lower()) if self.contracts else None
        if contracts is None and self.contracts not in ('', CONTRACTS):
            what, remedy = f'no column is called {self.contracts!r}', nearest(self.contracts, table.column_names)
            raise InputError(what, file=file, column='contracts', remedy=remedy)
        quotes = Quotes(stamps, _codes(table, contracts, file), rows, values)
        if contracts is None:
            check_order(stamps, rows, file, time)
        else:
            quotes = sort_contracts(quotes, file, time)
        moments, first = np.unique(quotes.time, return_index=True)
        length = find_length(moments, quotes.row[first], file, time)
        joined, rolls = join_contracts(quotes, exchange)
        if rolls:
            bridged = sum(roll.bridged for roll in rolls)
            say(f'{Path(file).name}: {len(rolls)} rolls, {bridged} adjusted by both contracts at one instant')
        if lost := len(moments) - len(joined.time):
            what = 'another contract traded, and not the one that counts'
            say(f'{Path(file).name}: {lost} stamps are left out: {what}')
        at_end = self.stamps == 'end' or (self.stamps == 'auto' and vendor == 'ninja')
        start = joined.time - (length if at_end else 0)
        columns = {field: joined.values[field] for field in FIELDS}
        return Bars(id=name, time=start, piece=joined.piece, length=length, **columns)

    def _select(self, table: pa.Table, names: dict[str, str], file) -> tuple[pa.Table, np.ndarray, str]:
        """The rows of the symbol, their places in the file, and its name."""
        rows = np.arange(table.num_rows)
        column = next((names[s] for s in SYMBOLS if s in names and s != self.contracts.lower()), None)
        if column is None:
            if self.symbol:
                what = f'{self.symbol!r} is asked for, and no column names a symbol ({", ".join(SYMBOLS)})'
                raise InputError(what, file=file, column='symbol', remedy='add one, or leave data.symbol empty')
            return table, rows, Path(file).name.split('.')[0] if file != 'the table' else 'table'
        given = table[column].cast(pa.string())
        found = [str(s) for s in pc.unique(given).to_pylist()]
        if not self.symbol and len(found) > 1:
            other = int(np.argmax(pc.not_equal(given, found[0]).to_numpy()))
            raise InputError(
                f'{len(found)} symbols, {", ".join(found[:4])} among them',
                file=file,
                column=column,
                row=other,
                remedy=f'set data.symbol to one, or data.contracts to {column} where they are futures of one root',
            )
        name = self.symbol or (found[0] if found else '')
        if name not in found:
            raise InputError(f'no bar of {name!r}', file=file, column=column, remedy=nearest(name, found))
        kept = np.flatnonzero(pc.equal(given, name).to_numpy())
        return table.take(kept), rows[kept], name


class _Text(NamedTuple):
    table: pa.Table
    vendor: str


def _first_line(path: Path) -> str:
    """The first line of a text file; '' of any other, whose faults are told where it is read."""
    if path.name.endswith('.parquet') or not path.is_file():
        return ''
    try:
        with pa.input_stream(path) as stream:
            return stream.read(2**12).decode('utf-8-sig', errors='replace').split('\n')[0].strip()
    except (pa.ArrowException, OSError):
        return ''


def _read_nameless(path: Path, head: str) -> _Text:
    delimiter = ';' if ';' in head else ','
    count = head.count(delimiter) + 1
    if count != len(NAMELESS):
        raise InputError(
            f'{count} columns and no header', file=path, remedy='name the columns in a first line, or give six'
        )
    try:
        table = pacsv.read_csv(
            path,
            pacsv.ReadOptions(column_names=list(NAMELESS), use_threads=False),
            pacsv.ParseOptions(delimiter=delimiter),
            pacsv.ConvertOptions(column_types={'time': pa.string(), **dict.fromkeys(FIELDS, pa.float64())}),
        )
    except pa.ArrowException as e:
        what = str(e).splitlines()[0].rstrip('.')
        raise InputError(what, file=path, remedy='rows are time, open, high, low, close, volume') from e
    ninja = delimiter == ';' and re.match(_COMPACT, head.split(';')[0])
    return _Text(table, 'ninja' if ninja else '')


def _numbers(table: pa.Table, names: dict[str, str], field: str, file) -> np.ndarray:
    """float64 [N], NaN where there is none."""
    if field not in names:
        has = 'the columns are ' + ', '.join(table.column_names[:30])
        raise InputError('no such column', file=file, column=field, remedy=has)
    if pa.types.is_null(table[names[field]].type):
        return np.full(table.num_rows, np.nan)
    cast = source.cast_columns(table, {names[field]: 'number'}, (), file)
    return cast[names[field]].fill_null(np.nan).to_numpy().astype(np.float64)


def _join_date(table: pa.Table, names: dict[str, str]) -> pa.ChunkedArray:
    """A column of dates and one of times of the day as one of stamps."""
    parts = [table[names[n]].cast(pa.string()) for n in ('date', 'time')]
    return pc.binary_join_element_wise(*parts, ' ')


def _instants(column: pa.ChunkedArray, file, name: str, zone: zoneinfo.ZoneInfo) -> np.ndarray:
    """ns since 1970 UTC [N]; stamps without an offset are of `zone`."""
    if column.null_count:
        row = int(np.argmax(column.is_null().to_numpy()))
        raise InputError('a missing value', file=file, column=name, row=row, remedy='correct or remove the row')
    kind = column.type
    if pa.types.is_time(kind):
        raise InputError('a time of the day has no day', file=file, column=name, remedy='add a column called date')
    time = read_times(column, file, name).astype('datetime64[ns]').astype(np.int64)
    if pa.types.is_temporal(kind):
        absolute = getattr(kind, 'tz', None) is not None
    else:
        text = column.cast(pa.int64()) if pa.types.is_floating(kind) else column
        text = pc.utf8_trim_whitespace(text.cast(pa.string()))
        absolute = _has_offsets(text, file, name)
        _refuse_days_first(text, file, name)
    return time if absolute else to_instants(time, zone)


def _has_offsets(text: pa.ChunkedArray, file, name: str) -> bool:
    """Whether stamps are instants: all of them, or none."""
    given = pc.match_substring_regex(text, _INSTANT).to_numpy()
    if (other := given != given[0]).any():
        row = int(other.argmax())
        has = ('has an offset', 'have none') if given[row] else ('has no offset', 'have')
        what = f'{text[row].as_py()!r} {has[0]}, and the rows before it {has[1]}'
        raise InputError(what, file=file, column=name, row=row, remedy='write all stamps with an offset, or none')
    return bool(given[0])


def _refuse_days_first(text: pa.ChunkedArray, file, name: str) -> None:
    """Raises InputError where dates such as 02/01/2024 leap over months, read month first, and do not, day first."""
    parts = pc.extract_regex(text, _SLASHED)
    if parts.null_count:
        return
    year, one, two = (pc.struct_field(parts, [n]).cast(pa.int64()).to_numpy() for n in ('year', 'first', 'second'))
    if two.max() > 12:
        return
    month = lambda place: (
        (12 * (year - 1970) + place - 1).astype('datetime64[M]').astype('datetime64[D]').astype(np.int64)
    )
    leap = lambda days: np.diff(np.unique(days)).max(initial=0)
    as_read = month(one) + two
    if leap(as_read) >= _MONTH > leap(month(two) + one):
        row = int((np.abs(np.diff(as_read)) >= _MONTH).argmax()) + 1
        what = f'{text[row].as_py()!r} is a month from the row before it: these dates have days before months'
        iso = (month(two) + one - 1)[0].astype('datetime64[D]')
        raise InputError(what, file=file, column=name, row=row, remedy=f'write the first one as {iso}')


def _codes(table: pa.Table, contracts: str | None, file) -> np.ndarray:
    """The contract of every row as a number [N], in order of first appearance."""
    if contracts is None:
        return np.zeros(table.num_rows, np.int32)
    column = table[contracts].combine_chunks()
    if column.null_count:
        raise InputError(
            'a contract has no id', file=file, column=contracts, row=int(column.is_null().to_numpy(False).argmax())
        )
    return column.dictionary_encode().indices.to_numpy().astype(np.int32)
