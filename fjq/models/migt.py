"""MIGT-TVDT: a transformer over the bars of each variable, then over the variables, to quantiles of returns.

A window of T bars has V features; every variable is a sequence of its own through the temporal blocks, is pooled to
one vector, and the V vectors see each other in the variable blocks. The heads give Q quantiles at each of H horizons
in units of the volatility that past bars and the time of day tell of it (`fjq.data.bars.scale`); a fresh model gives
the quantiles that training targets have in these units, so it starts as filtered historical simulation.

`compat` is the function of the original (its mask error corrected): RevIN over all slots, Time2Vec, quantiles above a
base in units of the target.
"""

import dataclasses
import itertools
from statistics import NormalDist

import jax
import jax.numpy as jnp
from flax import nnx

from fjq.config import LEVELS, Experiment, ask_levels
from fjq.data.bars.features import find_features
from fjq.data.bars.scale import scale_by_root
from fjq.errors import InputError
from fjq.nn.attention_pool import AttentionPool
from fjq.nn.clock_encoding import ClockEncoding
from fjq.nn.dense import Dense, gelu
from fjq.nn.dropout import dropout
from fjq.nn.gates import GatedNorm
from fjq.nn.quantile_heads import QuantileHeads
from fjq.nn.revin import is_valid, revin, standardize
from fjq.nn.transformer import POLICIES, Block, run_layers, stack_layers
from fjq.task import Batch

REMAT = (*POLICIES, 'chunked')
SMALLEST = 1e-12  # spreads below it have the logarithm of it
FARTHEST = 5.0  # standard deviations to which a window's scale is clipped


@dataclasses.dataclass(kw_only=True)
class Migt:
    """The model and its loss. Fields that the data decide are checked against them when a run starts."""

    variables: int = 24  # V, features a bar; 0 = those of the data
    horizons: tuple[int, ...] = (3, 6, 12, 24, 48)  # bars ahead; () = those of the data
    levels: tuple[float, ...] = LEVELS  # quantiles; the middle one anchors the others
    horizon_weights: tuple[float, ...] = ()  # of the loss, one a horizon; () = equal
    bars_per_day: int = 288  # bars from midnight to midnight; 0 = as the data's minutes say
    width: int = 256  # D
    heads: int = 8
    hidden: int = 1024  # of the feed-forward parts
    temporal_layers: int = 4
    variable_layers: int = 2
    head_hidden: int = 128
    clock_dims: tuple[int, ...] = (32, 16, 16, 32)  # time of day, weekday, day of the month, day of the year
    age_dim: int = 32  # how many bars ago, which the original does not tell; 0 = it either
    dropout: float = 0.1
    dtype: str = 'float32'  # of the blocks; normalisation, pooling, heads and loss stay float32
    remat: str = 'block'  # what the temporal blocks keep for the backward pass: none, dots, block or chunked
    chunk_rows: int = 8  # chunked: windows that are computed, and computed again, at a time
    window_scale: bool = True  # tell the model how large a window's spreads are, which normalisation takes away
    compat: bool = False  # the original's function

    def follow(self, config: Experiment) -> Experiment:
        """The model has the sizes of the data where it leaves them open, and is evaluated at its own levels."""
        task = dataclasses.replace(
            self,
            variables=self.variables or len(find_features(config.data.features)),
            horizons=tuple(self.horizons or config.data.horizons),
            bars_per_day=self.bars_per_day or config.data.bars_per_day,
        )
        task.check_levels()
        return dataclasses.replace(config, task=task, evaluate=ask_levels(config.evaluate, self.levels))

    def build(self):
        """Raises InputError where fields make no sense."""
        from fjq.models.migt_task import MigtTask

        for field, choices in (('dtype', ('float32', 'bfloat16')), ('remat', REMAT)):
            if getattr(self, field) not in choices:
                raise InputError(
                    f'task.{field} is {getattr(self, field)!r}', remedy='choose one of ' + ', '.join(choices)
                )
        self.check_levels()
        for field in ('variables', 'bars_per_day'):
            if getattr(self, field) < 1:
                raise InputError(
                    f'task.{field} is {getattr(self, field)}', remedy='make it 1 or more, or 0 and follow the data'
                )
        if not self.horizons or min(self.horizons) < 1:
            raise InputError(f'task.horizons is {self.horizons}', remedy='give bars ahead, such as (3, 6, 12)')
        if self.horizon_weights and len(self.horizon_weights) != len(self.horizons):
            raise InputError(
                f'{len(self.horizon_weights)} horizon_weights for {len(self.horizons)} horizons',
                column='task.horizon_weights',
            )
        if len(self.clock_dims) != 4 or any(d < 2 or d % 2 for d in self.clock_dims):
            raise InputError(f'task.clock_dims is {self.clock_dims}', remedy='give four even widths')
        if self.age_dim and (self.age_dim < 4 or self.age_dim % 2):
            raise InputError(f'task.age_dim is {self.age_dim}', remedy='give an even width of 4 or more, or 0')
        if self.chunk_rows < 1:
            raise InputError(f'task.chunk_rows is {self.chunk_rows}', remedy='make it 1 or more')
        return MigtTask(self)

    def check_levels(self) -> None:
        """Raises InputError where evaluation could not read the quantiles: found when a run starts, not at its end."""
        rises = all(a < b for a, b in itertools.pairwise((0.0, *self.levels, 1.0)))
        symmetric = all(abs(a + b - 1) < 1e-6 for a, b in zip(self.levels, reversed(self.levels), strict=True))
        if len(self.levels) < 3 or len(self.levels) % 2 == 0 or not rises or not symmetric:
            raise InputError(
                f'task.levels is {self.levels}',
                remedy='give an odd number of levels that increase in (0, 1), symmetric about 0.5',
            )
        if self.levels[0] > 0.05:
            raise InputError(
                f'task.levels is {self.levels}', remedy='include 0.05 and 0.95: the interval of 90 % is scored'
            )


