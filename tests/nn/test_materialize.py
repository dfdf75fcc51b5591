import jax
import jax.numpy as jnp
import numpy as np

from fjq.nn.materialize import materialize


def residual(keep):
    """Blocks that end in a ReLU of their sum, as in a TCN."""

    def stack(x, weights):
        for w in weights:
            x = keep(jax.nn.relu(x + jax.nn.relu(x @ w)))
        return x.sum()

    return stack


def inputs(blocks: int = 4):
    x_NxD = jax.random.normal(jax.random.key(0), (32, 32))
    return x_NxD, jax.random.normal(jax.random.key(1), (blocks, 32, 32)) / 6


def count_sums(keep, blocks: int) -> int:
    compiled = jax.jit(jax.grad(residual(keep), argnums=1)).lower(*inputs(blocks)).compile()
    return compiled.as_text().count(' add(')


def test_value_and_gradient_are_those_without():
    both = [jax.jit(jax.value_and_grad(residual(f), argnums=(0, 1)))(*inputs()) for f in (materialize, lambda x: x)]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-5), *both)


def test_no_block_sums_the_residual_stream_again():
    assert count_sums(materialize, 16) < 2.5 * count_sums(materialize, 8)
    assert count_sums(lambda x: x, 16) > 3 * count_sums(lambda x: x, 8)


def test_under_vmap_and_remat():
    x, weights = inputs()
    gradient = jax.grad(jax.checkpoint(residual(materialize)))
    twice = jax.vmap(gradient, in_axes=(0, None))(jnp.stack([x, 2 * x]), weights)[1]
    np.testing.assert_allclose(twice, jax.grad(residual(lambda x: x))(2 * x, weights), rtol=2e-5, atol=1e-5)
