"""Exponentially weighted variance."""

import dataclasses

import numpy as np
from scipy.signal import lfilter

from fjq.baselines.series import Baseline, Series
from fjq.errors import InputError
from fjq.forecast import Point


@dataclasses.dataclass(kw_only=True)
class Ewma(Baseline):
    """Volatility from variance_t = decay variance_{t-1} + (1 - decay) step_t^2 (RiskMetrics 1996), flat ahead."""

    name: str = 'ewma'
    column: str = 'daily_rv'
    kind: str = 'volatility'  # of the column: 'volatility', 'return' or 'price'
    decay: float = 0.94  # weight of the past, a step
    steps: tuple[float, ...] = ()  # that a label spans, one a horizon; () = counted on the training labels
    calibrate: bool = False  # scale to the labels: needed where the column has other units than the target
    fit: str = 'train'  # of the scale: 'train' or 'expanding'
    embargo: float = 0.0  # days (bars) between a label's end and the row that uses it, expanding only
    min_labels: int = 20  # rows that may use fewer to calibrate have no forecast

    def forecast_series(self, series: Series) -> Point:
        series.volatility_targets()
        variance = ewma(series.step_variance(self.column, self.kind), self.decay)
        raw = np.sqrt(variance)[:, None] * np.sqrt(series.steps(self.steps))
        if not self.calibrate:
            return Point(series.at_rows(raw))
        return Point(series.scale_to_labels(raw, self.fit, self.embargo, self.min_labels))


def ewma(values: np.ndarray, decay: float) -> np.ndarray:
    """The weighted mean of values up to each [M], its weights summing to 1 from the first value on.

    An absent value leaves the mean as it was, and has none itself: NaN in, NaN out at that place.
    """
    if not 0 < decay < 1:
        raise InputError(f'a decay of {decay}', column='decay', remedy='give a number between 0 and 1')
    out, there = np.full(len(values), np.nan), np.isfinite(values)
    total = lfilter([1 - decay], [1, -decay], values[there])
    out[there] = total / -np.expm1(np.arange(1, there.sum() + 1) * np.log(decay))
    return out
