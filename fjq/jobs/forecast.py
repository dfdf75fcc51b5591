"""writes the forecast of every row, labelled or not, with quantiles to forecasts/all.parquet."""

from pathlib import Path

import numpy as np
import pyarrow as pa

from fjq.calibration import Calibration, choose_method
from fjq.config import Experiment
from fjq.evaluate import table_with_point, write_forecasts
from fjq.forecast import Law, Point
from fjq.log import say
from fjq.run import adopt_task, changes_since_training, open_data
from fjq.scores import format_time
from fjq.task import Dataset
from fjq.trained import Trained, predict_rows

SPLITS = ('train', 'valid', 'test')


def run(config: Experiment, workdir: Path) -> None:
    """Forecasts with the best weights, calibrated by the valid split where the config says so or where a model without
    a law has no other intervals.

    The column `split` says of what each row is a part: 'train', 'valid', 'test', or '' where it has no label or lies
    in a gap. What is calibrated by the valid split is no forecast of the rows before the test split: they have the
    model's own mean and null quantiles.
    """
    config = adopt_task(config, workdir)
    trained = Trained.load(workdir)
    dataset = open_data(config, workdir)
    raw, rows = predict_rows(trained.predict, dataset, 'all')
    calibration = calibrate(config, trained, dataset, raw, workdir)
    law = raw if calibration is None else calibration.apply(raw, rows)
    table = table_with_point(raw if isinstance(raw, Point) else law, law, rows, config.evaluate.levels)
    split, early = name_splits(dataset, rows)
    if calibration is not None:
        table = withdraw(table, raw, early)
        calibration.hear(raw, rows).write(workdir)
    table = table.append_column('split', pa.array(np.repeat(split, table.num_rows // len(split))))
    path = workdir / 'forecasts' / 'all.parquet'
    write_forecasts(table, path)
    if changed := changes_since_training(workdir, dataset.fingerprint()):
        say(f'the data are not those of the training: {", ".join(changed)} differ')
    say(f'{path}: {table.num_rows} forecasts, {format_time(rows["time"][0])} to {format_time(rows["time"][-1])}')


def calibrate(config: Experiment, trained: Trained, dataset: Dataset, law: Law, workdir: Path) -> Calibration | None:
    """The calibration of these weights by the method that is due, fitted now where no evaluation did."""
    known, method = trained.calibration, choose_method(config.evaluate.calibration, law)
    if method is None:
        return None
    if known is None or known.method != method:
        known = Calibration.of(method, *predict_rows(trained.predict, dataset, 'valid'), trained.step)
        known.write(workdir)
    return known


def name_splits(dataset: Dataset, rows: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """(the split [N] of each row, '' for none; whether it lies before the test split [N])."""
    parts = {name: dataset.rows(name) for name in SPLITS}
    whole = (rows, *parts.values())  # rows that train may be closer together than those that are forecast
    ids, times = (np.unique(np.concatenate([r[name] for r in whole])) for name in ('id', 'time'))
    place = lambda r: np.searchsorted(ids, r['id']) * len(times) + np.searchsorted(times, r['time'])
    here = place(rows)
    inside = [np.isin(here, place(part)) for part in parts.values()]
    return np.select(inside, SPLITS, ''), rows['time'] < parts['test']['time'].min()


def withdraw(table: pa.Table, raw: Law, early: np.ndarray) -> pa.Table:
    """The table with the model's own mean and no quantiles in early rows [N]."""
    mean = np.asarray(raw.mean())
    early, mean = np.repeat(early, mean.size // len(mean)), mean.reshape(-1)
    for i, name in enumerate(table.column_names):
        if name in ('mean', 'point'):
            table = table.set_column(i, name, pa.array(np.where(early, mean, table[name].to_numpy())))
        elif name[0] == 'q':
            table = table.set_column(i, name, pa.array(table[name].to_numpy(), mask=early))
    return table
