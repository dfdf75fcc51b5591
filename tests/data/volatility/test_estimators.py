"""Realised measures against loops over sub-grids, and against prices whose integrated variance is known."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fjq.data.volatility import estimators as est
from fjq.errors import InputError

IV = 1e-4  # a daily volatility of 1 %


def _rng(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(seed))


def _paths(rng: np.random.Generator, days: int, ticks: int, shape: np.ndarray | None = None) -> np.ndarray:
    """Log prices [days, ticks + 1] whose integrated variance is IV, spread over the day like `shape`."""
    share = np.full(ticks, 1 / ticks) if shape is None else shape / shape.sum()
    returns = rng.standard_normal((days, ticks)) * np.sqrt(IV * share)
    return np.concatenate([np.zeros((days, 1)), returns.cumsum(1)], axis=1)


def _sub_grids(grid, step):
    """Each sub-grid's full returns and all its returns, the shorter ones at the ends included."""
    for start in range(step):
        points = grid[start::step]
        full = [b - a for a, b in zip(points, points[1:], strict=False)]
        whole = [grid[0], *points, grid[-1]]
        yield full, [b - a for a, b in zip(whole, whole[1:], strict=False)]


@given(st.integers(1, 6), st.integers(0, 20), st.integers(0, 2**32 - 1))
@settings(deadline=None)
def test_grid_measures_equal_a_loop_over_sub_grids(step, more, seed):
    grid = _rng(seed).standard_normal(2 * step + 1 + more).cumsum()
    count = (len(grid) - 1) / step
    full, whole = zip(*_sub_grids(grid.tolist(), step), strict=True)
    variance = np.mean([sum(r * r for r in returns) for returns in whole])
    np.testing.assert_allclose(est.realized_variance(grid, step), variance, rtol=1e-10)
    products = [abs(a * b) for returns in full for a, b in zip(returns, returns[1:], strict=False)]
    np.testing.assert_allclose(est.bipower_variation(grid, step), np.pi / 2 * count * np.mean(products), rtol=1e-10)
    fourths = [r**4 for returns in full for r in returns]
    np.testing.assert_allclose(est.realized_quarticity(grid, step), count**2 / 3 * np.mean(fourths), rtol=1e-10)


def test_known_small_cases():
    grid = np.array([0.0, 1.0, 3.0, 2.0])
    assert est.realized_variance(grid) == 1 + 4 + 1
    np.testing.assert_allclose(est.bipower_variation(grid), np.pi / 2 * (2 + 2) * 3 / 2)
    np.testing.assert_allclose(est.realized_quarticity(grid), 3 / 3 * (1 + 16 + 1))
    assert est.noise_variance(grid) == 6 / 3 / 2
    # K = 2: ((3 - 0)^2 + (2 - 1)^2) / 2 = 5 less 1/3 of the 6, times 3 for the area
    np.testing.assert_allclose(est.two_scale_variance(grid, 2), (5 - 6 / 3) * 3)


def _assert_mean(values: np.ndarray, expected: float) -> None:
    """Within four standard errors, which are themselves below 1 % of the figure."""
    error = values.std(ddof=1) / np.sqrt(len(values))
    assert error < 0.01 * expected
    assert abs(values.mean() - expected) < 4 * error


def test_without_noise_every_measure_finds_the_integrated_variance():
    grid = _paths(_rng(1), 4000, 390)
    for step in (1, 5):
        for measure in (est.realized_variance, est.bipower_variation):
            _assert_mean(measure(grid, step), IV)
        _assert_mean(est.realized_quarticity(grid, step), IV**2)
    _assert_mean(est.two_scale_variance(grid, 20), IV)


