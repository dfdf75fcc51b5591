"""A sequence as one vector, by attention of one learned query."""

import jax
import jax.numpy as jnp
from flax import nnx

from fjq.nn.dense import Dense


class AttentionPool(nnx.Module):
    """softmax(q . K z / sqrt(D)) V z over the valid slots, with K and V folded out of the sequence.

    q . (W_k z + b_k) = (W_k^T q) . z + a constant that softmax ignores, and sum_t a_t (W_v z_t + b_v) =
    W_v sum_t a_t z_t + b_v: exact, and two products of [D, D] a slot less.
    """

    def __init__(self, width: int, *, rngs: nnx.Rngs):
        self.query = nnx.Param(0.02 * jax.random.normal(rngs.params(), (width,)))
        self.k_proj, self.v_proj = (Dense(width, width, rngs=rngs) for _ in range(2))

    def __call__(self, z_NxTxD, valid_NxT):
        """[N, T, D] -> float32 [N, D]; zeros where no slot is valid."""
        z = z_NxTxD.astype(jnp.float32)
        direction_D = self.k_proj.kernel[...] @ self.query[...] * z.shape[-1] ** -0.5
        score_NxT = jnp.where(valid_NxT, (z * direction_D[None, None]).sum(-1), -1e30)
        weight_NxT = jnp.where(valid_NxT, jax.nn.softmax(score_NxT, axis=-1), 0)
        pooled_NxD = self.v_proj((weight_NxT[..., None] * jnp.where(valid_NxT[..., None], z, 0)).sum(1))
        return jnp.where(valid_NxT.any(1, keepdims=True), pooled_NxD, 0)