class Statistic(nnx.Variable):
    """A figure of the training windows: fixed before the first update, no parameter."""


class WindowScale(nnx.Module):
    """How wide a window's values spread, as a vector a variable: log spread and log EWMA volatility, against what they
    are in the training windows."""

    def __init__(self, variables: int, width: int, *, rngs: nnx.Rngs):
        self.kernel = nnx.Param(jax.random.normal(rngs.params(), (variables, 2, width)) * 0.5)
        self.centre, self.spread = Statistic(jnp.zeros((variables, 2))), Statistic(jnp.ones((variables, 2)))

    def __call__(self, log_scale_BxVx2):
        unit = (log_scale_BxVx2 - self.centre[...][None]) / self.spread[...][None]
        return jnp.einsum('bvs,vsd->bvd', jnp.clip(unit, -FARTHEST, FARTHEST), self.kernel[...])


class Volatility(nnx.Module):
    """The volatility of the return over each horizon, as `fjq.data.bars.scale` fits it on training rows; before that
    the EWMA volatility times sqrt(h)."""

    def __init__(self, horizons: tuple[int, ...], places: int):
        fresh = scale_by_root(horizons, places)
        self.offset, self.weight = (Statistic(jnp.asarray(x, jnp.float32)) for x in fresh)

    def __call__(self, place_B, log_variance_BxK):
        return jnp.exp((jnp.take(self.offset[...], place_B, axis=0) + log_variance_BxK @ self.weight[...]) / 2)


