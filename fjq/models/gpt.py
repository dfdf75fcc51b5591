"""A GPT on tokens: pre-norm blocks of rotary attention with normalised queries and keys, and a squared ReLU.

    x += proj(attention(rms(x))), x += proj(relu(fc(rms(x)))^2), logits = head(rms(x))      nothing has a bias

Norms have no weights. Turned first, then normalised, queries meet keys of fewer heads (grouped queries). The parameter
tree has the original's names: `wte`, `h.{i}.attn.{c_q,c_k,c_v,c_proj}`, `h.{i}.mlp.{c_fc,c_proj}`, `lm_head`.

One set of weights runs in three ways, which agree: over whole sequences (`hidden`), over P continuations of a prompt
at once (`branch`), and over the next token of each (`step`). In the last two a prompt is run once and read by all its
continuations: its keys and values are never copied.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from fjq.errors import InputError
from fjq.nn.attention import attend
from fjq.nn.chains import side_by_side
from fjq.nn.dense import dense
from fjq.nn.dropout import dropout
from fjq.nn.norm import rms_norm
from fjq.nn.rotary import make_table, rotate

EPS = float(np.finfo(np.float32).eps)  # of every norm, as in PyTorch where none is given
TIED_SCALE = 0.02  # of an embedding that is the head too; alone it is drawn with 1


@dataclasses.dataclass(kw_only=True)
class Gpt:
    """Sizes and options; the defaults are for some hundred thousand tokens."""

    vocabulary: int = 128  # tokens; must be the tokenizer's
    marks: int = 0  # ids after those of the vocabulary that are read and never written; as many as data.marks
    length: int = 256  # positions: the longest sequence
    layers: int = 4
    heads: int = 4
    kv_heads: int = 0  # heads of keys and values; 0 = as many as heads
    width: int = 128  # of the residual stream
    dropout: float = 0.1  # of the embedding and of what each layer adds
    softcap: float = 0.0  # logits become softcap tanh(logits / softcap); 0 = off
    embedding_norm: bool = False  # norm right after the embedding
    tied: bool = False  # the head is the embedding
    rope_base: float = 10_000.0
    rope_rounded: bool = False  # the table of angles in bfloat16, as the original keeps it
    padded_logits: bool = False  # ids that only pad the vocabulary stay in the softmax, as in the original
    dtype: str = 'float32'  # of matrix products; norms, softmax and the residual stream stay float32

    @property
    def padded(self) -> int:
        """Rows of the embedding: the vocabulary and the marks up to a multiple of 64."""
        return -(-(self.vocabulary + self.marks) // 64) * 64

    def check(self) -> None:
        """Raises InputError where sizes make no sense."""
        for name in ('vocabulary', 'length', 'layers', 'heads', 'width'):
            if getattr(self, name) < 1:
                raise InputError(f'task.gpt.{name} is {getattr(self, name)}', remedy='make it 1 or more')
        if self.width % (2 * self.heads):
            raise InputError(
                f'task.gpt.width is {self.width} for {self.heads} heads', remedy='make it a multiple of twice the heads'
            )
        for name, good, remedy in (
            ('rope_base', self.rope_base > 0, 'use 10000, or more for a longer reach'),
            (
                'marks',
                self.marks >= 0 and not (self.marks and self.padded_logits),
                'use 0 or more, and 0 with padded_logits',
            ),
            ('softcap', self.softcap >= 0, 'use 0 for none, or 15'),
            ('dropout', 0 <= self.dropout < 1, 'use 0 for none, or a share below 1'),
        ):
            if not good:
                raise InputError(f'task.gpt.{name} is {getattr(self, name)}', remedy=remedy)
        if self.kv_heads < 0 or self.heads % (self.kv_heads or self.heads):
            raise InputError(f'task.gpt.kv_heads is {self.kv_heads}', remedy=f'choose a divisor of {self.heads} heads')
        if self.dtype not in ('float32', 'bfloat16'):
            raise InputError(f'task.gpt.dtype is {self.dtype!r}', remedy='choose float32 or bfloat16')


class Cache(NamedTuple):
    """Keys and values of a layer: of a prompt [R, K, C, H], or of each continuation [R, K, P, S, H]."""

    keys: jax.Array
    values: jax.Array


class Linear(nnx.Module):
    """x @ kernel. Drawn with deviation fan_in^-1/2 min(1, (fan_out / fan_in)^1/2), or zero."""

    def __init__(self, inputs: int, outputs: int, *, zero: bool = False, dtype, rngs: nnx.Rngs):
        scale = 0.0 if zero else inputs**-0.5 * min(1.0, (outputs / inputs) ** 0.5)
        self.kernel, self.dtype = nnx.Param(scale * jax.random.normal(rngs.params(), (inputs, outputs))), dtype

    def __call__(self, x):
        return dense(x.astype(self.dtype), self.kernel[...])


class Attention(nnx.Module):
    """Grouped causal attention; H is the size of a head, N and K the heads of queries and of keys and values."""

    def __init__(self, config: Gpt, *, rngs: nnx.Rngs):
        self.heads, self.kv_heads = config.heads, config.kv_heads or config.heads
        width, size, dtype = config.width, config.width // config.heads, jnp.dtype(config.dtype)
        self.c_q = Linear(width, self.heads * size, dtype=dtype, rngs=rngs)
        self.c_k = Linear(width, self.kv_heads * size, dtype=dtype, rngs=rngs)
        self.c_v = Linear(width, self.kv_heads * size, dtype=dtype, rngs=rngs)
        self.c_proj = Linear(width, width, dtype=dtype, rngs=rngs)

    def split(self, x, angles):
        """x [..., T, D] -> q [..., T, N, H], k and v [..., T, K, H]; q and k turned by their angle, then normalised."""
        cos, sin = angles
        apart = lambda y, heads: y.reshape(*y.shape[:-1], heads, -1)
        turn = lambda y: rms_norm(rotate(y, cos, -sin), eps=EPS).astype(y.dtype)
        parts = self.c_q, self.c_k, self.c_v  # one product for all three
        qkv = dense(x.astype(self.c_q.dtype), jnp.concatenate([p.kernel[...] for p in parts], axis=1))
        q, k, v = jnp.split(qkv, np.cumsum([p.kernel.shape[1] for p in parts])[:2], axis=-1)
        return turn(apart(q, self.heads)), turn(apart(k, self.kv_heads)), apart(v, self.kv_heads)

    def join(self, y):
        """[..., T, N, H] -> [..., T, D]."""
        return self.c_proj(y.reshape(*y.shape[:-2], -1))


class Mlp(nnx.Module):
    """relu(x W)^2 V with an inner width of four."""

    def __init__(self, config: Gpt, *, rngs: nnx.Rngs):
        dtype = jnp.dtype(config.dtype)
        self.c_fc = Linear(config.width, 4 * config.width, dtype=dtype, rngs=rngs)
        self.c_proj = Linear(4 * config.width, config.width, zero=True, dtype=dtype, rngs=rngs)

    def __call__(self, x):
        return self.c_proj(jnp.square(jax.nn.relu(self.c_fc(x))))


class Block(nnx.Module):
    def __init__(self, config: Gpt, *, rngs: nnx.Rngs):
        self.attn, self.mlp, self.rate = Attention(config, rngs=rngs), Mlp(config, rngs=rngs), config.dropout

    def __call__(self, x_BxTxD, angles, mask_BxTxT, key) -> tuple[jax.Array, Cache]:
        keys = (None, None) if key is None else jax.random.split(key)
        y, cache = side_by_side(self._attend, x_BxTxD, angles, mask_BxTxT)
        return self._think(x_BxTxD + dropout(y, self.rate, keys[0]).astype(jnp.float32), keys[1]), cache

    def _attend(self, x_BxTxD, angles, mask_BxTxT):
        q, k, v = self.attn.split(rms_norm(x_BxTxD, eps=EPS), angles)
        y = self.attn.join(attend(q, k, v, causal=True, mask=mask_BxTxT))
        return y, Cache(k.swapaxes(1, 2), v.swapaxes(1, 2))

    def extend(self, x_RxPxTxD, angles, prompt: Cache, own: Cache | None, at) -> tuple[jax.Array, Cache]:
        """T further positions of each continuation. `own` holds S places, of which those before `at` are filled; None
        is for all positions at once."""
        q, k, v = self.attn.split(rms_norm(x_RxPxTxD, eps=EPS), angles)
        new = Cache(*(jnp.moveaxis(y, 3, 1) for y in (k, v)))
        if own is None:
            own, seen_TxS = new, np.tri(x_RxPxTxD.shape[2], dtype=bool)
        else:
            place = (0, 0, 0, at, 0)
            own = Cache(*(jax.lax.dynamic_update_slice(a, b, place) for a, b in zip(own, new, strict=True)))
            seen_TxS = (jnp.arange(own.keys.shape[3]) <= at)[None]
        x = x_RxPxTxD + self.attn.join(attend_branches(q, prompt, own, seen_TxS)).astype(jnp.float32)
        return self._think(x, None), own

    def _think(self, x, key):
        return x + dropout(self.mlp(rms_norm(x, eps=EPS)), self.rate, key).astype(jnp.float32)


def attend_branches(q_RxPxTxNxH, prompt: Cache, own: Cache, seen_TxS):
    """Attention of P continuations of each of R prompts to all of their prompt and to the places of their own that
    `seen_TxS` names -> [R, P, T, N, H]. The prompt is read once for all of its continuations."""
    R, P, T, N, H = q_RxPxTxNxH.shape
    K = prompt.keys.shape[1]
    G = N // K
    q = jnp.moveaxis(q_RxPxTxNxH.reshape(R, P, T, K, G, H), 3, 1) * H**-0.5
    past = jnp.einsum('rkqh,rkch->rkqc', q.reshape(R, K, P * T * G, H), prompt.keys)
    past = past.reshape(R, K, P, T, G, -1).astype(jnp.float32)
    mine = jnp.einsum('rkptgh,rkpsh->rkptgs', q, own.keys).astype(jnp.float32)
    mine = jnp.where(jnp.asarray(seen_TxS)[None, None, None, :, None], mine, -jnp.inf)
    weights = jax.nn.softmax(jnp.concatenate([past, mine], -1), axis=-1).astype(q.dtype)
    past, mine = jnp.split(weights, [past.shape[-1]], axis=-1)
    y = jnp.einsum('rkqc,rkch->rkqh', past.reshape(R, K, P * T * G, -1), prompt.values).reshape(q.shape)
    y = y + jnp.einsum('rkptgs,rkpsh->rkptgh', mine, own.values)
    return jnp.moveaxis(y, 1, 3).reshape(R, P, T, N, H)


class Model(nnx.Module):
    """The parameter tree follows the original's names, so that export is a renaming."""

    def __init__(self, config: Gpt, *, rngs: nnx.Rngs):
        scale = TIED_SCALE if config.tied else 1.0
        table = scale * jax.random.normal(rngs.params(), (config.padded, config.width))
        self.wte = nnx.Dict(embedding=nnx.Param(table))
        self.h = nnx.List([Block(config, rngs=rngs) for _ in range(config.layers)])
        dtype = jnp.dtype(config.dtype)
        self.lm_head = None if config.tied else Linear(config.width, config.padded, zero=True, dtype=dtype, rngs=rngs)
        self.config = config

    def __call__(self, tokens_BxT, segment_BxT=None, key=None):
        """Logits of the next token [B, T, V], float32. See `hidden`."""
        return self.head(self.hidden(tokens_BxT, segment_BxT, key)[0])

    def hidden(self, tokens_BxT, segment_BxT=None, key=None) -> tuple[jax.Array, list[Cache]]:
        """Whole sequences -> (what the head reads [B, T, D], keys and values of each layer).

        Args:
          segment_BxT: tokens of different numbers do not see each other, and positions start at 0 in each run of one
            number. None = one segment a row, for which the fused kernel needs no mask.
          key: of the dropout; None = none.

        Raises:
          InputError: sequences are longer than the model.
        """
        length = tokens_BxT.shape[1]
        mask, place = None, np.arange(length)[None]
        if segment_BxT is not None:
            mask, place = segment_BxT[:, :, None] == segment_BxT[:, None, :], places(segment_BxT)
        angles = tuple(jnp.asarray(t)[place] for t in self._angles(0, length))
        x, caches = self._embed(tokens_BxT), []
        if key is not None:
            x = dropout(x, self.config.dropout, jax.random.fold_in(key, len(self.h)))
        for i, block in enumerate(self.h):
            x, cache = block(x, angles, mask, None if key is None else jax.random.fold_in(key, i))
            caches.append(cache)
        return rms_norm(x, eps=EPS), caches

    def branch(self, tokens_RxPxT, prompt: list[Cache]):
        """P continuations of T tokens after each of R prompts -> what the head reads [R, P, T, D]."""
        start = prompt[0].keys.shape[2]
        angles, x = self._angles(start, tokens_RxPxT.shape[2]), self._embed(tokens_RxPxT)
        for block, cache in zip(self.h, prompt, strict=True):
            x, _ = block.extend(x, angles, cache, None, None)
        return rms_norm(x, eps=EPS)

    def make_caches(self, prompts: int, paths: int, places: int) -> list[Cache]:
        """Empty places for the tokens of continuations."""
        c = self.config
        shape = (prompts, c.kv_heads or c.heads, paths, places, c.width // c.heads)
        return [Cache(*(jnp.zeros(shape, c.dtype) for _ in range(2))) for _ in self.h]

    def step(self, token_RxP, prompt: list[Cache], own: list[Cache], at) -> tuple[jax.Array, list[Cache]]:
        """The token at place `at` of each continuation -> (what the head reads [R, P, D], caches that hold it)."""
        start, size = prompt[0].keys.shape[2], own[0].keys.shape[3]
        angles = tuple(jax.lax.dynamic_slice_in_dim(jnp.asarray(t), at, 1) for t in self._angles(start, size))
        x, caches = self._embed(token_RxP[..., None]), []
        for block, cache, mine in zip(self.h, prompt, own, strict=True):
            x, mine = block.extend(x, angles, cache, mine, at)
            caches.append(mine)
        return rms_norm(x, eps=EPS)[:, :, 0], caches

    def head(self, x):
        """[..., D] -> logits [..., V] in float32."""
        if self.lm_head is None:
            logits = dense(x.astype(self.config.dtype), self.wte['embedding'][...].T)
        else:
            logits = self.lm_head(x)
        logits = logits.astype(jnp.float32)
        if self.config.softcap:
            logits = self.config.softcap * jnp.tanh(logits / self.config.softcap)
        return logits if self.config.padded_logits else logits[..., : self.config.vocabulary]

    def _embed(self, tokens):
        x = self.wte['embedding'][...][tokens]
        return rms_norm(x, eps=EPS) if self.config.embedding_norm else x

    def _angles(self, start: int, length: int):
        """cos and sin of positions from `start` on."""
        c = self.config
        if start + length > c.length:
            raise InputError(
                f'{start + length} positions are more than the model has, {c.length}',
                column='task.gpt.length',
                remedy='shorten the context or the horizon, or train a longer model',
            )
        table = make_table(c.length, c.width // c.heads, base=c.rope_base, rounded=c.rope_rounded)
        return tuple(t[start : start + length] for t in table)


def places(segment_BxT):
    """The place of each token in its run of equal numbers, from 0 on."""
    at = jnp.broadcast_to(jnp.arange(segment_BxT.shape[1])[None], segment_BxT.shape)
    first = jnp.pad(segment_BxT[:, 1:] != segment_BxT[:, :-1], ((0, 0), (1, 0)), constant_values=True)
    return at - jax.lax.cummax(jnp.where(first, at, 0), axis=1)
