"""Windows of bars: gathered on the device as by hand, split without leaks, the same for every process."""

import dataclasses
import functools
import itertools
from pathlib import Path

import jax
import numpy as np
import pyarrow as pa
import pytest
from other_future import with_other_future

from fjq.data.bars.features import SETS, compute_features, opens_session
from fjq.data.bars.migt import MigtData
from fjq.data.bars.series import resample
from fjq.data.bars.simulated import SimulatedMigtData
from fjq.data.clock import find_zone, read_clock
from fjq.data.windows import Split
from fjq.errors import InputError
from fjq.feed import make_gather
from fjq.launch import load_config
from fjq.parallel import Parallel
from fjq.task import Dataset, Shard

ONE = Parallel(workers=1)
ALL = Shard()
SPLIT = Split(train_end='2022-03-15', valid_end='2022-03-20', purge_days=0, embargo_days=1)
HORIZONS = (3, 6, 12, 24, 48)


def settings(**other):
    """A change of clocks (2022-03-13) lies inside of the training span."""
    fields = {'split': SPLIT, 'start': '2022-03-03', 'sessions': 18, 'batch_rows': 16, 'window': 96, 'min_bars': 24}
    return SimulatedMigtData(**fields | other)


@pytest.fixture(scope='module')
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp('bars')


@pytest.fixture(scope='module')
def data(cache):
    return settings().open(cache, ONE)


_gather = functools.lru_cache(make_gather)


def gathered(data, batch):
    return jax.device_get(_gather(data)(batch))


def read_all(data, split):
    batches = data.batches(split, ALL)
    return [batches[i] for i in range(len(batches))]


def test_it_is_a_dataset(data):
    assert isinstance(data, Dataset)
    assert data.features == SETS['scaled24'] and data.window == 96 and data.bars_per_day == 288
    for split in ('train', 'valid', 'test', 'all'):
        rows = data.rows(split)
        seen = np.concatenate([b['row'][b['mask']] for b in read_all(data, split)])
        np.testing.assert_array_equal(seen, np.arange(len(rows['time'])))
        assert (np.diff(rows['time']) > np.timedelta64(0, 'ns')).all() and rows['horizon'].tolist() == list(HORIZONS)
    with pytest.raises(InputError, match="unknown split 'future'"):
        data.rows('future')


@pytest.mark.parametrize('span', ['clock', 'bars'])
def test_gather_is_that_of_hand(cache, span):
    data = settings(span=span).open(cache, ONE)
    rows, history = data.rows('all'), data.history()
    features = compute_features(data.bars, data.features)
    local = np.array([np.datetime64(t, 'ns') for t in history['time']]) - np.timedelta64(5, 'm')
    for batch in (read_all(data, 'all')[i] for i in (0, 7, -1)):
        got = gathered(data, batch)
        for b in np.flatnonzero(batch['mask']):
            end = int(np.searchsorted(history['time'], rows['time'][batch['row'][b]]))
            if span == 'clock':
                inside = np.flatnonzero(local > local[end] - np.timedelta64(96 * 5, 'm'))
                inside = inside[(inside <= end) & (inside >= 72)]
            else:
                inside = np.arange(max(end - 95, 72), end + 1)
            n = len(inside)
            assert got['length'][b] == n >= 24
            np.testing.assert_array_equal(got['features'][b, :n], features[inside])
            assert not got['features'][b, n:].any() and not got['bar_in_day'][b, n:].any()
            np.testing.assert_array_equal(got['bar_in_day'][b, :n], history['bar_in_day'][inside])
            np.testing.assert_allclose(np.exp(got['log_variance'][b, 0] / 2), rows['scale'][batch['row'][b]], rtol=1e-5)
            close = history['close']
            for h, steps in enumerate(HORIZONS):
                assert got['target_mask'][b, h] == (end + steps < len(close))
                if got['target_mask'][b, h]:
                    np.testing.assert_allclose(
                        got['target'][b, h], np.log(close[end + steps] / close[end]), rtol=1e-4, atol=1e-9
                    )
        assert (got['row'] == np.where(batch['mask'], batch['row'], -1)).all() and 'start' not in got
    lengths = np.concatenate([b['length'][b['mask']] for b in read_all(data, 'all')])
    assert (lengths < 96).mean() > (0.1 if span == 'clock' else 0.002)


