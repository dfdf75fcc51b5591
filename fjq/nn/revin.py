"""Normalisation of every variable of a window by statistics of its own bars (RevIN, Kim et al. 2022)."""

from typing import NamedTuple

import jax.numpy as jnp

ROUNDING = 1e-6  # a spread below this part of the values is float32 rounding: the variable is constant


class Standardized(NamedTuple):
    """x_BxTxV: mean 0 and spread 1 over the valid bars, 0 elsewhere. spread_BxV: what was divided out."""

    x_BxTxV: jnp.ndarray
    spread_BxV: jnp.ndarray


def is_valid(length_B, slots: int):
    """Lengths of windows whose valid bars come first -> [B, T] bool, True = valid."""
    return jnp.arange(slots)[None] < length_B[:, None]


def standardize(x_BxTxV, valid_BxT, *, floor: float | None = None) -> Standardized:
    """(x - mean) / spread of each variable over the valid bars, population spread, float32.

    The last valid value is taken off first: the spread of a log price within a day is a ten-thousandth of its level,
    and squares of the level would drown it. Whatever invalid slots hold changes nothing.

    Args:
      floor: a variable whose spread is no more is only centred; by default ROUNDING times its last value.
    """
    valid = valid_BxT[..., None]
    count_Bx1 = jnp.maximum(valid_BxT.sum(1, keepdims=True), 1).astype(jnp.float32)
    last_B = jnp.argmax(jnp.where(valid_BxT, jnp.arange(valid_BxT.shape[1])[None], -1), axis=1)
    last_BxV = jnp.take_along_axis(x_BxTxV, last_B[:, None, None], axis=1)[:, 0].astype(jnp.float32)
    last_BxV = jnp.where(valid_BxT.any(1, keepdims=True), last_BxV, 0)
    x = jnp.where(valid, x_BxTxV.astype(jnp.float32) - last_BxV[:, None], 0)
    x = jnp.where(valid, x - (x.sum(1) / count_Bx1)[:, None], 0)
    variance_BxV = jnp.square(x).sum(1) / count_Bx1
    least_BxV = ROUNDING * jnp.abs(last_BxV) if floor is None else jnp.full_like(last_BxV, floor)
    varies = variance_BxV > jnp.square(least_BxV)
    spread_BxV = jnp.sqrt(jnp.where(varies, variance_BxV, 1))
    return Standardized(x / spread_BxV[:, None], jnp.where(varies, spread_BxV, 0))


def revin(x_BxTxV, gamma_V, beta_V):
    """The original's: mean and unbiased deviation over all slots, padding too, 1e-5 added to the deviation."""
    x = x_BxTxV.astype(jnp.float32)
    x = x - x.mean(1, keepdims=True)
    deviation = jnp.sqrt(jnp.square(x).sum(1, keepdims=True) / (x.shape[1] - 1))
    return gamma_V[None, None] * x / (deviation + 1e-5) + beta_V[None, None]
