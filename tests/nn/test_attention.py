"""Attention against a float64 loop-free NumPy softmax for every combination of what may leave keys out."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fjq.errors import InputError
from fjq.nn import attention
from fjq.nn.attention import attend

compiled = jax.jit(attend, static_argnames=('causal', 'window', 'scale'))  # the operation alone is many programs


def _inputs(batch=2, queries=6, keys=6, heads=4, kv_heads=2, size=8, seed=0):
    draw = np.random.default_rng(seed).standard_normal
    return draw((batch, queries, heads, size)), draw((batch, keys, kv_heads, size)), draw((batch, keys, kv_heads, size))


def _seen(batch, heads, queries, keys, mask, causal, window, kv_lengths):
    """[B, N, T, S]: may query t see key s? One scalar rule after the other."""
    seen = np.ones((batch, heads, queries, keys), bool)
    for b, n, t, s in np.ndindex(*seen.shape):
        p = t + keys - queries
        rules = [
            mask is None or (mask[t, s] if mask.ndim == 2 else mask[b, t, s] if mask.ndim == 3 else mask[b, n, t, s]),
            not causal or s <= p,
            window is None or p - window[0] <= s <= p + window[1],
            kv_lengths is None or s < kv_lengths[b],
        ]
        seen[b, n, t, s] = all(rules)
    return seen


def _brute_force(q, k, v, seen, bias=0.0, scale=None):
    groups = q.shape[2] // k.shape[2]
    k, v = (np.repeat(a, groups, axis=2) for a in (k, v))
    logits = np.einsum('btnh,bsnh->bnts', q, k) * (q.shape[-1] ** -0.5 if scale is None else scale) + bias
    weights = np.where(seen, np.exp(logits - logits.max(-1, keepdims=True)), 0)
    total = weights.sum(-1, keepdims=True)
    return np.einsum('bnts,bsnh->btnh', weights / np.where(total > 0, total, 1), v)


def _single(*arrays):
    return [a.astype(np.float32) for a in arrays]


@pytest.mark.parametrize('kv_lengths', [None, [3, 0]])
@pytest.mark.parametrize('window', [None, (2, 0), (1, 2)])
@pytest.mark.parametrize('causal', [False, True])
def test_every_combination(causal, window, kv_lengths):
    """Masks of every rank; as many queries as keys, fewer, more; heads shared among queries."""
    lengths = None if kv_lengths is None else np.array(kv_lengths)
    for queries, keys, ndim in [(5, 5, 0), (3, 6, 0), (6, 4, 0), (5, 5, 2), (5, 5, 3), (3, 6, 4), (6, 4, 3)]:
        q, k, v = _inputs(queries=queries, keys=keys)
        mask = None
        if ndim:
            mask = (
                np.random.default_rng(ndim).random((2, 4, queries, keys)[-ndim:] if ndim != 3 else (2, queries, keys))
                < 0.4
            )
        seen = _seen(2, 4, queries, keys, mask, causal, window, lengths)
        ours = compiled(
            *_single(q, k, v),
            mask=None if mask is None else jnp.asarray(mask),
            causal=causal,
            window=window,
            kv_lengths_B=None if lengths is None else jnp.asarray(lengths),
        )
        np.testing.assert_allclose(ours, _brute_force(q, k, v, seen), atol=2e-6, err_msg=f'{queries} {keys} {ndim}')


@pytest.mark.parametrize(('heads', 'kv_heads'), [(4, 4), (4, 2), (4, 1)])
def test_shared_heads_bias_and_scale(heads, kv_heads):
    q, k, v = _inputs(heads=heads, kv_heads=kv_heads)
    for shape in [(6, 6), (1, heads, 6, 6), (2, 1, 1, 6), (2, heads, 6, 6)]:
        bias = np.random.default_rng(3).standard_normal(shape)
        seen = _seen(2, heads, 6, 6, None, True, None, None)
        ours = compiled(
            *_single(q, k, v),
            bias=jnp.asarray(bias, jnp.float32),
            causal=True,
            scale=0.7,
        )
        np.testing.assert_allclose(ours, _brute_force(q, k, v, seen, bias, 0.7), atol=2e-6)


CASES = {
    'mask': dict(mask=[[1, 0, 1, 1], [0, 0, 0, 0], [1, 1, 1, 1], [0, 0, 1, 0]]),
    'mask and causal': dict(mask=[[0, 0, 1, 1], [0, 0, 1, 1], [1, 1, 1, 1], [0, 0, 0, 1]], causal=True),
    'window past the length': dict(window=(1, 0), kv_lengths_B=[4, 1]),
    'length 0': dict(kv_lengths_B=[4, 0]),
    'all': dict(mask=[[1, 0, 0, 0]] * 4, causal=True, window=(2, 0), kv_lengths_B=[3, 2]),
    'more queries than keys': dict(causal=True, keys=2),
}


@pytest.mark.parametrize('case', CASES)
def test_queries_without_keys_are_zero_with_zero_gradients(case):
    """The gradients of the whole equal those with the empty queries cut out of the loss."""
    options = dict(CASES[case])
    keys = options.pop('keys', 4)
    q, k, v = _single(*_inputs(queries=4, keys=keys))
    lengths = options.get('kv_lengths_B')
    mask = np.array(options['mask'], bool) if 'mask' in options else None
    seen = _seen(2, 4, 4, keys, mask, options.get('causal', False), options.get('window'), lengths)
    empty = np.moveaxis(~seen.any(-1), 1, 2)
    assert empty.any() and not empty.all()
    arrays = {
        n: jnp.asarray(a, bool if n == 'mask' else None) for n, a in options.items() if n in ('mask', 'kv_lengths_B')
    }
    run = lambda q, k, v: attend(q, k, v, **(options | arrays))
    y = jax.jit(run)(q, k, v)
    assert not np.asarray(y)[empty].any() and np.asarray(y)[~empty].any(-1).all()

    weights = np.random.default_rng(5).standard_normal(y.shape).astype(np.float32)
    gradient = jax.jit(jax.grad(lambda q, k, v, weights: (run(q, k, v) * weights).sum(), (0, 1, 2)))
    gradients = lambda weights: gradient(q, k, v, weights)
    every, cut = gradients(weights), gradients(np.where(empty[..., None], 0, weights))
    assert all(np.isfinite(g).all() for g in every)
    assert not np.asarray(every[0])[empty].any()
    for ours, theirs in zip(every, cut, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    unseen = ~seen.any((1, 2))
    for gradient in every[1:]:
        assert not np.asarray(gradient)[unseen].any()


def test_what_lies_beyond_a_length_changes_nothing_however_large():
    q, k, v = _single(*_inputs())
    bias = np.random.default_rng(3).standard_normal((1, 4, 6, 6)).astype(np.float32)
    lengths = jnp.array([2, 5])
    run = lambda k, v, bias: attend(q, k, v, bias=bias, kv_lengths_B=lengths)
    run, every = jax.jit(run), jax.jit(jax.grad(lambda *a: (run(*a) ** 2).sum(), (0, 1, 2)))
    far = np.arange(6)[None] >= np.asarray(lengths)[:, None]
    large = np.where(far[..., None, None], 1e4, k), np.where(far[..., None, None], -1e4, v)
    beyond = np.where(np.arange(6) >= 5, 1e4, bias)
    for a, b in zip([run(*large, beyond), *every(*large, beyond)], [run(k, v, bias), *every(k, v, bias)], strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_gradients_equal_finite_differences():
    arrays = _inputs(queries=3, keys=5)
    mask = np.random.default_rng(1).random((2, 3, 5)) < 0.6
    seen = _seen(2, 4, 3, 5, mask, True, None, None)
    draw = np.random.default_rng(2).standard_normal
    weights = draw(arrays[0].shape)
    with jax.enable_x64(True):
        loss = lambda *a: (attend(*a, mask=jnp.asarray(mask), causal=True) * weights).sum()
        gradients = [np.asarray(g) for g in jax.jit(jax.grad(loss, (0, 1, 2)))(*arrays)]
    for i, gradient in enumerate(gradients):
        direction = draw(arrays[i].shape)
        moved = [[a + s * 1e-5 * direction if j == i else a for j, a in enumerate(arrays)] for s in (1, -1)]
        ahead, behind = ((_brute_force(*m, seen) * weights).sum() for m in moved)
        assert (gradient * direction).sum() == pytest.approx((ahead - behind) / 2e-5, rel=1e-5, abs=1e-5)


def test_a_step_with_a_cache_equals_the_whole_sequence():
    q, k, v = _single(*_inputs(queries=6, keys=6))
    whole = compiled(q, k, v, causal=True, window=(3, 0))
    for t in (0, 2, 5):
        np.testing.assert_allclose(
            compiled(q[:, t : t + 1], k[:, : t + 1], v[:, : t + 1], causal=True, window=(3, 0))[:, 0],
            whole[:, t],
            atol=1e-6,
        )


@pytest.mark.parametrize('dtype', [jnp.bfloat16, jnp.float16])
def test_half_precision(dtype):
    arrays = [jnp.asarray(a, dtype) for a in _inputs(queries=32, keys=32)]
    exact = [np.asarray(a, np.float64) for a in arrays]
    ours = attend(*arrays, causal=True)
    assert ours.dtype == dtype
    seen = _seen(2, 4, 32, 32, None, True, None, None)
    golden = _brute_force(*exact, seen)
    assert np.abs(np.asarray(ours, np.float64) - golden).max() < 1e-2 * np.abs(golden).max()


def attend_to_padding(q, k, v, *, kv_lengths_B, **options):
    """The fault of the original of MIGT-TVDT."""
    return attend(q, k, v, mask=(jnp.arange(k.shape[1])[None] >= kv_lengths_B[:, None])[:, None, None], **options)


def check_half_precision_agrees_with_xla(run, implementation):
    """Value and gradients of ragged rows in bfloat16 are those of XLA's own attention in float32."""
    lengths = jnp.array([1, 7, 16, 24])
    q, k, v = (jnp.asarray(a, jnp.bfloat16) for a in _inputs(batch=4, queries=24, keys=24, size=16))
    weights = jnp.asarray(_inputs(batch=4, queries=24, size=16, seed=1)[0], jnp.bfloat16)

    @partial(jax.jit, static_argnums=0)
    def see(attention, weights, *arrays):
        y, pull = jax.vjp(attention, *arrays)
        return [x.astype(jnp.float32) for x in (y, *pull(weights))]

    ours = see(lambda *a: run(*a, kv_lengths_B=lengths, implementation=implementation), weights, q, k, v)
    plain = lambda *a: jax.nn.dot_product_attention(*a, key_value_seq_lengths=lengths, implementation='xla')
    for a, golden in zip(ours, see(plain, *(x.astype(jnp.float32) for x in (weights, q, k, v))), strict=True):
        assert np.abs(a - golden).max() < 1e-2 * np.abs(golden).max()


