"""Convolutions over time in channels-last layout, which is the fast one of XLA on a CPU."""

from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from fjq.errors import InputError
from fjq.nn.dense import dense, torch_uniform


def dilated_conv(x_BxLxC, kernel_WxCxF, bias_F=None, *, dilation: int = 1, causal: bool = False):
    """Stride 1, zero padding, length preserved: [B, L, C] -> [B, L, F] in the dtype of x.

    Tap w reads x[t + offset] with offset (w - W // 2) * dilation, or (w - W + 1) * dilation when causal. A tap whose
    offset reaches past the whole sequence only ever reads padding: it is left out, which is the same function (its
    gradient is exactly zero). Products are summed in float32 by the hardware and rounded to the dtype of x once.
    Raises InputError for an even width that is not causal.
    """
    width, length = kernel_WxCxF.shape[0], x_BxLxC.shape[1]
    if not causal and width % 2 == 0:
        raise InputError(f'a symmetric convolution of width {width} has no centre', remedy='use an odd width')
    centre = width - 1 if causal else width // 2
    taps = [w for w in range(width) if abs(w - centre) * dilation < length]
    offsets = [(w - centre) * dilation for w in taps]
    kernel_WxCxF = kernel_WxCxF[taps[0] : taps[-1] + 1].astype(x_BxLxC.dtype)
    if 2 * dilation >= length:
        return _by_segments(x_BxLxC, kernel_WxCxF, bias_F, offsets)
    convolve = partial(
        jax.lax.conv_general_dilated,
        window_strides=(1,),
        padding=[(-offsets[0], offsets[-1])],
        rhs_dilation=(dilation,),
        dimension_numbers=('NWC', 'WIO', 'NWC'),
    )
    if _has_tiles(x_BxLxC, kernel_WxCxF, dilation):
        tiles = partial(_by_tiles, dilation=dilation, left=-offsets[0])
        y = jax.lax.platform_dependent(x_BxLxC, kernel_WxCxF, cpu=tiles, default=convolve)
    else:
        y = convolve(x_BxLxC, kernel_WxCxF)
    return y if bias_F is None else y + bias_F.astype(y.dtype)[None, None]


def _has_tiles(x_BxLxC, kernel_WxCxF, dilation: int) -> bool:
    """Whether `_by_tiles` can serve and pays: matrices large enough to hide its sums."""
    width, *features = kernel_WxCxF.shape
    return (
        x_BxLxC.dtype == jnp.float32 and width == 3 and x_BxLxC.shape[1] % (4 * dilation) == 0 and min(features) >= 128
    )


# Four outputs of three taps from six products instead of twelve: y = A^T [(G w) * (B^T x)], F(4, 3) of Winograd (1980),
# as Lavin and Gray (2016) give it.
_B = (
    (4, 0, -5, 0, 1, 0),
    (0, -4, -4, 1, 1, 0),
    (0, 4, -4, -1, 1, 0),
    (0, -2, -1, 2, 1, 0),
    (0, 2, -1, -2, 1, 0),
    (0, 4, 0, -5, 0, 1),
)
_G = (
    (1 / 4, 0, 0),
    (-1 / 6, -1 / 6, -1 / 6),
    (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6),
    (0, 0, 1),
)
_A = ((1, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 0), (0, 1, 1, 4, 4, 0), (0, 1, -1, 8, -8, 1))


def _by_tiles(x_BxLxC, kernel_3xCxF, *, dilation: int, left: int):
    """The same convolution with half of the multiplications, and no transposed copies in its gradient.

    Forward and backward of 8 rows of 256 positions and 512 channels, two CPU cores: 18 ms (convolution 32 ms); largest
    difference 4e-6 of the largest value.
    """
    batch, length, features = x_BxLxC.shape
    tiles = length // (4 * dilation)
    padded = jnp.pad(x_BxLxC, ((0, 0), (left, 4 * dilation - left), (0, 0)))
    phases = padded.reshape(batch, tiles + 1, 4, dilation, features)  # position = (4 tile + j) dilation + phase
    six = [phases[:, :-1, j] for j in range(4)] + [phases[:, 1:, j] for j in range(2)]
    products = [
        jax.lax.dot(v.reshape(-1, features), w, preferred_element_type=x_BxLxC.dtype)
        for v, w in zip(_combine(_B, six), _combine(_G, kernel_3xCxF), strict=True)
    ]
    four = [y.reshape(batch, tiles, dilation, -1) for y in _combine(_A, products)]
    return jnp.stack(four, axis=2).reshape(batch, length, -1)


