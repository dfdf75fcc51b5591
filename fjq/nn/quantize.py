"""Vectors to integer codes and back, with gradients that pass straight through. Pure functions of vectors [N, C].

    vq     the nearest of K vectors, which follow the vectors they stand for (van den Oord et al. 2017, EMA update)
    rvq    vq of what the level before left over (Zeghidour et al. 2021, SoundStream)
    fsq    each channel rounded to one of a few levels (Mentzer et al. 2023)
    bsq    the sign of each channel of a unit vector (Zhao et al. 2024)

A codebook in training is a dict of arrays; what an update finds is kept apart until `fold`, so that every slice of a
batch sees the same codes and the sums do not depend on the slices:

    embedding [K, C]  count [K]  sum [K, C]      codes, and the averages of hits and of the vectors that hit them
    new_count [K]  new_sum [K, C]                of the update under way
    spare [R, C]  spare_draw [R]                 vectors drawn from it to replace unused codes; draw -1 = none
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

Codebook = dict[str, jax.Array]
SPARES = 16  # codes that one update can replace
EPS = 1e-5


def straight_through(z, q):
    """q with the gradient of z."""
    return z + jax.lax.stop_gradient(q - z)


def nearest(z_NxC, embedding_KxC) -> jax.Array:
    """int32 [N]: argmin_k |z|^2 + |e_k|^2 - 2 z.e_k; the first of equals."""
    # Half of it would do for the argmin; the whole keeps the rounding, so the ties, of the usual code.
    products_NxK = jnp.matmul(z_NxC, embedding_KxC.T, precision='highest')
    norms = (z_NxC**2).sum(1, keepdims=True) + (embedding_KxC**2).sum(1)[None]
    return jnp.argmin(norms - 2 * products_NxK, axis=1).astype(jnp.int32)


def make_codebook(embedding_KxC) -> Codebook:
    """A codebook at these codes, whose averages are empty."""
    e = jnp.asarray(embedding_KxC, jnp.float32)
    zeros = jnp.zeros(len(e), jnp.float32)
    spare, draw = jnp.zeros((SPARES, e.shape[1])), jnp.full(SPARES, -1.0, jnp.float32)
    sums = {'count': zeros, 'sum': jnp.zeros_like(e), 'new_count': zeros, 'new_sum': jnp.zeros_like(e)}
    return {'embedding': e, **sums, 'spare': spare, 'spare_draw': draw}


def gather_hits(book: Codebook, z_NxC, ids_N, mask_N, draw_N) -> Codebook:
    """Adds a slice of a batch to the sums of the update under way.

    Args:
      draw: uniform numbers [N]; the vectors with the highest ones become spares.
    """
    hit_NxK = jax.nn.one_hot(ids_N, len(book['count']), dtype=jnp.float32) * mask_N[:, None]
    draws = jnp.concatenate([book['spare_draw'], jnp.where(mask_N, draw_N, -1.0)])
    top, place = jax.lax.top_k(draws, SPARES)
    return book | {
        'new_count': book['new_count'] + hit_NxK.sum(0),
        'new_sum': book['new_sum'] + jnp.matmul(hit_NxK.T, z_NxC, precision='highest'),
        'spare': jnp.where(top[:, None] >= 0, jnp.concatenate([book['spare'], z_NxC])[place], 0),
        'spare_draw': top,
    }


def fold(book: Codebook, decay: float, revive: float) -> Codebook:
    """Moves the averages by what the update found and the codes onto them; nothing where it found nothing.

    N <- g N + (1 - g) n, S <- g S + (1 - g) s, e_k <- S_k / N~_k with N~_k = sum N (N_k + eps) / (sum N + K eps).

    Args:
      decay: g.
      revive: codes with fewer hits than this share of the mean become spares, with the mean's number of hits; 0 = none.
    """
    count = decay * book['count'] + (1 - decay) * book['new_count']
    sums = decay * book['sum'] + (1 - decay) * book['new_sum']
    total, codes = count.sum(), len(count)
    smooth = total * (count + EPS) / (total + codes * EPS)
    embedding = sums / jnp.where(smooth > 0, smooth, 1)[:, None]
    if revive:
        dead = count < revive * total / codes
        rank = jnp.minimum(jnp.cumsum(dead) - 1, SPARES - 1)
        first = jnp.cumsum(dead) <= SPARES
        back = (dead & first & (book['spare_draw'][rank] >= 0))[:, None]
        embedding = jnp.where(back, book['spare'][rank], embedding)
        count = jnp.where(back[:, 0], total / codes, count)
        sums = jnp.where(back, embedding * count[:, None], sums)
    moved = book | make_codebook(embedding) | {'count': count, 'sum': sums}
    return jax.tree.map(lambda new, old: jnp.where(book['new_count'].sum() > 0, new, old), moved, book)


def residual(z_NxC, embeddings: Sequence[jax.Array]):
    """(the sum of the levels' codes [N, C], the id of each level [N], what each level saw [N, C])."""
    left, found, ids, seen = z_NxC, 0.0, [], []
    for embedding_KxC in embeddings:
        ids.append(nearest(left, embedding_KxC))
        seen.append(left)
        code = embedding_KxC[ids[-1]]
        left, found = left - code, found + code
    return found, ids, seen


def join_digits(digits: Sequence[jax.Array], bases: Sequence[int]) -> jax.Array:
    """Digits [N] of mixed bases, the first the most significant -> int32 [N]."""
    number = jnp.zeros_like(digits[0])
    for digit, base in zip(digits, bases, strict=True):
        number = number * base + digit
    return number.astype(jnp.int32)


def split_digits(number: jax.Array, bases: Sequence[int]) -> list[jax.Array]:
    """The inverse of `join_digits`."""
    digits = []
    for base in reversed(bases):
        digits.append(number % base)
        number = number // base
    return digits[::-1]


def fsq(z_NxC, levels: Sequence[int]):
    """Finite scalar quantisation -> (codes [N, C] in [-1, 1] with the gradient of z, ids [N]).

    Channel c is bounded by tanh to levels[c] integers and rounded; of an even number, the bound is shifted by half a
    step and nought stays the middle of a level (equation 1 and appendix A.1 of the paper). Two levels are too few.
    """
    n = jnp.asarray(levels, jnp.float32)[None]
    half = (n - 1) * (1 + 1e-3) / 2
    offset = jnp.where(n % 2 == 0, 0.5, 0.0)
    bounded = jnp.tanh(z_NxC + jnp.arctanh(offset / half)) * half - offset
    step = jnp.asarray([k // 2 for k in levels], jnp.float32)[None]
    whole = straight_through(bounded, jnp.round(bounded))
    digits = jax.lax.stop_gradient(whole + step).astype(jnp.int32)
    return whole / step, join_digits(list(digits.T), levels)


def fsq_codes(ids_N, levels: Sequence[int]) -> jax.Array:
    """ids [N] -> codes [N, C]."""
    steps = [k // 2 for k in levels]
    return jnp.stack([(d - s) / s for d, s in zip(split_digits(ids_N, levels), steps, strict=True)], -1)


def unit(z_NxC):
    """z / |z|, zero for a zero vector."""
    return z_NxC * jax.lax.rsqrt(jnp.maximum((z_NxC**2).sum(-1, keepdims=True), 1e-12))


def bsq(u_NxC):
    """Unit vectors -> (their signs / sqrt(C) with the gradient of u, ids [N]; bit j weighs 2^j)."""
    bits = jax.lax.stop_gradient(u_NxC > 0).astype(jnp.int32)
    weights = 2 ** jnp.arange(u_NxC.shape[1], dtype=jnp.int32)
    return straight_through(u_NxC, _signs(bits)), (bits * weights[None]).sum(1).astype(jnp.int32)


def bsq_codes(ids_N, channels: int) -> jax.Array:
    """ids [N] -> codes [N, C]."""
    return _signs((ids_N[:, None] >> jnp.arange(channels, dtype=jnp.int32)[None]) & 1)


def bsq_probability(u_NxC):
    """[N, C] the soft chance that a bit is 0: sigmoid(-4 u / sqrt(C)) of the negative sign's distance."""
    return jax.nn.sigmoid(-4 * u_NxC / math.sqrt(u_NxC.shape[1]))


def binary_entropy(p):
    """In nats; 0 at 0 and 1."""
    p = jnp.clip(p, 1e-8, 1 - 1e-7)
    return -(p * jnp.log(p) + (1 - p) * jnp.log1p(-p))


def _signs(bits_NxC):
    return (2.0 * bits_NxC - 1) / math.sqrt(bits_NxC.shape[1])
