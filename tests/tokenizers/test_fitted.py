"""A model and the tokenizer that it was trained with stay together, whatever becomes of the files it was fitted on."""

import shutil

import numpy as np
import pytest

import fjq
from fjq.clear import clear
from fjq.data.tokens.data import TokenData
from fjq.errors import InputError
from fjq.jobs import generate
from fjq.keys import make_key
from fjq.launch import load_config
from fjq.run import read_manifest
from fjq.tokenizers import Bins, load
from fjq.train import train
from fjq.trained import Trained

DAYS = 260


def make_candles(seed, volatility=0.02):
    rng = np.random.Generator(np.random.Philox(seed))
    close = 50 * np.exp(np.cumsum(volatility * rng.standard_normal(DAYS)))
    opened = np.r_[50.0, close[:-1]]
    columns = {'open': opened, 'high': np.maximum(opened, close) * 1.003, 'low': np.minimum(opened, close) / 1.002}
    return {'time': np.datetime64('2018-01-01') + np.arange(DAYS), **columns, 'close': close}


def write_candles(path, **how):
    columns = make_candles(**how)
    rows = zip(*columns.values(), strict=True)
    path.write_text('\n'.join([','.join(columns).title(), *(','.join(map(str, row)) for row in rows)]) + '\n')


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp('market') / 'files'
    folder.mkdir()
    for seed, name in enumerate(('AA', 'BB')):
        write_candles(folder / f'{name}.csv', seed=seed)
    return folder


@pytest.fixture(scope='module')
def config(files):
    config = load_config('configs/microchat_pretrain.py', 'tiny')
    config.data = config.data.as_kind(TokenData, path=str(files), tokenizer=Bins(returns=8, ranges=4))
    config.task.gpt.layers, config.train.steps, config.train.eval_every, config.parallel.workers = 1, 3, 3, 1
    return config


@pytest.fixture(scope='module')
def trained_once(config, tmp_path_factory):
    folder = tmp_path_factory.mktemp('runs') / 'run'
    train(config, folder)
    return folder


@pytest.fixture
def run(trained_once, tmp_path):
    """A run of its own for each test."""
    return shutil.copytree(trained_once, tmp_path / 'run')


@pytest.fixture(scope='module')
def forecast(trained_once):
    """Of a table, by the run as it was when it ended."""
    return fjq.load(trained_once).predict_df(make_candles(7))


@pytest.fixture
def another_asset(files, forecast):
    """Adds a wild one to the files: bins fitted on all of them are others."""
    yield lambda: write_candles(files / 'CC.csv', seed=2, volatility=0.2)
    (files / 'CC.csv').unlink()


@pytest.fixture
def no_files(files, forecast):
    away = files.rename(files.with_name('away'))
    yield
    away.rename(files)


def assert_same(forecast, model):
    again = model.predict_df(make_candles(7))
    assert list(again) == list(forecast)
    for name in forecast:
        np.testing.assert_array_equal(again[name], forecast[name])


def test_a_run_keeps_its_tokenizer(run, forecast, another_asset):
    another_asset()
    assert_same(forecast, fjq.load(run))


def test_a_saved_model_needs_no_file_of_its_training(run, forecast, no_files, tmp_path):
    fjq.load(run).save(tmp_path / 'here')
    shutil.rmtree(run)
    fjq.load(shutil.move(tmp_path / 'here', tmp_path / 'there')).save(tmp_path / 'twice')
    read = lambda folder: {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob('*') if p.is_file()}
    assert read(tmp_path / 'there') == read(tmp_path / 'twice')
    model = fjq.load(tmp_path / 'twice')
    shutil.rmtree(tmp_path / 'twice')
    assert_same(forecast, model)


def test_a_saved_model_takes_the_tokens_of_its_own_tokenizer_alone(config, run, tmp_path, another_asset):
    fjq.load(run).save(tmp_path / 'saved')
    generate.run(config, tmp_path / 'saved')
    assert (tmp_path / 'saved' / 'generated' / 'paths.parquet').is_file()
    another_asset()
    for folder in (run, tmp_path / 'saved'):
        with pytest.raises(InputError, match='were trained with the tokenizer .*, the data have'):
            generate.run(config, folder)


def test_a_run_from_before_tokenizers_were_kept_is_checked(run, forecast, another_asset):
    """It fits its bins on the files that are there, as it did, and says so where they are others by now."""
    shutil.rmtree(run / 'fitted', ignore_errors=True)
    assert_same(forecast, fjq.load(run))
    another_asset()
    with pytest.raises(InputError, match='were trained with the tokenizer .*, the data have'):
        fjq.load(run).predict_df(make_candles(7))


def test_a_tokenizer_from_elsewhere_is_refused(run, config):
    candles = config.data.candle_files().read(config.parallel)
    other = Bins(returns=8, ranges=4).open(candles, [np.ones(len(c), bool) for c in candles])
    other.save(run / 'fitted')
    with pytest.raises(InputError, match=f'were trained with the tokenizer .*, the data have {other.hash}'):
        fjq.load(run).predict_df(make_candles(7))
    (run / 'fitted' / 'tokenizer.safetensors').write_bytes(b'damaged')
    with pytest.raises(InputError, match='no tokenizer can be read'):
        fjq.load(run)


def test_what_an_older_model_left_in_a_folder_is_not_taken_for_the_new_ones(run, config, tmp_path):
    fjq.load(run).save(tmp_path / 'saved')
    assert read_manifest(tmp_path / 'saved') == read_manifest(run) and (tmp_path / 'saved' / 'fitted').is_dir()
    Trained(config, *config.task.build().init(make_key(0, 'init'))).save(tmp_path / 'saved')
    assert not (tmp_path / 'saved' / 'fitted').exists() and not read_manifest(tmp_path / 'saved')
    fjq.load(tmp_path / 'saved').predict_df(make_candles(7))


def test_a_run_that_goes_on_writes_it_again_and_one_that_starts_over_has_none(run, config):
    shutil.rmtree(run / 'fitted', ignore_errors=True)
    train(config, run)
    assert load(run / 'fitted').fitted_until < config.data.split.starts()[0]
    clear(run)
    assert not (run / 'fitted').exists()
