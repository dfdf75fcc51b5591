"""tokenize and decode, on files of candles, without a model."""

import json

import numpy as np
import pyarrow.csv as pacsv
import pytest

from fjq.config import Experiment
from fjq.data.tokens.data import TokenData
from fjq.data.windows import Split
from fjq.errors import InputError
from fjq.jobs import decode, tokenize
from fjq.models.candle_autoencoder import CandleAutoencoder
from fjq.parallel import Parallel
from fjq.tokenizers import Bins, load

DAYS = 400


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    """Two assets of plain noise."""
    folder = tmp_path_factory.mktemp('candles')
    for seed, name in enumerate(('AA', 'BB')):
        rng = np.random.Generator(np.random.Philox(seed))
        close = 50 * np.exp(np.cumsum(0.02 * rng.standard_normal(DAYS)))
        o = np.r_[50.0, close[:-1]]
        columns = np.stack([o, np.maximum(o, close) * 1.003, np.minimum(o, close) / 1.002, close], -1)
        dates = np.datetime64('2020-01-01') + np.arange(DAYS)
        lines = [f'{d},' + ','.join(f'{v:.6f}' for v in row) for d, row in zip(dates, columns, strict=True)]
        (folder / f'{name}.csv').write_text('Date,Open,High,Low,Close\n' + '\n'.join(lines) + '\n')
    return folder


@pytest.fixture
def config(files):
    split = Split(train_end='2020-09-01', valid_end='2020-11-01', purge_days=0, embargo_days=0)
    data = TokenData(path=str(files), split=split, tokenizer=Bins(returns=8, ranges=2), context=16, horizons=(1, 4))
    return Experiment(name='jobs', task=CandleAutoencoder(), data=data, parallel=Parallel(workers=1))


def test_tokens_and_candles_again(config, tmp_path, capsys):
    tokenize.run(config, tmp_path)
    assert 'Tokenizer bins 8x2' in capsys.readouterr().out
    tokenizer = load(tmp_path / 'tokenizer')
    with np.load(tmp_path / 'tokens.npz') as file:
        tokens = dict(file)
    assert str(tokens['tokenizer_hash']) == tokenizer.hash and tokens['ids'].dtype == np.int32
    assert tokens['asset_id'].tolist() == ['AA'] * DAYS + ['BB'] * DAYS
    for name in ('AA', 'BB'):
        of = tokens['asset_id'] == name
        assert (tokens['date'][of] == np.datetime64('2020-01-01') + np.arange(DAYS)).all()
        train, valid = (int(np.sum(tokens['date'][of] < np.datetime64(end))) for end in ('2020-09-02', '2020-11-02'))
        expected = ['train'] * train + ['valid'] * (valid - train) + ['test'] * (DAYS - valid)
        assert tokens['split'][of].tolist() == expected
    text = (tmp_path / 'all_tokens.txt').read_text()
    assert text.endswith(' ') and '\n' not in text and list(map(int, text.split())) == tokens['ids'].tolist()
    card = json.loads((tmp_path / 'tokenizer' / 'card.json').read_text())
    assert card['hash'] == tokenizer.hash and set(card['assets']) == {'AA', 'BB'} and card['stable'] == 1

    decode.run(config, tmp_path)
    for candles in config.data.candle_files().read(config.parallel):
        table = pacsv.read_csv(tmp_path / 'decoded' / f'{candles.id}.csv')
        o, h, lo, c = (table[n].to_numpy() for n in ('Open', 'High', 'Low', 'Close'))
        assert (lo <= np.minimum(o, c)).all() and (h >= np.maximum(o, c)).all()
        of = tokens['asset_id'] == candles.id
        np.testing.assert_array_equal(table['Token'].to_numpy(), tokens['ids'][of])
        path = tokenizer.decode(tokens['ids'][of], candles.open[0], tokenizer.scale(candles)[0])
        np.testing.assert_allclose(c, path[:, 3], rtol=1e-12)
        true, told = np.diff(np.log(candles.close)), np.diff(np.log(c))
        assert np.corrcoef(true, told)[0, 1] > 0.8


def test_what_can_not_be_decoded(config, tmp_path):
    with pytest.raises(InputError, match='Run --job=tokenize first'):
        decode.run(config, tmp_path)
    tokenize.run(config, tmp_path)
    with np.load(tmp_path / 'tokens.npz') as file:
        tokens = dict(file)
    np.savez(tmp_path / 'tokens.npz', **tokens | {'ids': tokens['ids'] + 16})
    with pytest.raises(InputError, match='is not of the 16 of bins 8x2'):
        decode.run(config, tmp_path)
    np.savez(tmp_path / 'tokens.npz', **tokens | {'date': tokens['date'] + np.timedelta64(1, 'D')})
    with pytest.raises(InputError, match='candles of AA are others'):
        decode.run(config, tmp_path)
    np.savez(tmp_path / 'tokens.npz', **tokens)
    config.data.tokenizer = Bins(returns=4, ranges=2)
    with pytest.raises(InputError, match='were made by the tokenizer'):
        decode.run(config, tmp_path)
    (tmp_path / 'tokens.npz').write_bytes(b'damaged')
    with pytest.raises(InputError, match='can not be read'):
        decode.run(config, tmp_path)


def test_a_config_without_candles(tmp_path):
    config = Experiment(
        name='other', task=None, data=Split(train_end='2020', valid_end='2021', purge_days=0, embargo_days=0)
    )
    with pytest.raises(InputError, match='other has no tokens'):
        tokenize.run(config, tmp_path)
