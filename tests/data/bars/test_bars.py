"""Bars: what can not be is refused, and shorter bars make longer ones."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from fjq.data.bars.series import Bars, check_order, check_values, find_length, hold_to_hours, resample
from fjq.data.clock import MINUTE, find_zone
from fjq.errors import InputError


def make_bars(time, seed=0, length=MINUTE, piece=None):
    """A random walk with bars at the given minutes."""
    rng = np.random.Generator(np.random.Philox(seed))
    path = 100 * np.exp(np.cumsum(1e-3 * rng.standard_normal((len(time), 4)).reshape(-1))).reshape(-1, 4)
    prices = {'open': path[:, 0], 'high': path.max(1), 'low': path.min(1), 'close': path[:, 3]}
    volume = np.floor(rng.gamma(2, 50, len(time)))
    piece = np.zeros(len(time), np.int32) if piece is None else np.asarray(piece, np.int32)
    return Bars('X', np.asarray(time, np.int64), **prices, volume=volume, piece=piece, length=length)


@pytest.mark.parametrize('minutes', [5, 15, 60])
def test_resampling_is_that_of_pandas_without_empty_bars(minutes):
    rng = np.random.Generator(np.random.Philox(1))
    start = np.datetime64('2024-03-08T23:58', 'ns').astype(np.int64)
    bars = make_bars(start + MINUTE * np.flatnonzero(rng.random(5000) < 0.3))
    got = resample(bars, minutes)
    frame = pd.DataFrame({n: getattr(bars, n) for n in ('open', 'high', 'low', 'close', 'volume')})
    frame.index = bars.time.astype('datetime64[ns]')
    how = {'open': 'first', 'high': 'max', 'low': 'min', 'close': 'last', 'volume': 'sum'}
    want = frame.resample(f'{minutes}min', label='left', closed='left').agg(how).dropna()
    if frame.index[-1] + pd.Timedelta('1min') < want.index[-1] + pd.Timedelta(minutes, 'min'):
        want = want[:-1]  # not over yet
    np.testing.assert_array_equal(got.time, want.index.to_numpy().astype('datetime64[ns]').astype(np.int64))
    for name in how:
        np.testing.assert_array_equal(getattr(got, name), want[name])
    assert got.length == minutes * MINUTE and len(got) < len(bars)


def test_a_last_bar_that_is_not_over_is_left_out_and_said(capsys):
    bars = make_bars(np.datetime64('2026-02-17T01:00', 'ns').astype(np.int64) + 5 * MINUTE * np.arange(29))
    bars = dataclasses.replace(bars, length=5 * MINUTE)
    whole = resample(bars.part(slice(0, 24)), 60)
    assert len(whole) == 2 and not capsys.readouterr().out
    got = resample(bars, 60)
    np.testing.assert_array_equal(got.time, whole.time)
    assert capsys.readouterr().out == (
        'X: the last bar of 60 minutes, 2026-02-17T03:00 UTC, is left out: its last bar of 5 ends at 03:25\n'
    )
    assert len(resample(bars.part(slice(24, 29)), 60)) == 0
    assert len(resample(bars, 5)) == 29


def test_bars_of_hours_start_at_hours_of_the_exchange():
    """In a zone half an hour beside UTC, and over a change of clocks."""
    for zone, day in (('Asia/Kolkata', '2024-03-08'), ('America/New_York', '2024-03-10')):
        bars = make_bars(np.datetime64(day, 'ns').astype(np.int64) + 5 * MINUTE * np.arange(500), length=5 * MINUTE)
        hours = pd.DatetimeIndex(resample(bars, 60, zone).time, tz='UTC').tz_convert(zone)
        assert set(hours.minute) == {0}


@pytest.mark.parametrize(
    ('first', 'minutes', 'step'),
    [('2024-03-08T14:30', 60, 60), ('2024-03-08T23:00', 240, 240), ('2024-03-08T14:45', 30, 30)],
)
def test_bars_of_the_length_asked_for_keep_their_stamps(first, minutes, step):
    """Hours from 09:30, four hours from 18:00 and half hours from 09:45, in New York, lie on no grid of midnight."""
    time = np.datetime64(first, 'ns').astype(np.int64) + step * MINUTE * np.arange(12)
    bars = make_bars(time, length=minutes * MINUTE)
    got = resample(bars, minutes, 'America/New_York')
    np.testing.assert_array_equal(got.time, time)
    np.testing.assert_array_equal(got.close, bars.close)
    assert got.length == bars.length


@pytest.mark.parametrize(('start', 'length', 'minutes'), [('09:45', 30, 60), ('09:30', 60, 120)])
def test_a_bar_that_lies_in_two_is_refused(start, length, minutes):
    """Its close would be told of an earlier time. Bars before it that lie in one are no excuse."""
    time = np.datetime64('2024-03-08T14:00', 'ns').astype(np.int64) + length * MINUTE * np.arange(40)
    odd = np.datetime64(f'2024-03-11T{start}', 'ns').astype(np.int64) + 4 * 60 * MINUTE + length * MINUTE * np.arange(9)
    bars = make_bars(np.r_[time, odd], length=length * MINUTE)
    what = f'X, column .minutes.: the bar of {length} minutes at 2024-03-11T{start} America/New_York lies in two of'
    with pytest.raises(InputError, match=f'{what} {minutes}. Take {length}, as the file has'):
        resample(bars, minutes, 'America/New_York')
    assert len(resample(bars.part(slice(0, 40)), minutes, 'America/New_York')) == 40 * length / minutes


def test_no_bar_joins_two_contracts():
    bars = make_bars(MINUTE * np.arange(10), piece=[0] * 7 + [1] * 3)
    got = resample(bars, 5)
    np.testing.assert_array_equal(got.piece, [0, 0])
    assert got.close[1] == bars.close[6] and got.volume[1] == bars.volume[5:7].sum()


def test_what_can_not_be_put_together():
    bars = make_bars(5 * MINUTE * np.arange(10), length=5 * MINUTE)
    with pytest.raises(InputError, match='bars of 5 minutes do not make bars of 7|7 minutes do not divide'):
        resample(bars, 7)
    with pytest.raises(InputError, match='bars of 5 minutes do not make bars of 1'):
        resample(bars, 1)
    assert len(resample(bars.part(slice(0, 0)), 5)) == 0


def test_hours_of_a_session():
    bars = make_bars(np.datetime64('2024-03-11', 'ns').astype(np.int64) + MINUTE * np.arange(2880))
    assert len(hold_to_hours(bars, '09:30-16:00', 'America/New_York')) == 2 * 390
    assert hold_to_hours(bars, '', 'UTC') is bars


UTC = find_zone('UTC')
GOOD = {n: np.full(5, v) for n, v in (('open', 10.0), ('high', 11.0), ('low', 9.0), ('close', 10.5), ('volume', 0.0))}
BAD = {
    'low': (12.0, "f.csv, column 'high', row 13: the high 11 is below the low 12. Correct or remove the row."),
    'open': (8.0, "f.csv, column 'open', row 13: the open 8 lies outside of low and high, 9 to 11."),
    'close': (11.5, "f.csv, column 'close', row 13: the close 11.5 lies outside"),
    'high': (0.0, "f.csv, column 'high', row 13: 0 is no price"),
    'volume': (-1.0, "f.csv, column 'volume', row 13: -1 is no volume"),
}


@pytest.mark.parametrize('name', BAD)
def test_values_that_can_not_be(name):
    check_values(GOOD, np.arange(5), 'f.csv')
    value, text = BAD[name]
    bad = {n: v.copy() for n, v in GOOD.items()}
    bad[name][3] = value
    with pytest.raises(InputError) as e:
        check_values(bad, np.arange(10, 15), 'f.csv')
    assert str(e.value).startswith(text)
    bad[name][3] = np.nan
    with pytest.raises(InputError, match=f"column '{name}', row 13: a missing value"):
        check_values(bad, np.arange(10, 15), 'f.csv')


def test_order_and_length():
    time, row = MINUTE * np.array([0, 5, 10, 20, 100]), np.arange(5)
    check_order(time, row, 'f', 't')
    assert find_length(time, row, 'f', 't', UTC) == 5 * MINUTE
    with pytest.raises(InputError, match='row 2: the stamp is that of the bar before'):
        check_order(time[[0, 1, 1, 2]], row, 'f', 't')
    with pytest.raises(InputError, match='row 3: the stamp is before'):
        check_order(time[[0, 1, 3, 2]], row, 'f', 't')
    with pytest.raises(InputError, match='one bar alone'):
        find_length(time[:1], row, 'f', 't', UTC)
    with pytest.raises(InputError, match='row 3: bars of 5 minutes and a step of 7: intervals are mixed'):
        find_length(MINUTE * np.array([0, 5, 10, 17, 22]), row, 'f', 't', UTC)
    both = MINUTE * np.cumsum([1] * 100 + [5] * 100)
    with pytest.raises(InputError, match='row 100: bars of 1 minutes and a step of 5: intervals are mixed'):
        find_length(both, np.arange(200), 'f', 't', UTC)
    gaps = MINUTE * np.cumsum(1 + 4 * (np.arange(200) % 10 < 6))
    assert find_length(gaps, np.arange(200), 'f', 't', UTC) == MINUTE


def test_bars_of_another_exchange_are_other_bars():
    """Their days are other ones. What was told of bars before they had a zone, when all had New York's, holds."""
    v = np.arange(1.0, 6.0)
    bars = Bars('X', np.arange(5), v, v, v, v, v, piece=np.zeros(5, np.int32), length=1)
    assert bars.digest() == '1955fdd3e1bcfbce'
    assert dataclasses.replace(bars, zone='Asia/Shanghai').digest() != bars.digest()
