"""The study of tokens with a model that is known: figures by hand, each token once, and honest verdicts."""

import types

import jax.numpy as jnp
import numpy as np
import pytest

from fjq import compare
from fjq.compare import diebold_mariano
from fjq.data.candles.simulated import SimulatedTokenData
from fjq.data.windows import Split
from fjq.errors import InputError
from fjq.evaluate import Judged
from fjq.forecast import Point, Samples
from fjq.parallel import Parallel
from fjq.studies.tokens import TokenScores, _verdict, energy_score, read_series, score_model, spans
from fjq.tokenizers import Bins

CONTEXT, HORIZONS = 8, (1, 4)


class Known:
    """The law after a token is the row of a matrix."""

    def __init__(self, law: np.ndarray):
        self.law = np.log(law)

    def log_probabilities(self, params, extra, batch):
        return jnp.asarray(self.law)[batch['tokens'][:, :-1]]


def trained(task) -> types.SimpleNamespace:
    return types.SimpleNamespace(task=task, params={}, extra={}, config=types.SimpleNamespace(name='known'))


@pytest.fixture(scope='module')
def make(tmp_path_factory):
    def make(**fields):
        settings = dict(
            split=Split(train_end='2019-03-31', valid_end='2019-06-30', purge_days=0, embargo_days=0),
            tokenizer=Bins(returns=4, ranges=2),
            context=CONTEXT,
            horizons=HORIZONS,
            batch_rows=16,
            days=450,
            simulated_assets=3,
        )
        return SimulatedTokenData(**settings | fields).open(tmp_path_factory.mktemp('cache'), Parallel(workers=1))

    return make


@pytest.fixture(scope='module')
def data(make):
    return make()


@pytest.fixture(scope='module')
def law() -> np.ndarray:
    raw = np.random.Generator(np.random.Philox(0)).uniform(0.1, 1, (8, 8))
    return raw / raw.sum(1, keepdims=True)


def by_hand(data, law) -> dict:
    """(asset, time) of every test token -> (nats, rank), by a loop over candles."""
    out, first = {}, data.rows('test')['time'].min()
    for a in data.assets:
        start = np.searchsorted(a.candles.time, first)
        for t in range(start + 1, len(a.id)):
            p = law[a.id[t - 1]]
            out[a.candles.id, a.candles.time[t]] = -np.log(p[a.id[t]]), int((p > p[a.id[t]]).sum())
    return out


@pytest.mark.parametrize('stride', [1, 3, 4])
def test_every_token_is_scored_once_by_the_row_before_it(make, law, stride):
    data = make(eval_stride=stride)
    rows = data.rows('test')
    score, asked = score_model(trained(Known(law)), data, 'test', rows, read_series(data))
    expected = by_hand(data, law)
    keys = list(zip(asked.asset, asked.time, strict=True))
    assert len(set(keys)) == len(keys) and len(keys) >= len(expected) - 3 * stride * 2
    assert stride > 1 or set(keys) == set(expected)
    for key, nats, rank in zip(keys, score.nats, score.above, strict=True):
        np.testing.assert_allclose(nats, expected[key][0], rtol=1e-5)
        assert rank == expected[key][1]
    assert (np.diff(asked.time.astype(np.int64)) >= 0).all()


def test_tables_by_hand(data, law):
    rows = data.rows('test')
    mask = rows['valid']
    values = np.random.Generator(np.random.Philox(1)).normal(size=(*mask.shape, 5))
    judged = [Judged('known', Samples(values), Samples(values)), Judged('walk', Samples(values), Samples(2 * values))]
    judged.append(Judged('point', Point(values[..., 0]), Point(values[..., 0])))
    drawn = lambda count: Samples(values[..., :count])
    judged.append(Judged('drawn', Point(values[..., 0]), Point(values[..., 0]), drawn))
    study = TokenScores(draws=50, block=5).run(trained(Known(law)), data, 'test', judged, rows, mask)
    pooled, saved, by_asset, paths = study.tables.values()
    nats, rank = (np.array(v) for v in zip(*by_hand(data, law).values(), strict=True))
    line = pooled[0]
    assert line['forecaster'] == 'known' and len(nats) == int(next(iter(study.tables)).split()[0])
    np.testing.assert_allclose(line['bits'], nats.mean() / np.log(2), rtol=1e-5)
    np.testing.assert_allclose(line['perplexity'], np.exp(nats.mean()), rtol=1e-5)
    np.testing.assert_allclose([line['accuracy'], line['top-5']], [(rank == 0).mean(), (rank < 5).mean()])
    assert all(x['low'] < x['bits'] < x['high'] for x in pooled if x['forecaster'] != 'uniform')
    for x in pooled:  # the uniform one too, of which every token is an eighth of a hit
        assert all(0 <= x[f'{k} low'] < x[k] < x[f'{k} high'] <= 1 for k in ('accuracy', 'top-5'))
    uniform = pooled[1]
    np.testing.assert_allclose([uniform['bits'], uniform['accuracy'], uniform['top-5']], [3, 1 / 8, 5 / 8])
    assert uniform['low'] == pytest.approx(3) == uniform['high']
    np.testing.assert_allclose(saved[0]['saved'], 3 - line['bits'])
    moments = {}
    for (_, time), (one, _) in by_hand(data, law).items():
        moments.setdefault(time, []).append(3 - one / np.log(2))
    gain, count = (np.array([of(moments[t]) for t in sorted(moments)]) for of in (np.sum, len))
    gain = gain.sum() / count.sum() + (gain - count * gain.sum() / count.sum()) / count.mean()
    for variance, name in (('cosine', 'p'), ('newey-west', 'p (NW)')):
        test = diebold_mariano(gain, np.zeros(len(gain)), horizon=1, variance=variance)
        assert saved[0][name] == pytest.approx(test.p, rel=1e-4)
    assert f'Diebold-Mariano p {min(saved, key=lambda d: d["saved"])["p"]:.2g}' in study.sentences[0]
    assert sum(x['tokens'] for x in by_asset) == len(nats) and len(by_asset) == 3
    np.testing.assert_allclose(
        np.average([x['known'] for x in by_asset], weights=[x['tokens'] for x in by_asset]), line['bits']
    )
    density = [
        d for a in data.assets for d in data.tokenizer.log_density(a.candles, a.id)[a.candles.time > rows['time'].min()]
    ]
    np.testing.assert_allclose(line['log likelihood a candle'], np.mean(density) - nats.mean(), rtol=1e-5)
    whole = mask.all(1)
    target, time = rows['target'][whole], rows['time'][whole]
    assert [x['forecaster'] for x in paths] == ['known', 'walk', 'drawn'] and paths[1]['the model is'] == 'better'
    gain = compare.mean_by_moments(energy_score(2 * values[whole], target) - energy_score(values[whole], target), time)
    test = diebold_mariano(gain, np.zeros(len(gain)), horizon=compare.count_span(rows)[-1])
    assert paths[1]['DM'] == pytest.approx(test.statistic) and paths[2]['p'] == 1.0 and np.isnan(paths[0]['p'])
    assert paths[2]['saved'] == 0 and paths[2]['energy score'] == paths[0]['energy score']
    assert study.charts[0].lines['bigram'][-1] == pytest.approx(saved[2]['saved'] * len(nats))


