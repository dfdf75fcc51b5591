"""Forecasts that hold still: the mean of past targets, and zero."""

import dataclasses

import numpy as np

from fjq.baselines.series import Baseline, Series
from fjq.forecast import Point


@dataclasses.dataclass(kw_only=True)
class Constant(Baseline):
    """The mean target: of training (`fit='train'`), or of every label that had ended (`fit='expanding'`)."""

    name: str = 'constant'
    fit: str = 'train'  # 'train' or 'expanding'
    embargo: float = 0.0  # days (bars) between a label's end and the row that uses it, expanding only
    min_labels: int = 1  # rows that may use fewer have no forecast

    def forecast_series(self, series: Series) -> Point:
        out = np.full((len(series.row_time), series.target.shape[1]), np.nan)
        for h, known in enumerate(series.known(self.fit, self.embargo)):
            enough = known.count >= max(self.min_labels, 1)
            out[enough, h] = (known.prefix_sum(series.target[:, h]) / np.maximum(known.count, 1))[enough]
        return Point(out)


@dataclasses.dataclass(kw_only=True)
class Zero(Baseline):
    """Zero at every row: the forecast of returns that nothing is known of."""

    name: str = 'zero'

    def forecast_series(self, series: Series) -> Point:
        return Point(np.zeros((len(series.row_time), series.target.shape[1])))
