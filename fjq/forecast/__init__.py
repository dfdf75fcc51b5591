"""Forecast laws: whatever a model predicts, as a JAX pytree with one set of methods.

    law                                  what it holds
    Point(value)                         one number
    Quantiles(levels, values)            values at fixed levels, straight lines between them
    Samples(values)                      N equally likely draws
    Atoms(values, weights)               N weighted values: the exact law of a discrete forecast
    Mixture(weights, loc, scale, df)     Student-t components; df=None or inf is Gaussian

    law.mean() std() -> [...]            law.quantile(p) -> [..., *p.shape]   law.cdf(x) -> shape of x
    law.crps(y) -> [...]                 law.interval(level) -> (lo, hi)      law.sample(key, n) -> [..., n]

`law.shape` is the shape of the leading axes `...` (rows, horizons, variables). Every array inside a law
starts with those axes, so `jax.tree.map(lambda a: a[rows], law)` selects rows and `jax.vmap` works.
Units are those of the target throughout. Methods are jitted: a call on the host compiles once a shape.
Arithmetic is float32, or float64 where JAX has it switched on.
"""

from fjq.forecast.atoms import Atoms, Samples
from fjq.forecast.combine import affine, dress, pool, to_columns, transform
from fjq.forecast.law import Law
from fjq.forecast.mixture import Mixture
from fjq.forecast.point import Point
from fjq.forecast.quantiles import Quantiles

__all__ = [
    'Atoms',
    'Law',
    'Mixture',
    'Point',
    'Quantiles',
    'Samples',
    'affine',
    'dress',
    'pool',
    'to_columns',
    'transform',
]
