"""The optimiser against PyTorch's AdamW, and its schedule against the formula."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

from fjq.config import Optim
from fjq.errors import InputError
from fjq.optim import find_adam, make_optimizer, make_schedule


def params():
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.standard_normal(shape))  # float64 under enable_x64
    return {'layer': {'kernel': draw(3, 2), 'bias': draw(2)}, 'norm': {'scale': draw(2)}}


def run(config, steps, total=100):
    """Parameters after `steps` updates with gradients of the sum of fourth powers, and the factors used."""
    p = params()
    optimizer = make_optimizer(config, total, p)
    state = jax.jit(optimizer.init)(p)

    @jax.jit
    def step(p, state):
        grads = jax.tree.map(lambda x: 4 * x**3, p)
        updates, state = optimizer.update(grads, state, p)
        return optax.apply_updates(p, updates), state

    for _ in range(steps):
        p, state = step(p, state)
    return p


def run_torch(config, steps, total=100):
    p = {k: torch.nn.Parameter(torch.tensor(np.asarray(v))) for k, v in flat(params()).items()}
    groups = [
        {'params': [v], 'weight_decay': config.weight_decay if k.endswith('kernel') else 0.0} for k, v in p.items()
    ]
    optimizer = torch.optim.AdamW(groups, lr=0.0, betas=config.betas, eps=config.eps)
    for i in range(steps):
        for group in optimizer.param_groups:
            group['lr'] = rate(config, i, total)
        optimizer.zero_grad()
        sum((v**4).sum() for v in p.values()).backward()
        if config.clip_norm:
            norm = math.sqrt(sum(float((v.grad**2).sum()) for v in p.values()))
            for v in p.values():
                v.grad *= min(1.0, config.clip_norm / norm)
        optimizer.step()
    return {k: v.detach().numpy() for k, v in p.items()}


def flat(tree):
    return {f'{a}/{b}': v for a, inner in tree.items() for b, v in inner.items()}


def rate(c, i, total):
    """The rate of update i, counted from 0: linear to the peak, then half a cosine."""
    if i < c.warmup_steps:
        first = c.learning_rate / c.warmup_steps
        return first + (c.learning_rate - first) * i / c.warmup_steps
    t = (min(i, total) - c.warmup_steps) / (total - c.warmup_steps)
    return c.final_learning_rate + (c.learning_rate - c.final_learning_rate) * (1 + math.cos(math.pi * t)) / 2


@pytest.mark.parametrize(
    'config',
    [
        Optim(learning_rate=0.1, final_learning_rate=0.01, warmup_steps=10),
        Optim(learning_rate=0.1, warmup_steps=1),
        Optim(learning_rate=0.1),
    ],
)
def test_the_schedule_is_the_formula(config):
    schedule = make_schedule(config, 100)
    for i in (0, 1, 5, 9, 10, 11, 50, 99, 100, 150):
        assert float(schedule(i)) == pytest.approx(rate(config, i, 100), abs=1e-8)


def test_the_first_update_of_a_warm_up_counts():
    start, one = flat(params()), flat(run(Optim(learning_rate=0.1, warmup_steps=10, clip_norm=0.0), 1))
    for path in start:
        np.testing.assert_allclose(np.abs(one[path] - start[path]), 0.01, rtol=1e-4)  # Adam's first step is the rate


@pytest.mark.parametrize('warmup', [-1, 100, 200])
def test_a_warm_up_longer_than_the_run_is_refused(warmup):
    with pytest.raises(InputError, match='warmup_steps'):
        make_schedule(Optim(warmup_steps=warmup), 100)


@pytest.mark.parametrize(
    'config',
    [
        Optim(learning_rate=0.05, warmup_steps=3, weight_decay=0.1, clip_norm=1.0),
        Optim(learning_rate=0.05, betas=(0.8, 0.95), eps=1e-3, clip_norm=0.0),
        Optim(learning_rate=0.05, weight_decay=0.5, clip_norm=1e6),
    ],
)
def test_updates_equal_torch_adamw(config):
    with jax.enable_x64(True):
        ours, theirs = flat(run(config, 12)), run_torch(config, 12)
    assert ours.keys() == theirs.keys()
    for path in ours:
        np.testing.assert_allclose(ours[path], theirs[path], rtol=1e-7)


def test_rate_rules_freeze_and_slow():
    config = Optim(learning_rate=0.05, clip_norm=0.0, rate_rules=('norm=0', 'bias$=0.5', '.*=1'))
    start, one, whole = flat(params()), flat(run(config, 1)), flat(run(Optim(learning_rate=0.05, clip_norm=0.0), 1))
    np.testing.assert_array_equal(one['norm/scale'], start['norm/scale'])
    np.testing.assert_array_equal(one['layer/kernel'], whole['layer/kernel'])
    half = start['layer/bias'] + (whole['layer/bias'] - start['layer/bias']) / 2
    np.testing.assert_allclose(one['layer/bias'], half, atol=1e-7)
    assert not np.array_equal(one['layer/bias'], start['layer/bias'])


def test_a_frozen_parameter_does_not_decay():
    config = Optim(learning_rate=0.05, weight_decay=1.0, rate_rules=('kernel=0', '.*=1'))
    np.testing.assert_array_equal(run(config, 3)['layer']['kernel'], params()['layer']['kernel'])


@pytest.mark.parametrize(
    ('config', 'words'),
    [
        (Optim(decay_rules=('kernel=1',)), ['optim.decay_rules', 'no rule covers']),
        (Optim(rate_rules=('.*=fast',)), ['optim.rate_rules', "'fast'"]),
        (Optim(rate_rules=('.*',)), ['optim.rate_rules', 'pattern=value']),
        (Optim(betas=(0.9,)), ['optim.betas', 'two']),
    ],
)
def test_bad_rules_are_named(config, words):
    with pytest.raises(InputError) as e:
        make_optimizer(config, 10, params())
    assert all(w in str(e.value) for w in words)


def test_the_moments_are_found_in_a_state():
    p = params()
    optimizer = make_optimizer(Optim(), 10, p)
    _, state = jax.jit(lambda p: optimizer.update(jax.tree.map(jnp.ones_like, p), optimizer.init(p), p))(p)
    stored = [{'count': 1, 'mu': state[1].mu, 'nu': state[1].nu} if i == 1 else None for i in range(5)]
    assert find_adam(stored, p)['mu'] is state[1].mu
    assert find_adam({'0': None, '1': stored[1]}, p)['nu'] is state[1].nu
    assert find_adam([{'count': 1}, None], p) is None
    part = {'count': 1, 'mu': state[1].mu | {'layer': {'kernel': None}}, 'nu': state[1].nu}
    assert find_adam([{'adam': part}], p) is None  # Muon has the others


def test_muon_takes_matrices_and_adam_the_rest():
    """The update of a matrix is orthogonal times sqrt(max(1, out / in)); that of the others is Adam's."""
    draw = np.random.default_rng(0).normal
    params = {'block': {'kernel': draw(size=(4, 6))}, 'stack': {'kernel': draw(size=(2, 6, 3))}, 'head': draw(size=5)}
    params = jax.tree.map(lambda x: np.asarray(x, np.float32), params)
    grads = jax.tree.map(lambda x: x**3, params)
    config = Optim(learning_rate=1.0, clip_norm=0.0, muon_rules=('kernel=1', '.*=0'))
    updates = {}
    for name, c in (('muon', config), ('adam', dataclasses.replace(config, muon_rules=('.*=0',)))):
        optimizer = make_optimizer(c, 10, params)
        updates[name], _ = jax.jit(lambda p, g, o=optimizer: o.update(g, o.init(p), p))(params, grads)
    np.testing.assert_allclose(updates['muon']['head'], updates['adam']['head'], rtol=1e-6)
    for name, matrix in (('block', updates['muon']['block']['kernel']), ('stack', updates['muon']['stack']['kernel'])):
        values = np.linalg.svd(np.asarray(matrix) / max(1, matrix.shape[-1] / matrix.shape[-2]) ** 0.5)[1]
        assert (0.6 < values).all() and (values < 1.3).all(), (name, values)  # the quintic iteration ends around 1


def test_muon_refuses_what_is_no_matrix():
    with pytest.raises(InputError, match='no matrix'):
        make_optimizer(Optim(muon_rules=('.*=1',)), 10, {'bias': jnp.zeros(3)})
