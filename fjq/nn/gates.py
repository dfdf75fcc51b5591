"""Gates that mix a layer's input with its output."""

import jax
from flax import nnx

from fjq.nn.dense import Dense
from fjq.nn.norm import LayerNorm


class GatedNorm(nnx.Module):
    """(1 - g) x + g LN(u) with g = sigmoid(W x + b): a highway (Srivastava et al. 2015) around a normalised layer."""

    def __init__(self, width: int, *, rngs: nnx.Rngs):
        self.gate, self.norm = Dense(width, width, rngs=rngs), LayerNorm(width)

    def __call__(self, x, u):
        """x: the layer's input, u: its output, both [..., D]; float32."""
        return x + jax.nn.sigmoid(self.gate(x)) * (self.norm(u) - x)
