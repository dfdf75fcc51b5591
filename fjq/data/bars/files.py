"""Files of bars of any common vendor, read by name: what is in them, verified, as bars of one instrument.

  datetime,open,high,low,close,volume[,symbol]    most vendors
  timestamps,open,high,low,close,volume,amount    K-lines; those of A-shares are stamped at the end of the bar
  date,time,open,high,low,close,volume            a day and a time of the day
  2010-01-04 09:30:00,112.3,112.4,112.2,112.4,99  FirstRate: no header
  20110103 090100;126.35;126.39;126.35;126.39;99  NinjaTrader: no header, UTC, stamped at the end of the bar
  ts_event,...,instrument_id,open,...,symbol      Databento ohlcv: prices as such or as integers of 1e-9
  ticker,volume,open,...,window_start,...         Polygon aggregates: ns since 1970 UTC

and parquet of any of these. Columns that are not named here are not read. Cells of text are what all of a column can
be, not what its first rows look like.
"""

import contextlib
import dataclasses
import re
import zoneinfo
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fjq.config import nearest
from fjq.data import source
from fjq.data.bars.contracts import Quotes, join_contracts, sort_contracts
from fjq.data.bars.series import FIELDS, Bars, check_order, check_values, find_length
from fjq.data.clock import find_zone, to_instants
from fjq.data.headerless import read_headerless
from fjq.data.stamps import read_times
from fjq.errors import InputError
from fjq.log import say

TIMES = ('ts_event', 'window_start', 'datetime', 'timestamps', 'timestamp', 'time', 'date')  # in this order
SYMBOLS = ('symbol', 'ticker')
STAMPS = ('auto', 'start', 'end')
CONTRACTS = 'instrument_id'
NEEDED = (*FIELDS, 'symbol')
FIXED_POINT = 1e-9  # unit of Databento's integer prices
ABSENT = 2**63 - 1  # Databento's price that is none
TYPES = (pa.int64(), pa.float64(), pa.timestamp('ns'), pa.timestamp('ns', 'UTC'))  # of text, in this order
_HOUR = r'\d{1,2}:\d{2}'
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

    def read(self, needed: Collection[str] = NEEDED) -> Bars:
        """The bars of the file.

        Args:
          needed: with 'open' and 'close'; fields that are not are not read: high and low are then those of open and
            close, the volume is 0. Where 'symbol' is not, a file without such a column is of the one asked for.

        Raises:
          InputError: what is wrong with the file, its first bad row, or a setting.
        """
        if not self.path:
            raise InputError('no file is named', column='path', remedy='name a file of bars')
        path = Path(self.path)
        if nameless := read_headerless(path):
            columns = self._find_columns(nameless.table.column_names, needed, path)
            return self._make(nameless.table, columns, nameless.ninja, path)
        columns = self._find_columns(source.column_names(path), needed, path)
        return self._make(source.read_columns(path, dict.fromkeys(columns.values(), 'codes')), columns, False, path)

    def from_table(self, table: pa.Table) -> Bars:
        """The bars of a table in memory with named columns."""
        columns = self._find_columns(table.column_names, NEEDED, 'the table')
        table = source.cast_columns(table, dict.fromkeys(columns.values(), 'codes'), (), 'the table')
        return self._make(table, columns, False, 'the table')

    def _find_columns(self, given: Sequence[str], needed: Collection[str], file: Path | str) -> dict[str, str]:
        """What is read -> the name of its column: time, date (of a time of the day), symbol, contract, `FIELDS`."""
        names = {name.lower().strip(): name for name in reversed(given)}
        has = 'the columns are ' + ', '.join(given[:30])
        if not (times := [t for t in TIMES if t in names]):
            raise InputError(f'no column is a time ({", ".join(TIMES)})', file=file, remedy=has)
        found = {'time': names[times[0]]}
        if times[0] == 'time' and 'date' in names:
            found['date'] = names['date']
        contract = self.contracts.lower()
        if symbols := [s for s in SYMBOLS if s in names and s != contract]:
            found['symbol'] = names[symbols[0]]
        elif self.symbol and 'symbol' in needed:
            what = f'{self.symbol!r} is asked for, and no column names a symbol ({", ".join(SYMBOLS)})'
            raise InputError(what, file=file, column='symbol', remedy='add one, or leave data.symbol empty')
        if contract in names:
            found['contract'] = names[contract]
        elif self.contracts not in ('', CONTRACTS):
            what = f'no column is called {self.contracts!r}'
            raise InputError(what, file=file, column='contracts', remedy=nearest(self.contracts, given))
        fields = [field for field in FIELDS if field in needed]
        if absent := [field for field in fields if field not in names]:
            raise InputError('no such column', file=file, column=absent[0], remedy=has)
        return found | {field: names[field] for field in fields}

    def _make(self, table: pa.Table, columns: dict[str, str], ninja: bool, file: Path | str) -> Bars:
        if self.stamps not in STAMPS:
            raise InputError(f'unknown choice {self.stamps!r}', column='stamps', remedy='choose ' + ', '.join(STAMPS))
        if not table.num_rows:
            raise InputError('it holds no bar', file=file, remedy='give a file with rows')
        table = pa.table([_clean(column) for column in table.columns], table.column_names)
        table, rows, name = self._select(table, columns.get('symbol'), file)
        exchange = find_zone(self.timezone)
        zone = find_zone(self.stamp_zone or ('UTC' if ninja else self.timezone), 'stamp_zone')
        time = columns['time']
        stamps = _instants(_join_date(table, columns), file, time, zone, self.date_order)
        values = _read_values(table, columns, file)
        check_values(values, rows, file)
        quotes = Quotes(stamps, _codes(table, columns.get('contract'), file), rows, values)
        if 'contract' not in columns:
            check_order(stamps, rows, file, time)
        else:
            quotes = sort_contracts(quotes, file, time)
        moments, first = np.unique(quotes.time, return_index=True)
        length = find_length(moments, quotes.row[first], file, time, exchange)
        joined, rolls = join_contracts(quotes, exchange)
        if rolls:
            bridged = sum(roll.bridged for roll in rolls)
            say(f'{Path(file).name}: {len(rolls)} rolls, {bridged} adjusted by both contracts at one instant')
        if lost := len(moments) - len(joined.time):
            what = 'another contract traded, and not the one that counts'
            say(f'{Path(file).name}: {lost} stamps are left out: {what}')
        at_end = self.stamps == 'end' or (self.stamps == 'auto' and ninja)
        start = joined.time - (length if at_end else 0)
        return Bars(id=name, time=start, piece=joined.piece, length=length, zone=self.timezone, **joined.values)

    def _select(self, table: pa.Table, column: str | None, file) -> tuple[pa.Table, np.ndarray, str]:
        """The rows of the symbol, their places in the file, and its name."""
        rows = np.arange(table.num_rows)
        if column is None:
            return table, rows, Path(file).name.split('.')[0] if file != 'the table' else 'table'
        given = table[column].cast(pa.string()).fill_null('')
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


