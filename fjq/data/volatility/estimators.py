"""Realised measures of a day's variance from log prices, as pure functions over the last axis.

Two kinds of input: `grid` prices, sampled at equal times (`sample_prices`), and `tick` prices, one a trade. Every
measure is of the whole span from the first price to the last, in squared log return, not annualised. `step` = K
means returns over K grid points, averaged over the K sub-grids that they can start on (subsampling). With K = 1 it is
the plain measure.
"""

import numpy as np

from fjq.errors import InputError


def sample_prices(time: np.ndarray, price: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """The last price at or before each grid time (previous tick); before the first tick, the first price.

    Args:
      time: [N] ascending, of the ticks; of equal times the last tick counts.
      price: [N].
      grid: [M] times in the same unit.
    """
    return price[np.maximum(np.searchsorted(time, grid, side='right') - 1, 0)]


def realized_variance(grid: np.ndarray, step: int = 1) -> np.ndarray:
    """Sum of squared returns over `step` points, averaged over sub-grids (Andersen, Bollerslev, Diebold, Labys, 2003).

    Each sub-grid also holds the two shorter returns at the ends of the day, so all of them cover the whole day: without
    noise the measure is unbiased whatever the volatility does within the day.
    """
    _check(grid, step)
    squares = (grid[..., step:] - grid[..., :-step]) ** 2
    head = (grid[..., 1:step] - grid[..., :1]) ** 2  # over all sub-grids, each shorter length comes once at each end
    tail = (grid[..., -1:] - grid[..., -step:-1]) ** 2
    return (squares.sum(-1) + head.sum(-1) + tail.sum(-1)) / step


def bipower_variation(grid: np.ndarray, step: int = 1) -> np.ndarray:
    """pi/2 times the sum of products of neighbouring absolute returns: variance without jumps.

    Averaged over sub-grids and scaled to the whole day, n/(n-1) included (Barndorff-Nielsen & Shephard, 2006).
    """
    _check(grid, 2 * step)
    size = np.abs(grid[..., step:] - grid[..., :-step])
    intervals = (grid.shape[-1] - 1) / step
    return np.pi / 2 * intervals * (size[..., step:] * size[..., :-step]).mean(-1)


def realized_quarticity(grid: np.ndarray, step: int = 1) -> np.ndarray:
    """n/3 times the sum of fourth powers: the integral of volatility^4 times the length of the day.

    Averaged over sub-grids and scaled to the whole day (Barndorff-Nielsen & Shephard, 2002).
    """
    _check(grid, step)
    intervals = (grid.shape[-1] - 1) / step
    return intervals**2 / 3 * ((grid[..., step:] - grid[..., :-step]) ** 4).mean(-1)


def noise_variance(ticks: np.ndarray) -> np.ndarray:
    """Variance of the noise in one price: half the mean squared tick return (Zhang, Mykland & Ait-Sahalia, 2005)."""
    _check(ticks, 1)
    return (np.diff(ticks) ** 2).mean(-1) / 2


def slow_scale(ticks: np.ndarray, quarticity: float) -> int:
    """The K = c n^(2/3) that makes the two-scale measure's asymptotic variance least (same paper, section 4).

    c = (12 noise^2 / quarticity)^(1/3), where `quarticity` comes from sparse returns; at least 2, at most n/4.
    """
    n = ticks.shape[-1] - 1
    c = np.cbrt(12 * noise_variance(ticks) ** 2 / quarticity) if quarticity > 0 else np.inf
    return int(min(max(np.ceil(min(c, n) * n ** (2 / 3)), 2), max(n // 4, 2)))


def two_scale_variance(ticks: np.ndarray, slow: int) -> np.ndarray:
    """Sub-sampled variance over `slow` ticks less the noise that the tick-by-tick variance shows.

    Zhang, Mykland & Ait-Sahalia (2005) with the area adjustment of Ait-Sahalia, Mykland & Zhang (2011), which makes it
    unbiased at any n under constant volatility and independent noise. Noise can make it negative.
    """
    _check(ticks, slow)
    if slow < 2:
        raise InputError(f'a slow scale of {slow} ticks', remedy='it starts at 2')
    n = ticks.shape[-1] - 1
    sparse = ((ticks[..., slow:] - ticks[..., :-slow]) ** 2).sum(-1) / slow
    share = (n - slow + 1) / slow / n  # of the fast returns that a sub-grid has
    fast = (np.diff(ticks) ** 2).sum(-1)
    return (sparse - share * fast) / (share * (slow - 1))


def _check(prices: np.ndarray, step: int) -> None:
    if step < 1 or prices.shape[-1] <= step:
        raise InputError(
            f'{prices.shape[-1]} prices and returns over {step} of them', remedy='give more prices or a smaller step'
        )
