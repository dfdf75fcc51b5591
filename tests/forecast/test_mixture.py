"""The Student-t functions and the mixture law against scipy and scoringrules in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scoringrules
from scipy import stats

from fjq.forecast import Mixture, student

RNG = np.random.Generator(np.random.Philox(3))
DF = np.exp(RNG.uniform(0, np.log(1e9), 5000)).astype(np.float32)
Z = (RNG.standard_normal(5000) * 10.0 ** RNG.uniform(-4, 1.5, 5000)).astype(np.float32)
tails, sf, log_pdf = jax.jit(student.tails), jax.jit(student.sf), jax.jit(student.log_pdf)


def test_tails_to_single_precision():
    below, above = tails(Z, DF)
    np.testing.assert_allclose(below, stats.t.cdf(Z.astype(float), DF.astype(float)), atol=4e-7)
    np.testing.assert_allclose(above, stats.t.sf(Z.astype(float), DF.astype(float)), atol=4e-7)
    kept = np.abs(Z) < 8
    expected = stats.t.sf(np.abs(Z[kept]).astype(float), DF[kept].astype(float))
    np.testing.assert_allclose(sf(np.abs(Z[kept]), DF[kept]), expected, rtol=1e-5)


def test_density():
    expected = stats.t.logpdf(Z.astype(float), DF.astype(float))
    np.testing.assert_allclose(log_pdf(Z, DF), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize('df', [np.inf, None])
def test_gaussian_limit(df):
    df = df if df is None else np.full_like(Z, df)
    np.testing.assert_allclose(tails(Z, df)[0], stats.norm.cdf(Z), atol=3e-7)
    np.testing.assert_allclose(log_pdf(Z, df), stats.norm.logpdf(Z.astype(float)), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(jax.jit(student.half_mean_difference)(df), 1 / np.sqrt(np.pi), rtol=1e-6)


def test_extreme_arguments_stay_finite():
    z = np.float32([0, 1e-30, 1e10, 1e30, 3e38])
    for df in (1.0, 3.0, np.inf):
        assert np.isfinite(sf(z, np.full_like(z, df))).all()


@pytest.mark.parametrize('df', [1.5, 2.0, 3.0, 7.0, 100.0, np.inf])
def test_single_component_crps(df):
    y = np.linspace(-6, 6, 13).astype(np.float32)
    ones = np.ones((13, 1), np.float32)
    law = Mixture(ones, 0.5 * ones, 1.7 * ones, df * ones)
    expected = scoringrules.crps_t(y, df, 0.5, 1.7) if np.isfinite(df) else scoringrules.crps_normal(y, 0.5, 1.7)
    np.testing.assert_allclose(law.crps(y), expected, rtol=2e-5)


def random_mixture(rows: int, parts: int, df_from: float | None, seed: int) -> Mixture:
    rng = np.random.Generator(np.random.Philox(seed))
    w, loc = rng.dirichlet(np.ones(parts), rows), 3 * rng.normal(size=(rows, parts))
    scale = 10 ** rng.uniform(-2, 1, (rows, parts))  # three decades: narrow components under wide ones
    df = None
    if df_from is not None:
        df = rng.uniform(df_from, 12, (rows, parts))
        df[:, 0] = np.inf
    return Mixture(*(a if a is None else a.astype(np.float32) for a in (w, loc, scale, df)))


def reference_crps(law: Mixture, row: int, y: float) -> float:
    """The definition in float64, on a grid that is fine around every component and reaches far out."""
    w, loc, scale = (np.asarray(a[row], float) for a in (law.weights, law.loc, law.scale))
    df = np.full_like(w, 1e12) if law.df is None else np.minimum(np.asarray(law.df[row], float), 1e12)
    u = np.sinh(np.linspace(-24, 24, 6001))
    x = np.unique(np.concatenate([loc[k] + scale[k] * u for k in range(len(w))] + [[y]]))
    z = (x[:, None] - loc) / scale
    below, above = (w * stats.t.cdf(z, df)).sum(-1) / w.sum(), (w * stats.t.sf(z, df)).sum(-1) / w.sum()
    left, right = x <= y, x >= y
    return np.trapezoid(below[left] ** 2, x[left]) + np.trapezoid(above[right] ** 2, x[right])


@pytest.mark.parametrize('df_from', [None, 1.5, 3.0])
def test_mixture_crps(df_from):
    law = random_mixture(12, 4, df_from, seed=11)
    y = np.linspace(-5, 9, 12).astype(np.float32)
    expected = [reference_crps(law, i, float(y[i])) for i in range(12)]
    np.testing.assert_allclose(law.crps(y), expected, rtol=2e-5)


def test_mixture_of_gaussians_against_scoringrules():
    law = random_mixture(12, 3, None, seed=5)
    y = np.linspace(-5, 9, 12).astype(np.float32)
    expected = scoringrules.crps_mixnorm(y, law.loc, law.scale, law.weights / law.weights.sum(-1, keepdims=True))
    np.testing.assert_allclose(law.crps(y), expected, rtol=2e-5)


@pytest.mark.parametrize('df_from', [None, 0.6, 1.5])
def test_quantiles_of_hard_mixtures(df_from):
    law = random_mixture(40, 5, df_from, seed=7)
    p = np.float32([1e-4, 0.01, 0.2, 0.5, 0.8, 0.99, 0.9999])
    q = law.quantile(p)
    np.testing.assert_allclose(law.cdf(q), np.broadcast_to(p, q.shape), rtol=5e-4, atol=2e-5)


def test_single_student_quantiles_against_scipy():
    df = np.float32([[1.0], [2.5], [30.0], [np.inf]])
    law = Mixture(np.ones_like(df), 2 * np.ones_like(df), 3 * np.ones_like(df), df)
    p = np.float32([0.001, 0.05, 0.3, 0.5, 0.95, 0.9995])
    np.testing.assert_allclose(law.quantile(p), stats.t.ppf(p.astype(float), df, 2, 3), rtol=3e-5, atol=1e-5)


def test_moments_and_density():
    law = random_mixture(20, 3, 3.0, seed=9)
    w = np.asarray(law.weights, float) / law.weights.sum(-1, keepdims=True)
    df = np.minimum(law.df.astype(float), 1e12)
    mean = (w * law.loc).sum(-1)
    var = (w * (stats.t.var(df, law.loc, law.scale) + law.loc**2)).sum(-1) - mean**2
    np.testing.assert_allclose(law.mean(), mean, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(law.std(), np.sqrt(var), rtol=1e-4)
    y = np.linspace(-3, 3, 20).astype(np.float32)
    density = (w * stats.t.pdf(y[:, None], df, law.loc, law.scale)).sum(-1)
    np.testing.assert_allclose(law.log_prob(y), np.log(density), rtol=1e-4, atol=1e-5)


def test_moments_that_do_not_exist():
    ones = np.ones((1, 1), np.float32)
    assert np.isnan(Mixture(ones, ones, ones, ones).mean()).all()
    assert np.isinf(Mixture(ones, ones, ones, 2 * ones).std()).all()
    assert np.isnan(Mixture(ones, ones, ones, 0.9 * ones).crps(np.float32([1]))).all()


def test_a_row_of_nan_does_not_spoil_the_others():
    law = random_mixture(3, 2, 3.0, seed=1)
    good = law.quantile(0.2)
    loc = law.loc.copy()
    loc[1] = np.nan
    bad = Mixture(law.weights, loc, law.scale, law.df).quantile(0.2)
    np.testing.assert_array_equal(np.isnan(bad), [False, True, False])
    np.testing.assert_allclose(bad[::2], good[::2], rtol=1e-5)


@pytest.mark.parametrize('df_from', [None, 2.5])
def test_trimmed_mean(df_from):
    law = random_mixture(5, 3, df_from, seed=2)
    for lower, upper in ((0.1, 0.9), (0.0, 0.75), (0.2, 1.0)):
        got = law.trimmed_mean(lower, upper)
        draws = np.asarray(law.quantile(lower + (upper - lower) * (np.arange(1000) + 0.5) / 1000))
        np.testing.assert_allclose(got, draws.mean(-1), rtol=5e-3, atol=5e-3)
    np.testing.assert_allclose(law.trimmed_mean(0, 1), law.mean(), rtol=1e-5)


def test_log_prob_has_a_gradient():
    law = random_mixture(4, 2, 3.0, seed=4)
    y = np.float32([0.1, 1, -1, 2])
    loss = lambda law: -jnp.sum(law.log_prob(y))
    grad = jax.jit(jax.grad(loss))(jax.tree.map(jnp.asarray, law))
    for name in ('loc', 'scale'):
        step = 1e-2 * np.asarray(law.scale)
        moved = [Mixture(**{**vars(law), name: getattr(law, name) + sign * step}) for sign in (1, -1)]
        numeric = (loss(moved[0]) - loss(moved[1])) / 2
        np.testing.assert_allclose(numeric, (getattr(grad, name) * step).sum(), rtol=2e-2, atol=2e-3)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grad))


def test_crps_of_a_spike_under_a_heavy_tail():
    """The worst case for a fixed quadrature rule."""
    law = Mixture(*(np.float32([a]) for a in ([0.5, 0.5], [0.0, 3.0], [1.0, 1e-3], [2.2, 30.0])))
    np.testing.assert_allclose(law.crps(np.float32([3.0])), reference_crps(law, 0, 3.0), rtol=2e-5)
