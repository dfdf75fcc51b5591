"""Every feature by its formula in pandas, and none that sees the future."""

import dataclasses
import re

import numpy as np
import pandas as pd
import pytest
from test_bars import make_bars

from fjq.data.bars.features import (
    REGISTRY,
    SETS,
    bar_returns,
    compute_features,
    ewma_volatility,
    find_features,
    opens_day,
    opens_session,
    warm_up,
)
from fjq.data.clock import DAY, MINUTE, find_zone, to_instants, to_wall
from fjq.errors import InputError

FIVE = 5 * MINUTE


def sessions(days=4, bars=150):
    """Days of bars with a break, and a bar without volume."""
    out = make_bars(np.concatenate([FIVE * (288 * d + np.arange(bars)) for d in range(days)]), length=FIVE)
    out.volume[17] = 0
    return out


@pytest.mark.parametrize('name', REGISTRY)
def test_what_comes_later_changes_nothing(name):
    bars, t = sessions(), 300
    other = {n: getattr(bars, n).copy() for n in ('open', 'high', 'low', 'close', 'volume')}
    factor = np.exp(np.random.Generator(np.random.Philox(5)).uniform(-0.5, 0.5, len(bars) - t - 1))
    for values in other.values():
        values[t + 1 :] *= factor
    other['high'][t + 1 :] *= 1.001 + np.arange(len(factor)) % 7 / 1e4
    a, b = (compute_features(x, (name,))[:, 0] for x in (bars, dataclasses.replace(bars, **other)))
    np.testing.assert_array_equal(a[: t + 1], b[: t + 1])
    assert np.isfinite(a).all() and np.isfinite(b).all()
    if name != 'tick_rule':
        assert (a[t + 1 :] != b[t + 1 :]).mean() > 0.2
    cut = compute_features(bars.part(slice(0, t + 1)), (name,))[:, 0]  # bars that do not exist yet
    np.testing.assert_allclose(cut, a[: t + 1], rtol=1e-6)


@pytest.mark.parametrize('name', REGISTRY)
def test_the_window_is_as_long_as_is_said(name):
    """Finite windows: bars before it change nothing. Recursive ones forget: it is their nominal length."""
    bars, window = sessions(2, 288), REGISTRY[name].window  # of days without a break, so that no session is shorter
    if re.match('rsi|macd|ema|tick', name):
        assert 1 <= window <= 51
        return
    whole, differs = compute_features(bars, (name,))[:, 0], window == 1
    for t in range(400, 440, 2):
        exact, shorter = (bars.part(slice(t + 1 - n, t + 1)) for n in (window, max(window - 1, 1)))
        np.testing.assert_allclose(compute_features(exact, (name,))[-1, 0], whole[t], rtol=1e-6)
        differs |= abs(compute_features(shorter, (name,))[-1, 0] - whole[t]) > 1e-6 * abs(whole[t])
    assert differs


def frame_of(bars):
    return pd.DataFrame({n: getattr(bars, n) for n in ('open', 'high', 'low', 'close', 'volume')})


def formulas(f):
    """The table of the specification, in pandas, by name."""
    c, v, r = f.close, f.volume, np.log(f.close / f.close.shift())
    out = {n: f[n] for n in ('open', 'high', 'low', 'close')} | {'log_return': r, 'log_volume': np.log(v + 1)}
    out['gk_volatility'] = 0.5 * np.log(f.high / f.low) ** 2 - (2 * np.log(2) - 1) * np.log(c / f.open) ** 2
    out |= {f'rv_{n}': np.sqrt((r**2).rolling(n).sum()) for n in (12, 36, 72)}
    out['amihud_illiq'] = r.abs() / (c * v + 1e-10)
    step = c.diff().fillna(0)
    gain, loss = (x.clip(lower=0).ewm(alpha=1 / 14, adjust=False).mean() for x in (step, -step))
    out['rsi_14'] = 100 - 100 / (1 + gain / (loss + 1e-10))
    ema = lambda x, n: x.ewm(span=n, adjust=False).mean()
    out['macd'] = ema(c, 12) - ema(c, 26)
    out['macd_signal'] = ema(out['macd'], 9)
    out |= {f'roc_{n}': c / c.shift(n) - 1 for n in (5, 10, 20)}
    for n in (9, 21, 50):
        out |= {f'ema_slope_{n}': ema(c, n).diff(), f'ema_dev_{n}': (c - ema(c, n)) / (ema(c, n) + 1e-10)}
    before = c.shift()
    ranges = pd.concat([f.high - f.low, (f.high - before).abs(), (f.low - before).abs()], axis=1)
    out['atr_14'] = ranges.max(axis=1).rolling(14).mean()
    out['volume_ma_ratio'] = v / (v.rolling(20).mean() + 1e-10)
    mean, sd = c.rolling(20).mean(), c.rolling(20).std(ddof=0)
    out |= {'bollinger_position': (c - mean) / (2 * sd), 'bollinger_width': 4 * sd / mean}
    out['tick_rule'] = np.sign(c.diff()).replace(0, np.nan).ffill()
    out['volume_median_ratio'] = np.log((v + 1) / (v.rolling(20).median() + 1))
    out['log_rv_36'] = np.log(out['rv_36'] + 1e-5)
    out['log_atr_14'] = np.log(out['atr_14'] / c + 1e-5)
    out['macd_rel'] = out['macd'] / c
    out['ema_slope_rel_21'] = out['ema_slope_21'] / c
    out['log_amihud'] = np.log((r.abs() + 1e-5) / (c * v + 1))
    return out