class Model(nnx.Module):
    """A batch is what `fjq.data.bars.migt` documents; windows hold their valid bars first."""

    def __init__(self, config: Migt, *, rngs: nnx.Rngs):
        c, dtype = config, jnp.dtype(config.dtype)
        self.config, self.dtype = c, dtype
        affine = lambda: {'gamma': nnx.Param(jnp.ones(c.variables)), 'beta': nnx.Param(jnp.zeros(c.variables))}
        self.revin = nnx.Dict(affine()) if c.compat else None
        draw = lambda: nnx.Param(jax.random.uniform(rngs.params(), (c.variables, c.width), minval=-1.0))
        self.variable = nnx.Dict(kernel=draw(), bias=draw())
        self.clock = ClockEncoding(
            c.width,
            bars_per_day=c.bars_per_day,
            dims=tuple(c.clock_dims),
            age_dim=0 if c.compat else c.age_dim,
            learned=c.compat,
            rngs=rngs,
        )
        block = lambda dtype: Block(c.width, c.heads, c.hidden, c.dropout, dtype=dtype, rngs=rngs)
        self.temporal_layers = stack_layers(c.temporal_layers, lambda: block(dtype))
        self.pool = AttentionPool(c.width, rngs=rngs)
        self.volatility = None if c.compat else Volatility(c.horizons, c.bars_per_day)
        sees_scale = c.window_scale and not c.compat
        self.window_scale = WindowScale(c.variables, c.width, rngs=rngs) if sees_scale else None
        self.variable_layers = nnx.List([block(jnp.float32) for _ in range(c.variable_layers)])
        self.gated_norms = nnx.List([GatedNorm(c.width, rngs=rngs) for _ in range(c.variable_layers)])
        self.readout = Dense(c.variables * c.width, c.width, rngs=rngs)
        start = () if c.compat else [NormalDist().inv_cdf(p) for p in c.levels]
        self.heads = QuantileHeads(c.width, len(c.horizons), len(c.levels), c.head_hidden, start, rngs=rngs)

    def __call__(self, batch: Batch, key=None):
        """Quantiles [B, H, Q]: in units of `find_unit`."""
        keys = (None,) * 3 if key is None else jax.random.split(key, 3)
        x_BxTxV, scale_BxVx2 = self.normalize(batch)
        clock_BxTxD, length_B = self.read_clock(batch), batch['length']
        pooled_BxVxD = self.encode(x_BxTxV, clock_BxTxD, length_B, keys[0])
        if self.window_scale is not None:
            pooled_BxVxD = pooled_BxVxD + self.window_scale(scale_BxVx2)
        if not self.config.compat:  # the forecast's own time
            now_BxD = jnp.take_along_axis(clock_BxTxD, jnp.maximum(length_B - 1, 0)[:, None, None], axis=1)[:, 0]
            pooled_BxVxD = pooled_BxVxD + jnp.where(length_B[:, None] > 0, now_BxD, 0)[:, None]
        readout_BxD = self.read_out(self.mix_variables(pooled_BxVxD, keys[1]))
        return self.heads(dropout(readout_BxD, self.config.dropout, keys[2]))

    def find_unit(self, batch: Batch):
        """What quantiles are in units of [B, H]: with `compat` the target's own unit."""
        if self.volatility is None:
            return jnp.ones((batch['length'].shape[0], len(self.config.horizons)), jnp.float32)
        last_B = jnp.maximum(batch['length'] - 1, 0)
        place_B = jnp.take_along_axis(batch['bar_in_day'], last_B[:, None], axis=1)[:, 0]
        return self.volatility(place_B, batch['log_variance'])

    def normalize(self, batch: Batch):
        """(features [B, T, V], and what was taken from them: log spread and log volatility [B, V, 2])."""
        features = batch['features']
        if features.shape[-1] != self.config.variables:
            raise InputError(f'{features.shape[-1]} features for a model of {self.config.variables} variables')
        if self.revin is not None:
            return revin(features, self.revin['gamma'][...], self.revin['beta'][...]), None
        x_BxTxV, spread_BxV = standardize(features, is_valid(batch['length'], features.shape[1]))
        volatility_BxV = jnp.broadcast_to(batch['log_variance'][:, :1] / 2, spread_BxV.shape)
        return x_BxTxV, jnp.stack([jnp.log(jnp.maximum(spread_BxV, SMALLEST)), volatility_BxV], axis=-1)

    def read_clock(self, batch: Batch):
        """The vector of every slot's time [B, T, D]."""
        return self.clock(*(batch[n] for n in ('bar_in_day', 'day_of_week', 'day_of_month', 'day_of_year', 'length')))

    def encode(self, x_BxTxV, clock_BxTxD, length_B, key=None):
        """Normalised windows -> one vector a variable [B, V, D], float32.

        Windows do not see each other here, so 'chunked' computes a few at a time and again in the backward pass:
        of all activations only the result outlives a chunk.
        """
        rows, size = x_BxTxV.shape[0], self.config.chunk_rows
        if self.config.remat != 'chunked' or not isinstance(rows, int) or rows <= size:  # exported: any number of rows
            return self._encode(x_BxTxV, clock_BxTxD, length_B, key)
        chunks = -(-rows // size)
        graph, state = nnx.split(self)

        def cut(x):  # row r goes to chunk r % chunks, so an axis that is cut over devices stays where it is
            x = jnp.pad(x, [(0, chunks * size - rows)] + [(0, 0)] * (x.ndim - 1))
            return jnp.moveaxis(x.reshape(size, chunks, *x.shape[1:]), 1, 0)

        @jax.checkpoint
        def encode(state, item):
            index, windows = item
            k = None if key is None else jax.random.fold_in(key, index)
            return nnx.merge(graph, state)._encode(*windows, k)

        items = jnp.arange(chunks), tuple(cut(x) for x in (x_BxTxV, clock_BxTxD, length_B))
        _, out_CxBxVxD = jax.lax.scan(lambda s, item: (s, encode(s, item)), state, items)
        return jnp.moveaxis(out_CxBxVxD, 0, 1).reshape(chunks * size, *out_CxBxVxD.shape[2:])[:rows]

    def _encode(self, x_BxTxV, clock_BxTxD, length_B, key):
        rows, slots, variables = x_BxTxV.shape
        keys = (None, None) if key is None else jax.random.split(key)
        length_N = jnp.repeat(length_B, variables)
        z_NxTxD = dropout(self.embed(x_BxTxV, clock_BxTxD), self.config.dropout, keys[0])
        remat = 'none' if self.config.remat == 'chunked' else self.config.remat
        z_NxTxD = run_layers(self.temporal_layers, z_NxTxD, length_N, keys[1], remat=remat)
        return self.pool(z_NxTxD, is_valid(length_N, slots)).reshape(rows, variables, -1)

    def embed(self, x_BxTxV, clock_BxTxD):
        """x W_v + c_v + clock, every variable a sequence of its own -> [B V, T, D] in the compute dtype."""
        kernel_VxD, bias_VxD = self.variable['kernel'][...], self.variable['bias'][...]
        z_BxVxTxD = x_BxTxV.swapaxes(1, 2)[..., None] * kernel_VxD[None, :, None] + bias_VxD[None, :, None]
        z_BxVxTxD = (z_BxVxTxD + clock_BxTxD[:, None]).astype(self.dtype)
        return z_BxVxTxD.reshape(-1, *z_BxVxTxD.shape[2:])

    def mix_variables(self, x_BxVxD, key=None):
        """Blocks over the variables, each gated against its input."""
        for i, (block, gate) in enumerate(zip(self.variable_layers, self.gated_norms, strict=True)):
            k = None if key is None else jax.random.fold_in(key, i)
            x_BxVxD = gate(x_BxVxD, block(x_BxVxD, None, k))
        return x_BxVxD

    def read_out(self, x_BxVxD):
        """[B, V, D] -> [B, D]."""
        return gelu(self.readout(x_BxVxD.reshape(x_BxVxD.shape[0], -1)))
