"""writes the forecast of every row, labelled or not, with quantiles to forecasts/all.parquet."""

from pathlib import Path

import pyarrow.parquet as pq

from fjq.config import Experiment
from fjq.evaluate import dress_with_errors
from fjq.log import say
from fjq.run import adopt_task, cache_folder
from fjq.trained import Trained, forecast_table, predict_rows


def run(config: Experiment, workdir: Path) -> None:
    """Forecasts with the best weights. A model without a law is dressed with its validation errors."""
    config = adopt_task(config, workdir)
    trained = Trained.load(workdir)
    dataset = config.data.open(cache_folder(config, workdir), config.parallel)
    law, rows = predict_rows(trained.predict, dataset, 'all')
    law = dress_with_errors(law, *predict_rows(trained.predict, dataset, 'valid'))
    path = workdir / 'forecasts' / 'all.parquet'
    path.parent.mkdir(parents=True, exist_ok=True)
    table = forecast_table(law, rows, config.evaluate.levels)
    pq.write_table(table, path)
    say(f'{path}: {table.num_rows} forecasts, {rows["time"][0]} to {rows["time"][-1]}')