def _combine(matrix, parts) -> list:
    """One sum a row of a small matrix, without the terms that are zero."""
    return [sum(c * p for c, p in zip(row, parts, strict=True) if c) for row in matrix]


def _by_segments(x_BxLxC, kernel_WxCxF, bias_F, offsets: list[int]):
    """The same convolution as one matrix product a segment of positions that read the same taps, none of them padding.

    With dilation >= L / 2 there are at most three segments of at most two taps. Forward and backward of 64 rows of
    256 positions and 512 channels, width 3, two CPU cores: dilation L / 2 221 ms (convolution 294, one padded product
    a tap 240), 3 L / 4 172 ms (281, 185), L 127 ms (284). Below L / 2 the convolution wins.
    """
    length = x_BxLxC.shape[1]
    edges = sorted({0, length, *(-o for o in offsets if o < 0), *(length - o for o in offsets if o > 0)})
    parts = []
    for start, stop in zip(edges[:-1], edges[1:], strict=True):
        read = [(w, o) for w, o in enumerate(offsets) if 0 <= start + o and stop + o <= length]
        window = jnp.concatenate([x_BxLxC[:, start + o : stop + o] for _, o in read], axis=-1)
        parts.append(dense(window, jnp.concatenate([kernel_WxCxF[w] for w, _ in read]), bias_F))
    return jnp.concatenate(parts, axis=1)


def depthwise_conv(x_BxLxC, kernel_WxC, bias_C=None):
    """Causal convolution of every channel with its own W taps: y[t] = sum_w kernel[w] * x[t - W + 1 + w] + bias.

    Written as W shifted multiply-adds: a grouped convolution takes eleven times longer on a CPU.
    """
    width, length = kernel_WxC.shape[0], x_BxLxC.shape[1]
    padded = jnp.pad(x_BxLxC, ((0, 0), (width - 1, 0), (0, 0)))
    kernel = kernel_WxC.astype(x_BxLxC.dtype)[:, None, None]
    y = sum(padded[:, w : w + length] * kernel[w] for w in range(width))
    return y if bias_C is None else y + bias_C.astype(y.dtype)[None, None]


class Conv1d(nnx.Module):
    """`dilated_conv` with kernel [W, C, F] (`torch.nn.Conv1d.weight` is [F, C, W]) and bias, drawn as in PyTorch."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        width: int,
        *,
        dilation: int = 1,
        causal: bool = False,
        dtype=jnp.float32,
        rngs: nnx.Rngs,
    ):
        fan_in = in_features * width
        self.kernel = nnx.Param(torch_uniform(rngs.params(), (width, in_features, out_features), fan_in))
        self.bias = nnx.Param(torch_uniform(rngs.params(), (out_features,), fan_in))
        self.dilation, self.causal, self.dtype = dilation, causal, dtype

    def __call__(self, x_BxLxC):
        """[B, L, C] -> [B, L, F] in the compute dtype."""
        x = x_BxLxC.astype(self.dtype)
        return dilated_conv(x, self.kernel[...], self.bias[...], dilation=self.dilation, causal=self.causal)


class DepthwiseConv1d(nnx.Module):
    """`depthwise_conv` with kernel [W, 1, C] (`torch.nn.Conv1d.weight` is [C, 1, W]) and bias, drawn as in PyTorch."""

    def __init__(self, features: int, width: int, *, dtype=jnp.float32, rngs: nnx.Rngs):
        self.kernel = nnx.Param(torch_uniform(rngs.params(), (width, 1, features), width))
        self.bias = nnx.Param(torch_uniform(rngs.params(), (features,), width))
        self.dtype = dtype

    def __call__(self, x_BxLxC):
        """[B, L, C] -> [B, L, C] in the compute dtype."""
        return depthwise_conv(x_BxLxC.astype(self.dtype), self.kernel[:, 0], self.bias[...])
