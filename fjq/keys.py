"""Random keys, folded from (seed, name, step). No key has a default and none is stored."""

import zlib

import jax


def make_key(seed: int, name: str, step: int | jax.Array = 0) -> jax.Array:
    """The key of one use: the same (seed, name, step) always gives the same numbers."""
    key = jax.random.fold_in(jax.random.key(seed), zlib.crc32(name.encode()))
    return jax.random.fold_in(key, step)
