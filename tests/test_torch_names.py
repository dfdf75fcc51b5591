"""Names and layouts against torch's own modules: same names, same shapes, same function."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fjq.errors import InputError
from fjq.torch_names import from_state_dict, to_state_dict

torch = pytest.importorskip('torch')


def normal(*shape, seed=0):
    return np.random.Generator(np.random.Philox(seed)).normal(size=shape).astype(np.float32)


PARAMS = {
    'embed': {'embedding': normal(7, 4)},
    'conv': {'kernel': normal(3, 4, 5), 'bias': normal(5)},
    'image': {'kernel': normal(3, 2, 5, 6)},
    'norm': {'scale': normal(5), 'bias': normal(5)},
    'mlp': {'0': {'kernel': normal(5, 2), 'bias': normal(2)}, 'free': normal(2, 3)},
}


class Twin(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = torch.nn.Embedding(7, 4)
        self.conv = torch.nn.Conv1d(4, 5, 3, padding=1)
        self.image = torch.nn.Conv2d(5, 6, (3, 2), bias=False)
        self.norm = torch.nn.LayerNorm(5)
        self.mlp = torch.nn.ModuleList([torch.nn.Linear(5, 2)])
        self.mlp.free = torch.nn.Parameter(torch.zeros(2, 3))


def loaded():
    twin = Twin()
    state = to_state_dict(PARAMS, order=list(twin.state_dict()))
    assert list(state) == list(twin.state_dict())
    twin.load_state_dict({k: torch.tensor(v) for k, v in state.items()}, strict=True)
    return twin


def test_the_torch_modules_compute_what_our_layout_means():
    twin = loaded()
    ids, x_BxLxC = np.array([[0, 3, 6], [5, 5, 1]]), normal(2, 9, 4, seed=1)
    with torch.no_grad():
        np.testing.assert_array_equal(twin.embed(torch.tensor(ids)).numpy(), PARAMS['embed']['embedding'][ids])
        ours = jax.lax.conv_general_dilated(
            x_BxLxC, PARAMS['conv']['kernel'], (1,), 'SAME', dimension_numbers=('NWC', 'WIO', 'NWC')
        )
        ours = np.asarray(ours) + PARAMS['conv']['bias']
        theirs = twin.conv(torch.tensor(x_BxLxC).mT).mT.numpy()
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
        z = normal(2, 8, 9, 5, seed=2)
        ours = jax.lax.conv_general_dilated(
            z, PARAMS['image']['kernel'], (1, 1), 'VALID', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
        )
        theirs = twin.image(torch.tensor(z).permute(0, 3, 1, 2)).permute(0, 2, 3, 1).numpy()
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
        y = normal(4, 5, seed=3)
        ours = y @ PARAMS['mlp']['0']['kernel'] + PARAMS['mlp']['0']['bias']
        np.testing.assert_allclose(ours, twin.mlp[0](torch.tensor(y)).numpy(), atol=1e-5)


def test_back_to_the_same_bits():
    back = from_state_dict(loaded().state_dict(), jax.eval_shape(lambda: PARAMS))
    assert jax.tree.structure(back) == jax.tree.structure(PARAMS)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b, strict=True), back, PARAMS)


trees = st.recursive(
    st.builds(
        lambda shape, bias: {'kernel': normal(*shape)} | ({'bias': normal(2)} if bias else {}),
        st.lists(st.integers(1, 3), min_size=2, max_size=5),
        st.booleans(),
    )
    | st.sampled_from([{'scale': normal(3)}, {'embedding': normal(2, 2)}, {'A_log': normal(2, 3, 4)}]),
    lambda node: st.dictionaries(st.text('abc012', min_size=1, max_size=2), node, min_size=1, max_size=4),
    max_leaves=8,
)


@settings(max_examples=80, deadline=None)
@given(tree=trees)
def test_any_tree_comes_back(tree):
    state = to_state_dict(tree)
    assert all(v.flags.c_contiguous for v in state.values())
    back = from_state_dict(state, tree)
    assert jax.tree.structure(back) == jax.tree.structure(tree)
    jax.tree.map(np.testing.assert_array_equal, back, tree)


def test_natural_order_without_an_order():
    tree = {'layers': {str(i): {'bias': normal(1), 'kernel': normal(1, 1)} for i in (10, 2, 0)}}
    names = [f'layers.{i}.{p}' for i in (0, 2, 10) for p in ('weight', 'bias')]
    assert list(to_state_dict(tree)) == names


def state_with(**changes):
    state = dict(to_state_dict(PARAMS))
    for name, value in changes.items():
        name = name.replace('__', '.')
        if value is None:
            del state[name]
        else:
            state[name] = value
    return state


@pytest.mark.parametrize(
    ('state', 'said'),
    [
        (state_with(conv__bias=None), r'x.pt: the state dict lacks conv\.bias\.'),
        (state_with(more=normal(1)), r'has unknown keys more\.'),
        (state_with(conv__bias=None, more=normal(1)), r'lacks conv\.bias and has unknown keys more'),
        ({}, r'lacks embed\.weight, conv\.weight, conv\.bias, image\.weight and 5 more'),
        (state_with(conv__weight=normal(3, 4, 5)), r'conv\.weight is float32\[3, 4, 5\], expected float32\[5, 4, 3\]'),
        (state_with(norm__bias=np.zeros(5, bool).astype(object)), r'norm\.bias is object'),
        (state_with(norm__bias=np.zeros(5, complex)), r'norm\.bias is complex128'),
    ],
)
def test_a_wrong_state_dict_is_refused_by_name(state, said):
    with pytest.raises(InputError, match=said):
        from_state_dict(state, PARAMS, file='x.pt')


def test_double_precision_is_rounded_once():
    state = {k: v.astype(np.float64) for k, v in to_state_dict(PARAMS).items()}
    back = from_state_dict(state, PARAMS)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b, strict=True), back, PARAMS)


def test_colliding_names_kernels_without_axes_and_a_wrong_order_are_refused():
    with pytest.raises(InputError, match="two parameters are called 'a.weight'"):
        to_state_dict({'a': {'kernel': normal(2, 2), 'scale': normal(2)}})
    with pytest.raises(InputError, match="the kernel 'a.kernel' has 1 axes"):
        to_state_dict({'a': {'kernel': normal(2)}})
    with pytest.raises(InputError, match=r'lacks b\.weight and has unknown keys a\.weight'):
        to_state_dict({'a': {'scale': normal(2)}}, order=['b.weight'])
