"""TCN-12: dilated residual convolutions over the ticks of a chunk, pooled to frames, to a day, to volatility.

A tick has F features; a chunk is 256 consecutive ticks of one frame (10 s); a row is a run of frames of one
day. The output is read as log(1 + realised volatility) of the days that follow, one value a horizon.
Block (Bai, Kolter & Koltun, 2018): y = relu(h + r), h = two times drop(relu(GN(conv_d))), d = 2^i.
"""

import dataclasses
import math
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from fjq.bridge import Pure
from fjq.checkpoint import Weights
from fjq.config import Experiment
from fjq.data.ticks.frames import CHANNELS, SCALARS
from fjq.data.ticks.tcn import TcnData
from fjq.errors import InputError
from fjq.forecast import Point
from fjq.log import say
from fjq.metrics import huber, mae, mse, qlike
from fjq.models import tcn_files
from fjq.nn.conv import Conv1d
from fjq.nn.dense import Dense
from fjq.nn.dropout import dropout
from fjq.nn.materialize import materialize
from fjq.nn.norm import GroupNormOne, LayerNorm
from fjq.optim import find_adam, make_schedule
from fjq.task import Batch, Loss

LOSSES = ('huber', 'mse', 'l1', 'qlike')
STREAMS = {'stocks': 'e_stk', 'options': 'e_opt', 'index': 'e_idx'}  # and what a consumer calls their vectors
SMALLEST_VOLATILITY = 1e-3  # annualised; QLIKE reads what is below it by a straight line, so its gradient lives
STEEPEST = 4.0  # log of (target / prediction)^2, from which on QLIKE is a straight line in it


@dataclasses.dataclass(kw_only=True)
class Tcn:
    """The encoder, the frame pooling and the head of one stream of ticks."""

    stream: str = 'index'  # 'stocks', 'options' or 'index': names the exported files
    in_features: int = CHANNELS
    hidden: int = 512  # channels of the convolutions
    layers: int = 12  # blocks; dilations 1, 2, ..., 2^(layers - 1). Seven already see a whole chunk
    d_model: int = 128  # width of a frame's vector
    num_scalars: int = SCALARS  # raw figures a frame: ticks, notional, volume
    head_hidden: int = 256
    dropout: float = 0.1
    head_dropout: float = 0.1
    horizons: int = 1  # outputs of the head
    num_tickers: int = 0  # per-tick ticker embedding; 0 = none
    ticker_dim: int = 16
    causal: bool = False  # left padding only
    masked: bool = False  # padding takes no part in norms and pooling; the original lets it
    loss: str = 'huber'  # 'huber', 'mse', 'l1' on log(1 + vol), or 'qlike' on vol
    huber_delta: float = 0.1
    dtype: str = 'float32'  # of the convolutions and linear layers; norms, pooling and loss stay float32
    remat_chunks: int = 0  # encode so many chunks at a time and again in the backward pass; 0 = keep all activations

    def build(self) -> 'TcnTask':
        if self.stream not in STREAMS:
            raise InputError(f'task.stream is {self.stream!r}', remedy='choose one of ' + ', '.join(STREAMS))
        if self.loss not in LOSSES:
            raise InputError(f'task.loss is {self.loss!r}', remedy='choose one of ' + ', '.join(LOSSES))
        if self.dtype not in ('float32', 'bfloat16'):
            raise InputError(f'task.dtype is {self.dtype!r}', remedy='choose float32 or bfloat16')
        sizes = ('hidden', 'layers', 'd_model', 'head_hidden', 'horizons', 'in_features', 'num_scalars', 'ticker_dim')
        for field, least in (*((size, 1) for size in sizes), ('num_tickers', 0), ('remat_chunks', 0)):
            if getattr(self, field) < least:
                raise InputError(f'task.{field} is {getattr(self, field)}', remedy=f'make it {least} or more')
        for field in ('dropout', 'head_dropout'):
            if not 0 <= getattr(self, field) < 1:
                raise InputError(f'task.{field} is {getattr(self, field)}', remedy='give a share from 0 to less than 1')
        if not self.huber_delta > 0:
            raise InputError(f'task.huber_delta is {self.huber_delta}', remedy='make it more than 0')
        return TcnTask(self)


