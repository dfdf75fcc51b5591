"""Norms against torch and float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from fjq.nn.norm import GroupNormOne, LayerNorm, RMSNorm, group_norm_one, layer_norm, rms_norm


def _random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def _both(ours, theirs, arrays, cotangent):
    """(value and gradients of ours, the same of theirs), all as NumPy."""
    y, *gradients = jax.jit(lambda c, *a: (lambda y, pull: (y, *pull(c)))(*jax.vjp(ours, *a)))(cotangent, *arrays)
    inputs = [torch.tensor(a, requires_grad=True) for a in arrays]
    golden = theirs(*inputs)
    golden.backward(torch.tensor(cotangent))
    return (y, *gradients), (golden.detach().numpy(), *(i.grad.numpy() for i in inputs))


def _assert_close(pair, tolerance=1e-5):
    for ours, theirs in zip(*pair, strict=True):
        assert np.abs(ours - theirs).max() <= tolerance * max(1, np.abs(theirs).max())


def test_group_norm_equals_torch():
    x, scale, bias, cotangent = _random(4, 64, 12), _random(12, seed=1), _random(12, seed=2), _random(4, 64, 12, seed=3)
    theirs = lambda x, s, b: torch.nn.functional.group_norm(x.transpose(1, 2), 1, s, b, 1e-5).transpose(1, 2)
    _assert_close(_both(group_norm_one, theirs, (x, scale, bias), cotangent))


def test_group_norm_with_a_large_mean():
    """The shape of the full-size model; a single-pass variance loses four digits here."""
    x = _random(1, 256, 512) + 300
    wide = x.astype(np.float64)
    golden = (wide - wide.mean()) / np.sqrt(wide.var() + 1e-5)
    ours = jax.jit(group_norm_one)(x, np.ones(512, np.float32), np.zeros(512, np.float32))
    assert np.abs(ours - golden).max() < 5e-5  # half a unit in the last place of 300 is 1.5e-5


def test_group_norm_mask_equals_the_shorter_sequence():
    """Value and gradients; the padding holds huge values and gets no gradient."""
    x, scale, bias, cotangent = _random(3, 20, 5), _random(5, seed=1), _random(5, seed=2), _random(3, 20, 5, seed=3)
    lengths = np.array([20, 7, 1])
    mask = np.arange(20)[None] < lengths[:, None]
    x = np.where(mask[..., None], x, np.float32(1e6))
    cotangent = np.where(mask[..., None], cotangent, 0)

    def run(x, scale, bias, mask, cotangent):
        y, pull = jax.vjp(lambda *a: group_norm_one(*a, mask_BxL=mask), x, scale, bias)
        return y, *pull(cotangent)

    y, gx, gscale, gbias = jax.jit(run)(x, scale, bias, mask, cotangent)
    total = np.zeros((2, 5))
    for row, n in enumerate(lengths):
        alone = [np.asarray(a) for a in run(x[row : row + 1, :n], scale, bias, None, cotangent[row : row + 1, :n])]
        np.testing.assert_allclose(y[row, :n], alone[0][0], atol=2e-5)
        np.testing.assert_allclose(gx[row, :n], alone[1][0], atol=2e-5)
        assert not np.asarray(gx)[row, n:].any()
        total += alone[2:]
    np.testing.assert_allclose([gscale, gbias], total, atol=2e-5)


def test_group_norm_masked_gradient_equals_finite_differences():
    """Positions that do not count are normalised too, and pull at the statistics of those that do."""
    draw = np.random.default_rng(4).standard_normal
    x, scale, bias, weights, direction = draw((2, 6, 5)), draw(5), draw(5), draw((2, 6, 5)), draw((2, 6, 5))
    mask = np.arange(6)[None] < np.array([[6], [4]])
    with jax.enable_x64(True):
        loss = jax.jit(lambda x: (group_norm_one(x, scale, bias, mask_BxL=mask) * weights).sum())
        slope = float((loss(x + 1e-6 * direction) - loss(x - 1e-6 * direction)) / 2e-6)
        assert float((jax.grad(loss)(x) * direction).sum()) == pytest.approx(slope, rel=1e-7)


def test_group_norm_of_a_row_that_does_not_count_is_finite():
    mask = np.array([[True] * 6, [False] * 6])
    loss = lambda x: jnp.where(mask[..., None], group_norm_one(x, jnp.ones(5), jnp.zeros(5), mask_BxL=mask), 0).sum()
    gradient = np.asarray(jax.jit(jax.grad(loss))(_random(2, 6, 5)))
    assert np.isfinite(gradient).all() and not gradient[1].any()


def test_group_norm_keeps_bfloat16_for_the_backward_pass():
    x, ones = jnp.zeros((2, 64, 32), jnp.bfloat16), jnp.ones(32)
    kept = jax.tree.leaves(jax.vjp(lambda x: group_norm_one(x, ones, ones), x)[1])
    assert sum(a.nbytes for a in kept) < 1.2 * x.nbytes


def test_layer_norm_equals_torch():
    x, scale, bias, cotangent = _random(4, 9, 12), _random(12, seed=1), _random(12, seed=2), _random(4, 9, 12, seed=3)
    theirs = lambda x, s, b: torch.nn.functional.layer_norm(x, (12,), s, b, 1e-5)
    _assert_close(_both(layer_norm, theirs, (x, scale, bias), cotangent))


@pytest.mark.parametrize('eps', [1e-5, 0.3])
def test_rms_norm_equals_torch(eps):
    x, scale, cotangent = _random(4, 9, 12), _random(12, seed=1), _random(4, 9, 12, seed=3)
    theirs = lambda x, s: torch.nn.functional.rms_norm(x, (12,), s, eps)
    _assert_close(_both(lambda x, s: rms_norm(x, s, eps=eps), theirs, (x, scale), cotangent))


@pytest.mark.parametrize('layer', [GroupNormOne(8), LayerNorm(8), LayerNorm(8, use_bias=False), RMSNorm(8, eps=1e-6)])
def test_bfloat16_gets_float32_statistics_and_output(layer):
    x = (_random(2, 300, 8) + 7).astype(jnp.bfloat16)
    y = layer(x)
    assert y.dtype == jnp.float32
    np.testing.assert_array_equal(y, layer(x.astype(jnp.float32)))
    assert layer.scale[...].shape == (8,)
