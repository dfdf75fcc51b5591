"""Gradient-boosted trees that forecast quantiles."""

import dataclasses

import numpy as np

from fjq.baselines.persistence import trailing_mean
from fjq.baselines.series import Baseline, Series, Unavailable
from fjq.config import LEVELS
from fjq.data.ewma import ewma
from fjq.errors import InputError
from fjq.forecast import Quantiles

PACKAGES = ('lightgbm', 'sklearn')


@dataclasses.dataclass(kw_only=True)
class BoostedQuantiles(Baseline):
    """Trees with the pinball loss, one ensemble a level and horizon, on targets in units of the EWMA volatility.

    Inputs: trailing returns and volatilities in units of the same volatility, its logarithm, and further columns of
    the history such as the place in the day. Fitted once on the training labels, evenly thinned to `max_labels`.
    """

    name: str = 'boosted quantiles'
    package: str = 'lightgbm'  # or 'sklearn': histogram gradient boosting of the same kind
    levels: tuple[float, ...] = LEVELS
    column: str = 'close'
    kind: str = 'price'  # of the column: 'price' or 'return'
    windows: tuple[int, ...] = (1, 3, 12, 72, 276)  # steps of the trailing inputs
    extra: tuple[str, ...] = ('bar_in_day',)  # further inputs, taken where the history has them
    decay: float = 0.97  # weight of the past in the volatility, a step
    trees: int = 60
    leaves: int = 15
    rate: float = 0.08  # of learning
    min_leaf: int = 50  # labels in a leaf
    max_labels: int = 8_000

    def forecast_series(self, series: Series) -> Quantiles:
        if self.package not in PACKAGES:
            raise InputError(
                f'the package {self.package!r} is not known', remedy='choose one of ' + ', '.join(PACKAGES)
            )
        make = self._ensembles()
        returns = series.returns(self.column, self.kind)
        volatility = np.sqrt(ewma(returns**2, self.decay))
        volatility = np.where(volatility > 0, volatility, np.nan)
        x = self._inputs(series, np.nan_to_num(returns), volatility)
        steps = np.sqrt(series.steps(()))
        units = series.target / (series.at_labels(volatility)[:, None] * steps)
        at_rows, at_labels, now = series.at_rows(x), series.at_labels(x), series.at_rows(volatility)
        usable = np.isfinite(at_labels).all(1)[:, None] & np.isfinite(units)
        answered = np.isfinite(at_rows).all(1) & np.isfinite(now)
        out = np.full((len(now), len(steps), len(self.levels)), np.nan)
        for h, known in enumerate(series.known('train', 0, usable)):
            if len(known.order) < 2 * self.min_leaf:
                raise Unavailable(f'horizon {h + 1} has only {len(known.order)} training labels')
            kept = known.order[np.unique(np.linspace(0, len(known.order) - 1, self.max_labels).astype(int))]
            for i, level in enumerate(self.levels):
                if answered.any():
                    ensemble = make(level).fit(at_labels[kept], units[kept, h])
                    out[answered, h, i] = ensemble.predict(at_rows[answered])
        return Quantiles(self.levels, out * (now[:, None] * steps)[..., None])

    def _inputs(self, series: Series, returns: np.ndarray, volatility: np.ndarray) -> np.ndarray:
        """[M, p] inputs of every history step."""
        columns = [np.log(volatility)]
        for w in self.windows:
            columns.append(trailing_mean(returns, w) * np.sqrt(w) / volatility)
            columns.append(np.sqrt(trailing_mean(returns**2, w)) / volatility)
        columns += [series.column(name) for name in self.extra if name in series.columns]
        return np.stack(columns, 1)

    def _ensembles(self):
        """level -> an untrained ensemble with fit and predict."""
        common = {'learning_rate': self.rate, 'random_state': 0}
        try:
            if self.package == 'lightgbm':
                from lightgbm import LGBMRegressor

                sizes = {'n_estimators': self.trees, 'num_leaves': self.leaves, 'min_child_samples': self.min_leaf}
                quiet = {'n_jobs': 1, 'verbose': -1, 'deterministic': True, 'force_row_wise': True}
                return lambda level: LGBMRegressor(objective='quantile', alpha=level, **common, **sizes, **quiet)
            from sklearn.ensemble import HistGradientBoostingRegressor
        except ModuleNotFoundError as error:
            raise Unavailable(f'the package {error.name} is absent') from error
        sizes = {'max_iter': self.trees, 'max_leaf_nodes': self.leaves, 'min_samples_leaf': self.min_leaf}
        fixed = {'loss': 'quantile', 'early_stopping': False}
        return lambda level: HistGradientBoostingRegressor(quantile=level, **common, **sizes, **fixed)
