"""Operations between laws: rescale, transform, pool, dress, write out."""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from fjq.errors import InputError
from fjq.forecast.atoms import Atoms, Samples
from fjq.forecast.law import Law, as_float
from fjq.forecast.mixture import Mixture
from fjq.forecast.point import Point
from fjq.forecast.quantiles import Quantiles


def _match(law: Law, x) -> jax.Array:
    """x of shape () or [...] against the law's arrays [..., last]."""
    x = as_float(x)
    return x if x.ndim == 0 or isinstance(law, Point) else x[..., None]


def affine(law: Law, shift, scale) -> Law:
    """The law of shift + scale * X, exact for every law. shift, scale > 0: numbers or [...]."""
    a, b = _match(law, shift), _match(law, scale)
    match law:
        case Point(value):
            return Point(a + b * value)
        case Quantiles(levels, values):
            return Quantiles(levels, a + b * values)
        case Samples(values):
            return Samples(a + b * values)
        case Atoms(values, weights):
            return Atoms(a + b * values, weights)
        case Mixture(weights, loc, spread, df):
            return Mixture(weights, a + b * loc, b * spread, df)
    raise InputError(f'{type(law).__name__} is not a forecast law')


def transform(law: Law, fn: Callable) -> Law:
    """The law of fn(X) for an increasing elementwise fn: exact for Point, Quantiles (at its levels), Samples, Atoms.

    The mean of the result is not fn(mean). A Mixture leaves its family under all but `affine`: draw Samples first.
    """
    match law:
        case Point(value):
            return Point(fn(as_float(value)))
        case Quantiles(levels, values):
            return Quantiles(levels, fn(as_float(values)))
        case Samples(values):
            return Samples(fn(as_float(values)))
        case Atoms(values, weights):
            return Atoms(fn(as_float(values)), weights)
    raise InputError(
        f'a {type(law).__name__} forecast has no exact transform', remedy='draw samples, or take quantiles, first'
    )


@functools.partial(jax.jit, static_argnames='count')
def pool(law: Law, index, count: int, weight=None) -> Law:
    """One forecast an index from the rows that share it: the weighted mean of their quantile functions.

    So the mean of the pooled law is the mean of the means, its width the mean of the widths, and rows that agree
    keep their law (Vincent averaging; the union of the rows would widen it by their disagreement).
    Samples are averaged in order of size. Atoms and mixtures become equally heavy atoms at the levels
    (i - 1/2) / N, N the number of atoms, or 101 for mixtures: exact for equal weights.

    Args:
      index: [R] int, the leading axis of the law; negative = the row takes no part.
      count: number of indices; an index that no row has gives NaN.
      weight: [R] >= 0, or None for equal weights.
    """
    index = jnp.asarray(index)
    weight = jnp.ones(index.shape) if weight is None else as_float(weight)
    weight = jnp.where(index < 0, 0, weight)
    index = jnp.where(index < 0, 0, index)
    total = jax.ops.segment_sum(weight, index, count)

    def average(x_Rx: jax.Array) -> jax.Array:
        tail = (1,) * (x_Rx.ndim - 1)
        kept = jnp.where(weight.reshape(-1, *tail) > 0, as_float(x_Rx), 0)
        summed = jax.ops.segment_sum(kept * weight.reshape(-1, *tail), index, count)
        return summed / total.reshape(-1, *tail)

    match law:
        case Point(value):
            return Point(average(value))
        case Quantiles(levels, values):
            return Quantiles(levels, average(jnp.sort(values, axis=-1)))
        case Samples(values):
            return Samples(average(jnp.sort(values, axis=-1)))
        case Atoms() | Mixture():
            n = law.values.shape[-1] if isinstance(law, Atoms) else 101
            values = average(law.quantile((np.arange(n) + 0.5) / n))
            return Atoms(values, jnp.ones_like(values))
    raise InputError(f'{type(law).__name__} is not a forecast law')


@functools.partial(jax.jit, static_argnames='scale')
def dress(point: Point, errors, scale: str, weight=None) -> Atoms:
    """A point forecast with the errors that its kind made before: honest intervals for a model without a law.

    The law is `point * exp(e)` (scale='log', e = log(target / forecast)) or `point + e` (scale='level',
    e = target - forecast) for the past errors e, so a past bias is corrected as well.

    Args:
      errors: [..., E] or [H, E] or [E], out-of-sample errors whose labels had ended by the time of the row.
      weight: as errors, which of them a row may use and how much (0 = not yet known); None = all alike.
    """
    value = point.mean()[..., None]
    errors = as_float(errors)
    shape = jnp.broadcast_shapes(value.shape, errors.shape)
    errors = jnp.broadcast_to(errors, shape)
    weight = jnp.ones(shape) if weight is None else jnp.broadcast_to(as_float(weight), shape)
    if scale == 'log':
        return Atoms(value * jnp.exp(errors), weight)
    if scale == 'level':
        return Atoms(value + errors, weight)
    raise InputError(f'the scale {scale!r} of forecast errors is not known', remedy="choose 'log' or 'level'")


def to_columns(law: Law, levels: Sequence[float]) -> dict[str, np.ndarray]:
    """NumPy columns `mean`, `q05`, `q50`, `q97.5` ... of shape [...], for tables and parquet files."""
    columns = {'mean': np.asarray(law.mean())}
    quantiles = np.asarray(law.quantile(np.asarray(levels, np.float64)))
    for i, level in enumerate(levels):
        whole, _, part = f'{round(100 * level, 6):g}'.partition('.')
        columns[f'q{whole:0>2}' + (f'.{part}' if part else '')] = quantiles[..., i]
    return columns
