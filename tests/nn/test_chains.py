"""Chains compute what one would, and only where they pay."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fjq.nn import chains
from fjq.nn.attention import attend
from fjq.nn.chains import in_halves, side_by_side


def _draw(*shape):
    return jnp.asarray(np.random.default_rng(0).standard_normal(shape), jnp.float32)


def _attention(q, k, v, mask):
    return attend(q, k, v, causal=True, mask=mask)


@pytest.mark.parametrize('rows', [2, 3, 5])
@pytest.mark.parametrize('masked', [False, True])
def test_halves_give_the_same_and_the_same_gradient(monkeypatch, rows, masked):
    monkeypatch.setattr(jax, 'device_count', lambda: 1)
    q, k, v = _draw(3, rows, 8, 2, 4)
    mask = jnp.asarray(np.random.default_rng(1).random((rows, 8, 8)) < 0.7) if masked else None
    ends = lambda f: jax.jit(jax.value_and_grad(lambda *x: (f(*x, mask) ** 2).sum(), (0, 1, 2)))(q, k, v)
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)
    jax.tree.map(close, ends(in_halves(_attention)), ends(_attention))


def _count_products(rows, size):
    x = _draw(rows, 4, size)
    program = jax.jit(lambda x: side_by_side(lambda x: jax.lax.batch_matmul(x, x.mT), x)).lower(x)
    return program.as_text().count('dot_general')


def test_two_chains_where_the_work_is_worth_it(monkeypatch):
    monkeypatch.setattr(jax, 'device_count', lambda: 1)
    assert _count_products(8, chains.LEAST // 32) == 2
    assert _count_products(8, chains.LEAST // 64) == _count_products(1, chains.LEAST) == 1


def test_several_devices_keep_one_chain():
    assert jax.device_count() > 1
    assert _count_products(8, chains.LEAST // 32) == 1
