"""Volatility that depends on the time of day."""

import dataclasses

import numpy as np
from scipy.signal import lfilter

from fjq.baselines.quantiles import ScaledQuantiles
from fjq.baselines.series import Series
from fjq.data.ewma import ewma


@dataclasses.dataclass(kw_only=True)
class SeasonalQuantiles(ScaledQuantiles):
    """Quantiles in units of a volatility by time of day (Andersen and Bollerslev 1997).

    The squared return of each bar is divided by the average of its place in the day so far; an EWMA of these is the
    level of volatility. The scale of a label is the level times the average ratio of the variance over a label's span
    to the level where the span starts at this place in the day. Averages are weighted exponentially over past days.
    """

    name: str = 'seasonal quantiles'
    place: str = 'bar_in_day'  # column that numbers the bars of a day
    decay: float = 0.97  # weight of the past in the level, a bar
    days: float = 40.0  # half-life of the averages by place, in days
    least_days: int = 5  # that a place has been seen on before it counts

    def scales(self, series: Series) -> tuple[np.ndarray, np.ndarray]:
        variance, place = series.step_variance(self.column, self.kind), series.column(self.place)
        typical = self.average(variance, place, 1)
        level = fill_forward(ewma(variance / np.where(typical > 0, typical, np.nan), self.decay))
        now, then = [], []
        for steps in np.maximum(np.round(series.steps(())), 1).astype(int):
            ratio = self.average(variance_ahead(variance, steps) / np.where(level > 0, level, np.nan), place, steps)
            scale = fill_forward(np.sqrt(level * ratio))
            now.append(series.at_rows(scale))
            then.append(series.at_labels(scale))
        return np.stack(now, 1), np.stack(then, 1)

    def average(self, values: np.ndarray, place: np.ndarray, delay: int) -> np.ndarray:
        """At each step [M] the average of values [M] at the same place in the day that are at least `delay` steps old:
        a value that is only known that many steps after its own is not used before."""
        out, decay = np.full(len(values), np.nan), 0.5 ** (1 / self.days)
        order = np.argsort(place, kind='stable')
        starts = np.flatnonzero(np.diff(place[order], prepend=np.nan) != 0)
        for steps in np.split(order, starts[1:]):
            used = steps[np.isfinite(values[steps])]
            if len(used) < self.least_days:
                continue
            weighted = lfilter([1 - decay], [1, -decay], values[used])
            mean = weighted / -np.expm1(np.arange(1, len(used) + 1) * np.log(decay))
            known = np.searchsorted(used + delay, steps, side='right')
            out[steps] = np.where(known >= self.least_days, mean[np.maximum(known - 1, 0)], np.nan)
        return out


def variance_ahead(variance: np.ndarray, steps: int) -> np.ndarray:
    """The sum of the variances of the `steps` steps after each [M]; an absent one counts as none, and NaN where the
    history ends before."""
    out = np.full(len(variance), np.nan)
    if len(variance) > steps:
        windows = np.lib.stride_tricks.sliding_window_view(np.nan_to_num(variance[1:]), steps)
        out[: len(windows)] = windows.sum(-1)
    return out


def fill_forward(values: np.ndarray) -> np.ndarray:
    """Each entry or, where it is NaN, the last one before it that is not."""
    place = np.maximum.accumulate(np.where(np.isfinite(values), np.arange(len(values)), 0))
    return values[place]
