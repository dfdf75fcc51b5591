"""Bars whose conditional quantiles are known: a market whose variance is settled before any horizon begins.

Session d (18:00 to 17:00 New York time, five a week) has the variance V_d a bar, and bar k of it the log return
r ~ N(0, w_k V_d), w_k a U-shape over the session whose first bar holds the night (and a longer one over weekends and
holidays). V follows the square of whole sessions' returns R, one session late:

    V_{d+1} = omega + alpha R_{d-1}^2 / sum(w) + beta V_d

so V_{d+1} is known when session d begins. The return over any h bars, h no more than a session, is then exactly
Gaussian given the past, with the sum of the bars' variances: its quantiles, coverage and pinball loss have no Monte
Carlo error. Over time returns are fat-tailed and their volatility clusters (Bollerslev 1986).
"""

import dataclasses
import datetime
import functools
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scipy.special import ndtri

from fjq.atomic import atomic
from fjq.data.bars.migt import MigtData
from fjq.data.bars.windows import BarWindows
from fjq.data.calendar import parse_date, sessions
from fjq.data.clock import DAY, MINUTE, NEW_YORK, to_instants
from fjq.data.synthetic.draws import generator
from fjq.errors import InputError
from fjq.parallel import Parallel

WRITTEN = {'timezone': NEW_YORK.key, 'stamp_zone': '', 'stamps': 'end', 'session': '', 'symbol': '', 'contracts': ''}
HOURS = 23  # of a session; it opens at 18:00 of the day before
START = 18 * 60  # minute at which it opens
ALPHA, BETA = 0.15, 0.8  # of the variance
NIGHT, WEEKEND = 8.0, 20.0  # variance of the step over a break, in bars' variances
QUIET, BUSY = 0.35, 4.0  # weights of a bar by night and at the cash open
DRAWS = 8  # prices within a bar, of which high and low are the extremes


