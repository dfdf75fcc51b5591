"""Batches of the TCN against frames cut by hand; splits, orders, shards and what is left out."""

import dataclasses
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import grain
import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest

from fjq.baselines import Ewma, Persistence
from fjq.data.source import list_days
from fjq.data.synthetic.market import scaled
from fjq.data.ticks.files import TickFiles, read_day
from fjq.data.ticks.frames import frame_day
from fjq.data.ticks.simulated import SimulatedTcnData
from fjq.data.ticks.tcn import TcnData, TcnDataset
from fjq.data.volatility.targets import read_targets
from fjq.data.windows import Split
from fjq.errors import InputError
from fjq.parallel import Parallel
from fjq.task import Dataset, Shard

ONE, WHOLE = Parallel(workers=1), Shard()
NO_GAPS = {'purge_days': 0, 'embargo_days': 0}
DAYS = [str(d) for d in np.arange('2022-02-01', '2022-02-25', dtype='datetime64[D]') if np.is_busday(d)]  # 18
UNLABELLED = {DAYS[4], DAYS[9]}


def write_ticks(root: Path, date: str, frames: int, seed: int = 0) -> None:
    """An index day with 1 to 40 ticks in each of some frames, at chunk_len 8 one to five chunks."""
    rng = np.random.Generator(np.random.Philox([seed, int(date[-2:])]))
    count = rng.integers(1, 41, frames)
    second = np.repeat(np.arange(frames) * 10, count) + rng.integers(0, 10, count.sum())
    columns = {
        'ticker': rng.choice(['VIX', 'SPX', 'RUT', 'NDX'], len(second)),
        'timestamp': np.datetime64(f'{date}T09:30', 'us') + second * np.timedelta64(1, 's'),
        'price': 100 + rng.random(len(second)),
    }
    root.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), root / f'{date}.parquet')


