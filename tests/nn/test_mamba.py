"""Mamba mixers: initial law, streaming, masks and directions. Values are compared in tests/interop/test_mamba.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy import stats

from fjq.bridge import Pure
from fjq.nn.mamba import BiMambaBlock, MambaBlock


def _random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def _make(kind, features, **options):
    """A block whose start is one program."""
    return nnx.jit(lambda: kind(features, **options, rngs=nnx.Rngs(0)))()


def test_initial_steps_are_log_uniform():
    block = _make(MambaBlock, 500, states=3)
    step = np.log(np.logaddexp(np.asarray(block.dt_proj.bias[...], np.float64), 0))
    assert stats.kstest(step, stats.uniform(np.log(1e-3), np.log(1e2)).cdf).pvalue > 1e-3
    np.testing.assert_allclose(np.exp(block.A_log[...]), np.tile([1.0, 2.0, 3.0], (1000, 1)), rtol=1e-6)
    bound = 1 / np.sqrt(block.rank)
    assert 0.98 * bound < np.abs(block.dt_proj.kernel[...]).max() <= bound


def test_sizes_of_the_denoiser():
    """115,200 parameters of the scan alone at width 128, and 1,280 of the convolution."""
    make = lambda width: nnx.eval_shape(lambda: MambaBlock(128, width=width, rngs=nnx.Rngs(0)))
    count = lambda width: sum(p.size for p in jax.tree.leaves(nnx.state(make(width), nnx.Param)))
    assert count(0) == 115_200
    assert count(4) == 115_200 + 256 * 5


@pytest.mark.parametrize('width', [0, 1, 4])
def test_streaming_equals_the_whole(width):
    block, x = _make(MambaBlock, 12, width=width), _random(3, 9, 12)
    whole = jax.jit(block)(x)
    pure = Pure(lambda rngs: MambaBlock(12, width=width, rngs=rngs))
    params = nnx.to_pure_dict(nnx.state(block, nnx.Param))
    step = jax.jit(lambda x, state: pure.apply(params, {}, lambda b: b.step(x, state))[0])
    state = block.start(3)
    for t in range(9):
        y, state = step(x[:, t], state)
        np.testing.assert_allclose(y, whole[:, t], atol=1e-6)


def test_the_future_changes_no_bit_of_the_past():
    block, x = _make(MambaBlock, 12), _random(2, 20, 12)
    changed = x.copy()
    changed[:, 11:] = 5
    run = jax.jit(block)
    np.testing.assert_array_equal(run(x)[:, :11], run(changed)[:, :11])


@pytest.mark.parametrize('kind', [MambaBlock, BiMambaBlock])
def test_padding_changes_nothing(kind):
    block, x = _make(kind, 12), _random(2, 20, 12)
    mask = np.arange(20)[None] < np.array([[20], [7]])
    padded = np.where(mask[..., None], x, 100).astype(np.float32)
    run = jax.jit(block)
    loss = lambda x: (jnp.where(mask[..., None], block(x, mask), 0) ** 2).sum()
    y = run(padded, mask)
    np.testing.assert_allclose(y[0], run(x)[0], atol=1e-6)
    np.testing.assert_allclose(y[1, :7], run(x[:, :7])[1], atol=1e-6)
    assert not np.asarray(jax.jit(jax.grad(loss))(padded))[1, 7:].any()


def test_both_directions_equal_two_mixers():
    block, x = _make(BiMambaBlock, 12, states=4), _random(2, 20, 12)
    backward = lambda x: jnp.flip(block.backward(jnp.flip(x, 1)), 1)
    two = jax.jit(lambda x: block.joint(jnp.concatenate([block.forward(x), backward(x)], -1)))
    np.testing.assert_allclose(jax.jit(block)(x), two(x), atol=1e-6)
    kernels = (np.asarray(b.in_proj.kernel[...]) for b in (block.forward, block.backward))
    assert abs(np.subtract(*kernels)).max() > 0.01


def test_both_directions_share_one_scan():
    block = _make(BiMambaBlock, 12, method='sequential')
    jaxpr = jax.make_jaxpr(block)(_random(2, 20, 12))
    assert str(jaxpr).count('custom_vjp_call') == 1


def test_bfloat16_is_close_and_trains():
    block, exact = (_make(MambaBlock, 32, dtype=d) for d in (jnp.bfloat16, jnp.float32))
    x = _random(2, 20, 32)
    y, golden = np.asarray(jax.jit(block)(x)), np.asarray(jax.jit(exact)(x))
    assert y.dtype == jnp.bfloat16
    assert np.abs(y.astype(np.float32) - golden).max() < 0.03 * np.abs(golden).max()
    graph, params = nnx.split(block)
    loss = lambda params: nnx.merge(graph, params)(x).astype(jnp.float32).sum()
    leaves = jax.tree.leaves(jax.device_get(jax.jit(jax.grad(loss))(params)))
    assert len(leaves) == 9 and all(g.dtype == jnp.float32 and np.isfinite(g).all() and g.any() for g in leaves)
