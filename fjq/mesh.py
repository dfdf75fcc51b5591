"""Devices: the ('data', 'model') mesh, sharding rules over parameter paths, several processes.

Axes are `AxisType.Auto`, arrays carry `NamedSharding`, and the step is plain `jax.jit`: XLA inserts the
collectives, and sums of losses and gradients come out as on one device.
"""

import os
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from fjq.config import Mesh
from fjq.errors import InputError
from fjq.paths import match_rules
from fjq.task import Batch, Shard


def connect(coordinator: str, processes: int, process: int) -> None:
    """Joins this process to the others; does nothing for a lone process.

    Args:
      coordinator: 'host:port' of process 0; '' = take it from SLURM when it runs more than one task.
      processes: their number; 0 = from SLURM.
      process: this one's number; -1 = from SLURM.
    """
    if coordinator:
        if processes < 1 or not 0 <= process < processes:
            raise InputError(
                f'--coordinator is given with --processes={processes} --process={process}',
                remedy='number the processes 0 to processes - 1',
            )
        jax.distributed.initialize(coordinator, num_processes=processes, process_id=process)
    elif int(os.environ.get('SLURM_NTASKS', '1')) > 1 and 'SLURM_STEP_NODELIST' in os.environ:
        jax.distributed.initialize()


def this_shard() -> Shard:
    return Shard(jax.process_index(), jax.process_count())


def make_mesh(config: Mesh) -> jax.sharding.Mesh:
    """All devices as ('data', 'model').

    Raises:
      InputError: the devices do not divide by `mesh.model`.
    """
    devices = jax.device_count()
    if config.model < 1 or devices % config.model:
        raise InputError(
            f'mesh.model is {config.model} on {devices} devices', remedy='choose a divisor of the device count'
        )
    return jax.make_mesh((devices // config.model, config.model), ('data', 'model'), axis_types=(AxisType.Auto,) * 2)


def check_batch(mesh: jax.sharding.Mesh, rows: int, micro_batches: int) -> None:
    """Raises InputError where a batch can not be cut into micro-batches and devices."""
    parts = mesh.shape['data'] * micro_batches
    if rows % parts:
        raise InputError(
            f'a batch of {rows} rows does not divide by {micro_batches} micro-batches x {mesh.shape["data"]} devices',
            remedy=f'use a multiple of {parts}',
        )


def shard_params(mesh: jax.sharding.Mesh, config: Mesh, params: Any) -> Any:
    """The `NamedSharding` of every parameter: the first rule that matches, else whole (or cut by fsdp).

    fsdp cuts the largest axis that the data axis divides; what no axis divides stays whole.
    """
    default = 'fsdp' if config.fsdp else ''
    specs = match_rules((*config.rules, f'.*={default}'), params, 'mesh.rules')

    def sharding(text: str, leaf) -> NamedSharding:
        if text == 'fsdp':
            return NamedSharding(mesh, _cut_largest(leaf.shape, mesh.shape['data']))
        axes = [None if a in ('-', '') else a for a in text.split(',')] if text else []
        for axis, size in zip(axes, leaf.shape, strict=False):
            if axis is not None and (axis not in mesh.shape or size % mesh.shape[axis]):
                raise InputError(f'the axis {axis!r} does not cut {leaf.shape}', column='mesh.rules')
        return NamedSharding(mesh, P(*axes))

    return jax.tree.map(sharding, specs, params)


def _cut_largest(shape: tuple[int, ...], parts: int) -> P:
    sizes = [(size, axis) for axis, size in enumerate(shape) if size % parts == 0 and size >= parts]
    if not sizes:
        return P()
    axis = max(sizes)[1]
    return P(*(['data' if i == axis else None for i in range(len(shape))]))


def shard_state(mesh: jax.sharding.Mesh, config: Mesh, state: Any) -> Any:
    """Shardings of a whole training state: moments and averages lie where their parameters lie.

    A leaf of the optimiser or the average belongs to the parameter whose path its own path ends with.
    """
    params = shard_params(mesh, config, state['params'])
    by_path = {
        tuple(p): (s, x.shape)
        for (p, s), x in zip(jax.tree_util.tree_leaves_with_path(params), jax.tree.leaves(state['params']), strict=True)
    }
    whole = NamedSharding(mesh, P())

    def find(path, leaf):
        for cut in range(len(path)):
            sharding, shape = by_path.get(tuple(path[cut:]), (None, None))
            if sharding is not None and shape == leaf.shape:
                return sharding
        return whole

    return jax.tree_util.tree_map_with_path(find, state)


def put_batch(mesh: jax.sharding.Mesh, batch: Batch) -> Batch:
    """This process's rows -> global arrays cut over 'data'."""
    sharding = NamedSharding(mesh, P('data'))
    if jax.process_count() == 1:
        return jax.device_put(batch, sharding)
    return {k: jax.make_array_from_process_local_data(sharding, np.asarray(v)) for k, v in batch.items()}
