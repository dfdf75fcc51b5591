"""Metrics as pairs (sum, weight), divided once at the very end.

Every function takes the targets, a prediction or a law of `fjq.forecast`, and a mask that is True where the
entry takes part (None: everywhere), and sums over `axis`: None sums all entries, 0 keeps horizons apart, and ()
sums nothing, which gives the entries that bootstraps and tests of differences need. A masked entry may hold
anything, NaN included. NumPy in gives NumPy out, in double precision; a JAX array anywhere gives JAX.

A law is scored by the functional that the loss asks for (Gneiting 2011): its median by `mae` and `huber`,
its mean by the rest.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from fjq.errors import InputError
from fjq.forecast import Law

Pair = tuple[jax.Array | np.ndarray, jax.Array | np.ndarray]


def _module(*arrays):
    """jax.numpy where any input is a JAX array or a law of them, else numpy."""
    return jnp if any(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(arrays)) else np


def _like(law: Law, answer):
    """The answer of a law of NumPy arrays as NumPy."""
    return answer if _module(law) is jnp else np.asarray(answer, np.float64)


def _mean(prediction):
    return _like(prediction, prediction.mean()) if isinstance(prediction, Law) else prediction


def _median(prediction):
    return _like(prediction, prediction.quantile(0.5)) if isinstance(prediction, Law) else prediction


def _start(target, prediction, mask):
    """(module, target, prediction, mask) with harmless numbers where the mask is False, so that gradients live."""
    if np.shape(target) != np.shape(prediction):
        raise InputError(f'targets of shape {np.shape(target)} against predictions of shape {np.shape(prediction)}')
    xp = _module(target, prediction, mask)
    mask = (
        xp.ones(np.shape(target), bool) if mask is None else xp.broadcast_to(xp.asarray(mask, bool), np.shape(target))
    )
    return xp, xp.where(mask, target, 1.0), xp.where(mask, prediction, 1.0), mask


def total(entries, mask=None, axis=None) -> Pair:
    """(sum of the entries that take part, their number)."""
    xp = _module(entries, mask)
    mask = xp.broadcast_to(xp.asarray(True if mask is None else mask, bool), np.shape(entries))
    return xp.where(mask, entries, 0).sum(axis), mask.astype(xp.result_type(entries, xp.float32)).sum(axis)


def mae(target, prediction, mask=None, axis=None) -> Pair:
    """|y - f|."""
    xp, y, f, mask = _start(target, _median(prediction), mask)
    return total(xp.abs(y - f), mask, axis)


def mse(target, prediction, mask=None, axis=None) -> Pair:
    """(y - f)^2."""
    _, y, f, mask = _start(target, _mean(prediction), mask)
    return total((y - f) ** 2, mask, axis)


def huber(target, prediction, mask=None, axis=None, *, delta: float) -> Pair:
    """e^2 / 2 up to |e| = delta, then delta (|e| - delta / 2)."""
    xp, y, f, mask = _start(target, _median(prediction), mask)
    error = xp.abs(y - f)
    inner = xp.minimum(error, delta)
    return total(inner * (error - inner / 2), mask, axis)


def qlike(target, prediction, mask=None, axis=None, *, power: int, floor: float) -> Pair:
    """x - ln x - 1 with x = (y / f)^power (Patton 2011): power 2 for volatilities, 1 for variances.

    Predictions below `floor` count as `floor`. Targets must be positive: a target of 0 gives infinity.
    """
    xp, y, f, mask = _start(target, _mean(prediction), mask)
    log_x = power * (xp.log(y) - xp.log(xp.maximum(f, floor)))
    return total(xp.expm1(log_x) - log_x, mask, axis)


def squared_ratio(target, prediction, reference, mask=None, axis=None) -> Pair:
    """(sum (y - f)^2, sum (y - reference)^2): R^2 against the reference is 1 - sum / weight.

    With the training mean, or the mean known at each row, as reference this is the out-of-sample R^2.
    """
    return mse(target, prediction, mask, axis)[0], mse(target, reference, mask, axis)[0]


def pinball(target, quantile, mask=None, axis=None, *, level: float) -> Pair:
    """max(level (y - q), (level - 1) (y - q)) of the forecast quantile at `level`."""
    xp, y, q, mask = _start(target, quantile, mask)
    return total(xp.maximum(level * (y - q), (level - 1) * (y - q)), mask, axis)


def wis(target, law: Law, mask=None, axis=None, *, levels: Sequence[float]) -> Pair:
    """Weighted interval score of the median and the central intervals of `levels` (Bracher et al. 2021): by their
    equation 3, twice the pinball loss averaged over the median and all ends."""
    asked = np.array([0.5, *((1 + side * level) / 2 for level in levels for side in (-1, 1))])
    quantiles = _like(law, law.quantile(asked))
    losses = [pinball(target, quantiles[..., i], mask, axis, level=p) for i, p in enumerate(asked)]
    return 2 * sum(loss for loss, _ in losses) / len(losses), losses[0][1]


def crps(target, law: Law, mask=None, axis=None) -> Pair:
    """The law's own continuous ranked probability score."""
    xp = _module(target, law, mask)
    y = xp.where(True if mask is None else mask, target, 1.0)
    return total(_like(law, law.crps(y)) if xp is np else law.crps(y), mask, axis)


def coverage(target, law: Law, mask=None, axis=None, *, level: float) -> Pair:
    """The share of targets inside the central interval, ends included."""
    lo, hi = (_like(law, end) for end in law.interval(level))
    xp, y, lo, mask = _start(target, lo, mask)
    return total(xp.where((y >= lo) & (y <= xp.where(mask, hi, 1.0)), 1.0, 0.0), mask, axis)


def width(target, law: Law, mask=None, axis=None, *, level: float) -> Pair:
    """The width of the central interval."""
    lo, hi = (_like(law, end) for end in law.interval(level))
    _, _, gap, mask = _start(target, hi - lo, mask)
    return total(gap, mask, axis)


def comoments(target, prediction, mask=None, axis=None, *, centre: tuple[float, float] = (0.0, 0.0)):
    """(n, sum x, sum y, sum xx, sum yy, sum xy) of target x and prediction y around `centre`; they add up over batches.

    A centre near the means keeps float32 sums exact enough for `correlation`.
    """
    _, x, y, mask = _start(target, _mean(prediction), mask)
    x, y = x - centre[0], y - centre[1]
    sums = [total(entry, mask, axis)[0] for entry in (x, y, x * x, y * y, x * y)]
    return total(x, mask, axis)[1], *sums


def correlation(moments):
    """Pearson correlation from `comoments`, NaN where either side does not vary."""
    n, x, y, xx, yy, xy = moments
    xp = _module(moments)
    covariance, spread = xy - x * y / n, (xx - x * x / n) * (yy - y * y / n)
    ratio = covariance / xp.sqrt(xp.where(spread > 0, spread, 1.0))
    return xp.where(spread > 0, xp.clip(ratio, -1, 1), xp.nan)  # sums are rounded


def spearman(target, prediction, mask=None) -> float:
    """Rank correlation over the entries that take part, on the host (ties share their mean rank)."""
    from scipy import stats

    target, prediction = np.asarray(target), np.asarray(_mean(prediction))
    kept = np.ones(target.shape, bool) if mask is None else np.broadcast_to(np.asarray(mask), target.shape)
    x, y = (stats.rankdata(a[kept]) for a in (target, prediction))
    return float(correlation(comoments(x, y, centre=(x.mean(), y.mean()))) if x.size else np.nan)
