"""Time of day, weekday and date as vectors."""

import functools

import jax
import numpy as np

from fjq.bridge import Pure
from fjq.nn.clock_encoding import ClockEncoding, Time2Vec, harmonics, waves

compiled = jax.jit(harmonics, static_argnums=(1, 2))


def test_harmonics_are_sines_and_cosines_of_whole_turns():
    bars = np.array([[0, 1, 144, 287]])
    got = np.asarray(compiled(bars, 288, 32))
    angle = 2 * np.pi * np.arange(1, 17) * bars[..., None].astype(np.float64) / 288
    np.testing.assert_allclose(got[..., 0::2], np.sin(angle), atol=2e-6)
    np.testing.assert_allclose(got[..., 1::2], np.cos(angle), atol=2e-6)


def test_the_published_distances():
    """Neighbours over midnight are close, noon is far: 0.8411 and the root of 32."""
    at = lambda bar: np.asarray(compiled(np.array([bar]), 288, 32), np.float64)[0]
    np.testing.assert_allclose(np.linalg.norm(at(0) - at(287)), 0.8411, atol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(at(0) - at(144)), np.sqrt(32), atol=1e-4)
    np.testing.assert_allclose(at(0), at(288), atol=1e-6)


@functools.cache
def encoder(learned, age_dim=0):
    pure = Pure(
        lambda rngs: ClockEncoding(6, bars_per_day=48, dims=(8, 4, 6, 6), age_dim=age_dim, learned=learned, rngs=rngs)
    )
    params, _ = pure.init(jax.random.key(0))
    return jax.jit(lambda *arrays: pure.apply(params, {}, lambda m: m(*arrays))[0])


def encode(learned, bar, weekday, month, year):
    return np.asarray(encoder(learned)(*(np.array(x, np.int32) for x in (bar, weekday, month, year, [2]))))


def test_every_part_of_the_date_is_seen():
    base = [[3, 4]], [2], [5], [100]
    for learned in (False, True):
        vectors = [encode(learned, *base)]
        for part, other in enumerate(([[3, 5]], [3], [6], [101])):
            vectors.append(encode(learned, *base[:part], other, *base[part + 1 :]))
        assert vectors[0].shape == (1, 2, 6)
        for changed in vectors[1:]:
            assert np.abs(changed - vectors[0]).max() > 1e-7
        np.testing.assert_array_equal(vectors[1][:, 0], vectors[0][:, 0])  # the other bar is as it was


def test_the_date_turns_round_where_it_is_not_learned():
    """31 January is next to 1 February; the last day of a year next to the first."""
    one = lambda month, year: encode(False, [[0]], [0], [month], [year])
    near, far = np.abs(one(31, 366) - one(1, 1)).max(), np.abs(one(16, 183) - one(1, 1)).max()
    assert near < far / 2


def test_time2vec_is_all_but_constant_at_first():
    """Why it is not the default: the whole range of a year moves its output by a quarter."""
    pure = Pure(lambda rngs: Time2Vec(32, rngs=rngs))
    params, _ = pure.init(jax.random.key(0))
    got = jax.jit(lambda days: pure.apply(params, {}, lambda m: m(days))[0])(np.array([1, 366]))
    assert np.abs(np.asarray(got)[1] - np.asarray(got)[0]).max() < 0.4


def test_a_window_of_a_day_has_an_order_by_age_alone():
    """Bars turned round by half a day hold the same times of day; only their ages tell which one is the last."""
    bars = np.arange(48)[None] % 48
    date = [np.array([k], np.int32) for k in (1, 2, 3, 48)]
    for age_dim, same in ((0, True), (8, False)):
        one, other = (np.asarray(encoder(False, age_dim)(b, *date)) for b in (bars, np.roll(bars, 24, 1)))
        assert np.allclose(np.roll(one, 24, 1), other, atol=1e-5) == same


def test_ages_are_told_apart_near_and_far():
    got = np.asarray(jax.jit(waves, static_argnums=1)(np.array([0, 1, 2, 200, 210]), 32), np.float64)
    apart = np.linalg.norm(got[:, None] - got[None], axis=-1)
    assert (apart[~np.eye(5, dtype=bool)] > 0.3).all()
    np.testing.assert_allclose(got[0], np.tile([0, 1], 16), atol=1e-7)
