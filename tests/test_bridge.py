"""A module behind the bridge gives what the module itself gives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fjq.bridge import Pure


class Count(nnx.Variable):
    pass


class Stack(nnx.Module):
    """Twelve layers, so that '10' sorts before '2', and a running count outside the gradient."""

    def __init__(self, rngs):
        self.layers = nnx.List([nnx.Linear(4, 4, rngs=rngs) for _ in range(12)])
        self.head = nnx.Linear(4, 1, rngs=rngs)
        self.count = Count(jnp.zeros((), jnp.int32))

    def __call__(self, x_BxD, scale=1.0):
        for layer in self.layers:
            x_BxD = jnp.tanh(layer(x_BxD))
        self.count[...] = self.count[...] + x_BxD.shape[0]
        return scale * self.head(x_BxD)


def call(module, *args, **kwargs):
    return module(*args, **kwargs)


@pytest.fixture(scope='module')
def pure():
    return Pure(lambda rngs: Stack(rngs))


@pytest.fixture(scope='module')
def x_BxD():
    return np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)


def test_apply_equals_the_module(pure, x_BxD):
    module = Stack(nnx.Rngs(jax.random.key(3)))
    params, extra = pure.init(jax.random.key(3))
    got, new = pure.apply(params, extra, call, x_BxD, scale=2.0)
    np.testing.assert_array_equal(got, module(x_BxD, scale=2.0))
    assert (int(extra['count']), int(new['count'])) == (0, 5)


def test_trees_are_plain_dicts_of_arrays_with_string_keys(pure):
    def look(node):
        if isinstance(node, dict):
            assert all(type(k) is str for k in node)
            return all(look(v) for v in node.values())
        return isinstance(node, jax.Array)

    params, extra = pure.init(jax.random.key(0))
    assert look(params) and look(extra)
    assert len(params['layers']) == 12 and set(extra) == {'count'}


def test_layers_keep_their_place(pure, x_BxD):
    """A tree that a checkpoint gave back, with its keys sorted as text, means the same."""
    params, extra = pure.init(jax.random.key(1))
    shuffled = params | {'layers': dict(sorted(params['layers'].items(), reverse=True))}
    np.testing.assert_array_equal(
        pure.apply(params, extra, call, x_BxD)[0], pure.apply(shuffled, extra, call, x_BxD)[0]
    )
    swapped = params | {'layers': params['layers'] | {'2': params['layers']['10'], '10': params['layers']['2']}}
    assert not np.array_equal(pure.apply(params, extra, call, x_BxD)[0], pure.apply(swapped, extra, call, x_BxD)[0])


def test_gradients_reach_every_parameter_and_agree_with_nnx(pure, x_BxD):
    module = Stack(nnx.Rngs(jax.random.key(3)))
    params, extra = pure.init(jax.random.key(3))
    ours = jax.jit(jax.grad(lambda p: pure.apply(p, extra, call, x_BxD)[0].sum()))(params)
    theirs = nnx.to_pure_dict(nnx.grad(lambda m: m(x_BxD).sum())(module))
    for i in range(12):
        np.testing.assert_allclose(ours['layers'][str(i)]['kernel'], theirs['layers'][i]['kernel'], atol=1e-7)
        assert np.abs(ours['layers'][str(i)]['kernel']).max() > 0


def test_the_key_decides_the_parameters(pure):
    one, same, other = (pure.init(jax.random.key(k))[0]['head']['kernel'] for k in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)


def test_init_can_be_traced(pure):
    shapes = jax.eval_shape(pure.init, jax.random.key(0))
    made = pure.init(jax.random.key(0))
    assert jax.tree.map(lambda s: (s.shape, s.dtype), shapes) == jax.tree.map(lambda a: (a.shape, a.dtype), made)


def test_no_tracer_is_left_in_the_module(pure, x_BxD):
    params, extra = pure.init(jax.random.key(0))
    with jax.checking_leaks():
        jax.jit(lambda p: pure.apply(p, extra, call, x_BxD))(params)


def test_a_missing_parameter_is_an_error(pure, x_BxD):
    params, extra = pure.init(jax.random.key(0))
    with pytest.raises(KeyError, match='11'):
        pure.apply(params | {'layers': {k: v for k, v in params['layers'].items() if k != '11'}}, extra, call, x_BxD)
