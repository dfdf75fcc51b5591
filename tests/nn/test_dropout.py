"""Dropout: rate, scale, independence and determinism."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from fjq.errors import InputError
from fjq.nn.dropout import dropout


@pytest.mark.parametrize('rate', [0.1, 0.5, 0.9])
@pytest.mark.parametrize('features', [8, 7, 1])
def test_rate_and_mean(rate, features):
    x = jnp.ones((40_000 // features, features))
    y = np.asarray(dropout(x, rate, jax.random.key(0)))
    dropped = int((y == 0).sum())
    assert stats.binomtest(dropped, y.size, rate).pvalue > 1e-3
    assert y.max() * (1 - rate) == pytest.approx(1, rel=2**-14)
    assert len(np.unique(y)) == 2


def test_two_elements_of_one_word_are_independent():
    y = np.asarray(dropout(jnp.ones((20_000, 2)), 0.5, jax.random.key(1))) > 0
    table = [[(y[:, 0] & y[:, 1]).sum(), (y[:, 0] & ~y[:, 1]).sum()], [(~y[:, 0] & y[:, 1]).sum(), (~y).all(1).sum()]]
    assert stats.chi2_contingency(table).pvalue > 1e-3


def test_scale_is_exact_for_the_rounded_rate():
    """A rate of 1e-4 rounds to 7 / 65536."""
    y = dropout(jnp.ones((300, 300)), 1e-4, jax.random.key(0))
    assert float(y.max()) == np.float32(65536 / (65536 - 7))


def test_no_key_or_no_rate_changes_nothing():
    x = jnp.arange(6.0).reshape(2, 3)
    assert dropout(x, 0.4, None) is x
    assert dropout(x, 0.0, jax.random.key(0)) is x


def test_gradient_flows_where_kept_only_and_dtype_stays():
    x = jnp.ones((64, 16), jnp.bfloat16)
    y, pull = jax.vjp(lambda x: dropout(x, 0.3, jax.random.key(2)), x)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_array_equal(pull(jnp.ones_like(y))[0], y)


def test_keys_decide():
    x = jnp.ones((64, 16))
    draw = lambda seed: dropout(x, 0.3, jax.random.key(seed))
    np.testing.assert_array_equal(draw(0), draw(0))
    assert (draw(0) != draw(1)).mean() > 0.2


@pytest.mark.parametrize('rate', [-0.1, 1.0, float('nan')])
def test_a_bad_rate_is_refused(rate):
    with pytest.raises(InputError, match='dropout rate'):
        dropout(jnp.ones(3), rate, None)
