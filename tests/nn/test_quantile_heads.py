"""Quantiles that can not cross, their inverse, and heads a horizon."""

import jax
import numpy as np
import pytest
from scipy import stats

from fjq.bridge import Pure
from fjq.nn.quantile_heads import QuantileHeads, grow_from_base, grow_from_middle, shrink_to_middle

LEVELS = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)
grow = jax.jit(grow_from_middle)


def test_any_numbers_become_increasing_quantiles():
    raw = np.random.Generator(np.random.Philox(0)).standard_normal((50, 7)).astype(np.float32) * 5
    quantiles = np.asarray(grow(raw))
    assert (np.diff(quantiles, axis=-1) >= 0).all()
    np.testing.assert_array_equal(quantiles[:, 3], raw[:, 3])
    step = np.log1p(np.exp(raw.astype(np.float64)))
    np.testing.assert_allclose(quantiles[:, 1], raw[:, 3] - step[:, 2] - step[:, 1], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(quantiles[:, 6], raw[:, 3] + step[:, 4:].sum(-1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('law', [stats.norm(), stats.t(3, loc=0.2), stats.norm(scale=1e-2), stats.uniform(5, 900)])
def test_the_inverse(law):
    wanted = np.stack([law.ppf(LEVELS), 2 * law.ppf(LEVELS)])
    raw = shrink_to_middle(wanted)
    np.testing.assert_allclose(grow(raw.astype(np.float32)), wanted, rtol=1e-4, atol=1e-5)


def test_quantiles_that_meet_are_moved_apart():
    raw = shrink_to_middle(np.zeros(7))
    assert np.isfinite(raw).all()
    np.testing.assert_allclose(np.diff(grow(raw)), 1e-3, rtol=1e-3)


def test_the_original_grows_from_a_base():
    base, delta = np.float32([[0.5]]), np.float32([[-1, 0, 1]])
    step = np.log1p(np.exp(delta.astype(np.float64)))
    np.testing.assert_allclose(jax.jit(grow_from_base)(base, delta), 0.5 + step.cumsum(-1), rtol=1e-5)


def test_a_fresh_head_gives_its_start_whatever_it_is_told():
    start = stats.norm.ppf(LEVELS)
    pure = Pure(lambda rngs: QuantileHeads(4, 3, 7, 5, start, rngs=rngs))
    params, _ = pure.init(jax.random.key(0))
    x = np.random.Generator(np.random.Philox(1)).standard_normal((6, 4)).astype(np.float32)
    run = lambda p: pure.apply(p, {}, lambda m: m(x))[0]
    out = np.asarray(jax.jit(run)(params))
    np.testing.assert_allclose(out, np.broadcast_to(start, (6, 3, 7)), atol=1e-5)
    gradient = jax.jit(jax.grad(lambda p: run(p).sum()))(params)
    assert np.abs(gradient['out_proj']['kernel']).max() > 0  # and learns from the first update on
