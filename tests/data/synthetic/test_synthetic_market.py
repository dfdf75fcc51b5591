"""The simulated market's laws against brute force: variance, leverage, paths, ticks, and the signal."""

import datetime

import numpy as np
import pytest

from fjq.data.synthetic import Market
from fjq.data.synthetic.assets import stock_walk, stocks, walk
from fjq.data.synthetic.draws import generator
from fjq.data.synthetic.extremes import extremes
from fjq.data.synthetic.minutes import Paths, asset_paths, simulate_day
from fjq.data.synthetic.ticks import fill, tick_counts
from fjq.data.synthetic.volatility import (
    NIGHT,
    SESSION,
    SESSION_SHARE,
    YEAR,
    expected_variance,
    factors,
    implied_vol,
    jump_variance,
    latent,
    mean_level,
)

START = datetime.date(2022, 2, 1)


def test_streams_do_not_depend_on_each_other():
    draws = {
        generator(*key).standard_normal()
        for key in ((0, 'a'), (1, 'a'), (0, 'b'), (0, 'a', 1), (0, 'a', 0, 1), (0, 'a', 1, 1))
    }
    assert len(draws) == 6
    assert generator(3, 'a', 2, 1).standard_normal() == generator(3, 'a', 2, 1).standard_normal()


def test_a_longer_market_starts_with_the_same_days():
    origin = Market(seed=5).origin
    short, long = latent(origin, 40), latent(origin, 90)
    for name in short._fields:
        a, b = getattr(short, name), getattr(long, name)
        np.testing.assert_array_equal(a, b if np.ndim(a) == 0 else b[:40], err_msg=name)
    assets = stocks(origin, 6)
    few, many = walk(origin, assets, 40), walk(origin, stocks(origin, 9), 90)
    for name in few._fields:
        expected = getattr(many, name)[:40]
        np.testing.assert_array_equal(getattr(few, name), expected if name == 'sd' else expected[:, :6], err_msg=name)
    a, b = simulate_day(origin, 39, 40), simulate_day(origin, 39, 90)
    np.testing.assert_array_equal(a.spot, b.spot)
    np.testing.assert_array_equal(a.sectors, b.sectors)


@pytest.mark.parametrize('half_life', [46.0, 5.0])
def test_expected_variance_is_the_mean_of_the_process(half_life):
    origin, rng = Market(half_life=half_life).origin, np.random.default_rng(0)
    slow, fast, paths, horizon, both = 0.4, -0.3, 200_000, 10, factors(origin)
    x = [np.full(paths, slow), np.full(paths, fast)]
    total, brute = np.zeros(paths), {}
    for step in range(horizon):
        if step:  # the session of the day before
            z = rng.standard_normal(paths)
            x = [f.decay * v for f, v in zip(both, x, strict=True)]
            x = [v + np.sqrt(SESSION_SHARE) * shock(f, z, rng) for f, v in zip(both, x, strict=True)]
        z = rng.standard_normal(paths)
        x = [v + np.sqrt(1 - SESSION_SHARE) * shock(f, z, rng) for f, v in zip(both, x, strict=True)]
        total += np.exp(mean_level(origin) + x[0] + x[1])
        brute[step + 1] = (1 + NIGHT) * total / (step + 1)
    exact = expected_variance(origin, np.array(slow), np.array(fast), [1, 4, horizon]) - jump_variance(origin)
    for value, steps in zip(exact, (1, 4, horizon), strict=True):
        assert abs(value - brute[steps].mean()) < 4 * brute[steps].std() / np.sqrt(paths)


def shock(factor, z, rng):
    own = rng.standard_normal(len(z))
    return factor.shock * (factor.leverage * z + np.sqrt(1 - factor.leverage**2) * own)


def test_long_run_volatility_leverage_and_tails():
    paths = [latent(Market(seed=seed).origin, 4000) for seed in range(8)]
    returns = np.concatenate([path.returns.sum(1) for path in paths])
    assert np.sqrt(YEAR * np.mean(returns**2)) == pytest.approx(Market().vol, rel=0.1)
    kurtosis = np.mean((returns - returns.mean()) ** 4) / returns.var() ** 2
    assert 4 < kurtosis < 15
    for path in paths:
        moves = np.diff(path.slow), np.diff(path.fast)
        assert all(np.corrcoef(path.returns[:-1, SESSION], move)[0, 1] < -0.3 for move in moves)
        assert np.corrcoef(path.returns[:-1, SESSION], path.variance[1:])[0, 1] < -0.03
    assert np.corrcoef(paths[0].slow[46:], paths[0].slow[:-46])[0, 1] == pytest.approx(0.5, abs=0.15)
    acf = [np.corrcoef(np.log(path.variance[21:]), np.log(path.variance[:-21]))[0, 1] for path in paths]
    assert 0.2 < np.mean(acf) < 0.7


