"""The compiler's account of a step, against what can be counted by hand."""

import jax
import jax.numpy as jnp
import toy

from fjq.memory import measure_step
from fjq.task import Shard


def measure(rows=16, **changes):
    config = toy.experiment(data__batch=rows, **changes)
    return measure_step(config, config.data.open(None, None).train(0, Shard())[0])


def test_state_and_batch_are_counted_to_the_byte():
    m = measure()
    # 8 weights and a bias with two moments each; 'seen', step, skipped and bad; AdamW's and the schedule's counters
    assert m.state == 4 * (9 * 3 + 4 + 2)
    assert m.batch == 16 * (8 * 4 + 4 + 1 + 4)
    assert m.peak == m.state + m.batch + m.temporary
    assert measure(train__ema=0.9).state == m.state + 4 * 9


def test_the_workspace_is_that_of_the_activations_and_micro_batches_divide_it(monkeypatch):
    def wide(self, params, batch):
        return jnp.tanh(batch['x'] @ jnp.broadcast_to(params['linear']['kernel'], (8, 256))).mean(1, keepdims=True)

    monkeypatch.setattr(toy.ToyTask, '_forward', wide)
    rows = 2**14
    whole, cut = measure(rows), measure(rows, train__micro_batches=16)
    assert (cut.state, cut.batch) == (whole.state, whole.batch)
    assert rows * 256 * 4 <= whole.temporary < 4 * rows * 256 * 4
    assert cut.temporary < 0.2 * whole.temporary


def test_nothing_is_run():
    """Shapes are enough."""
    config = toy.experiment()
    batch = config.data.open(None, None).train(0, Shard())[0]
    shapes = {k: jax.ShapeDtypeStruct(v.shape, v.dtype) for k, v in batch.items()}
    assert measure_step(config, shapes) == measure_step(config, batch)