class Block(nnx.Module):
    """Two convolutions of one dilation with norm, ReLU and dropout, and a residual in float32."""

    def __init__(self, in_features: int, config: Tcn, dilation: int, *, rngs: nnx.Rngs):
        conv = partial(
            Conv1d, width=3, dilation=dilation, causal=config.causal, dtype=jnp.dtype(config.dtype), rngs=rngs
        )
        self.conv1 = conv(in_features, config.hidden)
        self.conv2 = conv(config.hidden, config.hidden)
        self.norm1, self.norm2 = GroupNormOne(config.hidden), GroupNormOne(config.hidden)
        project = lambda: Conv1d(in_features, config.hidden, 1, dtype=jnp.dtype(config.dtype), rngs=rngs)
        self.downsample = None if in_features == config.hidden else project()
        self.rate = config.dropout

    def __call__(self, x_NxLxC, mask_NxL, key):
        keys = (None, None) if key is None else jax.random.split(key)
        h = x_NxLxC
        for conv, norm, k in ((self.conv1, self.norm1, keys[0]), (self.conv2, self.norm2, keys[1])):
            if mask_NxL is not None:
                h = jnp.where(mask_NxL[..., None], h, 0)
            h = dropout(jax.nn.relu(norm(conv(h), mask_NxL)), self.rate, k)
        r = x_NxLxC if self.downsample is None else self.downsample(x_NxLxC).astype(jnp.float32)
        return materialize(jax.nn.relu(h + r))


class Encoder(nnx.Module):
    """Ticks of a chunk -> one vector: all blocks, then the mean over positions."""

    def __init__(self, config: Tcn, *, rngs: nnx.Rngs):
        width = config.in_features + (config.ticker_dim if config.num_tickers else 0)
        table = lambda: nnx.Param(jax.random.normal(rngs.params(), (config.num_tickers, config.ticker_dim)))
        self.ticker_embed = nnx.Dict(embedding=table()) if config.num_tickers else None
        self.layers = nnx.List(
            [Block(config.hidden if i else width, config, 2**i, rngs=rngs) for i in range(config.layers)]
        )

    def __call__(self, x_NxLxF, mask_NxL, tickers_NxL, key):
        """[N, L, F] -> [N, C]; mask None = every position counts; tickers below 0 have the zero vector."""
        x = x_NxLxF
        if self.ticker_embed is not None:
            vectors = self.ticker_embed['embedding'][jnp.maximum(tickers_NxL, 0)]
            x = jnp.concatenate([x, jnp.where(tickers_NxL[..., None] >= 0, vectors, 0)], axis=-1)
        for i, block in enumerate(self.layers):
            k = None if key is None else jax.random.fold_in(key, i)
            x = block(x, mask_NxL, k)
        if mask_NxL is None:
            return x.mean(1)
        count = jnp.maximum(mask_NxL.sum(1, keepdims=True), 1)
        return jnp.where(mask_NxL[..., None], x, 0).sum(1) / count