@pytest.fixture(scope='module')
def files(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp('tcn')
    for i, date in enumerate(DAYS):
        write_ticks(folder / 'ticks', date, frames=6 if i == 7 else 30)
    labelled = [d for d in DAYS if d not in UNLABELLED] + ['2022-05-02']  # one date without ticks
    rng = np.random.Generator(np.random.Philox(3))
    dates = np.array(labelled, 'datetime64[ms]')
    rv = rng.uniform(0.1, 0.3, len(dates))
    target = np.where(np.arange(len(dates)) == 3, None, rng.uniform(0.4, 0.9, len(dates)))
    two = {'rv_2d_forward': pa.array(target, pa.float64()), 'rv_3d_forward': rng.uniform(0.4, 0.9, len(dates))}
    pq.write_table(pa.table({'date': dates, 'daily_rv': rv, **two}), folder / 'rv.parquet')
    return folder


def config(files: Path, **changes) -> TcnData:
    split = Split(train_end='2022-02-14', valid_end='2022-02-18', **NO_GAPS)
    settings = {
        'root': str(files / 'ticks'),
        'targets': str(files / 'rv.parquet'),
        'split': split,
        'horizons': (2, 3),
        'chunk_len': 8,
        'batch_rows': 6,
        'chunk_buckets': (6, 12, 18, 21, 24),
        'frame_buckets': (4, 10),
    }
    return TcnData(**{**settings, **changes})


def open_data(files: Path, **changes):
    return config(files, **changes).open(files / 'cache', ONE)


@pytest.fixture(scope='module')
def dataset(files):
    return open_data(files)


def framed(files: Path, dates=None) -> dict[str, tuple]:
    """date -> (its frames, list of each frame's chunks, weights and scalars)."""
    out = {}
    for day in list_days(files / 'ticks'):
        f = frame_day(read_day(day, TickFiles())[0], chunk_len=8)
        parts = [(f.chunks[f.frame == t], f.weights[f.frame == t], f.scalars[t]) for t in range(len(f.time))]
        if dates is None or str(day.date) in dates:
            out[str(day.date)] = (f, parts)
    return out


def frames_of_row(batch, b: int) -> list[tuple]:
    """The frames of a row of a batch, from its arrays alone."""
    count = int(batch['frame_mask'][b].sum())
    assert batch['frame_mask'][b, :count].all()
    real = batch['weights'][b] > 0
    rows = [real & (batch['frame'][b] == t) for t in range(count)]
    return [(batch['chunks'][b][r], batch['weights'][b][r], batch['scalars'][b][t]) for t, r in enumerate(rows)]


def assert_same_frames(got: list[tuple], expected: list[tuple]) -> None:
    assert len(got) == len(expected)
    for a, b in zip(got, expected, strict=True):
        for x, y in zip(a, b, strict=True):
            np.testing.assert_array_equal(x, y)


def read_all(dataset, split: str, shard: Shard = WHOLE) -> list[dict]:
    batches = dataset.batches(split, shard)
    return [batches[i] for i in range(len(batches))]


def test_it_is_a_dataset(dataset):
    assert isinstance(dataset, Dataset)


@pytest.mark.parametrize('split', ['train', 'valid', 'test', 'all'])
def test_batches_hold_every_frame_of_their_days_once_and_in_order(files, dataset, split):
    rows = dataset.rows(split)
    days = framed(files)
    got = {i: [] for i in range(len(rows['time']))}
    for batch in read_all(dataset, split):
        for b in np.flatnonzero(batch['mask']):
            got[int(batch['row'][b])] += frames_of_row(batch, b)
            assert 0 < batch['frame_mask'][b].sum()
    for i, date in enumerate(rows['time']):
        assert_same_frames(got[i], days[str(date)][1])


def test_targets_are_those_of_the_rows_day(dataset):
    for split in ('train', 'all'):
        rows = dataset.rows(split)
        for batch in read_all(dataset, split):
            m, r = batch['mask'], batch['row'][batch['mask']]
            np.testing.assert_array_equal(batch['target_mask'][m], rows['valid'][r])
            expected = np.where(rows['valid'][r], rows['target'][r], 0).astype(np.float32)
            np.testing.assert_array_equal(batch['target'][m], expected)


def test_splits_are_days_in_order_with_what_is_known_of_them(files, dataset):
    table = pq.read_table(files / 'rv.parquet')
    known = {str(d)[:10]: i for i, d in enumerate(table['date'].to_pylist())}
    for split, low, high in (('train', '2022-02-01', '2022-02-14'), ('test', '2022-02-19', '2022-02-24')):
        rows = dataset.rows(split)
        dates = [str(d) for d in rows['time']]
        assert dates and dates == sorted(dates) and all(low <= d <= high for d in dates)
        assert not UNLABELLED & set(dates)
        published = table['rv_2d_forward'].to_numpy()[[known[d] for d in dates]]
        np.testing.assert_array_equal(rows['target'][:, 0], published)
        np.testing.assert_array_equal(rows['valid'][:, 0], np.isfinite(published))
        assert set(rows['id']) == {'SPY'} and rows['horizon'].tolist() == [2, 3]
    assert [str(d) for d in dataset.rows('all')['time']] == DAYS
    train = dataset.rows('train')
    assert (~train['valid']).sum() == 1  # the null of 2 days ahead; 3 days ahead the day still has a label
    assert (train['label_end'][train['valid']] < np.datetime64('2022-02-15')).all()
    assert dataset.counts() == {
        'days_without_ticks': 0,
        'days_without_label': 2,
        'train': len(train['time']),
        'valid': len(dataset.rows('valid')['time']),
        'test': len(dataset.rows('test')['time']),
        'purged': 16 - sum(len(dataset.rows(s)['time']) for s in ('train', 'valid', 'test')),
    }
    assert dataset.counts()['purged'] > 0


def test_batches_are_finite_and_padding_is_empty(dataset):
    padded = 0
    for split in ('train', 'valid', 'test', 'all'):
        for batch in read_all(dataset, split):
            assert all(np.isfinite(v).all() for v in batch.values())
            out = ~batch['mask']
            padded += out.sum()
            assert not batch['weights'][out].any() and not batch['frame_mask'][out].any()
            assert not batch['target_mask'][out].any() and (batch['row'][out] == -1).all()
            empty = batch['weights'] == 0
            assert not batch['chunks'][empty].any() and not batch['frame'][empty].any()
            assert not batch['scalars'][~batch['frame_mask']].any() and not batch['target'][~batch['target_mask']].any()
    assert padded > 0


def test_static_shapes_are_the_smallest_buckets_that_fit(files):
    seen = set()
    for batch in read_all(open_data(files, batch_rows=2), 'all'):
        B, K, L, F = batch['chunks'].shape
        T = batch['scalars'].shape[1]
        assert (B, L, F) == (2, 8, 3)
        chunks, frames = (batch['weights'] > 0).sum(1).max(), batch['frame_mask'].sum(1).max()
        assert min(b for b in (6, 12, 18, 21, 24) if b >= chunks) == K
        assert min(b for b in (4, 10) if b >= frames) == T
        types = {k: str(v.dtype) for k, v in batch.items()}
        seen.add((K, T))
    assert types['chunks'] == types['weights'] == types['scalars'] == types['target'] == 'float32'
    assert types['frame'] == types['row'] == 'int32' and types['mask'] == types['frame_mask'] == 'bool'
    assert len(seen) > 1


def test_an_epoch_of_training_holds_every_fragment_of_every_day_once(files, dataset):
    whole = read_all(dataset, 'train')
    expected = {b['chunks'][i][b['weights'][i] > 0].tobytes() for b in whole for i in np.flatnonzero(b['mask'])}
    steps = dataset.train(5, WHOLE)
    seen, dates = [], []
    while len(seen) < len(expected):
        batch = steps[len(dates)]
        assert batch['mask'].all() and batch['target_mask'].any(1).all()
        seen += [batch['chunks'][i][batch['weights'][i] > 0].tobytes() for i in range(6)]
        dates.append(len(set(batch['row'])))
    assert set(seen[: len(expected)]) == expected
    assert np.mean(dates) > 3  # a step mixes days


def test_a_batch_that_ends_with_a_day_does_not_begin_an_empty_row(files):
    d = open_data(files, chunk_buckets=(500,), frame_buckets=(30,), batch_rows=1)  # a day is a row is a batch
    for split in ('train', 'all'):
        batches = read_all(d, split)
        assert len(batches) == len(d.rows(split)['time'])
        assert [b['row'].tolist() for b in batches] == [[i] for i in range(len(batches))]
        assert all(b['frame_mask'].any() and b['mask'].all() for b in batches)


def test_a_batch_depends_on_fingerprint_seed_and_step_alone(files, dataset, tmp_path):
    shutil.copytree(files / 'ticks', tmp_path / 'elsewhere')  # other paths and times of change, another bank
    other = config(files, root=str(tmp_path / 'elsewhere')).open(tmp_path, Parallel(workers=2))
    assert other.fingerprint() == dataset.fingerprint()
    a, b = dataset.train(3, WHOLE), other.train(3, WHOLE)
    for step in (0, 7, 2**31 - 2):
        for name, value in a[step].items():
            np.testing.assert_array_equal(value, b[step][name])
    assert any((a[s]['row'] != dataset.train(4, WHOLE)[s]['row']).any() for s in range(3))


def test_fingerprints_tell_data_and_settings_apart(files, dataset, tmp_path):
    first = dataset.fingerprint()
    for changes in (
        {'horizons': (2,)},
        {'features': 'v2'},
        {'frame': '20s'},
        {'batch_rows': 7},
        {'chunk_buckets': (24,)},
        {'split': Split(train_end='2022-02-11', valid_end='2022-02-18', **NO_GAPS)},
    ):
        assert open_data(files, **changes).fingerprint() != first
    shutil.copytree(files / 'ticks', tmp_path / 'ticks')
    write_ticks(tmp_path / 'ticks', DAYS[0], frames=30, seed=1)
    assert config(files, root=str(tmp_path / 'ticks')).open(tmp_path, ONE).fingerprint() != first


@pytest.mark.parametrize('count', [2, 3])
def test_shards_are_the_parts_of_one_batch(files, count):
    dataset = open_data(files, batch_rows=count)  # a row each, whose shape is that of the largest
    shards = [Shard(i, count) for i in range(count)]
    for make in (lambda s: dataset.train(1, s), lambda s: dataset.batches('all', s)):
        whole, parts = make(WHOLE), [make(s) for s in shards]
        for step in range(10):
            for name, value in whole[step].items():
                joined = np.concatenate([p[step][name] for p in parts])
                np.testing.assert_array_equal(value, joined)


def test_rows_that_do_not_divide_are_refused(dataset):
    with pytest.raises(InputError, match='6 rows do not divide by 4 processes'):
        dataset.train(1, Shard(0, 4))[0]


def test_an_iterator_goes_on_where_its_state_was_taken(dataset):
    read = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
    first = iter(dataset.train(2, WHOLE).to_iter_dataset(read))
    for _ in range(5):
        next(first)
    state, expected = first.get_state(), next(first)
    second = iter(dataset.train(2, WHOLE).to_iter_dataset(read))
    second.set_state(state)
    for name, value in next(second).items():
        np.testing.assert_array_equal(value, expected[name])


def test_sources_travel_to_other_processes(dataset):
    source = dataset._source('train', lambda step: np.arange(6), WHOLE)
    again = pickle.loads(pickle.dumps(dataclasses.replace(source, order=None)))
    again = dataclasses.replace(again, order=source.order)
    np.testing.assert_array_equal(again[0]['chunks'], source[0]['chunks'])


def test_ticks_in_memory_make_the_batches_of_files(files, dataset):
    table = pa.concat_tables([pq.read_table(files / 'ticks' / f'{d}.parquet') for d in reversed(DAYS)])
    ticker = np.unique(table['ticker'].to_numpy(zero_copy_only=False), return_inverse=True)[1] % 3
    mixed = np.argsort(ticker, kind='stable')  # days, times and tickers mixed, equal ticks in their order
    memory = config(files).from_table(table.take(pa.array(mixed)))
    rows = memory.rows('all')
    assert [str(d) for d in rows['time']] == DAYS and not rows['valid'].any() and rows['target'].shape == (18, 2)
    ours, theirs = read_all(memory, 'all'), read_all(dataset, 'all')
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        for name in ('chunks', 'weights', 'frame', 'scalars', 'frame_mask', 'mask', 'row'):
            np.testing.assert_array_equal(a[name], b[name])
        assert not a['target_mask'].any()
    with pytest.raises(InputError, match='no such column'):
        config(files).from_table(table.drop_columns(['price']))


def test_ticks_in_memory_that_do_not_count_are_said(tmp_path, capsys):
    columns = {
        'ticker': ['A', 'A', 'B', 'B'],
        'price': [1.0, 0.0, 2.0, 2.0],
        'size': [1, 1, 1, 1],
        'correction': [0, 0, 8, 0],
        'sip_timestamp': np.datetime64('2022-02-01T15:00', 'ns').astype(int) + np.arange(4),
    }
    dataset = config(tmp_path, stream='stocks').from_table(pa.table(columns))
    assert read_all(dataset, 'all')[0]['weights'].sum() == 2
    assert capsys.readouterr().out == 'ticks left out: 1 by correction, 1 by price\n'


def test_whole_days_for_embedding(files, dataset):
    days = framed(files)
    shapes = set()
    for date, time, batches in dataset.day_batches():
        f, parts = days[str(date)]
        np.testing.assert_array_equal(time, f.time)
        batches = list(batches)
        got = [frame for batch in batches for b in range(len(batch['mask'])) for frame in frames_of_row(batch, b)]
        assert_same_frames(got, parts)
        shapes |= {batch['chunks'].shape for batch in batches}
    assert len(shapes) == 1


def test_history_has_daily_volatility_and_closes(files, dataset):
    history = dataset.history()
    table = pq.read_table(files / 'rv.parquet')
    np.testing.assert_array_equal(history['daily_rv'], table['daily_rv'].to_numpy())
    assert history['time'].dtype == 'datetime64[D]' and len(history['time']) == table.num_rows
    for name in ('SPX', 'VIX'):
        ticks = pq.read_table(files / 'ticks' / f'{DAYS[0]}.parquet').to_pylist()
        last = max((t for t in ticks if t['ticker'] == name), key=lambda t: t['timestamp'])['timestamp']
        closes = [t['price'] for t in ticks if t['ticker'] == name and t['timestamp'] == last]
        assert history[name.lower()][0] == closes[-1]
        assert np.isnan(history[name.lower()][-1])  # a date without ticks


@pytest.mark.parametrize('annualised', [False, True])
@pytest.mark.parametrize('short_windows', ['keep', 'rescale'])
def test_simple_baselines_of_constant_volatility_are_right_in_the_unit_of_the_label(
    tmp_path, annualised, short_windows
):
    dates = np.busday_offset('2022-01-03', np.arange(180))
    pq.write_table(pa.table({'date': dates, 'daily_rv': np.full(180, 0.2)}), tmp_path / 'rv.parquet')
    options = {'annualised': annualised, 'short_windows': short_windows, 'compute_labels': True}
    data = config(tmp_path, horizons=(7, 28), split=Split(train_end='2022-04-15', valid_end='2022-05-20', **NO_GAPS))
    labels = read_targets(tmp_path / 'rv.parquet', (7, 28), **options)
    dataset = TcnDataset(data, None, dates, [np.ones(1, int)] * 180, labels, {}, '')
    rows, train = (dataset.rows(split) for split in ('test', 'train'))
    for baseline in (Persistence(), Ewma()):
        forecast = np.asarray(baseline.forecast(dataset.history(), rows, train).mean())
        whole = rows['valid'] & (rows['steps'] == train['steps'][0])  # those at the end of the file are cut short
        assert whole.sum(0).min() > 5
        np.testing.assert_allclose(forecast[whole], rows['target'][whole], rtol=1e-6)


def test_places_of_tickers_reach_the_batch(files):
    (files / 'top.txt').write_text('VIX\nSPX\n')
    d = open_data(files, tickers=str(files / 'top.txt'), num_tickers=5)
    for batch in read_all(d, 'train'):
        assert batch['tickers'].dtype == np.int32 and batch['tickers'].shape == batch['chunks'].shape[:3]
        place = np.arange(8) < batch['weights'][..., None]
        assert set(np.unique(batch['tickers'][place])) <= {0, 1} and (batch['tickers'][~place] == -1).all()
    with pytest.raises(InputError, match='1 places for 2 tickers'):
        open_data(files, tickers=str(files / 'top.txt'), num_tickers=1)
    with pytest.raises(InputError, match='5 places for 0 tickers'):
        open_data(files, num_tickers=5)


def test_what_makes_no_dataset(files, tmp_path):
    with pytest.raises(InputError, match='no rows'):
        open_data(files, split=Split(train_end='2021-02-14', valid_end='2022-02-18', **NO_GAPS)).rows('train')
    with pytest.raises(InputError, match='no rows'):
        open_data(files, split=Split(train_end='2022-02-14', valid_end='2023-02-18', **NO_GAPS)).train(0, WHOLE)
    with pytest.raises(InputError, match='last bucket 5 or more'):
        open_data(files, chunk_buckets=(4,))
    with pytest.raises(InputError, match='unknown split'):
        open_data(files).rows('tests')
    with pytest.raises(InputError, match='900 days ahead'):
        open_data(files, horizons=(900,), compute_labels=True)
    with pytest.raises(InputError, match='no label|has a label'):
        open_data(files, targets='').rows('train')
    later = pq.read_table(files / 'rv.parquet')
    later = later.set_column(0, 'date', pa.array(np.arange('2024-01-01', '2024-01-18', dtype='datetime64[D]')))
    pq.write_table(later, tmp_path / 'rv.parquet')
    with pytest.raises(InputError, match='rv.parquet, .*none of the 18 days with ticks has a label.*overlap'):
        open_data(files, targets=str(tmp_path / 'rv.parquet')).train(0, WHOLE)
    for changes in ({'chunk_buckets': ()}, {'frame_buckets': (4, 2)}, {'batch_rows': 0}, {'stream': 'bonds'}):
        with pytest.raises(InputError, match=next(iter(changes))):
            open_data(files, **changes)


def test_two_months_are_told_of_the_variant_that_fits_them(files):
    with pytest.raises(InputError, match='cut at 2023-01-01 and 2023-07-01, .* from 2022-02-01 to .* :sample fits'):
        open_data(files, split=Split(train_end='2022-12-31', valid_end='2023-06-30', **NO_GAPS)).rows('train')


def test_a_stream_that_the_market_does_not_simulate_is_refused(tmp_path):
    split = Split(train_end='2022-02-14', valid_end='2022-02-18', **NO_GAPS)
    data = SimulatedTcnData(stream='stocks', split=split, market=scaled('tiny', what=('index', 'rv')))
    with pytest.raises(
        InputError, match="column 'data.stream': the market simulates no stocks, only index.*tcn_stocks"
    ):
        data.open(tmp_path, ONE)


def test_damage_that_keeps_the_size_is_found_on_demand(files, tmp_path):
    dataset = config(files).open(tmp_path, ONE)
    dataset.verify()
    path = next(tmp_path.rglob('weights.npy'))
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match='weights.npy: 1 arrays of the chunk bank are damaged. Remove '):
        config(files).open(tmp_path, ONE).verify()


