"""Runs of the small encoder of tests/ticks_config.py on files that are written here."""

import command
import pyarrow.parquet as pq
import pytest
from test_bad_input import CONFIG, DAYS, targets, ticks


@pytest.fixture(scope='session')
def launch_ticks(tmp_path_factory):
    """(job, run folder, *flags) -> nothing; the job must succeed."""
    folder = tmp_path_factory.mktemp('market')
    (folder / 'ticks').mkdir()
    for date in DAYS:
        pq.write_table(ticks(date), folder / 'ticks' / f'{date}.parquet')
    pq.write_table(targets(), folder / 'rv.parquet')

    def launch(job, run, *flags):
        given = f'--config.data.root={folder / "ticks"}', f'--config.data.targets={folder / "rv.parquet"}'
        assert command.run(f'--config={CONFIG}', f'--workdir={run}', f'--job={job}', *given, *flags) == 0

    return launch