class Model(nnx.Module):
    """The parameter tree follows the original's names, so that export is a renaming."""

    def __init__(self, config: Tcn, *, rngs: nnx.Rngs):
        dtype = jnp.dtype(config.dtype)
        self.frame_encoder = nnx.Dict(encoder=Encoder(config, rngs=rngs))
        self.chunked_encoder = nnx.Dict(
            out_proj=nnx.Dict(
                {
                    '0': Dense(config.hidden + config.num_scalars, config.d_model, dtype=dtype, rngs=rngs),
                    '1': LayerNorm(config.d_model),
                }
            )
        )
        width = config.head_hidden
        self.rv_head = nnx.Dict(
            mlp=nnx.Dict(
                {
                    '0': Dense(config.d_model, width, rngs=rngs),
                    '1': LayerNorm(width),
                    '4': Dense(width, width, rngs=rngs),
                    '5': LayerNorm(width),
                    '8': Dense(width, config.horizons, rngs=rngs),
                }
            )
        )
        self.masked, self.head_dropout, self.remat_chunks = config.masked, config.head_dropout, config.remat_chunks

    def encode_chunks(self, chunks_NxLxF, weights_N, tickers_NxL=None, key=None):
        """[N, L, F] -> [N, C]."""
        size, count = self.remat_chunks, weights_N.shape[0]
        if not size or (isinstance(count, int) and count <= size):  # an exported program has any number of chunks
            return self._encode(key, (chunks_NxLxF, weights_N, tickers_NxL))
        # Chunks do not see each other, so slices of them bound the memory; a checkpoint a block would not on a CPU,
        # where XLA merges what is recomputed with what was computed.
        slices = -(-count // size)
        graph, state = nnx.split(self)
        cut = lambda x: jnp.pad(x, [(0, slices * size - count)] + [(0, 0)] * (x.ndim - 1)).reshape(
            slices, size, *x.shape[1:]
        )

        @jax.checkpoint
        def encode(state, item):
            k = None if key is None else jax.random.fold_in(key, item[0])
            return nnx.merge(graph, state)._encode(k, item[1])

        items = jnp.arange(slices), jax.tree.map(cut, (chunks_NxLxF, weights_N, tickers_NxL))
        _, e_SxNxC = jax.lax.scan(lambda s, item: (s, encode(s, item)), state, items)
        return e_SxNxC.reshape(slices * size, -1)[:count]

    def _encode(self, key, chunks):
        chunks_NxLxF, weights_N, tickers_NxL = chunks
        mask = jnp.arange(chunks_NxLxF.shape[1])[None] < weights_N[:, None] if self.masked else None
        return self.frame_encoder['encoder'](chunks_NxLxF, mask, tickers_NxL, key)

    def encode_frames(self, batch: Batch, key=None):
        """A batch of rows -> frame vectors [B, T, D]: chunks averaged by their tick counts, then projected."""
        B, K, L, F = batch['chunks'].shape
        T = batch['scalars'].shape[1]
        tickers = batch.get('tickers')
        e_NxC = self.encode_chunks(
            batch['chunks'].reshape(B * K, L, F),
            batch['weights'].reshape(B * K),
            None if tickers is None else tickers.reshape(B * K, L),
            key,
        )
        sums = jax.vmap(partial(jax.ops.segment_sum, num_segments=T))
        w_BxKx1 = batch['weights'][..., None]
        total_BxTx1 = sums(w_BxKx1, batch['frame'])
        p_BxTxC = sums(w_BxKx1 * e_NxC.reshape(B, K, -1), batch['frame']) / (total_BxTx1 + 1e-8)
        z = jnp.concatenate([p_BxTxC, jnp.log1p(batch['scalars'])], axis=-1)
        linear, norm = (self.chunked_encoder['out_proj'][i] for i in '01')
        return jax.nn.gelu(norm(linear(z)), approximate=False)

    def __call__(self, batch: Batch, key=None):
        """A batch of rows -> log(1 + vol) [B, H]: the mean over a row's frames, then the head."""
        keys = (None,) * 3 if key is None else jax.random.split(key, 3)
        out_BxTxD = self.encode_frames(batch, keys[0])
        mask_BxTx1 = batch['frame_mask'][..., None]
        x = jnp.where(mask_BxTx1, out_BxTxD, 0).sum(1) / jnp.maximum(mask_BxTx1.sum(1), 1)
        mlp = self.rv_head['mlp']
        for linear, norm, k in (('0', '1', keys[1]), ('4', '5', keys[2])):
            x = dropout(jax.nn.gelu(mlp[norm](mlp[linear](x)), approximate=False), self.head_dropout, k)
        return mlp['8'](x)


class TcnTask:
    """`fjq.task.Task` of a stream. A batch is what `fjq.data.ticks.tcn` documents."""

    bound_to = ('features', 'frame', 'chunk_len', 'tickers')  # not the horizon, to judge a forecast by another one too
    figures = ('mae', 'qlike')

    def __init__(self, config: Tcn):
        self.config = config
        self.pure = Pure(lambda rngs: Model(config, rngs=rngs))
        self.init = self.pure.init
        self.embedding = STREAMS[config.stream]

    def check_settings(self, data: TcnData) -> None:
        """Raises InputError where the data are of another stream, or of other widths or horizons than the model."""
        if data.stream != self.config.stream:
            raise InputError(
                f'the data are of the stream {data.stream} and the model of {self.config.stream}',
                column='task.stream',
                remedy=f'use configs/tcn_{self.config.stream}.py with this model',
            )
        wanted = {
            'horizons': (len(data.horizons), f'one output a horizon, data.horizons={list(data.horizons)}'),
            'num_tickers': (data.num_tickers, f'the vectors of data.num_tickers={data.num_tickers}'),
            'in_features': (CHANNELS, 'the features of a tick'),
            'num_scalars': (SCALARS, 'the figures of a frame'),
        }
        for field, (count, why) in wanted.items():
            if getattr(self.config, field) != count:
                raise InputError(
                    f'it is {getattr(self.config, field)}, not {count}: {why}',
                    column=f'task.{field}',
                    remedy=f'set --config.task.{field}={count}, or change the data',
                )

    def loss(self, params, extra, batch: Batch, key) -> Loss:
        output_BxH, _ = self.pure.apply(params, extra, Model.__call__, batch, key)
        target, mask = batch['target'], batch['target_mask'] & batch['mask'][:, None]
        y = jnp.log1p(jnp.where(mask, target, 0))
        if self.config.loss == 'huber':
            total, weight = huber(y, output_BxH, mask, delta=self.config.huber_delta)
        elif self.config.loss == 'mse':
            total, weight = mse(y, output_BxH, mask)
        elif self.config.loss == 'l1':
            total, weight = mae(y, output_BxH, mask)
        else:
            total, weight = _smooth_qlike(target, jnp.expm1(output_BxH), mask)
        volatility = read_volatility(output_BxH)
        metrics = {
            'mae': mae(target, volatility, mask),
            'qlike': qlike(target, volatility, mask, power=2, floor=SMALLEST_VOLATILITY),
        }
        return Loss(total, weight, metrics, extra)

    def predict(self, params, extra, batch: Batch, key=None) -> Point:
        output_BxH, _ = self.pure.apply(params, extra, Model.__call__, batch, None)
        return Point(read_volatility(output_BxH))

    def embed(self, params, extra, batch: Batch):
        """Frame vectors [B, T, D] for a downstream model (e_stk, e_opt, e_idx)."""
        return self.pure.apply(params, extra, Model.encode_frames, batch)[0]

    def torch_files(self, experiment: Experiment, weights: Weights) -> dict[str, dict]:
        """`tcn_{stream}_encoder.pt` and `tcn_{stream}_best.pt` with the original's keys in their order. The second has
        the optimiser only where it was Adam for all weights.

        Raises:
          InputError: a causal or masked encoder, which the PyTorch modules would compute as another function.
        """
        if self.config.causal or self.config.masked:
            raise InputError(
                'a causal or masked encoder is another function than the PyTorch modules compute',
                column='task.causal' if self.config.causal else 'task.masked',
                remedy='use the safetensors or StableHLO file in export/, which are written',
            )
        stream = self.config.stream
        encoder, best = (f'tcn_{stream}_{kind}.pt' for kind in ('encoder', 'best'))
        optimizer = _adamw(experiment, weights)
        if optimizer is None:
            say(f'{best} has no optimizer_state_dict: it is for AdamW, and another optimiser trained some weights')
        metrics = {
            'train_loss': weights.facts['train_loss'],
            'val_loss': weights.facts['validation'].get('loss', math.nan),
        }
        return {
            encoder: tcn_files.encoder_file(stream, weights.params),
            best: tcn_files.checkpoint_file(
                stream, weights.params, epoch=weights.step, optimizer=optimizer, scheduler=None, metrics=metrics
            ),
        }

    def encode_chunks(self, params, chunks_NxLxF, weights_N):
        """[N, L, F], [N] -> chunk vectors [N, C]."""
        return self.pure.apply(params, {}, Model.encode_chunks, chunks_NxLxF, weights_N)[0]


def read_volatility(output):
    """The head's log(1 + vol) as a volatility, kept positive."""
    return jnp.maximum(jnp.expm1(output), SMALLEST_VOLATILITY)


def _adamw(experiment: Experiment, weights: Weights) -> dict | None:
    """The optimiser of a run as PyTorch's AdamW; None where it was not Adam for all weights."""
    optim, adam = experiment.optim, find_adam(weights.state['opt'], weights.params)
    if adam is None:
        return None
    updates = int(adam['count'])
    return tcn_files.optimizer_state_dict(
        adam['mu'],
        adam['nu'],
        step=updates,
        learning_rate=float(make_schedule(optim, experiment.train.steps)(updates)),
        betas=optim.betas,
        eps=optim.eps,
        weight_decay=optim.weight_decay,
    )


def _smooth_qlike(target, prediction, mask):
    """QLIKE (Patton, 2011): x - log x - 1, x = (target / prediction)^2. Where the prediction is near 0, or so low that
    x overflows, as a new head's may be, log and the loss go on by their tangents."""
    floor = SMALLEST_VOLATILITY
    log_f = jnp.log(jnp.maximum(prediction, floor)) + jnp.minimum(prediction - floor, 0) / floor
    log_x = 2 * (jnp.log(jnp.where(mask, target, 1)) - jnp.where(mask, log_f, 0))
    steep = jnp.minimum(log_x, STEEPEST)
    loss = jnp.expm1(steep) - steep + jnp.expm1(STEEPEST) * (log_x - steep)
    return jnp.where(mask, loss, 0).sum(), mask.sum().astype(jnp.float32)
