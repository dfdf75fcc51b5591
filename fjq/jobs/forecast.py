"""writes the newest forecast to forecasts/latest.parquet, then all unless --config.forecast.only_latest=true is given.

Each has its mean and quantiles; the table of all is forecasts/all.parquet.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa

from fjq.adopt import adopt_task
from fjq.calibration import Calibration, choose_method
from fjq.config import Experiment
from fjq.evaluate import table_with_point, write_forecasts
from fjq.fit import open_data
from fjq.forecast import Law, Point
from fjq.log import say
from fjq.run import changes_since_training
from fjq.scores import format_time
from fjq.task import Dataset
from fjq.trained import Trained, predict_rows

SPLITS = ('train', 'valid', 'test')


def run(config: Experiment, workdir: Path) -> None:
    """Forecasts with the best weights, calibrated by the valid split where the config says so or where a model without
    a law has no other intervals; the newest row of each `id` first, to forecasts/latest.parquet, for who trades on it.
    With `only_latest` that is all: a calibration that follows labels hears anew, each time, those since the last table
    of all rows.

    The column `split` says of what each row is a part: 'train', 'valid', 'test', or '' where it has no label or lies
    in a gap. What is calibrated by the valid split is no forecast of the rows before the test split: they have the
    model's own mean and null quantiles.
    """
    config = adopt_task(config, workdir)
    trained = Trained.load(workdir, config.task)
    dataset = open_data(config, workdir)
    folder, whole = workdir / 'forecasts', dataset.rows('all')
    newest = find_newest(whole)
    law, _ = predict_rows(trained.predict, dataset, 'all', newest.min())
    trained.calibration = calibrate(config, trained, dataset, law, workdir)
    first = find_first(whole, newest, trained.calibration)
    table, _, rows = forecast(config, trained, dataset, first)
    kept = np.isin(np.arange(len(rows['time'])), newest - first)
    write_forecasts(table.filter(np.repeat(kept, table.num_rows // len(kept))), folder / 'latest.parquet')
    say(f'{folder / "latest.parquet"}: the newest row of {len(newest)} id(s), up to {format_time(rows["time"][-1])}')
    if changed := changes_since_training(workdir, dataset.fingerprint()):
        say(f'the data are not those of the training: {", ".join(changed)} differ')
    if config.forecast.only_latest:
        return
    table, raw, rows = forecast(config, trained, dataset)
    if trained.calibration is not None:
        trained.calibration.hear(raw, rows).write(workdir)
    write_forecasts(table, folder / 'all.parquet')
    period = f'{format_time(rows["time"][0])} to {format_time(rows["time"][-1])}'
    say(f'{folder / "all.parquet"}: {table.num_rows} forecasts, {period}')


def forecast(
    config: Experiment, trained: Trained, dataset: Dataset, first: int = 0
) -> tuple[pa.Table, Law, dict[str, np.ndarray]]:
    """(the table of the rows from `first` on, the model's own law of them, the rows)."""
    raw, rows = predict_rows(trained.predict, dataset, 'all', first)
    law = raw if trained.calibration is None else trained.calibration.apply(raw, rows)
    table = table_with_point(raw if isinstance(raw, Point) else law, law, rows, config.evaluate.levels)
    split, early = name_splits(dataset, rows)
    if trained.calibration is not None:
        table = withdraw(table, raw, early)
    return table.append_column('split', pa.array(np.repeat(split, table.num_rows // len(split)))), raw, rows


def find_newest(rows: dict[str, np.ndarray]) -> np.ndarray:
    """The last row of each id, in order of time."""
    _, back = np.unique(rows['id'][::-1], return_index=True)
    return np.sort(len(rows['id']) - 1 - back)


def find_first(rows: dict[str, np.ndarray], newest: np.ndarray, calibration: Calibration | None) -> int:
    """The first row that the newest ones need: a calibration that follows labels goes on from the first that it waits
    for."""
    followed = [] if calibration is None else calibration.followed
    if not followed:
        return int(newest.min())
    since = np.asarray(followed).astype(rows['time'].dtype).min()
    return int(min(newest.min(), np.searchsorted(rows['time'], since)))


def calibrate(config: Experiment, trained: Trained, dataset: Dataset, law: Law, workdir: Path) -> Calibration | None:
    """The calibration of these weights by the method that is due; where no evaluation did, fitted now as one does."""
    known, method = trained.calibration, choose_method(config.evaluate.calibration, law)
    if method is None:
        return None
    if known is None or known.method != method:
        known = Calibration.of(method, *predict_rows(trained.predict, dataset, 'valid'), trained.step)
        if known.followed:  # from the first row that is scored on
            known = known.hear(*predict_rows(trained.predict, dataset, 'test'))
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
