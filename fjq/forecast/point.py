"""A point forecast: all mass on one number."""

import dataclasses

import jax
import jax.numpy as jnp

from fjq.forecast.law import Law, as_float


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Point(Law):
    """value [...]: the forecast. Its intervals have no width and its CRPS is the absolute error."""

    value: jax.Array

    @property
    def shape(self) -> tuple[int, ...]:
        return jnp.shape(self.value)

    def mean(self) -> jax.Array:
        return as_float(self.value)

    def std(self) -> jax.Array:
        return jnp.zeros_like(self.mean())

    def invert(self, p_xP: jax.Array) -> jax.Array:
        return jnp.broadcast_to(self.mean()[..., None], p_xP.shape)

    def cdf(self, x) -> jax.Array:
        x_xK, shape = self.widen(x)
        return (x_xK >= self.mean()[..., None]).astype(x_xK.dtype).reshape(shape)

    def crps(self, y) -> jax.Array:
        return jnp.abs(as_float(y) - self.mean())
