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
import zoneinfo
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fjq.config import nearest
from fjq.data import source
from fjq.data.bars import FIELDS, Bars, check_order, check_values, find_length
from fjq.data.clock import find_zone, to_instants
from fjq.data.contracts import Quotes, join_contracts, sort_contracts
from fjq.data.headerless import read_headerless
from fjq.data.stamps import read_times
from fjq.errors import InputError
from fjq.log import say

TIMES = ('ts_event', 'window_start', 'datetime', 'timestamps', 'timestamp', 'time', 'date')  # in this order
SYMBOLS = ('symbol', 'ticker')
STAMPS = ('auto', 'start', 'end')
CONTRACTS = 'instrument_id'
FIXED_POINT = 1e-9  # unit of Databento's integer prices
ABSENT = 2**63 - 1  # Databento's price that is none
_INSTANT = r'^\d{9,}$|\d{2}:\d{2}.*(Z|UTC|[+-]\d{2}:?\d{2})$'


@dataclasses.dataclass(kw_only=True)
class BarFile:
    """A file of bars and how its stamps are meant."""

    path: str = ''  # .csv, .csv.gz, .txt or .parquet
    symbol: str = ''  # the one to read of a file with a column of them; '' = the only one there
    timezone: str = 'America/New_York'  # of the exchange: its midnight, its weekday, its hours
    stamp_zone: str = ''  # of stamps without an offset, where it is another; '' = `timezone`, of NinjaTrader's UTC
    stamps: str = 'auto'  # whether a stamp is the 'start' or 'end' of its bar; 'auto' = end for NinjaTrader, else start
    date_order: str = 'auto'  # of dates such as 02/01/2024: 'month' or 'day' first; 'auto' = as the column shows
    contracts: str = CONTRACTS  # column of futures contract ids, where the file has it; '' = none

    def read(self) -> Bars:
        """The bars of the file.

        Raises:
          InputError: what is wrong with the file, its first bad row, or a setting.
        """
        if not self.path:
            raise InputError('no file is named', column='path', remedy='name a file of bars')
        path = Path(self.path)
        if nameless := read_headerless(path):
            return self._make(nameless.table, nameless.ninja, file=path)
        names = source.column_names(path)
        if twins := [n for n in names if names.count(n) > 1]:
            raise InputError('two columns have this name', file=path, column=twins[0], remedy='keep one')
        return self._make(source.read_columns(path, names), False, file=path)

    def from_table(self, table: pa.Table) -> Bars:
        """The bars of a table in memory with named columns."""
        return self._make(table, False, file='the table')

    def _make(self, table: pa.Table, ninja: bool, file: Path | str) -> Bars:
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
        zone = find_zone(self.stamp_zone or ('UTC' if ninja else self.timezone), 'stamp_zone')
        column = _join_date(table, names) if time == names.get('time') and 'date' in names else table[time]
        stamps = _instants(column, file, time, zone, self.date_order)
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
        at_end = self.stamps == 'end' or (self.stamps == 'auto' and ninja)
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


def _instants(column: pa.ChunkedArray, file, name: str, zone: zoneinfo.ZoneInfo, order: str) -> np.ndarray:
    """ns since 1970 UTC [N]; stamps without an offset are of `zone`."""
    if column.null_count:
        row = int(np.argmax(column.is_null().to_numpy()))
        raise InputError('a missing value', file=file, column=name, row=row, remedy='correct or remove the row')
    kind = column.type
    if pa.types.is_time(kind):
        raise InputError('a time of the day has no day', file=file, column=name, remedy='add a column called date')
    time = read_times(column, file, name, order).astype('datetime64[ns]').astype(np.int64)
    if pa.types.is_temporal(kind):
        absolute = getattr(kind, 'tz', None) is not None
    else:
        text = column.cast(pa.int64()) if pa.types.is_floating(kind) else column
        text = pc.utf8_trim_whitespace(text.cast(pa.string()))
        absolute = _has_offsets(text, file, name)
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
