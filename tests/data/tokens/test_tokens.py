"""Data of tokens: one calendar cut, tokens fitted on training alone, no look-ahead, and what is refused."""

import dataclasses

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pytest

from fjq.data.candles.files import CandleFiles
from fjq.data.candles.simulated import PlantedTokenData, SimulatedTokenData
from fjq.data.tokens import cache as token_cache
from fjq.data.tokens.data import TokenData
from fjq.data.windows import Split
from fjq.errors import InputError
from fjq.parallel import Parallel
from fjq.task import Dataset, Shard
from fjq.tokenizers import Bins, Saved

WHOLE, ONE = Shard(), Parallel(workers=1)
SPLIT = Split(train_end='2018-12-31', valid_end='2019-04-30', purge_days=0, embargo_days=3)


def settings(**fields) -> SimulatedTokenData:
    defaults = dict(
        split=SPLIT,
        tokenizer=Bins(returns=6, ranges=2),
        length=32,
        context=16,
        horizons=(1, 5),
        stride=2,
        eval_stride=5,
        batch_rows=8,
        days=450,
        simulated_assets=3,
    )
    return SimulatedTokenData(**defaults | fields)


@pytest.fixture(scope='module')
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp('cache')


@pytest.fixture(scope='module')
def data(cache):
    return settings().open(cache, ONE)


def all_rows(data, split: str) -> dict:
    batches = data.batches(split, WHOLE)
    parts = [batches[i] for i in range(len(batches))]
    whole = {k: np.concatenate([p[k] for p in parts]) for k in parts[0]}
    return {k: v[whole['mask']] for k, v in whole.items()}


def located(cache, **fields) -> TokenData:
    return settings(**fields).locate(cache, ONE)


def test_one_moment_cuts_all_assets(data):
    assert isinstance(data, Dataset)
    bounds = np.datetime64('2019-01-01'), np.datetime64('2019-05-01')
    for name, low, high in (('train', None, bounds[0]), ('valid', *bounds), ('test', bounds[1], None)):
        rows = data.rows(name)
        assert len(set(rows['id'])) == 3
        for asset in set(rows['id']):
            time = rows['time'][rows['id'] == asset]
            assert (low is None or time.min() >= low) and (high is None or time.max() < high)
    gap = np.timedelta64(3, 'D')
    assert np.nanmax(data.rows('train')['label_end']) + gap < bounds[0]
    assert np.nanmax(data.rows('valid')['label_end']) + gap < bounds[1]
    for a in data.assets:
        assert a.candles.time[a.in_train].max() + gap < bounds[0] and a.in_train.sum() > 200


def test_every_row_comes_once_in_order(data):
    for split in ('train', 'valid', 'test', 'all'):
        rows, batch = data.rows(split), all_rows(data, split)
        np.testing.assert_array_equal(batch['row'], np.arange(len(rows['time'])))
        assert (np.diff(rows['time'].astype(np.int64)) >= 0).all()
        assert rows['target'].shape == rows['valid'].shape == rows['label_end'].shape == (len(rows['id']), 2)


def test_rows_are_the_candles_of_their_asset(data):
    rows, batch = data.rows('test'), all_rows(data, 'test')
    for a in data.assets:
        place = {t: i for i, t in enumerate(a.candles.time)}
        for i in np.flatnonzero(rows['id'] == a.candles.id):
            at = place[rows['time'][i]]
            np.testing.assert_array_equal(batch['tokens'][i, :16], a.id[at - 15 : at + 1])
            assert batch['scale'][i] == np.float32(a.scale[at + 1])
            for h, ahead in enumerate((1, 5)):
                known = at + ahead < len(a.id)
                assert rows['valid'][i, h] == known
                if known:
                    expected = np.log(a.candles.close[at + ahead] / a.candles.close[at])
                    np.testing.assert_allclose(rows['target'][i, h], expected, rtol=1e-9)
                    assert rows['label_end'][i, h] == a.candles.time[at + ahead]
    np.testing.assert_allclose(batch['target'][batch['target_mask']], rows['target'][rows['valid']], rtol=1e-5)


def test_only_the_future_counts_where_a_split_is_scored(data):
    for split in ('train', 'valid', 'test'):
        batch = all_rows(data, split)
        assert not batch['counts'][:, :15].any() and batch['counts'][:, 15].all()
    hidden = all_rows(data, 'all')
    assert not hidden['counts'].any() and not hidden['tokens'][:, 16:].any() and not hidden['target_mask'].any()


