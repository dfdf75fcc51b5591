"""Is one forecast better than another, and is it calibrated? Tests and intervals, on the host, in float64.

Targets h rows long overlap, so n rows hold about n / h independent ones, and what ignores that finds skill in
noise. With 116 rows of 21-day targets and no difference at all (simulated, nominal 5 %), the classical
Diebold-Mariano test claims one in 16 %, plain percentile bootstrap intervals of 21-row blocks miss zero in 29 %.
The defaults here are the variants that kept 2 to 7 % there; `tests/test_compare.py` repeats their simulation.
Nor are rows of one moment independent, as assets move together: whatever has several counts moments, not rows.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy import special, stats

from fjq import metrics
from fjq.errors import InputError
from fjq.forecast import Law, Quantiles, Samples

_AT_ONCE = 1_000_000  # blocks that a bootstrap draws at a time


class Test(NamedTuple):
    """A test statistic and its p-value; arrays where several columns are tested at once."""

    __test__ = False  # not a test case for pytest

    statistic: float | np.ndarray
    p: float | np.ndarray


class Interval(NamedTuple):
    """The two ends of an interval; arrays where the statistic has several entries."""

    low: float | np.ndarray
    high: float | np.ndarray


def _same(x):
    return x


class Bounded(NamedTuple):
    """A statistic that can not be beyond some value, for `block_bootstrap`: `scale` maps it to where there are no ends,
    increasing, and `back` undoes that. So its interval stays where the statistic can be."""

    statistic: Callable[[np.ndarray], np.ndarray]
    scale: Callable[[np.ndarray], np.ndarray]
    back: Callable[[np.ndarray], np.ndarray]

    def __call__(self, means: np.ndarray) -> np.ndarray:
        return self.statistic(means)


def diebold_mariano(loss_a, loss_b, *, horizon: int, variance: str = 'cosine') -> Test:
    """Is the mean of loss_a - loss_b zero? Positive statistic: b is better (Diebold and Mariano 1995).

    Args:
      loss_a, loss_b: [N] losses of the same rows in time order, every row in its place.
      horizon: rows that a target spans, hence overlap + 1.
      variance: 'cosine' is the equal-weighted cosine estimator with N / (2 horizon) terms and their Student-t law
        (Lazarus, Lewis, Stock and Watson 2018), whose size is right for overlapping targets; 'newey-west' is the
        classical form, Bartlett weights up to lag horizon - 1 or 4 (N / 100)^(2/9), whichever is more, with the
        correction of Harvey, Leybourne and Newbold (1997): it rejects a true null up to three times too often.

    Returns:
      Test with a two-sided p. Equal losses give (0, 1); fewer than 2 horizons of rows (NaN, NaN).

    Raises:
      InputError: different shapes, a loss that is not finite, a bad horizon or choice.
    """
    d = _finite(np.subtract(*_same_shape(loss_a, loss_b)))
    n = len(d)
    if horizon < 1:
        raise InputError(f'a horizon of {horizon} rows', remedy='it starts at 1')
    if variance not in ('cosine', 'newey-west'):
        raise InputError(f'the variance {variance!r} is not known', remedy="choose 'cosine' or 'newey-west'")
    if n < 2 * horizon or n < 4:
        return Test(np.nan, np.nan)
    if not np.ptp(d):
        return Test(0.0, 1.0) if d[0] == 0 else Test(float(np.copysign(np.inf, d[0])), 0.0)
    if variance == 'cosine':
        terms = max(1, int(min(0.4 * n ** (2 / 3), n / (2 * horizon))))
        waves = np.cos(np.pi * np.arange(1, terms + 1)[:, None] * (np.arange(n) + 0.5) / n)
        long_run = np.mean((waves @ d) ** 2) * 2 / n
        statistic, freedom = d.mean() / np.sqrt(long_run / n), terms
    else:
        lag = max(horizon - 1, int(4 * (n / 100) ** (2 / 9)))
        shrink = np.sqrt((n + 1 - 2 * horizon + horizon * (horizon - 1) / n) / n)
        statistic, freedom = shrink * d.mean() / np.sqrt(newey_west(d, lag) / n), n - 1
    return Test(float(statistic), float(2 * stats.t.sf(abs(statistic), freedom)))


def newey_west(values, lag: int) -> float:
    """The long-run variance with Bartlett weights up to `lag` (Newey and West 1987)."""
    x = values - np.mean(values)
    products = [x[k:] @ x[: len(x) - k] / len(x) for k in range(min(lag, len(x) - 1) + 1)]
    return float(products[0] + 2 * sum((1 - k / (lag + 1)) * g for k, g in enumerate(products) if k))


def block_bootstrap(
    values,
    *,
    block: int,
    draws: int,
    seed: int,
    statistic: Callable[[np.ndarray], np.ndarray] | None = None,
    level: float = 0.95,
    time=None,
) -> Interval:
    """An interval for the mean of a dependent series, or for a function of the means of several.

    Circular blocks (Politis and Romano 1992). With few blocks the plain percentile interval is far too short, so
    its distances from the estimate are stretched as a t interval of N / block observations would be; twice the
    rows that a target spans is a good `block`.

    Args:
      values: [N], or [N, K] whose columns are resampled together, in time order.
      block: rows in a block; with `time`, moments.
      draws: resamples.
      seed: of the resampling.
      statistic: means [..., K] (or [...] for values [N]) -> [...], `Bounded` where it has ends; None = the means.
      level: of the interval.
      time: [N] in any order; rows of one moment, such as those of assets that move together, are resampled together.

    Returns:
      Interval; from -inf to inf where there are not even two blocks, or the statistic is at an end of its scale or
      not defined for some resamples: then nothing says how far off it may be.

    Raises:
      InputError: a value that is not finite, or a block or number of draws below 1.
    """
    values = _finite(np.asarray(values, np.float64))
    n = len(values)
    if block < 1 or draws < 1 or not 0 < level < 1:
        raise InputError(f'a block of {block} rows, {draws} draws, level {level}', remedy='give 1 or more of each')
    if not isinstance(statistic, Bounded):
        statistic = Bounded(statistic or _same, _same, _same)
    judge = statistic
    if time is not None:
        columns = values.shape[1:]
        judge = lambda means: statistic((means[..., :-1] / means[..., -1:]).reshape(means.shape[:-1] + columns))
        sums, count = sum_moments(values.reshape(n, -1), time)
        values, n = np.concatenate([sums, count[:, None]], 1), len(count)
    estimate = judge(values.mean(0))
    unknown = np.full(np.shape(estimate), np.inf)[()]
    blocks = n / block
    if blocks < 2:
        return Interval(-unknown, unknown)
    rng = np.random.Generator(np.random.Philox(seed))
    running = np.concatenate([np.zeros_like(values[:1]), np.cumsum(np.concatenate([values, values]), axis=0)])
    lengths = np.full(-(-n // block), block)
    lengths[-1] = n - block * (len(lengths) - 1)  # the last block is cut so that every resample has N rows
    means = []
    for part in np.array_split(np.arange(draws), -(-draws * len(lengths) // _AT_ONCE)):
        starts = rng.integers(0, n, (len(part), len(lengths)))
        means.append((running[starts + lengths] - running[starts]).sum(1) / n)
    means = np.concatenate(means)
    tails = (1 - level) / 2, (1 + level) / 2
    stretch = stats.t.ppf(tails[1], blocks - 1) / stats.norm.ppf(tails[1]) * np.sqrt(blocks / (blocks - 1))
    with np.errstate(divide='ignore', invalid='ignore', over='ignore'):  # at an end of the scale, and close to it
        middle, *ends = (statistic.scale(x) for x in (estimate, *np.quantile(judge(means), tails, axis=0)))
        low, high = (statistic.back(middle + stretch * (end - middle)) for end in ends)
    known = np.isfinite(low) & np.isfinite(high)
    return Interval(np.where(known, low, -unknown)[()], np.where(known, high, unknown)[()])


def share_interval(hits, *, block: int, draws: int, seed: int, level: float = 0.95, time=None) -> Interval:
    """An interval for the share of dependent hits, within [0, 1] (Korn and Graubard 1998).

    It is that of Clopper and Pearson (1934), exact for independent hits, for as many of them as have the spread that
    the block bootstrap finds, between one a block and all. Hits that are alike show it none, and are one a block.

    Args:
      hits: [N] bool, or between 0 and 1 where a hit is shared; the rest is that of `block_bootstrap`.

    Returns:
      Interval; from -inf to inf where there are not even two blocks.
    """
    hits = np.asarray(hits, np.float64)
    low, high = block_bootstrap(hits, block=block, draws=draws, seed=seed, level=level, time=time)
    if not np.isfinite(high - low):
        return Interval(low, high)
    share, tail = hits.mean(), (1 - level) / 2
    alone = share * (1 - share)  # the variance of one hit
    spread = max(((high - low) / (2 * stats.norm.isf(tail))) ** 2, alone / len(hits))
    moments = len(hits) if time is None else len(np.unique(time))
    count = max(alone / spread if spread else 0.0, moments / block)
    hit, missed = count * share, count * (1 - share)
    return Interval(
        float(stats.beta.ppf(tail, hit, missed + 1)) if hit else 0.0,
        float(stats.beta.isf(tail, hit + 1, missed)) if missed else 1.0,
    )


def sum_moments(values, time) -> tuple[np.ndarray, np.ndarray]:
    """The sum of the rows [N, ...] of each moment [M, ...], in order of time, and how many they are [M]."""
    moments, place, count = np.unique(time, return_inverse=True, return_counts=True)
    sums = np.zeros((len(moments), *np.shape(values)[1:]))
    np.add.at(sums, place, values)
    return sums, count


def mean_by_moments(values, time) -> np.ndarray:
    """A series [M, ...] of moments whose mean is that of the rows [N, ...], each of which counts alike: where moments
    have as many rows each, their means; else the mean of all and what a moment adds to it, by the delta method of a
    ratio. The plain means of moments have another mean: that of a market open at weekends would count for ten there."""
    sums, count = sum_moments(values, time)
    count = count.reshape(-1, *[1] * (sums.ndim - 1))
    mean = sums.sum(0) / count.sum()
    return mean + (sums - mean * count) / count.mean()


def _relative_skill(means: np.ndarray) -> np.ndarray:
    with np.errstate(divide='ignore', invalid='ignore'):  # a reference without any loss
        return 1 - means[..., 0] / means[..., 1]


# 1 - mean loss of the model / mean loss of the reference, from means [..., 2]
relative_skill = Bounded(_relative_skill, lambda skill: -np.log1p(-skill), lambda x: -np.expm1(-x))
# Pearson's, from the means of `metrics.comoments` [..., 6], by Fisher's z
correlation = Bounded(lambda means: metrics.correlation(np.moveaxis(means, -1, 0)), np.arctanh, np.tanh)
# the mean of what is positive, such as bits
positive_mean = Bounded(_same, np.log, np.exp)


def effective_size(n: int, overlap: float) -> float:
    """Independent observations in n rows whose targets each span `overlap` rows of noise.

    n divided by the variance inflation of the mean of sums over a sliding window, which tends to n / overlap.
    """
    lags = np.arange(1, min(n, int(np.ceil(overlap))))
    inflation = 1 + 2 * np.sum((1 - lags / max(n, 1)) * (1 - lags / overlap))
    return float(n / inflation)


def count_overlap(rows: dict[str, np.ndarray]) -> list[int]:
    """Rows that a typical target spans, one a horizon: how many are dated after its row and up to its label's end.

    rows: `time` [N] in order, `label_end` [N, H] and `valid` [N, H]; rows of all series count.

    Raises:
      InputError: the rows have no label_end.
    """
    return _count_dates(rows, rows['time'])


def count_span(rows: dict[str, np.ndarray]) -> list[int]:
    """Moments that a typical target spans, one a horizon: `count_overlap` where all rows of a moment count as one."""
    return _count_dates(rows, np.unique(rows['time']))


def _count_dates(rows: dict[str, np.ndarray], dates: np.ndarray) -> list[int]:
    if 'label_end' not in rows:
        raise InputError('the rows have no label_end to count overlaps by', remedy='set evaluate.overlap and block')
    time, valid = rows['time'], rows['valid']
    end = np.where(valid, rows['label_end'].astype(time.dtype), time[:, None])
    count = np.searchsorted(dates, end, side='right') - np.searchsorted(dates, time, side='right')[:, None]
    whole = valid & (end <= dates[-1])  # what ends after the last row spans more of them than there are to count
    found = [
        np.median(count[whole[:, h], h]) if whole[:, h].any() else len(dates) * valid[:, h].any()
        for h in range(valid.shape[1])
    ]
    return [max(int(n), 1) for n in found]


def non_overlapping(time, label_end, mask) -> np.ndarray:
    """The rows, of one series in order of time, whose targets do not overlap: the first that takes part, then each time
    the next one dated at or after the end of the last label. All arrays [N]; returns places."""
    kept = np.flatnonzero(mask)
    following = np.searchsorted(time[kept], label_end[kept].astype(time.dtype), side='left')
    out, place = [], 0
    while place < len(kept):
        out.append(place)
        place = max(int(following[place]), place + 1)
    return kept[np.array(out, int)]


def pit(law: Law, target, mask=None, seed: int | None = None) -> np.ndarray:
    """The probability integral transform F(y) of the entries that take part, flat: uniform when calibrated.

    seed: spreads every jump of a discrete law uniformly over its height (Smith 1985), the mass that `Quantiles`
      hold on their outer values over the levels beyond them, and the rank among the n draws of `Samples`, which takes
      n + 1 values, over 1 / (n + 1); None = no spreading.
    """
    target = np.asarray(target)
    keep = np.broadcast_to(np.asarray(True if mask is None else mask, bool), target.shape)
    y = np.where(keep, target, 1.0).astype(np.float32)
    upper = np.asarray(law.cdf(y), np.float64)[keep]
    if seed is None:
        return upper
    just_below = y - np.maximum(np.abs(y) * 2.0**-22, 1e-30).astype(np.float32)
    lower = np.asarray(law.cdf(just_below), np.float64)[keep]
    if isinstance(law, Quantiles):
        lower = np.where(upper >= 1, np.minimum(lower, law.levels[-1]), lower)
        upper = np.where(upper <= 0, law.levels[0], upper)
    if isinstance(law, Samples):
        n = law.values.shape[-1]
        lower, upper = lower * n / (n + 1), (upper * n + 1) / (n + 1)
    return lower + np.random.Generator(np.random.Philox(seed)).uniform(size=upper.shape) * (upper - lower)


def kupiec(hits, level: float) -> Test:
    """Is the rate of `hits` equal to `level`? Likelihood ratio, chi-squared with 1 degree of freedom (Kupiec 1995).

    hits: bool [N] or [N, K], columns tested apart. Rows must be independent: thin overlapping targets first.
    """
    hits = np.asarray(hits, bool)
    statistic = 2 * (_log_likelihood(hits.sum(0), len(hits)) - _log_likelihood(hits.sum(0), len(hits), level))
    return _chi2(statistic, 1)


def christoffersen(hits, level: float) -> Test:
    """Are `hits` independent with rate `level`? Chi-squared with 2 degrees of freedom (Christoffersen 1998).

    hits: bool [N] or [N, K], columns tested apart, in time order. The test of the rate of `kupiec` plus that of
    independence against a first-order Markov chain. Thin overlapping targets first, they are never independent.
    """
    hits = np.asarray(hits, bool)
    before, after = hits[:-1], hits[1:]
    free = 0.0
    for state in (False, True):
        free = free + _log_likelihood((after & (before == state)).sum(0), (before == state).sum(0))
    chain = 2 * (free - _log_likelihood(after.sum(0), len(after)))
    return _chi2(kupiec(hits, level).statistic + chain, 2)


def _log_likelihood(count, n, rate=None):
    """Of `count` successes in n trials; rate None = the observed one."""
    if rate is None:
        rate = count / np.maximum(n, 1)
    return special.xlogy(count, rate) + special.xlogy(n - count, 1 - rate)


def _chi2(statistic, freedom: int) -> Test:
    statistic = np.maximum(statistic, 0)[()]
    return Test(statistic, stats.chi2.sf(statistic, freedom)[()])


def _same_shape(a, b) -> tuple[np.ndarray, np.ndarray]:
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.shape != b.shape or a.ndim != 1:
        raise InputError(f'losses of shapes {a.shape} and {b.shape}', remedy='give one loss a row for the same rows')
    return a, b


def _finite(values: np.ndarray) -> np.ndarray:
    bad = ~np.isfinite(values)
    if bad.any():
        raise InputError(
            'a loss is not finite', row=int(np.argwhere(bad)[0][0]), remedy='leave out rows without a score'
        )
    return values
