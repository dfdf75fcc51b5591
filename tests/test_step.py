"""The train step against sums written out in NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from toy import Toy, ToyTask

from fjq.config import Optim
from fjq.optim import make_optimizer, scale_and_clip
from fjq.step import best_params, init_state, make_eval_step, make_train_step, split_micro
from fjq.task import Loss

STEPS = 50
KEY = jax.random.key(0)
TOY = ToyTask(Toy())
SGD = optax.chain(scale_and_clip(0.0), optax.sgd(0.1))


def batches(count, rows=16, seed=0):
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        x = rng.standard_normal((rows, 8)).astype(np.float32)
        mask = np.ones(rows, bool)
        made.append({'x': x, 'target': x.sum(1), 'mask': mask, 'row': np.arange(rows, dtype=np.int32)})
    return made


@functools.cache  # one program for all tests that ask for the same
def compiled(task, optimizer, micro_batches, ema, seed):
    optimizer = optimizer or make_optimizer(Optim(learning_rate=0.1), STEPS, jax.eval_shape(task.init, KEY)[0])
    init = jax.jit(lambda key: init_state(task, optimizer, ema, key))
    step = make_train_step(task, optimizer, micro_batches=micro_batches, ema=ema, seed=seed)
    return init, jax.jit(step, donate_argnums=0)


class Run:
    """A step of the toy task with its state, fed by hand."""

    def __init__(self, task=None, *, optimizer=None, micro_batches=1, ema=0.8, seed=0):
        init, self.step = compiled(task or TOY, optimizer, micro_batches, ema, seed)
        self.state = init(KEY)

    def feed(self, *batches):
        for batch in batches:
            self.state, metrics = self.step(self.state, batch)
        return {k: float(v) for k, v in metrics.items()}


def leaves(tree):
    return [np.array(x) for x in jax.tree.leaves(tree)]


def assert_close(one, other, atol=1e-6):
    for a, b in zip(leaves(one), leaves(other), strict=True):
        np.testing.assert_allclose(a, b, atol=atol)


def assert_same(one, other):
    for a, b in zip(leaves(one), leaves(other), strict=True):
        np.testing.assert_array_equal(a, b)


def test_one_update_is_the_formula():
    run = Run(optimizer=SGD)
    before = {k: np.array(v, np.float64) for k, v in run.state['params']['linear'].items()}
    (batch,) = batches(1)
    batch['mask'][3:7] = False
    metrics = run.feed(batch)
    keep = batch['mask']
    x, y = batch['x'][keep].astype(np.float64), batch['target'][keep].astype(np.float64)
    error = x @ before['kernel'][:, 0] + before['bias'][0] - y
    grad = {'kernel': 2 * (error[:, None] * x).mean(0)[:, None], 'bias': np.array([2 * error.mean()])}
    assert metrics['loss'] == pytest.approx((error**2).mean(), rel=1e-5)
    assert metrics['mae'] == pytest.approx(np.abs(error).mean(), rel=1e-5)
    assert metrics['weight'] == keep.sum() == 12
    assert metrics['grad_norm'] == pytest.approx(np.sqrt(sum((g**2).sum() for g in grad.values())), rel=1e-5)
    for name in grad:
        np.testing.assert_allclose(run.state['params']['linear'][name], before[name] - 0.1 * grad[name], atol=1e-6)
    assert (int(run.state['step']), int(run.state['skipped']), float(run.state['extra']['seen'])) == (1, 0, 12)


@pytest.mark.parametrize('micro', [2, 4])
def test_micro_batches_change_nothing(micro):
    data = batches(5)
    data[1]['mask'][1:12] = False  # very different weights in the slices
    data[2]['mask'][::4] = False  # a slice of four with no row at all
    data[2]['mask'][0] = False
    whole, cut = Run(), Run(micro_batches=micro)
    for batch in data:
        one, other = whole.feed(batch), cut.feed(batch)
        assert one == pytest.approx(other, rel=1e-5)
    assert_close(whole.state, cut.state)
    assert float(cut.state['extra']['seen']) == sum(b['mask'].sum() for b in data)


def test_padding_changes_nothing():
    ragged, padded = Run(), Run()
    for batch in batches(4, rows=10):
        pad = {k: np.concatenate([v, np.full((6, *v.shape[1:]), 99, v.dtype)]) for k, v in batch.items()}
        pad['mask'][10:] = False
        one, other = ragged.feed(batch), padded.feed(pad)
        assert one == pytest.approx(other, rel=1e-5)
    assert_close(ragged.state, padded.state)


def test_split_micro_takes_every_row_once_and_strides():
    batch = {'row': np.arange(12), 'x': np.arange(24).reshape(12, 2)}
    cut = split_micro(batch, 3)
    for i in range(3):
        np.testing.assert_array_equal(cut['row'][i], np.arange(12)[i::3])
        np.testing.assert_array_equal(cut['x'][i], batch['x'][i::3])


def test_the_average_is_the_one_by_hand():
    decay, run = 0.8, Run()
    average = leaves(run.state['params'])
    assert_same(run.state['ema'], average)
    for batch in batches(6):
        run.feed(batch)
        average = [decay * a + (1 - decay) * p for a, p in zip(average, leaves(run.state['params']), strict=True)]
    assert_close(run.state['ema'], average)
    assert best_params(run.state) is run.state['ema']
    assert not np.allclose(leaves(run.state['ema'])[1], leaves(run.state['params'])[1])
    plain = init_state(TOY, SGD, 0.0, KEY)
    assert plain['ema'] == {} and best_params(plain) is plain['params']


def test_a_batch_without_rows_is_skipped_and_counted():
    run = Run()
    first, second, empty = *batches(2), *batches(1, seed=1)
    run.feed(first)
    before = jax.device_get(run.state)
    empty['mask'][:] = False
    metrics = run.feed(empty)
    assert np.isnan(metrics['loss']) and np.isnan(metrics['mae'])  # never a zero
    assert (metrics['weight'], metrics['skipped'], metrics['bad']) == (0, 1, 1)
    assert (run.state['step'], run.state['skipped'], run.state['bad']) == (2, 1, 1)
    for name in ('params', 'opt', 'ema', 'extra'):
        assert_same(run.state[name], before[name])
    metrics = run.feed(second)
    assert (metrics['skipped'], metrics['bad']) == (1, 0) and metrics['loss'] > 0


@pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf, 3e38])
@pytest.mark.parametrize('micro', [1, 4])
def test_a_loss_that_is_not_finite_touches_nothing(value, micro):
    run = Run(micro_batches=micro)
    first, bad = batches(2)
    run.feed(first)
    before = jax.device_get(run.state)
    bad['target'][5] = value
    metrics = run.feed(bad, bad)
    assert (metrics['skipped'], metrics['bad'], metrics['weight']) == (2, 2, 16)
    for name in ('params', 'opt', 'ema', 'extra'):
        assert_same(run.state[name], before[name])


class Steep(ToyTask):
    """A finite loss whose gradient is not: the root of a zero."""

    def loss(self, params, extra, batch, key):
        loss = super().loss(params, extra, batch, key)
        return loss._replace(total=loss.total + jnp.sqrt(jnp.abs(params['linear']['bias'][0]) * batch['mask'].sum()))


class Flat(ToyTask):
    """A loss that is not finite, with a gradient that is."""

    def loss(self, params, extra, batch, key):
        loss = super().loss(params, extra, batch, key)
        return loss._replace(total=loss.total + jnp.inf)


def test_a_loss_that_is_not_finite_counts_though_its_gradient_is():
    run = Run(Flat(Toy()), optimizer=SGD)
    before = leaves(run.state['params'])
    metrics = run.feed(*batches(1))
    assert np.isfinite(metrics['grad_norm']) and metrics['skipped'] == 1
    assert_same(run.state['params'], before)


def test_a_gradient_that_is_not_finite_touches_nothing():
    run = Run(Steep(Toy()), optimizer=SGD)  # the bias starts at zero
    before = leaves(run.state['params'])
    metrics = run.feed(*batches(1))
    assert np.isfinite(metrics['loss']) and not np.isfinite(metrics['grad_norm'])
    assert metrics['skipped'] == 1
    assert_same(run.state['params'], before)


def test_every_update_and_slice_has_its_own_key():
    class Keys(ToyTask):
        def loss(self, params, extra, batch, key):
            draw = jax.random.uniform(key)
            return super().loss(params, extra, batch, key)._replace(metrics={'draw': (draw, jnp.ones(()))})

    task = Keys(Toy())

    def draws(**options):
        run = Run(task, optimizer=SGD, **options)
        return [run.feed(batch)['draw'] for batch in batches(5)]

    assert len(set(draws())) == 5
    assert draws() == draws() != draws(seed=1)
    means = draws(micro_batches=2)  # of two draws: no single draw comes twice in them
    assert len(set(means)) == 5 and not set(means) & set(draws())


def test_prepare_runs_outside_the_gradient():
    """Its product enters the loss as data, though it was made of the parameters."""

    class Prepared(ToyTask):
        def prepare(self, params, extra, batch, key):
            return batch | {'target': batch['target'] + params['linear']['kernel'].sum()}

    run = Run(Prepared(Toy()), optimizer=SGD)
    kernel = np.array(run.state['params']['linear']['kernel'], np.float64)
    (batch,) = batches(1)
    run.feed(batch)
    error = batch['x'] @ kernel[:, 0] - (batch['target'] + kernel.sum())
    expected = kernel - 0.1 * 2 * (error[:, None] * batch['x']).mean(0)[:, None]
    np.testing.assert_allclose(run.state['params']['linear']['kernel'], expected, atol=1e-5)


def test_evaluation_draws_nothing_and_gives_sums():
    seen = []

    class Watch(ToyTask):
        def loss(self, params, extra, batch, key):
            seen.append(key)
            return super().loss(params, extra, batch, key)

    task = Watch(Toy(dropout=0.5))
    params, extra = task.init(KEY)
    (batch,) = batches(1)
    batch['mask'][10:] = False
    loss = make_eval_step(task)(params, extra, batch)
    assert isinstance(loss, Loss) and seen == [None] and loss.extra == ()
    error = (batch['x'] @ np.array(params['linear']['kernel'])[:, 0] - batch['target'])[:10]
    np.testing.assert_allclose([loss.total, loss.weight], [(error**2).sum(), 10], rtol=1e-5)


def test_the_step_copies_nothing_to_or_from_the_host():
    run = Run()
    first, second = (jax.device_put(b) for b in batches(2))
    run.feed(first)
    with jax.transfer_guard('disallow'):
        old = run.state
        state, _ = run.step(old, second)
    assert all(x.is_deleted() for x in jax.tree.leaves(old))  # given away, not copied
    assert not any(x.is_deleted() for x in jax.tree.leaves(state))
    with jax.transfer_guard('disallow'), pytest.raises(Exception, match='[Dd]isallow'):
        run.step(state, batches(1)[0])  # the guard does see a batch that lies on the host


def test_no_tracer_leaks():
    with jax.checking_leaks():
        step = make_train_step(TOY, SGD, micro_batches=2, ema=0.8, seed=0)
        jax.jit(step).trace(init_state(TOY, SGD, 0.8, KEY), *batches(1))


def test_rank_promotion_is_an_error_here():
    with pytest.raises(ValueError, match='rank_promotion'):
        jnp.ones(3) + jnp.ones((2, 3))
