"""What every forecast law can do."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from fjq.errors import InputError


def as_float(x) -> jax.Array:
    """An array of float32 or wider: heads may compute in bfloat16, laws never do."""
    x = jnp.asarray(x)
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def concrete(p) -> np.ndarray | None:
    """The values of p, or None while JAX traces and there are none yet."""
    try:
        return np.asarray(p)
    except jax.errors.TracerArrayConversionError:
        return None


def require_probability(p) -> None:
    """Refuses levels outside (0, 1) where they can be read."""
    values = concrete(p)
    if values is not None and not np.all((values > 0) & (values < 1)):
        raise InputError(f'the level {p} is not between 0 and 1', remedy='give probabilities such as 0.05')


class Law:
    """A univariate distribution for every entry of the leading axes. See the table in `fjq.forecast`."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the leading axes."""
        raise AttributeError('shape')

    def quantile(self, p) -> jax.Array:
        """The p-quantile. p: a number or an array of probabilities, the same for all rows -> [..., *p.shape]."""
        require_probability(p)
        return self._quantile(jnp.asarray(p))

    @jax.jit
    def _quantile(self, p) -> jax.Array:
        p = as_float(p)
        p_xP = jnp.broadcast_to(p.reshape((1,) * len(self.shape) + (-1,)), self.shape + (p.size,))
        return self.invert(p_xP).reshape(self.shape + p.shape)

    def interval(self, level: float) -> tuple[jax.Array, jax.Array]:
        """The central interval that should hold a share `level` of the outcomes: (lo, hi), each [...]."""
        require_probability(level)
        return self.quantile((1 - level) / 2), self.quantile((1 + level) / 2)

    @functools.partial(jax.jit, static_argnames='n')
    def sample(self, key, n: int) -> jax.Array:
        """n independent draws a row -> [..., n], by inversion of the distribution function."""
        # 1 - u lies in (0, 1]: a draw of exactly 0 would ask an unbounded law for minus infinity.
        u = 1 - jax.random.uniform(key, self.shape + (n,), minval=2.0**-24)
        return self.invert(u)

    def widen(self, x) -> tuple[jax.Array, tuple[int, ...]]:
        """x of shape [...], [..., *extra] or () -> ([..., K], the shape of the answer)."""
        x = as_float(x)
        shape = self.shape if x.ndim == 0 else x.shape
        if shape[: len(self.shape)] != self.shape:
            raise InputError(f'values of shape {shape} do not fit a forecast of shape {self.shape}')
        return jnp.broadcast_to(x, shape).reshape(self.shape + (-1,)), shape