CUDNN = pytest.mark.skipif(jax.default_backend() != 'gpu', reason='cuDNN needs an NVIDIA GPU: set JAX_PLATFORMS=cuda')


@pytest.mark.parametrize('implementation', ['auto', 'xla', pytest.param('cudnn', marks=CUDNN)])
def test_half_precision_of_ragged_rows_agrees_with_xla(implementation):
    check_half_precision_agrees_with_xla(attend, implementation)
    with pytest.raises(AssertionError):
        check_half_precision_agrees_with_xla(attend_to_padding, implementation)


def test_where_cudnn_can_serve(monkeypatch):
    """The conditions alone: on this machine nothing may touch cuDNN."""
    monkeypatch.setattr(jax, 'devices', lambda *_: ['a GPU'])
    good = lambda t=6, s=6, h=8, dtype=jnp.bfloat16: [jnp.zeros((2, n, 4, h), dtype) for n in (t, s, s)]
    mask = jnp.ones((1, 1, 6, 6), bool)
    can = lambda arrays, **flags: attention._obstacle(*arrays, **(dict(bias=None, is_causal=False) | flags)) is None
    assert can(good()) and can(good(7, 5)) and can(good(h=128), mask=mask) and can(good(dtype=jnp.float16), bias=mask)
    assert can(good(), is_causal=True, local_window_size=(3, 0))
    assert not can(good(dtype=jnp.float32))
    assert not can(good(h=12)) and not can(good(h=136))
    assert not can(good(), local_window_size=(3, 1))
    assert not can(good(t=7), mask=mask) and not can(good(s=5), bias=mask)


def test_bad_choices_are_refused():
    arrays = _single(*_inputs())
    with pytest.raises(InputError, match="'flash'.*auto, xla, cudnn"):
        attend(*arrays, implementation='flash')
    with pytest.raises(InputError, match='window'):
        attend(*arrays, window=(-1, 0))
    with pytest.raises(InputError, match='float32'):
        attend(*arrays, implementation='cudnn')
    with pytest.raises(InputError, match='without an NVIDIA GPU'):
        attend(*(a.astype(jnp.bfloat16) for a in arrays), implementation='cudnn')
    with pytest.raises(TypeError, match='bool'):
        attend(*arrays, mask=jnp.ones((6, 6), jnp.int32))
