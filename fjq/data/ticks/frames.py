"""Ticks of a day as frames of 10 seconds, cut into chunks of 256 ticks with three features each.

'compat' has the features of the original program, all of one frame:
  price   ln(p_j / p_0); 0 where p_j or p_0 is 0
  size    log1p(s), as z-scores over the frame (as it is where all are equal); s of an index is |p_j - p_{j-1}| of
          neighbouring ticks, 0 for the first
  time    log1p(el_j / median of the positive el), el_j = t_j - t_0 in seconds; median 0.001 where none is positive
  scalars ticks; sum p s; sum s. Index: ticks; ticks x variance of p; sum s
'v2' keeps the tickers apart, whose ticks a frame mixes:
  price   log return since the ticker's previous tick of the day, in units of 10 basis points; 0 for its first tick
          and where one of the two prices is 0 (no print yet)
  size    sign of that return x log1p(s), divided by its root mean square over the frame; s of an index is the
          ticker's |change of price|
  time    log1p of the milliseconds since the previous tick of the day; 0 for the first
  scalars as compat. Index: ticks; sum of squared returns; sum of |returns|
A frame never depends on a later one. Sums are taken in float64, what leaves is float32.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from fjq.data.clock import SECOND
from fjq.data.ticks.files import Ticks, sort_ticks
from fjq.errors import InputError

FEATURES = ('compat', 'v2')
CHANNELS = 3  # features of a tick, of either kind: price, size, time
SCALARS = 3  # figures of a frame: ticks, notional, volume
UNITS = {'ms': SECOND // 1000, 's': SECOND, 'min': 60 * SECOND}
BLOCK_TICKS = 2**15  # ticks worked on at a time
RETURN_UNIT = 1e-3  # raw returns of 1e-4 would vanish beside the biases of the first convolution
MIN_MEDIAN = np.float32(1e-3)  # seconds


class Frames(NamedTuple):
    """The T frames of a day that hold ticks, as K chunks in time order.

    chunks: float32 [K, chunk_len, 3], zero after the last tick of a frame.
    weights: float32 [K], ticks in the chunk, 1..chunk_len.
    frame: int32 [K], index of the chunk's frame, ascending.
    scalars: float32 [T, 3], raw, >= 0.
    time: int64 [T], start of the frame's interval, ns since 1970 UTC.
    tickers: int32 [K, chunk_len], each tick's place in the vocabulary, -1 = none; None without a vocabulary.
    """

    chunks: np.ndarray
    weights: np.ndarray
    frame: np.ndarray
    scalars: np.ndarray
    time: np.ndarray
    tickers: np.ndarray | None


def frame_day(
    ticks: Ticks,
    *,
    features: str = 'compat',
    frame: str = '10s',
    chunk_len: int = 256,
    vocabulary: tuple[str, ...] | None = None,
) -> Frames:
    """Frames of one day's ticks in the order (time, ticker); intervals without a tick make no frame.

    Args:
      features: 'compat' or 'v2', see the top of this file.
      frame: length of a frame, as '500ms', '10s', '1min'.
      vocabulary: tickers that have a place of their own (None = give no places).

    Raises:
      InputError: an unknown choice.
    """
    if features not in FEATURES:
        raise InputError(
            f'unknown choice {features!r}', column='features', remedy='choose one of ' + ', '.join(FEATURES)
        )
    ticks = sort_ticks(ticks)
    length = parse_frame(frame)
    bucket = ticks.time // length
    start = np.flatnonzero(np.append(True, bucket[1:] != bucket[:-1])) if len(bucket) else np.zeros(0, np.int64)
    counts = np.diff(start, append=len(bucket))
    pieces = -(-counts // chunk_len)  # chunks in each frame
    ends = np.cumsum(pieces)
    total = int(ends[-1]) if len(ends) else 0

    chunks = np.zeros((total * chunk_len, CHANNELS), np.float32)
    scalars = np.zeros((len(start), SCALARS), np.float32)
    tickers = known = None
    if vocabulary is not None:
        places = {name: i for i, name in enumerate(vocabulary)}
        known = np.array([places.get(n, -1) for n in ticks.names], np.int32)
        tickers = np.full(total * chunk_len, -1, np.int32)
    if features == 'v2':
        returns, moves = _returns(ticks)
    for low, high in _blocks(start):
        first = start[low]
        run = slice(first, start[high] if high < len(start) else len(bucket))
        part = ticks._replace(
            ticker=ticks.ticker[run],
            time=ticks.time[run],
            price=ticks.price[run],
            size=None if ticks.size is None else ticks.size[run],
        )
        seg = _Segments(start[low:high] - first, counts[low:high])
        if features == 'v2':
            before = ticks.time[max(first - 1, 0)]
            values, scalars[low:high] = _v2(part, seg, returns[run], moves[run], before)
        else:
            values, scalars[low:high] = _compat(part, seg)
        # each tick's place in the padded chunks
        place = seg.spread((ends[low:high] - pieces[low:high]) * chunk_len - seg.start) + np.arange(len(part.time))
        for channel, value in enumerate(values):
            chunks[place, channel] = value
        if tickers is not None:
            tickers[place] = known[part.ticker]
    weights = np.full(total, chunk_len, np.float32)
    weights[ends - 1] = counts - (pieces - 1) * chunk_len
    return Frames(
        chunks=chunks.reshape(total, chunk_len, CHANNELS),
        weights=weights,
        frame=np.repeat(np.arange(len(start), dtype=np.int32), pieces),
        scalars=scalars,
        time=bucket[start] * length,
        tickers=None if tickers is None else tickers.reshape(total, chunk_len),
    )


def _blocks(start: np.ndarray) -> Iterator[tuple[int, int]]:
    """Runs of whole frames with about BLOCK_TICKS ticks, whose arrays stay in the processor's cache."""
    low = 0
    while low < len(start):
        high = max(int(np.searchsorted(start, start[low] + BLOCK_TICKS)), low + 1)
        yield low, high
        low = high


