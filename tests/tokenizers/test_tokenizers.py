"""All tokenizers: ids from the past alone, candles again that are candles, ordered codes, likelihoods, saving."""

import dataclasses
import functools
import json
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from scipy import stats

from fjq.data.candles.files import Candles
from fjq.data.windows import Split
from fjq.errors import InputError
from fjq.keys import make_key
from fjq.models.candle_autoencoder import CandleAutoencoder
from fjq.paths import flatten
from fjq.tokenizers import Bins, Learned, Saved, load
from fjq.tokenizers.card import MADE_UP, describe_noise, make_card, measure_noise, measure_stability, write_card
from fjq.tokenizers.features import candle_features, ewma_scale, rebuild
from fjq.tokenizers.learned import LearnedTokenizer, make_tokenizer

LENGTH, KNOWN = 600, 400


def make_candles(name='A', seed=0, length=LENGTH, volatility=0.02):
    rng = np.random.Generator(np.random.Philox(seed))
    close = 100 * np.exp(np.cumsum(volatility * rng.standard_normal(length)))
    opened = np.r_[100, close[:-1]] * np.exp(0.2 * volatility * rng.standard_normal(length))
    wicks = np.exp(0.5 * volatility * np.abs(rng.standard_normal((2, length))))
    high, low = np.maximum(opened, close) * wicks[0], np.minimum(opened, close) / wicks[1]
    time = np.datetime64('2020-01-01', 'ns') + np.arange(length) * np.timedelta64(1, 'D')
    return Candles(name, time, opened, high, low, close, np.full(length, 1e6))


CANDLES = [make_candles(), make_candles('B', 1, volatility=0.05)]
TRAIN = [np.arange(LENGTH) < KNOWN] * 2


def make_learned(**changes):
    """An autoencoder at random weights: nothing here asks for more."""
    config = dataclasses.replace(CandleAutoencoder(hidden=8, dim=4, codes=32), **changes)
    task = config.build()
    params, extra = jax.device_get(jax.jit(task.init)(make_key(0, 'init')))
    params['encoder']['mlp']['4']['kernel'] = 10 * params['encoder']['mlp']['4']['kernel']  # candles outdo the biases
    for i, size in enumerate(config.books):
        rng = np.random.Generator(np.random.Philox(i))
        extra[f'book_{i}']['embedding'] = 0.3 * rng.standard_normal((size, 4), np.float32)
    extra = {n: v for n, v in flatten(extra).items() if n in ('mean', 'std') or n.endswith('embedding')}
    arrays = {f'params/{n}': np.asarray(v) for n, v in flatten(params).items()}
    return LearnedTokenizer(config, 0.94, 0.02, arrays | {f'extra/{n}': np.asarray(v) for n, v in extra.items()})


TOKENIZERS = {
    'bins': lambda: Bins(returns=8, ranges=4).open(CANDLES, TRAIN),
    'bins, not scaled': lambda: Bins(returns=8, ranges=1, decay=1.0).open(CANDLES, TRAIN),
    'vq': make_learned,
    'fsq': lambda: make_learned(quantizer='fsq', levels=(4, 4, 3)),
    'rvq': lambda: make_learned(quantizer='rvq', levels=(8, 4)),
    'bsq': lambda: make_learned(quantizer='bsq'),
}


@functools.cache
def get(name):
    return TOKENIZERS[name]()


@pytest.fixture(params=TOKENIZERS)
def tokenizer(request):
    return get(request.param)


