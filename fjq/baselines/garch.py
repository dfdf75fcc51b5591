"""GARCH(1,1) by the package arch."""

import dataclasses
from typing import NamedTuple

import numpy as np
from scipy import stats
from scipy.signal import lfilter

from fjq.baselines.series import Baseline, PathBaseline, Series, Unavailable, row_generator
from fjq.errors import InputError
from fjq.forecast import Mixture, Point, Samples

BACKCAST = 20  # returns whose mean square starts the recursion; nothing is forecast before them


@dataclasses.dataclass(kw_only=True)
class Garch(Baseline):
    """Volatility from s_t^2 = w + a e_{t-1}^2 + b s_{t-1}^2 (Bollerslev 1986), summed over the label's span.

    Maximum likelihood on the log returns of a price column up to the last training row (`fit='train'`), or anew
    every `stride` steps on all returns so far (`fit='expanding'`); variance is then filtered up to every row.
    """

    name: str = 'garch'
    column: str = 'close'
    kind: str = 'price'  # of the column: 'price' or 'return'
    steps: tuple[float, ...] = ()  # that a label spans, one a horizon; () = counted on the training labels
    dist: str = 'normal'  # of the shocks: 'normal' or 't'
    fit: str = 'train'  # 'train' or 'expanding'
    stride: int = 21  # steps between fits, expanding only
    min_steps: int = 250  # returns that a fit needs
    calibrate: bool = False  # scale to the labels: needed where returns have other units than the target
    embargo: float = 0.0  # days (bars) between a label's end and the row that uses it to calibrate, expanding only
    min_labels: int = 20  # rows that may use fewer to calibrate have no forecast

    def forecast_series(self, series: Series) -> Point:
        series.volatility_targets()
        if self.fit not in ('train', 'expanding') or self.dist not in ('normal', 't'):
            raise InputError(
                f'garch cannot fit {self.fit!r} with {self.dist!r} shocks',
                remedy="choose 'train' or 'expanding', and 'normal' or 't'",
            )
        if self.min_steps < BACKCAST or self.stride < 1:
            raise InputError(f'garch needs min_steps of {BACKCAST} and a stride of 1 or more', column='min_steps')
        returns = series.returns(self.column, self.kind)
        raw = np.full((len(returns), series.target.shape[1]), np.nan)
        there = np.flatnonzero(np.isfinite(returns))
        raw[there] = self._forecasts(series, returns[there], series.time[there])
        if not self.calibrate:
            return Point(series.at_rows(raw))
        return Point(series.scale_to_labels(raw, self.fit, self.embargo, self.min_labels))

    def _forecasts(self, series: Series, returns: np.ndarray, time: np.ndarray) -> np.ndarray:
        """Volatility over the label's span after each return [M, H]."""
        if self.fit == 'train':
            train_end = series.label_time[series.train].max()
            ends = [int(np.searchsorted(time, train_end, side='right'))]
        else:
            ends = list(range(self.min_steps, len(returns) + 1, self.stride))
        if not ends or ends[0] < self.min_steps:
            held = ends[0] if ends else len(returns)
            raise Unavailable(f'{self.column!r} has {held} returns to fit, not {self.min_steps}')
        spans, out = series.spans(self.steps), np.full((len(returns), series.target.shape[1]), np.nan)
        asked = np.concatenate([series.row_time, series.label_time]) if self.calibrate else series.row_time
        wanted = np.searchsorted(time, asked, side='right') - 1
        # A fit serves the steps up to the next one; the fit on the training span serves them all.
        firsts = [BACKCAST - 1] if self.fit == 'train' else [end - 1 for end in ends]
        for end, first, last in zip(ends, firsts, [*firsts[1:], len(returns)], strict=True):
            if not np.any((wanted >= first) & (wanted < last)):
                continue
            parameters = fit_garch(returns[:end], self.dist)
            out[first:last] = span_volatility(returns[:last], *parameters[:3], spans)[first:]
        return out * np.sqrt(series.steps(self.steps) / spans)


