"""Forecasts of simulated bars that the tests of the studies share."""

import numpy as np
from scipy import stats

from fjq.forecast import Quantiles
from fjq.scores import Judged

LEVELS = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)
HORIZONS = np.array([1, 4])


class Bars:
    """In place of a dataset: its history."""

    def __init__(self, **history):
        self._history = history

    def history(self):
        return self._history


def make_rows(n=800, seed=0, drift=0.0):
    """(bars, rows, volatility [N]) of Gaussian returns, 5 minutes apart, whose volatility changes slowly."""
    rng = np.random.Generator(np.random.Philox(seed))
    size = n + HORIZONS.max()
    time = np.datetime64('2023-01-02T00:05', 'ns') + np.arange(size) * np.timedelta64(5, 'm')
    volatility = 1e-3 * np.exp(0.5 * np.sin(np.arange(size) / 60))
    returns = volatility * (rng.standard_normal(size) + drift)
    close = 100 * np.exp(np.cumsum(returns))
    open_ = np.append(100.0, close[:-1]) * np.exp(1e-4 * rng.standard_normal(size))
    rows = {
        'id': np.full(n, 'NQ'),
        'time': time[:n],
        'target': np.stack([np.log(close[h : h + n] / close[:n]) for h in HORIZONS], 1),
        'valid': np.ones((n, 2), bool),
        'label_end': np.stack([time[h : h + n] for h in HORIZONS], 1),
        'horizon': HORIZONS,
        'hour': time[:n].astype('datetime64[h]').astype(int) % 24,
        'scale': volatility[:n],
    }
    return Bars(time=time, open=open_, close=close), rows, volatility[:n]


def make_judged(name, volatility, width=1.0, shift=0.0) -> Judged:
    """Gaussian quantiles `width` times as wide as the truth, moved by `shift` volatilities [N] or a number."""
    scale = volatility[:, None] * np.sqrt(HORIZONS)
    middle = np.broadcast_to(shift, len(volatility))[:, None] * scale
    law = Quantiles(LEVELS, middle[..., None] + width * scale[..., None] * stats.norm.ppf(LEVELS))
    return Judged(name, law, law)
