"""Candles as batches for the tokenizer's autoencoder: runs of candles of one asset, each told by its five features.

  features float32 [B, T, 5]   fjq.tokenizers.features in units of the volatility known before each candle
  counts   bool [B, T]         False: before the asset's first candle
  target   float32 [B, 5]      the features of the row's last candle; target_mask bool [B, 5]
  mask     bool [B], row int32 [B]

Training rows are `window` candles long and lie in the training span; others hold the `context` candles that a token
may see, the last of which is the row's. Nothing is fitted after the end of training: not even the first volatility.
"""

import dataclasses
import functools
import os
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from fjq.data.candles.files import CandleFiles, Candles, digest
from fjq.data.order import InOrder, Shuffled, take_share
from fjq.data.windows import Split
from fjq.errors import InputError
from fjq.log import say
from fjq.parallel import Parallel
from fjq.task import Batch, Shard
from fjq.tokenizers.bins import check_decay
from fjq.tokenizers.features import NAMES, candle_features, ewma_scale
from fjq.tokenizers.tokenizer import first_scale

if TYPE_CHECKING:
    import grain  # costs 0.6 s and brings jax

SPLITS = ('train', 'valid', 'test', 'all')


@dataclasses.dataclass(kw_only=True)
class CandleWindowData(CandleFiles):
    """Files of candles and how they become rows."""

    split: Split
    decay: float = 0.94  # of the volatility that scales the features; 1 = not scaled
    window: int = 64  # candles of a training row
    stride: int = 16  # candles between the training rows of an asset
    context: int = 1  # candles of any other row: 1, or 3 where tokens see their neighbours (`task.compat`)
    batch_rows: int = 32  # training rows of a batch
    eval_rows: int = 2048  # rows of any other batch

    def locate(self, cache: str | os.PathLike, parallel: Parallel) -> 'CandleWindowData':
        """These settings with the files that they mean; simulated data write them here."""
        return self

    def open(self, cache: str | os.PathLike, parallel: Parallel) -> 'CandleWindows':
        """Reads the candles.

        Raises:
          InputError: what is wrong with a file or a field.
        """
        for field in ('window', 'stride', 'context', 'batch_rows', 'eval_rows'):
            if getattr(self, field) < 1:
                raise InputError(f'{getattr(self, field)} is too few', column=field, remedy='make it 1 or more')
        check_decay(self.decay)
        return CandleWindows(self, self.read(parallel))

    def from_table(self, table: pa.Table) -> 'CandleWindows':
        """Candles in memory as rows of the split 'all'; the first volatility is that of the files."""
        scale = CandleWindows(self, self.read(Parallel(workers=1))).first_scale
        return CandleWindows(self, self.as_kind(CandleFiles, assets=()).from_table(table), scale)


