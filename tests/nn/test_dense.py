"""The flattened product against torch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from fjq.nn.dense import Dense, dense


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
