"""From trades or bars to a file of daily realised volatility and its forward labels."""

import dataclasses
import datetime
import json
import os
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from fjq.data.bars.files import BarFile
from fjq.data.calendar import session_bounds
from fjq.data.clock import SECOND, dates_of, day_bounds, find_zone
from fjq.data.source import DayFile, date_of, iter_columns, list_days
from fjq.data.ticks.files import TickFiles, read_day
from fjq.data.volatility import estimators
from fjq.data.volatility.targets import HORIZONS, forward_rv
from fjq.errors import InputError
from fjq.log import say
from fjq.parallel import Parallel, run

KINDS = ('ticks', 'bars')
MEASURES = ('variance', 'bipower', 'two_scale', 'tick_sum')
SESSIONS = ('regular', 'all')
BAR_TIMES = ('start', 'end')
ON_BAD_FILE = ('stop', 'skip')
LONGEST_NIGHT = 4  # calendar days between two sessions over a long weekend; more is a hole in the data
TICKERS_SHOWN = 10
SPLIT = 0.4  # an overnight log return beyond this is a split or a wrong price


@dataclasses.dataclass(kw_only=True)
class ComputeRv:
    """How `--job=compute_rv` makes the file of daily realised volatility."""

    root: str = ''  # folder of daily tick files, or a file or folder of bars; '' = the folder of the config's ticks
    kind: str = 'ticks'  # 'ticks' or 'bars'
    stream: str = 'stocks'  # schema of the tick files: 'stocks', 'options' or 'index'
    ticker: str = 'SPY'
    measure: str = 'variance'  # 'variance', 'bipower', 'two_scale', or 'tick_sum' (noise and all, for comparison only)
    interval: int = 300  # seconds of a return
    offset: int = 60  # seconds between the sub-grids that are averaged; = interval for one grid
    session: str = 'regular'  # 'regular' = 09:30 to 16:00 New York (13:00 on half days), or 'all' = the whole day
    overnight: bool = False  # add the squared return from the close before to the open
    min_share: float = 0.5  # a day with prices in a smaller share of its intervals is left out
    days_per_year: int = 252  # 365 for what trades every day
    horizons: tuple[int, ...] = HORIZONS  # calendar days of the forward columns
    bar_time: str = 'start'  # what a bar's time is: its 'start' or its 'end'; NinjaTrader's is its end
    zone: str = 'America/New_York'  # of times without one
    on_bad_file: str = 'stop'  # 'stop', or 'skip' = say it and go on
    out: str = ''  # the file that is written; '' = TICKER_daily_rv.parquet in the workdir


class Prices(NamedTuple):
    """Prices in time order: time int64 [N], ns since 1970 UTC; price float64 [N], positive."""

    time: np.ndarray
    price: np.ndarray


class Day(NamedTuple):
    """The measure of one day; `left_out` says why there is none.

    variance: of the session, squared log return, not annualised. first, last: prices of the session.
    """

    date: datetime.date
    variance: float = np.nan
    ticks: int = 0
    returns: int = 0
    first: float = np.nan
    last: float = np.nan
    left_out: str = ''


def compute_rv(options: ComputeRv, parallel: Parallel, ticks: TickFiles | None = None) -> pa.Table:
    """The table of daily realised volatility: date, daily_rv, n_ticks, n_returns, rv_{h}d_forward.

    daily_rv is annualised. A forward value is null where its window has too few days (see `forward_rv`). Days left out
    are counted and said.

    Args:
      ticks: which ticks of the files count; by default those that `TickFiles` takes of the stream.

    Raises:
      InputError: an unknown choice, a bad file, or no day at all.
    """
    check_options(options)
    if options.measure == 'tick_sum':
        say(
            'tick_sum adds up the noise of every trade: on SPY it is 3 to 19 times the volatility. For comparison only.'
        )
    files = _list_files(options)
    ticks = ticks or TickFiles(stream=options.stream, zone=options.zone)
    # All of a ticker's day is read, and the session that is measured is cut from it.
    ticks = dataclasses.replace(ticks, tickers='', session='all', on_bad_file=options.on_bad_file)
    parts = run(partial(_measure_file, options, ticks), files, parallel, what='measure days')
    days = [day for part in parts for day in part]
    days.sort(key=lambda day: day.date)
    kept = [day for day in days if not day.left_out]
    for before, after in zip(kept, kept[1:], strict=False):
        if before.date == after.date:
            raise InputError(f'{after.date} is in two files', file=options.root, remedy='keep one of them')
    if options.overnight:
        kept = _add_nights(kept, options)
    reasons = [day.left_out for day in days if day.left_out]
    reasons += ['no close before it'] * (len(days) - len(reasons) - len(kept))
    for reason in sorted(set(reasons)):
        say(f'days left out, {reason}: {reasons.count(reason)}')
    if not kept:
        absent = {day.left_out for day in days} == {f'no tick of {options.ticker}'}
        remedy = _name_tickers(files[0], options) if absent else 'see why above'
        raise InputError(f'no day of {options.ticker!r} is left', file=options.root, remedy=remedy)
    return _make_table(kept, options)


