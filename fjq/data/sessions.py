"""The clock of an exchange: local time that survives changes of clocks, trading hours and breaks between them.

Instants are int64 nanoseconds since 1970 UTC; wall times are nanoseconds of a local calendar since 1970.
"""

import datetime
import re
import zoneinfo
from typing import NamedTuple

import numpy as np

from fjq.errors import InputError

MINUTE = 60_000_000_000  # ns
DAY = 1440 * MINUTE
_STEP = 30 * MINUTE  # every zone changes its clock on a half hour of UTC
_HOURS = r'^([01]\d|2[0-4]):([0-5]\d)-([01]\d|2[0-4]):([0-5]\d)$'


class Clock(NamedTuple):
    """What the exchange's clock says at N instants, int32 [N].

    minute: since local midnight; weekday: 0 = Monday; day_of_month: from 1; day_of_year: from 1.
    """

    minute: np.ndarray
    weekday: np.ndarray
    day_of_month: np.ndarray
    day_of_year: np.ndarray


def find_zone(name: str, field: str = 'timezone') -> zoneinfo.ZoneInfo:
    """Raises InputError where there is no such zone; `field` is where it was named."""
    try:
        return zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError) as e:
        raise InputError(
            f'no time zone is called {name!r}', column=field, remedy='name one such as America/New_York or UTC'
        ) from e


def to_wall(time: np.ndarray, zone: datetime.tzinfo) -> np.ndarray:
    """Instants [N] -> wall times [N]."""
    blocks, place = np.unique(time // _STEP, return_inverse=True)
    seconds = (_STEP // 1_000_000_000 * blocks).tolist()
    offsets = [datetime.datetime.fromtimestamp(s, zone).utcoffset().total_seconds() for s in seconds]
    return time + np.array(offsets, np.float64).astype(np.int64)[place] * 1_000_000_000


def to_instants(wall: np.ndarray, zone: datetime.tzinfo) -> np.ndarray:
    """Wall times [N] in the order of a file -> instants [N].

    An hour that comes twice is taken for its first time until the file goes back in it; one that never was counts on
    from before the change.
    """
    blocks, place = np.unique(wall // _STEP, return_inverse=True)
    offsets = np.empty((2, len(blocks)), np.int64)
    epoch = datetime.datetime(1970, 1, 1)
    for i, seconds in enumerate((_STEP // 1_000_000_000 * blocks).tolist()):
        there = (epoch + datetime.timedelta(seconds=seconds)).replace(tzinfo=zone)
        for fold in (0, 1):
            offsets[fold, i] = there.replace(fold=fold).utcoffset().total_seconds()
    first, second = wall - offsets[:, place] * 1_000_000_000
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
