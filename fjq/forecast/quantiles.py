"""A forecast given by its values at fixed quantile levels."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from fjq.errors import InputError
from fjq.forecast.law import Law, as_float, concrete


def trapezoid_weights(levels: tuple[float, ...]) -> np.ndarray:
    """Weights [Q] that integrate over p in (0, 1) by trapezoids, constant beyond the outer levels; they sum to 1."""
    edges = np.concatenate([[0.0], (np.array(levels[1:]) + np.array(levels[:-1])) / 2, [1.0]])
    return np.diff(edges)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Quantiles(Law):
    """levels: Q increasing probabilities, kept static so that every array has the leading axes; values [..., Q].

    The law has a quantile function of straight lines between the levels, and holds the mass beyond the outer
    levels on the outer values, because nothing is known there: asking for a level beyond them is an InputError.
    Values that cross are sorted first (the rearrangement of Chernozhukov, Fernandez-Val and Galichon 2010),
    except in `crps`, which scores what was forecast.
    """

    levels: tuple[float, ...] = dataclasses.field(metadata={'static': True})
    values: jax.Array

    def __post_init__(self):
        levels = tuple(float(p) for p in np.asarray(self.levels).reshape(-1))
        if not levels or min(np.diff([0.0, *levels, 1.0])) <= 0:
            raise InputError(f'quantile levels {levels} do not increase within (0, 1)')
        object.__setattr__(self, 'levels', levels)

    @property
    def shape(self) -> tuple[int, ...]:
        return jnp.shape(self.values)[:-1]

    def _values(self) -> jax.Array:
        values = as_float(self.values)
        if values.shape[-1] != len(self.levels):
            raise InputError(f'{values.shape[-1]} quantile values for {len(self.levels)} levels')
        return values

    def _sorted(self) -> jax.Array:
        return jnp.sort(self._values(), axis=-1)

    @jax.jit
    def mean(self) -> jax.Array:
        return self._sorted() @ as_float(trapezoid_weights(self.levels))

    @jax.jit
    def std(self) -> jax.Array:
        q = self._sorted() - self.mean()[..., None]
        a, b = q[..., :-1], q[..., 1:]
        inside = ((a * a + a * b + b * b) / 3) @ as_float(np.diff(self.levels))
        return jnp.sqrt(inside + self.levels[0] * q[..., 0] ** 2 + (1 - self.levels[-1]) * q[..., -1] ** 2)

    def quantile(self, p) -> jax.Array:
        asked = concrete(p)
        if asked is not None:
            least, most = float(asked.min()), float(asked.max())
            if least < self.levels[0] - 1e-6 or most > self.levels[-1] + 1e-6:
                have = f'quantiles from {self.levels[0]:g} to {self.levels[-1]:g}'
                raise InputError(
                    f'levels {least:g} to {most:g} are asked of {have}',
                    remedy='ask for levels within them, or forecast further levels',
                )
        return super().quantile(p)

    @jax.jit
    def invert(self, p_xP: jax.Array) -> jax.Array:
        q = self._sorted()
        if len(self.levels) == 1:
            return jnp.broadcast_to(q, p_xP.shape)
        levels = as_float(np.array(self.levels))
        right = jnp.clip(jnp.searchsorted(levels, p_xP), 1, len(self.levels) - 1)
        part = jnp.clip((p_xP - levels[right - 1]) / (levels[right] - levels[right - 1]), 0, 1)
        lo, hi = jnp.take_along_axis(q, right - 1, -1), jnp.take_along_axis(q, right, -1)
        return lo + part * (hi - lo)

    @jax.jit
    def cdf(self, x) -> jax.Array:
        x_xK, shape = self.widen(x)
        q = self._sorted()[..., None, :]
        x = x_xK[..., None]
        above = (x >= q).astype(q.dtype)
        gap = q[..., 1:] - q[..., :-1]
        rising = (x - q[..., :-1]) / jnp.where(gap > 0, gap, 1)
        part = jnp.where(gap > 0, jnp.clip(rising, 0, 1), above[..., 1:])
        inside = part @ as_float(np.diff(self.levels))
        return (self.levels[0] * above[..., 0] + inside + (1 - self.levels[-1]) * above[..., -1]).reshape(shape)

    @jax.jit
    def crps(self, y) -> jax.Array:
        """The quantile CRPS: 2 x the pinball loss, summed over the levels with `trapezoid_weights`.

        The weights hold on uneven grids, sum to 1 (so a law with no width scores its absolute error when the
        levels are symmetric) and make the score proper for the quantiles that were forecast.
        """
        error = as_float(y)[..., None] - self._values()
        levels = as_float(np.array(self.levels))
        pinball = jnp.maximum(error, 0) - (1 - levels).reshape((1,) * (error.ndim - 1) + (-1,)) * error
        return 2 * pinball @ as_float(trapezoid_weights(self.levels))
