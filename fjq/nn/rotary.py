"""Rotary position embedding (Su et al. 2021), the two halves of a head as the two coordinates of its planes."""

import jax.numpy as jnp
import ml_dtypes
import numpy as np


def make_table(length: int, size: int, *, base: float = 10_000.0, rounded: bool = False) -> tuple[np.ndarray, ...]:
    """cos and sin [length, size / 2] of position x base^(-2 i / size), in float32 throughout.

    Args:
      size: of a head, even.
      rounded: to bfloat16 and back, as nanochat and what was made of it keep the table.
    """
    rate = np.float32(1) / np.float32(base) ** (np.arange(0, size, 2, dtype=np.float32) / np.float32(size))
    angle = np.arange(length, dtype=np.float32)[:, None] * rate[None]
    table = np.cos(angle), np.sin(angle)
    return tuple(t.astype(ml_dtypes.bfloat16).astype(np.float32) for t in table) if rounded else table


def rotate(x, cos, sin):
    """Turns each plane (x[i], x[i + H / 2]) by its angle -> the shape of x, float32.

    Args:
      x: [..., T, N, H].
      cos, sin: [T, H / 2], or [B, T, H / 2] for x of four axes. Negate sin to turn the other way.
    """
    cos, sin = (_beside(t, x.ndim) for t in (cos, sin))
    a, b = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1)


def _beside(table, ndim: int):
    table = jnp.expand_dims(jnp.asarray(table), -2)  # the heads
    return table.reshape((1,) * (ndim - table.ndim) + table.shape)
