"""The selective scan against a NumPy loop in float64, finite differences, and itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fjq.errors import InputError
from fjq.nn import ssm
from fjq.nn.ssm import scan_step, selective_scan

METHODS = ('sequential', 'chunked', 'associative')


def _arguments(batch, length, width=5, states=4, seed=0):
    draw = np.random.default_rng(seed).standard_normal
    series = draw((batch, length, width)), draw((batch, length, width)) - 1
    A, B, C = -np.exp(draw((width, states))), draw((batch, length, states)), draw((batch, length, states))
    return *series, A, B, C, draw(width), draw(width), draw((batch, states, width))


def _scan(method, chunk=None, **options):
    """All arrays as positional arguments, so that all of them get a gradient."""
    return lambda u, delta, A, B, C, D, bias, state: selective_scan(
        u, delta, A, B, C, D, delta_bias_D=bias, state_BxNxD=state, method=method, chunk=chunk, **options
    )


def _loop(u, delta, A, B, C, D, bias, state):
    """The recurrence as it stands in the paper."""
    dt, h, y = np.logaddexp(delta + bias, 0), state, []
    for t in range(u.shape[1]):
        decay = np.exp(dt[:, t, None, :] * A.T)
        h = decay * h + (dt[:, t] * u[:, t])[:, None, :] * B[:, t, :, None]
        y.append((h * C[:, t, :, None]).sum(1) + D * u[:, t])
    return np.stack(y, 1), h


def _value_and_gradients(scan, arguments, cotangents):
    @jax.jit
    def run(arguments, cotangents):
        value, pull = jax.vjp(scan, *arguments)
        return value, pull(cotangents)

    return [np.asarray(a) for a in jax.tree.leaves(run(arguments, cotangents))]


@pytest.mark.parametrize(('length', 'chunk'), [(1, None), (7, 3), (19, None), (8, 100)])
def test_all_methods_agree_in_float64(length, chunk):
    arguments = _arguments(3, length)
    draw = np.random.default_rng(1).standard_normal
    cotangents = draw((3, length, 5)), draw((3, 4, 5))
    golden = _loop(*arguments)
    with jax.enable_x64(True):
        found = {m: _value_and_gradients(_scan(m, chunk), arguments, cotangents) for m in METHODS}
    for method in METHODS:
        for ours, theirs in zip(found[method], golden, strict=False):
            assert ours.dtype == np.float64
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-10)
        for ours, theirs in zip(found[method], found['associative'], strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-10)


def test_gradients_equal_finite_differences():
    arguments = _arguments(2, 9)
    draw = np.random.default_rng(2).standard_normal
    cotangents = draw((2, 9, 5)), draw((2, 4, 5))
    objective = lambda arguments: sum((a * b).sum() for a, b in zip(_loop(*arguments), cotangents, strict=True))
    with jax.enable_x64(True):
        gradients = _value_and_gradients(_scan('sequential', 4), arguments, cotangents)[2:]
    for i, gradient in enumerate(gradients):
        direction = draw(arguments[i].shape)
        moved = [tuple(a + s * 1e-6 * direction if j == i else a for j, a in enumerate(arguments)) for s in (1, -1)]
        slope = (objective(moved[0]) - objective(moved[1])) / 2e-6
        assert (gradient * direction).sum() == pytest.approx(slope, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize('method', METHODS)
def test_float32_agrees_with_float64(method):
    arguments = _arguments(4, 30, 32, 16)
    draw = np.random.default_rng(1).standard_normal
    cotangents = draw((4, 30, 32)), draw((4, 16, 32))
    with jax.enable_x64(True):
        golden = _value_and_gradients(_scan('sequential'), arguments, cotangents)
    single = jax.tree.map(lambda a: a.astype(np.float32), (arguments, cotangents))
    for ours, theirs in zip(_value_and_gradients(_scan(method), *single), golden, strict=True):
        assert ours.dtype == np.float32
        assert np.abs(ours - theirs).max() <= 1e-5 * np.abs(theirs).max()


@pytest.mark.parametrize('method', METHODS)
def test_masked_steps_leave_no_trace(method):
    """Rows right-padded with huge values give the state, and the gradients, of the rows alone."""
    u, delta, A, B, C, D, bias, state = (a.astype(np.float32) for a in _arguments(2, 12))
    mask = np.arange(12)[None] < np.array([[12], [5]])
    u = np.where(mask[..., None], u, 1e4).astype(np.float32)
    scan = lambda u: _scan(method, 4, mask_BxL=mask)(u, delta, A, B, C, D, bias, state)[1]
    last, gradient = jax.jit(lambda u: (y := jax.vjp(scan, u))[:1] + y[1](jnp.ones_like(y[0])))(u)
    alone = _loop(*(a[1:2, :5] for a in (u, delta)), A, B[1:2, :5], C[1:2, :5], D, bias, state[1:2])[1]
    np.testing.assert_allclose(last[1:], alone, atol=1e-5)
    assert not gradient[1, 5:].any() and gradient[1, :5].any()


def test_steps_equal_the_scan_and_pieces_equal_the_whole():
    arguments = tuple(a.astype(np.float32) for a in _arguments(3, 11))
    u, delta, A, B, C, D, bias, state = arguments
    y, last = _scan('sequential')(*arguments)
    step = jax.jit(lambda *a, state: scan_step(*a, state_BxNxD=state, delta_bias_D=bias))
    for t in range(4):
        stepped, state = step(u[:, t], delta[:, t], A, B[:, t], C[:, t], D, state=state)
        np.testing.assert_allclose(stepped, y[:, t], atol=1e-5)
    rest = selective_scan(u[:, 4:], delta[:, 4:], A, B[:, 4:], C[:, 4:], D, delta_bias_D=bias, state_BxNxD=state)
    np.testing.assert_allclose(rest[0], y[:, 4:], atol=1e-5)
    np.testing.assert_allclose(rest[1], last, atol=1e-5)


def test_step_sizes_as_given():
    u, delta, A, B, C, *_ = (a.astype(np.float32) for a in _arguments(2, 6))
    steps = np.logaddexp(delta, 0).astype(np.float32)
    found = selective_scan(u, steps, A, B, C, softplus=False)[0]
    np.testing.assert_allclose(found, selective_scan(u, delta, A, B, C)[0], atol=1e-5)


def test_bfloat16_inputs_are_summed_in_float32():
    """A state that decays by 2^-10 a step stands still in bfloat16."""
    ones = jnp.ones((1, 256, 1), jnp.bfloat16)
    decay = -jnp.full((1, 1), 2.0**-10)
    y, state = selective_scan(ones, ones, decay, ones, ones, softplus=False)
    assert y.dtype == state.dtype == jnp.float32
    assert float(y[0, -1, 0]) == pytest.approx((1 - np.exp(-0.25)) / (1 - np.exp(-(2.0**-10))), rel=1e-5)


def test_two_directions_in_one_scan_are_bitwise_two_scans():
    pair = [tuple(jnp.asarray(a, jnp.float32) for a in _arguments(2, 24, seed=s)) for s in (0, 1)]
    scan = _scan('sequential')
    stacked = [jnp.stack(a) for a in zip(*pair, strict=True)]
    both = jax.jit(jax.vmap(scan))(*stacked)
    gradient = jax.grad(lambda *a: (scan(*a)[0] ** 2).sum(), tuple(range(8)))
    gradients = jax.jit(jax.vmap(gradient))(*stacked)
    for i, arguments in enumerate(pair):
        for one, two in zip(jax.jit(scan)(*arguments), both, strict=True):
            np.testing.assert_array_equal(one, two[i])
        for one, two in zip(jax.jit(gradient)(*arguments), gradients, strict=True):
            np.testing.assert_allclose(one, two[i], rtol=1e-5, atol=1e-5)


def test_gradient_memory_does_not_hold_every_state():
    """One [B, L, N, D] array here is 32 MiB; the stored chunk starts are a sixteenth of it."""
    arguments = [jax.ShapeDtypeStruct(a.shape, jnp.float32) for a in _arguments(4, 512, 256, 16)]
    temporary = {}
    for method in METHODS:
        loss = lambda *a, m=method: _scan(m)(*a)[0].sum()
        compiled = jax.jit(jax.grad(loss, tuple(range(8)))).lower(*arguments).compile()
        temporary[method] = compiled.memory_analysis().temp_size_in_bytes / 2**20
    assert temporary['sequential'] < 12 < temporary['chunked'] < 80 < temporary['associative']


def test_auto_chooses_by_platform_and_size(monkeypatch):
    assert jax.default_backend() == 'cpu' and ssm._fastest(2**40) == 'sequential'
    monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
    assert ssm._fastest(64 * 60 * 256 * 16 * 4) == 'associative'
    assert ssm._fastest(64 * 512 * 256 * 16 * 4) == 'chunked'


def test_bad_choices_are_refused():
    arguments = _arguments(1, 3)[:5]
    with pytest.raises(InputError, match="'parallel'.*auto, associative, chunked, sequential"):
        selective_scan(*arguments, method='parallel')
    with pytest.raises(InputError, match='chunk of 0'):
        selective_scan(*arguments, chunk=0)
