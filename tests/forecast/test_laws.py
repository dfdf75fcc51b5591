"""Every law against brute force in NumPy, scipy and scoringrules, and against what any law must satisfy."""

import jax
import numpy as np
import pytest
import scoringrules
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from fjq.errors import InputError
from fjq.forecast import Atoms, Law, Mixture, Point, Quantiles, Samples, affine

LEVELS = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)
ROWS, N = 6, 9


def make(kind: str, seed: int = 0, rows: int = ROWS) -> Law:
    rng = np.random.Generator(np.random.Philox(seed))
    values = rng.normal(size=(rows, N)).astype(np.float32) * 3 + 1
    weights = rng.uniform(0, 1, size=(rows, N)).astype(np.float32)
    match kind:
        case 'point':
            return Point(values[:, 0])
        case 'quantiles':
            # Apart by 0.1, or the rounding of values would show as steps of the level between them.
            apart = 0.1 * np.arange(len(LEVELS), dtype=np.float32)
            return Quantiles(LEVELS, np.sort(values[:, : len(LEVELS)], -1) + apart)
        case 'samples':
            return Samples(values)
        case 'atoms':
            return Atoms(values, np.where(weights > 0.2, weights, 0))
        case 'gaussians':
            return Mixture(weights[:, :3], values[:, :3], 0.2 + weights[:, 3:6])
        case 'students':
            return Mixture(weights[:, :3], values[:, :3], 0.2 + weights[:, 3:6], 1.6 + 20 * weights[:, 6:9] ** 3)
    raise AssertionError(kind)


KINDS = ('point', 'quantiles', 'samples', 'atoms', 'gaussians', 'students')
TARGETS = np.linspace(-4, 6, ROWS).astype(np.float32)
each_kind = pytest.mark.parametrize('kind', KINDS)


def answers(law: Law, y) -> tuple:
    return law.mean(), law.std(), law.quantile(np.array([0.1, 0.5])), law.cdf(y), law.crps(y), *law.interval(0.8)


@each_kind
def test_shapes(kind):
    law = make(kind)
    shape_of = lambda ask, *args: jax.eval_shape(ask, law, *args).shape
    assert law.shape == (ROWS,)
    for ask in (lambda a: a.mean(), lambda a: a.std(), lambda a: a.crps(TARGETS), lambda a: a.cdf(0.5)):
        assert shape_of(ask) == (ROWS,)
    assert shape_of(lambda a: a.quantile(0.3)) == (ROWS,)
    assert shape_of(lambda a: a.quantile(np.full((2, 3), 0.3))) == (ROWS, 2, 3)
    assert shape_of(lambda a: a.cdf(np.zeros((ROWS, 5), np.float32))) == (ROWS, 5)
    assert shape_of(lambda a: a.sample(jax.random.key(0), 4)) == (ROWS, 4)


@each_kind
def test_leading_axes_and_vmap_change_nothing(kind):
    law = make(kind)
    plain = jax.jit(answers)(law, TARGETS)
    mapped = jax.jit(jax.vmap(answers))(law, TARGETS)
    grid = jax.tree.map(lambda a: a.reshape(2, 3, *a.shape[1:]), law)
    squared = jax.tree.map(lambda a: a.reshape(ROWS, *a.shape[2:]), jax.jit(answers)(grid, TARGETS.reshape(2, 3)))
    for other in (mapped, squared):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5), plain, other)


INSIDE = np.linspace(0.06, 0.94, 12, dtype=np.float32)


@jax.jit
def inverse(law: Law) -> tuple:
    q = law.quantile(INSIDE)
    return q, law.cdf(q), law.cdf(q + 1e-4), law.cdf(q - 1e-4)


@each_kind
@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 10_000))
def test_quantiles_rise_and_invert_the_cdf(kind, seed):
    q, at, after, before = (np.asarray(a) for a in inverse(make(kind, seed)))
    assert (np.diff(q, axis=-1) >= -1e-5).all()
    if kind in ('quantiles', 'gaussians', 'students'):
        np.testing.assert_allclose(at, np.broadcast_to(INSIDE, q.shape), atol=3e-5)
    else:  # a step law: F just below Q(p) is at most p, F at Q(p) at least p, up to one draw's mass
        slack = 1 / N if kind == 'samples' else 1e-5
        assert (after >= INSIDE - slack).all()
        assert (before <= INSIDE + slack).all()


