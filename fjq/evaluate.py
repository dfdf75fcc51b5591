"""The only evaluation harness: forecasts of a split beside baselines, with intervals for every difference.

It knows rows, targets and forecast laws, and no model. Point forecasts, the model's and the baselines' alike,
are dressed with the errors that they made on an earlier split, so that all have intervals to be judged by.
"""

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fjq import compare
from fjq.atomic import atomic, write_atomic
from fjq.baselines import PathBaseline, Unavailable
from fjq.calibration import Calibration, PastErrors, choose_method
from fjq.config import Evaluate, Experiment
from fjq.errors import InputError
from fjq.forecast import Law, Point, Quantiles
from fjq.log import say
from fjq.scores import LOSSES, OF_VOLATILITY, Judged, all_positive, calibration, difference, format_time, score
from fjq.task import Dataset
from fjq.trained import Trained, forecast_table, predict_rows

LEAST_ANSWERED = 0.9  # a baseline that forecasts less of the targets is left out, not the targets


class Forecasts(NamedTuple):
    """The forecasts of a split: the model first; what could not forecast, with the reason."""

    judged: list[Judged]
    rows: dict[str, np.ndarray]
    unavailable: dict[str, str]


def evaluate(config: Experiment, trained: Trained, dataset: Dataset) -> tuple[dict[str, Any], pa.Table]:
    """Scores the model and every baseline on `config.evaluate.split`.

    What is fitted on the valid split, a calibration or the errors of a point forecast, is left in
    `trained.calibration`.

    Returns:
      (the findings, as evaluation.json holds them; every forecast, one line a forecaster, row and horizon)

    Raises:
      InputError: the split is empty or a setting is unknown.
    """
    check_evaluate(config.evaluate)
    return judge(config, trained, dataset, forecast_all(config, trained, dataset))


def check_evaluate(settings: Evaluate) -> None:
    """Raises InputError where the split or the loss is none that can be evaluated, whatever the data are."""
    if settings.split not in ('valid', 'test'):
        raise InputError(
            f'the split {settings.split!r} is not evaluated: errors and labels of an earlier one are needed',
            column='evaluate.split',
            remedy='use test, or valid',
        )
    if settings.loss not in LOSSES:
        raise InputError(f'evaluate.loss is {settings.loss!r}', remedy='choose one of ' + ', '.join(LOSSES))


def forecast_all(config: Experiment, trained: Trained, dataset: Dataset) -> Forecasts:
    """The forecasts of `config.evaluate.split` by the model, calibrated and raw where so configured, and baselines."""
    settings = config.evaluate
    earlier = _earlier(settings.split)
    law, rows = predict_rows(trained.predict, dataset, settings.split)
    if settings.loss in OF_VOLATILITY and not all_positive(rows):
        raise InputError(
            f'evaluate.loss is {settings.loss!r} and some targets are not positive',
            remedy='choose one of ' + ', '.join(n for n in LOSSES if n not in OF_VOLATILITY),
        )
    earlier_law, earlier_rows = predict_rows(trained.predict, dataset, earlier)
    judged = [Judged(config.name, law, dress_with_errors(law, earlier_law, earlier_rows))]
    method = choose_method(settings.calibration, law)
    if method is not None and earlier == 'valid':
        trained.calibration = Calibration.of(method, earlier_law, earlier_rows, trained.step)
    if settings.calibration is not None:
        if earlier != 'valid':
            raise InputError('the calibration is fitted on the valid split', column='evaluate.split', remedy='use test')
        calibrated = trained.calibration.apply(law, rows)
        trained.calibration = trained.calibration.hear(law, rows)
        judged = [
            Judged(config.name, calibrated, calibrated),
            dataclasses.replace(judged[0], name=f'{config.name}, raw'),
        ]
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
        walks = isinstance(baseline, PathBaseline)
        paths = functools.partial(baseline.simulate, dataset.history(), rows, labels) if walks else None
        judged.append(Judged(baseline.name, f, dress_with_errors(f, e, earlier_rows), paths))
    return Forecasts(make_alike(judged, settings.levels), rows, missing)


def make_alike(judged: list[Judged], levels: tuple[float, ...]) -> list[Judged]:
    """Where one law is `Quantiles`, all as quantiles at `levels`: the CRPS of a few quantiles is not that of a whole
    law, and of two equal forecasts the one in other terms would win."""
    if not any(isinstance(j.law, Quantiles) for j in judged):
        return judged
    read = lambda law: np.asarray(law.quantile(np.asarray(levels)))
    return [dataclasses.replace(j, law=Quantiles(levels, read(j.law))) for j in judged]


