"""Dropout from 16 random bits an element."""

import jax
import jax.numpy as jnp

from fjq.errors import InputError


def dropout(x, rate: float, key):
    """Zero each element of x with probability `rate`, scale the rest to keep the mean; key None means deterministic.

    The rate is rounded to a multiple of 2^-16 and the scale is exact for the rounded rate. Two elements share one
    32-bit word of Threefry, which is half of the cost of the default generator (46 against 85 ms for 8.4 M
    elements on two CPU cores; asking `jax.random.bits` for uint16 saves nothing).
    """
    if not 0 <= rate < 1:
        raise InputError(f'the dropout rate is {rate}', remedy='give a rate of at least 0 and below 1')
    dropped = round(rate * 2**16)
    if key is None or dropped == 0:
        return x
    dropped = min(dropped, 2**16 - 1)
    words = jax.random.bits(key, (*x.shape[:-1], -(-x.shape[-1] // 2)), jnp.uint32)
    halves = jax.lax.bitcast_convert_type(words, jnp.uint16).reshape(*x.shape[:-1], -1)
    keep = halves[..., : x.shape[-1]] >= dropped
    return jnp.where(keep, x * (2**16 / (2**16 - dropped)), 0).astype(x.dtype)
