"""Normalisation with statistics and output in float32 (float64 for float64 input)."""

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
    """
    x = _float32(x_BxLxC)
    if mask_BxL is None:
        average = lambda v_BxL: v_BxL.mean(-1)
    else:
        count_B = jnp.maximum(mask_BxL.sum(-1), 1).astype(x.dtype)
        average = lambda v_BxL: jnp.where(mask_BxL, v_BxL, 0).sum(-1) / count_B
    # Two passes: E[x^2] - E[x]^2 cancels when the mean is large against the spread. Channels first, then positions:
    # two short sums lose less than one sum over all L * C elements.
    x = x - average(x.mean(-1))[:, None, None]
    variance_B = average(jnp.square(x).mean(-1))
    return _affine(x * jax.lax.rsqrt(variance_B + eps)[:, None, None], scale_C, bias_C)


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
