"""Bars of one instrument: checked, resampled, held to trading hours."""

import dataclasses
import datetime
import hashlib
from pathlib import Path

import numpy as np

from fjq.data.clock import MINUTE, NEW_YORK, find_zone, in_hours, to_wall
from fjq.errors import InputError
from fjq.log import say

PRICES = ('open', 'high', 'low', 'close')
FIELDS = (*PRICES, 'volume')
ROUNDING = 1e-9  # of a price: decimals that came through binary may cross by as much
RUN = 48  # steps of one other length in a row that are no coincidence
_FIX = 'correct or remove the row'


@dataclasses.dataclass(frozen=True)
class Bars:
    """One instrument, ascending in time; low <= open, close <= high, all above zero.

    time: int64 [N], ns since 1970 UTC at which a bar starts. length: ns of a bar.
    open, high, low, close, volume: float64 [N].
    piece: int32 [N], grows where a futures contract gives way to the next; 0 throughout for anything else.
    zone: of the exchange's clock.
    """

    id: str
    time: np.ndarray
    open: np.ndarray
    high: np.ndarray
    low: np.ndarray
    close: np.ndarray
    volume: np.ndarray
    piece: np.ndarray
    length: int
    zone: str = NEW_YORK.key

    def __len__(self) -> int:
        return len(self.time)

    @property
    def closed(self) -> np.ndarray:
        """When each bar is known, int64 [N]."""
        return self.time + self.length

    def part(self, rows: slice | np.ndarray) -> 'Bars':
        """The bars of `rows`."""
        names = ('time', *FIELDS, 'piece')
        return dataclasses.replace(self, **{name: getattr(self, name)[rows] for name in names})

    def digest(self) -> str:
        """16 hexadecimal digits that are equal for equal bars."""
        zone = '' if self.zone == NEW_YORK.key else f'|{self.zone}'  # runs from before there was a zone go on
        sha = hashlib.sha256(f'{self.id}|{self.length}{zone}'.encode())
        for name in ('time', *FIELDS, 'piece'):
            sha.update(np.ascontiguousarray(getattr(self, name)).tobytes())
        return sha.hexdigest()[:16]


def check_values(values: dict[str, np.ndarray], row: np.ndarray, file: Path | str) -> None:
    """Raises InputError at the first bar that can not be: a value that is none, a price of zero or less, a high below
    the low, an open or close outside of them.

    Args:
      values: open, high, low, close and volume [N]; of several at fault the first is named.
      row: [N], the rows of the file.
    """
    for name in values:
        least = values[name] >= 0 if name == 'volume' else values[name] > 0
        if (bad := ~(least & np.isfinite(values[name]))).any():
            i = int(bad.argmax())
            what = 'a missing value' if np.isnan(values[name][i]) else f'{values[name][i]:g} is no {_kind(name)}'
            raise InputError(what, file=file, column=name, row=row[i], remedy=_FIX)
    high, low = values['high'] * (1 + ROUNDING), values['low'] * (1 - ROUNDING)
    if (bad := high < low).any():
        i = int(bad.argmax())
        what = f'the high {values["high"][i]:g} is below the low {values["low"][i]:g}'
        raise InputError(what, file=file, column='high', row=row[i], remedy=_FIX)
    for name in ('open', 'close'):
        if (bad := (values[name] > high) | (values[name] < low)).any():
            i = int(bad.argmax())
            span = f'{values["low"][i]:g} to {values["high"][i]:g}'
            what = f'the {name} {values[name][i]:g} lies outside of low and high, {span}'
            raise InputError(what, file=file, column=name, row=row[i], remedy=_FIX)


def check_order(time: np.ndarray, row: np.ndarray, file: Path | str, column: str) -> None:
    """Raises InputError at the first stamp [N] that is not after the one before."""
    step = np.diff(time)
    if (step <= 0).any():
        i = int((step <= 0).argmax()) + 1
        what = (
            'the stamp is that of the bar before' if step[i - 1] == 0 else 'the stamp is before that of the bar before'
        )
        raise InputError(what, file=file, column=column, row=row[i], remedy='keep each bar once, in order of time')


