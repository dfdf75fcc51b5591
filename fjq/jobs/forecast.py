"""writes the forecast of every row, labelled or not, with quantiles to forecasts/all.parquet."""

from pathlib import Path

from fjq.calibration import Calibration
from fjq.config import Experiment
from fjq.evaluate import dress_with_errors, table_with_point, write_forecasts
from fjq.log import say
from fjq.run import adopt_task, changes_since_training, open_data
from fjq.scores import format_time
from fjq.task import Dataset
from fjq.trained import Trained, predict_rows


def run(config: Experiment, workdir: Path) -> None:
    """Forecasts with the best weights: calibrated where the config says so, and a model without a law is dressed with
    its validation errors."""
    config = adopt_task(config, workdir)
    trained = Trained.load(workdir)
    dataset = open_data(config, workdir)
    point, rows = predict_rows(trained.predict, dataset, 'all')
    if config.evaluate.calibration is None:
        law = dress_with_errors(point, *predict_rows(trained.predict, dataset, 'valid'))
    else:
        point = law = calibrate(config, trained, dataset, workdir).apply(point, rows)
    path = workdir / 'forecasts' / 'all.parquet'
    table = table_with_point(point, law, rows, config.evaluate.levels)
    write_forecasts(table, path)
    if changed := changes_since_training(workdir, dataset.fingerprint()):
        say(f'the data are not those of the training: {", ".join(changed)} differ')
    say(f'{path}: {table.num_rows} forecasts, {format_time(rows["time"][0])} to {format_time(rows["time"][-1])}')


def calibrate(config: Experiment, trained: Trained, dataset: Dataset, workdir: Path) -> Calibration:
    """The calibration of these weights by the config's method, fitted now where no evaluation did."""
    known = trained.calibration
    if known is None or known.method != config.evaluate.calibration:
        law, rows = predict_rows(trained.predict, dataset, 'valid')
        known = Calibration.of(config.evaluate.calibration, law, rows, trained.step)
        known.write(workdir)
    return known