def test_a_model_that_knows_less_than_counting_is_said_to_be_worse(data, law):
    rows = data.rows('test')
    judged = [Judged('known', Point(rows['target']), Point(rows['target']))]
    study = TokenScores(draws=50, block=5).run(trained(Known(law)), data, 'test', judged, rows, rows['valid'])
    assert len(study.tables) == 3 and 'known is worse' in study.sentences[0]


def test_too_few_moments_are_said_to_be_so(data, law):
    rows = data.rows('test')
    judged = [Judged('known', Point(rows['target']), Point(rows['target']))]
    study = TokenScores(draws=50, block=1000).run(trained(Known(law)), data, 'test', judged, rows, rows['valid'])
    assert ' bits a token, too few rows for an interval, Diebold-Mariano p ' in study.sentences[0]
    line = {'saved': 0.5, 'low': -np.inf, 'high': np.inf, 'p': np.nan, 'the model is': 'not told apart'}
    assert _verdict('ours', line).endswith('told apart (+0.5000 bits a token, too few rows for an interval).')


def test_a_tokenizer_that_looks_ahead_is_told_beside_its_scores(data, law, monkeypatch):
    rows = data.rows('test')
    judged = [Judged('known', Point(rows['target']), Point(rows['target']))]
    monkeypatch.setattr(data.tokenizer, 'looks_ahead', True)
    study = TokenScores(draws=50, block=5).run(trained(Known(law)), data, 'test', judged, rows, rows['valid'])
    assert 'looks at the candle after each' in study.sentences[-1]


def test_chains_are_tuned_on_what_is_not_scored(data):
    series = read_series(data)
    train, held_out = spans(data, 'test', series)
    assert sum(len(s.token) for s in train) <= sum(
        int((a.candles.time < np.datetime64('2019-04-01')).sum()) for a in data.assets
    )
    valid = [
        ((a.candles.time > np.datetime64('2019-04-01')) & (a.candles.time < np.datetime64('2019-07-01')))
        for a in data.assets
    ]
    for s, a, span in zip(held_out, data.assets, valid, strict=True):
        np.testing.assert_array_equal(s.token, a.id[span])
        np.testing.assert_allclose(np.diff(np.log(s.scale)), np.diff(np.log(a.scale[:-1][span])), atol=1e-9)
    cut, rest = spans(data, 'valid', series)
    for whole, a, b in zip(train, cut, rest, strict=True):
        np.testing.assert_array_equal(np.concatenate([a.token, b.token]), whole.token)
        assert len(b.token) and np.median(whole.scale) == pytest.approx(1)


def test_the_energy_score_by_hand():
    rng = np.random.Generator(np.random.Philox(3))
    x, y = rng.normal(size=(4, 3, 6)), rng.normal(size=(4, 3))
    got = energy_score(x, y)
    for n in range(4):
        paths = x[n].T
        near = np.mean([np.linalg.norm(p - y[n]) for p in paths])
        apart = np.mean([np.linalg.norm(p - q) for i, p in enumerate(paths) for j, q in enumerate(paths) if i != j])
        assert got[n] == pytest.approx(near - apart / 2)
    one = energy_score(x[:, :1], y[:, :1])
    np.testing.assert_allclose(one, Samples(x[:, 0]).crps(y[:, 0]), rtol=1e-5)


def test_a_model_without_a_law_of_tokens_is_refused(data):
    rows = data.rows('test')
    with pytest.raises(InputError, match='known has no law of tokens'):
        TokenScores().run(trained(None), data, 'test', [], rows, rows['valid'])
