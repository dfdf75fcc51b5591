"""Pre-norm transformer blocks over prefix-padded sequences, stacked and scanned, with a choice of what is kept.

Letters: N = sequences, T = their slots, D = width, L = layers, K = heads.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from fjq.errors import InputError
from fjq.nn.attention import attend
from fjq.nn.chains import in_halves
from fjq.nn.dense import Dense, dense, gelu
from fjq.nn.dropout import dropout
from fjq.nn.norm import LayerNorm

# What a layer keeps for the backward pass: everything; what matrix products and attention gave (cuDNN's attention runs
# again all the same: its backward pass reads sums that no name covers); only its input.
POLICIES = ('none', 'dots', 'block')
GROUP_BYTES = 12 * 2**20  # of attention weights that a chain on a CPU computes at a time


class Block(nnx.Module):
    """y = x + attention(LN x), z = y + W2 gelu(W1 LN y): bidirectional, no positions (Xiong et al. 2020).

    Dropout falls on both residual branches and inside the feed-forward part; the original also drops attention
    weights, which no fused kernel does.
    """

    def __init__(self, width: int, heads: int, hidden: int, rate: float, *, dtype, rngs: nnx.Rngs):
        if width % heads:
            raise InputError(f'{heads} heads for a width of {width}', remedy='choose a width that they divide')
        make = lambda a, b: Dense(a, b, dtype=dtype, rngs=rngs)
        self.norm1, self.norm2 = LayerNorm(width), LayerNorm(width)
        self.q_proj, self.k_proj, self.v_proj = (make(width, width) for _ in range(3))
        self.out_proj = make(width, width)
        self.ff = nnx.Dict({'0': make(width, hidden), '3': make(hidden, width)})
        self.heads, self.rate, self.dtype = heads, rate, dtype

    def __call__(self, x_NxTxD, lengths_N, key):
        """lengths_N: the valid slots, which come first; None = all. The result keeps the dtype of x.

        Slots beyond the length get numbers that mean nothing, and no valid slot sees them.
        """
        keys = (None,) * 3 if key is None else jax.random.split(key, 3)
        x = x_NxTxD + dropout(self._attend(self.norm1(x_NxTxD), lengths_N), self.rate, keys[0]).astype(x_NxTxD.dtype)
        h = dropout(gelu(self.ff['0'](self.norm2(x))), self.rate, keys[1])
        return x + dropout(self.ff['3'](h), self.rate, keys[2]).astype(x.dtype)

    def _attend(self, x_NxTxD, lengths_N):
        parts = self.q_proj, self.k_proj, self.v_proj  # one product for all three
        kernel = jnp.concatenate([p.kernel[...] for p in parts], axis=1)
        bias = jnp.concatenate([p.bias[...] for p in parts])
        qkv_NxTx3D = dense(x_NxTxD.astype(self.dtype), kernel, bias)
        return self.out_proj(checkpoint_name(attend_by_groups(qkv_NxTx3D, self.heads, lengths_N), 'attention'))


def attend_by_groups(qkv_NxTx3D, heads: int, lengths_N):
    """`attend` to queries, keys and values that lie side by side -> [N, T, D]; on a CPU a few sequences at a time, and
    again in the backward pass: half of the time for a gradient."""

    def whole(qkv, lengths):
        q, k, v = (x.reshape(*x.shape[:2], heads, -1) for x in jnp.split(qkv, 3, axis=-1))
        return attend(q, k, v, kv_lengths_B=lengths).reshape(*qkv.shape[:2], -1)

    return map_groups(jax.checkpoint(whole), whole, qkv_NxTx3D, lengths_N, heads)


def map_groups(on_cpu, elsewhere, x_NxTxC, lengths_N, heads: int):
    """A function of (x, lengths); on a CPU of a few sequences at a time, in two chains whose attention weights stay in
    its cache."""
    count, slots, _ = x_NxTxC.shape
    most = max(1, GROUP_BYTES // (4 * heads * slots * slots))
    if not isinstance(count, int) or count <= most:  # an exported program has any number of sequences
        return elsewhere(x_NxTxC, lengths_N)
    group = max(d for d in range(1, 2 * most + 1) if count % d == 0)

    def by_groups(*arrays):
        cut = jax.tree.map(lambda x: x.reshape(count // group, group, *x.shape[1:]), arrays)
        return jax.lax.map(lambda item: in_halves(on_cpu)(*item), cut).reshape(count, slots, -1)

    return jax.lax.platform_dependent(x_NxTxC, lengths_N, cpu=by_groups, default=elsewhere)


def stack_layers(count: int, make: Callable[[], nnx.Module]) -> nnx.Module:
    """`count` modules of one shape as one, whose parameters have a leading axis of layers."""
    parts = [nnx.split(make()) for _ in range(count)]
    return nnx.merge(parts[0][0], jax.tree.map(lambda *leaves: jnp.stack(leaves), *(state for _, state in parts)))


def run_layers(layers: nnx.Module, x_NxTxD, lengths_N, key, *, remat: str):
    """The stacked blocks one after the other. On a CPU, where nothing is dropped, a few sequences go through all of
    them at a time, so that what lies between the products never leaves the cache."""
    run = partial(_run_layers, layers, remat=remat)
    if key is not None:
        return run(x_NxTxD, lengths_N, key)
    on_cpu = partial(_run_layers, layers, key=None, remat='none')
    return map_groups(on_cpu, partial(run, key=None), x_NxTxD, lengths_N, layers.heads)


def _run_layers(layers: nnx.Module, x_NxTxD, lengths_N, key, *, remat: str):
    """Compiled once (`lax.scan`); with everything kept they are unrolled, because a scan would copy all that is kept
    into stacks."""
    graph, state = nnx.split(layers)

    def run(x, item):
        layer, index = item
        k = None if key is None else jax.random.fold_in(key, index)
        return nnx.merge(graph, layer)(x, lengths_N, k), None

    if remat == 'dots':
        names = jax.checkpoint_policies.save_only_these_names('attention')
        dots = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
        run = jax.checkpoint(
            run, policy=jax.checkpoint_policies.save_from_both_policies(dots, names), prevent_cse=False
        )
    elif remat == 'block':
        run = jax.checkpoint(run, prevent_cse=False)
    elif remat != 'none':
        raise InputError(f'unknown rematerialisation {remat!r}', remedy='choose one of ' + ', '.join(POLICIES))
    count = jax.tree.leaves(state)[0].shape[0]
    return jax.lax.scan(run, x_NxTxD, (state, jnp.arange(count)), unroll=count if remat == 'none' else 1)[0]