def test_strides_are_counted_in_candles_and_today_is_forecast_at_any(data):
    for split, stride in (('train', 2), ('test', 5)):
        rows = data.rows(split)
        for a in data.assets:
            place = np.flatnonzero(np.isin(a.candles.time, rows['time'][rows['id'] == a.candles.id]))
            assert set(np.diff(place)) == {stride}
    last = data.rows('all')['time'] == max(a.candles.time[-1] for a in data.assets)
    assert sorted(data.rows('all')['id'][last]) == [a.candles.id for a in data.assets]
    assert not data.rows('all')['valid'][last].any()


def test_packed_windows_hold_training_tokens_and_one_asset_a_segment(data):
    source = data.train(0, WHOLE)
    for step in range(12):
        b = source[step]
        for tokens, segment in zip(b['tokens'], b['segment'], strict=True):
            for s in set(segment) - {0}:
                part, whole = tokens[segment == s], data.assets[s - 1]
                trained = whole.id[whole.in_train]
                found = np.lib.stride_tricks.sliding_window_view(trained, len(part))
                assert (found == part).all(1).any()


def test_rows_can_be_trained_on_instead_of_windows(cache):
    data = settings(layout='forecast').open(cache, ONE)
    rows, source = data.rows('train'), data.train(4, WHOLE)
    steps = -(-len(rows['time']) // 8)
    batches = [source[i] for i in range(steps)]
    assert set(np.concatenate([b['row'] for b in batches])) == set(range(len(rows['time'])))
    b = batches[0]
    assert b['mask'].all() and b['counts'].all() and b['tokens'].shape == (8, 16 + 5)
    np.testing.assert_allclose(b['target'], rows['target'][b['row']], rtol=1e-5)


def test_assets_pick_who_trains_and_not_who_is_tokenised(data, cache):
    one = settings(assets=('MSFT',)).open(cache, ONE)
    assert one.tokenizer.hash == data.tokenizer.hash
    assert set(one.rows('train')['id']) == {'MSFT'} and set(one.history()['id']) == set(data.rows('all')['id'])
    assert one.fingerprint()['candles'] != data.fingerprint()['candles']
    with pytest.raises(InputError, match="no asset 'MSTF'. Did you mean 'MSFT'"):
        settings(assets=('MSTF',)).open(cache, ONE)


def test_what_comes_later_changes_no_token(data, cache, tmp_path, capsys):
    """Every candle after a day of the test split is another one, and a share became three with the first of them."""
    day = np.datetime64('2019-07-01')
    whole = located(cache).candle_files().read(ONE)
    for c in whole:
        factor = np.where(c.time > day, np.exp(0.3 * np.sin(np.cumsum(c.time > day) - 1)) / 3, 1)
        columns = {n.title(): getattr(c, n) * factor for n in ('open', 'high', 'low', 'close')}
        table = pa.table({'Date': pa.array(c.time.astype('datetime64[D]')), **columns, 'Volume': c.volume})
        pa.csv.write_csv(table, tmp_path / f'{c.id}.csv')
    other = dataclasses.replace(located(cache), path=str(tmp_path), splits=True).open(tmp_path / 'cache', ONE)
    assert other.tokenizer.hash == data.tokenizer.hash and '3 x split' in capsys.readouterr().out
    seen = 0
    for a, b in zip(data.assets, other.assets, strict=True):
        now = a.candles.time <= day
        np.testing.assert_array_equal(a.id[now], b.id[now])
        np.testing.assert_array_equal(a.scale[:-1][now], b.scale[:-1][now])
        seen += int((a.id != b.id).sum())
    assert seen > 20
    for split in ('train', 'valid'):
        for name, values in all_rows(data, split).items():
            np.testing.assert_array_equal(values, all_rows(other, split)[name], err_msg=name)
    earlier = data.rows('all')['time'] <= day
    for name, values in all_rows(data, 'all').items():
        np.testing.assert_array_equal(values[earlier], all_rows(other, 'all')[name][earlier], err_msg=name)


def test_a_tokenizer_of_later_candles_is_refused(data, cache, tmp_path):
    """Saved, it is fitted until the end of its own training, whatever the data train on now."""
    data.tokenizer.save(tmp_path)
    saved = Saved(path=str(tmp_path))
    assert settings(tokenizer=saved).open(cache, ONE).tokenizer.hash == data.tokenizer.hash
    early = dataclasses.replace(SPLIT, train_end='2018-11-30')
    with pytest.raises(InputError, match='fitted on candles up to 2018-12-2.*, training ends with 2018-11-30'):
        settings(tokenizer=saved, split=early).open(cache, ONE)


def test_a_tokenizer_that_looks_ahead_is_told(data, cache, monkeypatch, capsys):
    assert 'looks ahead' not in capsys.readouterr().out
    monkeypatch.setattr(type(data.tokenizer), 'looks_ahead', True)
    settings().open(cache, ONE)
    assert 'looks at the candle after each' in capsys.readouterr().out


def test_assets_without_rows_are_named(cache, tmp_path, capsys):
    """The first ends before validation, the last starts after training."""
    whole = located(cache).candle_files().read(ONE)
    for c, rows in zip(whole, (slice(0, 230), slice(None), slice(300, 450)), strict=True):
        part = c.part(rows)
        columns = {n.title(): getattr(part, n) for n in ('open', 'high', 'low', 'close', 'volume')}
        table = pa.table({'Date': pa.array(part.time.astype('datetime64[D]')), **columns})
        pa.csv.write_csv(table, tmp_path / f'{c.id}.csv')
    dataclasses.replace(located(cache), path=str(tmp_path)).open(tmp_path / 'cache', ONE)
    out = capsys.readouterr().out
    assert f'without rows in train: {whole[2].id}\n' in out and f'without rows in valid: {whole[0].id}\n' in out


def test_a_saved_tokenizer_needs_no_files_to_forecast_a_table(data, tmp_path):
    data.tokenizer.save(tmp_path)
    elsewhere = TokenData(path='nowhere', split=SPLIT, tokenizer=Saved(path=str(tmp_path)), context=16, horizons=(1, 5))
    c = data.assets[0].candles
    table = pa.table({'time': pa.array(c.time), **{n: getattr(c, n) for n in ('open', 'high', 'low', 'close')}})
    np.testing.assert_array_equal(elsewhere.from_table(table).assets[0].id, data.assets[0].id)


def test_tokens_are_made_once(data, cache, monkeypatch, capsys):
    files = sorted((cache / 'tokens').iterdir())
    monkeypatch.setattr(token_cache, 'encode', lambda *_: pytest.fail('encoded again'))
    again = settings().open(cache, ONE)
    for a, b in zip(data.assets, again.assets, strict=True):
        np.testing.assert_array_equal(a.id, b.id)
        np.testing.assert_array_equal(a.scale, b.scale)
    monkeypatch.undo()
    assert sorted((cache / 'tokens').iterdir()) == files
    for file in files:
        file.write_bytes(b'PK damaged')
    again = settings().open(cache, ONE)
    assert 'damaged' in capsys.readouterr().out
    np.testing.assert_array_equal(again.assets[0].id, data.assets[0].id)


def test_a_table_is_forecast_with_the_tokenizer_of_the_files(data):
    c = data.assets[1].candles
    table = pa.table(
        {'id': ['new'] * 60, 'time': pa.array(c.time[:60]), **{n: getattr(c, n)[:60] for n in ('open', 'high', 'low')}}
        | {'close': c.close[:60], 'volume': c.volume[:60]}
    )
    fresh = settings().from_table(table)
    assert fresh.tokenizer.hash == data.tokenizer.hash
    rows = fresh.rows('all')
    assert set(rows['id']) == {'new'} and rows['time'][-1] == c.time[59] and len(rows['time']) == 60 // 5 - 3 + 1
    np.testing.assert_array_equal(fresh.assets[0].id, data.assets[1].id[:60])


def test_settings_with_what_was_fitted_need_no_files(data, tmp_path, monkeypatch):
    """Neither simulated ones, nor any to open the tokenizer again."""
    data.save_fitted(tmp_path)
    fitted = settings(path='nowhere').with_fitted(tmp_path)
    c = data.assets[1].candles
    table = pa.table({'time': pa.array(c.time), **{n: getattr(c, n) for n in ('open', 'high', 'low', 'close')}})
    for file in tmp_path.iterdir():
        file.unlink()
    monkeypatch.setattr(CandleFiles, 'read', lambda *_: pytest.fail('files were read'))
    again = fitted.from_table(table)
    np.testing.assert_array_equal(again.assets[0].id, data.assets[1].id)
    assert again.fingerprint()['tokenizer'] == data.fingerprint()['tokenizer'] and again.horizon == data.horizon


def test_history_is_all_candles_by_time(data):
    history = data.history()
    assert (np.diff(history['time'].astype(np.int64)) >= 0).all()
    for a in data.assets:
        mine = history['id'] == a.candles.id
        np.testing.assert_array_equal(history['token'][mine], a.id)
        np.testing.assert_array_equal(history['close'][mine], a.candles.close)
        np.testing.assert_array_equal(history['log_density'][mine], data.tokenizer.log_density(a.candles, a.id))


@pytest.mark.parametrize(
    ('fields', 'message'),
    [
        (dict(horizons=(0, 5)), 'horizons'),
        (dict(horizons=()), 'horizons'),
        (dict(horizons=(5, 5)), 'horizons'),
        (dict(context=0), 'context'),
        (dict(batch_rows=0), 'batch_rows'),
        (dict(marks=('AAPL',)), "column 'marks': MSFT has no mark. Name it, or add ''"),
        (dict(marks=('', '')), 'has a name twice'),
        (dict(marks=('',), context=1), 'a prompt is a mark alone'),
        (dict(layout='packt'), "did you mean 'packed'"),
        (dict(context=451), 'context of 451 candles is longer than the data, 450'),
        (dict(split=dataclasses.replace(SPLIT, valid_end='2029-01-01')), 'test part has no rows'),
    ],
)
def test_what_makes_no_sense_is_one_line(cache, fields, message):
    with pytest.raises(InputError, match=f'(?i){message}') as error:
        settings(**fields).open(cache, ONE).rows('train')
    assert '\n' not in str(error.value)


def test_marks_are_ids_after_the_vocabulary_by_name(data, cache):
    names = [a.candles.id for a in data.every]
    marked = settings(marks=(names[2], '')).open(cache, ONE)
    expected = {names[0]: 13, names[1]: 13, names[2]: 12}
    assert {a.candles.id: a.mark for a in marked.assets} == expected
    for split in ('train', 'test', 'all'):
        plain, batch = all_rows(data, split), all_rows(marked, split)
        assert batch['tokens'][:, 0].tolist() == [expected[i] for i in marked.rows(split)['id']]
        np.testing.assert_array_equal(plain['tokens'][:, 1:], batch['tokens'][:, 1:])
    packed = marked.train(0, WHOLE)[0]
    number = packed['segment'][:, 0] - 1
    assert packed['tokens'][:, 0].tolist() == [expected[names[n]] if n >= 0 else 0 for n in number]
    (one,) = settings(marks=(names[2], ''), assets=(names[2],)).open(cache, ONE).assets
    assert one.mark == 12 and one.prompt(slice(4, 8)).tolist() == [12, *one.id[5:8]]
    assert data.assets[0].prompt(slice(4, 8)).tolist() == data.assets[0].id[4:8].tolist()
    assert marked.fingerprint() == data.fingerprint() | {'marks': [names[2], '']} and 'marks' not in data.fingerprint()
    for name in ('token', 'log_density'):
        np.testing.assert_array_equal(marked.history()[name], data.history()[name])


def test_an_empty_file_is_named(cache, tmp_path):
    (tmp_path / 'A.csv').write_text('')
    with pytest.raises(InputError, match='A.csv'):
        dataclasses.replace(located(cache), path=str(tmp_path)).open(tmp_path / 'cache', ONE)


def test_a_token_outside_the_vocabulary_is_named(data):
    class Wrong:
        vocabulary = 12
        encode = staticmethod(lambda candles: np.full(len(candles), 12))
        scale = staticmethod(lambda candles: np.ones(len(candles) + 1))

    with pytest.raises(InputError, match=r'token of AAPL lies outside 0\.\.11'):
        token_cache.encode(Wrong(), data.assets[0].candles)


def test_planted_tokens_are_the_chain_and_tell_nothing_at_first_order(tmp_path):
    config = PlantedTokenData(
        split=Split(train_end='2026-12-31', valid_end='2027-06-30', purge_days=0, embargo_days=0),
        context=8,
        horizons=(1, 2),
        days=4000,
        simulated_assets=1,
        states=4,
        noise=0.3,
    )
    data = config.open(tmp_path, ONE)
    x = data.assets[0].id
    np.testing.assert_array_equal(x, config.chain(0))
    assert data.tokenizer.vocabulary == 4
    pairs = np.zeros((4, 4, 4))
    np.add.at(pairs, (x[:-2], x[1:-1], x[2:]), 1)
    entropy = lambda counts: -np.sum(counts / counts.sum() * np.log2(counts / counts.sum() + 1e-300))
    of_two = entropy(pairs) - entropy(pairs.sum(2))
    of_one = entropy(pairs.sum(0)) - entropy(pairs.sum((0, 2)))
    assert of_one > 2 - 0.01  # bits: a bigram learns nothing
    assert abs(2 - of_two - config.information()) < 0.05
    e = np.array([0.7, 0.1, 0.1, 0.1])
    np.testing.assert_allclose(config.information(), 2 + np.sum(e * np.log2(e)))
