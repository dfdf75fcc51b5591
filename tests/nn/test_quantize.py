"""Quantisers: codes and ids are each other's inverse, gradients pass, codebooks follow the reference update."""

import itertools

import jax
import numpy as np
import pytest

from fjq.nn import quantize

LEVELS = (8, 5, 4, 3)
fold = jax.jit(quantize.fold, static_argnums=(1, 2))
gather_hits = jax.jit(quantize.gather_hits)
nearest = jax.jit(quantize.nearest)


def vectors(rows, channels, seed=0):
    rng = np.random.Generator(np.random.Philox(seed))
    return rng.standard_normal((rows, channels)).astype(np.float32)


def test_nearest_is_the_nearest():
    z, e = vectors(200, 6), vectors(40, 6, seed=1)
    brute = ((z[:, None] - e[None]) ** 2).sum(-1).argmin(1)
    np.testing.assert_array_equal(nearest(z, e), brute)


def test_straight_through_has_the_gradient_of_z():
    z, q = vectors(5, 3), vectors(5, 3, seed=1)
    np.testing.assert_array_equal(quantize.straight_through(z, q), z + (q - z))
    gradients = jax.jit(jax.grad(lambda z, q: (quantize.straight_through(z, q) ** 2).sum(), argnums=(0, 1)))(z, q)
    np.testing.assert_allclose(gradients[0], 2 * q, rtol=1e-5)
    assert not np.asarray(gradients[1]).any()


def test_fsq_reaches_every_id_and_back():
    codes, ids = jax.device_get(jax.jit(quantize.fsq, static_argnums=1)(vectors(200_000, len(LEVELS)), LEVELS))
    assert set(ids.tolist()) == set(range(int(np.prod(LEVELS))))
    np.testing.assert_allclose(jax.jit(quantize.fsq_codes, static_argnums=1)(ids, LEVELS), codes, atol=1e-6)
    assert len(np.unique(codes, axis=0)) == np.prod(LEVELS) and np.abs(codes).max() <= 1
    by_channel = np.stack(np.unravel_index(ids, LEVELS), -1)
    z = vectors(100_000, len(LEVELS)) * 3
    for c in range(len(LEVELS)):  # a larger number never has a lower level
        order = np.argsort(z[:, c], kind='stable')
        assert (np.diff(by_channel[order, c]) >= 0).all()


def test_fsq_has_the_gradient_of_its_bound():
    z = vectors(50, len(LEVELS))
    g = jax.jit(jax.grad(lambda z: quantize.fsq(z, LEVELS)[0].sum()))(z)
    n = np.array(LEVELS, np.float64)
    half, step = (n - 1) * 1.001 / 2, n // 2
    shift = np.arctanh(np.where(n % 2 == 0, 0.5, 0) / half)
    np.testing.assert_allclose(g, half / step / np.cosh(z + shift) ** 2, rtol=1e-4, atol=1e-6)


