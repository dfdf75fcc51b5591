"""checks the config and its data without training, and measures the memory of a step."""

from pathlib import Path

import jax

from fjq.config import Experiment
from fjq.feed import make_gather
from fjq.fit import check_fit, check_settings
from fjq.log import say
from fjq.memory import measure_step
from fjq.mesh import count_micro_batches, make_mesh
from fjq.run import cache_folder
from fjq.task import Shard

MB = 2**20


def run(config: Experiment, workdir: Path) -> None:
    """Opens every split, makes one batch, compiles the step for it and says what it needs.

    Raises:
      InputError: what is missing or wrong, so that the exit code is 2.
    """
    task = config.task.build()
    check_settings(config, task)
    dataset = config.data.open(cache_folder(config, workdir), config.parallel)
    check_fit(task, dataset, *([config.init_from] if config.init_from else []))
    if hasattr(dataset, 'verify'):
        dataset.verify()
    for split in dict.fromkeys(('train', 'valid', config.evaluate.split)):
        rows = dataset.rows(split)
        say(f'{split}: {len(rows["time"])} rows, {rows["time"][0]} to {rows["time"][-1]}')
    mesh = make_mesh(config.mesh)
    batch = make_gather(dataset)(dataset.train(config.seed, Shard())[0])
    rows, devices = len(batch['mask']), mesh.shape['data']
    cuts = count_micro_batches(rows, config.train.micro_batches, devices)
    params = sum(x.size for x in jax.tree.leaves(jax.eval_shape(task.init, jax.random.key(0))[0]))
    say(f'model: {params:,} parameters')
    say('batch: ' + ', '.join(f'{k} {list(v.shape)}' for k, v in batch.items()))
    say(f'an update: {cuts} micro-batches of {rows // cuts // devices} rows on each of {devices} devices')
    m = measure_step(config, batch)
    device = jax.devices()[0]
    limit = (device.memory_stats() or {}).get('bytes_limit')
    say(
        f'memory of a step on {device.device_kind}: {m.peak / MB:,.0f} MiB '
        f'(state {m.state / MB:,.0f}, batch {m.batch / MB:,.0f}, activations {m.temporary / MB:,.0f})'
        + (f', {m.peak / limit:.0%} of the device' if limit else '')
    )
    say('the config and its data are ready')
