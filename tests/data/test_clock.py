"""Clocks of any zone across their changes, the days of New York, and trading hours."""

import datetime
import random
import zoneinfo

import numpy as np
import pytest

from fjq.data.clock import (
    MINUTE,
    SECOND,
    after_break,
    dates_of,
    day_bounds,
    find_zone,
    in_hours,
    read_clock,
    to_instants,
    to_wall,
)
from fjq.errors import InputError

ZONES = ('America/New_York', 'America/Chicago', 'Asia/Shanghai', 'Australia/Lord_Howe', 'Europe/London')
YEAR = np.arange(
    np.datetime64('2024-01-01', 'ns').astype(np.int64), np.datetime64('2025-01-01', 'ns').astype(np.int64), 15 * MINUTE
)


@pytest.mark.parametrize('name', ZONES)
def test_clock_is_that_of_datetime(name):
    zone, clock = zoneinfo.ZoneInfo(name), read_clock(YEAR, zoneinfo.ZoneInfo(name))
    for i in range(0, len(YEAR), 37):
        there = datetime.datetime.fromtimestamp(YEAR[i] / 1e9, zone)
        known = (there.hour * 60 + there.minute, there.weekday(), there.day, there.timetuple().tm_yday)
        assert tuple(column[i] for column in clock) == known


@pytest.mark.parametrize('name', ZONES)
def test_wall_times_lead_back_to_their_instants(name):
    """Every quarter of an hour of a year, the doubled hour included, in the order of a file."""
    zone = zoneinfo.ZoneInfo(name)
    np.testing.assert_array_equal(to_instants(to_wall(YEAR, zone), zone), YEAR)


def test_a_clock_may_change_at_any_second():
    """Newfoundland's went back at one past midnight until 2011: 00:00 comes once, and 23:01 of the day before twice."""
    zone = find_zone('America/St_Johns')
    time = np.arange(*np.array(['2010-11-07T00', '2010-11-07T05'], 'datetime64[ns]').astype(np.int64), SECOND)
    wall = to_wall(time, zone)
    assert np.flatnonzero(np.diff(wall) < 0).tolist() == [2 * 3600 + 31 * 60 - 1]
    for i in range(0, len(time), 997):
        known = datetime.datetime.fromtimestamp(time[i] / 1e9, zone).replace(tzinfo=None)
        assert wall[i] == np.datetime64(known, 'ns').astype(np.int64)
    np.testing.assert_array_equal(to_instants(wall, zone), time)


def test_rows_out_of_order_mean_the_first_of_an_hour_that_comes_twice():
    """As datetime reads wall times: each for itself."""
    zone, pick = zoneinfo.ZoneInfo('America/New_York'), random.Random(3)
    for date in (datetime.date(2022, 3, 13), datetime.date(2022, 11, 6), datetime.date(2022, 2, 1)):
        clocks = [datetime.time(pick.randrange(24), pick.randrange(60)) for _ in range(300)]
        walls = [datetime.datetime.combine(date, clock) for clock in clocks]
        expected = [int(wall.replace(tzinfo=zone).timestamp()) * SECOND for wall in walls]
        wall = np.array(walls, 'datetime64[ns]').astype(np.int64)
        assert to_instants(wall, zone, in_order=False).tolist() == expected


def test_days_of_new_york_by_an_independent_clock():
    zone, hours = zoneinfo.ZoneInfo('America/New_York'), {}
    for date in (datetime.date(2022, 3, 13), datetime.date(2022, 11, 6), datetime.date(2022, 2, 1)):
        start, end = day_bounds(date)
        hours[date.month] = (end - start) // (3600 * SECOND)
        midnight = datetime.datetime.fromtimestamp(start // SECOND, zone)
        assert (midnight.date(), midnight.time()) == (date, datetime.time(0))
        days = [date, date - datetime.timedelta(days=1), date, date + datetime.timedelta(days=1)]
        assert dates_of(np.array([end - 1, start - 1, start, end])).tolist() == days
    assert hours == {3: 23, 11: 25, 2: 24}


def test_no_stamps_are_no_instants():
    none, zone = np.zeros(0, np.int64), find_zone('America/New_York')
    assert len(to_wall(none, zone)) == len(to_instants(none, zone)) == len(read_clock(none, zone).minute) == 0
    assert dates_of(none).dtype == np.dtype('datetime64[D]')


def test_an_hour_that_never_was_counts_on():
    wall = np.array(['2024-03-10T01:30', '2024-03-10T02:30', '2024-03-10T03:30'], 'datetime64[ns]').astype(np.int64)
    there = to_instants(wall, find_zone('America/New_York')).astype('datetime64[ns]')
    np.testing.assert_array_equal(
        there, np.array(['2024-03-10T06:30', '2024-03-10T07:30', '2024-03-10T07:30'], 'datetime64[ns]')
    )


def test_the_cash_open_is_one_bar_of_the_day_on_both_sides_of_a_change():
    opens = np.array(['2024-03-08T14:30', '2024-03-11T13:30'], 'datetime64[ns]').astype(np.int64)
    assert set(read_clock(opens, find_zone('America/New_York')).minute) == {9 * 60 + 30}


def test_hours():
    zone, time = (
        find_zone('America/New_York'),
        np.datetime64('2024-03-11T04:00', 'ns').astype(np.int64) + MINUTE * np.arange(1440),
    )
    minute = np.arange(1440)
    np.testing.assert_array_equal(in_hours(time, '09:30-16:00', zone), (minute >= 570) & (minute < 960))
    np.testing.assert_array_equal(in_hours(time, '18:00-17:00', zone), (minute >= 1080) | (minute < 1020))
    for bad in ('9:30-16:00', '09:30', 'day'):
        with pytest.raises(InputError, match='no hours.*09:30-16:00'):
            in_hours(time, bad, zone)
    with pytest.raises(InputError, match="'timezone': no time zone"):
        find_zone('New York')


def test_breaks():
    time = MINUTE * np.array([0, 5, 10, 45, 50, 200])
    np.testing.assert_array_equal(after_break(time, 30 * MINUTE), [True, False, False, True, False, True])
    np.testing.assert_array_equal(after_break(time, 35 * MINUTE), [True, False, False, False, False, True])
    assert len(after_break(time[:0], MINUTE)) == 0
