"""The autoencoder of candles: all kinds of codes learn, slices give the whole's update, gradients are PyTorch's."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from compiled import build

from fjq.errors import InputError
from fjq.keys import make_key
from fjq.models.candle_autoencoder import CandleAutoencoder, perplexity
from fjq.step import make_train_step

SMALL = {'hidden': 16, 'dim': 8, 'codes': 32, 'ema': 0.9}
KINDS = {
    'vq': CandleAutoencoder(**SMALL),
    'fsq': CandleAutoencoder(**SMALL | {'quantizer': 'fsq', 'levels': (4, 3, 3)}),
    'rvq': CandleAutoencoder(**SMALL | {'quantizer': 'rvq', 'levels': (8, 4)}),
    'bsq': CandleAutoencoder(**SMALL | {'quantizer': 'bsq'}),
    'compat': CandleAutoencoder(**SMALL | {'compat': True, 'clip': 0.0}),
}


class Candles:
    """What `begin` asks of a dataset: features of a plain law."""

    rows_of_a_batch, first_scale = 64, 0.02

    def training_features(self):
        rng = np.random.Generator(np.random.Philox(4))
        r, body, up, low = rng.standard_normal((4, 2000)) * np.array([[1], [0.8], [0.3], [0.3]])
        up, low = np.abs(up), np.abs(low)
        return np.stack([r, body, up, low, up + low + np.abs(body)], -1).astype(np.float32)


def make_batch(rows=16, length=4, start=0, mask=None):
    x = Candles().training_features()[start : start + rows * length].reshape(rows, length, 5)
    mask = np.ones(rows, bool) if mask is None else mask
    return {
        'features': x,
        'counts': np.ones((rows, length), bool),
        'target': x[:, -1],
        'target_mask': np.ones((rows, 5), bool),
        'mask': mask,
        'row': np.arange(rows, dtype=np.int32),
    }


@functools.cache
def start(kind):
    """The task of a kind with what `begin` gives."""
    task = build(KINDS[kind])
    return task, *task.begin(*jax.jit(task.init)(make_key(0, 'init')), Candles())


def train(kind, steps, micro_batches=1, rate=1e-2):
    task, params, extra = start(kind)
    optimizer = optax.adam(rate)
    zero = jnp.zeros((), jnp.int32)
    state = {'params': params, 'extra': jax.tree.map(jnp.asarray, extra), 'opt': optimizer.init(params), 'ema': {}}
    state |= {'step': zero, 'skipped': zero, 'bad': zero}
    step = jax.jit(make_train_step(task, optimizer, micro_batches=micro_batches, ema=0.0, seed=0))
    losses = []
    for i in range(steps):
        state, metrics = step(state, make_batch(start=64 * (i % 20)))
        losses.append(float(metrics['loss']))
    return task, state, losses


@pytest.mark.parametrize('kind', KINDS)
def test_a_trained_tokenizer_starts_where_it_was(kind):
    task, state, _ = train(kind, 2)
    again = task.begin(state['params'], state['extra'], None)
    assert again == (state['params'], state['extra'])


def test_the_state_keeps_its_types():
    """A weakly typed number would compile every step twice."""
    task, params, extra = start('vq')
    fresh = jax.jit(task.init)(make_key(0, 'init'))
    for leaf in jax.tree.leaves((params, extra, fresh)):
        assert not jnp.asarray(leaf).weak_type


@pytest.mark.parametrize('kind', ['fsq', 'rvq', 'bsq'])
def test_every_kind_of_code_learns(kind):
    task, state, losses = train(kind, 80)
    assert np.mean(losses[-10:]) < 0.75 * losses[0], losses
    batch = make_batch(start=1600)
    extra = task.current(state['extra'], True, False)
    ids = task.encode_ids(state['params'], extra, batch['features'], batch['counts'])
    assert 0 <= int(ids.min()) and int(ids.max()) < task.config.vocabulary
    again = task.decode_ids(state['params'], extra, ids)
    np.testing.assert_allclose(again[:, -1], task.predict(state['params'], state['extra'], batch).mean(), atol=1e-5)
    assert float(perplexity(extra['hits'])) > 6


@pytest.mark.parametrize('kind', ['rvq', 'bsq'])
def test_micro_batches_give_the_update_of_the_whole(kind):
    _, whole, one = train(kind, 4, rate=1e-3)
    _, sliced, four = train(kind, 4, micro_batches=4, rate=1e-3)
    np.testing.assert_allclose(one, four, rtol=1e-5)
    for a, b in zip(jax.tree.leaves(whole['extra']), jax.tree.leaves(sliced['extra']), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


def test_the_batch_entropy_of_bits_has_the_gradient_of_the_whole():
    """H(mean of p), differentiated directly, against the tangents that slices give."""
    config = KINDS['bsq']
    u = jnp.asarray(np.random.Generator(np.random.Philox(1)).standard_normal((12, 5)), jnp.float32)
    task, counts = build(config), jnp.ones((12, 1), bool)

    def entropy(p):
        return -(p * jnp.log(p) + (1 - p) * jnp.log(1 - p))

    def direct(u):
        p = jax.nn.sigmoid(-4 * u / jnp.sqrt(5.0))
        return entropy(p).sum() - 12 * config.even * entropy(p.mean(0)).sum()

    chance = jnp.broadcast_to(jax.nn.sigmoid(-4 * u / jnp.sqrt(5.0)).mean(0), (12, 5))
    ours = lambda u: task._bit_entropy(u, chance, counts)
    both = lambda f: (jax.jit(f)(u), jax.jit(jax.grad(f))(u))
    for (a, b), rtol in zip(zip(both(ours), both(direct), strict=True), (1e-5, 1e-4), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-5)


def test_masked_rows_take_no_part():
    mask = np.arange(16) < 8
    task, params, extra = start('vq')
    batches = [make_batch(mask=mask), make_batch(mask=mask)]
    batches[1]['features'] = np.where(mask[:, None, None], batches[1]['features'], 3.0).astype(np.float32)
    key = make_key(0, 'x')
    losses = [task.loss(params, extra, task.prepare(params, extra, b, key), key) for b in batches]
    for a, b in zip(*map(jax.tree.leaves, losses), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_start_is_among_the_vectors_with_matching_averages():
    task, params, extra = start('vq')
    book = extra['book_0']
    np.testing.assert_allclose(book['sum'], book['embedding'] * book['count'][:, None], rtol=1e-6)
    np.testing.assert_allclose(book['count'].sum(), 64, rtol=1e-5)
    np.testing.assert_allclose(extra['mean'], Candles().training_features().mean(0), atol=1e-6)
    x = jnp.asarray(Candles().training_features())[:, None]
    z = task.vectors(params, extra, x, jnp.ones(x.shape[:2], bool))
    error = ((z - task.quantize(extra, z)[1]) ** 2).sum() / ((z - z.mean(0, keepdims=True)) ** 2).sum()
    assert error < 0.2
    assert not np.asarray(start('compat')[2]['book_0']['count']).any()


def test_candles_do_not_see_each_other():
    batch = make_batch()
    other = batch | {'features': batch['features'].copy()}
    other['features'][:, -1] *= -1
    for kind, seen in (('vq', False), ('compat', True)):
        task, params, extra = start(kind)
        a, b = (task.vectors(params, extra, x['features'], x['counts']).reshape(16, 4, -1) for x in (batch, other))
        np.testing.assert_array_equal(a[:, :2], b[:, :2])
        assert bool((np.asarray(a[:, 2]) != np.asarray(b[:, 2])).any()) == seen  # the original sees one candle ahead


def test_sizes():
    count = lambda **sizes: sum(
        x.size for x in jax.tree.leaves(jax.eval_shape(build(CandleAutoencoder(**sizes)).init, make_key(0, ''))[0])
    )
    assert count(compat=True) == 37_925 - 512 * 32  # the original's, whose codebook is a parameter
    assert CandleAutoencoder(quantizer='fsq', levels=(8, 8, 8)).vocabulary == 512
    assert CandleAutoencoder(quantizer='rvq', levels=(32, 16)).vocabulary == 512
    assert CandleAutoencoder(quantizer='bsq').width == 9


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'quantizer': 'bins'}, 'Choose one of vq, fsq'),
        ({'quantizer': 'fsq'}, 'task.levels'),
        ({'quantizer': 'fsq', 'levels': (2, 8)}, '3 or more'),
        ({'quantizer': 'bsq', 'codes': 500}, 'power of two'),
        ({'codes': 0}, 'task.codes is 0'),
        ({'dim': 0}, 'task.dim is 0'),
        ({'hidden': 0}, 'task.hidden is 0'),
        ({'layers': 0}, 'task.layers is 0'),
        ({'ema': 1.5}, 'task.ema is 1.5'),
        ({'beta': -1.0}, 'task.beta is -1'),
    ],
)
def test_settings_that_make_no_sense(change, message):
    with pytest.raises(InputError, match=message):
        build(dataclasses.replace(CandleAutoencoder(), **change))


def test_gradients_are_those_of_pytorch():
    """The original's forward, written here in PyTorch: straight-through codes, commitment, mean over elements."""
    torch = pytest.importorskip('torch')
    from fjq.torch_names import to_state_dict

    task, params, extra = start('compat')
    batch = make_batch(rows=2, length=9)
    state = {n: torch.tensor(v, requires_grad=True) for n, v in to_state_dict(params).items()}
    x = torch.tensor(np.array(task.normalise(extra, batch['features'])))
    f = torch.nn.functional

    def each(part, v):
        for i in (0, 2, 4):
            v = f.linear(v, state[f'{part}.mlp.{i}.weight'], state[f'{part}.mlp.{i}.bias'])
            v = f.gelu(v) if i < 4 else v
        return v

    def context(part, v):
        w = lambda i, kind: state[f'{part}.context_conv.{i}.{kind}']
        h = f.gelu(f.conv1d(v.transpose(1, 2), w(0, 'weight'), w(0, 'bias'), padding=1))
        return v + f.conv1d(h, w(2, 'weight'), w(2, 'bias')).transpose(1, 2)

    z = context('encoder', each('encoder', x))
    codes = torch.tensor(np.array(extra['book_0']['embedding']))
    q = codes[torch.cdist(z.detach().reshape(-1, 8), codes).argmin(1)].reshape(z.shape)
    y = each('decoder', context('decoder', z + (q - z).detach()))
    loss = f.mse_loss(y, x) + 0.25 * f.mse_loss(z, q)
    loss.backward()

    def ours(params):
        sums = task.loss(params, extra, batch, None)
        return sums.total / sums.weight

    value, gradients = jax.jit(jax.value_and_grad(ours))(params)
    np.testing.assert_allclose(value, loss.item(), rtol=1e-5)
    for name, g in to_state_dict(gradients).items():
        np.testing.assert_allclose(g, state[name].grad.numpy(), rtol=1e-4, atol=1e-6, err_msg=name)
