"""Exponentially weighted variance."""

import dataclasses

import numpy as np

from fjq.baselines.series import Baseline, Series
from fjq.data.ewma import ewma
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
