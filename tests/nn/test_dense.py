"""The flattened product against torch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
import torch
from flax import nnx

from fjq.nn.dense import Dense, dense, gelu


@pytest.mark.parametrize('lead', [(), (4,), (2, 5), (2, 3, 4)])
def test_value_and_gradients_equal_torch(lead):
    draw = np.random.default_rng(0).standard_normal
    x, kernel, bias, cotangent = (draw(s).astype(np.float32) for s in ((*lead, 6), (6, 7), (7,), (*lead, 7)))
    y, pull = jax.vjp(dense, x, kernel, bias)
    inputs = [torch.tensor(a, requires_grad=True) for a in (x, kernel, bias)]
    golden = torch.nn.functional.linear(inputs[0], inputs[1].T, inputs[2])
    golden.backward(torch.tensor(cotangent))
    np.testing.assert_allclose(y, golden.detach(), atol=1e-5)
    for ours, theirs in zip(pull(cotangent), inputs, strict=True):
        np.testing.assert_allclose(ours, theirs.grad, atol=1e-5)


def test_the_product_has_two_axes():
    """What makes the weight gradient fast: no dot_general sees more than two axes, forward or backward."""
    loss = lambda x, k: dense(x, k).sum()
    jaxpr = jax.make_jaxpr(jax.grad(loss, (0, 1)))(jnp.ones((2, 3, 4)), jnp.ones((4, 5)))
    ranks = [v.aval.ndim for e in jaxpr.eqns if e.primitive.name == 'dot_general' for v in (*e.invars, *e.outvars)]
    assert ranks and max(ranks) == 2


def test_dense_draws_from_the_law_of_torch():
    torch.manual_seed(0)
    layer, reference = Dense(100, 200, rngs=nnx.Rngs(0)), torch.nn.Linear(100, 200)
    for ours, theirs in ((layer.kernel, reference.weight), (layer.bias, reference.bias)):
        assert abs(ours[...]).max() == pytest.approx(float(theirs.detach().abs().max()), rel=0.05)
        assert ours[...].std() == pytest.approx(float(theirs.detach().std()), rel=0.15)
        assert ours[...].dtype == jnp.float32
    assert Dense(3, 4, use_bias=False, rngs=nnx.Rngs(0)).bias is None
    assert Dense(3, 4, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))(jnp.ones((2, 3))).dtype == jnp.bfloat16


def test_bfloat16_is_rounded_once():
    """Sums in float32, bias included; the gradient is that of the same products."""
    rng = np.random.default_rng(0)
    x, kernel, bias = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in ((6, 64), (64, 16), (16,)))
    x, kernel = x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16)
    run = lambda x, kernel, bias: jax.jit(dense)(x, kernel, bias)
    exact = np.asarray(x, np.float64) @ np.asarray(kernel, np.float64) + np.asarray(bias)
    np.testing.assert_allclose(np.asarray(run(x, kernel, bias), np.float64), exact, rtol=2**-8)
    assert run(x, kernel, bias).dtype == jnp.bfloat16
    gx, gk = jax.grad(lambda *a: run(*a, bias).astype(jnp.float32).sum(), (0, 1))(x, kernel)
    np.testing.assert_allclose(
        np.asarray(gx, np.float64)[0], np.asarray(kernel, np.float64).sum(1), rtol=0.03, atol=0.03
    )
    np.testing.assert_allclose(np.asarray(gk, np.float64)[:, 0], np.asarray(x, np.float64).sum(0), rtol=0.03, atol=0.03)


def test_gelu_is_exact():
    x = np.linspace(-12, 12, 4001)
    expected = x * scipy.stats.norm.cdf(x)
    np.testing.assert_allclose(gelu(jnp.asarray(x, jnp.float32)), expected, rtol=1e-6, atol=1e-6)
    slope = jax.vmap(jax.grad(gelu))(jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(slope, scipy.stats.norm.cdf(x) + x * scipy.stats.norm.pdf(x), atol=1e-6)
    assert gelu(jnp.asarray(x, jnp.bfloat16)).dtype == jnp.bfloat16