@jax.jit
def summary(law: Law, y) -> tuple:
    return law.mean(), law.std(), law.quantile(0.3), law.crps(y), law.cdf(y)


@each_kind
@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 10_000), shift=st.floats(-5, 5), scale=st.floats(0.1, 10))
def test_location_and_scale(kind, seed, shift, scale):
    law, y = make(kind, seed), TARGETS
    moved = summary(affine(law, shift, np.full(ROWS, scale, np.float32)), np.float32(shift + scale * y))
    mean, std, quantile, crps, cdf = (np.asarray(a) for a in summary(law, y))
    expected = (shift + scale * mean, scale * std, shift + scale * quantile, scale * crps)
    for got, want in zip(moved, expected, strict=False):
        np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-3 * (1 + scale))
    if kind in ('gaussians', 'students'):  # elsewhere rounding may put a target on the other side of a step
        np.testing.assert_allclose(moved[-1], cdf, atol=1e-3)


@each_kind
@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 10_000), y=hnp.arrays(np.float32, ROWS, elements=st.floats(-20, 20, width=32)))
def test_crps_is_a_distance(kind, seed, y):
    law = make(kind, seed)
    median = np.asarray(summary(law, y)[2])
    score = np.asarray(summary(law, y)[3])
    # The fair form of a few draws may be negative where they surround y; every other CRPS may not.
    assert (score >= (-6 if kind == 'samples' else -1e-5)).all()
    far = np.asarray(summary(law, y + np.where(y > median, 30, -30).astype(np.float32))[3])
    assert (far > score).all()


@each_kind
def test_draws_follow_the_law(kind):
    law = make(kind)
    mean, std, *_ = (np.asarray(a) for a in summary(law, TARGETS))
    draw = jax.jit(lambda key: law.sample(key, 20_000))
    draws = np.asarray(draw(jax.random.key(1)))
    for x in (-1.0, 0.5, 2.0):
        np.testing.assert_allclose((draws <= x).mean(-1), law.cdf(x), atol=0.015)
    if kind != 'students':  # their means are too noisy, and some of their deviations infinite
        np.testing.assert_allclose(draws.mean(-1), mean, atol=0.05 * std.max() + 1e-6)
        np.testing.assert_allclose(draws.std(-1), std, rtol=0.05, atol=1e-6)
    np.testing.assert_array_equal(draws, draw(jax.random.key(1)))
    assert kind == 'point' or (np.asarray(draw(jax.random.key(2))) != draws).any()


@each_kind
def test_crps_against_its_definition(kind):
    """The integral of (F - 1{y <= x})^2 on a fine grid; for Samples with the mean difference made fair."""
    law = make(kind)
    reach = 60 if kind == 'students' else 16
    x = np.linspace(-reach, reach, 8_001, dtype=np.float32)
    big = np.asarray(law.cdf(np.broadcast_to(x, (ROWS, x.size))), np.float64)
    expected = np.trapezoid((big - (x >= TARGETS[:, None])) ** 2, x, axis=-1)
    if kind == 'samples':
        difference = np.abs(law.values[:, :, None] - law.values[:, None, :]).sum((1, 2))
        expected -= difference / 2 * (1 / (N * (N - 1)) - 1 / N**2)
    if kind == 'quantiles':  # a sum over seven levels, not the integral: see the next test
        np.testing.assert_allclose(law.crps(TARGETS), expected, rtol=0.15)
    else:
        np.testing.assert_allclose(law.crps(TARGETS), expected, atol=0.02 if kind == 'students' else 5e-3)


def test_quantile_crps_is_the_weighted_pinball():
    law = make('quantiles')
    weights = (0.075, 0.1, 0.2, 0.25, 0.2, 0.1, 0.075)
    expected = 0
    for level, weight, q in zip(LEVELS, weights, law.values.T, strict=True):
        expected = expected + 2 * weight * np.maximum(level * (TARGETS - q), (level - 1) * (TARGETS - q))
    np.testing.assert_allclose(law.crps(TARGETS), expected, rtol=1e-5)


