"""Windows of tokens as batches: rows packed by asset for training, and rows of a context with its future.

Packed rows, of L + 1 tokens with L targets:
  tokens int32 [B, L+1], segment int32 [B, L+1] (0 = padding, equal number = same asset), counts bool [B, L]: targets
  tokens[:, 1:] that count; mask bool [B], row int32 [B] (the number of the window within its epoch, -1 = padding)

Rows that forecast, with L + 1 = context + horizon: the same, and
  target float32 [B, H], target_mask bool [B, H]: cumulative log returns of the closes after each of H horizons
  returns float32 [B, horizon], returns_mask: the log return of each future candle
  token_return float32 [B, V]: the decoded log return of each token, in units of `scale`
  scale float32 [B], scale_decay float32 [B]: of the first future candle, and the decay of its square after that
  close float32 [B]: of the last candle of the context
tokens[:, :context] is the prompt. A future that is not there, or is hidden, is token 0 that does not count.

Where assets have marks, the first token of each segment of a row is the mark of its asset in place of its candle's: it
is no target in that row, so no target is lost and every length stays what it is.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from fjq.data.order import STEPS, take_share
from fjq.task import Batch, Shard


class Runs(NamedTuple):
    """Tokens of A assets, one after the other. token: int32 [T]; asset: number of each [A]; length: [A] above 0; mark:
    the id of each [A], None = no marks."""

    token: np.ndarray
    asset: np.ndarray
    length: np.ndarray
    mark: np.ndarray | None = None


class Layout(NamedTuple):
    """How an epoch is cut. asset: order of the runs [A]; lead: positions before the first; window: order [W]."""

    asset: np.ndarray
    lead: int
    window: np.ndarray


@dataclasses.dataclass(frozen=True)
class PackedSource:
    """Endless batches. Each epoch lays the runs in another order, cuts the line at another phase into rows of which
    each begins with the last token of the one before, and shuffles them: every token but the first of each asset is a
    target once an epoch, and no target's context is of another asset.

    length: L. Every batch is a pure function of (runs, seed, step).
    """

    runs: Runs
    length: int
    rows: int
    seed: int
    shard: Shard

    def __len__(self) -> int:
        return STEPS

    @property
    def windows(self) -> int:
        """Rows an epoch."""
        return count_windows(len(self.runs.token), self.length)

    def __getitem__(self, step: int) -> Batch:
        whole = np.arange(self.rows, dtype=np.int64) + int(step) * self.rows
        epoch, place = np.divmod(take_share(whole, self.shard), self.windows)
        parts = [self._cut(e, place[epoch == e]) for e in range(epoch[0], epoch[-1] + 1)]
        return {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}

    def _cut(self, epoch: int, place: np.ndarray) -> Batch:
        runs, L = self.runs, self.length
        layout = lay_out(self.seed, epoch, len(runs.asset), L, self.windows)
        window = layout.window[place]
        length = runs.length[layout.asset]
        ends = np.cumsum(length)
        position = window[:, None] * L - layout.lead + np.arange(L + 1)
        there = (position >= 0) & (position < ends[-1])
        position = np.clip(position, 0, ends[-1] - 1)
        which = np.searchsorted(ends, position, side='right')
        first = np.cumsum(runs.length) - runs.length  # of each run, in `runs.token`
        place_in_run = position - (ends - length)[which]
        token = runs.token[first[layout.asset][which] + place_in_run]
        segment = np.where(there, runs.asset[layout.asset][which] + 1, 0)
        same = segment[:, 1:] == segment[:, :-1]
        if runs.mark is not None:
            start = np.concatenate([np.ones((len(same), 1), bool), ~same], 1)
            token = np.where(start, runs.mark[layout.asset][which], token)
        counts = there[:, 1:] & same
        mask = counts.any(1)
        return {
            'tokens': np.where(there, token, 0).astype(np.int32),
            'segment': segment.astype(np.int32),
            'counts': counts,
            'mask': mask,
            'row': np.where(mask, window, -1).astype(np.int32),
        }


def count_windows(tokens: int, length: int) -> int:
    """Rows of `length` targets that hold `tokens` at any phase."""
    return -(-(tokens + length - 2) // length)


@functools.lru_cache(maxsize=8)
def lay_out(seed: int, epoch: int, assets: int, length: int, windows: int) -> Layout:
    rng = np.random.Generator(np.random.Philox(key=[seed, epoch]))
    return Layout(rng.permutation(assets), int(rng.integers(length)), rng.permutation(windows))


class Line(NamedTuple):
    """The candles of all assets, one asset after the other, as forecasts need them: M candles, V tokens.

    token: int32 [M]. close: float64 [M]. scale: float64 [M], of the candle AFTER each. left: int64 [M], how many
    candles of the asset follow. returns: float64 [V], decoded log return of each token in units of scale. mark: int32
    [M], the id of the asset's mark, None = no marks.
    """

    token: np.ndarray
    close: np.ndarray
    scale: np.ndarray
    left: np.ndarray
    returns: np.ndarray
    decay: float
    mark: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class ForecastSource:
    """Rows of a context and its future, each given by the place of its last context candle.

    at: place in `line` of each row [N]. order: step -> numbers of rows [B], -1 = padding.
    scored: 'all' targets count, only the 'future', or 'none': then the future is hidden, as for a forecast of today.
    """

    line: Line
    at: np.ndarray
    order: Callable[[int], np.ndarray]
    shard: Shard
    context: int
    horizons: tuple[int, ...]
    scored: str

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, step: int) -> Batch:
        row = take_share(self.order(int(step)), self.shard)
        mask = row >= 0
        line, C, horizon = self.line, self.context, max(self.horizons)
        at = self.at[np.maximum(row, 0)]
        left = np.where(mask & (self.scored != 'none'), line.left[at], 0)
        step_there = np.arange(1, horizon + 1) <= left[:, None]
        there = np.concatenate([np.repeat(mask[:, None], C, 1), step_there], 1)
        place = at[:, None] + np.arange(1 - C, horizon + 1)
        place = np.where(there, place, at[:, None])
        token = line.token[place]
        if line.mark is not None:
            token[:, 0] = line.mark[at]
        counts = there[:, 1:].copy()
        if self.scored == 'future':
            counts[:, : C - 1] = False
        log_close = np.log(line.close)[place[:, C - 1 :]]
        ahead = np.array(self.horizons)
        target_mask = step_there[:, ahead - 1]
        target = np.where(target_mask, log_close[:, ahead] - log_close[:, :1], 0)
        return {
            'tokens': np.where(there, token, 0).astype(np.int32),
            'segment': np.repeat(mask[:, None], C + horizon, 1).astype(np.int32),
            'counts': counts & (self.scored != 'none'),
            'mask': mask,
            'row': row.astype(np.int32),
            'target': target.astype(np.float32),
            'target_mask': target_mask,
            'returns': np.where(step_there, np.diff(log_close), 0).astype(np.float32),
            'returns_mask': step_there,
            'token_return': np.repeat(line.returns[None], len(row), 0).astype(np.float32),
            'scale': np.where(mask, line.scale[at], 1).astype(np.float32),
            'scale_decay': np.full(len(row), line.decay, np.float32),
            'close': np.where(mask, line.close[at], 1).astype(np.float32),
        }