def test_formulas_are_those_of_pandas():
    bars = sessions()
    want = formulas(frame_of(bars))
    assert set(SETS['core25']) <= set(want)
    got = compute_features(bars, tuple(want))
    for i, (name, values) in enumerate(want.items()):
        np.testing.assert_allclose(got[80:, i], values.to_numpy()[80:], rtol=2e-4, atol=1e-9, err_msg=name)


def test_vwap_starts_anew_after_a_break():
    bars = sessions()
    typical = (bars.high + bars.low + bars.close) / 3
    got = compute_features(bars, ('vwap_deviation',))[:, 0]
    for day in range(4):
        for k in (0, 3, 149):
            s = slice(150 * day, 150 * day + k + 1)
            vwap = (typical[s] * bars.volume[s]).sum() / bars.volume[s].sum()
            np.testing.assert_allclose(got[s.stop - 1], bars.close[s.stop - 1] / vwap - 1, rtol=1e-4, atol=1e-9)
    silent = dataclasses.replace(bars, volume=np.zeros(len(bars)))
    got = compute_features(silent, ('vwap_deviation',))[:, 0]
    np.testing.assert_allclose(got, bars.close / typical - 1, rtol=1e-4, atol=1e-9)


def days_of(zone, days, *hours):
    """Bars of 5 minutes in local hours, such as (9.5, 11.5), counted from the midnight of each day."""
    start = [day + (FIVE * np.arange(12 * a, 12 * b)).astype(np.int64) for day in days for a, b in hours]
    midnights = np.datetime64('2024-03-04', 'ns').astype(np.int64)  # a Monday
    bars = make_bars(to_instants(midnights + np.concatenate(start), find_zone(zone)), length=FIVE)
    return dataclasses.replace(bars, zone=zone)


@pytest.mark.parametrize(
    ('zone', 'hours', 'opens'),
    [
        ('America/New_York', [(-6, 17)], ['18:00']),  # CME
        ('America/Chicago', [(-7, 16)], ['17:00']),
        ('America/New_York', [(-6, 2), (5.5, 17)], ['18:00']),  # with a hole in the data
        ('America/New_York', [(4, 20)], ['04:00']),  # shares, with the hours before and after
        ('Asia/Shanghai', [(9.5, 11.5), (13, 15)], ['09:30']),
        ('Asia/Shanghai', [(-3, 2.5), (9, 10.25), (10.5, 11.5), (13.5, 15)], ['21:00']),  # futures, by night too
        ('Europe/Berlin', [(1, 22)], ['01:00']),
        ('UTC', [(0, 24)], []),  # never closes
    ],
)
def test_a_trading_day_is_that_of_the_exchange(zone, hours, opens):
    """Two weeks, over the change of clocks of New York."""
    bars = days_of(zone, DAY * np.array([0, 1, 2, 3, 4, 7, 8, 9, 10, 11] if opens else range(14)), *hours)
    found = opens_day(bars)
    assert found[0] and found.sum() == (10 if opens else 1)
    local = to_wall(bars.time[found], find_zone(zone)).astype('datetime64[ns]')
    assert {str(t)[11:16] for t in local[1:]} == set(opens)
    typical = (bars.high + bars.low + bars.close) / 3
    got, end = compute_features(bars, ('vwap_deviation',))[:, 0], len(bars) - 7
    s = slice(max(found[: end + 1].nonzero()[0][-1], end - 287), end + 1)
    vwap = (typical[s] * bars.volume[s]).sum() / bars.volume[s].sum()
    np.testing.assert_allclose(got[end], bars.close[end] / vwap - 1, rtol=1e-4, atol=1e-9)