def test_bsq_is_the_sign_on_a_sphere():
    u = np.asarray(jax.jit(quantize.unit)(vectors(5000, 6)))
    codes, ids = jax.device_get(jax.jit(quantize.bsq)(u))
    np.testing.assert_allclose(np.linalg.norm(u, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(codes, np.sign(u) / np.sqrt(6), rtol=1e-6, atol=1e-7)
    np.testing.assert_array_equal(ids, ((u > 0) * 2 ** np.arange(6)).sum(1))
    np.testing.assert_allclose(jax.jit(quantize.bsq_codes, static_argnums=1)(ids, 6), codes, atol=1e-7)
    gradient = jax.jit(jax.grad(lambda z: quantize.unit(z).sum()))(np.zeros((2, 3), np.float32))
    assert np.isfinite(np.asarray(gradient)).all()


def test_bit_entropy():
    p = np.array([[0.5, 0.25, 0.0, 1.0]])
    expected = [np.log(2), -(0.25 * np.log(0.25) + 0.75 * np.log(0.75)), 0, 0]
    np.testing.assert_allclose(jax.jit(quantize.binary_entropy)(p)[0], expected, atol=1e-5)
    probability = np.asarray(jax.jit(quantize.bsq_probability)(np.array([[0.5, -0.5, 0.5, -0.5]])))
    np.testing.assert_allclose(probability, 1 / (1 + np.exp([[1.0, -1, 1, -1]])), rtol=1e-5)


def test_residual_levels_add_up():
    z, books = vectors(300, 4), [vectors(k, 4, seed=k) for k in (16, 8)]
    q, ids, seen = jax.device_get(jax.jit(quantize.residual)(z, books))
    np.testing.assert_allclose(q, books[0][ids[0]] + books[1][ids[1]], rtol=1e-5)
    np.testing.assert_array_equal(seen[0], z)
    np.testing.assert_allclose(seen[1], z - books[0][ids[0]], rtol=1e-5)


@pytest.mark.parametrize('bases', [(7,), (3, 4), (2, 5, 3)])
def test_digits(bases):
    all_digits = np.array(list(itertools.product(*map(range, bases))), np.int32)
    number = jax.jit(quantize.join_digits, static_argnums=1)(list(all_digits.T), bases)
    np.testing.assert_array_equal(number, np.arange(np.prod(bases)))
    split = jax.jit(quantize.split_digits, static_argnums=1)(number, bases)
    np.testing.assert_array_equal(np.stack(split, -1), all_digits)


def reference_update(e, count, sums, z, ids, decay, eps=1e-5):
    """Section 1.3 of the original's description, in double precision."""
    n = np.bincount(ids, minlength=len(e))
    s = np.stack([np.bincount(ids, column, minlength=len(e)) for column in z.T], -1)
    count, sums = decay * count + (1 - decay) * n, decay * sums + (1 - decay) * s
    smooth = count.sum() * (count + eps) / (count.sum() + len(e) * eps)
    return sums / smooth[:, None], count, sums


def gather(book, z, pieces=1, mask=None):
    ids, draws = np.asarray(nearest(z, book['embedding'])), np.linspace(0.1, 0.9, len(z), dtype=np.float32)
    mask = np.ones(len(z), bool) if mask is None else mask
    for part in np.array_split(np.arange(len(z)), pieces):
        book = gather_hits(book, z[part], ids[part], mask[part], draws[part])
    return book, ids


def test_codes_follow_their_vectors():
    """Three updates against double precision, from averages that start at nought as the original's do."""
    book = quantize.make_codebook(vectors(16, 3, seed=5))
    e, count, sums = np.asarray(book['embedding'], np.float64), np.zeros(16), np.zeros((16, 3))
    for step in range(3):
        z = vectors(40, 3, seed=step)
        book, ids = gather(book, z)
        e, count, sums = reference_update(e, count, sums, z, ids, 0.9)
        book = fold(book, 0.9, 0.0)
        for name, expected in (('embedding', e), ('count', count), ('sum', sums)):
            np.testing.assert_allclose(book[name], expected, rtol=2e-5, atol=1e-6, err_msg=f'{name} {step}')
        if step == 0:  # the fault of the original: what was not hit is the zero vector
            assert (np.abs(e).sum(1) == 0).sum() == (np.bincount(ids, minlength=16) == 0).sum() > 0


def test_slices_of_a_batch_give_the_update_of_the_whole():
    start, z = quantize.make_codebook(vectors(16, 3, seed=5)), vectors(48, 3)
    whole, sliced = (fold(gather(start, z, pieces=p)[0], 0.9, 0.5) for p in (1, 4))
    for name in whole:
        np.testing.assert_allclose(whole[name], sliced[name], rtol=1e-5, atol=1e-6, err_msg=name)


def test_masked_vectors_take_no_part():
    start, z, mask = quantize.make_codebook(vectors(16, 3, seed=5)), vectors(40, 3), np.arange(40) < 10
    other = np.where(mask[:, None], z, 7)
    books = [gather(start, x, mask=mask)[0] for x in (z, other)]
    for name in books[0]:
        np.testing.assert_array_equal(books[0][name], books[1][name], err_msg=name)
    np.testing.assert_allclose(books[0]['new_count'].sum(), 10)


def test_unused_codes_are_replaced_by_drawn_vectors():
    far = np.concatenate([vectors(4, 3), vectors(4, 3) + 100])
    start = quantize.make_codebook(far) | {'count': np.ones(8, np.float32), 'sum': far}
    z = vectors(64, 3, seed=2)
    book, kept = gather(start, z)[0], gather(start, z)[0]
    for _ in range(60):
        kept = fold(gather(kept, z)[0], 0.9, 0.0)
        book = fold(gather(book, z)[0], 0.9, 0.3)
    assert (np.abs(kept['embedding']) > 50).any(1).sum() == 4 or (np.asarray(kept['count']) < 0.05).sum() == 4
    assert np.abs(book['embedding']).max() < 10 and (np.asarray(book['count']) > 0.3).all()


def test_nothing_found_changes_nothing():
    book = quantize.make_codebook(vectors(8, 3)) | {'count': np.ones(8, np.float32)}
    for name, value in fold(book, 0.9, 0.5).items():
        np.testing.assert_array_equal(value, book[name])
