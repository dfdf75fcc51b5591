"""The future is like the recent past."""

import dataclasses

import numpy as np

from fjq.baselines.series import Baseline, Series
from fjq.forecast import Point


@dataclasses.dataclass(kw_only=True)
class Persistence(Baseline):
    """Volatility: the root mean square of the last steps, times the root of the steps that the label spans."""

    name: str = 'persistence'
    column: str = 'daily_rv'
    kind: str = 'volatility'  # of the column: 'volatility', 'return' or 'price'
    window: int = 22  # steps, all of which must be there
    steps: tuple[float, ...] = ()  # that a label spans, one a horizon; () = counted on the training labels

    def forecast_series(self, series: Series) -> Point:
        series.volatility_targets()
        rms = np.sqrt(trailing_mean(series.step_variance(self.column, self.kind), self.window))
        return Point(series.at_rows(rms)[:, None] * np.sqrt(series.steps(self.steps)))


def trailing_mean(values: np.ndarray, window: int) -> np.ndarray:
    """The mean of the last `window` entries up to each [M]; NaN where one of them is absent."""
    out = np.full(len(values), np.nan)
    if len(values) >= window:
        out[window - 1 :] = np.lib.stride_tricks.sliding_window_view(values, window).mean(-1)
    return out
