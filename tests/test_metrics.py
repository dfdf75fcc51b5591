"""Metrics against scikit-learn, scipy and scoringrules; masks, axes and NumPy/JAX agreement for all of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scoringrules
from scipy import special, stats
from sklearn import metrics as sk

from fjq import metrics
from fjq.errors import InputError
from fjq.forecast import Point, Quantiles, Samples

RNG = np.random.Generator(np.random.Philox(6))
N, H = 40, 3
Y = RNG.lognormal(size=(N, H))
F = Y * RNG.lognormal(sigma=0.3, size=(N, H))
MASK = RNG.uniform(size=(N, H)) < 0.7
LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)
LAW = Quantiles(LEVELS, F[..., None] * np.exp(0.4 * stats.norm.ppf(LEVELS)))

POINT_METRICS = {
    'mae': metrics.mae,
    'mse': metrics.mse,
    'huber': lambda y, f, m=None, a=None: metrics.huber(y, f, m, a, delta=0.4),
    'qlike': lambda y, f, m=None, a=None: metrics.qlike(y, f, m, a, power=2, floor=1e-3),
    'pinball': lambda y, f, m=None, a=None: metrics.pinball(y, f, m, a, level=0.2),
}
LAW_METRICS = {
    'crps': metrics.crps,
    'coverage': lambda y, f, m=None, a=None: metrics.coverage(y, f, m, a, level=0.5),
    'width': lambda y, f, m=None, a=None: metrics.width(y, f, m, a, level=0.5),
    'wis': lambda y, f, m=None, a=None: metrics.wis(y, f, m, a, levels=(0.5, 0.9)),
}
CASES = [(name, fn, F) for name, fn in POINT_METRICS.items()] + [(name, fn, LAW) for name, fn in LAW_METRICS.items()]
each_metric = pytest.mark.parametrize('metric,forecast', [case[1:] for case in CASES], ids=[case[0] for case in CASES])


@each_metric
def test_axes_add_up(metric, forecast):
    whole, weight = metric(Y, forecast, MASK)
    for axis in (0, 1, ()):
        sums, weights = metric(Y, forecast, MASK, axis)
        assert sums.shape == {0: (H,), 1: (N,), (): (N, H)}[axis]
        np.testing.assert_allclose(sums.sum(), whole, rtol=1e-9)
        np.testing.assert_allclose(weights.sum(), weight, rtol=1e-9)
    assert weight == MASK.sum()


@each_metric
def test_masked_entries_may_hold_anything(metric, forecast):
    """Their target is NaN here; they must reach neither the sum nor the gradient."""
    kept = np.where(MASK, Y, np.nan)
    np.testing.assert_array_equal(metric(kept, forecast, MASK), metric(Y, forecast, MASK))
    if isinstance(forecast, np.ndarray):
        gradient = jax.grad(lambda f: metric(jnp.asarray(kept), f, jnp.asarray(MASK))[0])(jnp.asarray(F))
        assert np.isfinite(gradient).all() and (np.asarray(gradient)[~MASK] == 0).all()


@each_metric
def test_jax_agrees_with_numpy(metric, forecast):
    plain = metric(Y, forecast, MASK, 0)
    assert all(type(part) is np.ndarray and part.dtype == np.float64 for part in plain[:1])
    traced = jax.jit(lambda y, f, m: metric(y, f, m, 0))(Y, forecast, MASK)
    np.testing.assert_allclose(traced, plain, rtol=2e-5)


@each_metric
def test_no_mask_means_all(metric, forecast):
    np.testing.assert_array_equal(metric(Y, forecast), metric(Y, forecast, np.ones_like(MASK)))


def mean(pair):
    return pair[0] / pair[1]


def test_against_scikit_learn():
    y, f = Y[MASK], F[MASK]
    np.testing.assert_allclose(mean(metrics.mae(Y, F, MASK)), sk.mean_absolute_error(y, f))
    np.testing.assert_allclose(mean(metrics.mse(Y, F, MASK)), sk.mean_squared_error(y, f))
    np.testing.assert_allclose(mean(metrics.pinball(Y, F, MASK, level=0.3)), sk.mean_pinball_loss(y, f, alpha=0.3))
    ratio = mean(metrics.squared_ratio(Y, F, np.full_like(Y, y.mean()), MASK))
    np.testing.assert_allclose(1 - ratio, sk.r2_score(y, f))
    huber = special.huber(0.4, y - f).mean()
    np.testing.assert_allclose(mean(metrics.huber(Y, F, MASK, delta=0.4)), huber)
    # QLIKE of variances is half the gamma deviance.
    np.testing.assert_allclose(mean(metrics.qlike(Y, F, MASK, power=1, floor=1e-9)), sk.mean_gamma_deviance(y, f) / 2)
    np.testing.assert_allclose(
        mean(metrics.qlike(Y, F, MASK, power=2, floor=1e-9)), sk.mean_gamma_deviance(y**2, f**2) / 2
    )


def test_qlike_clips():
    y, f = np.array([1.0, 1.0, 2.0]), np.array([-3.0, 0.05, 2.0])
    score, _ = metrics.qlike(y, f, axis=(), power=1, floor=0.1)
    np.testing.assert_allclose(score, [10 - np.log(10) - 1] * 2 + [0], atol=1e-12)


def test_intervals_by_hand():
    lo, hi = (np.asarray(end) for end in LAW.interval(0.5))
    inside = ((Y >= lo) & (Y <= hi))[MASK].mean()
    np.testing.assert_allclose(mean(metrics.coverage(Y, LAW, MASK, level=0.5)), inside)
    np.testing.assert_allclose(mean(metrics.width(Y, LAW, MASK, level=0.5)), (hi - lo)[MASK].mean())


def test_wis_is_that_of_the_intervals():
    """Bracher et al. (2021), equations 1 and 2: the interval scores (Winkler 1972) and the error of the median."""
    expected = np.abs(Y - np.asarray(LAW.quantile(0.5))) / 2
    for level in (0.5, 0.9):
        lo, hi = (np.asarray(end) for end in LAW.interval(level))
        expected += (1 - level) / 2 * scoringrules.interval_score(Y, lo, hi, 1 - level)
    np.testing.assert_allclose(metrics.wis(Y, LAW, axis=(), levels=(0.5, 0.9))[0], expected / 2.5, rtol=1e-5)


def test_laws_are_scored_by_their_own_functional():
    law = Samples(RNG.lognormal(size=(N, H, 30)))
    np.testing.assert_allclose(metrics.mae(Y, law), metrics.mae(Y, np.median(law.values, -1)), rtol=1e-5)
    np.testing.assert_allclose(metrics.mse(Y, law), metrics.mse(Y, law.values.mean(-1)), rtol=1e-5)
    np.testing.assert_allclose(metrics.mae(Y, Point(F)), metrics.mae(Y, F), rtol=1e-5)
    np.testing.assert_allclose(metrics.crps(Y, Point(F)), metrics.mae(Y, F), rtol=1e-5)


def test_correlations():
    y, f = Y[MASK], F[MASK]
    np.testing.assert_allclose(metrics.correlation(metrics.comoments(Y, F, MASK)), stats.pearsonr(y, f).statistic)
    tied = np.round(F, 1)
    np.testing.assert_allclose(metrics.spearman(Y, tied, MASK), stats.spearmanr(y, tied[MASK]).statistic)
    parts = [metrics.comoments(Y[part], F[part], MASK[part]) for part in (slice(0, 7), slice(7, None))]
    np.testing.assert_allclose(
        metrics.correlation([sum(pair) for pair in zip(*parts, strict=True)]), stats.pearsonr(y, f).statistic
    )
    assert np.isnan(metrics.correlation(metrics.comoments(Y, np.ones_like(F), MASK)))
    # Around a centre float32 keeps its digits far from zero.
    far = metrics.comoments(jnp.asarray(Y) + 1000, jnp.asarray(F) + 1000, jnp.asarray(MASK), centre=(1001.0, 1001.0))
    np.testing.assert_allclose(metrics.correlation(far), stats.pearsonr(y, f).statistic, rtol=1e-3)


def test_a_correlation_is_never_beyond_one():
    """Sums are rounded: the plain ratio of some lines is 1 + 2e-16, of which Fisher's z is NaN."""
    for x in np.random.Generator(np.random.Philox(7)).standard_normal((100, 5)):
        for sign in (1, -1):
            r = metrics.correlation(metrics.comoments(x, 3 * sign * x + 1))
            assert abs(r) <= 1 and r == pytest.approx(sign)


def test_shapes_that_do_not_match():
    with pytest.raises(InputError, match='shape'):
        metrics.mae(Y, F[:, 0])
    with pytest.raises(InputError, match='shape'):
        metrics.mse(Y[:, :1], F)
