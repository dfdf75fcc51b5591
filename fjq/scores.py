"""The figures of one forecaster, and of one beside another, on rows that both answer."""

import dataclasses
import functools
from collections.abc import Callable

import jax
import numpy as np

from fjq import compare, metrics
from fjq.forecast import Law, Samples, transform

FLOOR = 1e-3  # below it QLIKE counts a forecast as this much
PIT_BINS = 10
LEVELS_OF_COVERAGE = (0.5, 0.8, 0.9)

# name -> (target, law, mask, axis) -> (sum, weight). The first ones are losses: smaller is better.
LOSSES: dict[str, Callable] = {
    'qlike': lambda y, f, m, axis: metrics.qlike(y, f, m, axis, power=2, floor=FLOOR),
    'crps': metrics.crps,
    'mae': metrics.mae,
    'mse': metrics.mse,
    'huber_log1p': lambda y, f, m, axis: metrics.huber(
        np.log1p(np.where(m, y, 0)), transform(f, jax.numpy.log1p), m, axis, delta=0.1
    ),
}
OF_VOLATILITY = ('qlike', 'huber_log1p')  # NaN where a target is not positive


@dataclasses.dataclass(frozen=True)
class Judged:
    """One forecaster on the evaluated split: its point forecast as given, and its law; where the law is of each horizon
    alone, `paths(count=n)` may draw the horizons together."""

    name: str
    point: Law
    law: Law
    paths: Callable[..., Samples] | None = None


def score(judged: Judged, rows: dict, mask: np.ndarray, train: dict) -> dict[str, list[float]]:
    """Every loss, RMSE, R2 against the training mean, rank correlation and coverage, one figure a horizon."""
    target, point, law = rows['target'], judged.point, judged.law
    figures = {name: np.full(target.shape[1], np.nan) for name in LOSSES}
    for name, fn in LOSSES.items():
        if name not in OF_VOLATILITY or all_positive(rows):
            figures[name] = _ratio(fn(target, law if name == 'crps' else point, mask, 0))
    figures['rmse'] = np.sqrt(figures['mse'])
    reference = np.broadcast_to(np.nanmean(np.where(train['valid'], train['target'], np.nan), 0), target.shape)
    figures['r2'] = 1 - _ratio(metrics.squared_ratio(target, point, reference, mask, 0))
    horizons = range(target.shape[1])
    figures['spearman'] = [metrics.spearman(target[:, h], np.asarray(point.mean())[:, h], mask[:, h]) for h in horizons]
    for level in LEVELS_OF_COVERAGE:
        figures[f'coverage_{level:.0%}'.rstrip('%')] = _ratio(metrics.coverage(target, law, mask, 0, level=level))
    return {name: [float(v) for v in values] for name, values in figures.items()}


def difference(
    model: Judged,
    other: Judged,
    rows: dict,
    mask: np.ndarray,
    *,
    loss: str,
    overlaps: list[int],
    blocks: list[int],
    draws: int,
) -> list[dict[str, float]]:
    """Loss of the baseline minus loss of the model, one a horizon: mean, 95 % block bootstrap interval, and the
    Diebold-Mariano test of the losses, moment by moment, with either variance. Positive = the model is better.

    R2 is that of the model against the baseline, 1 - MSE / MSE of the baseline, with the same kind of interval.
    overlaps, blocks: moments that a target spans, and that are resampled together with all their rows.
    """
    losses, squares = (
        [np.asarray(fn(rows['target'], j.law if fn is metrics.crps else j.point, mask, ())[0]) for j in (model, other)]
        for fn in (LOSSES[loss], LOSSES['mse'])
    )
    out = []
    for h in range(mask.shape[1]):
        keep = mask[:, h]
        interval = functools.partial(
            compare.block_bootstrap, block=blocks[h], draws=draws, seed=0, time=rows['time'][keep]
        )
        ours, theirs = (values[keep, h] for values in losses)
        both = np.stack([values[keep, h] for values in squares], 1)
        (low, high), (r2_low, r2_high) = interval(theirs - ours), interval(both, statistic=compare.relative_skill)
        moments = compare.mean_by_moments(np.stack([theirs, ours], 1), rows['time'][keep])
        test, classical = (
            compare.diebold_mariano(*moments.T, horizon=overlaps[h], variance=v) for v in ('cosine', 'newey-west')
        )
        verdict = 'better' if low > 0 else 'worse' if high < 0 else 'not told apart'
        out.append(
            {
                'mean': float((theirs - ours).mean()),
                'low': low,
                'high': high,
                'dm': test.statistic,
                'p': test.p,
                'p_newey_west': classical.p,
                'model': verdict,
                'r2': float(compare.relative_skill(both.mean(0))),
                'r2_low': r2_low,
                'r2_high': r2_high,
            }
        )
    return out


def calibration(judged: Judged, rows: dict, mask: np.ndarray) -> dict[str, list]:
    """Histogram of the probability integral transform (flat = calibrated), all horizons together."""
    pit = compare.pit(judged.law, rows['target'], mask, seed=0)
    return {'pit': (np.histogram(pit, PIT_BINS, (0, 1))[0] / max(len(pit), 1)).tolist()}


def format_time(moment) -> str:
    """A time of rows without the zeros that its unit adds: 2022-05-16, or 2022-05-16T13:00."""
    moment = np.asarray(moment)[()]
    return str(np.datetime_as_string(moment, unit='auto') if moment.dtype.kind == 'M' else moment)


def all_positive(rows: dict) -> bool:
    return bool((rows['target'][rows['valid']] > 0).all())


def _ratio(pair) -> np.ndarray:
    total, weight = (np.asarray(p, np.float64) for p in pair)
    return np.where(weight > 0, total / np.where(weight > 0, weight, 1), np.nan)
