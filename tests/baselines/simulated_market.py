"""A simulated daily market that the tests of the baselines share."""

import numpy as np

M, HORIZONS = 700, (5, 21)


def make_market() -> tuple[dict, dict]:
    """Daily returns with GARCH volatility, its measured values, an implied volatility, and forward volatilities."""
    rng = np.random.Generator(np.random.Philox(4))
    variance, returns = np.full(M, 1e-4), np.zeros(M)
    for t in range(1, M):
        variance[t] = 3e-6 + 0.1 * returns[t - 1] ** 2 + 0.87 * variance[t - 1]
        returns[t] = np.sqrt(variance[t]) * rng.standard_normal()
    daily_rv = np.sqrt(variance) * np.exp(0.25 * rng.standard_normal(M))
    time = np.datetime64('2020-01-01') + np.arange(M)
    history = {
        'time': time,
        'close': 100 * np.exp(np.cumsum(returns)),
        'daily_rv': daily_rv,
        'daily_rq': daily_rv**4 * np.exp(rng.standard_normal(M)),
        'vix': 100 * np.sqrt(252 * variance) * 1.2,
    }
    target = np.full((M, len(HORIZONS)), np.nan)
    for h, span in enumerate(HORIZONS):
        target[: M - span, h] = [np.sqrt((daily_rv[t + 1 : t + 1 + span] ** 2).sum()) for t in range(M - span)]
    label_end = np.where(np.isfinite(target), time[:, None] + np.array(HORIZONS), np.datetime64('NaT', 'D'))
    return history, {'time': time, 'target': target, 'valid': np.isfinite(target), 'label_end': label_end}


def select(table: dict, kept) -> dict:
    return {name: values[kept] for name, values in table.items()}


def split(rows: dict) -> tuple[dict, dict]:
    """(rows from 420 on, labels of the first 400 rows whose labels end before them)."""
    return select(rows, slice(420, None)), select(rows, slice(0, 400 - HORIZONS[-1]))


def leaf(law) -> np.ndarray:
    return np.asarray(law.values if hasattr(law, 'values') else law.value)
