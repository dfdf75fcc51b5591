"""Quantiles that cannot cross: one head a horizon, its values grown by positive steps.

Letters: H = horizons, Q = quantile levels, M = the place of the middle level.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from fjq.nn.dense import gelu, torch_uniform


def grow_from_middle(raw_xQ):
    """[..., Q] -> increasing quantiles: the middle one as it is, the others by softplus steps away from it."""
    middle = raw_xQ.shape[-1] // 2
    steps, m = jax.nn.softplus(raw_xQ), raw_xQ[..., middle : middle + 1]
    below = jnp.flip(jnp.cumsum(jnp.flip(steps[..., :middle], -1), -1), -1)
    return jnp.concatenate([m - below, m, m + jnp.cumsum(steps[..., middle + 1 :], -1)], axis=-1)


def shrink_to_middle(quantiles_xQ: np.ndarray, least: float = 1e-3) -> np.ndarray:
    """The inverse of `grow_from_middle`, float64; steps of less than `least` count as `least`."""
    middle = quantiles_xQ.shape[-1] // 2
    gaps = np.maximum(np.diff(quantiles_xQ, axis=-1), least)
    raw = gaps + np.log(-np.expm1(-gaps))  # log(exp(gap) - 1)
    return np.concatenate([raw[..., :middle], quantiles_xQ[..., middle : middle + 1], raw[..., middle:]], axis=-1)


def grow_from_base(base_x1, delta_xQ):
    """The original's: all quantiles above a base by softplus steps, the lowest by one too."""
    return base_x1 + jnp.cumsum(jax.nn.softplus(delta_xQ), -1)


class HeadDense(nnx.Module):
    """A linear layer for each horizon: kernel [H, C, F]."""

    def __init__(self, horizons: int, in_features: int, out_features: int, *, rngs: nnx.Rngs):
        self.kernel = nnx.Param(torch_uniform(rngs.params(), (horizons, in_features, out_features), in_features))
        self.bias = nnx.Param(torch_uniform(rngs.params(), (horizons, out_features), in_features))

    def __call__(self, x_BxHxC):
        return jnp.einsum('bhc,hcf->bhf', x_BxHxC, self.kernel[...]) + self.bias[...][None]


class QuantileHeads(nnx.Module):
    """[B, D] -> quantiles [B, H, Q], float32: the vector plus a learned one a horizon, then two hidden layers.

    Args:
      start_Q: the quantiles that a fresh head gives whatever its input; () = the original's head, from random weights.
    """

    def __init__(self, width: int, horizons: int, quantiles: int, hidden: int, start_Q=(), *, rngs: nnx.Rngs):
        self.horizon = nnx.Dict(embedding=nnx.Param(jax.random.normal(rngs.params(), (horizons, width))))
        make = lambda a, b: HeadDense(horizons, a, b, rngs=rngs)
        self.mlp = nnx.Dict({'0': make(width, hidden), '2': make(hidden, hidden)})
        self.base_proj = None if len(start_Q) else make(hidden, 1)
        self.delta_proj = None if len(start_Q) else make(hidden, quantiles)
        self.out_proj = make(hidden, quantiles) if len(start_Q) else None
        if len(start_Q):
            raw_Q = shrink_to_middle(np.asarray(start_Q, np.float64)).astype(np.float32)
            self.out_proj.kernel[...] = jnp.zeros((horizons, hidden, quantiles))
            self.out_proj.bias[...] = jnp.broadcast_to(jnp.asarray(raw_Q), (horizons, quantiles))

    def __call__(self, x_BxD):
        x = x_BxD.astype(jnp.float32)[:, None] + self.horizon['embedding'][...][None]
        for name in ('0', '2'):
            x = gelu(self.mlp[name](x))
        if self.out_proj is None:
            return grow_from_base(self.base_proj(x), self.delta_proj(x))
        return grow_from_middle(self.out_proj(x))
