"""What all tokenizers share: the scale of their inputs, decoding by a table, and the likelihood of a candle."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from fjq.atomic import write_atomic
from fjq.data.candles.files import Candles
from fjq.errors import InputError
from fjq.tokenizers.features import FREE, candle_features, ewma_scale, rebuild

ARRAYS, SETTINGS = 'tokenizer.safetensors', 'tokenizer.json'
REMEDY = 'write it by --job=tokenize, or where it is that of a run, by the command that trained it'
PRIOR_ROWS = 10.0  # rows of the pooled spread that every code's own is mixed with
LEAST_SPREAD = 1e-3  # of a feature around its code, as a share of the deviation of all features of training


class Tokenizer:
    """Candles -> ids -> candles. A subclass gives `kind`, `encode_inputs`, `settings()` and `arrays()`.

    Attributes:
      name: what reports call it.
      vocabulary: number of ids, V.
      hash: 16 hexadecimal digits of everything that decides ids and candles.
      decay: of the EWMA of squared returns that scales the inputs; 1.0 = the scale is 1.
      first_scale: the scale of an asset's first candle.
      fitted_until: the time of the last candle that may have decided anything; NaT = of none, or it is not known.
      looks_ahead: whether an id depends on candles after its own.
    """

    kind: str
    fitted_until = np.datetime64('NaT', 'ns')
    looks_ahead = False

    def __init__(self, name: str, decay: float, first_scale: float, table_Vx5: np.ndarray, spread_Vx4: np.ndarray):
        """table: what each id alone decodes to; spread: standard deviation of the free features around it."""
        self.name, self.decay, self.first_scale = name, decay, first_scale
        self.table, self.spread = np.asarray(table_Vx5, np.float64), np.asarray(spread_Vx4, np.float64)
        self.vocabulary = len(self.table)

    def open(self, candles: list[Candles] = (), train: list[np.ndarray] = ()) -> 'Tokenizer':
        """Itself: it is fitted."""
        return self

    def encode_inputs(self, inputs_Nx5: np.ndarray) -> np.ndarray:
        """Scaled features [N, 5] in order of time -> ids int32 [N]."""
        raise AttributeError('encode_inputs')

    def settings(self) -> dict[str, Any]:
        """What a saved tokenizer is made from again, JSON ready."""
        raise AttributeError('settings')

    def arrays(self) -> dict[str, np.ndarray]:
        """The fitted values."""
        raise AttributeError('arrays')

    @property
    def hash(self) -> str:
        sha = hashlib.sha256(json.dumps({'kind': self.kind, **self.settings()}, sort_keys=True).encode())
        for name, values in sorted(self.arrays().items()):
            if name != 'spread':  # the noise around a code decides neither ids nor candles
                sha.update(name.encode() + np.ascontiguousarray(values).tobytes())
        return sha.hexdigest()[:16]

    def inputs(self, candles: Candles) -> np.ndarray:
        """Scaled features float64 [N, 5]."""
        return candle_features(candles.ohlc()) / self.scale(candles)[:-1, None]

    def encode(self, candles: Candles) -> np.ndarray:
        """int32 [N]: the id of each candle, of it and what came before it (and after it with `looks_ahead`)."""
        return self.encode_inputs(self.inputs(candles))

    def scale(self, candles: Candles) -> np.ndarray:
        """float64 [N + 1]: the volatility known before each candle; the last one is for the next, unseen candle."""
        return ewma_scale(candle_features(candles.ohlc())[:, 0], self.decay, self.first_scale)

    def features(self, ids: np.ndarray) -> np.ndarray:
        """float64 [..., 5]: what each id alone decodes to, in units of the scale."""
        return self.table[self._check(ids)]

    def decode(self, ids: np.ndarray, close: np.ndarray, scale: np.ndarray) -> np.ndarray:
        """ids [..., T] after `close` [...] with `scale` [...] before the first -> OHLC float64 [..., T, 4]."""
        return rebuild(self.features(ids)[..., :FREE], close, scale, self.decay)

    def log_density(self, candles: Candles, ids: np.ndarray) -> np.ndarray:
        """float64 [N]: log p(log_return, body and wicks | id), Gaussian around what the id decodes to.

        In units of the log prices themselves, so log p(token) plus it is one likelihood for every tokenizer.
        """
        spread = self.spread[self._check(ids)]
        z = (self.inputs(candles)[:, :FREE] - self.table[ids][:, :FREE]) / spread
        scale = self.scale(candles)[:-1]
        return -0.5 * (z**2 + np.log(2 * np.pi)).sum(1) - np.log(spread).sum(1) - FREE * np.log(scale)

    def save(self, folder: str | Path) -> None:
        """Writes what `fjq.tokenizers.load` reads."""
        from safetensors.numpy import save

        folder = Path(folder)
        settings = {'kind': self.kind, 'hash': self.hash, 'fitted_until': str(self.fitted_until), **self.settings()}
        for name, content in (
            (ARRAYS, save({n: np.ascontiguousarray(v) for n, v in self.arrays().items()})),
            (SETTINGS, json.dumps(settings, indent=1).encode()),
        ):
            write_atomic(folder / name, content)

    def _check(self, ids: np.ndarray) -> np.ndarray:
        ids = np.asarray(ids)
        bad = (ids < 0) | (ids >= self.vocabulary)
        if bad.any():
            place = int(bad.reshape(-1).argmax())
            raise InputError(
                f'token {int(ids.reshape(-1)[place])} at place {place} is not of the {self.vocabulary} of {self.name}',
                remedy=f'give tokens from 0 to {self.vocabulary - 1} of this tokenizer',
            )
        return ids


def first_scale(candles: list[Candles], train: list[np.ndarray]) -> float:
    """The root mean square log return of the training rows.

    Raises:
      InputError: no training row, or prices that never move.
    """
    returns = np.concatenate([candle_features(c.ohlc())[m, 0] for c, m in zip(candles, train, strict=True)])
    scale = float(np.sqrt(np.mean(returns**2))) if len(returns) else 0.0
    if not scale > 0:
        raise _no_scale('the prices never move' if len(returns) else 'there are no candles')
    return scale


def _no_scale(what: str) -> InputError:
    return InputError(f'{what} in the training span', column='split', remedy='move train_end or give more data')


def fit_spread(inputs_Nx5: np.ndarray, ids_N: np.ndarray, table_Vx5: np.ndarray) -> np.ndarray:
    """[V, 4] standard deviation of the training rows around what their id decodes to, mixed with the pooled one.

    It scales with the inputs: a bound in units of its own would be that of daily candles, and rule those of minutes.

    Raises:
      InputError: prices that never move.
    """
    least = LEAST_SPREAD * inputs_Nx5[:, :FREE].std()  # of all features, as one alone may never move (wicks of closes)
    if not least > 0:
        raise _no_scale('the prices never move')
    squares = (inputs_Nx5[:, :FREE] - table_Vx5[ids_N][:, :FREE]) ** 2
    count = np.bincount(ids_N, minlength=len(table_Vx5))[:, None]
    sums = np.stack([np.bincount(ids_N, s, minlength=len(table_Vx5)) for s in squares.T], -1)
    pooled = squares.mean(0)
    return np.maximum(np.sqrt((sums + PRIOR_ROWS * pooled) / (count + PRIOR_ROWS)), least)


def last_time(candles: list[Candles], train: list[np.ndarray]) -> np.datetime64:
    """Of the training rows of all assets."""
    return max(c.time[m].max() for c, m in zip(candles, train, strict=True) if m.any())


def training_inputs(candles: list[Candles], train: list[np.ndarray], decay: float, first: float) -> np.ndarray:
    """Scaled features [N, 5] of the training rows of all assets."""
    out = []
    for c, mask in zip(candles, train, strict=True):
        raw = candle_features(c.ohlc())
        out.append((raw / ewma_scale(raw[:, 0], decay, first)[:-1, None])[mask])
    return np.concatenate(out)


def read_saved(folder: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Settings and arrays of a saved tokenizer.

    Raises:
      InputError: it is absent or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return json.loads((folder / SETTINGS).read_text()), load_file(folder / ARRAYS)
    except (OSError, ValueError, SafetensorError) as e:
        raise InputError(f'no tokenizer can be read ({e})', file=folder, remedy=REMEDY) from e