def test_quantile_crps_of_no_width_is_the_absolute_error():
    law = Quantiles(LEVELS, np.full((ROWS, 7), 1.5, np.float32))
    np.testing.assert_allclose(law.crps(TARGETS), np.abs(TARGETS - 1.5), rtol=1e-5)


def test_quantile_law_approaches_the_true_one():
    levels = (np.arange(400) + 0.5) / 400
    law = Quantiles(levels, stats.norm.ppf(levels).astype(np.float32)[None])
    y = np.float32([0.7])
    np.testing.assert_allclose(law.crps(y), scoringrules.crps_normal(y, 0.0, 1.0), rtol=2e-3)
    np.testing.assert_allclose(law.std(), 1, rtol=5e-3)
    np.testing.assert_allclose(law.cdf(y), stats.norm.cdf(y), atol=1e-3)


def test_crossing_quantiles_are_sorted_but_scored_as_forecast():
    crossed = Quantiles((0.1, 0.5, 0.9), np.float32([[3.0, 1.0, 2.0]]))
    straight = Quantiles((0.1, 0.5, 0.9), np.float32([[1.0, 2.0, 3.0]]))
    np.testing.assert_array_equal(crossed.quantile([0.1, 0.5]), straight.quantile([0.1, 0.5]))
    np.testing.assert_array_equal(crossed.cdf(1.7), straight.cdf(1.7))
    assert crossed.crps(np.float32([2.0])) > straight.crps(np.float32([2.0])) + 0.1


@pytest.mark.parametrize('levels', [(), (0.5, 0.4), (0.0, 0.5), (0.5, 1.0), (0.3, 0.3)])
def test_bad_levels(levels):
    with pytest.raises(InputError):
        Quantiles(levels, np.zeros((1, len(levels))))


def test_levels_beyond_what_was_forecast():
    law = make('quantiles')
    with pytest.raises(InputError, match='0.01'):
        law.quantile(0.01)
    with pytest.raises(InputError, match='0.05 to 0.95'):
        law.interval(0.99)
    with pytest.raises(InputError):
        make('samples').quantile(1.0)
    with pytest.raises(InputError, match='levels'):
        Quantiles((0.5,), np.zeros((2, 3))).mean()
    with pytest.raises(InputError, match='shape'):
        law.cdf(np.zeros(ROWS + 1))


def test_samples_against_numpy_and_scoringrules():
    law = make('samples')
    expected = scoringrules.crps_ensemble(TARGETS, law.values, estimator='fair')
    np.testing.assert_allclose(law.crps(TARGETS), expected, atol=1e-5)
    p = [0.05, 0.1, 0.3, 0.5, 0.93]
    np.testing.assert_allclose(law.quantile(p), np.quantile(law.values, p, axis=-1, method='weibull').T, rtol=1e-5)
    np.testing.assert_allclose(law.std(), law.values.std(-1), rtol=1e-5)
    one = Samples(law.values[:, :1])
    np.testing.assert_allclose(one.crps(TARGETS), np.abs(TARGETS - law.values[:, 0]), rtol=1e-6)
    np.testing.assert_allclose(one.quantile(0.3), law.values[:, 0])


def test_fair_crps_does_not_depend_on_the_number_of_draws():
    rng = np.random.Generator(np.random.Philox(5))
    few, many = (rng.normal(size=(20_000, n)).astype(np.float32) for n in (3, 40))
    y = np.full(20_000, 0.4, np.float32)
    truth = scoringrules.crps_normal(0.4, 0.0, 1.0)
    for draws in (few, many):
        score = np.asarray(Samples(draws).crps(y))
        assert abs(score.mean() - truth) < 4 * score.std() / np.sqrt(len(y))


