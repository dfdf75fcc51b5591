"""The pure training and evaluation step of every family.

A state is a dict: `params`, `extra`, `opt` (optimiser), `ema` ({} when off), `step` (batches consumed),
`skipped` (updates skipped for a non-finite loss or gradient, or an all-masked batch), `bad` (skipped in a row).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from fjq.keys import make_key
from fjq.task import Batch, Loss, Task

State = dict[str, Any]
Metrics = dict[str, jax.Array]


def init_state(task: Task, optimizer: optax.GradientTransformation, ema: float, key: jax.Array) -> State:
    """Fresh state. Pure: `jax.eval_shape` gives its shapes without memory."""
    params, extra = task.init(key)
    counters = {name: jnp.zeros((), jnp.int32) for name in ('step', 'skipped', 'bad')}  # each its own, to be donated
    return {
        'params': params,
        'extra': extra,
        'opt': optimizer.init(params),
        'ema': jax.tree.map(jnp.copy, params) if ema else {},
        **counters,
    }


def best_params(state: State) -> Any:
    """The averaged weights where the run keeps them, else the weights themselves."""
    return state['ema'] or state['params']


def split_micro(batch: Batch, count: int) -> Batch:
    """[B, ...] -> [count, B / count, ...]. Row r goes to slice r % count, so a sharded axis stays where it is."""

    def cut(x):
        return jnp.moveaxis(x.reshape(x.shape[0] // count, count, *x.shape[1:]), 1, 0)

    return jax.tree.map(cut, batch)


def make_train_step(
    task: Task, optimizer: optax.GradientTransformationExtraArgs, *, micro_batches: int, ema: float, seed: int
) -> Callable[[State, Batch], tuple[State, Metrics]]:
    """One update from one batch, to be jitted with the state donated.

    The loss is the sum over all rows divided once by the sum of weights, so micro-batches, devices and
    padding do not change it. An update that is not finite changes nothing but the counters.

    Returns:
      step(state, batch) -> (state, metrics); metrics holds `loss`, `weight`, `grad_norm`, the counters `skipped`
      and `bad`, and the task's own: scalars, NaN where nothing has weight.
    """

    def loss_sum(params, extra, batch, key):
        loss = task.loss(params, extra, batch, key)
        return loss.total, loss

    def gradient(params, extra, batch, key):
        if micro_batches == 1:
            (_, loss), grads = jax.value_and_grad(loss_sum, has_aux=True)(params, extra, batch, key)
            return loss, grads

        def body(carry, item):
            extra, sums = carry
            slice_, index = item
            (_, loss), grads = jax.value_and_grad(loss_sum, has_aux=True)(
                params, extra, slice_, jax.random.fold_in(key, index)
            )
            return (loss.extra, jax.tree.map(jnp.add, sums, (loss._replace(extra=()), grads))), None

        slices = split_micro(batch, micro_batches)
        first = jax.tree.map(lambda x: x[0], slices)
        shapes = jax.eval_shape(jax.value_and_grad(loss_sum, has_aux=True), params, extra, first, key)
        zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), (shapes[0][1]._replace(extra=()), shapes[1]))
        (extra, (loss, grads)), _ = jax.lax.scan(body, (extra, zeros), (slices, jnp.arange(micro_batches)))
        return loss._replace(extra=extra), grads

    def step(state: State, batch: Batch) -> tuple[State, Metrics]:
        key = make_key(seed, 'train', state['step'])
        params, extra = state['params'], state['extra']
        if hasattr(task, 'prepare'):
            batch = task.prepare(params, extra, batch, make_key(seed, 'prepare', state['step']))
        loss, grads = gradient(params, extra, batch, key)
        scale = 1.0 / jnp.maximum(loss.weight, 1e-30)
        norm = optax.tree.norm(grads) * scale
        ok = jnp.isfinite(loss.total) & jnp.isfinite(norm) & (loss.weight > 0)
        updates, opt = optimizer.update(grads, state['opt'], params, scale=scale)
        new_params = optax.apply_updates(params, updates)
        new = {'params': new_params, 'extra': loss.extra, 'opt': opt, 'ema': state['ema']}
        if ema:
            new['ema'] = jax.tree.map(lambda a, p: ema * a + (1 - ema) * p, state['ema'], new_params)
        kept = jax.tree.map(lambda n, o: jnp.where(ok, n, o), new, {k: state[k] for k in new})
        bad = jnp.where(ok, 0, state['bad'] + 1)
        counters = {'step': state['step'] + 1, 'skipped': state['skipped'] + jnp.where(ok, 0, 1), 'bad': bad}
        metrics = {k: _mean(s, w) for k, (s, w) in loss.metrics.items()}
        metrics |= {'loss': _mean(loss.total, loss.weight), 'weight': loss.weight, 'grad_norm': norm}
        metrics |= {'skipped': counters['skipped'], 'bad': bad}
        return kept | counters, metrics

    return step


def _mean(total: jax.Array, weight: jax.Array) -> jax.Array:
    return jnp.where(weight > 0, total / jnp.where(weight > 0, weight, 1), jnp.nan)


def make_eval_step(task: Task) -> Callable[[Any, Any, Batch], Loss]:
    """(params, extra, batch) -> sums of the loss and its metrics, with nothing random (key None)."""

    def step(params, extra, batch):
        return task.loss(params, extra, batch, None)._replace(extra=())

    return step
