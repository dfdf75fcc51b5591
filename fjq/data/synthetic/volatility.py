"""The market factor and its variance, one row a session.

The variance of a session's diffusion is V = exp(m + slow + fast), two mean-reverting Gaussian factors: the slow one
carries what lasts for months, the fast one what is gone within days (Alizadeh, Brandt and Diebold, 2002; the mixture
behaves like the long memory that HAR fits, Corsi, 2009). Shocks to both are negatively correlated with the
market's own return, so that falls raise volatility. A realised variance shows slow + fast of its day with noise; the
forward variance depends mostly on slow, which a single day cannot tell from fast. Option prices can: they hold the
exact expectation that `expected_variance` gives, times a premium that drifts.

A day has four parts: the night gap (20:00 to 04:00, weekends included), pre-market, session, post-market.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from fjq.data.calendar import Date, parse_date, sessions
from fjq.data.synthetic.draws import generator
from fjq.data.synthetic.market import Origin

YEAR = 252  # sessions
GAP, PRE, SESSION, POST = range(4)  # the parts of a day
PART_VARIANCE = np.array([0.13, 0.08, 1.0, 0.04])  # of each part, in units of the session's
NIGHT = 1.25 - 1.0  # variance between two sessions, in the same unit
SESSION_SHARE = 0.8  # of a day's shock to the factors falls into the session, the rest into the night
DRIFT = 0.05 / YEAR  # mean log return a session
JUMP_MEAN, JUMP_SD = -0.002, 0.010  # log size of a jump of the market
PREMIUM, PREMIUM_DECAY, PREMIUM_SD = 0.13, 0.95, 0.03  # log of implied over expected volatility: mean, AR(1), sd
ACTIVITY_SD = 0.15  # daily noise of the log number of trades


class Factor(NamedTuple):
    """A Gaussian AR(1) in log variance: decay a session, stationary sd, correlation of its shock with the return."""

    decay: float
    sd: float
    leverage: float

    @property
    def shock(self) -> float:
        """The sd of a session's shock."""
        return self.sd * np.sqrt(1 - self.decay**2)


FAST = Factor(decay=0.60, sd=0.45, leverage=-0.55)


def factors(origin: Origin) -> tuple[Factor, Factor]:
    """The slow factor and the fast one."""
    return Factor(decay=0.5 ** (1 / origin.half_life), sd=0.65, leverage=-0.7), FAST


class Latent(NamedTuple):
    """The market factor of D sessions; every array is [D]."""

    dates: list[Date]
    level: float  # m
    variance: np.ndarray  # of the session's diffusion: its integrated variance
    slow: np.ndarray  # factors at the open
    fast: np.ndarray
    slow_close: np.ndarray  # and at the close
    fast_close: np.ndarray
    shock: np.ndarray  # [D, 3] standard normals of the session: return, slow and fast (both orthogonal to the return)
    returns: np.ndarray  # [D, 4] log returns of the parts of the day, the jump among the session's
    jump: np.ndarray  # log size, mostly 0
    jump_at: np.ndarray  # share of the session gone when it comes
    premium: np.ndarray  # log of implied over expected volatility
    activity: np.ndarray  # log number of trades less its mean


def _stationary_log_variance(slow: Factor, fast: Factor) -> float:
    cross = slow.leverage * fast.leverage * slow.shock * fast.shock / (1 - slow.decay * fast.decay)
    return slow.sd**2 + fast.sd**2 + 2 * cross


def jump_variance(origin: Origin) -> float:
    """Mean squared jump of a session."""
    return origin.jumps_per_year / YEAR * (JUMP_MEAN**2 + JUMP_SD**2)


def mean_variance(origin: Origin) -> float:
    """Long-run mean of V: with the nights and the jumps it gives the market its annualised volatility."""
    total = origin.vol**2 / YEAR
    return max(total - jump_variance(origin), 0.2 * total) / (1 + NIGHT)


def mean_level(origin: Origin) -> float:
    """m, the mean of log V."""
    return np.log(mean_variance(origin)) - 0.5 * _stationary_log_variance(*factors(origin))


@functools.cache
def _log_variances(slow: Factor, fast: Factor, steps: int) -> np.ndarray:
    """[steps] variance of log V in each of the next sessions, given the factors at a close."""
    step = np.arange(steps)
    total = np.zeros(steps)
    for a, b, times in ((slow, slow, 1), (fast, fast, 1), (slow, fast, 2)):
        decay, correlation = a.decay * b.decay, 1.0 if a is b else a.leverage * b.leverage
        shocks = (1 - SESSION_SHARE) * decay**step + (1 - decay**step) / (1 - decay)  # tonight's, then whole days'
        total += times * correlation * a.shock * b.shock * shocks
    return total


