"""The autoencoder of candles whose codes are the tokens of the micro quant chat.

A candle's five features (fjq.tokenizers.features) go through an MLP to a vector, the vector to a code, the code through
an MLP back to features. One candle is one token, and no candle sees another: `compat` alone adds the original's
convolutions, whose symmetric one looks at the candle that follows. (van den Oord et al. 2017 and `fjq.nn.quantize`.)

What is forecast is the row's own candle, so an evaluation shows how much of each feature survives the code: R2 beside
the mean of training. Batches are those of `fjq.data.candles.windows`.

State outside the gradient: the features' mean and deviation on training rows, the volatility that scales an asset's
first candle, hits of every token (their average is the use of codes) and the codebooks of `vq` and `rvq`. An update's
sums are folded in when the next update begins; `prepare` marks which one a slice of a batch belongs to, so
micro-batches and devices change nothing.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from fjq.bridge import Pure
from fjq.checkpoint import Weights
from fjq.config import Experiment
from fjq.data.candles.windows import CandleWindows
from fjq.errors import InputError
from fjq.forecast import Point
from fjq.keys import make_key
from fjq.models import candle_files
from fjq.nn import quantize
from fjq.nn.conv import Conv1d
from fjq.nn.dense import Dense
from fjq.task import Batch, Loss
from fjq.tokenizers.features import NAMES

QUANTIZERS = ('vq', 'fsq', 'rvq', 'bsq')
FEATURES = len(NAMES)
START_ROWS = 20_000  # training candles that place the first codes
ROUNDS = 10  # of k-means
STD_EPS = 1e-8
REACH = 3  # candles up to its own that a token and its decoding see, with compat


@dataclasses.dataclass(kw_only=True)
class CandleAutoencoder:
    """Sizes and the kind of codes."""

    quantizer: str = 'vq'  # 'vq', 'fsq', 'rvq' or 'bsq'
    codes: int = 512  # of vq; of bsq, where it is a power of two
    levels: tuple[int, ...] = ()  # of fsq: levels of each channel (8, 8, 8); of rvq: codes of each level (32, 16)
    dim: int = 32  # of a vq or rvq vector
    hidden: int = 64
    layers: int = 2  # hidden layers of each MLP
    beta: float = 0.25  # weight of the distance between vectors and codes
    ema: float = 0.99  # decay of the averages of codes and hits
    revive: float = 0.05  # codes with fewer hits than this share of the mean are replaced; 0 = never
    entropy: float = 0.1  # bsq: weight of certain bits for a candle, even bits over a batch
    even: float = 1.1  # bsq: weight of the latter beside the former
    clip: float = 10.0  # normalised features beyond it are read as it; 0 = as they are
    compat: bool = False  # the original: convolutions over neighbours, averages that start at 0, no codes replaced

    def build(self) -> 'AutoencoderTask':
        if self.quantizer not in QUANTIZERS:
            raise InputError(f'task.quantizer is {self.quantizer!r}', remedy='choose one of ' + ', '.join(QUANTIZERS))
        least = {'fsq': 3, 'rvq': 2}.get(self.quantizer, 0)  # two levels of fsq lie too unevenly about nought
        if least and (not self.levels or min(self.levels) < least):
            raise InputError(f'task.levels is {self.levels}', remedy=f'give levels of {least} or more, such as 8,8,8')
        if self.quantizer == 'bsq' and (self.codes < 2 or self.codes & (self.codes - 1)):
            raise InputError(f'task.codes is {self.codes}', remedy='bsq needs a power of two')
        for name in ('codes', 'dim', 'hidden', 'layers'):
            if getattr(self, name) < 1:
                raise InputError(f'task.{name} is {getattr(self, name)}', remedy='make it 1 or more')
        if not 0 <= self.ema < 1:
            raise InputError(f'task.ema is {self.ema}', remedy='give a decay such as 0.99')
        for name in ('beta', 'revive', 'entropy', 'even', 'clip'):
            if not getattr(self, name) >= 0:
                raise InputError(f'task.{name} is {getattr(self, name)}', remedy='make it 0 or more')
        return AutoencoderTask(self)

    @property
    def vocabulary(self) -> int:
        """Number of tokens."""
        return math.prod(self.levels) if self.quantizer in ('fsq', 'rvq') else self.codes

    @property
    def width(self) -> int:
        """Channels of a code."""
        return {'fsq': len(self.levels), 'bsq': self.codes.bit_length() - 1}.get(self.quantizer, self.dim)

    @property
    def books(self) -> tuple[int, ...]:
        """Codes of each learned codebook."""
        return {'vq': (self.codes,), 'rvq': tuple(self.levels)}.get(self.quantizer, ())


class Coder(nnx.Module):
    """Dense layers with GELU between and, with `context`, z + Conv1(GELU(Conv3(z))) over time with zeros beyond the
    ends. The parameter tree follows the original's names, so that export is a renaming."""

    def __init__(self, sizes: list[int], context: int, *, rngs: nnx.Rngs):
        """context: channels of the convolutions; 0 = none."""
        pairs = zip(sizes[:-1], sizes[1:], strict=True)
        self.mlp = nnx.Dict({str(2 * i): Dense(a, b, rngs=rngs) for i, (a, b) in enumerate(pairs)})
        convolutions = lambda: {
            '0': Conv1d(context, context, 3, rngs=rngs),
            '2': Conv1d(context, context, 1, rngs=rngs),
        }
        self.context_conv = nnx.Dict(convolutions()) if context else None
        self.last = 2 * (len(sizes) - 2)

    def each(self, x):
        """The dense layers, candle by candle."""
        for i in range(0, self.last, 2):
            x = jax.nn.gelu(self.mlp[str(i)](x), approximate=False)
        return self.mlp[str(self.last)](x)

    def neighbours(self, z_BxTxC, counts_BxT):
        """The convolutions; nothing where there are none."""
        if self.context_conv is None:
            return z_BxTxC
        z_BxTxC = jnp.where(counts_BxT[..., None], z_BxTxC, 0)
        h = jax.nn.gelu(self.context_conv['0'](z_BxTxC), approximate=False)
        return z_BxTxC + self.context_conv['2'](h)


