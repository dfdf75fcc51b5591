"""The standard Student-t distribution in single precision, from df of about 1 to the Gaussian (df=None or inf).

`jax.scipy.special.betainc` is off by 5e-4 in float32, and by 0.07 at df 1e6. Here, with
s(z) = sqrt(df log(1 + z^2 / df)), the density is c exp(-s^2 / 2) h(s / sqrt(df)) ds, h(u) = u / sqrt(1 - exp(-u^2)):
nearly Gaussian and smooth for every df, so that 16 Gauss-Legendre nodes give the tail to about 1e-6 of itself.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtr

from fjq.forecast.law import as_float

GAUSSIAN = 1e12  # from here on a Student-t equals the Gaussian in float32; df=inf is computed with it
_NODES, _NODE_WEIGHTS = np.polynomial.legendre.leggauss(16)
_CUT = 16.0  # the tail integral stops where exp(-s^2 / 2) has fallen by exp(-16)


def _df(df) -> jax.Array:
    return jnp.minimum(as_float(df), GAUSSIAN)


def density_constant(df) -> jax.Array:
    """Gamma((df + 1) / 2) / (Gamma(df / 2) sqrt(pi df)), without the cancellation of two log-gammas."""
    x = _df(df) / 2
    ratio = jnp.ones_like(x)
    for k in range(8):  # up the recurrence to where the series of Gamma(y + 1/2) / (Gamma(y) sqrt(y)) holds
        ratio = ratio * (x + k) / (x + k + 0.5)
    y = 1 / (x + 8)
    series = 1 + y * (-1 / 8 + y * (1 / 128 + y * (5 / 1024 - y * 21 / 32768)))
    return ratio * series * jnp.sqrt((x + 8) / (2 * np.pi * x))


def log_pdf(z, df) -> jax.Array:
    if df is None:
        return -z * z / 2 - np.log(2 * np.pi) / 2
    df = _df(df)
    return jnp.log(density_constant(df)) - (df + 1) / 2 * jnp.log1p(z * z / df)


def pdf(z, df) -> jax.Array:
    return jnp.exp(log_pdf(z, df))


def sf(z, df) -> jax.Array:
    """P(T > z) for z >= 0, to a relative 1e-6."""
    if df is None:
        return ndtr(-z)
    df = _df(df)
    s2 = df * jnp.log1p(jnp.minimum(z, 1e18) ** 2 / df)  # z^2 must stay finite
    s = jnp.sqrt(s2)
    reach = 2 * _CUT / (s + jnp.sqrt(s2 + 2 * _CUT))

    def add(total, node):  # a loop: all nodes at once would be 16 arrays of the size of z, far beyond the caches
        v = reach * node[0]
        u2 = (s + v) ** 2 / df
        return total + node[1] * jnp.exp(-v * (s + v / 2)) * jnp.sqrt(u2 / -jnp.expm1(-u2)), None

    total, _ = jax.lax.scan(add, jnp.zeros_like(s), as_float(np.stack([(_NODES + 1) / 2, _NODE_WEIGHTS / 2], 1)))
    return density_constant(df) * jnp.exp(-s2 / 2) * reach * total


def tails(z, df) -> tuple[jax.Array, jax.Array]:
    """(P(T <= z), P(T > z)), each accurate where it is small."""
    tail = sf(jnp.abs(z), df)
    return jnp.where(z < 0, tail, 1 - tail), jnp.where(z < 0, 1 - tail, tail)


def first_moment_below(z, df) -> jax.Array:
    """E[T; T <= z], which is -inf for df <= 1."""
    if df is None:
        return -pdf(z, df)
    df = _df(df)
    moment = -pdf(z, df) * (df + z * z) / jnp.where(df > 1, df - 1, 1)
    return jnp.where(df > 1, moment, -jnp.inf)


def mean_distance(z, df) -> jax.Array:
    """E|T - z|, infinite for df <= 1."""
    z = as_float(z)
    return jnp.abs(z) * (1 - 2 * sf(jnp.abs(z), df)) - 2 * first_moment_below(z, df)


def half_mean_difference(df) -> jax.Array | float:
    """E|T - T'| / 2 of two independent draws (Jordan, Krueger and Lerch 2019, appendix A).

    The formula 2 sqrt(df) / (df - 1) B(1/2, df - 1/2) / B(1/2, df / 2)^2, with B(1/2, n / 2) = 1 / (c(n) sqrt(n)).
    """
    if df is None:
        return 1 / np.sqrt(np.pi)
    df = _df(df)
    twice = jnp.where(df > 1, 2 * df - 1, 1)
    ratio = density_constant(df) ** 2 / (density_constant(twice) * jnp.sqrt(twice))
    return jnp.where(df > 1, 2 * df * jnp.sqrt(df) / jnp.where(df > 1, df - 1, 1) * ratio, jnp.inf)


def nodes(df, part: float) -> tuple[jax.Array, jax.Array]:
    """Node and weight of a trapezoid rule for E[g(T)], g growing at most linearly: part in [-1, 1], times the step.

    In s(z) the integrand falls as exp(-s^2 (1 - 1/df) / 2) and the rule converges geometrically. It reaches far
    enough from df of about 1.4.
    """
    df = _df(df)
    reach = jnp.sqrt(jnp.minimum(2 * _CUT * df / jnp.maximum(df - 1, 1e-3), 80 * df))
    s = part * reach
    u2 = s * s / df
    z = jnp.sign(s) * jnp.sqrt(df * jnp.expm1(u2))
    slope = jnp.where(u2 > 0, jnp.sqrt(u2 / -jnp.expm1(-jnp.where(u2 > 0, u2, 1))), 1)
    return z, density_constant(df) * jnp.exp(-s * s / 2) * slope * reach