def expected_variance(origin: Origin, slow: np.ndarray, fast: np.ndarray, horizons: Sequence[int]) -> np.ndarray:
    """Mean variance a session, from close to close and jumps included, over the next sessions.

    Exact for factors known at a close: E exp of a Gaussian, session by session.

    Args:
      origin: gives the long-run level and the jumps.
      slow, fast: the factors, of any one shape S.
      horizons: H numbers of sessions.

    Returns:
      [H, *S].
    """
    decays = [factor.decay for factor in factors(origin)]
    offsets = mean_level(origin) + 0.5 * _log_variances(*factors(origin), max(horizons))
    total = np.zeros(np.shape(slow))
    means = {}
    for step, offset in enumerate(offsets):
        total += np.exp(offset + decays[0] ** step * slow + decays[1] ** step * fast)
        if step + 1 in horizons:
            means[step + 1] = (1 + NIGHT) * total / (step + 1) + jump_variance(origin)
    return np.stack([means[horizon] for horizon in horizons])


def implied_vol(
    origin: Origin, slow: np.ndarray, fast: np.ndarray, premium: float | np.ndarray, horizons: Sequence[int]
) -> np.ndarray:
    """[H, *S] annualised volatility that options of H horizons (sessions) are priced with."""
    return np.sqrt(YEAR * expected_variance(origin, slow, fast, horizons)) * np.exp(premium)


@functools.lru_cache(maxsize=4)
def latent(origin: Origin, count: int) -> Latent:
    """The first `count` sessions of the market factor; a longer path starts with the same rows."""
    level, seed = mean_level(origin), origin.seed
    # Row 0 holds the night before the start; row d + 1 the session d and the night after it.
    z = generator(seed, 'market').standard_normal((count + 1, 10))
    u = generator(seed, 'market jumps').random((count, 2))
    sizes = JUMP_MEAN + JUMP_SD * generator(seed, 'market jump sizes').standard_normal(count)
    state = generator(seed, 'market state').standard_normal(3)

    both = factors(origin)
    x = np.array([f.sd for f in both]) * state[:2]
    premium = PREMIUM_SD * state[2]
    opens, closes = np.empty((count, 2)), np.empty((count, 2))
    variance, returns, premia = np.empty(count), np.zeros((count, 4)), np.empty(count)
    jump = np.where(u[:, 0] < origin.jumps_per_year / YEAR, sizes, 0.0)
    night_variance = np.exp(level + x.sum())
    for d in range(count):
        if d == 0:
            returns[0, [GAP, PRE]] = np.sqrt(PART_VARIANCE[[GAP, PRE]] * night_variance) * z[0, [4, 5]]
        opens[d], premia[d] = x, PREMIUM + premium
        variance[d] = np.exp(level + x.sum())
        row = z[d + 1]
        returns[d, SESSION] = np.sqrt(variance[d]) * row[0] + DRIFT - variance[d] / 2 + jump[d]
        for i, f in enumerate(both):
            step = f.leverage * row[0] + np.sqrt(1 - f.leverage**2) * row[1 + i]
            closes[d, i] = f.decay * x[i] + f.shock * np.sqrt(SESSION_SHARE) * step
        night_variance = np.exp(level + closes[d].sum())
        night = np.sqrt(PART_VARIANCE[[GAP, PRE, POST]] * night_variance) * row[[4, 5, 3]]
        returns[d, POST] = night[2]
        if d + 1 < count:
            returns[d + 1, [GAP, PRE]] = night[:2]
        night_z = night.sum() / np.sqrt(NIGHT * night_variance)
        for i, f in enumerate(both):
            step = f.leverage * night_z + np.sqrt(1 - f.leverage**2) * row[6 + i]
            x[i] = closes[d, i] + f.shock * np.sqrt(1 - SESSION_SHARE) * step
        premium = PREMIUM_DECAY * premium + PREMIUM_SD * np.sqrt(1 - PREMIUM_DECAY**2) * row[8]

    activity = 0.35 * opens[:, 0] + 0.15 * opens[:, 1] + ACTIVITY_SD * z[1:, 9]
    dates = sessions(parse_date(origin.start, 'start'), count)
    path = Latent(dates, level, variance, *opens.T, *closes.T, z[1:, :3], returns, jump, u[:, 1], premia, activity)
    for array in path:
        if isinstance(array, np.ndarray):
            array.setflags(write=False)  # shared by every caller through the cache
    return path
