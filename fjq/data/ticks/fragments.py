"""Rows of TCN batches: fragments of days, cut at frames, padded to static shapes, one whole batch a Grain index.

A batch of B rows with K chunks and T frames, both the smallest bucket that holds every row of the whole batch:
  chunks float32 [B, K, L, 3], weights float32 [B, K], frame int32 [B, K] (index within the row)
  scalars float32 [B, T, 3], frame_mask bool [B, T]
  tickers int32 [B, K, L], -1 = none (only where the bank has them)
  target float32 [B, H] (0 where unknown), target_mask bool [B, H], mask bool [B], row int32 [B] (-1 for padding)
Padded chunks have weight 0 and frame 0; a padded row is all zeros.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from fjq.data.order import take_share
from fjq.data.ticks.frames import Frames
from fjq.errors import InputError
from fjq.task import Batch, Shard


class DayStore(Protocol):
    """Where the arrays of framed days are: a bank, or memory."""

    def read(self, day: int, name: str, start: int, out: np.ndarray) -> None:
        """Fills `out` with rows of one of a day's arrays, from row `start` on."""


class MemoryDays(NamedTuple):
    """Framed days in memory."""

    days: Sequence[Frames]

    def read(self, day: int, name: str, start: int, out: np.ndarray) -> None:
        out[...] = getattr(self.days[day], name)[start : start + len(out)]


class Fragments(NamedTuple):
    """N runs of frames, all int32 [N]: the day, the first frame and chunk, and how many there are."""

    day: np.ndarray
    frame: np.ndarray
    frames: np.ndarray
    chunk: np.ndarray
    chunks: np.ndarray


class Labels(NamedTuple):
    """What is to be predicted on D days: target float32 [D, H], mask bool [D, H], row int32 [D], -1 = none."""

    target: np.ndarray
    mask: np.ndarray
    row: np.ndarray


def cut_days(counts: Sequence[np.ndarray], max_chunks: int, max_frames: int, dates: Sequence) -> Fragments:
    """Cuts each day into as few runs of frames as the limits allow, of nearly equal size.

    Args:
      counts: for each day, the chunks of each frame [T].
      dates: of the days, for the message.

    Raises:
      InputError: a frame with more than `max_chunks` chunks. A frame is never cut, thinned or left out: a row would
        then not hold what its label is about.
    """
    parts = []
    for day, count in enumerate(counts):
        if len(count) and count.max() > max_chunks:
            most = max(int(c.max(initial=0)) for c in counts)
            raise InputError(
                f'frame {int(np.argmax(count))} of {dates[day]} has {count.max():,} chunks, a row holds {max_chunks:,}',
                column='chunk_buckets',
                remedy=f'make the last bucket {most:,} or more, shorten the frame, or read fewer tickers',
            )
        ends = np.concatenate([[0], np.cumsum(count, dtype=np.int64)])
        bounds = _cut(ends, max_chunks, max_frames)
        parts.append(
            (np.full(len(bounds) - 1, day), bounds[:-1], np.diff(bounds), ends[bounds[:-1]], np.diff(ends[bounds]))
        )
    columns = zip(*parts, strict=True) if parts else [[np.zeros(0)]] * 5
    return Fragments(*(np.concatenate(c).astype(np.int32) for c in columns))


def _cut(ends: np.ndarray, max_chunks: int, max_frames: int) -> np.ndarray:
    """Bounds of the runs: no more runs than with full ones, and the largest as small as it can be."""
    fewest = _fill(ends, max_chunks, max_frames)
    low, high = 1, max_chunks
    while low < high:
        middle = (low + high) // 2
        bounds = _fill(ends, middle, max_frames)
        if bounds is not None and len(bounds) <= len(fewest):
            high = middle
        else:
            low = middle + 1
    return _fill(ends, high, max_frames)


def _fill(ends: np.ndarray, max_chunks: int, max_frames: int) -> np.ndarray | None:
    """Bounds of runs that are each as long as the limits allow; None where a frame is larger than a run."""
    bounds, last = [0], len(ends) - 1
    while bounds[-1] < last:
        fits = int(np.searchsorted(ends, ends[bounds[-1]] + max_chunks, side='right')) - 1
        stop = min(fits, bounds[-1] + max_frames)
        if stop == bounds[-1]:
            return None
        bounds.append(stop)
    return np.array(bounds)


@dataclasses.dataclass(frozen=True)
class BatchSource:
    """Random access to whole batches, for `grain.MapDataset.source`; it holds no open file and pickles.

    order: step -> places in `fragments` [B], -1 = padding.
    chunk_buckets, frame_buckets: the static K and T, ascending.
    chunk_len: L.
    """

    store: DayStore
    fragments: Fragments
    labels: Labels
    order: Callable[[int], np.ndarray]
    shard: Shard
    chunk_buckets: tuple[int, ...]
    frame_buckets: tuple[int, ...]
    chunk_len: int
    tickers: bool = False

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, step: int) -> Batch:
        whole = self.order(int(step))
        real = whole[whole >= 0]  # shapes come from the whole batch, so that all processes agree
        K = pick_bucket(self.chunk_buckets, self.fragments.chunks[real].max(initial=0))
        T = pick_bucket(self.frame_buckets, self.fragments.frames[real].max(initial=0))
        return self._assemble(take_share(whole, self.shard), K, T)

    def _assemble(self, which: np.ndarray, K: int, T: int) -> Batch:
        B, L = len(which), self.chunk_len
        chunks = np.empty((B, K, L, 3), np.float32)
        weights, frame = np.zeros((B, K), np.float32), np.zeros((B, K), np.int32)
        scalars = np.zeros((B, T, 3), np.float32)
        tickers = np.full((B, K, L), -1, np.int32) if self.tickers else None
        mask = which >= 0
        f = Fragments(*(np.where(mask, column[which], 0) for column in self.fragments))
        for b in range(B):
            k, t = int(f.chunks[b]), int(f.frames[b])
            chunks[b, k:] = 0
            if k == 0:
                continue
            day, start = int(f.day[b]), int(f.chunk[b])
            self.store.read(day, 'chunks', start, chunks[b, :k])
            self.store.read(day, 'weights', start, weights[b, :k])
            self.store.read(day, 'frame', start, frame[b, :k])
            frame[b, :k] -= f.frame[b]
            self.store.read(day, 'scalars', int(f.frame[b]), scalars[b, :t])
            if tickers is not None:
                self.store.read(day, 'tickers', start, tickers[b, :k])
        target_mask = self.labels.mask[f.day] & mask[:, None]
        batch = {
            'chunks': chunks,
            'weights': weights,
            'frame': frame,
            'scalars': scalars,
            'frame_mask': np.arange(T) < f.frames[:, None],
            'target': np.where(target_mask, self.labels.target[f.day], np.float32(0)),
            'target_mask': target_mask,
            'mask': mask,
            'row': np.where(mask, self.labels.row[f.day], -1).astype(np.int32),
        }
        return batch if tickers is None else {**batch, 'tickers': tickers}


def pick_bucket(buckets: tuple[int, ...], size: int) -> int:
    """The smallest bucket that holds `size`."""
    return next(b for b in buckets if b >= size)