def test_the_clock_is_that_of_the_exchange(data):
    """New York, on both sides of the change of 13 March 2022."""
    import pandas as pd

    rows = data.rows('all')
    local = pd.DatetimeIndex(rows['time'], tz='UTC').tz_convert('America/New_York') - pd.Timedelta('5min')
    assert len(set(local.strftime('%z'))) == 2
    np.testing.assert_array_equal(rows['hour'], local.hour)
    got = [gathered(data, b) | {'mask': b['mask']} for b in read_all(data, 'all')]
    take = lambda name: np.concatenate([g[name][g['mask']] for g in got])
    np.testing.assert_array_equal(take('day_of_week'), local.day_of_week)
    np.testing.assert_array_equal(take('day_of_month'), local.day)
    np.testing.assert_array_equal(take('day_of_year'), local.day_of_year)
    last = np.concatenate([g['bar_in_day'][np.arange(16), g['length'] - 1][g['mask']] for g in got])
    np.testing.assert_array_equal(last, (local.hour * 60 + local.minute) // 5)
    assert set(take('day_of_week')) == {0, 1, 2, 3, 4, 6}


def test_what_comes_later_changes_nothing(cache, tmp_path):
    config = settings()
    data = config.open(cache, ONE)
    time = data.rows('test')['time'][150]
    changed, cells = with_other_future(config, cache, tmp_path, time, ONE)
    other = changed.open(tmp_path / 'cache', ONE)
    assert cells > 1000
    for split in ('train', 'valid'):
        for a, b in zip(read_all(data, split), read_all(other, split), strict=True):
            jax.tree.map(np.testing.assert_array_equal, gathered(data, a), gathered(other, b))
    np.testing.assert_array_equal(data.standard_quantiles((0.1, 0.9)), other.standard_quantiles((0.1, 0.9)))
    jax.tree.map(np.testing.assert_array_equal, data.scale, other.scale)
    rows, later = data.rows('all'), 0
    for a, b in zip(read_all(data, 'all'), read_all(other, 'all'), strict=True):
        same = a['mask'] & (rows['time'][a['row']] <= time)
        x, y = (gathered(d, v) for d, v in ((data, a), (other, b)))
        for name in set(x) - {'target', 'target_mask'}:
            np.testing.assert_array_equal(x[name][same], y[name][same], err_msg=name)
        later += sum((x[name][~same] != y[name][~same]).sum() for name in ('features', 'log_variance'))
    assert later > 1000


def test_no_label_of_a_part_reaches_the_next(data):
    parts = [data.rows(split) for split in ('train', 'valid', 'test')]
    for earlier, later in itertools.pairwise(parts):
        gap = later['time'].min() - earlier['label_end'][earlier['valid']].max()
        assert gap > np.timedelta64(1, 'D')
    counts = data.counts()
    assert [counts[n] for n in ('train', 'valid', 'test')] == [len(p['time']) for p in parts]
    assert counts['purged or unused'] > 200 and counts['without target'] == 3
    np.testing.assert_array_equal(np.isfinite(parts[2]['target']), parts[2]['valid'])
    np.testing.assert_array_equal(np.isnat(parts[2]['label_end']), ~parts[2]['valid'])


def test_targets_that_span_breaks(cache):
    free, held = (settings(across_breaks=a).open(cache, ONE).rows('all') for a in (True, False))
    whole = np.where(free['valid'], free['label_end'] - free['time'][:, None], np.timedelta64(0, 'ns'))
    spans = whole > np.array(HORIZONS) * np.timedelta64(5, 'm')
    np.testing.assert_array_equal(held['valid'], free['valid'] & ~spans)
    assert spans[:, 4].mean() > 0.1


def test_no_target_spans_a_roll():
    bars = settings().simulate().to_table()
    contract = np.where(np.arange(bars.num_rows) < 2000, 5, 9)
    table = bars.append_column('instrument_id', pa.array(contract))
    fields = {f.name: getattr(settings(), f.name) for f in dataclasses.fields(MigtData)}
    data = MigtData(**fields | {'stamps': 'end'}).from_table(table)
    rows = data.rows('all')
    moment = bars['time'].to_numpy()[1999]
    across = (rows['time'] <= moment)[:, None] & (rows['label_end'] > moment)
    assert not (across & rows['valid']).any()
    row = int(np.flatnonzero(rows['time'] == moment)[0])
    assert not rows['valid'][row].any() and rows['valid'][row - 3].tolist() == [True, False, False, False, False]


def test_walk_forward(cache):
    folds = [settings(fold=k, folds=3).open(cache, ONE) for k in range(3)]
    tests = [d.rows('test')['time'] for d in folds]
    for k, d in enumerate(folds):
        train, valid, test = (d.rows(s) for s in ('train', 'valid', 'test'))
        bars = d.history()['time']
        for earlier, later in ((train, valid), (valid, test)):
            last = np.searchsorted(bars, earlier['label_end'][earlier['valid']].max())
            assert np.searchsorted(bars, later['time'].min()) - last > 276 >= 264
        if k:
            assert tests[k][0] > tests[k - 1][-1] and len(train['time']) > len(folds[k - 1].rows('train')['time'])
    assert tests[-1][-1] == folds[0].rows('all')['time'][-4]
    assert len({str(d.fingerprint()) for d in folds}) == 3


def test_train_order(data):
    batches = data.train(3, ALL)
    epoch = len(data.rows('train')['time'])
    rows = np.concatenate([batches[i]['row'] for i in range(epoch // 16)])
    assert len(set(rows)) == len(rows) and (np.diff(rows) < 0).any()
    again = data.train(3, ALL)[7]
    jax.tree.map(np.testing.assert_array_equal, batches[7], again)
    assert (data.train(4, ALL)[7]['row'] != again['row']).any()
    halves = [data.train(3, Shard(i, 2))[7] for i in range(2)]
    for name, values in again.items():
        np.testing.assert_array_equal(np.concatenate([h[name] for h in halves]), values)
    with pytest.raises(InputError, match='16 rows do not divide by 3 processes'):
        data.train(3, Shard(0, 3))[0]


def test_standard_quantiles(cache):
    data = settings(scale='ewma').open(cache, ONE)
    rows = data.rows('train')
    got = data.standard_quantiles((0.1, 0.5))
    units = rows['target'][:, 2] / (rows['scale'] * np.sqrt(12))
    np.testing.assert_allclose(got[2], np.quantile(units[rows['valid'][:, 2]], (0.1, 0.5)), rtol=1e-12)
    assert got.shape == (5, 2) and got.dtype == np.float64


def test_the_scale_is_that_of_the_training_rows_alone(cache, data):
    """Other bars from the end of the last training label on leave every bit of it; other bars before do not."""
    end = data.rows('train')['label_end'].max()
    table = settings().simulate().to_table()
    after = table['time'].to_numpy() > end
    assert after.sum() > 1000

    def fit(where):
        rows = table
        for i, name in enumerate(table.column_names):
            if name in ('open', 'high', 'low', 'close'):
                rows = rows.set_column(i, name, pa.array(np.where(where, table[name].to_numpy() ** 1.5, table[name])))
        fields = {f.name: getattr(settings(), f.name) for f in dataclasses.fields(MigtData)}
        return MigtData(**fields | {'stamps': 'end'}).from_table(rows).scale

    jax.tree.map(np.testing.assert_array_equal, fit(after), data.scale)
    assert np.abs(fit(~after).offset - data.scale.offset).max() > 0.1


def test_a_file_of_live_bars_needs_no_training_rows(tmp_path):
    """Its forecasts are of the split 'all'; the features of the last window are those of the long file."""
    import pyarrow.parquet as pq

    table = settings().simulate().to_table()
    pq.write_table(table.slice(table.num_rows - 500), tmp_path / 'live.parquet')
    fields = {f.name: getattr(settings(), f.name) for f in dataclasses.fields(MigtData)}
    live = MigtData(**fields | {'stamps': 'end', 'path': str(tmp_path / 'live.parquet')}).open(tmp_path, ONE)
    a, b = (gathered(d, read_all(d, 'all')[-1]) for d in (live, settings().from_table(table)))
    last = [x['mask'].nonzero()[0][-1] for x in (a, b)]
    np.testing.assert_allclose(a['features'][last[0]], b['features'][last[1]], rtol=1e-3, atol=1e-5)
    with pytest.raises(InputError, match='the train part has no rows'):
        live.rows('train')


def test_rows_lie_on_the_clock_and_the_newest_is_forecast():
    """Whichever bar a file starts with, at any stride; those in between train and score nothing."""
    table, config = settings().simulate().to_table(), settings(stride=12)
    long, short = (config.from_table(table.slice(k)) for k in (0, 3))
    for data in (long, short):
        rows = data.rows('all')
        assert rows['time'][-1] == data.history()['time'][-1]  # the live forecast
        due = rows['time'].astype('datetime64[m]').astype(int) % 60 == 5  # of the bar that opens the hour
        np.testing.assert_array_equal(rows['valid'].any(1), due & np.isfinite(rows['target']).any(1))
        assert sum(data.counts().values()) == due.sum()
    for split in ('train', 'valid', 'test'):
        assert set(long.rows(split)['time'].astype('datetime64[m]').astype(int) % 60) == {5}
    np.testing.assert_array_equal(long.rows('test')['time'], short.rows('test')['time'])


def test_a_stride_that_no_row_lies_on_is_named():
    table = settings().simulate().to_table().slice(0, 150)
    with pytest.raises(
        InputError,
        match="column 'stride': none of .* windows ends on the clock at a multiple of 5000 bars. Make it less",
    ):
        settings(stride=5000).from_table(table).rows('train')


def test_cache_and_fingerprint(tmp_path):
    """A table of a live day gives the bits of the file; a damaged cache is found; other settings are other data."""
    config = settings()
    data = config.open(tmp_path, ONE)
    table = config.simulate().to_table()
    live = config.from_table(table)
    jax.tree.map(np.testing.assert_array_equal, live.tables(), data.tables())
    cached = next(tmp_path.glob('bar_features-*.npy'))
    whole = cached.read_bytes()
    cached.write_bytes(whole[: len(whole) // 2])
    again = config.open(tmp_path, ONE)
    np.testing.assert_array_equal(again.tables()['features'], data.tables()['features'])
    assert cached.read_bytes() == whole and again.fingerprint() == data.fingerprint()
    for other in (
        {'stride': 2},
        {'features': ('core25',)},
        {'horizons': (3,)},
        {'market_seed': 1},
        {'min_bars': 25},
        {'scale': 'ewma'},
    ):
        assert settings(**other).open(tmp_path, ONE).fingerprint() != data.fingerprint()
    assert len(list(tmp_path.glob('bar_features-*.npy'))) == 3


BAD = {
    'window': ({'window': 20}, 'windows of 20 bars never have 24'),
    'stride': ({'stride': 0}, 'stride'),
    'horizons': ({'horizons': (6, 3)}, 'ascending'),
    'decay': ({'decay': 1.0}, 'decay'),
    'fold': ({'fold': 5}, 'no fold 5 of 5'),
    'span': ({'span': 'week'}, "unknown choice 'week'"),
    'scale': ({'scale': 'garch'}, "unknown choice 'garch'"),
    'features': ({'features': ('core42',)}, 'core42'),
    'minutes': ({'minutes': 7}, 'minutes'),
    'sessions': ({'sessions': 1}, 'sessions'),
    'split': ({'split': dataclasses.replace(SPLIT, train_end='2021-01-01')}, 'the train part has no rows'),
}


@pytest.mark.parametrize('name', BAD)
def test_bad_settings(name, cache):
    fields, text = BAD[name]
    with pytest.raises(InputError, match=text):
        settings(**fields).open(cache, ONE).rows('train')


def test_too_short():
    table = settings().simulate().to_table().slice(0, 90)
    with pytest.raises(
        InputError, match='90 bars of 5 minutes are too few for one window. Give 96 or more, 24 of them'
    ):
        settings().from_table(table)
    with pytest.raises(InputError, match="no window of 96 bars has 96.*span='bars'"):
        settings(min_bars=96).from_table(settings().simulate().to_table().slice(150, 200))


@pytest.mark.parametrize(
    ('name', 'other', 'split'),
    [
        ('NQ_5min.csv', {}, ('2026-03-31', '2026-04-12')),
        ('cn_5min.csv', {'timezone': 'Asia/Shanghai', 'stamps': 'end', 'span': 'bars'}, ('2024-07-31', '2024-08-12')),
        ('spy_minute_2011.csv', {'span': 'bars', 'session': '09:30-16:00'}, ('2011-01-18', '2011-01-24')),
    ],
)
def test_real_bars(data_dir, tmp_path, name, other, split):
    split = Split(train_end=split[0], valid_end=split[1], purge_days=0, embargo_days=1)
    data = MigtData(path=str(data_dir / 'bars' / name), split=split, **other).open(tmp_path, ONE)
    features = gathered(data, data.train(0, ALL)[0])['features']
    assert np.isfinite(features).all() and features.shape == (128, 288, 24)
    quantiles = data.standard_quantiles((0.05, 0.5, 0.95))
    assert (np.abs(quantiles[:, 1]) < 0.3).all() and (0.8 < quantiles[:, 2]).all() and (quantiles[:, 2] < 3).all()


def test_bars_of_an_a_share_lie_within_its_hours(data_dir):
    """09:30 to 11:30 and 13:00 to 15:00: its vendors stamp the end. Longer bars hold as many of them as they should."""
    config = load_config(Path(__file__).parents[3] / 'configs' / 'migt_tvdt.py', 'cn').data
    bars = dataclasses.replace(config, path=str(data_dir / 'bars' / 'cn_5min.csv')).read()
    minute = read_clock(bars.time, find_zone('Asia/Shanghai')).minute
    morning, afternoon = (np.arange(start, start + 120, 5) for start in (570, 780))
    np.testing.assert_array_equal(np.unique(minute), np.r_[morning, afternoon])
    opens = np.unique(minute[1:][opens_session(bars)[1:]])
    np.testing.assert_array_equal(opens, [570, 780])  # the night and lunch are its breaks
    for width in (15, 30, 60):
        whole = resample(dataclasses.replace(bars, volume=np.ones(len(bars))), width, 'Asia/Shanghai')
        counts = whole.volume[1:]  # the file begins within the first
        if width < 60:
            assert set(counts) == {width / 5}
        else:  # an hour of the clock is half of one at 09:30 and 11:00
            assert set(counts) == {6, 12}