def parse_frame(frame: str) -> int:
    """The length of a frame in ns: a whole number and ms, s or min."""
    number = frame.rstrip('abcdefghijklmnopqrstuvwxyz')
    unit = UNITS.get(frame[len(number) :])
    if not (number.isascii() and number.isdigit() and int(number)) or unit is None:
        raise InputError(
            f'{frame!r} is no length of a frame', column='frame', remedy='write one such as 500ms, 10s or 1min'
        )
    return int(number) * unit


class _Segments(NamedTuple):
    """The runs of ticks that make the frames: start and length [T]."""

    start: np.ndarray
    length: np.ndarray

    def sum(self, x: np.ndarray) -> np.ndarray:
        """Sum over each run, float64 [T]."""
        return np.add.reduceat(x, self.start, dtype=np.float64)

    def spread(self, x: np.ndarray) -> np.ndarray:
        """Each run's value at each of its ticks [N]."""
        return np.repeat(x, self.length)

    def variance(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Deviations from the run's mean [N], population variance [T], float64; exactly 0 where all are equal."""
        deviation = x - self.spread(self.sum(x) / self.length)
        return deviation, self.sum(deviation * deviation) / self.length


def _compat(ticks: Ticks, seg: _Segments) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
    """The three features [N] each and the scalars [T, 3]."""
    price = ticks.price.astype(np.float32)
    if ticks.size is None:
        size = np.abs(np.diff(price, prepend=price[:1]))
        size[seg.start] = 0
        notional = seg.variance(price)[1] * seg.length
    else:
        size = ticks.size.astype(np.float32)
        notional = seg.sum(price.astype(np.float64) * size)
    base = seg.spread(price[seg.start])
    ratio = np.ones_like(price)
    np.divide(price, base, out=ratio, where=(price > 0) & (base > 0))

    logs = np.log1p(size)
    deviation, variance = seg.variance(logs)
    spread = seg.spread(np.sqrt(variance))
    np.divide(deviation, spread, out=deviation, where=spread > 0)
    scores = np.where(spread > 0, deviation, logs)

    elapsed = ((ticks.time - seg.spread(ticks.time[seg.start])) / SECOND).astype(np.float32)
    unit = _median_positive(elapsed, seg)
    features = np.log(ratio), scores, np.log1p(elapsed / seg.spread(unit))
    return features, np.stack([seg.length, notional, seg.sum(size)], axis=1)


def _median_positive(elapsed: np.ndarray, seg: _Segments) -> np.ndarray:
    """Median of each frame's positive values, float32 [T]: they are ascending within a frame, zeros first."""
    zeros = seg.sum(elapsed == 0).astype(np.int64)
    positive = seg.length - zeros
    low = seg.start + zeros + np.maximum(positive - 1, 0) // 2
    high = seg.start + zeros + positive // 2
    last = len(elapsed) - 1
    middle = (elapsed[np.minimum(low, last)] + elapsed[np.minimum(high, last)]) / np.float32(2)
    return np.where(positive > 0, middle, MIN_MEDIAN)


def _returns(ticks: Ticks) -> tuple[np.ndarray, np.ndarray]:
    """Log return in RETURN_UNIT and |change of price| since the ticker's previous tick, float64 [N]; 0 without one."""
    codes = ticks.ticker.astype(np.uint16) if len(ticks.names) <= 2**16 else ticks.ticker
    order = np.argsort(codes, kind='stable')  # ticker by ticker, each in time order
    codes, price = codes[order], ticks.price[order]
    known = (codes[1:] == codes[:-1]) & (price[1:] > 0) & (price[:-1] > 0)
    log_price = np.log(price, out=np.zeros_like(price), where=price > 0)
    returns, moves = np.zeros_like(price), np.zeros_like(price)
    returns[order[1:]] = np.where(known, np.diff(log_price), 0) / RETURN_UNIT
    moves[order[1:]] = np.where(known, np.abs(np.diff(price)), 0)
    return returns, moves


def _v2(
    ticks: Ticks, seg: _Segments, returns: np.ndarray, moves: np.ndarray, before: np.int64
) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
    """The three features [N] each and the scalars [T, 3]; `before` is the time of the tick before the first."""
    size = moves if ticks.size is None else ticks.size
    signed = np.sign(returns) * np.log1p(size)
    power = seg.spread(np.sqrt(seg.sum(signed * signed) / seg.length))
    np.divide(signed, power, out=signed, where=power > 0)
    waits = np.diff(ticks.time, prepend=before) / UNITS['ms']
    if ticks.size is None:
        sums = seg.sum(returns * returns), seg.sum(np.abs(returns))
    else:
        sums = seg.sum(ticks.price * ticks.size), seg.sum(ticks.size)
    return (returns, signed, np.log1p(waits)), np.stack([seg.length, *sums], axis=1)
