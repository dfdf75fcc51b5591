"""TCN training end to end: the real loop from a chunk bank on disk. Chunks a second, waits for data, peak memory.

  python launch/benchmarks/tcn_train.py --config=configs/tcn_index.py:h200,simulated --width=512   on a GPU
  python launch/benchmarks/tcn_train.py                                                            two CPU cores, narrow

The rates are those that the run itself wrote to metrics.jsonl, without the first reading (compilation). Appends one row
to launch/results/tcn_train.csv. The original published 2,250 chunks/s on an H100 at width 512.
"""

import datetime
import json
import os
import statistics
import sys
import tempfile
from importlib import metadata
from pathlib import Path

from absl import app, flags

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

CONFIG = flags.DEFINE_string('config', 'configs/tcn_index.py:cpu,tiny', 'the config and its variants.')
STEPS = flags.DEFINE_integer('steps', 40, 'updates.')
WIDTH = flags.DEFINE_integer('width', 0, 'channels of the encoder; 0 = as in the config.')
ROWS = flags.DEFINE_integer('rows', 0, 'rows of a batch; 0 = as in the config.')
MICRO = flags.DEFINE_integer('micro_batches', 0, 'slices of a batch; 0 = as in the config.')
DTYPE = flags.DEFINE_string('dtype', '', 'of the convolutions; empty = as in the config.')
CACHE = flags.DEFINE_string('cache', '', 'folder of the chunk bank; empty = a temporary one.')


def main(_) -> None:
    import jax

    from fjq.launch import load_config
    from fjq.run import commit
    from fjq.train import train
    from launch.benchmarks.rows import append

    file, _, variant = CONFIG.value.partition(':')
    config = load_config(ROOT / file, variant)
    t = config.train
    t.steps, t.log_every, t.eval_every, t.save_every, t.patience = STEPS.value, 5, 10**9, 10**9, 0
    config.optim.warmup_steps = min(config.optim.warmup_steps, STEPS.value - 1)
    config.cache = CACHE.value
    config.task.hidden = WIDTH.value or config.task.hidden
    config.task.dtype = DTYPE.value or config.task.dtype
    config.data.batch_rows = ROWS.value or config.data.batch_rows
    t.micro_batches = MICRO.value or t.micro_batches
    with tempfile.TemporaryDirectory() as folder:
        train(config, Path(folder))
        lines = [json.loads(line) for line in (Path(folder) / 'metrics.jsonl').read_text().splitlines()]
    readings = [line for line in lines if 'step_s' in line]
    step_s = statistics.median(r['step_s'] for r in readings[1:])
    chunks = config.data.batch_rows * config.data.chunk_buckets[-1]
    device = jax.devices()[0]
    peak = (device.memory_stats() or {}).get('peak_bytes_in_use')
    row = {
        'commit': commit(),
        'date': datetime.date.today().isoformat(),
        'device': device.device_kind,
        'devices': jax.device_count(),
        'jax': metadata.version('jax'),
        'config': CONFIG.value,
        'hidden': config.task.hidden,
        'dtype': config.task.dtype,
        'chunks': chunks,
        'micro_batches': t.micro_batches,
        'steps': STEPS.value,
        'load': f'{os.getloadavg()[0]:.1f}',
        'step_s': f'{step_s:.4f}',
        'chunks_per_s': f'{chunks / step_s:.1f}',
        'data_wait': f'{statistics.median(r["data_wait"] for r in readings[1:]):.4f}',
        'first_step_s': f'{readings[0]["step_s"] * readings[0]["step"]:.1f}',
        'compiles': readings[-1]['compiles'],
        'peak_gib': f'{peak / 2**30:.2f}' if peak else '',
    }
    append('tcn_train', row)
    for name, value in row.items():
        print(f'{name:>14} {value}')


if __name__ == '__main__':
    app.run(main)
