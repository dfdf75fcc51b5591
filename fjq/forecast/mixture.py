"""A forecast that is a mixture of Student-t or Gaussian components, kept exact."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtri

from fjq.forecast import student
from fjq.forecast.law import Law, as_float

_REACH = 40.0  # sinh(40) = 1e17 scales on either side of the centre
_STEPS = 60
_PARTS = np.linspace(-1, 1, 33)  # trapezoid nodes of the expectation over the narrower component


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Mixture(Law):
    """C components: weights (divided by their sum), loc, scale > 0 and degrees of freedom df, each [..., C].

    df=None makes every component Gaussian and every formula closed; an infinite entry of df is Gaussian too.
    Means and CRPS need df > 1 and are NaN below; standard deviations need df > 2 and are infinite below.
    """

    weights: jax.Array
    loc: jax.Array
    scale: jax.Array
    df: jax.Array | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return jnp.shape(self.loc)[:-1]

    def _parts(self) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array | None]:
        w = as_float(self.weights)
        df = None if self.df is None else as_float(self.df)
        return w / w.sum(-1, keepdims=True), as_float(self.loc), as_float(self.scale), df

    @jax.jit
    def mean(self) -> jax.Array:
        w, loc, _, df = self._parts()
        return (w * (loc if df is None else jnp.where(df > 1, loc, jnp.nan))).sum(-1)

    @jax.jit
    def std(self) -> jax.Array:
        w, loc, scale, df = self._parts()
        stretch = 1.0
        if df is not None:
            df = jnp.minimum(df, student.GAUSSIAN)
            stretch = jnp.where(df > 2, df / jnp.where(df > 2, df - 2, 1), jnp.inf)
        centre = (w * loc).sum(-1, keepdims=True)
        return jnp.sqrt((w * (scale**2 * stretch + (loc - centre) ** 2)).sum(-1))

    def _expand(self):
        """The parts with an axis for several points: [..., 1, C]."""
        return (None if a is None else a[..., None, :] for a in self._parts())

    def _tails(self, x_xK: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """P(X <= x), P(X > x) and the density at x, each [..., K]."""
        w, loc, scale, df = self._expand()
        z = (x_xK[..., None] - loc) / scale
        below, above = student.tails(z, df)
        return (w * below).sum(-1), (w * above).sum(-1), (w * student.pdf(z, df) / scale).sum(-1)

    @jax.jit
    def cdf(self, x) -> jax.Array:
        x_xK, shape = self.widen(x)
        return self._tails(x_xK)[0].reshape(shape)

    @jax.jit
    def log_prob(self, y) -> jax.Array:
        """The log density at y [...], in nats."""
        w, loc, scale, df = self._parts()
        terms = student.log_pdf((as_float(y)[..., None] - loc) / scale, df) - jnp.log(scale)
        return jax.nn.logsumexp(terms, axis=-1, b=w)

    @jax.jit
    def invert(self, p_xP: jax.Array) -> jax.Array:
        """Newton steps on the logarithm of the smaller tail, kept inside a bracket; |dx| < 1e-6 of the spread.

        The quantile lies between those of the components, and theirs between the Gaussian and the Cauchy quantile
        (df >= 1). Steps are taken in u, x = centre + unit sinh(u), where heavy tails are short.
        """
        w, loc, scale, df = self._expand()
        centre = (w * loc).sum(-1)
        unit = scale.max(-1) + loc.max(-1) - loc.min(-1)
        ends = loc + scale * ndtri(p_xP)[..., None]
        if df is not None:
            ends = jnp.concatenate([ends, loc + scale * jnp.tan(np.pi * (p_xP - 0.5))[..., None]], -1)
        lo = jnp.arcsinh((ends.min(-1) - centre) / unit) - 1e-3
        hi = jnp.arcsinh((ends.max(-1) - centre) / unit) + 1e-3
        if df is not None:
            heavy = (df < 1).any(-1)
            lo, hi = jnp.where(heavy, -_REACH, lo), jnp.where(heavy, _REACH, hi)

        def step(state):
            u, lo, hi, _, count = state
            below, above, density = self._tails(centre + unit * jnp.sinh(u))
            short = jnp.where(p_xP < 0.5, below < p_xP, above > 1 - p_xP)  # by the tail that keeps its digits
            lo, hi = jnp.where(short, u, lo), jnp.where(short, hi, u)
            excess = jnp.where(p_xP < 0.5, below * jnp.log(below / p_xP), -above * jnp.log(above / (1 - p_xP)))
            newton = u - excess / (density * unit * jnp.cosh(u))
            # Between far modes Newton can wander: every third step that is not close halves the bracket.
            inside = (newton > lo) & (newton < hi) & ((count % 3 != 2) | (jnp.abs(newton - u) < 1e-3))
            return jnp.where(inside, newton, (lo + hi) / 2), lo, hi, u, count + 1

        def moving(state):
            u, _, _, before, count = state
            return (count < _STEPS) & jnp.any(jnp.abs(u - before) * jnp.cosh(u) > 1e-6)

        state = ((lo + hi) / 2, lo, hi, jnp.full_like(lo, jnp.inf), jnp.int32(0))
        u = jax.lax.while_loop(moving, step, state)[0]
        return centre + unit * jnp.sinh(u)

    @jax.jit
    def crps(self, y) -> jax.Array:
        """E|X - y| - E|X - X'| / 2, all closed but for pairs of different Student-t components.

        Single components: Jordan, Krueger and Lerch 2019; Gaussian pairs: Grimit et al. 2006; Student-t pairs:
        the closed E|x - wide| averaged over the narrower component by a trapezoid rule (error about 1e-6 of the
        scale for df above 1.4). C (C - 1) / 2 pairs a row: many components cost time.
        """
        w, loc, scale, df = self._parts()
        y = as_float(y)[..., None]
        score = (w * scale * student.mean_distance((y - loc) / scale, df)).sum(-1)
        score = score - (w**2 * scale * student.half_mean_difference(df)).sum(-1)
        i, j = np.array(list(itertools.combinations(range(w.shape[-1]), 2)), int).reshape(-1, 2).T
        if not i.size:
            return score
        gap = loc[..., i] - loc[..., j]
        if df is None:
            spread = jnp.hypot(scale[..., i], scale[..., j])
            distance = spread * student.mean_distance(gap / spread, None)
        else:
            distance = _pair_distance(gap, (scale[..., i], df[..., i]), (scale[..., j], df[..., j]))
        return score - (w[..., i] * w[..., j] * distance).sum(-1)

    @functools.partial(jax.jit, static_argnames='n')
    def sample(self, key, n: int) -> jax.Array:
        """n draws a row: a component each, then a draw of it."""
        w, loc, scale, df = self._parts()
        which_key, draw_key = jax.random.split(key)
        mass = jnp.cumsum(w, -1)[..., None, :]
        u = jax.random.uniform(which_key, self.shape + (n, 1))
        which = jnp.minimum((u >= mass).sum(-1), w.shape[-1] - 1)
        take = lambda a: jnp.take_along_axis(a, which, -1)
        if df is None:
            draw = jax.random.normal(draw_key, which.shape)
        else:
            draw = jax.random.t(draw_key, take(jnp.minimum(df, 1e7)), which.shape)
        return take(loc) + take(scale) * draw

    def trimmed_mean(self, lower: float, upper: float) -> jax.Array:
        """The mean of the quantile function over lower < p < upper: (0.1, 0.9) trims a tenth at both ends."""
        return (self._below(upper) - self._below(lower)) / (upper - lower)

    def _below(self, p: float) -> jax.Array:
        """The integral of the quantile function from 0 to p."""
        return self.mean() * p if p in (0, 1) else self._below_inner(p)

    @jax.jit
    def _below_inner(self, p: float) -> jax.Array:
        """For 0 < p < 1, one program for all of them."""
        w, loc, scale, df = self._parts()
        q = self.quantile(p)[..., None]
        z = (q - loc) / scale
        # Written so that its slope in q is zero at the quantile: an error of q enters squared.
        below = w * ((loc - q) * student.tails(z, df)[0] + scale * student.first_moment_below(z, df))
        return p * q[..., 0] + below.sum(-1)


def _pair_distance(gap, one, other) -> jax.Array:
    """E|gap + s1 T1 - s2 T2| of pairs (scale, df), integrating over the narrower of the two."""
    swap = one[0] > other[0]
    narrow = tuple(jnp.where(swap, b, a) for a, b in zip(one, other, strict=True))
    wide = tuple(jnp.where(swap, a, b) for a, b in zip(one, other, strict=True))

    def add(total, part):
        z, weight = student.nodes(narrow[1], part)  # both laws are symmetric: the sign of the swap does not matter
        return total + weight * student.mean_distance((gap + narrow[0] * z) / wide[0], wide[1]), None

    total, _ = jax.lax.scan(add, jnp.zeros_like(gap), as_float(_PARTS))
    return wide[0] * total * (_PARTS[1] - _PARTS[0])
