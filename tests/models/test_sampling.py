"""Continuations: the cache, the draws, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from token_batch import small

from fjq.bridge import Pure
from fjq.errors import InputError
from fjq.models.gpt import Model
from fjq.models.sampling import Sampling, choose, draw_uniforms, generate

CONFIG = small()


@pytest.fixture(scope='module')
def model():
    pure = Pure(lambda rngs: Model(CONFIG, rngs=rngs))
    params, _ = pure.init(jax.random.key(0))
    return pure, params | {'lm_head': {'kernel': 0.5 * jax.random.normal(jax.random.key(1), (32, 64))}}


def sample(model, prompt, keys, *, horizon=6, paths=3, **sampling):
    pure, params = model
    run = lambda m, p, k: generate(m, p, k, horizon=horizon, paths=paths, sampling=Sampling(**sampling))
    return np.asarray(jax.jit(lambda params, p, k: pure.apply(params, {}, run, p, k)[0])(params, prompt, keys))


def keys(count):
    return jax.random.split(jax.random.key(5), count)


PROMPT = np.random.Generator(np.random.Philox(2)).integers(0, 20, (3, 9)).astype(np.int32)


@pytest.mark.parametrize('sampling', [{}, {'temperature': 0.0}, {'temperature': 0.7, 'top_k': 5, 'top_p': 0.8}])
def test_a_loop_that_runs_the_whole_prefix_each_time_gives_the_same_tokens(model, sampling):
    pure, params = model
    ids = sample(model, PROMPT, keys(3), **sampling)
    assert ids.shape == (3, 3, 6) and ids.dtype == np.int32
    u = np.asarray(jax.jit(draw_uniforms, static_argnums=(1, 2))(keys(3), 3, 6))
    rows = np.repeat(PROMPT, 3, 0)

    @jax.jit
    def draw(rows, last, u):
        logits = pure.apply(params, {}, Model.__call__, rows)[0]
        return choose(logits[:, last], u, Sampling(**sampling))

    for t in range(6):
        padded = np.pad(rows, ((0, 0), (0, 15 - rows.shape[1])))  # one shape, so one program
        token = draw(padded, rows.shape[1] - 1, u[..., t].reshape(9))
        rows = np.concatenate([rows, token[:, None]], 1)
    np.testing.assert_array_equal(ids.reshape(9, 6), rows[:, 9:])


def test_a_path_is_the_same_in_any_batch_and_beside_any_others(model):
    whole = sample(model, PROMPT, keys(3))
    np.testing.assert_array_equal(sample(model, PROMPT[1:2], keys(3)[1:2], paths=2), whole[1:2, :2])
    assert (whole != sample(model, PROMPT, keys(4)[1:])).any()
    assert len(np.unique(whole[0], axis=0)) == 3


def test_draws_follow_the_distribution():
    p, u = np.float32([0.5, 0, 0.3, 0.2]), (np.arange(4000, dtype=np.float32) + 0.5) / 4000
    tokens = lambda s: jax.jit(lambda u: choose(jnp.log(jnp.broadcast_to(p, (4000, 4))), u, Sampling(**s)))(u)
    draw = lambda **s: np.bincount(tokens(s), minlength=4) / 4000
    np.testing.assert_allclose(draw(), [0.5, 0, 0.3, 0.2], atol=1e-3)
    hot = np.array([0.5, 0, 0.3, 0.2]) ** 2
    np.testing.assert_allclose(draw(temperature=0.5), hot / hot.sum(), atol=1e-3)
    np.testing.assert_allclose(draw(top_k=2), [0.625, 0, 0.375, 0], atol=1e-3)
    np.testing.assert_allclose(draw(top_p=0.6), [0.625, 0, 0.375, 0], atol=1e-3)  # 0.3 crosses the mass
    np.testing.assert_allclose(draw(top_p=0.4), [1, 0, 0, 0])
    np.testing.assert_allclose(draw(top_k=1), draw(temperature=0.0))


def test_what_has_no_mass_is_never_drawn():
    logits = np.float32([[-np.inf, 0, -np.inf], [0, -np.inf, -np.inf]])
    draw = jax.jit(lambda u: choose(logits, u, Sampling()))
    for u in (0.0, 1 - 2.0**-24):
        np.testing.assert_array_equal(draw(np.full(2, u, np.float32)), [1, 0])


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'horizon': 0}, 'the horizon is 0'),
        ({'horizon': 9}, 'a context of 9 and a horizon of 9 are longer than the model, 16'),
        ({'paths': 0}, 'the number of paths is 0'),
        ({'temperature': -1.0}, 'temperature is -1'),
        ({'top_k': -1}, 'top_k is -1'),
        ({'top_p': 0.0}, 'top_p is 0'),
    ],
)
def test_what_makes_no_sense_is_refused(model, changes, message):
    with pytest.raises(InputError, match=message):
        sample(model, PROMPT, keys(3), **changes)


def test_as_far_as_the_model_reaches(model):
    assert sample(model, PROMPT, keys(3), horizon=8, paths=1).shape == (3, 1, 8)
    assert sample(model, PROMPT, keys(3), horizon=1, paths=2).shape == (3, 2, 1)
