"""trains and scores one model a fold, each on what came before its test block, and judges all blocks together."""

import contextlib
import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from fjq.config import Experiment, from_json
from fjq.errors import InputError
from fjq.evaluate import Forecasts, conclude, judge, write
from fjq.forecast import Point, Quantiles, to_columns
from fjq.jobs import evaluate
from fjq.log import say
from fjq.report import write_report
from fjq.run import cache_folder, changes_since_training, lock, write_facts
from fjq.scores import Judged
from fjq.task import Dataset
from fjq.train import train

FOLDER = 'walk_forward'
SCORES = 'evaluation.json'


def run(config: Experiment, workdir: Path) -> None:
    """Writes a run folder for each fold to walk_forward/fold_K, and the report of all of them to walk_forward.

    A fold is an ordinary run with `data.fold=K`, so a killed job goes on where it stopped, and a fold that was scored
    with this config is not done again. The forecasts of the folds are pooled and judged as one test split.

    Raises:
      InputError: the data have no folds, or changed since one was trained.
    """
    check_folds(config)
    folder = Path(workdir) / FOLDER
    runs, datasets = [], []
    for fold in range(config.data.folds):
        one = dataclasses.replace(
            config,
            data=dataclasses.replace(config.data, fold=fold),
            evaluate=dataclasses.replace(config.evaluate, split='test'),
            cache=str(cache_folder(config, workdir)),
        )
        runs.append(folder / f'fold_{fold}')
        if not is_done(one, runs[-1]):
            say(f'fold {fold} of {config.data.folds}')
            (runs[-1] / SCORES).unlink(missing_ok=True)  # of another config, should this be killed before it is scored
            train(one, runs[-1])
            evaluate.run(one, runs[-1])
        datasets.append(one.data.open(cache_folder(one, workdir), one.parallel))
        check_unchanged(runs[-1], datasets[-1])  # whose targets its forecasts are joined with
        say(f'fold {fold} is done')
    found = [json.loads((r / SCORES).read_text()) for r in runs]
    pooled = pool_folds(one, runs, datasets, found)
    # Training rows and history are those of the first fold: no reference may know a block that is scored.
    findings, table = judge(one, None, datasets[0], pooled)
    findings.setdefault('studies', {})['folds'] = describe(found)
    write_facts(one, folder, {'folds': [d.fingerprint() for d in datasets]})
    write(findings, table, folder)
    say(evaluate.format_scores(findings))
    for line in conclude(findings):
        say(line)
    for path in write_report(folder):
        say(path)


def check_folds(config: Experiment) -> None:
    """Raises InputError where there are none."""
    if getattr(config.data, 'folds', 0) < 2:
        raise InputError(
            'the data are not cut into folds', column='data.folds', remedy='use data with 2 or more of them'
        )


def start_over(config: Experiment, workdir: Path) -> None:
    """Removes the folds and what was made of them; the training run beside them stays."""
    check_folds(config)
    folder = Path(workdir) / FOLDER
    with contextlib.ExitStack() as held:
        for run_ in (Path(workdir), *folder.glob('fold_*')):
            held.enter_context(lock(run_))
        if folder.exists():
            shutil.rmtree(folder)


def is_done(config: Experiment, folder: Path) -> bool:
    """Whether a fold was trained and scored with this config, and scored on the data of its training."""
    scored, trained = folder / SCORES, folder / 'config.json'
    if not (scored.is_file() and trained.is_file()):
        return False
    return from_json(trained.read_text()) == config and not json.loads(scored.read_text()).get('changed')


def check_unchanged(folder: Path, dataset: Dataset) -> None:
    """Raises InputError where the data of now are not those that a fold was trained on."""
    if changed := changes_since_training(folder, dataset.fingerprint()):
        raise InputError(
            f'the data changed since the fold was trained ({", ".join(changed)})',
            file=folder,
            remedy='restore the data and its settings, choose another --workdir, or start over with --fresh',
        )


def pool_folds(config: Experiment, runs: list[Path], datasets: list[Dataset], found: list[dict]) -> Forecasts:
    """The forecasts of all test blocks, each law by its quantiles at `evaluate.levels`. A forecaster that is absent
    from one fold is absent from all."""
    parts = [d.rows('test') for d in datasets]
    rows = {k: np.concatenate([p[k] for p in parts]) for k in parts[0] if k != 'horizon'}
    rows['horizon'] = parts[0]['horizon']
    tables = [pq.read_table(r / 'forecasts' / 'test.parquet') for r in runs]
    levels = config.evaluate.levels
    columns = [n for n in to_columns(Quantiles(levels, np.zeros((1, len(levels)))), levels) if n != 'mean']
    names = [n for n in found[0]['scores'] if all(n in f['scores'] for f in found)]
    missing = {n: reason for f in found for n, reason in f['unavailable'].items()}
    judged = []
    for name in names:
        mine = [t.filter(np.asarray(t['model']) == name) for t in tables]
        read = lambda column, mine=mine: np.concatenate([t[column].to_numpy() for t in mine]).reshape(
            rows['target'].shape
        )
        law = Quantiles(levels, np.stack([read(c) for c in columns], -1))
        judged.append(Judged(name, Point(read('point')), law))
    return Forecasts(judged, rows, missing)


def describe(found: list[dict[str, Any]]) -> dict[str, Any]:
    """The study of how even the folds are: the loss of the model in each, and its difference to each baseline."""
    lines, wins = [], {}
    for fold, f in enumerate(found):
        for h, horizon in enumerate(f['horizons']):
            line = {'fold': fold, 'first': f['first'], 'last': f['last'], 'horizon': horizon, 'rows': f['rows'][h]}
            line[f'{f["loss"]} of the model'] = f['scores'][f['name']][f['loss']][h]
            for name, differences in f['differences'].items():
                line[f'{name}, less the model'] = differences[h]['mean']
                wins.setdefault(horizon, {}).setdefault(name, []).append((differences[h]['mean'] or 0) > 0)
            lines.append(line)
    sentences = [
        f'Horizon {horizon}, folds of {len(found)} in which the model is ahead: '
        + ', '.join(f'{sum(w)} of {name}' for name, w in by_name.items())
        + '.'
        for horizon, by_name in wins.items()
    ]
    return {'tables': {'Folds': lines}, 'sentences': sentences, 'charts': []}
