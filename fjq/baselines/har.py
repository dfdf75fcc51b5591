"""Heterogeneous autoregression of realised volatility (Corsi 2009)."""

import dataclasses

import numpy as np

from fjq.baselines.persistence import trailing_mean
from fjq.baselines.quantiles import ScaledQuantiles
from fjq.baselines.series import Baseline, Known, Series, Unavailable
from fjq.errors import InputError
from fjq.forecast import Point

CORRECTIONS = ('none', 'mean', 'variance')
LABELS = 10  # a regressor, at least


@dataclasses.dataclass(kw_only=True)
class Har(Baseline):
    """Least squares of the target on its trailing daily, weekly and monthly level.

    In logs (`log=True`) the volatility is regressed on the root mean squares, and the forecast is exp(fit + c s^2),
    s^2 the residual variance: `correction` 'none' (c = 0) gives the median, 'mean' (1/2) the mean volatility,
    'variance' (1) the root of the mean variance, which QLIKE of volatilities asks for.
    Else variance is regressed on mean variances, `quarticity` adds sqrt(RQ) RV (HARQ: Bollerslev, Patton and
    Quaedvlieg 2016), and a forecast outside the range of the fitted labels is moved to its edge, as they do.
    """

    name: str = 'har'
    column: str = 'daily_rv'
    kind: str = 'volatility'  # of the column: 'volatility', 'return' or 'price'
    windows: tuple[int, ...] = (1, 5, 22)  # steps
    log: bool = True
    correction: str = 'mean'  # 'none', 'mean' or 'variance'; in logs only
    extra: tuple[str, ...] = ()  # further positive columns whose log is a regressor, such as 'vix'; in logs only
    quarticity: str = ''  # column of realised quarticity for HARQ; '' = HAR; not in logs
    fit: str = 'train'  # 'train' or 'expanding'
    embargo: float = 0.0  # days (bars) between a label's end and the row that uses it, expanding only
    min_labels: int = 30  # rows that may use fewer have no forecast

    def forecast_series(self, series: Series) -> Point:
        if self.correction not in CORRECTIONS:
            raise InputError(
                f'the correction {self.correction!r} is not known', remedy='choose one of ' + ', '.join(CORRECTIONS)
            )
        if (self.log and self.quarticity) or (self.extra and not self.log):
            raise InputError('har takes `extra` columns in logs and `quarticity` only without', column='log')
        target = series.volatility_targets()
        x = self._regressors(series)
        at_rows, at_labels = series.at_rows(x), series.at_labels(x)
        y = np.log(target) if self.log else target**2
        out = np.full((len(series.row_time), y.shape[1]), np.nan)
        usable = np.isfinite(at_labels).all(1)[:, None]
        for h, known in enumerate(series.known(self.fit, self.embargo, usable)):
            fitted, spread = regress(at_labels, y[:, h], known, at_rows, self.min_labels)
            if self.log:
                out[:, h] = np.exp(fitted + CORRECTIONS.index(self.correction) / 2 * spread)
            else:
                low, high = (_running(f, y[:, h], known) for f in (np.minimum, np.maximum))
                out[:, h] = np.sqrt(np.clip(fitted, low, high))
        return Point(out)

    def _regressors(self, series: Series) -> np.ndarray:
        """[M, p] of every history step, a constant first."""
        step = series.step_variance(self.column, self.kind)
        means = [trailing_mean(step, w) for w in self.windows]
        if not self.log:
            more = [np.sqrt(series.column(self.quarticity)) * step] if self.quarticity else []
            return np.stack([np.ones_like(step), *means, *more], 1)
        levels = [np.log(np.where(m > 0, m, np.nan)) / 2 for m in means]
        more = [np.log(series.column(name, positive=True)) for name in self.extra]
        return np.stack([np.ones_like(step), *levels, *more], 1)


