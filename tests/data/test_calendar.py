"""The exchange's calendar against real files and the days that are known."""

import datetime

import numpy as np
import pyarrow.parquet as pq
import pytest

from fjq.data.calendar import close_minute, closed_weekdays, pre_open_ns, session_bounds, sessions

START = datetime.date(2022, 2, 1)


def test_sessions_are_those_of_the_real_files(data_dir):
    real = pq.read_table(data_dir / 'tcn' / 'spy_daily_rv.parquet')['date'].to_pylist()
    real = {row.date() for row in real}
    ours = {day for day in sessions(START, 600) if day <= max(real)}
    assert ours - real == {day for day in ours if (day.year, day.month) == (2023, 1)}  # the month the vendor lost
    assert real <= ours


def test_index_files_cover_sessions_and_holidays(data_dir):
    real = {path.stem for path in (data_dir / 'tcn' / 'index_data' / '2022').glob('*.parquet')}
    last = datetime.date(2022, 3, 31)
    days = [day for day in sessions(START, 60) if day <= last] + closed_weekdays(START, last)
    assert {str(day) for day in days} == real


@pytest.mark.parametrize(
    'text', ['2002-07-05', '2022-11-25', '2023-07-03', '2023-11-24', '2024-07-03', '2024-12-24', '2025-07-03']
)
def test_half_days(text):
    day = datetime.date.fromisoformat(text)
    assert close_minute(day) == 13 * 60
    assert close_minute(day - datetime.timedelta(days=7)) == 16 * 60


@pytest.mark.parametrize('text', ['2002-07-03', '2010-07-02', '2013-07-05', '2019-07-05', '2021-12-23', '2022-12-23'])
def test_whole_days_beside_holidays(text):
    assert close_minute(datetime.date.fromisoformat(text)) == 16 * 60


@pytest.mark.parametrize(
    ('text', 'opens', 'closes'),
    [
        ('2022-03-11', '14:30', '21:00'),
        ('2022-03-14', '13:30', '20:00'),  # clocks went forward on the 13th
        ('2022-11-25', '14:30', '18:00'),
        ('2022-11-26', '14:30', '21:00'),  # a Saturday: the hours of a full session
    ],
)
def test_session_bounds_in_utc(text, opens, closes):
    known = [int(np.datetime64(f'{text}T{clock}', 'ns').astype(np.int64)) for clock in (opens, closes)]
    assert list(session_bounds(datetime.date.fromisoformat(text))) == known


@pytest.mark.parametrize(('text', 'hour'), [('2022-03-11', 9), ('2022-03-14', 8), ('2022-11-04', 8), ('2022-11-07', 9)])
def test_days_start_at_four_in_new_york(text, hour):
    assert pre_open_ns(datetime.date.fromisoformat(text)) == np.datetime64(f'{text}T{hour:02d}', 'ns').astype(int)
