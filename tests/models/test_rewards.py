"""Each reward against loops, and what a group teaches."""

import itertools

import jax
import numpy as np
import pytest
from token_batch import make_batch

from fjq.models.rewards import LEAST_SPREAD, REWARDS
from fjq.models.rollouts import compare_with_group, path_returns, read_paths

HORIZONS, COST = (1, 4), 0.01


@pytest.fixture(scope='module')
def rollouts():
    ids = np.random.Generator(np.random.Philox(9)).integers(0, 20, (5, 6, 4)).astype(np.int32)
    return jax.device_get(jax.jit(read_paths, static_argnums=2)(make_batch(), ids, HORIZONS))


def test_returns_follow_their_own_volatility():
    batch = make_batch()
    ids = np.random.Generator(np.random.Philox(9)).integers(0, 20, (5, 6, 4)).astype(np.int32)
    out = np.asarray(jax.jit(path_returns)(ids, *(batch[k] for k in ('token_return', 'scale', 'scale_decay'))))
    for r, p in itertools.product(range(5), range(6)):
        s = float(batch['scale'][r])
        for t in range(4):
            x = s * batch['token_return'][r, ids[r, p, t]]
            assert out[r, p, t] == pytest.approx(x, rel=1e-5)
            s = np.sqrt(0.9 * s**2 + 0.1 * x**2)


def by_hand(name, r, b, p):
    """The reward of one path, from the lists of what is known."""
    known = [t for t in range(4) if r.known[b, t]]
    ahead = [h for h in range(2) if r.target_known[b, h]]
    unit = float(r.unit[b])
    if not known:
        return 0.0
    mean = lambda values: float(np.mean(list(values)))
    if name == 'token_acc':
        return mean(r.ids[b, p, t] == r.token[b, t] for t in known)
    if name == 'proximity':
        return mean(1 - abs(int(r.ids[b, p, t]) - int(r.token[b, t])) / 20 for t in known)
    if name == 'return_mse':
        return -mean(((r.returns[b, p, t] - r.actual[b, t]) / unit) ** 2 for t in known)
    if name == 'direction':
        return mean(np.sign(r.ahead[b, p, h]) == np.sign(r.target[b, h]) for h in ahead)
    if name == 'crps':

        def fair(x, y):
            pairs = sum(abs(a - c) for a, c in itertools.permutations(x, 2))
            return mean(abs(a - y) for a in x) - pairs / (2 * len(x) * (len(x) - 1))

        scores = []
        for h in ahead:
            x, y = np.asarray(r.ahead[b, :, h]) / unit, float(r.target[b, h]) / unit
            scores.append(fair(np.delete(x, p), y) - 2 * fair(x, y))
        return mean(scores)
    before, earned = 0.0, []
    for t in range(4):
        position = np.tanh(float(r.returns[b, p, t]) / unit)
        earned.append((position * float(r.actual[b, t]) - COST * abs(position - before)) / unit)
        before = position
    earned = np.array(earned)[known]
    return earned.mean() if name == 'pnl' else earned.mean() / max(earned.std(), LEAST_SPREAD)


@pytest.mark.parametrize('name', REWARDS)
def test_a_reward_is_what_loops_give(rollouts, name):
    out = np.asarray(jax.jit(REWARDS[name])(rollouts, 20, COST))
    assert out.shape == (5, 6) and np.ptp(out[:3]) > 0
    for b, p in itertools.product(range(5), range(6)):
        assert out[b, p] == pytest.approx(by_hand(name, rollouts, b, p), rel=2e-4, abs=2e-5), (b, p)
    np.testing.assert_array_equal(out[4], 0)


def test_the_level_of_the_crps_reward_is_the_crps_of_the_group(rollouts):
    out = np.asarray(jax.jit(REWARDS['crps'])(rollouts, 20, COST))
    x, y = np.asarray(rollouts.ahead), np.asarray(rollouts.target)
    for b in range(3):
        scores = [
            np.abs(x[b, :, h] - y[b, h]).mean() - np.abs(x[b, :, None, h] - x[b, None, :, h]).sum() / 60
            for h in range(2)
        ]
        assert out[b].mean() == pytest.approx(-np.mean(scores) / float(rollouts.unit[b]), rel=1e-4)


def test_an_advantage_is_within_the_group():
    reward = np.float32([[1, 2, 6], [5, 5, 5]])
    compare = jax.jit(compare_with_group, static_argnames='standardised')
    np.testing.assert_allclose(compare(reward, standardised=False), [[-2, -1, 3], [0, 0, 0]])
    std = np.std([1, 2, 6])
    np.testing.assert_allclose(
        compare(reward, standardised=True), [[-2 / std, -1 / std, 3 / std], [0, 0, 0]], rtol=1e-6
    )