def _clean(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Text without blanks around it, null where nothing is left; anything else as it is."""
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        return column
    text = pc.utf8_trim_whitespace(column)
    return pc.if_else(pc.equal(text, ''), None, text)


def _read_text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Text as the first of `TYPES` that all of it can be, as it is where there is none; anything else as it is."""
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        for kind in TYPES:
            with contextlib.suppress(pa.ArrowInvalid):
                column.slice(0, 1000).cast(kind)  # a cast that fails is slow: an error is made of every cell
                return column.cast(kind)
    return column


def _read_values(table: pa.Table, columns: dict[str, str], file) -> dict[str, np.ndarray]:
    """`FIELDS` as float64 [N], NaN where there is none; those that are not read come last."""
    cells = {field: _read_text(table[columns[field]]) for field in FIELDS if field in columns}
    values = {field: _numbers(column, columns[field], file) for field, column in cells.items()}
    prices = [field for field in cells if field != 'volume']
    if columns['time'].lower().strip() == 'ts_event' and all(pa.types.is_integer(cells[f].type) for f in prices):
        values |= {f: np.where(values[f] < ABSENT, values[f] * FIXED_POINT, np.nan) for f in prices}
    ends = values['open'], values['close']
    absent = {'high': np.fmax(*ends), 'low': np.fmin(*ends), 'volume': np.zeros(table.num_rows)}
    return values | {field: made for field, made in absent.items() if field not in values}


def _numbers(column: pa.ChunkedArray, name: str, file) -> np.ndarray:
    """float64 [N], NaN where there is none."""
    if pa.types.is_null(column.type):
        return np.full(len(column), np.nan)
    cast = source.cast_columns(pa.table({name: column}), {name: 'number'}, (), file)
    return cast[name].fill_null(np.nan).to_numpy().astype(np.float64)


def _join_date(table: pa.Table, columns: dict[str, str]) -> pa.ChunkedArray:
    """The column of stamps, or one of dates and one of times of the day as one."""
    if 'date' not in columns:
        return table[columns['time']]
    return pc.binary_join_element_wise(*(table[columns[n]].cast(pa.string()) for n in ('date', 'time')), ' ')


def _instants(column: pa.ChunkedArray, file, name: str, zone: zoneinfo.ZoneInfo, order: str) -> np.ndarray:
    """ns since 1970 UTC [N]; stamps without an offset are of `zone`."""
    column = _read_text(column)
    if column.null_count:
        row = int(np.argmax(column.is_null().to_numpy()))
        raise InputError('a missing value', file=file, column=name, row=row, remedy='correct or remove the row')
    if re.match(_HOUR, str(column[0])):
        raise InputError('a time of the day has no day', file=file, column=name, remedy='add a column called date')
    time = read_times(column, file, name, order).astype('datetime64[ns]').astype(np.int64)
    kind = column.type
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