def test_nights_have_their_share_of_the_variance():
    path = latent(Market(seed=6).origin, 4000)
    gap, pre, _, post = path.returns.T
    night = post[:-1] + gap[1:] + pre[1:]
    z = night / np.sqrt(NIGHT * np.exp(path.level + path.slow_close + path.fast_close)[:-1])
    assert np.mean(z**2) == pytest.approx(1, abs=4 * np.sqrt(2 / len(z)))
    moves = path.slow[1:] - path.slow_close[:-1]
    assert np.corrcoef(z, moves)[0, 1] == pytest.approx(factors(Market().origin)[0].leverage, abs=0.05)


def test_index_levels_know_more_of_the_future_than_past_variance():
    """Out of sample, a line on log VIX beats log-HAR on the true past variances, and both beat persistence."""
    skill = np.array([r2_of_forecasts(seed) for seed in range(6)])
    persistence, har, vix = skill.mean(0)
    assert vix > har + 0.05 > persistence + 0.05
    assert (skill[:, 2] > skill[:, 1]).all()


def r2_of_forecasts(seed: int, days: int = 4000, horizon: int = 21) -> tuple[float, float, float]:
    origin = Market(seed=seed).origin
    path = latent(origin, days)
    daily = path.variance + path.jump**2
    vix = implied_vol(origin, path.slow_close, path.fast_close, path.premium, [21])[0]
    mean = lambda n, end: np.array([daily[i - n : i].mean() for i in end])
    at = np.arange(22, days - horizon)
    target = np.log(mean(horizon, at + horizon + 1))
    month = np.log(mean(22, at + 1))
    features = [np.stack([month], 1), np.stack([np.log(daily[at]), np.log(mean(5, at + 1)), month], 1)]
    features.append(np.log(vix[at])[:, None])
    half = len(at) // 2
    train, test = slice(0, half - horizon), slice(half, None)
    scores = []
    for x in features:
        x = np.concatenate([np.ones((len(at), 1)), x], 1)
        forecast = x[test] @ np.linalg.lstsq(x[train], target[train], rcond=None)[0]
        scores.append(1 - np.mean((target[test] - forecast) ** 2) / target[test].var())
    return tuple(scores)


def test_spot_variance_is_u_shaped_and_sums_to_the_sessions():
    origin = Market(seed=1).origin
    path = latent(origin, 80)
    days = [simulate_day(origin, d, 80) for d in range(80)]
    for d, day in enumerate(days):
        assert day.spot[day.session].sum() == pytest.approx(path.variance[d], rel=1e-12)
        assert day.slow[day.session.stop] == pytest.approx(path.slow_close[d], rel=1e-9, abs=1e-12)
        assert day.fast[0] == path.fast[d]
        assert day.market.sum() + day.jump.sum() == pytest.approx(path.returns[d, 1:].sum(), abs=1e-14)
    shape = np.mean([day.spot[day.session] / day.spot[day.session].sum() for day in days], 0)
    noon = shape[150:240].mean()
    assert shape[:30].mean() > 1.8 * noon
    assert shape[-30:].mean() > 1.2 * noon


def test_minute_returns_have_the_spot_variance_and_leverage():
    origin = Market(seed=2).origin
    days = [simulate_day(origin, d, 150) for d in range(150)]
    z = np.concatenate([(day.market / np.sqrt(day.spot))[day.session] for day in days])
    assert np.mean(z**2) == pytest.approx(1, abs=5 * np.sqrt(2 / len(z)))
    assert np.corrcoef(z[1:], z[:-1])[0, 1] == pytest.approx(0, abs=4 / np.sqrt(len(z)))
    moves = np.concatenate([np.diff(day.slow)[day.session] for day in days])
    assert np.corrcoef(z, moves)[0, 1] == pytest.approx(factors(Market().origin)[0].leverage, abs=0.1)


def test_paths_join_the_daily_walk():
    origin = Market(seed=3).origin
    assets, positions = stock_walk(origin, 5, 31)
    for d in range(30):
        paths = asset_paths(origin, simulate_day(origin, d, 31), assets, positions)
        np.testing.assert_allclose(paths.end[:, -1], positions.start[d + 1], atol=1e-11)
        np.testing.assert_allclose(paths.start[:, 0], positions.start[d] + positions.total[d, :, 0], atol=1e-11)


