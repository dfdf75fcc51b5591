"""The exchange's calendar by rule: sessions, their open and close in New York, holidays and half days.

The rules are those of the NYSE since 1998. What no rule foresaw is unknown to it: days of mourning, storms, and the
early closes of 1999-12-31 and 2003-12-26.
"""

import datetime
import functools

import numpy as np

from fjq.data.clock import to_instant
from fjq.errors import InputError

PRE_OPEN = 4 * 60  # minute of the day at which pre-market trading starts
OPEN = 9 * 60 + 30
CLOSE = 16 * 60
EARLY_CLOSE = 13 * 60
POST_MINUTES = 4 * 60  # post-market trading lasts four hours

Date = datetime.date


def parse_date(text: str, field: str) -> Date:
    """A date from YYYY-MM-DD.

    Raises:
      InputError: the text is not a date, or the rules here do not hold in its year.
    """
    try:
        date = Date.fromisoformat(text)
    except ValueError as e:
        raise InputError(f'{text!r} is not a date', column=field, remedy='write YYYY-MM-DD') from e
    if not 1998 <= date.year <= 2199:
        raise InputError(f'{text} lies outside 1998..2199', column=field, remedy='choose a date the calendar covers')
    return date


def _weekday_of_month(year: int, month: int, weekday: int, nth: int) -> Date:
    """The nth weekday (Monday = 0) of a month; nth = -1 is the last."""
    if nth > 0:
        first = Date(year, month, 1)
        return first + datetime.timedelta(days=(weekday - first.weekday()) % 7 + 7 * (nth - 1))
    last = Date(year + month // 12, month % 12 + 1, 1) - datetime.timedelta(days=1)
    return last - datetime.timedelta(days=(last.weekday() - weekday) % 7)


def _easter(year: int) -> Date:
    """Easter Sunday in the Gregorian calendar (Meeus, Jones and Butcher)."""
    a, b, c = year % 19, year // 100, year % 100
    h = (19 * a + b - b // 4 - (b - (b + 8) // 25 + 1) // 3 + 15) % 30
    m = (32 + 2 * (b % 4) + 2 * (c // 4) - h - c % 4) % 7
    n = h + m - 7 * ((a + 11 * h + 22 * m) // 451) + 114
    return Date(year, n // 31, n % 31 + 1)


def _observed(date: Date) -> Date:
    """A fixed holiday on a Saturday is kept on Friday, on a Sunday on Monday."""
    return date + datetime.timedelta(days={5: -1, 6: 1}.get(date.weekday(), 0))


@functools.cache
def holidays(year: int) -> frozenset[Date]:
    """The weekdays of a year without a session."""
    days = {
        _weekday_of_month(year, 1, 0, 3),  # Martin Luther King
        _weekday_of_month(year, 2, 0, 3),  # Presidents
        _easter(year) - datetime.timedelta(days=2),  # Good Friday
        _weekday_of_month(year, 5, 0, -1),  # Memorial
        _observed(Date(year, 7, 4)),
        _weekday_of_month(year, 9, 0, 1),  # Labor
        _weekday_of_month(year, 11, 3, 4),  # Thanksgiving
        _observed(Date(year, 12, 25)),
    }
    if Date(year, 1, 1).weekday() != 5:  # a New Year on Saturday is not kept: the books of the old year must close
        days.add(_observed(Date(year, 1, 1)))
    if year >= 2022:
        days.add(_observed(Date(year, 6, 19)))
    return frozenset(days)


def is_session(date: Date) -> bool:
    """Whether the exchange opens."""
    return date.weekday() < 5 and date not in holidays(date.year)


def close_minute(date: Date) -> int:
    """Minute of the day at which the session ends: 16:00, or 13:00 on half days, one to three a year."""
    early = {_weekday_of_month(date.year, 11, 3, 4) + datetime.timedelta(days=1)}
    early |= {d for d in (Date(date.year, 7, 3), Date(date.year, 12, 24)) if d.weekday() < 4}
    if date.year < 2013 and Date(date.year, 7, 4).weekday() == 3:  # until then a bridge day was the half one
        early = early - {Date(date.year, 7, 3)} | {Date(date.year, 7, 5)}
    return EARLY_CLOSE if date in early and is_session(date) else CLOSE


def session_bounds(date: Date) -> tuple[int, int]:
    """Open and close of the regular session in ns since 1970 UTC: 09:30 to 16:00 in New York, or to 13:00 on half days.

    A day without a session has the hours of a full one.
    """
    return _at_minute(date, OPEN), _at_minute(date, close_minute(date))


def sessions(start: Date, count: int) -> list[Date]:
    """The first `count` sessions on or after a date."""
    found: list[Date] = []
    date = start
    while len(found) < count:
        if is_session(date):
            found.append(date)
        date += datetime.timedelta(days=1)
    return found


def closed_weekdays(first: Date, last: Date) -> list[Date]:
    """The weekday holidays between two dates, both included."""
    return sorted(d for year in range(first.year, last.year + 1) for d in holidays(year) if first <= d <= last)


def pre_open_ns(date: Date) -> int:
    """When pre-market trading starts, 04:00 in New York, in ns since 1970 UTC."""
    return _at_minute(date, PRE_OPEN)


def to_datetime64(dates: list[Date], unit: str = 'D') -> np.ndarray:
    """Dates as datetime64 of a unit."""
    return np.array(dates, 'datetime64[D]').astype(f'datetime64[{unit}]')


def _at_minute(date: Date, minute: int) -> int:
    """The instant of a minute of a day of New York."""
    return to_instant(date, datetime.time(*divmod(minute, 60)))