def test_features_by_their_formulas():
    c = CANDLES[0]
    f = candle_features(c.ohlc())
    assert f[0, 0] == pytest.approx(np.log(c.close[0] / c.open[0]))
    t = 17
    top, bottom = max(c.open[t], c.close[t]), min(c.open[t], c.close[t])
    expected = [
        c.close[t] / c.close[t - 1],
        c.close[t] / c.open[t],
        c.high[t] / top,
        bottom / c.low[t],
        c.high[t] / c.low[t],
    ]
    np.testing.assert_allclose(f[t], np.log(expected), rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(f[:, 4], f[:, 2] + np.abs(f[:, 1]) + f[:, 3], atol=1e-12)


def test_scale_is_the_volatility_known_before():
    r = candle_features(CANDLES[0].ohlc())[:, 0]
    scale, expected = ewma_scale(r, 0.9, 0.03), [0.03]
    for x in r:
        expected.append(np.sqrt(0.9 * expected[-1] ** 2 + 0.1 * x**2))
    np.testing.assert_allclose(scale, expected, rtol=1e-10)
    assert (ewma_scale(np.zeros(2000), 0.9, 0.03) > 0).all() and (ewma_scale(r, 1.0, 1.0) == 1).all()


def test_candles_come_back_from_their_features():
    c = CANDLES[1]
    f, scale = candle_features(c.ohlc()), ewma_scale(candle_features(c.ohlc())[:, 0], 0.94, 0.02)
    again = rebuild((f / scale[:-1, None])[None, 1:, :4], c.close[:1], scale[1:2], 0.94)[0]
    np.testing.assert_allclose(again, c.ohlc()[1:], rtol=1e-8)


def test_ids_are_of_the_past_alone(tokenizer):
    """Other candles after t, or none yet, leave every id and scale up to t as it is."""
    for c in CANDLES:
        ids, scale = tokenizer.encode(c), tokenizer.scale(c)
        assert ids.dtype == np.int32 and ids.shape == (LENGTH,) and scale.shape == (LENGTH + 1,)
        assert 0 <= ids.min() and ids.max() < tokenizer.vocabulary
        other = make_candles(seed=9, length=LENGTH - KNOWN, volatility=0.3)
        grown = {f.name: np.r_[getattr(c, f.name)[:KNOWN], getattr(other, f.name)] for f in dataclasses.fields(c)[2:7]}
        for changed in (c.part(slice(0, KNOWN)), Candles(c.id, c.time, **grown)):
            np.testing.assert_array_equal(tokenizer.encode(changed)[:KNOWN], ids[:KNOWN])
            np.testing.assert_array_equal(tokenizer.scale(changed)[: KNOWN + 1], scale[: KNOWN + 1])
        assert (tokenizer.encode(Candles(c.id, c.time, **grown)) != ids).any()


def test_decoded_bars_are_candles(tokenizer):
    """Any ids, also those that no market gives, from any close and volatility."""
    rng = np.random.Generator(np.random.Philox(5))
    ids = rng.integers(0, tokenizer.vocabulary, (40, 200))
    close, scale = np.exp(rng.uniform(-5, 12, 40)), np.exp(rng.uniform(-8, 1, 40))
    bars = tokenizer.decode(ids, close, scale)
    o, h, lo, c = np.moveaxis(bars, -1, 0)
    assert bars.shape == (40, 200, 4) and np.isfinite(bars).all() and (lo > 0).all()
    assert (lo <= np.minimum(o, c)).all() and (h >= np.maximum(o, c)).all()
    first = tokenizer.features(ids[:, 0])
    np.testing.assert_allclose(np.log(c[:, 0] / close), first[:, 0] * scale, rtol=1e-6, atol=1e-9)


def test_codes_are_ordered_by_their_return(tokenizer):
    returns = tokenizer.features(np.arange(tokenizer.vocabulary))[:, 0]
    if tokenizer.kind == 'bins':  # by the bin of the return, then by the range
        returns = returns.reshape(8, -1).mean(1)
    assert (np.diff(returns) >= 0).all() and returns[-1] > returns[0]


def test_a_token_of_another_vocabulary_is_named(tokenizer):
    with pytest.raises(InputError, match='place 2 is not of the'):
        tokenizer.decode(np.array([0, 1, tokenizer.vocabulary]), np.array(1.0), np.array(0.01))


def test_likelihood(tokenizer):
    """Against scipy, with the Jacobian of the scaling: the density is that of log prices in their own units."""
    c = CANDLES[1]
    ids, scale = tokenizer.encode(c), tokenizer.scale(c)[:-1, None]
    f, loc = candle_features(c.ohlc())[:, :4], tokenizer.features(ids)[:, :4]
    expected = stats.norm.logpdf(f, loc * scale, tokenizer.spread[ids] * scale).sum(1)
    np.testing.assert_allclose(tokenizer.log_density(c, ids), expected, rtol=1e-9)


def scaled_down(candles, factor):
    """The same candles with every log return divided."""
    prices = {n: 100 * (getattr(candles, n) / 100) ** (1 / factor) for n in ('open', 'high', 'low', 'close')}
    return dataclasses.replace(candles, **prices)


@pytest.mark.parametrize('decay', [1.0, 0.94])
def test_likelihood_is_in_the_units_of_the_candles(decay):
    """Five-minute bars move a hundredth of what these do: the densities of four features grow by 4 ln 100."""
    small = [scaled_down(c, 100) for c in CANDLES]
    day, minute = (Bins(returns=8, ranges=4, decay=decay).open(candles, TRAIN) for candles in (CANDLES, small))
    for c, s in zip(CANDLES, small, strict=True):
        ids = day.encode(c)
        np.testing.assert_array_equal(minute.encode(s), ids)
        np.testing.assert_allclose(minute.log_density(s, ids), day.log_density(c, ids) + 4 * np.log(100), rtol=1e-6)


def test_a_feature_that_never_moves_has_a_likelihood():
    """No wicks and no gaps, as a series of closes is read: what is known for sure is finite, in units of the rest."""
    c = CANDLES[0]
    opened = np.r_[c.close[:1], c.close[:-1]]
    bare = dataclasses.replace(c, open=opened, high=np.maximum(opened, c.close), low=np.minimum(opened, c.close))
    tokenizer = Bins(returns=8, ranges=1, decay=1.0).open([bare], TRAIN[:1])
    assert np.isfinite(tokenizer.log_density(bare, tokenizer.encode(bare))).all()
    still = dataclasses.replace(c, **dict.fromkeys(('open', 'high', 'low', 'close'), np.full(LENGTH, 50.0)))
    with pytest.raises(InputError, match='the prices never move in the training span. Move train_end'):
        Bins(returns=8, ranges=1, decay=1.0).open([still], TRAIN[:1])


def test_saved_and_read_again(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    again = load(tmp_path)
    assert (again.hash, again.name, again.vocabulary) == (tokenizer.hash, tokenizer.name, tokenizer.vocabulary)
    np.testing.assert_array_equal(again.encode(CANDLES[0]), tokenizer.encode(CANDLES[0]))
    np.testing.assert_array_equal(
        again.log_density(CANDLES[0], np.zeros(LENGTH, int)), tokenizer.log_density(CANDLES[0], np.zeros(LENGTH, int))
    )
    assert Saved(path=str(tmp_path)).open([], []).hash == tokenizer.hash
    settings = json.loads((tmp_path / 'tokenizer.json').read_text())
    (tmp_path / 'tokenizer.json').write_text(json.dumps(settings | {'decay': 0.5}))
    with pytest.raises(InputError, match='not what was saved'):
        load(tmp_path)
    (tmp_path / 'tokenizer.safetensors').write_bytes(b'damaged')
    with pytest.raises(InputError, match='no tokenizer can be read'):
        load(tmp_path)


def test_a_tokenizer_says_until_when_it_was_fitted_and_whether_it_looks_ahead(tmp_path, capsys):
    bins = get('bins')
    assert bins.fitted_until == CANDLES[0].time[KNOWN - 1] and not bins.looks_ahead
    bins.save(tmp_path)
    assert load(tmp_path).fitted_until == bins.fitted_until and not capsys.readouterr().out
    settings = json.loads((tmp_path / 'tokenizer.json').read_text())
    assert settings.pop('fitted_until') == '2021-02-03T00:00:00.000000000'
    (tmp_path / 'tokenizer.json').write_text(json.dumps(settings))
    assert np.isnat(load(tmp_path).fitted_until) and load(tmp_path).hash == bins.hash
    assert f'{tmp_path / "tokenizer.json"} does not say until when it was fitted' in capsys.readouterr().out
    compat = make_learned(compat=True)
    assert compat.looks_ahead and not get('vq').looks_ahead
    compat.save(tmp_path / 'compat')
    assert load(tmp_path / 'compat').looks_ahead and np.isnat(load(tmp_path / 'compat').fitted_until)


@pytest.mark.parametrize(
    ('train_end', 'until'), [('2021-06-30', '2021-06-30T23:59:59.999999999'), ('2020', '2021-02-03')]
)
def test_learned_codes_are_of_their_own_training_and_of_the_spread(train_end, until):
    split = Split(train_end=train_end, valid_end='2022', purge_days=0, embargo_days=0)
    task = CandleAutoencoder(hidden=8, dim=4, codes=32).build()
    params, extra = jax.jit(task.init)(make_key(0, 'init'))
    config = SimpleNamespace(task=task.config, data=SimpleNamespace(decay=0.94, split=split))
    trained = SimpleNamespace(task=task, params=params, extra=extra, config=config)
    assert make_tokenizer(trained, CANDLES, TRAIN).fitted_until == np.datetime64(until, 'ns')


def test_the_hash_is_of_what_decides_ids():
    hashes = [get(name).hash for name in TOKENIZERS]
    assert len(set(hashes)) == len(hashes) and all(len(h) == 16 for h in hashes)
    assert make_learned().hash == get('vq').hash
    for name in ('params/encoder/mlp/0/kernel', 'extra/book_0/embedding', 'extra/mean'):
        arrays = get('vq').arrays()
        other = arrays | {name: arrays[name] + 1e-6}
        assert LearnedTokenizer(get('vq').config, 0.94, 0.02, other).hash != get('vq').hash
    spread = get('vq').arrays() | {'spread': np.ones((32, 4))}
    assert LearnedTokenizer(get('vq').config, 0.94, 0.02, spread).hash == get('vq').hash
    later = [dataclasses.replace(c, close=np.where(TRAIN[0], c.close, c.close * 0.999)) for c in CANDLES]
    assert Bins(returns=8, ranges=4).open(later, TRAIN).hash == get('bins').hash  # fitted on training alone
    assert Bins(returns=8, ranges=4).open(CANDLES, [m[::-1] for m in TRAIN]).hash != get('bins').hash


def test_bins_are_used_alike():
    bins = get('bins')
    ids = np.concatenate([bins.encode(c)[:KNOWN] for c in CANDLES])
    counts = np.bincount(ids, minlength=32)
    assert counts.min() >= 20 and counts.max() <= 30  # 800 candles for 32 bins
    prices = np.where(np.arange(LENGTH) % 3, 50.0, 50.5)
    flat = dataclasses.replace(CANDLES[0], **dict.fromkeys(('open', 'high', 'low', 'close'), prices))
    tied = Bins(returns=16, ranges=2).open([flat], TRAIN[:1])
    assert tied.vocabulary == 32 and len(np.unique(tied.encode(flat))) < 16  # ties leave bins empty, not absent


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        ({'returns': 1}, '1 x 4 bins'),
        ({'returns': 900}, '3600 bins'),
        ({'decay': 0.0}, 'a decay of 0'),
        ({'decay': 1.5}, 'decay'),
    ],
)
def test_settings_that_make_no_sense(settings, message):
    with pytest.raises(InputError, match=message):
        Bins(**settings).open(CANDLES, TRAIN)