@pytest.mark.parametrize(('n', 'off'), [(9, 0.005), (19, 0.005), (16, 0.03), (64, 0.005)])
def test_intervals_of_draws_cover_what_they_promise(n, off):
    """Draws and target of one heavy-tailed law. Exact where p (n + 1) is whole, as for 9 and 19; straight lines between
    few draws make the interval a little wide. 9 and 16 draws can not promise 90 %."""
    draws = np.random.Generator(np.random.Philox(6)).standard_t(4, (60_000, n + 1)).astype(np.float32)
    law, y = Samples(draws[:, 1:]), draws[:, 0]
    intervals = jax.jit(lambda law: {level: law.interval(level) for level in (0.8, 0.9)})(law)  # sorts the draws once
    for level, (lo, hi) in intervals.items():
        promised = min(level, (n - 1) / (n + 1))
        assert np.mean((lo <= y) & (y <= hi)) == pytest.approx(promised, abs=off)


def test_crps_keeps_its_digits_far_from_zero():
    """Prices near 20,000 with a spread of 1: float32 has three digits left, and the score must use them."""
    law = make('samples')
    near = np.asarray(law.values) - 1
    expected = scoringrules.crps_ensemble(TARGETS - 1, near, estimator='fair')
    np.testing.assert_allclose(Samples(near + 20_000).crps(TARGETS - 1 + 20_000), expected, atol=2e-3)


def test_atoms_against_scipy():
    law = make('atoms')
    for i in range(ROWS):
        kept = law.weights[i] > 0
        x, w = law.values[i][kept].astype(float), law.weights[i][kept].astype(float)
        w = w / w.sum()
        expected = (w * np.abs(x - TARGETS[i])).sum() - (w[:, None] * w * np.abs(x[:, None] - x)).sum() / 2
        np.testing.assert_allclose(law.crps(TARGETS)[i], expected, rtol=1e-5)
        order = np.argsort(x)
        for p in (0.07, 0.4, 0.8):
            np.testing.assert_allclose(law.quantile(p)[i], x[order][np.searchsorted(np.cumsum(w[order]), p)], rtol=1e-6)
        np.testing.assert_allclose(law.mean()[i], (w * x).sum(), rtol=1e-5)
        np.testing.assert_allclose(law.std()[i], np.sqrt((w * (x - (w * x).sum()) ** 2).sum()), rtol=1e-5)
        np.testing.assert_allclose(law.cdf(1.0)[i], w[x <= 1].sum(), atol=1e-6)


def test_equal_atoms_reach_their_own_levels():
    """p = k / N must give the k-th value although the running sum of 1/N is rounded."""
    n = 1000
    law = Atoms(np.arange(n, dtype=np.float32)[None], np.ones((1, n), np.float32))
    np.testing.assert_array_equal(law.quantile(np.arange(1, n) / n)[0], np.arange(n - 1))


def test_atoms_without_weight_take_no_part():
    full = Atoms(np.float32([[1, np.nan, 3]]), np.float32([[1, 0, 3]]))
    bare = Atoms(np.float32([[1, 3]]), np.float32([[1, 3]]))
    y = np.float32([2.5])
    for ask in (lambda a: a.mean(), lambda a: a.std(), lambda a: a.crps(y), lambda a: a.quantile([0.1, 0.99]),
                lambda a: a.cdf(2.0), lambda a: a.cdf(9.0), lambda a: a.trimmed_mean(0.1, 0.8)):  # fmt: skip
        np.testing.assert_allclose(ask(full), ask(bare), rtol=1e-6)
    nothing = Atoms(np.float32([[1, 2]]), np.float32([[0, 0]]))
    assert np.isnan(nothing.mean()).all() and np.isnan(nothing.quantile(0.5)).all() and np.isnan(nothing.crps(y)).all()


def test_trimmed_mean_of_atoms():
    x = np.sort(make('samples').values, -1)
    law = Samples(x).atoms()
    np.testing.assert_allclose(law.trimmed_mean(1 / 9, 8 / 9), x[:, 1:-1].mean(-1), rtol=1e-4)
    np.testing.assert_allclose(law.trimmed_mean(0, 7 / 9), x[:, :7].mean(-1), rtol=1e-4)
    np.testing.assert_allclose(law.trimmed_mean(0, 1), law.mean(), rtol=1e-5)
    half = (x[:, 1] / 2 + x[:, 2]) / 1.5  # from the middle of the second value to the end of the third
    np.testing.assert_allclose(law.trimmed_mean(1.5 / 9, 3 / 9), half, rtol=1e-4)
