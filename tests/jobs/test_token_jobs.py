"""Paths, chat and analysis of tokens: files that a seed decides, candles that can be, figures by hand."""

import collections
import dataclasses
import io
import json
from pathlib import Path

import numpy as np
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest

from fjq.data.token_options import Analyze
from fjq.errors import InputError
from fjq.jobs import analyze, chat, generate
from fjq.keys import make_key
from fjq.launch import load_config
from fjq.parallel import Parallel
from fjq.trained import Trained

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope='module')
def config(tmp_path_factory):
    config = load_config(ROOT / 'configs' / 'microchat_pretrain.py', 'tiny')
    config.cache, config.parallel = str(tmp_path_factory.mktemp('cache')), Parallel(workers=1)
    config.data.generate.horizon, config.data.generate.paths = 5, 6
    return config


@pytest.fixture(scope='module')
def weights(config, tmp_path_factory) -> Path:
    """A saved model that was never trained, with a head that is not zero."""
    folder = tmp_path_factory.mktemp('weights')
    params, extra = config.task.build().init(make_key(0, 'init'))
    params['lm_head']['kernel'] = params['lm_head']['kernel'] + 0.3 * np.random.default_rng(0).normal(
        size=params['lm_head']['kernel'].shape
    )
    Trained(config, params, extra).save(folder)
    return folder


@pytest.fixture(scope='module')
def dataset(config):
    return config.data.open(config.cache, config.parallel)


@pytest.fixture
def no_charts(monkeypatch):
    """Figures take longer than all else."""
    monkeypatch.setattr(generate, 'draw', lambda paths: None)


def generated(config, weights, **fields) -> Path:
    options = dataclasses.replace(config.data.generate, **fields)
    data = dataclasses.replace(config.data, generate=options)
    generate.run(dataclasses.replace(config, data=data), weights)
    return weights / 'generated'


def test_the_same_seed_writes_the_same_files(config, weights):
    folder = generated(config, weights, assets=('SPY',))
    files = {f.name: f.read_bytes() for f in folder.iterdir()}
    assert set(files) == {'paths.csv', 'paths.parquet', 'quantiles.csv', 'quantiles.parquet', 'SPY.png'}
    assert {f.name: f.read_bytes() for f in generated(config, weights, assets=('SPY',)).iterdir()} == files
    other = generated(dataclasses.replace(config, seed=1), weights, assets=('SPY',))
    assert (other / 'paths.csv').read_bytes() != files['paths.csv']


def test_paths_are_candles_after_the_last_close(config, weights, dataset, no_charts):
    table = pq.read_table(generated(config, weights) / 'paths.parquet').to_pandas()
    assert len(table) == 3 * 6 * 5 and table['token'].between(0, dataset.tokenizer.vocabulary - 1).all()
    assert (table['low'] <= table[['open', 'close']].min(axis=1)).all()
    assert (table['high'] >= table[['open', 'close']].max(axis=1)).all()
    quantiles = pq.read_table(weights / 'generated' / 'quantiles.parquet').to_pandas()
    for a in dataset.assets:
        mine = table[table['id'] == a.candles.id]
        assert (mine['after'] == a.candles.time[-1]).all()
        one = mine[mine['path'] == 2]
        expected = dataset.tokenizer.decode(one['token'].to_numpy(), a.candles.close[-1], a.scale[-1])
        np.testing.assert_allclose(one[['open', 'high', 'low', 'close']], expected)
        last = mine[mine['step'] == 5]['close']
        row = quantiles[(quantiles['id'] == a.candles.id) & (quantiles['step'] == 5)]
        levels = np.quantile(last, [0.05, 0.25, 0.5, 0.75, 0.95])
        np.testing.assert_allclose(row[['q05', 'q25', 'q50', 'q75', 'q95']].to_numpy()[0], levels)
    text = pacsv.read_csv(io.BytesIO((weights / 'generated' / 'paths.csv').read_bytes())).to_pandas()
    np.testing.assert_allclose(text['close'], table['close'])


def test_paths_of_an_asset_do_not_depend_on_the_others(config, weights, dataset, no_charts):
    whole = pq.read_table(generated(config, weights) / 'paths.parquet').to_pandas()
    alone = pq.read_table(generated(config, weights, assets=('SPY',)) / 'paths.parquet').to_pandas()
    mine = whole[whole['id'] == 'SPY']['token'].to_numpy()
    np.testing.assert_array_equal(alone['token'], mine)
    assert (alone['token'].to_numpy() != whole[whole['id'] == 'AAPL']['token'].to_numpy()).any()


def test_a_prompt_may_end_earlier(config, weights, dataset, no_charts):
    day = str(dataset.assets[0].candles.time[50].astype('datetime64[D]'))
    table = pq.read_table(generated(config, weights, time=day) / 'paths.parquet')
    assert set(table['after'].to_numpy()) == {dataset.assets[0].candles.time[50].astype('datetime64[s]')}


def test_seed_tokens_go_on_from_a_price_of_100(config, weights, dataset, no_charts):
    table = pq.read_table(generated(config, weights, seed_tokens=(1, 2, 3), temperature=0.0) / 'paths.parquet')
    assert set(table['id'].to_pylist()) == {'seed'} and table['after'].null_count == table.num_rows
    paths = table['token'].to_numpy().reshape(6, 5)
    assert (paths == paths[0]).all()  # the likeliest, always
    first = table['close'].to_numpy()[0] / 100
    scale = np.median([a.scale[-1] for a in dataset.assets])
    np.testing.assert_allclose(np.log(first), dataset.tokenizer.features(paths[0, 0])[0] * scale)


