"""Pooling, dressing, transforming and writing laws."""

import jax
import numpy as np
import pytest

from fjq.errors import InputError
from fjq.forecast import Atoms, Mixture, Point, Quantiles, Samples, affine, dress, pool, to_columns, transform

RNG = np.random.Generator(np.random.Philox(8))
VALUES = RNG.normal(size=(5, 9)).astype(np.float32)
ONES = np.ones_like(VALUES)
LEVELS = tuple(np.arange(1, 10) / 10)
INDEX = np.array([0, 2, 0, -1, 2])
LAWS = {
    'point': Point(VALUES[:, 0]),
    'quantiles': Quantiles(LEVELS, np.sort(VALUES, -1)),
    'samples': Samples(VALUES),
    'atoms': Atoms(VALUES, ONES),
    'mixture': Mixture(ONES[:, :2], VALUES[:, :2], ONES[:, :2], 5 * ONES[:, :2]),
}
each_law = pytest.mark.parametrize('law', LAWS.values(), ids=LAWS.keys())


@each_law
def test_pool_averages_means_and_quantiles(law):
    pooled = jax.jit(pool, static_argnums=2)(law, INDEX, 3)
    assert pooled.shape == (3,)
    # A mixture is pooled through 101 of its quantiles, which lose the far tails.
    rtol = 2e-2 if isinstance(law, Mixture) else 1e-5
    for ask in (lambda a: np.asarray(a.mean()), lambda a: np.asarray(a.quantile(0.35))):
        each = ask(law)
        np.testing.assert_allclose(
            ask(pooled)[[0, 2]], [each[[0, 2]].mean(), each[[1, 4]].mean()], rtol=rtol, atol=rtol
        )
    assert np.isnan(np.asarray(pooled.mean())[1])


@each_law
def test_pool_of_equal_rows_keeps_the_law(law):
    same = jax.tree.map(lambda a: np.repeat(a[:1], 4, 0), law)
    pooled = jax.jit(pool, static_argnums=2)(same, np.zeros(4, int), 1, np.float32([1, 2, 3, 4]))
    p = [0.2, 0.5, 0.8]
    np.testing.assert_allclose(
        pooled.quantile(p)[0], law.quantile(p)[0], atol=0.03 if isinstance(law, Mixture) else 1e-5
    )


def test_pool_weights_and_more_axes():
    values = RNG.normal(size=(4, 3, 6)).astype(np.float32)
    weight = np.float32([1, 3, 0, 1])
    pooled = pool(Samples(values), np.array([0, 0, 0, 1]), 2, weight)
    ordered = np.sort(values, -1)
    np.testing.assert_allclose(pooled.values[0], 0.25 * ordered[0] + 0.75 * ordered[1], rtol=1e-5)
    np.testing.assert_allclose(pooled.values[1], ordered[3], rtol=1e-6)


def test_pool_leaves_rows_without_part_alone():
    values = VALUES.copy()
    values[3] = np.nan
    assert np.isfinite(pool(Samples(values), INDEX, 3).values[0]).all()


def test_dress_gives_back_its_errors():
    point = Point(np.float32([[1.0, 2.0], [3.0, 4.0]]))
    errors = np.float32([[0.1, -0.2, 0.3], [0.0, 0.5, -0.5]])  # [H, E]
    log = dress(point, errors, 'log')
    assert log.shape == (2, 2) and log.values.shape == (2, 2, 3)
    np.testing.assert_allclose(log.values[1, 0], 3 * np.exp(errors[0]), rtol=1e-6)
    level = dress(point, errors, 'level')
    np.testing.assert_allclose(level.values[0, 1], 2 + errors[1], rtol=1e-6)
    known = dress(point, errors, 'level', weight=np.float32([[1, 0, 1], [0, 1, 0]]))
    np.testing.assert_allclose(known.mean()[0], [1 + 0.2, 2.5], rtol=1e-6)
    with pytest.raises(InputError, match="'ratio'"):
        dress(point, errors, 'ratio')


def test_dressed_intervals_cover():
    """Errors of one half of a series give intervals that cover the other half at their level."""
    noise = np.exp(0.3 * RNG.standard_normal(1600)).astype(np.float32)
    level = RNG.uniform(0.5, 2, 1600).astype(np.float32)
    target = level * noise
    law = dress(Point(level[800:]), np.log(target / level)[:800], 'log')
    lo, hi = law.interval(0.8)
    share = ((target[800:] >= lo) & (target[800:] <= hi)).mean()
    assert abs(share - 0.8) < 0.04


def test_transform():
    for name in ('point', 'quantiles', 'samples', 'atoms'):
        law = LAWS[name]
        np.testing.assert_allclose(transform(law, np.exp).quantile(0.5), np.exp(law.quantile(0.5)), rtol=1e-5)
    with pytest.raises(InputError, match='Mixture'):
        transform(LAWS['mixture'], np.exp)
    with pytest.raises(InputError):
        affine(VALUES, 0, 1)


def test_columns():
    columns = to_columns(LAWS['samples'], (0.05, 0.5, 0.975))
    assert list(columns) == ['mean', 'q05', 'q50', 'q97.5']
    np.testing.assert_allclose(columns['q05'], np.quantile(VALUES, 0.05, axis=-1, method='weibull'), rtol=1e-5)
    assert all(isinstance(c, np.ndarray) and c.shape == (5,) for c in columns.values())


def test_pool_sorts_quantiles_that_cross():
    law = Quantiles((0.1, 0.5, 0.9), np.float32([[3, 1, 2], [1, 2, 3]]))
    np.testing.assert_allclose(pool(law, np.zeros(2, int), 1).values[0], [1, 2, 3])
