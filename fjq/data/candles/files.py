"""Candles of one asset or many, from files of any common layout to checked arrays."""

import dataclasses
import functools
import hashlib
import re
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa

from fjq.config import nearest
from fjq.data.candles import columns as layouts
from fjq.data.candles.columns import Columns, begins_with_candles
from fjq.data.candles.quality import PRICES, Quality, check
from fjq.errors import InputError
from fjq.log import say
from fjq.parallel import Parallel, run

T = TypeVar('T')
ENDINGS = ('.csv', '.csv.gz', '.txt', '.parquet')
_ENDING = re.compile(r'\.[^.]*(\.gz)?$', re.IGNORECASE)
_NAMED = 8  # files that a line names before it counts the rest
_DOWNLOAD = re.compile(r'_\d{4}-\d{2}-\d{2}_\d{4}-\d{2}-\d{2}_\w+$')  # '{TICKER}_{first}_{last}_{interval}'


@dataclasses.dataclass(frozen=True)
class Candles:
    """One asset. Always low <= open, close <= high, above zero, times ascending without repeats.

    time: datetime64[ns] [N]; a daily candle is stamped with its date. volume: NaN where the file has none.
    unit: times a price = the price of a share of today, which differs where splits were repaired.
    faults: what was found in its file, and how often.
    """

    id: str
    time: np.ndarray
    open: np.ndarray
    high: np.ndarray
    low: np.ndarray
    close: np.ndarray
    volume: np.ndarray
    unit: float = 1.0
    faults: dict[str, int] = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.time)

    def ohlc(self) -> np.ndarray:
        """float64 [N, 4]."""
        return np.stack([self.open, self.high, self.low, self.close], -1)

    def describe_faults(self) -> str:
        """Such as '2 x gap, 1 x price'; '' where there were none."""
        return ', '.join(f'{count} x {name}' for name, count in self.faults.items())

    def part(self, rows: slice | np.ndarray) -> 'Candles':
        """The candles of `rows`."""
        names = ('time', *PRICES, 'volume')
        return dataclasses.replace(self, **{n: getattr(self, n)[rows] for n in names})


