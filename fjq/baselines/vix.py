"""Volatility that option prices imply."""

import dataclasses

import numpy as np

from fjq.baselines.series import Baseline, Series
from fjq.forecast import Point


@dataclasses.dataclass(kw_only=True)
class Vix(Baseline):
    """Implied variance over the label's span, less the premium that option buyers pay on average.

    The premium is the ratio of mean implied to mean realised variance over the fitted labels; it also takes the
    units of the target. (VIX is an annual percentage; its square is the variance expected over 30 days.)
    """

    name: str = 'vix'
    column: str = 'vix'
    steps: tuple[float, ...] = ()  # that a label spans, one a horizon; () = counted on the training labels
    fit: str = 'train'  # of the premium: 'train' or 'expanding'
    embargo: float = 0.0  # days (bars) between a label's end and the row that uses it, expanding only
    min_labels: int = 20  # rows that may use fewer have no forecast

    def forecast_series(self, series: Series) -> Point:
        implied = series.column(self.column, positive=True)[:, None] / 100 * np.sqrt(series.steps(self.steps) / 252)
        return Point(series.scale_to_labels(implied, self.fit, self.embargo, self.min_labels))