def check_options(options: ComputeRv) -> None:
    """Raises InputError where a field has no meaning."""
    choices = {
        'kind': KINDS,
        'measure': MEASURES,
        'session': SESSIONS,
        'bar_time': BAR_TIMES,
        'on_bad_file': ON_BAD_FILE,
    }
    for field, known in choices.items():
        if getattr(options, field) not in known:
            what = f'unknown choice {getattr(options, field)!r}'
            raise InputError(what, column=field, remedy='choose one of ' + ', '.join(known))
    find_zone(options.zone, 'zone')
    if not options.root:
        raise InputError('no folder of trades or bars', column='root', remedy='name it')
    for field in ('interval', 'offset', 'days_per_year'):
        if getattr(options, field) < 1:
            raise InputError(f'{getattr(options, field)} is too few', column=field, remedy='make it 1 or more')
    if not 0 <= options.min_share <= 1:
        raise InputError(f'a share of {options.min_share}', column='min_share', remedy='give a number from 0 to 1')
    if not options.horizons or min(options.horizons) < 1 or len(set(options.horizons)) < len(options.horizons):
        raise InputError(
            f'{options.horizons} are no horizons', column='horizons', remedy='give counts of days, each once'
        )
    if options.interval % options.offset:
        raise InputError(
            f'an interval of {options.interval} s and an offset of {options.offset} s',
            column='offset',
            remedy='the offset divides the interval',
        )


def read_bars(path: str | os.PathLike, options: ComputeRv) -> Prices:
    """The open of each bar of a file just after it starts and its close when it ends; nothing else of it is read.

    Raises:
      InputError: as `BarFile.read`.
    """
    stamps = 'end' if options.bar_time == 'end' else 'auto'
    file = BarFile(path=str(path), symbol=options.ticker, timezone=options.zone, stamps=stamps)
    bars = file.read(needed=('open', 'close'))
    # One ns after the start, so that the close of the bar before, at the same instant, is still the price at it.
    times = np.stack([bars.time + 1, bars.closed], axis=1).ravel()
    return Prices(times, np.stack([bars.open, bars.close], axis=1).ravel())


