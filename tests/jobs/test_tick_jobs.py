"""The jobs that make the ticker list and the file of volatility, on a simulated market."""

import dataclasses
import datetime
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fjq.config import Experiment
from fjq.data.ticks.files import read_tickers
from fjq.data.ticks.tcn import TcnData
from fjq.data.ticks.top_stocks import last_whole_day, top_stocks
from fjq.data.volatility.realized import ComputeRv
from fjq.data.volatility.targets import read_targets
from fjq.data.windows import Split
from fjq.errors import InputError
from fjq.jobs import compute_rv
from fjq.jobs import top_stocks as top_stocks_job
from fjq.launch import load_config
from fjq.parallel import Parallel
from fjq.task import Shard

INLINE = Parallel(workers=1)
TRAIN_END = '2022-02-08'
ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(scope='module')
def trades(tmp_path_factory):
    from fjq.data.synthetic.market import scaled
    from fjq.data.synthetic.simulate import simulate

    return simulate(tmp_path_factory.mktemp('market'), scaled('tiny', days=9, what=('stocks',)), INLINE)['stocks']


@pytest.fixture
def config(trades):
    split = Split(train_end=TRAIN_END, valid_end='2022-02-09', purge_days=1, embargo_days=0)
    data = TcnData(root=str(trades), stream='stocks', split=split)
    return Experiment(name='tcn', task=None, data=data, parallel=INLINE)


def test_the_list_is_that_of_the_train_days(config, trades, tmp_path, capsys):
    config.data.top.top_n = 5
    top_stocks_job.run(config, tmp_path)
    expected, files = top_stocks(config.data.tick_files(), 5, datetime.date(2022, 2, 8), INLINE)
    assert read_tickers(tmp_path / 'top_stocks.txt') == tuple(s.ticker for s in expected)
    assert (tmp_path / 'top_stocks.txt').read_text().startswith('# train_end=2022-02-08\n')
    lines = capsys.readouterr().out.splitlines()
    assert f'{files} files up to the train end 2022-02-08' in lines and files == 6
    first = expected[0]
    assert f'1. {first.ticker}: {first.total / 1e3:.2f}k shares, 6 days' in lines
    assert sum(line[:2] in ('1.', '2.', '3.', '4.', '5.') for line in lines) == 5


def test_a_moment_inside_a_day_leaves_the_day_out():
    assert last_whole_day('2022-02-08') == datetime.date(2022, 2, 8)
    assert last_whole_day('2022-02-08T12:00') == datetime.date(2022, 2, 7)
    assert last_whole_day('2022-02') == datetime.date(2022, 2, 28)  # of a month or a year, all of it, as the split does
    assert last_whole_day('2022') == datetime.date(2022, 12, 31)
    with pytest.raises(InputError, match="'soon' is no date"):
        last_whole_day('soon')


@pytest.mark.parametrize(
    ('amount', 'text'), [(12.0, '12.00'), (1234.0, '1.23k'), (5e8, '500.00M'), (2.5e9, '2.50B'), (4e12, '4.00T')]
)
def test_amounts_are_short(amount, text):
    assert top_stocks_job._short(amount) == text


def test_the_file_of_volatility_is_read_back(config, tmp_path, capsys):
    compute_rv.run(config, tmp_path)
    (path,) = tmp_path.iterdir()
    assert path.name == 'spy_daily_rv.parquet'
    assert pq.read_table(path).num_rows == 9
    targets = read_targets(path, (5,))
    assert targets.valid.sum() > 3 and (targets.daily_rv < 2).all()
    out = capsys.readouterr().out
    assert '9 days from 2022-02-01 to 2022-02-11, variance' in out
    assert f'rv_5d_forward: {targets.valid.sum()} labels' in out


def test_labels_are_of_the_ticks_that_features_are_of(config, trades, tmp_path):
    """Of another column of time, and without the corrections that do not count."""
    for file in trades.rglob('*.parquet'):
        table = pq.read_table(file)
        names = ['participant_timestamp' if name == 'sip_timestamp' else name for name in table.column_names]
        corrected = pa.array(np.arange(len(table)) % 3 == 0).cast(pa.int32())
        pq.write_table(table.rename_columns(names).append_column('correction', corrected), tmp_path / file.name)
    config.data.root, config.data.time_column = str(tmp_path), 'participant_timestamp'
    counts = []
    for kept in ((0,), (0, 1)):
        config.data.keep_corrections = kept
        compute_rv.run(config, tmp_path / 'run')
        counts.append(sum(pq.read_table(tmp_path / 'run' / 'spy_daily_rv.parquet')['n_ticks'].to_pylist()))
    assert 0.6 < counts[0] / counts[1] < 0.7


def test_an_own_folder_and_file_are_used(config, trades, tmp_path):
    config.data.root, config.data.stream = str(tmp_path / 'elsewhere'), 'index'
    config.data.rv = ComputeRv(root=str(trades), measure='two_scale', out=str(tmp_path / 'deep' / 'rv.parquet'))
    compute_rv.run(config, tmp_path / 'run')
    assert os.listdir(tmp_path) == ['deep']
    assert np.isfinite(pq.read_table(tmp_path / 'deep' / 'rv.parquet')['daily_rv'].to_numpy()).all()


@pytest.mark.parametrize('job', [top_stocks_job, compute_rv])
def test_a_config_of_another_family_is_refused(job, tmp_path):
    with pytest.raises(InputError, match='Use a config of the TCN'):
        job.run(Experiment(name='other', task=None, data=None, parallel=INLINE), tmp_path)


def test_the_list_that_a_config_reads_is_the_one_that_the_job_writes(trades, tmp_path, monkeypatch):
    """In whatever workdir the job runs; and a list of later days than the train split is refused."""
    monkeypatch.chdir(tmp_path)
    config = load_config(ROOT / 'configs' / 'tcn_stocks.py', 'cpu,tickers')
    config.data = dataclasses.replace(config.data, root=str(trades), targets='', frame='20min')
    config.parallel, config.data.split.train_end = INLINE, TRAIN_END
    with pytest.raises(InputError, match='--job=top_stocks'):
        config.data.open(tmp_path / 'cache', INLINE)
    top_stocks_job.run(config, tmp_path / 'anywhere')
    dataset = config.data.open(tmp_path / 'cache', INLINE)
    config.task.build().check_settings(config.data)
    assert dataset.batches('all', Shard())[0]['tickers'].max() >= 0
    config.data.split.train_end = '2022-02-07'
    with pytest.raises(InputError, match='the list knows days up to 2022-02-08, the train split ends on 2022-02-07'):
        config.data.open(tmp_path / 'cache', INLINE)


def test_ticks_without_the_ticker_say_so(config, tmp_path, capsys):
    config.data.rv.ticker = 'NONE'
    with pytest.raises(InputError, match='2022-02-01.parquet has .*SPY.*: set data.rv.ticker to one'):
        compute_rv.run(config, tmp_path)
    assert 'days left out, no tick of NONE: 9' in capsys.readouterr().out