def test_folds_walk_forward_and_leave_the_gaps(tmp_path):
    dates = np.busday_offset('2021-01-04', np.arange(400))
    rv = np.random.Generator(np.random.Philox(1)).uniform(0.1, 0.3, 400)
    pq.write_table(pa.table({'date': dates, 'daily_rv': rv}), tmp_path / 'rv.parquet')
    labels = read_targets(tmp_path / 'rv.parquet', (30,), compute_labels=True)
    split = Split(train_end='2021-06-30', valid_end='2021-09-30', purge_days=30, embargo_days=5)
    usable, tests = dates[labels.valid[:, 0]], []
    for fold in range(4):
        data = config(tmp_path, horizons=(30,), split=split, fold=fold, folds=4)
        dataset = TcnDataset(data, None, dates, [np.ones(1, int)] * 400, labels, {}, '')
        parts = {name: dataset.rows(name)['time'] for name in ('train', 'valid', 'test')}
        for before, after in (('train', 'valid'), ('valid', 'test')):
            assert parts[before][-1] + np.timedelta64(35, 'D') < parts[after][0]
        tests.append(parts['test'])
        assert dataset.fingerprint()['fold'] == fold
    np.testing.assert_array_equal(np.concatenate(tests), usable[-sum(map(len, tests)) :])
    assert len(usable) / 5 < min(map(len, tests)) + 20 and max(map(len, tests)) - min(map(len, tests)) <= 1
    for fields in ({'fold': 5}, {'folds': 0}):
        with pytest.raises(InputError, match='fold'):
            config(tmp_path, **fields).check()