class CandleWindows:
    """`fjq.task.Dataset` of candles. A row of `rows(split)` is a candle, its target its own five features.

    Attributes:
      candles: the assets, by id.
      in_train: bool [N] an asset: its candles of the training span.
      first_scale: the volatility of an asset's first candle, of training rows.
    """

    def __init__(self, config: CandleWindowData, candles: list[Candles], scale: float = 0.0):
        """scale: the first volatility; 0 = fitted."""
        self.config, self.candles = config, candles
        self._asset = np.repeat(np.arange(len(candles)), [len(c) for c in candles])
        self._start = np.concatenate([[0], np.cumsum([len(c) for c in candles])])
        self._time = np.concatenate([c.time for c in candles])
        self._given = scale

    @functools.cached_property
    def first_scale(self) -> float:
        if self._given or self.config.decay == 1:
            return self._given or 1.0
        return first_scale(self.candles, self.in_train)

    @functools.cached_property
    def in_train(self) -> list[np.ndarray]:
        return np.split(self._parts.train, self._start[1:-1])

    def training_features(self) -> np.ndarray:
        """float32 [N, 5] of every training candle."""
        return self._features[self._parts.train]

    @property
    def rows_of_a_batch(self) -> int:
        """Candles of a training batch."""
        return self.config.batch_rows * self.config.window

    def train(self, seed: int, shard: Shard) -> 'grain.MapDataset':
        """Endless; each epoch is a permutation of the training windows."""
        import grain

        ends = self._training_ends()
        return grain.MapDataset.source(
            _Source(self, 'train', Shuffled(ends, self.config.batch_rows, seed), self.config.window, shard)
        )

    def batches(self, split: str, shard: Shard) -> 'grain.MapDataset':
        """Every candle of a split, in order of time."""
        import grain

        order = InOrder(self._places(split), self.config.eval_rows)
        return grain.MapDataset.source(_Source(self, split, order, self.config.context, shard))

    def rows(self, split: str) -> dict[str, np.ndarray]:
        """id, time [N], target float64 [N, 5], valid, label_end [N, 5], horizon: the names of the features."""
        at = self._places(split)
        target = self._features[at].astype(np.float64)
        return {
            'id': np.array([c.id for c in self.candles])[self._asset[at]],
            'time': self._time[at],
            'target': target,
            'valid': np.ones(target.shape, bool),
            'label_end': np.repeat(self._time[at][:, None], len(NAMES), 1),
            'horizon': np.array(NAMES),
        }

    def history(self) -> dict[str, np.ndarray]:
        """time, id, open, high, low, close, volume of all assets [M]."""
        names = ('open', 'high', 'low', 'close', 'volume')
        columns = {n: np.concatenate([getattr(c, n) for c in self.candles]) for n in names}
        return {'time': self._time, 'id': np.array([c.id for c in self.candles])[self._asset], **columns}

    def fingerprint(self) -> dict[str, Any]:
        """Equal for equal batches."""
        names = ('decay', 'window', 'stride', 'context', 'batch_rows', 'eval_rows')
        settings = {n: getattr(self.config, n) for n in names}
        return {'candles': digest(self.candles), **settings, 'split': dataclasses.asdict(self.config.split)}

    @functools.cached_property
    def _features(self) -> np.ndarray:
        out = []
        for c in self.candles:
            raw = candle_features(c.ohlc())
            out.append(raw / ewma_scale(raw[:, 0], self.config.decay, self.first_scale)[:-1, None])
        return np.concatenate(out).astype(np.float32)

    @functools.cached_property
    def _parts(self):
        parts = self.config.split.parts(self._time, self._time)
        say(', '.join(f'{n} {int(getattr(parts, n).sum()):,}' for n in ('train', 'valid', 'test')) + ' candles')
        return parts

    def _places(self, split: str) -> np.ndarray:
        if split not in SPLITS:
            raise InputError(f'unknown split {split!r}', remedy='choose one of ' + ', '.join(SPLITS))
        mask = np.ones(len(self._time), bool) if split == 'all' else getattr(self._parts, split)
        at = np.flatnonzero(mask)
        return at[np.argsort(self._time[at], kind='stable')]

    def _training_ends(self) -> np.ndarray:
        """The last candles of the training windows, `stride` apart, counted from an asset's last training candle."""
        c, out = self.config, []
        for start, mask in zip(self._start, self.in_train, strict=False):
            n = int(mask.sum())  # a prefix: the split is by time
            out.append(start + np.arange(n - 1, c.window - 2, -c.stride)[::-1])
        ends = np.concatenate(out)
        if not len(ends):
            raise InputError(
                f'no asset has {c.window} candles to train on', column='window', remedy='make it shorter, or give more'
            )
        return ends


@dataclasses.dataclass(frozen=True)
class _Source:
    """Random access to whole batches. order: step -> places of the last candles [B], -1 = padding; length: T."""

    data: CandleWindows
    split: str
    order: Any
    length: int
    shard: Shard

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, step: int) -> Batch:
        d, at = self.data, take_share(self.order(int(step)), self.shard)
        mask = at >= 0
        end = np.where(mask, at, 0)
        place = end[:, None] + np.arange(1 - self.length, 1)
        counts = (place >= d._start[d._asset[end]][:, None]) & mask[:, None]
        features = np.where(counts[..., None], d._features[np.maximum(place, 0)], np.float32(0))
        return {
            'features': features,
            'counts': counts,
            'target': features[:, -1],
            'target_mask': np.repeat(mask[:, None], len(NAMES), 1),
            'mask': mask,
            'row': np.where(mask, self._row[end], -1).astype(np.int32),
        }

    @functools.cached_property
    def _row(self) -> np.ndarray:
        """The row of each candle in its split."""
        at = self.data._places(self.split)
        row = np.full(len(self.data._time), -1)
        row[at] = np.arange(len(at))
        return row