def test_a_run_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match='no run here'):
        Learned(run=str(tmp_path)).open(CANDLES, TRAIN)


class LooksAhead:
    """A tokenizer whose ids tell the candle that follows: what the card must find."""

    def __init__(self, inner):
        self.inner, self.decay, self.vocabulary, self.features = inner, inner.decay, inner.vocabulary, inner.features

    def encode(self, candles):
        ids = self.inner.encode(candles)
        return np.maximum(ids, np.r_[ids[1:], 0])

    def encode_inputs(self, inputs):
        ids = self.inner.encode_inputs(inputs)
        return np.maximum(ids, np.r_[ids[1:], 0])


@pytest.mark.parametrize('name', ['bins', 'bins, not scaled', 'vq'])
def test_noise_has_no_order_but_what_a_tokenizer_makes_up(name):
    """Its candles use the tokens as the training candles do."""
    tokenizer = get(name)
    inputs = np.concatenate([tokenizer.inputs(c)[:KNOWN] for c in CANDLES])
    honest, ahead = (measure_noise(t, inputs, seed=1) for t in (tokenizer, LooksAhead(tokenizer)))
    assert honest['encoder']['z'] < MADE_UP and honest['encoder']['information'] < 0.003
    for part in ('encoder', 'whole'):
        assert ahead[part]['z'] > 50 and ahead[part]['information'] > 0.05
    assert 'makes up order' in describe_noise(ahead)[0] and 'makes up no order' in describe_noise(honest)[0]