def test_labels_that_lack_days_are_counted_by_part(tmp_path, capsys):
    dates = np.delete(np.busday_offset('2022-01-03', np.arange(180)), [40, 41, 42, 43, 44, 45])
    pq.write_table(pa.table({'date': dates, 'daily_rv': np.full(174, 0.2)}), tmp_path / 'rv.parquet')
    labels = read_targets(tmp_path / 'rv.parquet', (28,), compute_labels=True)
    data = config(tmp_path, horizons=(28,), split=Split(train_end='2022-04-15', valid_end='2022-06-20', **NO_GAPS))
    rows = {
        s: TcnDataset(data, None, dates, [np.ones(1, int)] * 174, labels, {}, '').rows(s) for s in ('train', 'test')
    }
    said = capsys.readouterr().out
    for split, r in rows.items():
        end = r['time'] + np.timedelta64(28, 'D')
        count = np.array([((dates > t) & (dates <= e)).sum() for t, e in zip(r['time'], end, strict=True)])
        np.testing.assert_array_equal(r['short'][:, 0], count < 0.85 * 28 * 252 / 365.25)
        np.testing.assert_array_equal(r['unended'][:, 0], end > dates[-1])
        assert r['short'].any() and f'{split} {r["short"].sum()} of {len(end)}' in said
    assert 'labels 28 days ahead whose windows are short of days: train' in said
    assert f'end after the file does: train 0 of {len(rows["train"]["time"])}' in said