@dataclasses.dataclass(kw_only=True)
class GarchT(PathBaseline):
    """Returns over the label's span as Student-t with the volatility of a GARCH(1,1) with Student-t shocks.

    The model is fitted on the returns up to the last training row; degrees of freedom and size of the law of each
    horizon by maximum likelihood on the training targets in units of that volatility: sums of t are not t. Paths are
    simulated step by step with the shocks and the variance of the model, and know nothing of those targets.
    """

    name: str = 'garch-t'
    column: str = 'close'
    kind: str = 'price'  # of the column: 'price' or 'return'
    steps: tuple[float, ...] = ()  # that a label spans, one a horizon; () = counted on the training labels
    min_steps: int = 250  # returns that a fit needs
    max_steps: int = 20_000  # latest training returns that a fit takes
    max_labels: int = 5_000  # training targets that the law of a horizon is fitted on, evenly spread

    def forecast_series(self, series: Series) -> Mixture:
        scale = self._filter(series, self._fit(series), series.steps(self.steps))
        now, units = series.at_rows(scale), series.target / series.at_labels(scale)
        size, df = np.empty(now.shape[1]), np.empty(now.shape[1])
        for h, known in enumerate(series.known('train', 0, np.isfinite(units))):
            past = units[known.order, h]
            if len(past) < 20:
                raise Unavailable(f'horizon {h + 1} has {len(past)} training labels')
            past = past[np.unique(np.linspace(0, len(past) - 1, self.max_labels).astype(int))]
            df[h], _, size[h] = stats.t.fit(past, floc=0)
        none = np.where(np.isnan(now), np.nan, 0.0)
        return Mixture(*(v[..., None] for v in (np.ones(now.shape), none, now * size, none + df)))

    def simulate_series(self, series: Series, count: int, seed: int) -> Samples:
        w, a, b, df = fit = self._fit(series)
        steps = np.maximum(np.round(series.steps(self.steps)), 1).astype(int)
        first = series.at_rows(self._filter(series, fit, np.ones(1)))[:, 0] ** 2
        out = np.empty((len(first), len(steps), count))
        for row, (moment, start) in enumerate(zip(series.row_time, first, strict=True)):
            shocks = row_generator(seed, moment).standard_t(df, (steps.max(), count)) * np.sqrt((df - 2) / df)
            variance, moves = np.full(count, start), np.empty_like(shocks)
            for step, shock in enumerate(shocks):
                moves[step] = np.sqrt(variance) * shock
                variance = w + a * moves[step] ** 2 + b * variance
            out[row] = np.cumsum(moves, 0)[steps - 1]
        return Samples(out)

    def _fit(self, series: Series) -> 'Fit':
        """On the returns up to the last training row."""
        returns = series.returns(self.column, self.kind)
        used = returns[np.isfinite(returns) & (series.time <= series.label_time[series.train].max())]
        if len(used) < max(self.min_steps, BACKCAST):
            raise Unavailable(f'{self.column!r} has {len(used)} returns to fit, not {self.min_steps}')
        return fit_garch(used[-self.max_steps :], 't')

    def _filter(self, series: Series, fit: 'Fit', steps: np.ndarray) -> np.ndarray:
        """The volatility over the next `steps` [H] steps after each moment of the history [M, H]."""
        returns = series.returns(self.column, self.kind)
        there = np.flatnonzero(np.isfinite(returns))
        scale = np.full((len(series.time), len(steps)), np.nan)
        scale[there] = span_volatility(returns[there], *fit[:3], steps)
        scale[there[: BACKCAST - 1]] = np.nan
        return scale


class Fit(NamedTuple):
    """s_t^2 = w + a e_{t-1}^2 + b s_{t-1}^2, with shocks of `df` degrees of freedom (inf = Gaussian)."""

    w: float
    a: float
    b: float
    df: float


def fit_garch(returns: np.ndarray, dist: str) -> Fit:
    """By maximum likelihood with mean zero.

    Raises:
      Unavailable: arch is not installed, or the optimiser did not converge.
    """
    try:
        from arch import arch_model
    except ModuleNotFoundError as error:
        raise Unavailable("the package arch is absent: pip install 'fjq[eval]'") from error
    unit = returns.std()  # the optimiser wants numbers near 1
    if not unit > 0:
        raise Unavailable('the returns do not vary')
    result = arch_model(returns / unit, mean='Zero', dist=dist, rescale=False).fit(disp='off', show_warning=False)
    if result.convergence_flag:
        raise Unavailable(f'the GARCH fit on {len(returns)} returns did not converge')
    w, a, b, *df = np.asarray(result.params, np.float64).tolist()
    return Fit(w * unit**2, a, b, df[0] if df else np.inf)


def span_volatility(returns: np.ndarray, w: float, a: float, b: float, steps: np.ndarray) -> np.ndarray:
    """The root of the variance that is expected over the next `steps` [H] steps after each return [M, H]."""
    start = np.mean(returns[:BACKCAST] ** 2)
    shocks = w + a * returns**2
    next_variance, _ = lfilter([1.0], [1.0, -b], shocks, zi=np.array([b * start]))
    persistence = a + b
    if persistence < 1 - 1e-9:
        level = w / (1 - persistence)
        fading = (1 - persistence**steps) / (1 - persistence)
        total = level * steps + (next_variance[:, None] - level) * fading
    else:
        total = next_variance[:, None] * steps + w * steps * (steps - 1) / 2
    return np.sqrt(total)
