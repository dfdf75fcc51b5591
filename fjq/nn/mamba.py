"""Mamba-1 mixers (Gu & Dao 2023, arXiv 2312.00752, figure 3), causal and in both directions.

A mixer maps [B, L, D] to [B, L, D] without norm and residual; those belong to the model around it. Parameters bear
the names of the reference implementation. `A_log` and `D` want no weight decay. Letters: D = model width,
E = inner width, N = states a channel, R = rank of the step-size projection, W = taps of the convolution.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from fjq.nn.conv import DepthwiseConv1d
from fjq.nn.dense import Dense, dense
from fjq.nn.ssm import scan_step, selective_scan


class MambaState(NamedTuple):
    """What a mixer remembers: the last inputs of its convolution [B, W - 1, E] and the state of its scan [B, N, E]."""

    window: jax.Array
    scan: jax.Array


class MambaBlock(nnx.Module):
    """in_proj -> causal depthwise convolution -> SiLU -> selective scan -> gate -> out_proj.

    Args:
      features: model width D.
      states: N.
      width: taps of the convolution; 0 leaves out the convolution and its SiLU.
      expand: E / D.
      rank: R, ceil(D / 16) by default.
      step_min, step_max, step_floor: initial step sizes are log-uniform between the first two, at least the third.
      method, chunk: of `selective_scan`.
    """

    def __init__(
        self,
        features: int,
        *,
        states: int = 16,
        width: int = 4,
        expand: float = 2,
        rank: int | None = None,
        step_min: float = 1e-3,
        step_max: float = 1e-1,
        step_floor: float = 1e-4,
        method: str = 'auto',
        chunk: int | None = None,
        dtype=jnp.float32,
        rngs: nnx.Rngs,
    ):
        inner = int(expand * features)
        rank = math.ceil(features / 16) if rank is None else rank
        self.in_proj = Dense(features, 2 * inner, use_bias=False, dtype=dtype, rngs=rngs)
        self.conv1d = DepthwiseConv1d(inner, width, dtype=dtype, rngs=rngs) if width else None
        self.x_proj = Dense(inner, rank + 2 * states, use_bias=False, dtype=dtype, rngs=rngs)
        self.dt_proj = Dense(rank, inner, dtype=dtype, rngs=rngs)
        step_E = jnp.exp(
            jax.random.uniform(rngs.params(), (inner,), minval=math.log(step_min), maxval=math.log(step_max))
        )
        step_E = jnp.maximum(step_E, step_floor)
        self.dt_proj.bias[...] = step_E + jnp.log(-jnp.expm1(-step_E))  # its softplus is the step
        self.A_log = nnx.Param(jnp.tile(jnp.log(jnp.arange(1, states + 1, dtype=jnp.float32))[None], (inner, 1)))
        self.D = nnx.Param(jnp.ones(inner))
        self.out_proj = Dense(inner, features, use_bias=False, dtype=dtype, rngs=rngs)
        self.inner, self.states, self.rank, self.width = inner, states, rank, width
        self.method, self.chunk, self.dtype = method, chunk, dtype

    def __call__(self, x_BxLxD, mask_BxL=None):
        """Every position reads itself and the past; masked positions (False) reach no other one."""
        arguments, gate_BxLxE = self.before_scan(x_BxLxD, mask_BxL)
        y_BxLxE, _ = selective_scan(**arguments, method=self.method, chunk=self.chunk)
        return self.after_scan(y_BxLxE, gate_BxLxE)

    def start(self, batch: int) -> MambaState:
        """The state before the first step."""
        window = jnp.zeros((batch, max(self.width - 1, 0), self.inner), self.dtype)
        return MambaState(window, jnp.zeros((batch, self.states, self.inner)))

    def step(self, x_BxD, state: MambaState):
        """One step of streaming -> (y [B, D], new state), at a cost that does not grow with the past.

        Step after step gives what one call on the whole sequence gives.
        """
        u_BxE, gate_BxE = jnp.split(self.in_proj(x_BxD), 2, axis=-1)
        window = jnp.concatenate([state.window, u_BxE[:, None]], axis=1)
        if self.conv1d is not None:
            u_BxE = jax.nn.silu(self.conv1d(window)[:, -1])
        delta_BxE, B_BxN, C_BxN = self._select(u_BxE)
        y_BxE, scan = scan_step(
            u_BxE,
            delta_BxE,
            self._A(),
            B_BxN,
            C_BxN,
            self.D[...],
            delta_bias_D=self.dt_proj.bias[...],
            state_BxNxD=state.scan,
        )
        return self.after_scan(y_BxE, gate_BxE), MambaState(window[:, 1:], scan)

    def before_scan(self, x_BxLxD, mask_BxL=None):
        """-> (arguments of `selective_scan`, gate [B, L, E])."""
        u_BxLxE, gate_BxLxE = jnp.split(self.in_proj(x_BxLxD), 2, axis=-1)
        if mask_BxL is not None:
            u_BxLxE = jnp.where(mask_BxL[..., None], u_BxLxE, 0)
        if self.conv1d is not None:
            u_BxLxE = jax.nn.silu(self.conv1d(u_BxLxE))
        delta_BxLxE, B_BxLxN, C_BxLxN = self._select(u_BxLxE)
        arguments = dict(u_BxLxD=u_BxLxE, delta_BxLxD=delta_BxLxE, A_DxN=self._A(), B_BxLxN=B_BxLxN, C_BxLxN=C_BxLxN)
        return arguments | dict(D_D=self.D[...], delta_bias_D=self.dt_proj.bias[...], mask_BxL=mask_BxL), gate_BxLxE

    def after_scan(self, y, gate):
        """Gate and output projection."""
        return self.out_proj(y * jax.nn.silu(gate.astype(y.dtype)))

    def _select(self, u):
        low, B, C = jnp.split(self.x_proj(u), [self.rank, self.rank + self.states], axis=-1)
        return dense(low, self.dt_proj.kernel[...]), B, C  # the bias of dt_proj is added in float32, by the scan

    def _A(self):
        return -jnp.exp(self.A_log[...])


class BiMambaBlock(nnx.Module):
    """A mixer forward in time and another backward, joined: joint([forward(x), flip(backward(flip(x)))]).

    Both scans run as one with a leading axis of 2: half the steps where starting a step is what costs. Every position
    reads the whole sequence. Right padding comes first for the backward mixer: with a mask it leaves the state at zero.
    Arguments are those of `MambaBlock`.
    """

    def __init__(self, features: int, *, dtype=jnp.float32, rngs: nnx.Rngs, **arguments):
        self.forward = MambaBlock(features, dtype=dtype, rngs=rngs, **arguments)
        self.backward = MambaBlock(features, dtype=dtype, rngs=rngs, **arguments)
        self.joint = Dense(2 * features, features, dtype=dtype, rngs=rngs)

    def __call__(self, x_BxLxD, mask_BxL=None):
        """[B, L, D] -> [B, L, D]."""
        turn = lambda a: None if a is None else jnp.flip(a, axis=1)
        forward, gate_BxLxE = self.forward.before_scan(x_BxLxD, mask_BxL)
        backward, back_gate_BxLxE = self.backward.before_scan(turn(x_BxLxD), turn(mask_BxL))
        both = jax.tree.map(lambda *pair: jnp.stack(pair), forward, backward)
        scan = lambda arguments: selective_scan(**arguments, method=self.forward.method, chunk=self.forward.chunk)[0]
        y_BxLxE, back_y_BxLxE = jax.vmap(scan)(both)
        ahead = self.forward.after_scan(y_BxLxE, gate_BxLxE)
        back = turn(self.backward.after_scan(back_y_BxLxE, back_gate_BxLxE))
        return self.joint(jnp.concatenate([ahead, back], axis=-1))
