"""What a training begins from: the weights of another run, and what its data decide."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from fjq import log
from fjq.checkpoint import read_params
from fjq.errors import InputError
from fjq.paths import flatten, path_of
from fjq.task import Dataset, Task


def begin(task: Task, state: dict, dataset: Dataset) -> dict:
    """The state with what the data or loaded weights decide before the first update."""
    if not hasattr(task, 'begin'):
        return state
    params, extra = task.begin(state['params'], state['extra'], dataset)
    for name, old, new in (('params', state['params'], params), ('extra', state['extra'], extra)):
        shapes = [jax.tree.map(lambda x: (jnp.shape(x), jnp.asarray(x).dtype), tree) for tree in (old, new)]
        if shapes[0] != shapes[1]:
            raise TypeError(f'begin() gives {name} of another tree, shape or type than init()')
    ema = jax.tree.map(jnp.copy, params) if state['ema'] else {}
    return state | {'params': params, 'extra': jax.tree.map(jnp.copy, extra), 'ema': ema}  # each its own, to be donated


def load_initial(state: dict, source: Path, like: Any) -> dict:
    """The best parameters of another run and what it learnt beside them, wherever path and shape agree."""
    weights = read_params(source)
    old, taken = flatten({'params': weights.params, 'extra': weights.extra}), []

    def pick(path, leaf, target):
        name = path_of(path)
        if name in old and old[name].shape == leaf.shape:
            taken.append(name)
            return jax.device_put(old[name].astype(leaf.dtype), target.sharding)
        return leaf

    own, like = ({name: tree[name] for name in ('params', 'extra')} for tree in (state, like))
    new = jax.tree_util.tree_map_with_path(pick, own, like)
    count = sum(name.startswith('params/') for name in taken)
    if not count:
        raise InputError('none of its parameters fits this model', file=source, remedy='check init_from')
    log.say(f'took {count} of {len(jax.tree.leaves(new["params"]))} parameters from {source}')
    return state | new | {'ema': jax.tree.map(lambda x: x.copy(), new['params']) if state['ema'] else {}}