@pytest.mark.parametrize(
    ('fields', 'message'),
    [
        (dict(assets=('SYP',)), "no asset 'SYP'. Did you mean 'SPY'"),
        (dict(seed_tokens=(1, 32)), 'token 32 at place 1 is not of the 32'),
        (dict(horizon=0), 'horizon is 0'),
        (dict(horizon=500), 'longer than the model'),
        (dict(paths=0), 'paths is 0'),
        (dict(temperature=-1.0), 'temperature is -1'),
        (dict(time='yesterday'), "'yesterday' is no time"),
        (dict(time='2018-01-03'), 'up to 2018-01-03, a context is'),
    ],
)
def test_what_can_not_be_generated_is_said(config, weights, fields, message):
    with pytest.raises(InputError, match=message):
        generated(config, weights, **fields)


def test_chat_answers_goes_on_after_mistakes_and_ends(config, weights, monkeypatch, capsys):
    monkeypatch.setattr('sys.stdin', io.StringIO('assets\nspy 3\nSPX\nspy -1\naapl\n'))
    chat.run(config, weights)
    out = capsys.readouterr().out
    assert 'AAPL MSFT SPY' in out and "no asset 'SPX'" in out and "'spy -1' is not understood" in out
    assert '; 3 candles later' in out and '; 5 candles later' in out


def test_questions():
    assert chat.read_question(['spy', '7'], ['SPY'], 5) == ('SPY', 7)
    assert chat.read_question(['Q'], ['SPY'], 5) == ('Q', 5)
    for words in (['SPY', '0'], ['SPY', '1', '2'], ['SPY', 'x']):
        with pytest.raises(InputError, match='not understood'):
            chat.read_question(words, ['SPY'], 5)


def test_figures_by_counting(config, dataset):
    options = Analyze(top=4, pattern=2, least=2, transitions=3, sigmas=1.5)
    found = analyze.analyze(dataset, options)
    json.dumps(found, allow_nan=False)
    runs = {a.candles.id: a.id.tolist() for a in dataset.assets}
    count = collections.Counter(t for ids in runs.values() for t in ids)
    total = sum(count.values())
    assert found['tokens'] == total and found['used'] == len(count)
    bits = -sum(n / total * np.log2(n / total) for n in count.values())
    assert found['entropy, bits'] == pytest.approx(bits) and found['perplexity'] == pytest.approx(2**bits)
    assert found['coverage of the most frequent']['4'] == pytest.approx(sum(n for _, n in count.most_common(4)) / total)
    pairs = collections.Counter(p for ids in runs.values() for p in zip(ids, ids[1:], strict=False))
    assert [p['count'] for p in found['patterns']] == [n for _, n in pairs.most_common(4)]
    assert all(pairs[tuple(p['tokens'])] == p['count'] for p in found['patterns'])
    for token, nexts in found['transitions'].items():
        after = {b: n for (a, b), n in pairs.items() if a == int(token)}
        assert [n['count'] for n in nexts] == sorted(after.values(), reverse=True)[:3]
        assert nexts[0]['share'] == pytest.approx(nexts[0]['count'] / sum(after.values()))
    returns = dataset.tokenizer.features(np.arange(32))[:, 0]
    whole = np.array([returns[t] for ids in runs.values() for t in ids])
    far = sum(abs(returns[t] - whole.mean()) > 1.5 * whole.std() for ids in runs.values() for t in ids)
    assert found['outliers']['count'] == far > 0
    first = found['outliers']['first'][0]
    asset = next(a for a in dataset.assets if a.candles.id == first['id'])
    assert asset.id[list(map(str, asset.candles.time)).index(first['time'])] == first['token']


def test_ids_that_never_come_change_nothing():
    count = np.array([0, 3, 0, 1, 0])
    assert analyze.entropy(count) == pytest.approx(analyze.entropy(np.array([3, 1])))
    assert analyze.coverage(count, 1) == 0.75 and analyze.coverage(count, 9) == 1
    pairs = analyze.count_pairs([np.array([3, 1, 1]), np.array([1, 3])], 5)
    assert pairs.sum() == 3 and pairs[3, 1] == pairs[1, 1] == pairs[1, 3] == 1
    assert list(analyze.top_transitions(pairs, 5)) == ['1', '3']


def test_analysis_is_written_and_said(config, tmp_path, capsys):
    analyze.run(config, tmp_path)
    found = json.loads((tmp_path / 'analysis.json').read_text())
    out = capsys.readouterr().out
    assert f'{found["used"]} of 32 in use' in out and f'entropy {found["entropy, bits"]:.3f} bits' in out


@pytest.mark.parametrize('fields', [dict(split='test'), dict(top=0), dict(pattern=0)])
def test_settings_of_an_analysis(dataset, fields):
    with pytest.raises(InputError, match=next(iter(fields))):
        analyze.analyze(dataset, Analyze(**fields))


def test_training_tokens_alone(dataset):
    found = analyze.analyze(dataset, Analyze(split='train'))
    assert found['tokens'] == sum(int(a.in_train.sum()) for a in dataset.assets)