@dataclasses.dataclass(kw_only=True)
class SimulatedMigtData(MigtData):
    """`MigtData` whose file a simulation writes; `path` is its own."""

    start: str = '2022-01-03'  # first session
    sessions: int = 500  # 276 bars of 5 minutes each
    volatility: float = 7.5e-4  # of a bar's return, long-run mean
    market_seed: int = 0

    def locate(self, cache: str | os.PathLike, parallel: Parallel) -> MigtData:
        """Simulates what is not there yet; the same settings on the simulated file."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(MigtData)}
        name = f'bars_{self.start}_{self.sessions}_{self.minutes}_{self.volatility:g}_{self.market_seed}.parquet'
        path = Path(cache) / name
        if not path.is_file():
            with atomic(path) as part:
                pq.write_table(self.simulate().to_table(), part)
        return MigtData(**fields | WRITTEN | {'path': str(path)})

    def open(self, cache: str | os.PathLike, parallel: Parallel) -> BarWindows:
        return self.locate(cache, parallel).open(cache, parallel)

    def from_table(self, table: pa.Table) -> BarWindows:
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(MigtData)}
        return MigtData(**fields | WRITTEN).from_table(table)

    def simulate(self) -> 'Simulation':
        """The bars with the variance of each.

        Raises:
          InputError: a setting makes no sense.
        """
        if self.sessions < 3 or HOURS * 60 % self.minutes or not self.volatility > 0:
            raise InputError(
                f'{self.sessions} sessions of bars of {self.minutes} minutes with volatility {self.volatility:g}',
                column='sessions',
                remedy='take 3 or more, minutes that divide 60, and a volatility above zero',
            )
        return _simulate(self.start, self.sessions, self.minutes, self.volatility, self.market_seed)

    def oracle(self, rows: dict[str, np.ndarray], levels: tuple[float, ...]) -> np.ndarray:
        """The true conditional quantiles [N, H, Q] of the targets of `BarWindows.rows`, NaN beyond the simulation."""
        sd = self.oracle_sd(rows)
        return sd[..., None] * ndtri(np.array(levels))

    def oracle_sd(self, rows: dict[str, np.ndarray]) -> np.ndarray:
        """The true conditional standard deviations [N, H] of Gaussian targets with mean zero."""
        bars, horizons = self.simulate(), np.asarray(rows['horizon'])
        if horizons.max() > HOURS * 60 // self.minutes:
            raise InputError(
                f'{horizons.max()} bars are more than a session',
                column='horizons',
                remedy='the truth is known up to one',
            )
        total = np.concatenate([[0.0], np.cumsum(bars.variance)])
        after = np.searchsorted(bars.closed, rows['time'].astype('datetime64[ns]').astype(np.int64), side='right')
        end = after[:, None] + horizons
        spanned = total[np.minimum(end, len(total) - 1)] - total[after][:, None]
        return np.where(end < len(total), np.sqrt(spanned), np.nan)


class Simulation(NamedTuple):
    """N bars. closed: ns since 1970 UTC; prices and volume; variance: of each close-to-close log return."""

    closed: np.ndarray
    open: np.ndarray
    high: np.ndarray
    low: np.ndarray
    close: np.ndarray
    volume: np.ndarray
    variance: np.ndarray

    def to_table(self) -> pa.Table:
        """The bars as a vendor would write them, stamped at their ends."""
        stamps = pa.array(self.closed.astype('datetime64[ns]'), pa.timestamp('ns', 'UTC'))
        prices = {name: getattr(self, name) for name in ('open', 'high', 'low', 'close', 'volume')}
        return pa.table({'time': stamps, **prices})


def session_weights(minutes: int) -> np.ndarray:
    """Variance of each bar of a session in units of their mean [K]: quiet by night, two peaks in the cash session."""
    hour = (18 + (np.arange(HOURS * 60 // minutes) + 0.5) * minutes / 60) % 24
    peak = lambda at, width: np.exp(-0.5 * ((hour - at) / width) ** 2)
    weights = (
        QUIET + BUSY * peak(9.6, 0.5) + 0.4 * BUSY * peak(15.8, 0.6) + 0.9 * peak(12.5, 2.5) + 0.5 * peak(3.5, 1.0)
    )
    return weights / weights.mean()


@functools.lru_cache(maxsize=2)
def _simulate(start: str, count: int, minutes: int, volatility: float, seed: int) -> Simulation:
    dates = sessions(parse_date(start, 'start'), count)
    weights, mean = session_weights(minutes), volatility**2
    bars = len(weights)
    days = np.array([d.toordinal() for d in dates])
    night = np.where(np.diff(days, prepend=days[0] - 1) > 1, WEEKEND, NIGHT)
    z = generator(seed, 'bars').standard_normal((count, bars, DRAWS))
    variance = np.empty((count, bars))
    now, squares, moves = mean, [mean, mean], np.empty((count, bars, DRAWS))
    for d in range(count):
        variance[d] = now * weights
        moves[d] = np.sqrt(variance[d] / DRAWS)[:, None] * z[d]
        inside = moves[d].sum()
        gap = np.sqrt(night[d] * now) * generator(seed, 'nights', d).standard_normal()
        moves[d, 0, 0] += gap
        variance[d, 0] += night[d] * now
        squares.append(inside**2 / bars)
        now = (1 - ALPHA - BETA) * mean + ALPHA * squares[d + 1] + BETA * now
    path = 9.6 + np.cumsum(moves.reshape(-1)).reshape(count * bars, DRAWS)
    return _to_bars(path, _close_times(dates, minutes), variance.reshape(-1), volatility, seed)


def _to_bars(path: np.ndarray, closed: np.ndarray, variance: np.ndarray, volatility: float, seed: int) -> Simulation:
    """path: log prices [N, DRAWS] within each bar; the first of them is the open."""
    price = np.exp(path)
    noise = generator(seed, 'volume').standard_normal(len(path))
    volume = np.round(400 * np.sqrt(variance) / volatility * np.exp(0.4 * noise)) + 1
    return Simulation(closed, price[:, 0], price.max(1), price.min(1), price[:, -1], volume, variance)


def _close_times(dates: list[datetime.date], minutes: int) -> np.ndarray:
    """When the bars of the sessions of these days close [N]: 18:00 of the evening before to 17:00, local time."""
    midnight = np.array(dates, 'datetime64[D]').astype(np.int64) * DAY
    offsets = (START - 1440 + minutes * np.arange(HOURS * 60 // minutes)) * MINUTE
    starts = to_instants((midnight[:, None] + offsets).reshape(-1), NEW_YORK)
    return starts + minutes * MINUTE