def measure_day(prices: Prices, date: datetime.date, options: ComputeRv) -> Day:
    """The realised measure of one day's session. `prices` may reach beyond it."""
    start, end = day_bounds(date) if options.session == 'all' else session_bounds(date)
    inside = slice(*np.searchsorted(prices.time, [start, end + 1]))
    time, price = prices.time[inside], prices.price[inside]
    if not len(time):
        return Day(date, left_out='no price in the session')
    grid_times = np.arange(start, end + 1, options.offset * SECOND)
    step = options.interval // options.offset
    intervals = (end - start) // (options.interval * SECOND)
    share = len(np.unique(np.maximum(time - start - 1, 0) // (options.interval * SECOND))) / max(intervals, 1)
    if share < options.min_share:
        return Day(date, ticks=len(time), left_out=f'prices in under {options.min_share:.0%} of the intervals')
    ticks = np.log(price)
    grid = estimators.sample_prices(time, ticks, grid_times)
    returns = len(time) - 1
    if options.measure == 'two_scale':
        slow = estimators.slow_scale(ticks, float(estimators.realized_quarticity(grid, step)))
        variance = estimators.two_scale_variance(ticks, slow)
    elif options.measure == 'tick_sum':
        variance = estimators.realized_variance(ticks)
    else:
        measure = estimators.bipower_variation if options.measure == 'bipower' else estimators.realized_variance
        variance, returns = measure(grid, step), (len(grid) - 1) // step
    if not variance > 0:
        return Day(date, ticks=len(time), left_out='a variance that is not positive')
    return Day(date, float(variance), len(time), returns, float(price[0]), float(price[-1]))


def _list_files(options: ComputeRv) -> list[Path]:
    root = Path(options.root)
    if options.kind == 'ticks':
        return [day.path for day in list_days(root)]
    files = (
        [root]
        if root.is_file()
        else sorted(p for p in root.rglob('[!.]*') if p.name.endswith(('.csv', '.csv.gz', '.parquet')))
    )
    if not files:
        raise InputError('no file of bars', file=root, column='root', remedy='give a file, or a folder that holds some')
    return files


def _measure_file(options: ComputeRv, files: TickFiles, path: Path) -> list[Day]:
    try:
        if options.kind == 'bars':
            prices = read_bars(path, options)
            dates = dates_of(prices.time - 1)  # a close at midnight is of the day before
            bounds = np.flatnonzero(np.append(True, dates[1:] != dates[:-1]))
            parts = zip(np.split(prices.time, bounds[1:]), np.split(prices.price, bounds[1:]), strict=True)
            days = dates[bounds].tolist()
            return [measure_day(Prices(*part), day, options) for part, day in zip(parts, days, strict=True)]
        ticks, _ = read_day(DayFile(date_of(path.name), path), files, (options.ticker,))
        if not len(ticks.time):
            return [Day(ticks.date, left_out=f'no tick of {options.ticker}')]
        real = ticks.price > 0  # an index shows 0 before its first print
        return [measure_day(Prices(ticks.time[real], ticks.price[real]), ticks.date, options)]
    except InputError as e:
        if options.on_bad_file == 'stop':
            raise
        return [Day(date_of(path.name) or datetime.date.min, left_out=f'a bad file: {e}')]


def _name_tickers(path: Path, options: ComputeRv) -> str:
    """Some of what a file of ticks does hold, and what to do with it, for a message."""
    blocks = iter_columns(path, {'ticker': 'text'})
    names = sorted({name for b in blocks for name in b.table['ticker'].unique().to_pylist() if name})
    shown = ', '.join(names[:TICKERS_SHOWN]) + (' and more' if names[TICKERS_SHOWN:] else '')
    return f'{path.name} has {shown}: set data.rv.ticker to one, or data.rv.root to ticks of {options.ticker}'


def _add_nights(days: list[Day], options: ComputeRv) -> list[Day]:
    """The days that follow a known close, with the squared overnight return in their variance."""
    found = []
    for before, day in zip(days, days[1:], strict=False):
        if (day.date - before.date).days > LONGEST_NIGHT:
            continue
        night = np.log(day.first / before.last)
        if abs(night) > SPLIT:
            raise InputError(
                f'from {before.last:g} to {day.first:g} over the night to {day.date}',
                file=options.root,
                remedy='adjust the prices for splits, or leave overnight off',
            )
        found.append(day._replace(variance=day.variance + night**2, returns=day.returns + 1))
    return found


def _make_table(days: list[Day], options: ComputeRv) -> pa.Table:
    dates = np.array([day.date for day in days], 'datetime64[D]')
    daily_rv = np.sqrt(options.days_per_year * np.array([day.variance for day in days]))
    columns = {
        'date': pa.array(dates.astype('datetime64[ms]')),
        'daily_rv': pa.array(daily_rv),
        'n_ticks': pa.array([day.ticks for day in days], pa.int64()),
        'n_returns': pa.array([day.returns for day in days], pa.int64()),
    }
    for h in options.horizons:
        columns[f'rv_{h}d_forward'] = pa.array(forward_rv(dates, daily_rv, h)[0], from_pandas=True)  # NaN = null
    made_by = {k: v for k, v in dataclasses.asdict(options).items() if k not in ('root', 'out')}
    return pa.table(columns).replace_schema_metadata({'fjq': json.dumps(made_by)})