def test_the_spread_of_each_measure_is_the_one_of_theory():
    """n times the variance over IV^2: 2 for one grid, 4/3 for many (Zhang et al.), 2.61 for bipower."""
    grid = _paths(_rng(2), 6000, 390)
    n = 78

    def spread(values):
        return n * values.var(ddof=1) / IV**2

    np.testing.assert_allclose(spread(est.realized_variance(grid[:, ::5])), 2, rtol=0.08)
    np.testing.assert_allclose(spread(est.bipower_variation(grid[:, ::5])), 2.61, rtol=0.08)
    averaged = spread(est.realized_variance(_paths(_rng(3), 6000, 1950), 25))
    np.testing.assert_allclose(averaged, 4 / 3, rtol=0.08)


def test_a_volatile_open_and_close_do_not_bias_the_variance():
    """With the two shorter returns left out, or scaled up for, the first and last minutes would count too little."""
    shape = 1 + 8 * np.linspace(-1, 1, 390) ** 4
    _assert_mean(est.realized_variance(_paths(_rng(4), 6000, 390, shape), 5), IV)


def test_noise_biases_the_tick_sum_and_not_the_two_scale_measure():
    rng, days, ticks, noise = _rng(5), 300, 23_400, 2e-4
    prices = _paths(rng, days, ticks) + noise * rng.standard_normal((days, ticks + 1))
    every = est.realized_variance(prices)
    _assert_mean(every, IV + 2 * ticks * noise**2)  # 20 times the variance
    _assert_mean(est.noise_variance(prices), noise**2 + IV / ticks / 2)
    grid = prices[:, ::60]
    sparse = est.realized_variance(grid, 5)
    _assert_mean(sparse, IV + 2 * noise**2 * (386 + 2 * 4) / 5)  # what 5-minute returns still hold of the noise
    slow = [est.slow_scale(p, float(q)) for p, q in zip(prices, est.realized_quarticity(grid, 5), strict=True)]
    two_scale = np.array([est.two_scale_variance(p, k) for p, k in zip(prices, slow, strict=True)])
    _assert_mean(two_scale, IV)
    assert ((two_scale - IV) ** 2).mean() < 0.5 * ((sparse - IV) ** 2).mean()


def test_the_slow_scale_is_near_the_best_of_all():
    rng, days, ticks, noise = _rng(6), 200, 5000, 5e-4
    prices = _paths(rng, days, ticks) + noise * rng.standard_normal((days, ticks + 1))
    scales = np.unique(np.geomspace(5, 1200, 24).astype(int))
    errors = np.array([((est.two_scale_variance(prices, int(k)) - IV) ** 2).mean() for k in scales])
    chosen = est.slow_scale(prices[0], IV**2)
    assert ((est.two_scale_variance(prices, chosen) - IV) ** 2).mean() < 1.25 * errors.min()
    assert errors[0] > 3 * errors.min() and errors[-1] > 1.5 * errors.min()  # so that the choice is one


def test_bipower_leaves_a_jump_out():
    rng = _rng(7)
    grid = _paths(rng, 4000, 390)
    jump = 0.03
    grid[:, 200:] += jump
    np.testing.assert_allclose(est.realized_variance(grid, 5).mean(), IV + jump**2, rtol=0.01)
    assert est.bipower_variation(grid, 5).mean() < IV + 0.3 * jump**2


@given(st.lists(st.integers(0, 50), min_size=1, max_size=30), st.lists(st.integers(-5, 60), min_size=1, max_size=10))
def test_previous_tick_equals_a_search_from_the_end(times, grid):
    times = sorted(times)
    price = np.arange(len(times), dtype=float)
    expected = [max([i for i, t in enumerate(times) if t <= g], default=0) for g in grid]
    np.testing.assert_array_equal(est.sample_prices(np.array(times), price, np.array(grid)), expected)


@pytest.mark.parametrize('measure', [est.realized_variance, est.bipower_variation, est.realized_quarticity])
def test_too_few_prices_are_refused(measure):
    with pytest.raises(InputError, match='more prices'):
        measure(np.zeros(5), 5)
    with pytest.raises(InputError):
        measure(np.zeros(5), 0)


def test_the_slow_scale_starts_at_two():
    with pytest.raises(InputError, match='starts at 2'):
        est.two_scale_variance(np.zeros(9), 1)
