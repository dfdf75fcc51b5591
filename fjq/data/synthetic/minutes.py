"""One day by the minute, 04:00 to 20:00: the market, the sectors, the factors, and the price path of every asset.

Every part of the day is a Brownian bridge on a clock of its own that ends where the daily walk says, so that days can
be simulated alone and in any order. The market's session clock is U-shaped, swings slowly, and follows the variance
factors, whose path has the same leverage within the day as from day to day. The clock sums to one: the integrated
variance of a session is the `variance` of its latent row, exactly.
"""

from typing import NamedTuple

import numpy as np

from fjq.data.calendar import CLOSE, OPEN, POST_MINUTES, PRE_OPEN, Date, close_minute
from fjq.data.synthetic.assets import SECTORS, Assets, Walk, sectors
from fjq.data.synthetic.draws import generator
from fjq.data.synthetic.market import Origin
from fjq.data.synthetic.volatility import GAP, PART_VARIANCE, POST, PRE, SESSION, SESSION_SHARE, factors, latent

SESSION_START = OPEN - PRE_OPEN  # first minute of the session, counted from 04:00
DAY_MINUTES = CLOSE + POST_MINUTES - PRE_OPEN  # of a whole day; a half day ends three hours earlier
SWING_SD, SWING_DECAY = 0.35, 0.98  # log of the intraday swing of the variance: sd and AR(1) by the minute
PRINTS_OUTSIDE = 0.02  # share of a day's prints before the session, and after it


class Day(NamedTuple):
    """One day of M minutes; minute 0 starts at 04:00."""

    index: int  # session since the market's start
    date: Date
    parts: dict[int, slice]  # minutes of PRE, SESSION and POST
    clock: np.ndarray  # [M] share of its part's variance in each minute, for everything but the market
    spot: np.ndarray  # [M] variance of the market in each minute
    market: np.ndarray  # [M] log return of the market, jump left out
    jump: np.ndarray  # [M] log jump of the market at the start of the minute
    sectors: np.ndarray  # [SECTORS, M] log returns
    sector_variance: np.ndarray  # [M]
    slow: np.ndarray  # [M + 1] factors at the ends of the minutes
    fast: np.ndarray

    @property
    def session(self) -> slice:
        return self.parts[SESSION]


class Paths(NamedTuple):
    """Log prices of K assets on one day of M minutes."""

    start: np.ndarray  # [K, M] at the start of each minute, after its jump
    end: np.ndarray  # [K, M]
    variance: np.ndarray  # [K, M] of the diffusion in each minute


def day_parts(date: Date) -> dict[int, slice]:
    """The minutes of pre-market, session and post-market."""
    start, close = SESSION_START, close_minute(date) - PRE_OPEN
    return {PRE: slice(0, start), SESSION: slice(start, close), POST: slice(close, close + POST_MINUTES)}


def _shape(date: Date, middle: float, at_open: tuple[float, float], at_close: tuple[float, float]) -> np.ndarray:
    """Weights by the minute that sum to one in each part: growing, U-shaped (height, width), falling."""
    weights = []
    for part, minutes in day_parts(date).items():
        u = (np.arange(minutes.stop - minutes.start) + 0.5) / (minutes.stop - minutes.start)
        if part == SESSION:
            w = middle + at_open[0] * np.exp(-u / at_open[1]) + at_close[0] * np.exp((u - 1) / at_close[1])
        else:
            w = np.exp(2.5 * (u if part == PRE else 1 - u))
        weights.append(w / w.sum())
    return np.concatenate(weights)


def variance_clock(date: Date) -> np.ndarray:
    """Share of a part's variance by the minute: highest at the open, low at noon, rising at the close."""
    return _shape(date, 0.55, (2.2, 0.06), (0.6, 0.08))


def print_clock(date: Date) -> np.ndarray:
    """Share of a day's prints by the minute; the close is busier than the open."""
    shape = _shape(date, 0.6, (1.2, 0.05), (1.6, 0.05))
    for part, minutes in day_parts(date).items():
        shape[minutes] *= 1 - 2 * PRINTS_OUTSIDE if part == SESSION else PRINTS_OUTSIDE
    return shape


def bridge(steps: np.ndarray, clock: np.ndarray, total: np.ndarray) -> np.ndarray:
    """Moves the sum of independent steps [..., M] to `total` [...]: Brownian increments given their sum.

    `clock` [M] holds the steps' shares of the variance and sums to 1.
    """
    return steps + clock * (np.asarray(total) - steps.sum(-1))[..., None]


