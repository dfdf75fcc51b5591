"""Instants and wall times: the clock of any zone, right on both sides of its changes, and the days of New York.

Instants are int64 nanoseconds since 1970 UTC; wall times are nanoseconds of a local calendar since 1970.
"""

import bisect
import datetime
import itertools
import re
import zoneinfo
from typing import NamedTuple

import numpy as np

from fjq.errors import InputError

SECOND = 1_000_000_000  # ns
MINUTE = 60 * SECOND
DAY = 1440 * MINUTE
NEW_YORK = zoneinfo.ZoneInfo('America/New_York')
_MIDNIGHT = datetime.time(0)
_HOURS = r'^([01]\d|2[0-4]):([0-5]\d)-([01]\d|2[0-4]):([0-5]\d)$'


class Clock(NamedTuple):
    """What a local clock says at N instants, int32 [N].

    minute: since local midnight; weekday: 0 = Monday; day_of_month: from 1; day_of_year: from 1.
    """

    minute: np.ndarray
    weekday: np.ndarray
    day_of_month: np.ndarray
    day_of_year: np.ndarray


class _Changes(NamedTuple):
    """Instants of C changes of a zone's clock [C]; its offsets from UTC before, between and after them [C + 1], ns."""

    instant: np.ndarray
    offset: np.ndarray


def find_zone(name: str, field: str = 'timezone') -> zoneinfo.ZoneInfo:
    """Raises InputError where there is no such zone; `field` is where it was named."""
    try:
        return zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError) as e:
        raise InputError(
            f'no time zone is called {name!r}', column=field, remedy='name one such as America/New_York or UTC'
        ) from e


def to_instant(date: datetime.date, time: datetime.time, zone: datetime.tzinfo = NEW_YORK) -> int:
    """The instant of a whole second of a day; of an hour that comes twice the first."""
    return int(datetime.datetime.combine(date, time, zone).timestamp()) * SECOND


def day_bounds(date: datetime.date) -> tuple[int, int]:
    """The first instant of a day of New York and of the next; 23, 24 or 25 hours apart."""
    return to_instant(date, _MIDNIGHT), to_instant(date + datetime.timedelta(days=1), _MIDNIGHT)


def dates_of(time: np.ndarray) -> np.ndarray:
    """The New York date of instants [N], in any order: datetime64[D] [N]."""
    return (to_wall(time, NEW_YORK) // DAY).astype('datetime64[D]')


def to_wall(time: np.ndarray, zone: datetime.tzinfo) -> np.ndarray:
    """Instants [N], in any order -> wall times [N]."""
    if not len(time):
        return time
    changes = _find_changes(time, zone)
    return time + _offsets(time, changes.instant, changes.offset)


def to_instants(wall: np.ndarray, zone: datetime.tzinfo, *, in_order: bool = True) -> np.ndarray:
    """Wall times [N] -> instants [N].

    An hour that comes twice is taken for its first time until the rows go back in it, or for its first time always
    where they are not in order of time. An hour that never was counts on from before the change.
    """
    if not len(wall):
        return wall
    changes = _find_changes(wall, zone)
    starts, ends = changes.instant + changes.offset[:-1], changes.instant + changes.offset[1:]
    first = wall - _offsets(wall, np.maximum(starts, ends), changes.offset)
    if not in_order or (starts <= ends).all():
        return first
    second = wall - _offsets(wall, np.minimum(starts, ends), changes.offset)
    before = np.concatenate([first[:1] - 1, np.maximum.accumulate(first)[:-1]])
    return np.where((second > first) & (first <= before), second, first)


def read_clock(time: np.ndarray, zone: datetime.tzinfo) -> Clock:
    """The local calendar at instants [N]."""
    wall = to_wall(time, zone)
    day = (wall // DAY).astype('datetime64[D]')
    months, years = day.astype('datetime64[M]'), day.astype('datetime64[Y]')
    columns = (
        wall % DAY // MINUTE,
        (wall // DAY + 3) % 7,  # 1970 began on a Thursday
        (day - months).astype(np.int64) + 1,
        (day - years).astype(np.int64) + 1,
    )
    return Clock(*(column.astype(np.int32) for column in columns))


def in_hours(time: np.ndarray, hours: str, zone: datetime.tzinfo) -> np.ndarray:
    """Which bars [N] start within local hours such as '09:30-16:00'; '18:00-17:00' runs over midnight.

    Raises:
      InputError: the text is not of that form.
    """
    match = re.match(_HOURS, hours)
    if not match:
        raise InputError(f'{hours!r} are no hours', column='session', remedy='write them as 09:30-16:00')
    h1, m1, h2, m2 = map(int, match.groups())
    start, end, minute = h1 * 60 + m1, h2 * 60 + m2, read_clock(time, zone).minute
    inside = (minute >= start, minute < end)
    return inside[0] & inside[1] if start < end else inside[0] | inside[1]


def after_break(time: np.ndarray, length: int) -> np.ndarray:
    """Which bars [N] open a session: the first, and each that starts more than `length` ns after the one before."""
    return np.concatenate([[True], np.diff(time) > length])[: len(time)]


def _find_changes(stamps: np.ndarray, zone: datetime.tzinfo) -> _Changes:
    """The changes of a zone's clock around stamps, be they instants or wall times; clocks change once a day at most."""
    offset = lambda second: datetime.datetime.fromtimestamp(second, zone).utcoffset()
    day = DAY // SECOND
    first, last = (int(stamp) // DAY for stamp in (stamps.min(), stamps.max()))
    days = range((first - 1) * day, (last + 3) * day, day)  # no zone is a day from UTC
    offsets = [offset(second) for second in days]
    instants, kept = [], offsets[:1]
    for (start, before), (end, after) in itertools.pairwise(zip(days, offsets, strict=True)):
        if before != after:
            seconds = range(start, end + 1)
            found = bisect.bisect_left(seconds, True, key=lambda second, before=before: offset(second) != before)
            instants.append(seconds[found] * SECOND)
            kept.append(after)
    nanoseconds = [int(offset.total_seconds()) * SECOND for offset in kept]
    return _Changes(np.array(instants, np.int64), np.array(nanoseconds, np.int64))


def _offsets(stamps: np.ndarray, breaks: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """The offset of each stamp [N], or one of all: `offsets[i]` from `breaks[i - 1]` on."""
    return offsets[np.searchsorted(breaks, stamps, side='right')] if len(breaks) else offsets[0]
