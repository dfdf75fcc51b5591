"""Jobs on bars: what is shipped is what was scored, and bars without a forecast are told."""

import shutil
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

import fjq
from fjq.jobs import evaluate, forecast
from fjq.launch import load_config
from fjq.train import train

CONFIG = Path(__file__).resolve().parents[2] / 'configs' / 'migt_tvdt.py'


@pytest.fixture(scope='module')
def config():
    config = load_config(CONFIG, 'tiny')
    config.train.steps, config.evaluate.baselines, config.evaluate.studies = 4, (), ()
    return config


@pytest.fixture(scope='module')
def run(config, tmp_path_factory):
    folder = tmp_path_factory.mktemp('bars') / 'run'
    train(config, folder)
    evaluate.run(config, folder)
    return folder


def read(run, name):
    return pq.read_table(run / 'forecasts' / f'{name}.parquet')


def check_equal(table, other):
    """Every bit of the columns that both have but the id, which bars in memory do not tell."""
    names = {*table.column_names} & {*other.column_names} - {'id'}
    assert {'time', 'horizon', 'q05', 'q10', 'q50', 'q90', 'q95', 'mean'} <= names
    for name in names:
        np.testing.assert_array_equal(table[name].to_numpy(), other[name].to_numpy(), err_msg=name)


def test_what_is_shipped_is_what_was_scored(config, run):
    """Though labels of rows between the valid and the test split are among those of all rows."""
    scored = read(run, 'test').filter(pc.field('model') == config.name)
    bars = pq.read_table(next(run.glob('cache/bars*.parquet')))
    tested = lambda table: table.filter(np.isin(table['time'].to_numpy(), scored['time'].to_numpy()))
    serve = lambda: fjq.load(run).predict_df(bars, levels=config.evaluate.levels)

    forecast.run(config, run)
    whole, latest, kept = read(run, 'all'), read(run, 'latest'), (run / 'calibration.json').read_bytes()
    times = {split: whole.filter(pc.field('split') == split)['time'].to_numpy() for split in ('valid', 'test')}
    between = (pc.field('time') > times['valid'].max()) & (pc.field('time') < times['test'].min())
    assert whole.filter(between & pc.is_finite(pc.field('target'))).num_rows
    check_equal(tested(whole), scored)
    check_equal(tested(serve()), scored)
    check_equal(latest, whole.slice(len(whole) - len(latest)))

    (run / 'calibration.json').unlink()  # as if never evaluated
    forecast.run(config, run)
    check_equal(read(run, 'all'), whole)
    check_equal(read(run, 'latest'), latest)
    check_equal(tested(serve()), scored)
    assert (run / 'calibration.json').read_bytes() == kept


def test_bars_that_are_newer_than_the_newest_forecast_are_told(config, run, tmp_path, capsys):
    """The night after a weekend: a window of a day of the clock has few bars yet."""
    folder = tmp_path / 'run'
    shutil.copytree(run, folder)
    config.forecast.only_latest = True
    forecast.run(config, folder)
    assert 'have no row' not in capsys.readouterr().out
    bars = next(folder.glob('cache/bars*.parquet'))
    table = pq.read_table(bars)
    pq.write_table(table.filter(table['time'].to_numpy() <= np.datetime64('2022-06-13T09')), bars)  # 05:00 in New York
    forecast.run(config, folder)
    assert set(read(folder, 'latest')['time'].to_numpy()) == {np.datetime64('2022-06-10T21')}
    (told,) = (line for line in capsys.readouterr().out.splitlines() if 'have no row' in line)
    for part in ('the last 11 bars', '2022-06-13T09:00', '2022-06-10T21:00', 'data.min_bars=12', "data.span='bars'"):
        assert part in told
    config.forecast.only_latest = False