def test_a_live_table_of_two_days_has_the_features_of_the_file():
    """On a market that never closes the average is that of a day, or of 288 bars; of shares it is the session's."""
    for minutes in (1, 5, 60):
        length = minutes * MINUTE
        bars = make_bars(length * np.arange(30 * DAY // length), length=length)
        bars.volume[:] = np.random.Generator(np.random.Philox(2)).gamma(0.1, 1e-3, len(bars))
        live = bars.part(slice(len(bars) - 2 * DAY // length, None))
        whole, last = (compute_features(b, ('vwap_deviation',))[-DAY // length :, 0] for b in (bars, live))
        np.testing.assert_array_equal(whole, last)
        day = bars.part(slice(len(bars) - min(DAY // length, 288), None))
        vwap = np.average((day.high + day.low + day.close) / 3, weights=day.volume)
        np.testing.assert_allclose(whole[-1], day.close[-1] / vwap - 1, rtol=1e-5)
    bars = days_of('Asia/Shanghai', DAY * np.arange(20), (9.5, 11.5), (13, 15))
    whole, last = (compute_features(b, ('vwap_deviation',))[-60:, 0] for b in (bars, bars.part(slice(500, None))))
    np.testing.assert_array_equal(whole, last)


def test_the_spread_of_a_bounce_is_found():
    """Corwin and Schultz: a price without drift that trades at bid and ask in every bar has a spread of 1 %."""
    n, half = 400, 0.005
    middle = np.full(n, 100.0)
    ask, bid = middle * (1 + half), middle * (1 - half)
    bars = dataclasses.replace(sessions(1, n), open=bid, high=ask, low=bid, close=ask)
    np.testing.assert_allclose(compute_features(bars, ('high_low_spread',))[5:, 0], 2 * half, rtol=0.01)


@pytest.mark.parametrize('minutes', [5, 15, 60])
def test_an_hour_without_bars_is_a_break_at_any_interval(minutes):
    starts = MINUTE * np.concatenate([np.arange(0, 240, minutes), np.arange(300, 540, minutes)])
    bars = make_bars(starts, length=minutes * MINUTE)
    np.testing.assert_array_equal(opens_session(bars).nonzero()[0], [0, 240 // minutes])


def test_volatility_has_no_night_in_it_and_weights_that_sum_to_one():
    bars = sessions()
    opens = np.arange(0, 600, 150)
    returns = bar_returns(bars)
    np.testing.assert_allclose(returns[opens], np.log(bars.close[opens] / bars.open[opens]))
    inside = np.setdiff1d(np.arange(600), opens)
    np.testing.assert_allclose(returns[inside], np.diff(np.log(bars.close))[inside - 1], atol=1e-15)
    want = pd.Series(returns**2).ewm(alpha=0.03, adjust=True).mean() ** 0.5
    np.testing.assert_allclose(ewma_volatility(returns, 0.97), want, rtol=1e-10)


def test_sets():
    assert [len(SETS[n]) for n in ('core24', 'core25', 'seed25', 'scaled24')] == [24, 25, 25, 24]
    assert find_features(('core24', 'tick_rule')) == (*SETS['core24'], 'tick_rule')
    assert warm_up(SETS['scaled24']) == 72 and warm_up(SETS['seed25']) == 287
    with pytest.raises(InputError, match="no feature is called 'scaled42'.*'scaled24'"):
        find_features(('scaled42',))
    with pytest.raises(InputError, match='each once'):
        find_features(('core24', 'open'))


def test_units_of_the_scaled_set_do_not_grow_with_the_price():
    """All prices times a hundred: only logs of levels change, by a constant that the model takes off."""
    bars = sessions()
    dear = dataclasses.replace(bars, **{n: 100 * getattr(bars, n) for n in ('open', 'high', 'low', 'close')})
    a, b = (compute_features(x, SETS['scaled24'])[80:].astype(float) for x in (bars, dear))
    shift = {f'log_{n}': np.log(100) for n in ('open', 'high', 'low', 'close')} | {'log_amihud': -np.log(100)}
    for i, name in enumerate(SETS['scaled24']):
        np.testing.assert_allclose(b[:, i] - a[:, i], shift.get(name, 0), atol=0.02 if name == 'log_amihud' else 2e-5)
