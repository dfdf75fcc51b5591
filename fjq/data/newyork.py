"""The New York trading day in nanoseconds since 1970 UTC, right on both sides of a change of clocks."""

import datetime
import zoneinfo

import numpy as np

NEW_YORK = zoneinfo.ZoneInfo('America/New_York')
OPEN, CLOSE = datetime.time(9, 30), datetime.time(16, 0)
SECOND = 1_000_000_000  # ns
DAY = 86_400 * SECOND
_MIDNIGHT = datetime.time(0)


def to_instant(date: datetime.date, time: datetime.time, zone: datetime.tzinfo = NEW_YORK) -> int:
    return int(datetime.datetime.combine(date, time, zone).timestamp()) * SECOND


def day_bounds(date: datetime.date) -> tuple[int, int]:
    """The first instant of a day and of the next; 23, 24 or 25 hours apart."""
    return to_instant(date, _MIDNIGHT), to_instant(date + datetime.timedelta(days=1), _MIDNIGHT)


def session_bounds(date: datetime.date) -> tuple[int, int]:
    """Open and close of the regular session, 09:30 and 16:00."""
    return to_instant(date, OPEN), to_instant(date, CLOSE)


def to_utc(wall: np.ndarray, date: datetime.date, zone: datetime.tzinfo) -> np.ndarray:
    """Wall-clock ns of one day in a zone as ns since 1970 UTC; of an hour that comes twice the first is meant."""
    midnight = datetime.datetime.combine(date, _MIDNIGHT)

    def offset(minute: int) -> int:
        there = (midnight + datetime.timedelta(minutes=minute)).replace(tzinfo=zone)
        return int(there.utcoffset().total_seconds()) * SECOND

    before, after = offset(0), offset(1439)
    if before == after:
        return wall - before
    switch = next(m for m in range(1440) if offset(m) != before)  # on two days a year
    start = int(np.datetime64(midnight, 'ns').astype(np.int64))
    return wall - np.where(wall < start + switch * 60 * SECOND, before, after)


def dates_of(time: np.ndarray) -> np.ndarray:
    """The New York date of instants, datetime64[D]; ns since 1970 UTC, in any order."""
    if not len(time):
        return np.zeros(0, 'datetime64[D]')
    first, last = (np.datetime64(int(t), 'ns').astype('datetime64[D]') for t in (time.min(), time.max()))
    day = np.timedelta64(1, 'D')
    days = np.arange(first - day, last + day)  # New York is behind UTC
    starts = np.array([day_bounds(day)[0] for day in days.tolist()])
    return days[np.searchsorted(starts, time, side='right') - 1]
