"""Devices: the ('data', 'model') mesh, sharding rules over parameter paths, several processes.

Axes are `AxisType.Auto`, arrays carry `NamedSharding`, and the step is plain `jax.jit`: XLA inserts the
collectives, and sums of losses and gradients come out as on one device.
"""

import itertools
import os
import signal
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from fjq.config import Mesh
from fjq.errors import InputError
from fjq.paths import match_rules
from fjq.task import Batch, Shard


def connect(coordinator: str, processes: int, process: int) -> None:
    """Joins this process to the others; does nothing for a lone process.

    Args:
      coordinator: 'host:port' of process 0; '' = take it from SLURM when srun started more than one task.
      processes: their number.
      process: this one's number, counted from 0.
    """
    if coordinator:
        if processes < 1 or not 0 <= process < processes:
            raise InputError(
                f'--coordinator is given with --processes={processes} --process={process}',
                remedy='number the processes 0 to processes - 1',
            )
        if processes == 1:
            return
        jax.distributed.initialize(coordinator, num_processes=processes, process_id=process)
    elif int(os.environ.get('SLURM_NTASKS', '1')) > 1 and 'SLURM_STEP_NODELIST' in os.environ:
        jax.distributed.initialize()
    else:
        return
    # JAX's runtime has taken SIGTERM and would swallow it; the loop asks all processes itself (`Vote`).
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def wait_for_all(what: str) -> None:
    """Returns when every process is here. Unlike a collective it has a day, so slow work goes before it."""
    if jax.process_count() > 1:
        from orbax.checkpoint import multihost

        multihost.get_barrier_sync_fn()(key=f'fjq: {what}', timeout_ms=86_400_000)


def from_first(number: int) -> int:
    """The number that process 0 gives, in every process."""
    if jax.process_count() == 1:
        return number
    wait_for_all('a number of process 0')
    return int(multihost_utils.broadcast_one_to_all(np.int32(number)))


class Vote:
    """Asks all processes whether any says yes, without the host waiting for an answer.

    `cast` puts the question behind the work that the devices already have; the answer is read later.
    """

    def __init__(self, mesh: jax.sharding.Mesh):
        self._sharding = NamedSharding(mesh, P(mesh.axis_names))
        self._any = jax.jit(jnp.any, out_shardings=NamedSharding(mesh, P()))

    def cast(self, yes: bool) -> jax.Array:
        local = np.full(len(self._sharding.addressable_devices), yes)
        return self._any(jax.make_array_from_process_local_data(self._sharding, local))


def this_shard(mesh: jax.sharding.Mesh) -> Shard:
    """The part of every batch that this process reads: what its devices hold along 'data'.

    Processes that share a 'model' axis hold, and read, the same rows.
    """
    mine = [i for i, row in enumerate(mesh.devices) if any(d.process_index == jax.process_index() for d in row)]
    return Shard(mine[0] // len(mine), mesh.shape['data'] // len(mine))


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


def count_micro_batches(rows: int, asked: int, devices: int = 1) -> int:
    """The fewest micro-batches of equal size in which no device holds more rows at once than one device would.

    Sums are the same for any number of them; what dropout and other noise draw is not.

    Args:
      rows: of a batch of all processes.
      asked: `train.micro_batches`, into which one device cuts the batch.
      devices: along 'data'; each has its part of every micro-batch.

    Raises:
      InputError: the batch does not divide among the devices, or has fewer rows than micro-batches.
    """
    if rows % devices:
        raise InputError(
            f'a batch of {rows} rows does not divide among {devices} devices',
            column='data.batch_rows',
            remedy=f'use a multiple of {devices}, or fewer devices',
        )
    if asked > rows:
        raise InputError(
            f'{asked} micro-batches of a batch of {rows} rows',
            column='train.micro_batches',
            remedy=f'use {rows} or less, or more data.batch_rows',
        )
    rows_each = rows // devices
    return next(n for n in range(1, rows_each + 1) if rows_each % n == 0 and n * devices >= asked)


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
        for axis, size in itertools.zip_longest(axes, leaf.shape[: len(axes)], fillvalue=0):
            if not size or axis is not None and (axis not in mesh.shape or size % mesh.shape[axis]):
                raise InputError(
                    f'the rule value {text!r} does not cut a parameter of shape {leaf.shape}',
                    column='mesh.rules',
                    remedy=f"name axes of {tuple(mesh.shape)} that divide its sizes, or '-'",
                )
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
    count = this_shard(mesh).count
    return {
        k: jax.make_array_from_process_local_data(sharding, np.asarray(v), (len(v) * count, *np.shape(v)[1:]))
        for k, v in batch.items()
    }
