"""The GPT: sizes, its start, packing, three ways to run it that agree, and PyTorch."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from token_batch import small

from fjq.bridge import Pure
from fjq.errors import InputError
from fjq.launch import load_config
from fjq.models.gpt import Model, places
from fjq.models.microchat import Microchat
from fjq.models.sampling import score
from fjq.nn import chains
from fjq.torch_names import to_state_dict
from interop import convert
from interop.microchat_modules import Gpt as TorchGpt
from interop.microchat_modules import Sizes


@functools.cache  # tests of one size share the model and its programs
def make(**changes):
    """A small model whose zero layers are not."""
    pure = Pure(lambda rngs: Model(small(**changes), rngs=rngs))

    def start(key, noise_key):
        leaves, tree = jax.tree.flatten(pure.init(key)[0])
        keys = jax.random.split(noise_key, len(leaves))
        move = lambda x, k: x + 0.3 * x.shape[0] ** -0.5 * jax.random.normal(k, x.shape)
        return jax.tree.unflatten(tree, map(move, leaves, keys))

    return pure, jax.jit(start)(jax.random.key(0), jax.random.key(1))


@functools.cache  # one program a model and shape
def compiled(pure):
    return jax.jit(lambda params, *args: pure.apply(params, {}, Model.__call__, *args)[0])


def logits(pure, params, tokens, segment=None, key=None):
    return np.asarray(compiled(pure)(params, tokens, segment, key))


def tokens(shape, vocabulary=20, seed=3):
    return np.asarray(jax.random.randint(jax.random.key(seed), shape, 0, vocabulary))


def next_ones(ids):
    return (ids + 1) % 20


@pytest.mark.parametrize(('variant', 'count'), [('compat', 3_407_872), ('readme', 19_005_440)])
def test_presets_have_the_published_number_of_parameters(variant, count):
    task = load_config('configs/microchat_pretrain.py', variant).task.build()
    params, _ = jax.eval_shape(task.init, jax.random.key(0))
    assert sum(x.size for x in jax.tree.leaves(params)) == count


@pytest.mark.parametrize(('changes', 'size'), [({}, 20), ({'padded_logits': True}, 64), ({'softcap': 15.0}, 20)])
def test_a_fresh_model_knows_nothing(changes, size):
    pure = Pure(lambda rngs: Model(small(**changes), rngs=rngs))
    params, _ = pure.init(jax.random.key(0))
    log_p = jax.nn.log_softmax(logits(pure, params, tokens((2, 16))))
    assert log_p.shape == (2, 16, size)
    np.testing.assert_allclose(log_p, -np.log(size), rtol=1e-6)


def test_a_segment_does_not_see_another_and_starts_anew():
    pure, params = make(layers=2, rope_rounded=True)
    ids = tokens((1, 16))
    segment = np.array([[4] * 5 + [2] * 7 + [0] * 4], np.int32)
    out = logits(pure, params, ids, segment)
    other = np.concatenate([next_ones(ids[:, :5]), ids[:, 5:]], 1)
    moved = logits(pure, params, other, segment)
    np.testing.assert_array_equal(moved[0, 5:], out[0, 5:])
    assert (moved[0, :5] != out[0, :5]).any()
    alone = logits(pure, params, ids[:, 5:12])
    np.testing.assert_allclose(out[:, 5:12], alone, atol=2e-6)
    np.testing.assert_array_equal(places(segment), [[0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 5, 6, 0, 1, 2, 3]])


def test_no_token_sees_a_later_one():
    pure, params = make()
    ids = tokens((2, 16))
    other = np.where(np.arange(16)[None] == 9, next_ones(ids), ids)
    a, b = logits(pure, params, ids), logits(pure, params, other)
    np.testing.assert_array_equal(a[:, :9], b[:, :9])
    assert (np.abs(a[:, 9:] - b[:, 9:]).max(-1) > 0).all()


SLOWER = [{'kv_heads': 0, 'embedding_norm': True, 'softcap': 5.0}, {'tied': True}]


@pytest.mark.parametrize('packed', [False, True])
def test_rows_in_two_chains_are_the_rows(monkeypatch, packed):
    """Values, keys, caches and gradients, as on a CPU with one device and rows enough."""
    pure, params = make(layers=2, dropout=0.5)
    ids, segment = tokens((5, 16)), jnp.arange(80).reshape(5, 16) // 7 if packed else None

    def hidden(params):
        (x, caches), _ = pure.apply(params, {}, Model.hidden, ids, segment, jax.random.key(1))
        return jnp.sin(x).sum(), (x, caches)

    find = lambda: jax.jit(jax.value_and_grad(hidden, has_aux=True)).lower(params)
    whole = find()
    monkeypatch.setattr(jax, 'device_count', lambda: 1)
    monkeypatch.setattr(chains, 'LEAST', 0)
    halves = find()
    assert halves.as_text().count('dot_general') > whole.as_text().count('dot_general')
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=2e-5)
    jax.tree.map(close, halves.compile()(params), whole.compile()(params))


@pytest.mark.parametrize('changes', [{}, *(pytest.param(c, marks=pytest.mark.slow) for c in SLOWER)])
def test_branches_of_a_prompt_are_whole_sequences(changes):
    """Values and gradients; P continuations cost one run of the prompt."""
    pure, params = make(**changes)
    prompt, ids = tokens((2, 9)), tokens((2, 3, 5), seed=7)

    def shared(params):
        log_p, entropy = pure.apply(params, {}, score, prompt, ids)[0]
        return log_p.sum(), (log_p, entropy)

    def whole(params):
        row = jnp.concatenate([jnp.repeat(prompt, 3, 0), ids.reshape(6, 5)], 1)
        every = jax.nn.log_softmax(pure.apply(params, {}, Model.__call__, row[:, :-1])[0][:, 8:])
        log_p = jnp.take_along_axis(every, row[:, 9:, None], -1)[..., 0]
        return log_p.sum(), (log_p.reshape(2, 3, 5), -(jnp.exp(every) * every).sum(-1).reshape(2, 3, 5))

    results = [jax.jit(jax.value_and_grad(f, has_aux=True))(params) for f in (shared, whole)]
    for a, b in zip(*map(jax.tree.leaves, results), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5, rtol=1e-4)


def test_steps_are_branches():
    pure, params = make()
    prompt, ids = tokens((2, 9)), tokens((2, 3, 5), seed=7)

    def both(model):
        _, past = model.hidden(prompt)
        own, out = model.make_caches(2, 3, 5), []
        for t in range(5):
            x, own = model.step(ids[..., t], past, own, t)
            out.append(x)
        return jnp.stack(out, 2), model.branch(ids, past)

    a, b = jax.jit(lambda p: pure.apply(p, {}, both)[0])(params)
    np.testing.assert_allclose(a, b, atol=1e-5)


def test_dropout_is_of_the_key_alone():
    pure, params = make(dropout=0.5)
    ids = tokens((2, 16))
    a, b, c = (logits(pure, params, ids, None, jax.random.key(k)) for k in (1, 1, 2))
    np.testing.assert_array_equal(a, b)
    assert (a != c).mean() > 0.9 and (a != logits(pure, params, ids)).mean() > 0.9


@pytest.mark.parametrize('changes', [{}, {'softcap': 15.0, 'embedding_norm': True}])
def test_torch_computes_the_same_from_our_weights_and_ours_from_its(changes):
    sizes = dict(rope_rounded=True, padded_logits=True, **changes)
    (pure, params), config = make(**sizes), small(**sizes)
    theirs = TorchGpt(Sizes(16, 20, 1, 4, 2, 32, **changes))
    state = {k: torch.tensor(v) for k, v in to_state_dict(params).items()}
    theirs.load_state_dict(state, strict=True)
    ids = tokens((2, 16))
    with torch.no_grad():
        expected = theirs(torch.tensor(np.asarray(ids))).numpy()
    np.testing.assert_allclose(logits(pure, params, ids), expected, atol=2e-5)
    old = {f'transformer.{k}' if k != 'lm_head.weight' else k: v.numpy() for k, v in theirs.state_dict().items()}
    new = {k: v.numpy() for k, v in theirs.state_dict().items()}
    own, other = (old, new) if changes else (new, old)
    task = Microchat(stage='rl', gpt=config)
    back, extra = convert.from_torch(task, own, params, {'reference': params}, file='x.pt')
    for a, b, c in zip(*map(jax.tree.leaves, (back, extra['reference'], params)), strict=True):
        np.testing.assert_array_equal(a, c)
        np.testing.assert_array_equal(b, c)
    assert set(convert.to_torch(task, params, {})) == set(own)
    with pytest.raises(InputError, match='x.pt.*another function.*softcap'):
        convert.from_torch(task, other, params, {'reference': params}, file='x.pt')


def test_bfloat16_is_near_float32():
    pure, params = make()
    half = Pure(lambda rngs: Model(small(dtype='bfloat16'), rngs=rngs))
    ids = tokens((2, 16))
    a, b = logits(pure, params, ids), logits(half, params, ids)
    assert b.dtype == jnp.float32 and 0 < np.abs(a - b).max() < 0.05 * np.abs(a).max()


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'heads': 5}, 'multiple of twice the heads'),
        ({'kv_heads': 3}, 'kv_heads is 3. Choose a divisor of 4'),
        ({'layers': 0}, 'task.gpt.layers is 0'),
        ({'rope_base': -1.0}, 'task.gpt.rope_base is -1.0'),
        ({'softcap': -5.0}, 'task.gpt.softcap is -5.0'),
        ({'dropout': 1.0}, 'task.gpt.dropout is 1.0'),
        ({'dtype': 'float16'}, 'Choose float32 or bfloat16'),
    ],
)
def test_sizes_that_make_no_sense_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        dataclasses.replace(small(), **changes).check()


def test_a_sequence_longer_than_the_model_is_refused():
    pure, params = make()
    with pytest.raises(InputError, match='17 positions are more than the model has, 16'):
        pure.apply(params, {}, Model.__call__, tokens((1, 17)))