def simulate_day(origin: Origin, d: int, count: int) -> Day:
    """Session d of the market factor and the sectors; `count` sessions of the daily path are kept in memory."""
    path, date = latent(origin, count), latent(origin, count).dates[d]
    parts, clock = day_parts(date), variance_clock(date)
    session, minutes = parts[SESSION], len(clock)
    z = generator(origin.seed, 'minutes', d).standard_normal((4 + SECTORS, DAY_MINUTES))[:, :minutes]

    gone = np.zeros(minutes + 1)  # share of the session's clock
    gone[session.start + 1 : session.stop + 1] = np.cumsum(clock[session])
    gone[session.stop + 1 :] = 1
    shocks = bridge(np.sqrt(clock[session]) * z[:3, session], clock[session], path.shock[d])
    states = []
    for f, x, own in zip(factors(origin), (path.slow, path.fast), shocks[1:], strict=True):
        moves = np.zeros(minutes + 1)
        moves[session.start + 1 : session.stop + 1] = f.leverage * shocks[0] + np.sqrt(1 - f.leverage**2) * own
        states.append(x[d] * (1 - gone * (1 - f.decay)) + f.shock * np.sqrt(SESSION_SHARE) * np.cumsum(moves))

    log_swing = SWING_SD * _ar1(z[3, session], SWING_DECAY) + (states[0] + states[1])[session]
    share = clock.copy()
    share[session] *= np.exp(log_swing - log_swing.max())
    share[session] /= share[session].sum()
    evening = np.log(path.variance[0]) - path.level if d == 0 else path.slow_close[d - 1] + path.fast_close[d - 1]
    variance = {
        PRE: PART_VARIANCE[PRE] * np.exp(path.level + evening),
        SESSION: path.variance[d],
        POST: PART_VARIANCE[POST] * np.exp(path.level + path.slow_close[d] + path.fast_close[d]),
    }
    daily = sectors(origin, count)
    returns, spot, jump = np.empty(minutes), np.empty(minutes), np.zeros(minutes)
    sector_returns, sector_variance = np.empty((SECTORS, minutes)), np.empty(minutes)
    for part, at in parts.items():
        spot[at] = variance[part] * share[at]
        total = path.returns[d, part] - (path.jump[d] if part == SESSION else 0.0)
        returns[at] = bridge(np.sqrt(spot[at]) * z[0, at], share[at], total)
        sector_variance[at] = daily.sd[d, part] ** 2 * clock[at]
        steps = np.sqrt(sector_variance[at]) * z[4:, at]
        sector_returns[:, at] = bridge(steps, clock[at], daily.returns[d, :, part])
    jump[jump_minute(session, path.jump_at[d])] = path.jump[d]
    return Day(d, date, parts, clock, spot, returns, jump, sector_returns, sector_variance, *states)


def _ar1(z: np.ndarray, decay: float) -> np.ndarray:
    """A stationary AR(1) of unit variance from standard normals [M]; M log(1/decay) must stay below 700."""
    scale = decay ** np.arange(len(z))
    steps = np.sqrt(1 - decay**2) * z / scale
    steps[0] = z[0]
    return scale * np.cumsum(steps)


def jump_minute(session: slice, at: np.ndarray) -> np.ndarray:
    """The minute of a jump that comes when a share `at` of the session is gone."""
    return session.start + (np.asarray(at) * (session.stop - session.start)).astype(int)


def asset_paths(origin: Origin, day: Day, assets: Assets, walk: Walk) -> Paths:
    """The price paths of assets on one day; `walk` holds the same assets in the same order."""
    d, minutes = day.index, len(day.clock)
    z = np.zeros((len(assets.key), minutes))
    for i, key in enumerate(assets.key):
        if assets.own[i] > 0:
            z[i] = generator(origin.seed, f'{assets.tag} minutes', d, key).standard_normal(DAY_MINUTES)[:minutes]
    jump = assets.beta[:, None] * day.jump
    jump[np.arange(len(z)), jump_minute(day.session, walk.jump_at[d])] += walk.jump[d]
    variance = np.empty_like(z)
    for part, at in day.parts.items():
        sd = assets.own[:, None] * walk.sd[d, part] * np.sqrt(day.clock[at])
        total = walk.own[d, :, part] - (walk.jump[d] if part == SESSION else 0.0)
        z[:, at] = bridge(sd * z[:, at], day.clock[at], total)
        variance[:, at] = sd**2
    z += assets.beta[:, None] * day.market + assets.load[:, None] * day.sectors[assets.sector]
    variance += assets.beta[:, None] ** 2 * day.spot + assets.load[:, None] ** 2 * day.sector_variance
    at_four = walk.start[d] + walk.total[d, :, GAP]
    end = at_four[:, None] + np.cumsum(z + jump, 1)
    return Paths(end - z, end, variance)
