"""The selective scan of Mamba (Gu & Dao 2023, arXiv 2312.00752, section 3), three ways with one answer.

    dt_t = softplus(delta_t + delta_bias)
    h_t  = exp(dt_t A) h_{t-1} + dt_t B_t u_t        state [B, N, D], float32
    y_t  = C_t h_t + D u_t

The state keeps the wide axis D last: the forward is twice as fast so as with N last. Everything is computed in
float32, or float64 for float64 input. Letters: D = inner width, N = states a channel, K = chunks, or the steps of one.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from fjq.errors import InputError

METHODS = ('auto', 'associative', 'chunked', 'sequential')
_SEQUENTIAL_CHUNK, _ASSOCIATIVE_CHUNK = 16, 64
_ASSOCIATIVE_BYTES = 256 * 2**20  # above this size of one [B, L, N, D] array `auto` rematerialises by chunks


def selective_scan(
    u_BxLxD,
    delta_BxLxD,
    A_DxN,
    B_BxLxN,
    C_BxLxN,
    D_D=None,
    *,
    delta_bias_D=None,
    softplus: bool = True,
    mask_BxL=None,
    state_BxNxD=None,
    method: str = 'auto',
    chunk: int | None = None,
):
    """Runs the recurrence over L -> (y [B, L, D], last state [B, N, D]), both float32.

    Args:
      A_DxN: negative decay rates. D_D: weight of the skip connection; None leaves it out.
      softplus: False takes delta + delta_bias as the step sizes themselves.
      mask_BxL: True = the step takes part; elsewhere the state passes through unchanged (y there means nothing).
      state_BxNxD: the state before the first step, zero by default.
      method: 'sequential' steps through time with a hand-written gradient that stores one state a chunk (by far the
        fastest and smallest on a CPU); 'associative' is a parallel prefix over the whole length; 'chunked' does that
        chunk by chunk and recomputes each chunk in the backward pass. 'auto' decides when the program is traced:
        sequential on a CPU, elsewhere associative up to 256 MiB for an array [B, L, N, D], then chunked.
      chunk: steps of a chunk for 'sequential' and 'chunked'; any length L is served.

    Raises:
      InputError: an unknown method or a chunk below 1.
    """
    if method not in METHODS:
        raise InputError(f'unknown scan method {method!r}', remedy=f'choose one of {", ".join(METHODS)}')
    if chunk is not None and chunk < 1:
        raise InputError(f'a scan chunk of {chunk} steps', remedy='give a chunk of at least 1')
    dtype = jnp.promote_types(u_BxLxD.dtype, jnp.float32)
    batch, length, width = u_BxLxD.shape
    states = A_DxN.shape[1]
    dt_BxLxD = _step_sizes(delta_BxLxD.astype(dtype), delta_bias_D, softplus)
    if mask_BxL is not None:
        dt_BxLxD = jnp.where(mask_BxL[..., None], dt_BxLxD, 0)
    if state_BxNxD is None:
        state_BxNxD = jnp.zeros((batch, states, width), dtype)
    if method == 'auto':
        method = _fastest(batch * length * states * width * dtype.itemsize)

    A_NxD, h_BxNxD = A_DxN.T.astype(dtype), state_BxNxD.astype(dtype)
    series = tuple(a.astype(dtype) for a in (u_BxLxD, dt_BxLxD, B_BxLxN, C_BxLxN))
    if method == 'associative':
        y_BxLxD, h_BxNxD = _prefix(series, A_NxD, h_BxNxD)
    else:
        scan, usual = (_sequential, _SEQUENTIAL_CHUNK) if method == 'sequential' else (_chunked, _ASSOCIATIVE_CHUNK)
        chunk = _even_chunk(length, usual) if chunk is None else min(chunk, length)
        # Padding takes no step (dt = 0), so the last state is right whatever the length.
        series = tuple(jnp.pad(a, ((0, 0), (0, -length % chunk), (0, 0))) for a in series)
        y_BxLxD, h_BxNxD = scan(series, A_NxD, h_BxNxD, chunk)
        y_BxLxD = y_BxLxD[:, :length]
    if D_D is not None:
        y_BxLxD = y_BxLxD + u_BxLxD.astype(dtype) * D_D.astype(dtype)[None, None]
    return y_BxLxD, h_BxNxD


def scan_step(
    u_BxD, delta_BxD, A_DxN, B_BxN, C_BxN, D_D=None, *, state_BxNxD, delta_bias_D=None, softplus: bool = True
):
    """One step of the recurrence for streaming -> (y [B, D], new state [B, N, D])."""
    dtype = jnp.promote_types(u_BxD.dtype, jnp.float32)
    u, B, C = (a.astype(dtype) for a in (u_BxD, B_BxN, C_BxN))
    dt = _step_sizes(delta_BxD.astype(dtype), delta_bias_D, softplus)
    state, y = _step(A_DxN.T.astype(dtype), state_BxNxD, (u, dt, B, C))
    return y if D_D is None else y + u * D_D.astype(dtype)[None], state


def _step_sizes(delta, bias_D, softplus: bool):
    if bias_D is not None:
        delta = delta + bias_D.astype(delta.dtype).reshape((1,) * (delta.ndim - 1) + (-1,))
    return jax.nn.softplus(delta) if softplus else delta


def _fastest(size: int) -> str:
    if jax.default_backend() == 'cpu':
        return 'sequential'
    return 'associative' if size <= _ASSOCIATIVE_BYTES else 'chunked'


def _even_chunk(length: int, usual: int) -> int:
    """The divisor of the length nearest to `usual`, within a factor of 1.5; else `usual`, and the end is padded."""
    near = [k for k in range(-(-usual * 2 // 3), usual * 3 // 2 + 1) if length % k == 0]
    return min(length, min(near, key=lambda k: abs(k - usual), default=usual))


# From here on `series` is (u [B, L, D], dt [B, L, D], B [B, L, N], C [B, L, N]).
#
# Parallel prefix: every step is the affine map h -> a h + b, and affine maps compose associatively.


def _prefix(series, A_NxD, h_BxNxD):
    u_BxLxD, dt_BxLxD, B_BxLxN, C_BxLxN = series
    decay_BxLxNxD = jnp.exp(dt_BxLxD[:, :, None] * A_NxD[None, None])
    drive_BxLxNxD = (dt_BxLxD * u_BxLxD)[:, :, None] * B_BxLxN[..., None]
    drive_BxLxNxD = drive_BxLxNxD.at[:, 0].add(decay_BxLxNxD[:, 0] * h_BxNxD)
    compose = lambda first, then: (first[0] * then[0], first[1] * then[0] + then[1])
    _, h_BxLxNxD = lax.associative_scan(compose, (decay_BxLxNxD, drive_BxLxNxD), axis=1)
    return (h_BxLxNxD * C_BxLxN[..., None]).sum(2), h_BxLxNxD[:, -1]


def _chunked(series, A_NxD, h_BxNxD, chunk: int):
    batch, length, width = series[0].shape

    @jax.checkpoint
    def one(h, part):
        y, h = _prefix(part, A_NxD, h)
        return h, y

    by_chunk = lambda a: jnp.moveaxis(a.reshape(batch, length // chunk, chunk, -1), 1, 0)
    h_BxNxD, y_KxBxLxD = lax.scan(one, h_BxNxD, tuple(map(by_chunk, series)))
    return jnp.moveaxis(y_KxBxLxD, 0, 1).reshape(batch, length, width), h_BxNxD


# Step by step. Both passes walk over chunks of the batch-major arrays and turn one chunk at a time into time-major
# order, so that no second copy of a whole array exists. The forward pass stores the state at the start of every
# chunk; the backward pass recomputes the states of a chunk from it.


def _step(A_NxD, h_BxNxD, x):
    u_BxD, dt_BxD, B_BxN, C_BxN = x
    h_BxNxD = jnp.exp(dt_BxD[:, None] * A_NxD[None]) * h_BxNxD + (dt_BxD * u_BxD)[:, None] * B_BxN[..., None]
    return h_BxNxD, (h_BxNxD * C_BxN[..., None]).sum(1)


def _read(arrays, i, chunk: int):
    """Chunk i of every [B, L, .] as [K, B, .]."""
    return jax.tree.map(lambda a: lax.dynamic_slice_in_dim(a, i * chunk, chunk, 1).swapaxes(0, 1), arrays)


def _write(arrays, parts, i):
    """Puts [K, B, .] back as chunk i of every [B, L, .]."""
    put = lambda a, part: lax.dynamic_update_slice_in_dim(a, part.swapaxes(0, 1), i * part.shape[0], 1)
    return jax.tree.map(put, arrays, parts)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def _sequential(series, A_NxD, h_BxNxD, chunk: int):
    return _sequential_forward(series, A_NxD, h_BxNxD, chunk)[0]


def _sequential_forward(series, A_NxD, h_BxNxD, chunk: int):
    def one(carry, i):
        h, y = carry
        last, part = lax.scan(partial(_step, A_NxD), h, _read(series, i, chunk))
        return (last, _write(y, part, i)), h

    chunks = jnp.arange(series[0].shape[1] // chunk)
    (h_BxNxD, y_BxLxD), starts_KxBxNxD = lax.scan(one, (h_BxNxD, jnp.zeros_like(series[0])), chunks)
    return (y_BxLxD, h_BxNxD), (series, A_NxD, starts_KxBxNxD)


def _sequential_backward(chunk: int, residuals, cotangents):
    series, A_NxD, starts_KxBxNxD = residuals
    gy_BxLxD, gh_BxNxD = cotangents

    def recompute(h, x):
        x, gy = x
        following, _ = _step(A_NxD, h, x)
        return following, (h, jnp.einsum('bnd,bd->bn', following, gy))

    def back(carry, x):
        gh, gA = carry
        (u, dt, B, C), gy, before = x
        gh = gh + C[..., None] * gy[:, None]
        passed = gh * jnp.exp(dt[:, None] * A_NxD[None])
        # Without the barrier XLA fuses both into every sum below and computes the exponential again for each:
        # 81 against 110 ms for 64 x 60 steps of 256 x 16 states on two cores.
        gh, passed = lax.optimization_barrier((gh, passed))
        rate = passed * before  # the gradient of dt * A
        drive = (gh * B[..., None]).sum(1)  # the gradient of dt * u
        gu, gdt = dt * drive, (rate * A_NxD[None]).sum(1) + u * drive
        return (passed, gA + rate * dt[:, None]), (gu, gdt, jnp.einsum('bnd,bd->bn', gh, dt * u))

    def one(carry, x):
        i, start = x
        gh, gA, gseries = carry
        part, gy = _read((series, gy_BxLxD), i, chunk)
        _, (before, gC) = lax.scan(recompute, start, (part, gy))
        (gh, gA), (gu, gdt, gB) = lax.scan(back, (gh, gA), (part, gy, before), reverse=True)
        return (gh, gA, _write(gseries, (gu, gdt, gB, gC), i)), None

    carry = gh_BxNxD, jnp.zeros_like(gh_BxNxD), jax.tree.map(jnp.zeros_like, series)
    chunks = jnp.arange(len(starts_KxBxNxD)), starts_KxBxNxD
    (gh_BxNxD, gA_BxNxD, gseries), _ = lax.scan(one, carry, chunks, reverse=True)
    return gseries, gA_BxNxD.sum(0), gh_BxNxD


_sequential.defvjp(_sequential_forward, _sequential_backward)
