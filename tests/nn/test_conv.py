"""Convolutions against torch, and against what the padding makes of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from fjq.errors import InputError
from fjq.nn.conv import Conv1d, depthwise_conv, dilated_conv

LENGTH = 20


def _random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def _pulled(function, arrays, cotangent):
    """Value and gradients of ours, compiled as one program."""

    @jax.jit
    def run(arrays, cotangent):
        y, pull = jax.vjp(function, *arrays)
        return y, *pull(cotangent)

    return run(arrays, cotangent)


def _torch_conv(x, kernel, bias, cotangent, *, dilation, causal, groups=1):
    """Value and gradients of torch's NCW convolution, in our layout."""
    width = kernel.shape[0]
    pad = ((width - 1) * dilation, 0) if causal else (width // 2 * dilation,) * 2
    inputs = [torch.tensor(a, requires_grad=True) for a in (x, kernel, bias)]
    padded = torch.nn.functional.pad(inputs[0].transpose(1, 2), pad)
    y = torch.nn.functional.conv1d(padded, inputs[1].permute(2, 1, 0), inputs[2], dilation=dilation, groups=groups)
    y.transpose(1, 2).backward(torch.tensor(cotangent))
    return [y.transpose(1, 2).detach().numpy(), *(i.grad.numpy() for i in inputs)]


@pytest.mark.parametrize('causal', [False, True])
@pytest.mark.parametrize(
    ('width', 'dilation'),
    [(1, 1), (3, 1), (3, 4), (3, 9), (3, 10), (3, 13), (3, 19), (3, 20), (3, 64), (5, 2), (5, 5), (5, 9), (5, 10)],
)
def test_value_and_gradients_equal_torch(width, dilation, causal):
    x, kernel, bias = _random(3, LENGTH, 6), _random(width, 6, 7, seed=1), _random(7, seed=2)
    cotangent = _random(3, LENGTH, 7, seed=3)
    ours = _pulled(lambda *a: dilated_conv(*a, dilation=dilation, causal=causal), (x, kernel, bias), cotangent)
    golden = _torch_conv(x, kernel, bias, cotangent, dilation=dilation, causal=causal)
    for mine, theirs in zip(ours, golden, strict=True):
        np.testing.assert_allclose(mine, theirs, atol=2e-5)


@pytest.mark.parametrize('causal', [False, True])
@pytest.mark.parametrize('dilation', [1, 2, 8])
def test_tiles_equal_torch_with_half_of_the_products(dilation, causal):
    """Wide layers on a CPU: six products of matrices for four outputs, and the value and gradients of torch."""
    x, kernel, bias = _random(2, 64, 128), _random(3, 128, 130, seed=1) / 20, _random(130, seed=2)
    cotangent = _random(2, 64, 130, seed=3)
    forward = lambda *a: dilated_conv(*a, dilation=dilation, causal=causal)
    ours = _pulled(forward, (x, kernel, bias), cotangent)
    golden = _torch_conv(x, kernel, bias, cotangent, dilation=dilation, causal=causal)
    for mine, theirs in zip(ours, golden, strict=True):
        np.testing.assert_allclose(mine, theirs, atol=2e-5 * np.abs(theirs).max())
    flops = jax.jit(forward).lower(x, kernel, bias).compile().cost_analysis()['flops']
    direct = 2 * 3 * 64 * 2 * 128 * 130
    assert 0.5 * direct < flops < 0.6 * direct


@pytest.mark.parametrize('dilation', [LENGTH // 2, LENGTH - 3, LENGTH])
def test_wide_dilations_multiply_no_padding(dilation):
    """Products in the program: only pairs of a tap and an input that both exist, forward and backward."""
    x, kernel = jnp.zeros((2, LENGTH, 6)), jnp.zeros((3, 6, 7))
    forward = lambda x, k: dilated_conv(x, k, dilation=dilation)
    backward = lambda x, k, g: jax.vjp(forward, x, k)[1](g)
    pairs = sum(0 <= t + o < LENGTH for t in range(LENGTH) for o in (-dilation, 0, dilation))
    for function, arrays, times in ((forward, (x, kernel), 1), (backward, (x, kernel, jnp.zeros((2, LENGTH, 7))), 3)):
        equations = jax.make_jaxpr(function)(*arrays).eqns
        assert not any(e.primitive.name == 'conv_general_dilated' for e in equations)
        products = [e for e in equations if e.primitive.name == 'dot_general']
        assert sum(_multiplications(e) for e in products) == times * 2 * pairs * 6 * 7


def _multiplications(dot) -> int:
    ((contracted, _), _), left = dot.params['dimension_numbers'], dot.invars[0].aval.shape
    return int(np.prod([left[i] for i in contracted])) * dot.outvars[0].aval.size


def test_causal_output_keeps_every_bit_when_the_future_changes():
    x, kernel = _random(2, LENGTH, 6), _random(3, 6, 7, seed=1)
    changed = x.copy()
    changed[:, 11:] = 9
    for dilation in (1, 4, 12):
        convolve = jax.jit(lambda x, d=dilation: dilated_conv(x, kernel, dilation=d, causal=True))
        np.testing.assert_array_equal(convolve(x)[:, :11], convolve(changed)[:, :11])


def test_bfloat16_sums_in_float32():
    """4,096 products of one sign: a bfloat16 sum would stall after 256 of them."""
    x, kernel = jnp.ones((1, 4, 4096), jnp.bfloat16), jnp.ones((3, 4096, 2), jnp.float32)
    for dilation in (1, 2, 4):
        y = dilated_conv(x, kernel, dilation=dilation)
        assert y.dtype == jnp.bfloat16
        taps = [sum(0 <= t + o < 4 for o in (-dilation, 0, dilation)) for t in range(4)]
        np.testing.assert_array_equal(y[0, :, 0].astype(np.float32), 4096.0 * np.array(taps))


def test_an_even_symmetric_width_is_refused():
    with pytest.raises(InputError, match='width 4 has no centre'):
        dilated_conv(jnp.zeros((1, 8, 2)), jnp.zeros((4, 2, 2)))


@pytest.mark.parametrize('width', [1, 4, 6])
@pytest.mark.parametrize('length', [3, LENGTH])
def test_depthwise_value_and_gradients_equal_torch(width, length):
    x, kernel, bias = _random(3, length, 6), _random(width, 6, seed=1), _random(6, seed=2)
    cotangent = _random(3, length, 6, seed=3)
    ours = _pulled(depthwise_conv, (x, kernel, bias), cotangent)
    golden = _torch_conv(x, kernel[:, None], bias, cotangent, dilation=1, causal=True, groups=6)
    golden[2] = golden[2][:, 0]
    for mine, theirs in zip(ours, golden, strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-5)


def test_conv1d_draws_from_the_law_of_torch():
    torch.manual_seed(0)
    layer = Conv1d(40, 50, 3, rngs=nnx.Rngs(0))
    reference = torch.nn.Conv1d(40, 50, 3)
    for ours, theirs in ((layer.kernel, reference.weight), (layer.bias, reference.bias)):
        bound = float(theirs.detach().abs().max())
        assert abs(ours[...]).max() == pytest.approx(bound, rel=0.1)
    assert layer.kernel[...].std() == pytest.approx(float(reference.weight.detach().std()), rel=0.05)
    assert layer.kernel[...].shape == (3, 40, 50) and layer.kernel[...].dtype == jnp.float32
    assert layer(jnp.zeros((2, 9, 40))).shape == (2, 9, 50)
    assert Conv1d(40, 50, 3, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))(jnp.zeros((2, 9, 40))).dtype == jnp.bfloat16
