"""Quantiles of past targets, as they are or in units of the volatility that was known at their rows."""

import dataclasses

import numpy as np

from fjq.baselines.series import Baseline, Series
from fjq.config import LEVELS
from fjq.data.ewma import ewma
from fjq.forecast import Quantiles


@dataclasses.dataclass(kw_only=True)
class ScaledQuantiles(Baseline):
    """Filtered historical simulation (Barone-Adesi, Giannopoulos and Vosper 1999): past targets are divided by the
    volatility at their rows, and their quantiles multiplied by that of now.

    The quantiles are those of training targets (`fit='train'`), of all that had ended, or of the last `window` of
    those (`fit='expanding'`). A family says what volatility is by `scales`.
    """

    name: str
    levels: tuple[float, ...] = LEVELS
    column: str = 'close'  # that volatility is measured on
    kind: str = 'price'  # of the column: 'volatility', 'return' or 'price'
    fit: str = 'train'  # 'train' or 'expanding'
    window: int = 0  # only the last so many labels; 0 = all
    embargo: float = 0.0  # days (bars) between a label's end and the row that uses it, expanding only
    stride: int = 1  # new labels before quantiles are taken anew: 1 is exact, more is faster on long histories
    min_labels: int = 20  # rows that may use fewer have no forecast

    def scales(self, series: Series) -> tuple[np.ndarray, np.ndarray]:
        """Volatility at the rows [N, H or 1] and at the labels [K, H or 1], in one unit; NaN where it is not known."""
        raise AttributeError('scales')

    def forecast_series(self, series: Series) -> Quantiles:
        now, then = (np.where(scale > 0, scale, np.nan) for scale in self.scales(series))
        return Quantiles(self.levels, self.quantiles(series, series.target / then) * now[..., None])

    def quantiles(self, series: Series, units: np.ndarray) -> np.ndarray:
        """Quantiles [N, H, Q] of the values [K, H] of those labels that each row may fit."""
        out = np.full((len(series.row_time), units.shape[1], len(self.levels)), np.nan)
        for h, known in enumerate(series.known(self.fit, self.embargo, np.isfinite(units))):
            ordered = units[known.order, h]
            count = np.where(known.count < self.min_labels, 0, known.count)
            if self.fit == 'expanding':  # a multiple of the stride beyond the least, whichever rows are asked for
                count = count - np.where(count > 0, (count - self.min_labels) % self.stride, 0)
            for k in np.unique(count[count > 0]):
                past = ordered[max(k - self.window, 0) if self.window else 0 : k]
                out[count == k, h] = np.quantile(past, np.array(self.levels))
        return out


@dataclasses.dataclass(kw_only=True)
class EmpiricalQuantiles(ScaledQuantiles):
    """Quantiles of the targets as they are, or with `column` in units of the EWMA volatility of its steps, which
    follows volatility with two numbers and is hard to beat on returns."""

    name: str = 'quantiles'
    column: str = ''  # that volatility is measured on; '' = quantiles of the targets as they are
    decay: float = 0.97  # weight of the past in the volatility, a step

    def scales(self, series: Series) -> tuple[np.ndarray, np.ndarray]:
        if not self.column:
            return np.ones((1, 1)), np.ones((1, 1))
        volatility = np.sqrt(ewma(series.step_variance(self.column, self.kind), self.decay))
        return series.at_rows(volatility)[:, None], series.at_labels(volatility)[:, None]
