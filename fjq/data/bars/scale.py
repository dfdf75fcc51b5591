"""The volatility of the return over each horizon, as far as it can be told from past bars and the time of day.

    ln variance of the next h bars = offset[place in the day, h] + sum_k weight[k, h] x_k

x_k are logs of exponentially weighted variances of past bars over several half-lives: a heterogeneous autoregression
(Corsi 2009) in logs, on ranges (Parkinson 1980), which tell five times as much of the variance as squared returns do.
The offset holds sqrt(h), the shape of the day and the breaks that the next h bars span (Andersen and Bollerslev 1997).

The variances x_k are causal and nothing in them is fitted: they travel with the batch. Offset and weights are fitted
on training rows and travel with the model's weights, so that a live table is forecast by what training found; of
fewer bars than the longest half-life asks for, its average is that of what there is.

Targets are returns from close to close, over nights and weekends too, so the variance ahead counts these breaks; x_k
do not, because a night that is past says little of the next bars, and the offset knows at which times one lies ahead.

Letters: N = bars or rows, H = horizons, K = variances, S = places in a day.
"""

from typing import NamedTuple

import numpy as np

from fjq.data.bars.features import bar_returns, ewma_volatility, opens_session
from fjq.data.bars.series import Bars
from fjq.data.ewma import ewma

HALF_LIVES = (3, 12, 48, 192, 768)  # bars
COUNT = 1 + len(HALF_LIVES)  # K: the EWMA of squared returns comes first
LEAST_SCALE = 1e-6  # a hundredth of a basis point: what a market without any move is taken to have
LEAST_SHARE = 0.01  # of the longest average, or of the mean: what a still spell counts as, so that logs stay small
SMOOTHING = 1.0  # weight of (offset of a place - that of the next)^2, in rows that do not overlap
RIDGE = 10.0  # weight of the squared weights, in the same rows


class BarScale(NamedTuple):
    """offset: float64 [S, H]. weight: float64 [K, H]."""

    offset: np.ndarray
    weight: np.ndarray

    def volatility(self, place: np.ndarray, log_variance: np.ndarray) -> np.ndarray:
        """Places in the day [N] and logs of variances [N, K] -> volatility of the return over each horizon [N, H]."""
        return np.exp((self.offset[place] + log_variance @ self.weight) / 2)


def scale_by_root(horizons: tuple[int, ...], places: int) -> BarScale:
    """The EWMA volatility times sqrt(h), whatever the time of day."""
    weight = np.zeros((COUNT, len(horizons)))
    weight[0] = 1
    return BarScale(np.tile(np.log(horizons), (places, 1)), weight)


def log_variances(bars: Bars, decay: float) -> np.ndarray:
    """ln of the EWMA of squared returns with `decay`, then of the average variance of bars over each half-life
    [N, K]; none takes a night or another break for a move of a bar."""
    within = bar_variance(bars, breaks=False)
    means = np.stack([ewma(within, 0.5 ** (1 / h)) for h in HALF_LIVES], axis=1)
    means = np.maximum(means, np.maximum(LEAST_SHARE * means[:, -1:], LEAST_SCALE**2))
    first = np.maximum(ewma_volatility(bar_returns(bars), decay), LEAST_SCALE) ** 2
    return np.log(np.concatenate([first[:, None], means], axis=1))


def bar_variance(bars: Bars, *, breaks: bool) -> np.ndarray:
    """The variance of each bar [N]: that of its range, and the squared move from the close before to its open, which
    counts for bars after a break of the session only with `breaks`."""
    moves = np.log(bars.open[1:] / bars.close[:-1]) ** 2
    gap = np.concatenate([[0.0], moves])
    if not breaks:
        gap = np.where(opens_session(bars), 0, gap)
    return np.log(bars.high / bars.low) ** 2 / (4 * np.log(2)) + gap


def fit_scale(
    place: np.ndarray, log_variance: np.ndarray, ahead: np.ndarray, horizons: tuple[int, ...], places: int
) -> BarScale:
    """Least squares of the log variance ahead. A label spans h bars, so h rows that overlap count as one against the
    penalties: neighbouring places of the day have like offsets, and weights are small.

    Args:
      place: of each training row in the day [N]. log_variance: [N, K].
      ahead: the variance over each horizon [N, H], NaN where the row has no label; each horizon has one.
      places: S. A place that no row has takes what lies between its neighbours.
    """
    ridge, circle = RIDGE * np.eye(log_variance.shape[1] - 1), _differences(places)
    offset, weight = np.empty((places, len(horizons))), np.zeros((log_variance.shape[1], len(horizons)))
    for h, bars in enumerate(horizons):
        known = np.isfinite(ahead[:, h])
        there, x = place[known], log_variance[known, 1:]
        variance = ahead[known, h]
        y = np.log(np.maximum(variance, max(LEAST_SHARE * variance.mean(), LEAST_SCALE**2)))
        x_mean, y_mean = x.mean(0), y.mean()
        x, y = x - x_mean, y - y_mean
        sums = lambda values, at=there: np.bincount(at, values, minlength=places)
        cross = np.stack([sums(column) for column in x.T], axis=1)
        left = np.block([[np.diag(sums(None)) + bars * SMOOTHING * circle, cross], [cross.T, x.T @ x + bars * ridge]])
        found = np.linalg.solve(left, np.concatenate([sums(y), x.T @ y]))
        offset[:, h] = y_mean + found[:places] - x_mean @ found[places:]
        weight[1:, h] = found[places:]
    return BarScale(offset, weight)


def _differences(places: int) -> np.ndarray:
    """The matrix of the sum of squared differences of neighbours on a circle [S, S]."""
    step = np.eye(places) - np.roll(np.eye(places), 1, axis=1)
    return step.T @ step
