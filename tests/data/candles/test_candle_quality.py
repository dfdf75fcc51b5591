"""What is a gap: not what each kind of bars leaves out by itself, but what is missing from it. And what is a split."""

import numpy as np
import pytest

from fjq.data.candles.files import CandleFiles
from fjq.data.candles.quality import Quality, check, find_splits
from fjq.errors import InputError
from fjq.parallel import Parallel

HOUR = np.timedelta64(1, 'h')


def inspect(time, quality='repair', **settings):
    values = {n: np.full(len(time), 10.0) for n in ('open', 'high', 'low', 'close')}
    settings = Quality(quality=quality, **settings)
    return check(np.asarray(time, 'datetime64[ns]'), values, np.arange(len(time)), settings, 'x.csv', 'A')


def count_gaps(time, **settings):
    return inspect(time, **settings).faults.get('gap', 0)


def without(time, first, last):
    """Closed or missing from the day `first` on up to `last`, which is there again."""
    day = time.astype('datetime64[D]')
    return time[(day < np.datetime64(first)) | (day >= np.datetime64(last))]


def sessions(days, *clock):
    """Bars at times of the day such as '09:30' on each of the days."""
    times = np.array([np.timedelta64(int(t[:2]) * 60 + int(t[3:]), 'm') for t in clock])
    return (days.astype('datetime64[m]')[:, None] + times).reshape(-1)


def in_china(time):
    for first, last in (('2023-09-29', '2023-10-09'), ('2024-02-09', '2024-02-19'), ('2024-10-01', '2024-10-08')):
        time = without(time, first, last)
    return time


WEEKDAYS = np.busday_offset('2023-01-02', np.arange(500))
IN_2001 = np.busday_offset('2001-01-01', np.arange(300))
WEEKEND_SESSIONS = np.array(['2023-01-28', '2023-11-12', '2024-03-02'], 'M8[D]')
DAILY = np.datetime64('2023-01-01') + np.arange(500)
HOURLY = np.datetime64('2024-01-01T00') + np.arange(60 * 24) * HOUR
MONTHLY = (np.datetime64('2024-01') + np.arange(6)).astype('datetime64[D]')
WALL_STREET = sessions(WEEKDAYS, '09:30', '10:30', '11:30', '12:30', '13:30', '14:30', '15:30')
SHANGHAI = sessions(WEEKDAYS, '10:30', '11:30', '14:00', '15:00')
MINUTES = np.datetime64('2024-01-01T00:00') + np.arange(21 * 1440)

WHOLE = {
    'days of stocks': WEEKDAYS,
    'days of stocks, closed for a week in 2001': without(IN_2001, '2001-09-11', '2001-09-17'),
    'days in China': in_china(WEEKDAYS),
    'days with sessions on two Saturdays and a Sunday': np.sort(np.r_[WEEKDAYS, WEEKEND_SESSIONS]),
    'days of a coin': DAILY,
    'days of a coin without three': without(DAILY, '2023-05-01', '2023-05-04'),
    'hours of stocks': without(WALL_STREET, '2023-12-25', '2023-12-27'),
    'hours in China': in_china(SHANGHAI),
    'hours of a coin': HOURLY,
    'minutes of which most have no trade': MINUTES[np.random.Generator(np.random.Philox(1)).random(len(MINUTES)) < 0.3],
    'weeks': np.datetime64('2024-01-01') + 7 * np.arange(60),
    'months': MONTHLY,
    'two months': MONTHLY[:2],
    'quarters': (np.datetime64('2020-01') + 3 * np.arange(9)).astype('datetime64[D]'),
    'two days of hours': WALL_STREET[:14],
    'hours before and after a long weekend': without(WALL_STREET[: 7 * 10], '2023-01-06', '2023-01-10'),
    'a week with Easter': np.array(['2024-03-27', '2024-03-28', '2024-04-02', '2024-04-03'], 'M8[D]'),
    'one candle': DAILY[:1],
}


@pytest.mark.parametrize('name', WHOLE)
def test_what_a_calendar_leaves_out_is_no_gap(name):
    assert count_gaps(WHOLE[name]) == 0
    inspect(WHOLE[name], quality='refuse')


HOLED = {
    'hours of a coin, 8 days': (HOURLY, '2024-02-01', '2024-02-09'),
    'hours of a coin, a day': (HOURLY, '2024-02-01', '2024-02-02'),
    'three weeks of hours, 8 days': (HOURLY[: 24 * 25], '2024-01-10', '2024-01-18'),
    'days of a coin, 5 days': (DAILY, '2023-05-01', '2023-05-06'),
    'days of stocks, two weeks': (WEEKDAYS, '2023-05-01', '2023-05-15'),
    'hours of stocks, two weeks': (WALL_STREET, '2023-05-01', '2023-05-15'),
    'weeks': (np.datetime64('2024-01-01') + 7 * np.arange(60), '2024-05-01', '2024-07-01'),
    'months': ((np.datetime64('2020-01') + np.arange(40)).astype('datetime64[D]'), '2021-02-01', '2021-07-01'),
}


@pytest.mark.parametrize('name', HOLED)
def test_what_is_missing_is_a_gap(name):
    time = without(*HOLED[name])
    assert count_gaps(time) == 1
    with pytest.raises(InputError, match="column 'time', row .*A: a gap in time comes before it") as error:
        inspect(time, quality='refuse')
    row = int(np.diff(time).argmax()) + 1
    assert error.value.row == row and 'max_gap_days' in error.value.remedy


def test_the_days_that_are_no_gap_may_be_given():
    time = without(HOURLY, '2024-02-01', '2024-02-09')
    assert [count_gaps(time, max_gap_days=days) for days in (1e9, 10, 8.1, 8, 0.5, 0.01)] == [
        0,
        0,
        0,
        1,
        1,
        len(time) - 1,
    ]
    with pytest.raises(InputError, match='8.04 days, more than 0.167'):
        inspect(time, quality='refuse')
    for wrong in (-1, float('nan')):
        with pytest.raises(InputError, match="column 'max_gap_days'"):
            inspect(time, max_gap_days=wrong)


@pytest.mark.parametrize('name', ['daily', 'daily_ten', 'bars'])
def test_real_files_have_no_gaps(name, data_dir):
    for file in sorted((data_dir / name).glob('*.csv')):
        for candles in CandleFiles(path=str(file), quality='repair').read(Parallel(workers=1)):
            assert 'gap' not in candles.faults, (file, candles.faults)


def test_a_crash_or_a_rally_is_no_split():
    rng = np.random.Generator(np.random.Philox(3))
    close = 100 * np.exp(np.cumsum(0.02 * rng.standard_normal(500)))
    opened = np.r_[100, close[:-1]]
    assert (find_splits(opened, close) == 1).all()
    crash = close * np.where(np.arange(500) >= 250, 0.5, 1)  # within the session
    assert (find_splits(np.r_[100, crash[:-1]], crash) == 1).all()
    factor = np.where(np.arange(500) >= 250, 1 / 3, 1)
    assert np.flatnonzero(find_splits(opened * factor, close * factor) != 1).tolist() == [250]