def judge(
    config: Experiment, trained: Trained | None, dataset: Dataset, forecasts: Forecasts
) -> tuple[dict[str, Any], pa.Table]:
    """The findings of forecasts and their table; `trained` and `dataset` are for the studies."""
    settings, (judged, rows, missing) = config.evaluate, forecasts
    mask = _common_mask(judged, rows)
    overlaps, blocks = spans(settings, rows)
    settled = {'loss': settings.loss, 'overlaps': overlaps, 'blocks': blocks, 'draws': settings.draws}
    findings = {
        'name': config.name,
        'split': settings.split,
        'dressed_with': _earlier(settings.split),
        'first': format_time(rows['time'][0]),
        'last': format_time(rows['time'][-1]),
        'horizons': [str(h) for h in rows['horizon']],
        'rows': mask.sum(0).tolist(),
        'independent': [
            compare.effective_size(len(np.unique(rows['time'][m])), o) for m, o in zip(mask.T, overlaps, strict=True)
        ],
        'scores': {j.name: score(j, rows, mask, dataset.rows('train')) for j in judged},
        'unavailable': missing,
        'loss': settings.loss,
        'differences': {j.name: difference(judged[0], j, rows, mask, **settled) for j in judged[1:]},
        'calibration': {j.name: calibration(j, rows, mask) for j in judged},
    }
    if settings.studies:
        findings['studies'] = {}
        for question in settings.studies:
            study = question.run(trained, dataset, settings.split, judged, rows, mask)
            findings['studies'][question.name] = {
                'tables': study.tables,
                'sentences': study.sentences,
                'charts': [chart._asdict() for chart in study.charts],
            }
    tables = [table_with_point(j.point, j.law, rows, settings.levels) for j in judged]
    named = [t.add_column(0, 'model', pa.array([j.name] * t.num_rows)) for t, j in zip(tables, judged, strict=True)]
    return findings, pa.concat_tables(named, promote_options='permissive')


def spans(settings: Evaluate, rows: dict[str, np.ndarray]) -> tuple[list[int], list[int]]:
    """(moments that one target spans, moments in a bootstrap block), one a horizon; a moment has a row or several."""
    overlaps = [settings.overlap] * rows['target'].shape[1]
    if not settings.overlap:
        overlaps = compare.count_span(rows)
    return overlaps, [settings.block or 2 * o for o in overlaps]


def _earlier(split: str) -> str:
    """The split whose errors and labels a forecast of `split` may know."""
    return 'train' if split == 'valid' else 'valid'


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
    """A point forecast with the errors that its kind made on earlier rows; any other law as it is."""
    if not isinstance(law, Point):
        return law
    method = PastErrors()
    return method.apply(method.fit(earlier, earlier_rows), law, earlier_rows)


def write(findings: dict[str, Any], table: pa.Table, workdir: Path) -> None:
    """evaluation.json and forecasts/SPLIT.parquet, whole or not at all.

    The JSON is strict: a figure that is not finite, such as the ends of an interval of too few rows, is null.
    """
    write_forecasts(table, workdir / 'forecasts' / f'{findings["split"]}.parquet')
    text = json.dumps(_to_json(findings), indent=1, allow_nan=False)
    write_atomic(workdir / 'evaluation.json', (text + '\n').encode())


def write_forecasts(table: pa.Table, path: Path) -> None:
    """A parquet file, whole or not at all."""
    with atomic(path) as part:
        pq.write_table(table, part)


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
        best = find_best(findings, h)
        d = findings['differences'][best][h] if best else {}
        if best and np.isfinite([d['low'], d['high']]).all():
            lines[-1] += (
                f' The best baseline on these rows is {best}: its {findings["loss"]} minus that of the model is '
                f'{d["mean"]:.3g} ({d["low"]:.3g} to {d["high"]:.3g}), Diebold-Mariano p {d["p"]:.2g}.'
            )
        if free < 10:
            lines.append(f'With about {free:.3g} independent observations this shows that the pieces work, not skill.')
    return lines + [line for study in findings.get('studies', {}).values() for line in study['sentences']]


def find_best(findings: dict[str, Any], h: int) -> str:
    """The baseline with the least loss at a horizon, '' where there is none; the model uncalibrated is no baseline."""
    losses = {name: findings['scores'][name][findings['loss']][h] for name in findings['differences']}
    losses.pop(f'{findings["name"]}, raw', None)
    return min(losses, key=losses.get, default='')


def is_known(findings: dict[str, Any], figure: str) -> bool:
    """Whether any forecaster has this figure at any horizon: some losses are of volatilities only."""
    values = [v for scores in findings['scores'].values() for v in scores[figure]]
    return bool(np.isfinite(np.array(values, np.float64)).any())


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


def _to_json(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _to_json(v) for k, v in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        value = value.astype(str).tolist() if value.dtype.kind == 'M' else value.tolist()
    if isinstance(value, list | tuple):
        return [_to_json(v) for v in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