def test_a_skipped_file_is_named_and_its_day_is_gone(files, tmp_path, capsys):
    shutil.copytree(files / 'ticks', tmp_path / 'ticks')
    bad = tmp_path / 'ticks' / f'{DAYS[2]}.parquet'
    bad.write_bytes(bad.read_bytes()[:100])
    changed = config(files, root=str(tmp_path / 'ticks'))
    with pytest.raises(InputError, match=f'{DAYS[2]}.parquet: not a parquet file, or a truncated one'):
        changed.open(tmp_path, ONE)
    changed.on_bad_file = 'skip'
    dataset = changed.open(tmp_path, ONE)
    said = capsys.readouterr().out
    assert '1 files skipped' in said and f'skipped: {bad}: not a parquet file' in said
    assert [str(d) for d in dataset.rows('all')['time']] == [d for d in DAYS if d != DAYS[2]]


def test_framing_processes_load_neither_jax_nor_torch():
    heavy = '("jax", "torch", "pandas", "matplotlib")'
    code = f'import sys, fjq.data.ticks.tcn; print([m for m in {heavy} if m in sys.modules])'
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True).stdout.strip() == '[]'


def test_the_real_sample(data_dir, tmp_path):
    folder = data_dir / 'tcn'
    (tmp_path / 'ticks').mkdir()
    for day in list_days(folder / 'index_data')[9:20]:  # 14 to 28 February with the holiday on the 21st
        (tmp_path / 'ticks' / day.path.name).symlink_to(day.path)
    split = Split(train_end='2022-02-17', valid_end='2022-02-23', **NO_GAPS)
    data = TcnData(
        root=str(tmp_path / 'ticks'),
        targets=str(folder / 'spy_daily_rv.parquet'),
        split=split,
        horizons=(1,),
        compute_labels=True,
        batch_rows=4,
    )
    d = data.open(tmp_path, ONE)
    assert [str(x) for x in d.rows('all')['time'][[0, -1]]] == ['2022-02-14', '2022-02-28']
    assert [str(x) for x in d.rows('train')['time']] == ['2022-02-14', '2022-02-15', '2022-02-16']
    assert d.counts()['days_without_label'] == 3  # the holiday, and two Fridays whose next day has no volatility
    full = d.fragments.day != 5
    assert np.bincount(d.fragments.day[full], weights=d.fragments.chunks[full])[0] == 1564
    assert np.bincount(d.fragments.day).tolist() == [8] * 5 + [4] + [8] * 5
    assert d.fragments.chunks[full].min() >= 0.9 * d.fragments.chunks[full].max()
    batch = d.train(0, WHOLE)[0]
    assert batch['chunks'].shape == (4, 200, 256, 3) and batch['scalars'].shape == (4, 50, 3)
    published = pacsv.read_csv(data_dir / 'daily' / 'vix-daily.csv')
    history = d.history()
    days = [str(d) for d in published['DATE'].to_pylist()]
    for day in ('2022-02-16', '2022-02-28'):
        close = published['CLOSE'][days.index(day)].as_py()
        # the published close is of 16:15, the files end at 16:00
        np.testing.assert_allclose(history['vix'][history['time'] == np.datetime64(day)], close, rtol=0.03)