class Model(nnx.Module):
    """Encoder and decoder."""

    def __init__(self, config: CandleAutoencoder, *, rngs: nnx.Rngs):
        inner, context = [config.hidden] * config.layers, config.width if config.compat else 0
        self.encoder = Coder([FEATURES, *inner, config.width], context, rngs=rngs)
        self.decoder = Coder([config.width, *inner, FEATURES], context, rngs=rngs)

    def encode(self, x_BxTxF, counts_BxT):
        """Normalised features [B, T, 5] -> vectors [B, T, C]."""
        return self.encoder.neighbours(self.encoder.each(x_BxTxF), counts_BxT)

    def decode(self, q_BxTxC, counts_BxT):
        """Codes [B, T, C] -> normalised features [B, T, 5]."""
        return self.decoder.each(self.decoder.neighbours(q_BxTxC, counts_BxT))


class AutoencoderTask:
    """`fjq.task.Task` of candles."""

    def __init__(self, config: CandleAutoencoder):
        self.config = config
        self.pure = Pure(lambda rngs: Model(config, rngs=rngs))

    def init(self, key):
        """Codes start as in the original, U(-1/K, 1/K); `begin` places them."""
        params, _ = self.pure.init(key)
        ones, zeros = jnp.ones(FEATURES), jnp.zeros(self.config.vocabulary)
        extra = {'mean': jnp.zeros(FEATURES), 'std': ones, 'hits': zeros, 'new_hits': jnp.zeros_like(zeros)}
        extra |= {'updates': jnp.zeros((), jnp.int32), 'first_scale': jnp.ones(())}
        for i, size in enumerate(self.config.books):
            place = jax.random.uniform(jax.random.fold_in(key, i), (size, self.config.dim), jnp.float32, -1, 1) / size
            extra[f'book_{i}'] = quantize.make_codebook(place)
        return params, extra

    def check(self, dataset: CandleWindows) -> None:
        """Raises InputError where rows are too short for what a token sees."""
        if self.config.compat and dataset.config.context < REACH:
            raise InputError(
                f'a row of {dataset.config.context} candles does not hold the neighbours that compat looks at',
                column='data.context',
                remedy=f'make it {REACH}',
            )

    def begin(self, params, extra, dataset: CandleWindows):
        """Fits the normalisation to training rows and places the codes among their vectors by k-means.

        The averages start as if every code had been hit by its cluster's share of a batch, but with `compat` at zero.
        Weights that were trained before (`init_from`) keep the normalisation and codes that they were trained with.
        """
        if extra['updates'] > 0:
            return params, extra
        x = dataset.training_features()
        extra = dict(extra) | {'mean': jnp.float32(x.mean(0)), 'std': jnp.float32(x.std(0))}
        extra['first_scale'] = jnp.float32(dataset.first_scale)
        rng = np.random.Generator(np.random.Philox(0))
        some = x if len(x) <= START_ROWS else x[rng.choice(len(x), START_ROWS, replace=False)]
        left = np.asarray(self.vectors(params, extra, jnp.float32(some)[:, None], jnp.ones((len(some), 1), bool)))
        for i, size in enumerate(self.config.books):
            places, share = _cluster(left, size, 0 if self.config.compat else ROUNDS)
            book = quantize.make_codebook(places)
            if not self.config.compat:
                count = jnp.float32(share * dataset.rows_of_a_batch)
                book |= {'count': count, 'sum': book['embedding'] * count[:, None]}
            extra[f'book_{i}'] = book
            left = left - places[np.asarray(quantize.nearest(jnp.asarray(left), book['embedding']))]
        return params, extra

    def prepare(self, params, extra, batch: Batch, key) -> Batch:
        """Marks the update, draws what may replace unused codes, and for bsq the batch's chances of its bits."""
        rows, counts = batch['mask'].shape[0], _counts(batch)
        more = {
            'update': jnp.broadcast_to(extra['updates'], (rows,)),
            'draw': jax.random.uniform(key, counts.shape),
        }
        if self.config.quantizer == 'bsq':
            z = self.vectors(params, extra, batch['features'], counts)
            p_NxC = quantize.bsq_probability(quantize.unit(z))
            mean = jnp.where(counts.reshape(-1, 1), p_NxC, 0).sum(0) / jnp.maximum(counts.sum(), 1)
            more['chance'] = jnp.broadcast_to(mean, (rows, mean.shape[0]))
        return batch | more

    def loss(self, params, extra, batch: Batch, key) -> Loss:
        """Squared error of the normalised features plus what binds vectors and codes, a mean over candles."""
        c, counts = self.config, _counts(batch)
        training = 'update' in batch
        extra = self.current(extra, batch['update'][0] == extra['updates'] if training else True, training)
        x, take = self.normalise(extra, batch['features']), counts.reshape(-1)
        z = self.vectors(params, extra, batch['features'], counts)
        z, q, ids, digits, seen = self.quantize(extra, z)
        y = self._decode(params, quantize.straight_through(z, q) if c.books else q, counts)
        squared = jnp.where(counts[..., None], (y - x) ** 2, 0)
        commit = jnp.where(take[:, None], (z - jax.lax.stop_gradient(q)) ** 2, 0).sum() * FEATURES / z.shape[1]
        total, weight = squared.sum() + c.beta * commit, counts.sum().astype(jnp.float32) * FEATURES
        if c.quantizer == 'bsq':
            total += c.entropy * FEATURES * self._bit_entropy(z, batch.get('chance'), counts)
        if training:
            z = jax.lax.stop_gradient(z)
            draws = batch['draw'].reshape(-1)
            for i, (digit, vector) in enumerate(zip(digits, seen, strict=True)):
                hits = quantize.gather_hits(extra[f'book_{i}'], jax.lax.stop_gradient(vector), digit, take, draws)
                extra = extra | {f'book_{i}': hits}
            extra = extra | {'new_hits': extra['new_hits'].at[ids].add(take.astype(jnp.float32))}
        each = [(squared[..., f].sum(), weight / FEATURES) for f in range(FEATURES)]
        metrics = {'mse': (squared.sum(), weight), 'mse_return': each[0], 'mse_range': each[4]}
        metrics |= {'commit': (commit, weight), 'perplexity': (perplexity(extra['hits']) * weight, weight)}
        return Loss(total, weight, metrics, extra)

    def predict(self, params, extra, batch: Batch, key=None) -> Point:
        """The features of each row's last candle after their code, in the units of the data [B, 5]."""
        return Point(self.predict_all(params, extra, batch)[:, -1])

    def predict_all(self, params, extra, batch: Batch):
        """The features of every candle after their code, in the units of the data [B, T, 5]."""
        extra, counts = self.current(extra, True, False), _counts(batch)
        _, q, *_ = self.quantize(extra, self.vectors(params, extra, batch['features'], counts))
        return self._read(extra, self._decode(params, q, counts))

    def torch_files(self, experiment: Experiment, weights: Weights) -> dict[str, dict]:
        """`tokenizer_model.pt` as the original reads it; none of a model that the original does not have."""
        c = self.config
        if not (c.compat and c.quantizer == 'vq'):
            return {}
        extra = jax.tree.map(jnp.asarray, weights.extra)  # what NumPy sums has other last bits
        extra = jax.tree.map(np.asarray, self.current(extra, True, False))
        return {candle_files.FILE: candle_files.checkpoint_file(weights.params, extra, hidden=c.hidden)}

    def current(self, extra, due, mark: bool):
        """The state with the last update's sums folded in where they are `due`; `mark`: counts the update."""
        decay, revive = self.config.ema, 0.0 if self.config.compat else self.config.revive
        hits = decay * extra['hits'] + (1 - decay) * extra['new_hits']
        new = extra | {'hits': jnp.where(extra['new_hits'].sum() > 0, hits, extra['hits'])}
        new |= {'new_hits': jnp.zeros_like(hits), 'updates': extra['updates'] + (1 if mark else 0)}
        new |= {name: quantize.fold(book, decay, revive) for name, book in extra.items() if name.startswith('book_')}
        return jax.tree.map(lambda n, o: jnp.where(due, n, o), new, dict(extra))

    def normalise(self, extra, features):
        """(x - mean) / std, clipped."""
        shape = (1,) * (features.ndim - 1) + (FEATURES,)
        x = (features - extra['mean'].reshape(shape)) / (extra['std'] + STD_EPS).reshape(shape)
        return jnp.clip(x, -self.config.clip, self.config.clip) if self.config.clip else x

    def vectors(self, params, extra, features_BxTxF, counts_BxT):
        """Features in the units of the data -> vectors before their codes [B * T, C]."""
        x = self.normalise(extra, features_BxTxF)
        z, _ = self.pure.apply(params, {}, Model.encode, x, counts_BxT)
        return z.reshape(-1, z.shape[-1])

    def quantize(self, extra, z_NxC):
        """(vectors as they are compared with codes, codes, tokens [N], the digit and the vector of each codebook)."""
        c = self.config
        if c.quantizer == 'fsq':
            q, ids = quantize.fsq(z_NxC, c.levels)
            return q, q, ids, [], []
        if c.quantizer == 'bsq':
            u = quantize.unit(z_NxC)
            q, ids = quantize.bsq(u)
            return u, q, ids, [], []
        books = [extra[f'book_{i}']['embedding'] for i in range(len(c.books))]
        q, digits, seen = quantize.residual(z_NxC, books)
        return z_NxC, q, quantize.join_digits(digits, c.books), digits, seen

    def code_of(self, extra, ids_N):
        """Tokens -> codes [N, C]."""
        c = self.config
        if c.quantizer == 'fsq':
            return quantize.fsq_codes(ids_N, c.levels)
        if c.quantizer == 'bsq':
            return quantize.bsq_codes(ids_N, c.width)
        digits = quantize.split_digits(ids_N, c.books)
        return sum(extra[f'book_{i}']['embedding'][d] for i, d in enumerate(digits))

    def encode_ids(self, params, extra, features_BxTxF, counts_BxT):
        """Features in the units of the data -> tokens [B, T]; `extra` as `current` gives it."""
        ids = self.quantize(extra, self.vectors(params, extra, features_BxTxF, counts_BxT))[2]
        return ids.reshape(counts_BxT.shape)

    def decode_ids(self, params, extra, ids_BxT):
        """Tokens -> features in the units of the data [B, T, 5]."""
        codes = self.code_of(extra, ids_BxT.reshape(-1))
        return self._read(extra, self._decode(params, codes, jnp.ones(ids_BxT.shape, bool)))

    def _read(self, extra, y_BxTxF):
        return y_BxTxF * (extra['std'] + STD_EPS)[None, None] + extra['mean'][None, None]

    def _decode(self, params, q_NxC, counts_BxT):
        q_BxTxC = q_NxC.reshape(*counts_BxT.shape, -1)
        return self.pure.apply(params, {}, Model.decode, q_BxTxC, counts_BxT)[0]

    def _bit_entropy(self, u_NxC, chance_BxC, counts_BxT):
        """Entropy of each candle's bits, less `even` times that of the batch's, summed over candles.

        The latter is of the whole batch's chances of its bits, H(p): a slice gives its tangent H(p) + H'(p) (p_i - p),
        which has the value and the gradient of the whole. Without a batch to be of (validation) it is left out.
        """
        p_BxTxC = quantize.bsq_probability(u_NxC).reshape(*counts_BxT.shape, -1)
        entropy = quantize.binary_entropy(p_BxTxC)
        if chance_BxC is not None:
            p = jnp.clip(chance_BxC, 1e-6, 1 - 1e-6)[:, None]
            entropy -= self.config.even * (quantize.binary_entropy(p) + jnp.log((1 - p) / p) * (p_BxTxC - p))
        return jnp.where(counts_BxT[..., None], entropy, 0).sum()