@dataclasses.dataclass(kw_only=True)
class HarQuantiles(ScaledQuantiles):
    """Quantiles in units of a volatility by HAR: the log variance over a label's span regressed on the logs of trailing
    mean variances, and moved to the edge of the fitted labels where it lies outside of their range. The regression is
    always fitted once, on the training labels."""

    name: str = 'har quantiles'
    windows: tuple[int, ...] = ()  # steps of the trailing means; () = an hour, six hours and a day, counted on training

    def scales(self, series: Series) -> tuple[np.ndarray, np.ndarray]:
        variance = np.nan_to_num(series.step_variance(self.column, self.kind))
        means = [trailing_mean(variance, w) for w in self.windows or count_windows(series)]
        x = np.stack([np.ones(len(variance)), *(np.log(np.where(m > 0, m, np.nan)) for m in means)], 1)
        at_rows, at_labels = series.at_rows(x), series.at_labels(x)
        realised = series.span_sum(variance)
        y = np.log(np.where(realised > 0, realised, np.nan))
        known = np.isfinite(at_labels).all(1)[:, None] & np.isfinite(y) & series.train[:, None]
        now, then = np.full((len(at_rows), y.shape[1]), np.nan), np.full(y.shape, np.nan)
        for h, count in enumerate(known.sum(0)):
            if count < LABELS * x.shape[1]:
                raise Unavailable(
                    f'horizon {h + 1} has {count} training labels for {x.shape[1]} regressors, not ten of each'
                )
            fitted = y[known[:, h], h]
            weights, *_ = np.linalg.lstsq(at_labels[known[:, h]], fitted, rcond=None)
            low, high = fitted.min(), fitted.max()
            now[:, h], then[:, h] = (
                np.exp(np.clip((at * weights).sum(1), low, high) / 2) for at in (at_rows, at_labels)
            )
        return now, then


def count_windows(series: Series) -> list[int]:
    """The bars of an hour, of six and of a whole session of 23 hours, or as large parts of a shorter day."""
    if series.time.dtype.kind != 'M':
        raise Unavailable('the times are no dates, so the bars of a day are not known: set `windows`')
    seen = series.time[series.time <= series.label_time[series.train].max()]
    _, counts = np.unique(seen.astype('datetime64[D]'), return_counts=True)
    return [max(round(np.median(counts) * hours / 23), 1) for hours in (1, 6, 23)]


def regress(
    x: np.ndarray, y: np.ndarray, known: Known, at_rows: np.ndarray, min_labels: int
) -> tuple[np.ndarray, np.ndarray]:
    """Least squares at every row on the labels that it may use, from running sums: linear in labels and rows.

    Args:
      x: [K, p] regressors of the labels, y: [K] their targets.
      at_rows: [N, p] regressors of the rows.
      min_labels: rows that may use fewer, or not more than p, have no fit.

    Returns:
      (fitted value at each row [N], residual variance of its fit [N]), NaN where there is no fit.
    """
    p = x.shape[1]
    counts, place = np.unique(known.count, return_inverse=True)
    at_counts = Known(known.order, counts)
    xx = at_counts.prefix_sum(x[:, :, None] * x[:, None, :])
    xy, yy = at_counts.prefix_sum(x * y[:, None]), at_counts.prefix_sum(y**2)
    fits = counts >= max(min_labels, p + 1)
    # Columns of unit length, by what each row may know: prices, variances and logs differ by orders of magnitude.
    length = np.sqrt(np.where(fits[:, None], np.einsum('kii->ki', xx), 1))
    length[length == 0] = 1
    scaled = np.where(fits[:, None, None], xx, np.eye(p)) / (length[:, :, None] * length[:, None, :])
    inverse = np.linalg.pinv(scaled, rcond=1e-12, hermitian=True)  # a column that repeats another shares its weight
    weights = np.einsum('kij,kj->ki', inverse, xy / length) / length
    rest = yy - 2 * np.einsum('ki,ki->k', weights, xy) + np.einsum('ki,kij,kj->k', weights, xx, weights)
    spread = np.maximum(rest, 0) / np.maximum(counts - p, 1)
    weights[~fits], spread[~fits] = np.nan, np.nan
    return np.einsum('np,np->n', at_rows, weights[place]), spread[place]


def _running(pick: np.ufunc, y: np.ndarray, known: Known) -> np.ndarray:
    """The least or largest of the labels that each row may use [N]."""
    extremes = np.concatenate([[np.nan], pick.accumulate(y[known.order])])
    return extremes[known.count]
