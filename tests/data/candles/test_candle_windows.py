"""Rows of the tokenizer's training: windows of one asset within the training span, candles with their own features."""

import numpy as np
import pyarrow as pa
import pytest

from fjq.data.candles.windows import CandleWindowData
from fjq.data.windows import Split
from fjq.errors import InputError
from fjq.parallel import Parallel
from fjq.task import Shard
from fjq.tokenizers.features import candle_features, ewma_scale

HERE = Parallel(workers=1)
SIZES = {'AA': 300, 'BB': 120}  # the second one starts later


def table(name):
    rng = np.random.Generator(np.random.Philox(len(name) + SIZES[name]))
    close = 50 * np.exp(np.cumsum(0.02 * rng.standard_normal(SIZES[name])))
    o = np.r_[50.0, close[:-1]]
    high, low = np.maximum(o, close) * 1.004, np.minimum(o, close) / 1.001
    dates = np.datetime64('2020-10-26') - np.arange(SIZES[name])[::-1]
    return pa.table({'Date': dates.astype('datetime64[ms]'), 'Open': o, 'High': high, 'Low': low, 'Close': close})


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    import pyarrow.parquet as pq

    folder = tmp_path_factory.mktemp('candles')
    for name in SIZES:
        pq.write_table(table(name), folder / f'{name}.parquet')
    return folder


def settings(folder, **changes):
    split = Split(train_end='2020-08-31', valid_end='2020-09-30', purge_days=0, embargo_days=0)
    return CandleWindowData(
        path=str(folder), split=split, **{'window': 8, 'stride': 4, 'batch_rows': 6, 'eval_rows': 50} | changes
    )


def truth(data):
    """Features of every candle by (asset, time)."""
    out = {}
    for c in data.candles:
        raw = candle_features(c.ohlc())
        scaled = raw / ewma_scale(raw[:, 0], 0.94, data.first_scale)[:-1, None]
        out |= {(c.id, t): f for t, f in zip(c.time, scaled.astype(np.float32), strict=True)}
    return out


def test_rows_are_candles_with_their_features(folder):
    data = settings(folder).open('', HERE)
    features = truth(data)
    for split in ('train', 'valid', 'test', 'all'):
        rows, seen = data.rows(split), []
        for batch in (source := data.batches(split, Shard()))[: len(source)]:
            assert batch['features'].shape == (50, 1, 5) and (batch['row'][~batch['mask']] == -1).all()
            for i in np.flatnonzero(batch['mask']):
                row = batch['row'][i]
                np.testing.assert_array_equal(batch['target'][i], features[rows['id'][row], rows['time'][row]])
                np.testing.assert_array_equal(batch['features'][i, -1], batch['target'][i])
                seen.append(row)
        assert seen == list(range(len(rows['time'])))
    assert len(rows['time']) == sum(SIZES.values())


def test_training_windows_are_of_one_asset_and_of_training(folder):
    data = settings(folder).open('', HERE)
    features, rows = truth(data), data.rows('train')
    end, epoch = np.datetime64('2020-09-01'), []
    for step in range(13):
        batch = data.train(3, Shard())[step]
        assert batch['mask'].all() and batch['counts'].all()
        for i in range(6):
            name, time = rows['id'][batch['row'][i]], rows['time'][batch['row'][i]]
            assert time < end
            epoch.append((name, time))
            for back in range(8):
                expected = features[name, time - np.timedelta64(back, 'D')]
                np.testing.assert_array_equal(batch['features'][i, 7 - back], expected)
    windows = sum(1 + (int(m.sum()) - 8) // 4 for m in data.in_train)
    assert len(set(epoch[:windows])) == windows  # an epoch holds each once
    whole, half = data.train(3, Shard())[5], [data.train(3, Shard(i, 2))[5] for i in (0, 1)]
    for name, value in whole.items():
        np.testing.assert_array_equal(np.concatenate([h[name] for h in half]), value)


def test_the_first_volatility_is_of_training(folder, tmp_path):
    import pyarrow.parquet as pq

    data = settings(folder).open('', HERE)
    for name in SIZES:
        t = table(name)
        late = t['Date'].to_numpy() > np.datetime64('2020-08-31')
        close = np.where(late, t['Close'].to_numpy() * 1.0005, t['Close'].to_numpy())
        pq.write_table(t.set_column(4, 'Close', pa.array(close)), tmp_path / f'{name}.parquet')
    other = settings(tmp_path).open('', HERE)
    assert other.first_scale == data.first_scale and other.fingerprint() != data.fingerprint()
    np.testing.assert_array_equal(other.training_features(), data.training_features())
    memory = settings(folder).from_table(table('AA'))
    assert memory.first_scale == data.first_scale
    np.testing.assert_array_equal(
        memory.rows('all')['target'], data.rows('all')['target'][data.rows('all')['id'] == 'AA']
    )


def test_neighbours_before_the_first_candle_do_not_count(folder):
    data = settings(folder, context=3, eval_rows=420).open('', HERE)
    batch, rows = data.batches('all', Shard())[0], data.rows('all')
    first = [int(np.flatnonzero(rows['id'] == name)[0]) for name in SIZES]
    assert batch['counts'][first].tolist() == [[False, False, True]] * 2
    assert not batch['features'][first, :2].any() and batch['counts'].sum() == 3 * 420 - 6


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'window': 0}, 'window'),
        ({'window': 500}, '500 candles to train on'),
        ({'decay': 0}, 'decay'),
        ({'path': ''}, 'no path'),
    ],
)
def test_bad_settings(folder, changes, message):
    with pytest.raises(InputError, match=message):
        settings(changes.pop('path', folder), **changes).open('', HERE).train(0, Shard())


def test_an_odd_number_of_processes(folder):
    with pytest.raises(InputError, match='do not divide by 4'):
        settings(folder).open('', HERE).train(0, Shard(0, 4))[0]
