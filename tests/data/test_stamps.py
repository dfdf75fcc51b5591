"""Dates of either order: what shows which, and what shows nothing."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fjq.data.stamps import read_times
from fjq.errors import InputError

MONTH, DAY = '%m/%d/%Y', '%d/%m/%Y'


def days(first: str, count: int, step: int = 1) -> np.ndarray:
    return np.datetime64(first) + step * np.arange(count)


def months(first: str, count: int) -> np.ndarray:
    return (np.datetime64(first, 'M') + np.arange(count)).astype('datetime64[D]')


def write(dates: np.ndarray, form: str) -> pa.ChunkedArray:
    return pa.chunked_array([[f'{d:{form}}' for d in dates.tolist()]])


WEEK = np.busday_offset('2024-02-01', np.arange(8))  # over a weekend
SHOWN = {
    'a day over 12': days('2024-02-01', 20),
    'order': np.array(['2024-01-05', '2024-02-03', '2024-02-04', '2024-03-02'], 'datetime64[D]'),
    'newest first': np.array(['2024-01-05', '2024-02-03', '2024-02-04', '2024-03-02'], 'datetime64[D]')[::-1],
    'a weekend': WEEK,
    'two assets': np.tile(WEEK, 2),
    'first days of months': months('2020-01', 40),
    'first days of quarters': months('2020-01', 40)[::3],
    'equal numbers': np.array(['2024-05-05'], 'datetime64[D]'),
}


@pytest.mark.parametrize('dates', SHOWN.values(), ids=SHOWN)
@pytest.mark.parametrize('form', [MONTH, DAY])
def test_the_column_shows_its_order(dates, form):
    np.testing.assert_array_equal(read_times(write(dates, form), 'x.csv', 'Date'), dates)


UNKNOWN = {
    'one day': days('2024-02-01', 1),
    'twelve days': days('2024-02-01', 12),
    'five days of a week': days('2024-03-04', 5),
    'twelve months': months('2024-01', 12),
    'four quarters': months('2024-01', 12)[::3],
}


@pytest.mark.parametrize('dates', UNKNOWN.values(), ids=UNKNOWN)
@pytest.mark.parametrize('form', [MONTH, DAY])
def test_what_shows_nothing_is_refused(dates, form):
    cells = write(dates, form)
    row = int(np.argmax([c.as_py()[:2] != c.as_py()[3:5] for c in cells]))
    with pytest.raises(InputError, match=f"x.csv, column 'Date', row {row}: '.*' has its month or its day first"):
        read_times(cells, 'x.csv', 'Date')
    order = 'month' if form == MONTH else 'day'
    np.testing.assert_array_equal(read_times(cells, 'x.csv', 'Date', order), dates)


def test_stamps_of_hours_are_no_months():
    cells = [f'{d:%d/%m/%Y} {hour}:00' for d in days('2024-03-04', 5).tolist() for hour in (10, 11)]
    got = read_times(pa.chunked_array([cells]), 'x.csv', 'time')
    np.testing.assert_array_equal(got, days('2024-03-04', 5).repeat(2) + np.tile(np.array([10, 11], 'm8[h]'), 5))


def test_dates_that_contradict_one_another():
    cells = pa.chunked_array([['01/02/2024', '13/02/2024', '02/14/2024']])
    with pytest.raises(InputError, match="row 2: '02/14/2024' has its day where earlier dates have their month"):
        read_times(cells, 'x.csv', 'Date')
    with pytest.raises(InputError, match="row 1: '13/02/2024' is no time"):
        read_times(cells, 'x.csv', 'Date', 'month')
    with pytest.raises(InputError, match="row 1: 'soon' is no time"):
        read_times(pa.chunked_array([['01/13/2024', 'soon']]), 'x.csv', 'Date')


@settings(max_examples=60, deadline=None)
@given(st.dates(min_value=np.datetime64('1990-01-01').item()), st.integers(1, 60), st.sampled_from([1, 7]))
def test_a_calendar_is_read_as_it_is_or_refused(first, count, step):
    """Business days and weeks: never as another calendar."""
    if first.year > 2200:
        return
    start = np.busday_offset(np.datetime64(first), 0, roll='forward')
    dates = np.busday_offset(start, np.arange(count)) if step == 1 else days(start, count, step)
    for form in (MONTH, DAY):
        try:
            got = read_times(write(dates, form), 'x.csv', 'Date')
        except InputError:
            assert count < 40
        else:
            np.testing.assert_array_equal(got, dates)
