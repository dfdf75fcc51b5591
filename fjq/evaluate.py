"""The only evaluation harness: forecasts of a split beside baselines, with intervals for every difference.

It knows rows, targets and forecast laws, and no model. Point forecasts, the model's and the baselines' alike,
are dressed with the errors that they made on an earlier split, so that all have intervals to be judged by.
"""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fjq import compare, metrics
from fjq.baselines import Unavailable
from fjq.checkpoint import write_atomic
from fjq.config import Evaluate, Experiment
from fjq.errors import InputError
from fjq.forecast import Law, Point, dress, transform
from fjq.log import say
from fjq.task import Dataset
from fjq.trained import Trained, forecast_table, predict_rows

FLOOR = 1e-3  # below it QLIKE counts a forecast as this much
PIT_BINS = 10
LEAST_ANSWERED = 0.9  # a baseline that forecasts less of the targets is left out, not the targets
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
    """One forecaster on the evaluated split: its point forecast as given, and its law."""

    name: str
    point: Law
    law: Law


def evaluate(config: Experiment, trained: Trained, dataset: Dataset) -> tuple[dict[str, Any], pa.Table]:
    """Scores the model and every baseline on `config.evaluate.split`.

    Returns:
      (the findings, as evaluation.json holds them; every forecast, one line a forecaster, row and horizon)

    Raises:
      InputError: the split is empty or a setting is unknown.
    """
    settings = config.evaluate
    if settings.loss not in LOSSES:
        raise InputError(f'evaluate.loss is {settings.loss!r}', remedy='choose one of ' + ', '.join(LOSSES))
    earlier = 'train' if settings.split == 'valid' else 'valid'
    law, rows = predict_rows(trained.predict, dataset, settings.split)
    if settings.loss in OF_VOLATILITY and not _all_positive(rows):
        raise InputError(
            f'evaluate.loss is {settings.loss!r} and some targets are not positive',
            remedy='choose one of ' + ', '.join(n for n in LOSSES if n not in OF_VOLATILITY),
        )
    earlier_law, earlier_rows = predict_rows(trained.predict, dataset, earlier)
    judged = [Judged(config.name, law, dress_with_errors(law, earlier_law, earlier_rows))]
    labels, missing = _labels(dataset, earlier), {}
    for baseline in settings.baselines:
        try:
            f, e = (baseline.forecast(dataset.history(), r, labels) for r in (rows, earlier_rows))
        except Unavailable as reason:
            missing[baseline.name] = str(reason)
            continue
        answered = (np.isfinite(np.asarray(f.mean())) & rows['valid']).sum() / max(rows['valid'].sum(), 1)
        if answered < LEAST_ANSWERED:
            missing[baseline.name] = f'it forecasts only {answered:.0%} of the targets'
            continue
        judged.append(Judged(baseline.name, f, dress_with_errors(f, e, earlier_rows)))
    mask = _common_mask(judged, rows)
    findings = {
        'name': config.name,
        'split': settings.split,
        'dressed_with': earlier,
        'first': str(rows['time'][0]),
        'last': str(rows['time'][-1]),
        'horizons': [str(h) for h in rows['horizon']],
        'rows': mask.sum(0).tolist(),
        'independent': [compare.effective_size(int(n), settings.overlap) for n in mask.sum(0)],
        'scores': {j.name: score(j, rows, mask, dataset.rows('train')) for j in judged},
        'unavailable': missing,
        'loss': settings.loss,
        'differences': {j.name: difference(settings, judged[0], j, rows, mask) for j in judged[1:]},
        'calibration': {j.name: calibration(j, rows, mask) for j in judged},
    }
    tables = [table_with_point(j.point, j.law, rows, settings.levels) for j in judged]
    named = [t.add_column(0, 'model', pa.array([j.name] * t.num_rows)) for t, j in zip(tables, judged, strict=True)]
    return findings, pa.concat_tables(named, promote_options='permissive')


def table_with_point(point: Law, law: Law, rows: dict[str, np.ndarray], levels: tuple[float, ...]) -> pa.Table:
    """The table of a law, and in `point` the forecast as it was given: dressing moves the mean by the past bias."""
    return forecast_table(law, rows, levels).append_column('point', pa.array(np.asarray(point.mean()).reshape(-1)))


def _labels(dataset: Dataset, earlier: str) -> dict[str, np.ndarray]:
    """The rows that a baseline may fit: those of training, and for refitting those of the split in between too."""
    train = dataset.rows('train')
    out = {**train, 'train': np.ones(len(train['time']), bool)}
    if earlier == 'train':
        return out
    later = dataset.rows(earlier)
    later = {**later, 'train': np.zeros(len(later['time']), bool)}
    per_row = [k for k, v in out.items() if k in later and k != 'horizon' and len(v) == len(train['time'])]
    return {k: np.concatenate([out[k], later[k]]) for k in per_row}


