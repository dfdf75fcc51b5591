"""The codes of a trained autoencoder of candles (fjq.models.candle_autoencoder), ordered by the return they decode to.

Candles are encoded on the CPU in slices of one size, so an id does not depend on the accelerator, on how many
candles there are, or on what comes after.
"""

import contextlib
import dataclasses
from typing import Any

import numpy as np

from fjq.config import from_dict, to_dict
from fjq.data.candles.files import Candles
from fjq.errors import InputError
from fjq.tokenizers.tokenizer import Tokenizer, fit_spread, last_time, training_inputs

SLICE = 4096  # candles encoded at once


@dataclasses.dataclass(kw_only=True)
class Learned:
    """The tokenizer of a run."""

    run: str = 'runs/microchat_tokenizer'  # its folder

    def open(self, candles: list[Candles], train: list[np.ndarray]) -> 'LearnedTokenizer':
        """Reads the run; on the rows where `train` is True only the spread around each code is fitted, for likelihoods.

        Raises:
          InputError: there is no such run, or it is of another model.
        """
        from fjq.models.candle_autoencoder import AutoencoderTask
        from fjq.trained import Trained

        trained = Trained.load(self.run)
        if not isinstance(trained.task, AutoencoderTask):
            raise InputError(
                f'it is a run of {trained.config.name}',
                file=self.run,
                column='tokenizer.run',
                remedy='name one of configs/microchat_tokenizer.py',
            )
        return make_tokenizer(trained, candles, train)


def make_tokenizer(trained: Any, candles: list[Candles], train: list[np.ndarray]) -> 'LearnedTokenizer':
    """The tokenizer of trained weights (`fjq.trained.Trained`)."""
    from fjq.paths import flatten

    extra = trained.task.current(trained.extra, True, False)
    arrays = {f'params/{n}': np.asarray(v) for n, v in flatten(trained.params).items()}
    arrays |= {f'extra/{n}': np.asarray(v) for n, v in flatten(extra).items() if _decides(n)}
    decay, first = trained.config.data.decay, float(extra['first_scale'])
    bare = LearnedTokenizer(trained.config.task, decay, first, arrays)
    inputs = training_inputs(candles, train, decay, first)
    spread = fit_spread(inputs, bare.encode_inputs(inputs), bare.table)
    tokenizer = LearnedTokenizer(trained.config.task, decay, first, arrays | {'spread': spread})
    valid_start, _ = trained.config.data.split.starts()
    tokenizer.fitted_until = max(valid_start - np.timedelta64(1, 'ns'), last_time(candles, train))
    return tokenizer


class LearnedTokenizer(Tokenizer):
    """See `fjq.tokenizers`. With the original's convolutions (`compat`) an id depends on the neighbours of its candle,
    also on the one that follows."""

    kind = 'learned'

    def __init__(self, config, decay: float, first: float, arrays: dict[str, np.ndarray]):
        """config: a CandleAutoencoder; arrays: params/..., extra/... and `spread` [V, 4]."""
        import jax

        self.config, self._arrays, self.looks_ahead = config, arrays, config.compat
        self._task = task = config.build()
        self._params, self._extra = (_nest(arrays, part) for part in ('params/', 'extra/'))
        self._encode = jax.jit(task.encode_ids)
        with _on_cpu():
            ids = np.arange(config.vocabulary, dtype=np.int32)[:, None]
            table = np.asarray(jax.jit(task.decode_ids)(self._params, self._extra, ids))[:, 0].astype(np.float64)
        order = np.argsort(table[:, 0], kind='stable')
        self._rank = np.argsort(order).astype(np.int32)
        name = f'{config.quantizer} {config.vocabulary}' + (', compat' if config.compat else '')
        super().__init__(name, decay, first, table[order], arrays.get('spread', np.ones((config.vocabulary, 4))))

    def encode_inputs(self, inputs_Nx5: np.ndarray) -> np.ndarray:
        x = np.asarray(inputs_Nx5, np.float32)
        pad = -len(x) % SLICE
        x, counts = np.pad(x, ((0, pad), (0, 0))), np.arange(len(x) + pad) < len(x)
        with _on_cpu():
            if self.config.compat:
                ids = [self._encode(self._params, self._extra, x[None], counts[None])]
            else:
                slices = (slice(i, i + SLICE) for i in range(0, len(x), SLICE))
                ids = [self._encode(self._params, self._extra, x[s, None], counts[s, None]) for s in slices]
        ids = np.concatenate([np.asarray(i).reshape(-1) for i in ids]) if ids else np.zeros(0, np.int32)
        return self._rank[ids[: len(ids) - pad]]

    def settings(self) -> dict[str, Any]:
        return {'task': to_dict(self.config), 'decay': self.decay, 'first_scale': self.first_scale}

    def arrays(self) -> dict[str, np.ndarray]:
        return self._arrays

    @classmethod
    def load(cls, settings: dict[str, Any], arrays: dict[str, np.ndarray]) -> 'LearnedTokenizer':
        return cls(from_dict(settings['task']), settings['decay'], settings['first_scale'], arrays)


def _decides(name: str) -> bool:
    """Whether this part of the state decides ids or candles."""
    return name in ('mean', 'std') or name.endswith('/embedding')


def _nest(arrays: dict[str, np.ndarray], prefix: str) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for name, value in arrays.items():
        if name.startswith(prefix):
            *folders, leaf = name.removeprefix(prefix).split('/')
            place = out
            for folder in folders:
                place = place.setdefault(folder, {})
            place[leaf] = value
    return out


@contextlib.contextmanager
def _on_cpu():
    """Exact float32 products on the CPU, or where JAX has none, on what it has."""
    import jax

    try:
        device = jax.devices('cpu')[0]
    except RuntimeError:
        device = jax.devices()[0]
    with jax.default_device(device), jax.default_matmul_precision('highest'):
        yield