@dataclasses.dataclass(kw_only=True)
class CandleFiles(Quality):
    """Where candles are and what to do with faults in them."""

    path: str = ''  # a file, or a folder of files (.csv, .csv.gz, .parquet, and .txt where candles are in it)
    assets: tuple[str, ...] = ()  # ids to read; () = all
    adjusted: bool = False  # prices times adjusted close / close, so returns include dividends (and splits)
    date_order: str = 'auto'  # of dates such as 02/01/2024: 'month' or 'day' first; 'auto' = as the column shows
    on_bad_file: str = 'stop'  # 'stop', or 'skip' a file with a fault, and say so

    def read(self, parallel: Parallel) -> list[Candles]:
        """The assets, sorted by id. The id is that of a column (symbol, ticker, name), of the header, or the file name.

        Raises:
          InputError: no files, a fault in one (unless `on_bad_file` is 'skip'), or an asset that is not there.
        """
        if self.on_bad_file not in ('stop', 'skip'):
            raise InputError(f'{self.on_bad_file!r} is unknown', column='on_bad_file', remedy='choose stop or skip')
        files = list_files(self.path)
        parts = run(functools.partial(_read, self), files, parallel, what='candles, files')
        good: list[tuple[Candles, Path]] = []
        for file, part in zip(files, parts, strict=True):
            if isinstance(part, InputError):
                if self.on_bad_file == 'stop':
                    raise part
                say(f'skipped: {part}')
            else:
                good += [(candles, file) for candles in part]
        return self._collect(good)

    def as_kind(self, kind: type[T], **changes) -> T:
        """A `kind` of settings with those fields of these that it has, but for `changes`."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(kind) if hasattr(self, f.name)}
        return kind(**fields | changes)

    def from_table(self, table: pa.Table) -> list[Candles]:
        """The assets of a table in memory with named columns; without a column of names there is one, `table`."""
        parts = [
            self._make(columns, 'table', 'the table') for columns in layouts.from_table(table, order=self.date_order)
        ]
        return self._collect([(candles, Path('the table')) for candles in parts])

    def _make(self, columns: Columns, name: str, file: Path | str) -> Candles:
        values = dict(columns.values)
        adjusted = values.pop('adjusted', None)
        if self.adjusted:
            if adjusted is None:
                raise InputError('it is absent', file=file, column='Adj Close', remedy='set adjusted=False')
            with np.errstate(all='ignore'):
                factor = adjusted / values['close']
            values |= {n: values[n] * factor for n in PRICES}
        name = columns.id or name
        checked = check(columns.time, values, columns.row, self, file, name)
        volume = checked.values.get('volume', np.full(len(checked.time), np.nan))
        prices = [np.ascontiguousarray(checked.values[n]) for n in PRICES]
        absent = {'row without prices': columns.empty} if columns.empty else {}
        return Candles(name, checked.time, *prices, volume, checked.unit, absent | checked.faults)

    def _collect(self, parts: list[tuple[Candles, Path]]) -> list[Candles]:
        total: dict[str, int] = {}
        seen: dict[str, Path] = {}
        for candles, file in parts:
            if candles.id in seen:
                raise InputError(f'{candles.id} is in {seen[candles.id].name} too', file=file, remedy='keep one file')
            seen[candles.id] = file
            for name, count in candles.faults.items():
                total[name] = total.get(name, 0) + count
            if candles.faults:
                say(f'{candles.id}: {candles.describe_faults()}')
        for name in self.assets:
            if name not in seen:
                raise InputError(f'no candles of {name!r}', file=self.path or None, remedy=nearest(name, seen))
        wanted = [c for c, _ in parts if not self.assets or c.id in self.assets]
        if not wanted:
            raise InputError('no asset is left', file=self.path or None, remedy='give a file with valid candles')
        action = {'repair': 'repaired', 'drop': 'dropped'}.get(self.quality, 'left')
        what = '; '.join(f'{n} x {name}' for name, n in total.items())
        say(f'{len(wanted)} assets, {sum(len(c) for c in wanted):,} candles' + (f' ({action}: {what})' if what else ''))
        return sorted(wanted, key=lambda c: c.id)


def list_files(path: str | Path) -> list[Path]:
    """The files of candles at a path, by name; says what else of such a name is there.

    Raises:
      InputError: none is there.
    """
    remedy = 'name a CSV file or a folder of them'
    if not str(path):
        raise InputError('no path is given', column='path', remedy=remedy)
    root = Path(path)
    if root.is_file():
        return [root]
    found = sorted(f for f in root.glob('*') if f.name.lower().endswith(ENDINGS) and not f.name.startswith('.'))
    # Any text may end in .txt, and the tokens of the original do; whoever writes .csv or .parquet means a table.
    files = [f for f in found if f.is_file() and (f.suffix.lower() != '.txt' or begins_with_candles(f))]
    if others := [f.name for f in found if f not in files]:
        more = f' and {len(others) - _NAMED} more' if len(others) > _NAMED else ''
        say(f'{root}: skipped, as no candles are in them: {", ".join(others[:_NAMED])}{more}')
    if not files:
        raise InputError('there is no file of candles', file=path, column='path', remedy=remedy)
    return files


def times_after(time: np.ndarray, count: int) -> np.ndarray:
    """The times of the next candles, datetime64[ns] [count], by the days of the week and the times of day of the last
    ones [N]: business days for stocks, every day for coins. Holidays are not known; weeks and longer repeat their step.
    """
    day = time.astype('datetime64[D]')
    days = np.unique(day)[-30:]
    step = np.median(np.diff(time[-30:])) if len(time) > 1 else np.timedelta64(1, 'D')
    if step >= np.timedelta64(7, 'D'):
        return time[-1] + step * np.arange(1, count + 1)
    week = np.isin(np.arange(7), (days.astype(np.int64) + 3) % 7) | (len(days) < 7)  # from Monday on
    of_day = np.unique((time - day)[day >= days[-5:][0]])
    ahead = np.busday_offset(days[-1], np.arange(count // len(of_day) + 2), roll='forward', weekmask=week)
    grid = (ahead[:, None] + of_day).reshape(-1)
    return grid[grid > time[-1]][:count].astype('datetime64[ns]')


def digest(candles: list[Candles]) -> str:
    """16 hexadecimal digits that are equal for equal candles."""
    sha = hashlib.sha256()
    for c in candles:
        sha.update(c.id.encode() + b'\0' + np.int64(len(c)).tobytes())
        for values in (c.time.astype(np.int64), c.ohlc(), c.volume):
            sha.update(np.ascontiguousarray(values).tobytes())
    return sha.hexdigest()[:16]


def _read(settings: CandleFiles, file: Path) -> list[Candles] | InputError:
    name = _DOWNLOAD.sub('', _ENDING.sub('', file.name))
    try:
        return [settings._make(columns, name, file) for columns in layouts.read_columns(file, settings.date_order)]
    except InputError as e:
        return e