def perplexity(hits_V):
    """exp of the entropy of the use of codes: how many are used as if evenly; 1 where nothing was counted."""
    p = hits_V / jnp.maximum(hits_V.sum(), 1e-30)
    return jnp.exp(-jnp.where(p > 0, p * jnp.log(jnp.where(p > 0, p, 1)), 0).sum())


def _counts(batch: Batch):
    """[B, T] candles that take part."""
    return batch['counts'] & batch['mask'][:, None]


def _cluster(z_NxC: np.ndarray, size: int, rounds: int) -> tuple[np.ndarray, np.ndarray]:
    """k-means from vectors drawn at random -> (places [K, C], share of the vectors of each [K]). Empty ones stay."""
    key = make_key(0, 'first codes')
    chosen = jax.random.choice(key, len(z_NxC), (size,), replace=len(z_NxC) < size)
    places, z = jnp.asarray(z_NxC)[chosen], jnp.asarray(z_NxC)
    for _ in range(rounds):
        hit = jax.nn.one_hot(quantize.nearest(z, places), size)
        count = hit.sum(0)[:, None]
        places = jnp.where(count > 0, hit.T @ z / jnp.maximum(count, 1), places)
    count = np.bincount(np.asarray(quantize.nearest(z, places)), minlength=size)
    return np.asarray(places), count / len(z_NxC)