def dress_with_errors(law: Law, earlier: Law, earlier_rows: dict[str, np.ndarray]) -> Law:
    """A point forecast with the errors that its kind made on earlier rows, in logs where targets are positive; any
    other law as it is."""
    if not isinstance(law, Point):
        return law
    point, target = np.asarray(earlier.mean(), np.float64), earlier_rows['target']
    known = earlier_rows['valid'] & np.isfinite(point)
    if not _all_positive(earlier_rows):
        return dress(law, np.where(known, target - point, 0).T, 'level', known.T.astype(np.float32))
    known &= point > 0
    errors = np.log(np.where(known, target, 1)) - np.log(np.where(known, point, 1))
    return dress(law, errors.T, 'log', known.T.astype(np.float32))


def score(judged: Judged, rows: dict, mask: np.ndarray, train: dict) -> dict[str, list[float]]:
    """Every loss, RMSE, R2 against the training mean, rank correlation and coverage, one figure a horizon."""
    target, point, law = rows['target'], judged.point, judged.law
    figures = {name: np.full(target.shape[1], np.nan) for name in LOSSES}
    for name, fn in LOSSES.items():
        if name not in OF_VOLATILITY or _all_positive(rows):
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
    settings: Evaluate, model: Judged, other: Judged, rows: dict, mask: np.ndarray
) -> list[dict[str, float]]:
    """Loss of the baseline minus loss of the model, one a horizon: mean, 95 % block bootstrap interval, and the
    Diebold-Mariano test with a Newey-West variance. Positive = the model is better."""
    fn, out = LOSSES[settings.loss], []
    entries = []
    for j in (model, other):
        entries.append(np.asarray(fn(rows['target'], j.law if settings.loss == 'crps' else j.point, mask, ())[0]))
    for h in range(mask.shape[1]):
        ours, theirs = (e[mask[:, h], h] for e in entries)
        low, high = compare.block_bootstrap(theirs - ours, block=settings.block, draws=settings.draws, seed=0)
        test, classical = (
            compare.diebold_mariano(theirs, ours, horizon=settings.overlap, variance=v)
            for v in ('cosine', 'newey-west')
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
            }
        )
    return out


def calibration(judged: Judged, rows: dict, mask: np.ndarray) -> dict[str, list]:
    """Histogram of the probability integral transform (flat = calibrated), all horizons together."""
    pit = np.asarray(judged.law.cdf(np.where(mask, rows['target'], 1.0)))[mask]
    return {'pit': (np.histogram(pit, PIT_BINS, (0, 1))[0] / max(len(pit), 1)).tolist()}


def write(findings: dict[str, Any], table: pa.Table, workdir: Path) -> None:
    """evaluation.json and forecasts/SPLIT.parquet, whole or not at all.

    The JSON is strict: a figure that is not finite, such as the ends of an interval of too few rows, is null.
    """
    write_forecasts(table, workdir / 'forecasts' / f'{findings["split"]}.parquet')
    text = json.dumps(_finite_or_none(findings), indent=1, allow_nan=False)
    write_atomic(workdir / 'evaluation.json', (text + '\n').encode())


def write_forecasts(table: pa.Table, path: Path) -> None:
    """A parquet file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    write_atomic(path, sink.getvalue().to_pybytes())


def conclude(findings: dict[str, Any]) -> list[str]:
    """What the figures say, in sentences, also when the model does not win."""
    changed = findings.get('changed', [])
    lines = [f'The data are not those of the training: {", ".join(changed)} differ.'] if changed else []
    for h, horizon in enumerate(findings['horizons']):
        n, free = findings['rows'][h], findings['independent'][h]
        verdicts = {name: d[h]['model'] for name, d in findings['differences'].items()}
        beaten = [n for n, v in verdicts.items() if v == 'better']
        lost = [n for n, v in verdicts.items() if v == 'worse']
        tied = [n for n, v in verdicts.items() if v == 'not told apart']
        parts = [
            f'{word} {", ".join(names)}'
            for word, names in (('beats', beaten), ('loses to', lost), ('can not be told apart from', tied))
            if names
        ]
        lines.append(
            f'horizon {horizon}, {n} rows (about {free:.3g} independent): by {findings["loss"]}, '
            f'{findings["name"]} ' + ('; '.join(parts) if parts else 'has no baseline to be compared with') + '.'
        )
        if free < 10:
            lines.append(f'With about {free:.3g} independent observations this shows that the pieces work, not skill.')
    return lines


def _common_mask(judged: list[Judged], rows: dict) -> np.ndarray:
    """The rows that every forecaster answers: all are scored on the same ones."""
    mask = rows['valid'] & np.isfinite(rows['target'])
    for j in judged:
        given = np.isfinite(np.asarray(j.point.mean()))
        if lost := int((mask & ~given).sum()):
            say(f'{j.name} has no forecast for {lost} of {int(mask.sum())} targets: they are left out for all')
        mask &= given
    if not mask.any():
        raise InputError('no target is forecast by every forecaster', remedy='check the split dates and the baselines')
    return mask


def _finite_or_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _finite_or_none(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite_or_none(v) for v in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _all_positive(rows: dict) -> bool:
    return bool((rows['target'][rows['valid']] > 0).all())


def _ratio(pair) -> np.ndarray:
    total, weight = (np.asarray(p, np.float64) for p in pair)
    return np.where(weight > 0, total / np.where(weight > 0, weight, 1), np.nan)