def test_stocks_move_together_more_when_volatility_is_high():
    origin = Market(seed=4).origin
    assets, positions = stock_walk(origin, 20, 3000)
    returns, variance = positions.total.sum(2)[:, 1:], latent(origin, 3000).variance
    high = variance > np.median(variance)
    mean = lambda rows: np.corrcoef(returns[rows].T)[np.triu_indices(19, 1)].mean()
    assert 0.15 < mean(~high) < mean(high) - 0.05 < 0.8
    assert len(set(assets.names)) == 20


def test_ticks_are_sorted_and_follow_a_bridge():
    rng = np.random.default_rng(0)
    cells = (40, 50)
    start = rng.standard_normal(cells)
    end = start + 0.01 * rng.standard_normal(cells)
    variance = np.full(cells, 1e-4)
    counts = rng.poisson(12.0, cells)
    counts[0] = 0
    ticks = fill(rng, counts, Paths(start, end, variance))
    assert len(ticks.price) == counts.sum()
    np.testing.assert_array_equal(np.bincount(ticks.asset * 50 + ticks.minute, minlength=2000), counts.ravel())
    order = np.lexsort((ticks.share, ticks.minute, ticks.asset))
    np.testing.assert_array_equal(order, np.arange(len(order)))
    at = (ticks.asset, ticks.minute)
    line = start[at] + (end - start)[at] * ticks.share
    inside = (ticks.share > 0.02) & (ticks.share < 0.98)
    z = ((np.log(ticks.price) - line) / np.sqrt(variance[at] * ticks.share * (1 - ticks.share)))[inside]
    assert np.mean(z**2) == pytest.approx(1, abs=0.06)
    assert np.mean(z**4) == pytest.approx(3, abs=0.5)
    # Increments over neighbouring ticks have the bridge's variance: v dt (1 - dt).
    step = np.flatnonzero((np.diff(ticks.asset) == 0) & (np.diff(ticks.minute) == 0) & (np.diff(ticks.share) > 1e-3))
    dt = (ticks.share[1:] - ticks.share[:-1])[step]
    moves = np.diff(np.log(ticks.price) - line)[step]
    assert np.mean(moves**2 / (1e-4 * dt * (1 - dt))) == pytest.approx(1, abs=0.05)


def test_no_ticks_at_all():
    zero = np.zeros((2, 3))
    ticks = fill(np.random.default_rng(0), np.zeros((2, 3), int), Paths(zero, zero, zero))
    assert len(ticks.price) == len(ticks.asset) == len(ticks.share) == 0


def test_prints_are_as_many_as_asked_for_and_cluster():
    day = simulate_day(Market().origin, 0, 10)
    counts = np.array([tick_counts(np.random.default_rng(i), day, np.array([4000.0]))[0] for i in range(60)])
    heat = np.sqrt(day.spot / day.clock)
    assert counts.sum(1).mean() == pytest.approx(4000, rel=0.12)  # the swing of the variance moves the total
    busy, quiet = counts[:, day.session][:, :30].mean(), counts[:, : day.session.start].mean()
    assert busy > 20 * quiet
    per_minute = counts[:, day.session]
    assert per_minute.var(0).mean() > 1.5 * per_minute.mean()  # more than Poisson
    assert heat.shape == day.clock.shape


def test_extremes_are_those_of_a_fine_walk():
    rng, n, steps, variance = np.random.default_rng(0), 20_000, 500, 0.5
    start, end = np.full(n, 0.2), np.full(n, 0.5)
    high, low = extremes(rng, start, end, np.full(n, variance))
    walks = np.cumsum(rng.standard_normal((n // 10, steps)) * np.sqrt(variance / steps), 1)
    time = np.arange(1, steps + 1) / steps
    walks = 0.2 + 0.3 * time + walks - walks[:, -1:] * time
    gap = 0.5826 * np.sqrt(variance / steps)  # a walk misses the top of the motion by that much on average
    assert high.mean() == pytest.approx(walks.max(1).mean() + gap, abs=0.02)
    assert low.mean() == pytest.approx(walks.min(1).mean() - gap, abs=0.02)
    assert np.quantile(high, 0.9) == pytest.approx(np.quantile(walks.max(1), 0.9) + gap, abs=0.03)
    assert (high >= 0.5).all() and (low <= 0.2).all()
