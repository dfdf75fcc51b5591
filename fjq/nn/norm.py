"""Normalisation with statistics and output in float32 (float64 for float64 input)."""

from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx


def _float32(x):
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _affine(x, scale, bias):
    lead = (1,) * (x.ndim - 1)
    if scale is not None:
        x = x * scale.reshape(*lead, -1)
    return x if bias is None else x + bias.reshape(*lead, -1)


def group_norm_one(x_BxLxC, scale_C, bias_C, *, eps: float = 1e-5, mask_BxL=None):
    """GroupNorm with ONE group (Wu & He 2018): mean and biased variance over L and C jointly, one pair a row.

    mask_BxL: True = the position counts in the statistics. Every position is normalised, also those that do not
      count: zero them afterwards where they must not leak. A row without any position that counts gives mean 0 and
      variance 0. Without a mask padding enters the statistics, as in PyTorch.

    The hand-written gradient keeps x in its own dtype and two numbers a row; derived by JAX it would keep two float32
    copies of x (four times the memory for bfloat16) and take a third longer.
    """
    return _group_norm(x_BxLxC, scale_C, bias_C, mask_BxL, eps)


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def _group_norm(x_BxLxC, scale_C, bias_C, mask_BxL, eps: float):
    return _group_norm_forward(x_BxLxC, scale_C, bias_C, mask_BxL, eps)[0]


def _group_norm_forward(x_BxLxC, scale_C, bias_C, mask_BxL, eps: float):
    x = _float32(x_BxLxC)
    count = _count(x, mask_BxL)
    valid = lambda v: v if mask_BxL is None else jnp.where(mask_BxL[..., None], v, 0)
    average = lambda v: valid(v).sum((1, 2))[:, None, None] / count
    mean = average(x)  # two passes: E[x^2] - E[x]^2 cancels when the mean is large against the spread
    rate = jax.lax.rsqrt(average(jnp.square(x - mean)) + eps)
    return _affine((x - mean) * rate, scale_C, bias_C), (x_BxLxC, mean, rate, scale_C, bias_C, mask_BxL)


def _group_norm_backward(eps: float, residuals, g_BxLxC):
    x_BxLxC, mean, rate, scale_C, bias_C, mask_BxL = residuals
    unit = (_float32(x_BxLxC) - mean) * rate
    gbias_BxC, gscale_BxC = g_BxLxC.sum(1), (g_BxLxC * unit).sum(1)
    average = lambda v_BxC: (v_BxC * scale_C[None]).sum(-1)[:, None, None] / _count(unit, mask_BxL)
    through = average(gbias_BxC) + unit * average(gscale_BxC)  # what reaches x by way of the statistics
    if mask_BxL is not None:
        through = jnp.where(mask_BxL[..., None], through, 0)
    gx_BxLxC = (g_BxLxC * scale_C[None, None] - through) * rate
    gscale_C, gbias_C = (v.sum(0).astype(p.dtype) for v, p in ((gscale_BxC, scale_C), (gbias_BxC, bias_C)))
    return gx_BxLxC.astype(x_BxLxC.dtype), gscale_C, gbias_C, None


_group_norm.defvjp(_group_norm_forward, _group_norm_backward)


def _count(x_BxLxC, mask_BxL):
    """Elements that count in every row: a number, or [B, 1, 1] of at least one position."""
    _, length, features = x_BxLxC.shape
    if mask_BxL is None:
        return length * features
    return jnp.maximum(mask_BxL.sum(-1), 1).astype(x_BxLxC.dtype)[:, None, None] * features


def layer_norm(x, scale_C=None, bias_C=None, *, eps: float = 1e-5):
    """LayerNorm over the last axis (Ba et al. 2016), biased variance in two passes."""
    x = _float32(x)
    x = x - x.mean(-1, keepdims=True)
    return _affine(x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + eps), scale_C, bias_C)


def rms_norm(x, scale_C=None, *, eps: float):
    """x / sqrt(mean(x^2) + eps) over the last axis (Zhang & Sennrich 2019); implementations differ in eps."""
    x = _float32(x)
    return _affine(x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + eps), scale_C, None)


class GroupNormOne(nnx.Module):
    """`group_norm_one` with a scale and a bias a channel."""

    def __init__(self, features: int, *, eps: float = 1e-5):
        self.scale, self.bias, self.eps = nnx.Param(jnp.ones(features)), nnx.Param(jnp.zeros(features)), eps

    def __call__(self, x_BxLxC, mask_BxL=None):
        return group_norm_one(x_BxLxC, self.scale[...], self.bias[...], eps=self.eps, mask_BxL=mask_BxL)


class LayerNorm(nnx.Module):
    """`layer_norm` with a scale and, unless switched off, a bias a feature."""

    def __init__(self, features: int, *, eps: float = 1e-5, use_bias: bool = True):
        self.scale, self.eps = nnx.Param(jnp.ones(features)), eps
        self.bias = nnx.Param(jnp.zeros(features)) if use_bias else None

    def __call__(self, x):
        return layer_norm(x, self.scale[...], None if self.bias is None else self.bias[...], eps=self.eps)


class RMSNorm(nnx.Module):
    """`rms_norm` with a scale a feature."""

    def __init__(self, features: int, *, eps: float):
        self.scale, self.eps = nnx.Param(jnp.ones(features)), eps

    def __call__(self, x):
        return rms_norm(x, self.scale[...], eps=self.eps)