@pytest.mark.parametrize('decay', [0.94, 1.0])
def test_the_order_that_a_scale_makes_of_noise_is_said(decay):
    """A scale that follows heavy-tailed candles makes an order that is not there by the return; without it is none."""
    rng = np.random.Generator(np.random.Philox(7))
    close = 100 * np.exp(np.cumsum(0.01 * rng.standard_t(4, 3000)))
    opened, wicks = np.r_[100, close[:-1]], np.exp(0.003 * np.abs(rng.standard_t(4, (2, 3000))))
    prices = dict(open=opened, high=np.maximum(opened, close) * wicks[0], low=np.minimum(opened, close) / wicks[1])
    time = np.datetime64('2000-01-01', 'ns') + np.arange(3000) * np.timedelta64(1, 'D')
    candles = Candles('noise', time, **prices, close=close, volume=np.ones(3000))
    tokenizer = Bins(returns=32, ranges=4, decay=decay).open([candles], [np.ones(3000, bool)])
    noise = measure_noise(tokenizer, tokenizer.inputs(candles), seed=1)
    assert noise['encoder']['z'] < MADE_UP
    if decay == 1:
        assert noise['whole']['z'] < MADE_UP
    else:
        assert noise['whole']['z'] > MADE_UP and noise['whole']['by'] != 'return'
        assert 'has found nothing of a market' in describe_noise(noise)[2]


