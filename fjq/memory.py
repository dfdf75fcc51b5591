"""How much memory a training step needs, by the compiler's own account."""

import dataclasses
from typing import Any

import jax

from fjq.config import Experiment
from fjq.keys import make_key
from fjq.mesh import count_micro_batches
from fjq.optim import make_optimizer
from fjq.step import init_state, make_train_step


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes on one device."""

    state: int  # parameters, optimiser, averages
    batch: int
    temporary: int  # activations and workspace

    @property
    def peak(self) -> int:
        return self.state + self.batch + self.temporary


def measure_step(config: Experiment, batch: Any) -> Memory:
    """Compiles the train step for the shapes of `batch` on this machine's device, without running it."""
    task = config.task.build()
    key = make_key(config.seed, 'init')
    params, _ = jax.eval_shape(task.init, key)
    optimizer = make_optimizer(config.optim, config.train.steps, params)
    state = jax.eval_shape(lambda k: init_state(task, optimizer, config.train.ema, k), key)
    micro_batches = count_micro_batches(jax.tree.leaves(batch)[0].shape[0], config.train.micro_batches)
    step = make_train_step(task, optimizer, micro_batches=micro_batches, ema=config.train.ema, seed=config.seed)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), batch)
    compiled = jax.jit(step, donate_argnums=0).lower(state, shapes).compile()
    size = lambda tree: sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))
    return Memory(size(state), size(shapes), compiled.memory_analysis().temp_size_in_bytes)
