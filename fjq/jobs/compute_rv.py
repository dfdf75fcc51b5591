"""makes the file of daily realised volatility and its forward labels from trades or bars."""

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from fjq.atomic import atomic
from fjq.config import Experiment
from fjq.data.volatility.realized import ComputeRv, compute_rv
from fjq.errors import InputError
from fjq.log import say
from fjq.run import cache_folder


def run(config: Experiment, workdir: Path) -> None:
    """Writes the file and prints what is in it."""
    options = getattr(config.data, 'rv', None)
    if not isinstance(options, ComputeRv):
        raise InputError(
            f'{config.name} has no volatility to measure', column='data.rv', remedy='use a config of the TCN'
        )
    ticks = None
    if not options.root:
        data = config.data.locate(cache_folder(config, workdir), config.parallel)
        options, ticks = dataclasses.replace(options, root=data.root, stream=data.stream), data.tick_files()
    path = Path(options.out) if options.out else workdir / f'{options.ticker.lower()}_daily_rv.parquet'
    table = compute_rv(options, config.parallel, ticks)
    with atomic(path) as part:
        pq.write_table(table, part)
    daily_rv = table['daily_rv'].to_numpy()
    first, last = (table['date'][i].as_py().date() for i in (0, -1))
    say(
        f'{table.num_rows} days from {first} to {last}, {options.measure}: '
        f'volatility {np.sqrt((daily_rv**2).mean()):.3f} a year, days from {daily_rv.min():.3f} to {daily_rv.max():.3f}'
    )
    for h in options.horizons:
        say(f'rv_{h}d_forward: {table.num_rows - table[f"rv_{h}d_forward"].null_count} labels')
    say(f'written to {path}; --config.data.targets={path} uses it')
