"""Returns without any direction: a random walk whose steps have the volatility, or the law, of past ones."""

import dataclasses

import numpy as np

from fjq.baselines.series import Baseline, PathBaseline, Series, row_generator
from fjq.data.ewma import ewma
from fjq.errors import InputError
from fjq.forecast import Mixture, Samples

_CHUNK = 4_000_000  # draws that are summed at a time


@dataclasses.dataclass(kw_only=True)
class RandomWalk(PathBaseline):
    """Gaussian steps without drift, of the EWMA variance (RiskMetrics 1996); for targets that are log returns."""

    name: str = 'random walk'
    column: str = 'close'
    kind: str = 'price'  # of the column: 'volatility', 'return' or 'price'
    decay: float = 0.94  # weight of the past in the variance, a step
    steps: tuple[float, ...] = ()  # that a label spans, one a horizon; () = counted on the training labels

    def forecast_series(self, series: Series) -> Mixture:
        scale = self._volatility(series)[:, None] * np.sqrt(series.steps(self.steps))
        none = np.where(np.isnan(scale), np.nan, 0.0)
        return Mixture(np.ones((*scale.shape, 1)), none[..., None], scale[..., None])

    def simulate_series(self, series: Series, count: int, seed: int) -> Samples:
        steps = series.steps(self.steps)
        order = np.argsort(steps)
        step = np.sqrt(np.diff(steps[order], prepend=0.0))[:, None]
        walks = [row_generator(seed, t).standard_normal((len(steps), count)) * step for t in series.row_time]
        out = np.empty((len(walks), len(steps), count))
        out[:, order] = np.cumsum(walks, 1)
        return Samples(out * self._volatility(series)[:, None, None])

    def _volatility(self, series: Series) -> np.ndarray:
        """Of a step, known at each row [N]."""
        variance = series.at_rows(ewma(series.step_variance(self.column, self.kind), self.decay))
        return np.sqrt(np.where(variance > 0, variance, np.nan))


@dataclasses.dataclass(kw_only=True)
class Bootstrap(Baseline):
    """Sums of one-step log returns drawn from the last `window` ones, each in units of the EWMA volatility before it
    and multiplied by that of now (`scaled`), or as they are; for targets that are log returns.

    Every row takes the same places of its own window, so that rows differ by what they know and not by their draws.
    """

    name: str = 'bootstrap of returns'
    column: str = 'close'
    kind: str = 'price'  # of the column: 'return' or 'price'
    window: int = 500  # returns that are drawn from; rows with fewer before them have no forecast
    paths: int = 200  # draws of each law
    scaled: bool = True  # draws follow volatility
    decay: float = 0.94  # weight of the past in the volatility, a step
    seed: int = 0  # of the draws
    steps: tuple[float, ...] = ()  # that a label spans, one a horizon; () = counted on the training labels

    def forecast_series(self, series: Series) -> Samples:
        if self.kind not in ('price', 'return'):
            raise InputError(f'the kind {self.kind!r} is not known', remedy="choose 'price' or 'return'")
        if self.window < 2 or self.paths < 2:
            raise InputError(f'{self.paths} draws from {self.window} returns', column='window', remedy='give 2 or more')
        returns, volatility = series.returns(self.column, self.kind), 1.0
        if self.scaled:
            volatility = np.sqrt(ewma(returns**2, self.decay))
            before = np.append(np.nan, volatility[:-1])
            returns = returns / np.where(before > 0, before, np.nan)
        there = np.flatnonzero(np.isfinite(returns))
        steps = np.maximum(np.round(series.steps(self.steps)), 1).astype(int)
        draws = np.random.Generator(np.random.Philox(self.seed)).integers(0, self.window, (self.paths, steps.max()))
        # How many returns each row knows: its window is the last of those.
        last = np.searchsorted(series.time, series.row_time, side='right') - 1
        known = np.searchsorted(there, last, side='right')
        out = np.full((len(known), len(steps), self.paths), np.nan)
        usable = np.flatnonzero(known >= self.window)
        for rows in np.array_split(usable, max(1, len(usable) * draws.size // _CHUNK)):
            drawn = returns[there[(known[rows] - self.window)[:, None, None] + draws]]
            sums = drawn.cumsum(-1)[..., steps - 1]
            out[rows] = np.moveaxis(sums, -1, 1)
        now = series.at_rows(volatility)[:, None, None] if self.scaled else 1.0
        return Samples(out * now)