def test_the_neighbours_of_the_original_make_up_order():
    tokenizer = make_learned(compat=True)
    inputs = np.concatenate([tokenizer.inputs(c)[:KNOWN] for c in CANDLES])
    assert measure_noise(tokenizer, inputs, seed=1)['encoder']['z'] > MADE_UP
    assert measure_stability(tokenizer, CANDLES[:1]) < 1  # the newest id waits for the candle after it


def test_stability_is_of_all_assets():
    """An asset whose ids look ahead is found behind one that is too short to tell; one candle tells nothing."""
    tokenizer, short = LooksAhead(get('bins')), CANDLES[0].part(slice(0, 1))
    assert measure_stability(tokenizer, [short]) is None
    assert measure_stability(tokenizer, [short, CANDLES[1]]) < 1 == measure_stability(tokenizer.inner, CANDLES)


def test_card(tokenizer):
    ids = [tokenizer.encode(c) for c in CANDLES]
    parts = [np.where(m, 'train', 'test') for m in TRAIN]
    card = make_card(tokenizer, CANDLES, ids, parts)
    json.dumps(card, allow_nan=False)
    assert card['stable'] == card['valid_candles'] == 1.0
    assert card['use']['train']['candles'] == 2 * KNOWN and card['use']['valid']['used'] == 0
    p = np.bincount(np.concatenate([i[KNOWN:] for i in ids])) / (2 * (LENGTH - KNOWN))
    assert card['use']['test']['perplexity'] == pytest.approx(np.exp(stats.entropy(p)))
    truth = np.concatenate([tokenizer.inputs(c)[KNOWN:] for c in CANDLES])
    error = truth - np.concatenate([tokenizer.features(i[KNOWN:]) for i in ids])
    assert card['reconstruction']['test']['range']['rmse'] == pytest.approx(np.sqrt((error[:, 4] ** 2).mean()))
    if tokenizer.kind == 'bins':
        assert card['reconstruction']['test']['log_return']['r2'] > 0.8
    assert tokenizer.hash in write_card(card)
