"""A model that forecasts points: every exit gives the same intervals, or none, and none to rows that trained it."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from jax import export as jax_export
from test_bad_input import DAYS, ticks

import fjq
from fjq.feed import read_batches


@pytest.fixture(scope='module')
def run(launch_ticks, tmp_path_factory):
    folder = tmp_path_factory.mktemp('dressed') / 'run'
    launch_ticks('train', folder)
    return folder


def serve(run):
    """What the exported program gives for the first rows of the data."""
    trained = fjq.load(run / 'export')
    batch = next(iter(read_batches(trained.config.data.from_table(ticks(DAYS[-1])), 'all')))
    program = jax_export.deserialize((run / 'export' / 'predict.stablehlo').read_bytes())
    return trained, batch, program.call(trained.params, trained.extra, batch)


def test_every_exit_gives_the_same_intervals_once_errors_are_known(launch_ticks, run):
    days = pa.concat_tables([ticks(d) for d in DAYS])
    bare = fjq.load(run).predict_df(days)
    assert not [n for n in bare.column_names if n[0] == 'q'] and bare.num_rows == len(DAYS)
    launch_ticks('export', run)
    assert (
        set(serve(run)[2]) == {'mean'} and json.loads((run / 'export' / 'predict.json').read_text())['quantiles'] == []
    )

    launch_ticks('forecast', run, '--config.forecast.only_latest=true')
    assert [p.name for p in (run / 'forecasts').iterdir()] == ['latest.parquet']
    latest = pq.read_table(run / 'forecasts' / 'latest.parquet')
    launch_ticks('forecast', run)
    assert pq.read_table(run / 'forecasts' / 'latest.parquet').equals(latest)
    table = pq.read_table(run / 'forecasts' / 'all.parquet')
    late = table['time'].to_numpy() > np.datetime64('2022-02-18')
    assert set(table['split'].to_numpy()[late]) == {'test'}
    np.testing.assert_array_equal(table['point'], bare['mean'])
    early = table.filter(~late)
    assert early['q05'].null_count == early.num_rows and early['mean'].equals(early['point'])
    assert set(early['split'].to_pylist()) == {'train', 'valid', ''}  # '' = purged
    served = fjq.load(run).predict_df(days, levels=(0.05, 0.25, 0.5, 0.75, 0.95)).filter(late)
    for name in ('mean', 'q05', 'q25', 'q50', 'q75', 'q95'):
        np.testing.assert_array_equal(served[name], table.filter(late)[name])
    assert (np.asarray(served['q05']) < np.asarray(served['q95'])).all()

    launch_ticks('export', run)
    trained, batch, out = serve(run)
    law = trained.calibration.apply(trained.predict(batch), {})
    np.testing.assert_allclose(out['quantiles'], law.quantile(np.array([0.05, 0.25, 0.5, 0.75, 0.95])), rtol=1e-6)
    np.testing.assert_allclose(out['mean'], law.mean(), rtol=1e-6)
    assert (out['quantiles'][..., 0] < out['quantiles'][..., -1]).all()