def find_length(time: np.ndarray, row: np.ndarray, file: Path | str, column: str, zone: datetime.tzinfo) -> int:
    """The ns of a bar, from ascending stamps [N]: the smallest step, of which every other is a multiple. Steps over a
    change of the zone's clock do not count: a day may have 23 hours.

    Raises:
      InputError: one bar alone, or bars of several lengths.
    """
    step = np.diff(time)
    if not len(step):
        raise InputError('one bar alone has no length', file=file, remedy='give at least two bars')
    changed = np.diff(to_wall(time, zone)) != step
    length = int(step[~changed].min() if not changed.all() else step.min())
    step[changed] = length
    other = step % length != 0
    same = np.concatenate([[False], (step[1:] == step[:-1]) & (step[1:] != length)])
    starts = np.flatnonzero(~same)
    runs = np.diff(np.append(starts, len(step)))
    other[starts[runs >= RUN]] = True
    if other.any():
        i = int(other.argmax())
        what = f'bars of {length / MINUTE:g} minutes and a step of {step[i] / MINUTE:g}: intervals are mixed'
        raise InputError(what, file=file, column=column, row=row[i + 1], remedy='give a file of one interval')
    return length


def resample(bars: Bars, minutes: int, timezone: str = 'UTC') -> Bars:
    """Bars of so many minutes, stamped with their start, counted from local midnight; one without trades is left out.

    The first open, highest high, lowest low, last close and sum of volumes of the bars that start in it. No bar joins
    two contracts. The last bar is left out, and this is said, where what is in it ends before it does: it may go on.
    Bars of that length already stay as they are, wherever they start.

    Raises:
      InputError: the minutes do not divide a day, or bars can not be put together from those given.
    """
    width = minutes * MINUTE
    if minutes < 1 or 1440 % minutes:
        raise InputError(f'{minutes} minutes do not divide a day', column='minutes', remedy='take 5, 15, 30 or 60')
    if width % bars.length:
        raise InputError(
            f'bars of {bars.length / MINUTE:g} minutes do not make bars of {minutes}',
            column='minutes',
            remedy='take a multiple of what the file has',
        )
    if width == bars.length:
        return bars
    wall = to_wall(bars.time, find_zone(timezone))
    if (across := wall % width + bars.length > width).any():  # its close would be told of a time before it
        stamp = np.datetime_as_string(wall[across.argmax()].astype('datetime64[ns]'), unit='m')
        length = f'{bars.length / MINUTE:g}'
        what = f'the bar of {length} minutes at {stamp} {timezone} lies in two of {minutes}'
        raise InputError(what, file=bars.id, column='minutes', remedy=f'take {length}, as the file has')
    start = bars.time - wall % width
    first = np.flatnonzero(np.concatenate([[True], (np.diff(start) > 0) | (np.diff(bars.piece) != 0)])[: len(bars)])
    if not len(first):
        return dataclasses.replace(bars, length=width)
    last = np.append(first[1:], len(bars)) - 1
    split = np.concatenate([[False], np.diff(start[first]) == 0])  # a roll in the middle of a bar: the old one is kept
    joined = {
        'time': start[first],
        'open': bars.open[first],
        'high': np.maximum.reduceat(bars.high, first),
        'low': np.minimum.reduceat(bars.low, first),
        'close': bars.close[last],
        'volume': np.add.reduceat(bars.volume, first),
        'piece': bars.piece[first],
    }
    if start[-1] + width > bars.closed[-1]:
        split[-1] = True
        opens, until = (
            np.datetime_as_string(t.astype('datetime64[ns]'), unit='m') for t in (start[-1], bars.closed[-1])
        )
        what = f'its last bar of {bars.length / MINUTE:g} ends at {until[-5:]}'
        say(f'{bars.id}: the last bar of {minutes} minutes, {opens} UTC, is left out: {what}')
    return dataclasses.replace(bars, length=width, **{name: column[~split] for name, column in joined.items()})


def hold_to_hours(bars: Bars, hours: str, timezone: str) -> Bars:
    """The bars that start within local hours; '' = all."""
    return bars.part(in_hours(bars.time, hours, find_zone(timezone))) if hours else bars


def _kind(name: str) -> str:
    return 'volume' if name == 'volume' else 'price'
