"""Quantiles of past targets, as they are or in units of the current volatility."""

import dataclasses

import numpy as np

from fjq.baselines.ewma import ewma
from fjq.baselines.series import Baseline, Series
from fjq.forecast import Quantiles


@dataclasses.dataclass(kw_only=True)
class EmpiricalQuantiles(Baseline):
    """The quantiles of training targets (`fit='train'`: constant quantiles), of all that had ended, or of the last
    `window` of those (`fit='expanding'`).

    With `column` every target is divided by the EWMA volatility at its row, and the quantiles are multiplied by the
    volatility at theirs: filtered historical simulation (Barone-Adesi, Giannopoulos and Vosper 1999), which follows
    volatility with two numbers and is hard to beat on returns.
    """

    name: str = 'quantiles'
    levels: tuple[float, ...] = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)
    column: str = ''  # that volatility is measured on; '' = quantiles of the targets as they are
    kind: str = 'price'  # of the column: 'volatility', 'return' or 'price'
    decay: float = 0.97  # weight of the past in the volatility, a step
    fit: str = 'train'  # 'train' or 'expanding'
    window: int = 0  # only the last so many labels; 0 = all
    embargo: float = 0.0  # days (bars) between a label's end and the row that uses it, expanding only
    stride: int = 1  # new labels before quantiles are taken anew: 1 is exact, more is faster on long histories
    min_labels: int = 20  # rows that may use fewer have no forecast

    def forecast_series(self, series: Series) -> Quantiles:
        levels = np.array(self.levels)
        now = then = 1.0
        if self.column:
            volatility = np.sqrt(ewma(series.step_variance(self.column, self.kind), self.decay))
            volatility = np.where(volatility > 0, volatility, np.nan)
            now, then = series.at_rows(volatility)[:, None, None], series.at_labels(volatility)[:, None]
        units = series.target / then
        out = np.full((len(series.row_time), units.shape[1], len(levels)), np.nan)
        for h, known in enumerate(series.known(self.fit, self.embargo, np.isfinite(units))):
            ordered = units[known.order, h]
            count = np.where(known.count < self.min_labels, 0, known.count)
            if self.fit == 'expanding':  # a multiple of the stride beyond the least, whichever rows are asked for
                count = count - np.where(count > 0, (count - self.min_labels) % self.stride, 0)
            for k in np.unique(count[count > 0]):
                past = ordered[max(k - self.window, 0) if self.window else 0 : k]
                out[count == k, h] = np.quantile(past, levels)
        return Quantiles(self.levels, out * now)
