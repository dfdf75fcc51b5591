"""One training step of the TCN: ours against the same modules in PyTorch.

  python launch/benchmarks/tcn_step.py                             two CPU cores, float32
  python launch/benchmarks/tcn_step.py --device=gpu --chunks=1500  bfloat16, with torch.compile and peak memory

Both sides take the same weights and the same batch through dropout, Huber loss, backward, clipping and AdamW. Rounds
alternate in one process, so that a busy machine slows both. Appends one row to launch/results/tcn_step.csv.
"""

import datetime
import os
import statistics
import sys
from pathlib import Path

import numpy as np
from absl import app, flags

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

DEVICE = flags.DEFINE_enum('device', 'cpu', ['cpu', 'gpu'], 'where both run.')
CHUNKS = flags.DEFINE_integer('chunks', 16, 'chunks of 256 ticks in a step; four make a frame.')
ROUNDS = flags.DEFINE_integer('rounds', 5, 'timed rounds; each times one step of every side.')
CORES = flags.DEFINE_integer('cores', 2, 'CPU cores for both.')
COMPILE = flags.DEFINE_bool('compile', False, 'time torch.compile too; always done on a GPU.')
REMAT = flags.DEFINE_integer('remat_chunks', 0, 'ours: chunks that are computed again at a time in the backward pass.')
CHECKPOINT = flags.DEFINE_integer('checkpoint_every', 0, 'PyTorch: blocks that are computed again at a time.')
SEED = flags.DEFINE_integer('seed', 0, 'of weights, data and dropout.')
_LENGTH, _FEATURES, _PER_FRAME, _DELTA = 256, 3, 4, 0.1
_RATE, _DECAY, _CLIP = 1e-4, 1e-5, 1.0


def make_batch(chunks: int, seed: int) -> dict[str, np.ndarray]:
    """One row of `chunks` chunks in frames of four, as `fjq.models.tcn` takes it."""
    rng = np.random.Generator(np.random.Philox(seed))
    frame = np.arange(chunks, dtype=np.int32) // _PER_FRAME
    frames = int(frame[-1]) + 1
    return {
        'chunks': rng.normal(size=(1, chunks, _LENGTH, _FEATURES)).astype(np.float32),
        'weights': rng.integers(1, _LENGTH + 1, (1, chunks)).astype(np.float32),
        'frame': frame[None],
        'scalars': rng.lognormal(8, 2, (1, frames, 3)).astype(np.float32),
        'frame_mask': np.ones((1, frames), bool),
        'target': np.full((1, 1), 0.7, np.float32),
        'target_mask': np.ones((1, 1), bool),
        'mask': np.ones(1, bool),
    }


def make_ours(batch, dtype: str):
    """(a function that does one step and returns its loss, the PyTorch state dict it starts from)."""
    import jax

    from fjq.config import Optim
    from fjq.keys import make_key
    from fjq.models.tcn import Tcn
    from fjq.models.tcn_files import model_state_dict
    from fjq.optim import make_optimizer
    from fjq.step import init_state, make_train_step

    task = Tcn(dtype=dtype, remat_chunks=REMAT.value, huber_delta=_DELTA).build()
    config = Optim(learning_rate=_RATE, final_learning_rate=_RATE, weight_decay=_DECAY, clip_norm=_CLIP)
    key = make_key(SEED.value, 'init')
    optimizer = make_optimizer(config, 1000, jax.eval_shape(task.init, key)[0])
    state = init_state(task, optimizer, 0.0, key)
    start = model_state_dict(jax.device_get(state['params']))
    train_step = make_train_step(task, optimizer, micro_batches=1, ema=0.0, seed=SEED.value)
    train_step = jax.jit(train_step, donate_argnums=0)
    batch = jax.device_put(batch)

    def step() -> float:
        nonlocal state
        state, metrics = train_step(state, batch)
        return float(jax.block_until_ready((state, metrics))[1]['loss'])

    return step, start


def make_theirs(batch, start, dtype: str, compiled: bool):
    """A function that does one step in PyTorch and returns its loss."""
    import torch

    from interop.tcn_modules import TcnModel, huber_loss

    device = torch.device('cuda' if DEVICE.value == 'gpu' else 'cpu')
    torch.manual_seed(SEED.value)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True  # JAX's default on a GPU
    model = TcnModel(checkpoint_every=CHECKPOINT.value)
    model.load_state_dict({name: torch.tensor(value) for name, value in start.items()}, strict=True)
    model = model.to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=_RATE, weight_decay=_DECAY)
    tensor = lambda name: torch.tensor(batch[name][0]).to(device)
    inputs = [tensor(name) for name in ('chunks', 'weights', 'frame', 'scalars')]
    bounds = torch.tensor([[0, batch['scalars'].shape[1]]], device=device)
    target = tensor('target').log1p()
    forward = torch.compile(model) if compiled else model

    def step() -> float:
        with torch.autocast(device.type, torch.bfloat16, enabled=dtype == 'bfloat16'):
            prediction = forward(*inputs, bounds)
        loss = huber_loss(prediction.float(), target, _DELTA)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), _CLIP)
        optimizer.step()
        if device.type == 'cuda':
            torch.cuda.synchronize()
        return float(loss.detach())

    return step


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f'{argv[1]!r} is not a flag')
    if DEVICE.value == 'cpu':
        os.environ['JAX_PLATFORMS'] = 'cpu'
    os.environ['XLA_PYTHON_CLIENT_PREALLOCATE'] = 'false'  # the GPU is shared with PyTorch
    from launch.benchmarks.rounds import time_rounds, use_cores

    cores = use_cores(CORES.value)  # before the thread pools of either are made
    import jax
    import torch

    from fjq.run import commit
    from launch.benchmarks.rows import append, cpu_name

    torch.set_num_threads(cores)
    load = os.getloadavg()[0]  # of others: above zero the figures are too slow, the ratio less so
    gpu = DEVICE.value == 'gpu'
    dtype = 'bfloat16' if gpu else 'float32'
    batch = make_batch(CHUNKS.value, SEED.value)
    steps, peaks = {}, {}
    steps['ours'], start = make_ours(batch, dtype)
    for name in ('torch', 'compiled') if gpu or COMPILE.value else ('torch',):
        steps[name] = make_theirs(batch, start, dtype, name == 'compiled')
    for name, step in steps.items():
        if gpu and name != 'ours':
            torch.cuda.reset_peak_memory_stats()
        losses = [step() for _ in range(3)]  # compiles, warms up
        print(f'{name}: first losses {", ".join(f"{x:.5f}" for x in losses)}', flush=True)
        if gpu:
            ours = lambda: jax.devices()[0].memory_stats()['peak_bytes_in_use']
            peaks[name] = (ours() if name == 'ours' else torch.cuda.max_memory_allocated()) / 2**20
    taken = time_rounds(steps, ROUNDS.value)
    seconds, cpu = ({name: [ms / 1e3 for ms in side[i]] for name, side in taken.items()} for i in range(2))
    middle = {name: statistics.median(s) for name, s in seconds.items()}
    least = {name: min(s) for name, s in seconds.items()}
    row = {
        'commit': commit(),
        'date': datetime.date.today().isoformat(),
        'device': torch.cuda.get_device_name() if gpu else cpu_name(),
        'cores': cores,
        'jax': jax.__version__,
        'torch': torch.__version__,
        'dtype': dtype,
        'hidden': 512,
        'layers': 12,
        'chunks': CHUNKS.value,
        'remat_chunks': REMAT.value,
        'checkpoint_every': CHECKPOINT.value,
        'seed': SEED.value,
        'rounds': ROUNDS.value,
        'load': f'{load:.1f}',
    }
    for name in ('ours', 'torch', 'compiled'):
        row[f'{name}_s'] = f'{middle[name]:.4f}' if name in middle else ''
        row[f'{name}_least_s'] = f'{least[name]:.4f}' if name in least else ''
        row[f'{name}_cpu_s'] = f'{statistics.median(cpu[name]):.4f}' if name in cpu else ''
        row[f'{name}_chunks_per_s'] = f'{CHUNKS.value / middle[name]:.2f}' if name in middle else ''
        row[f'{name}_peak_mib'] = f'{peaks[name]:.0f}' if name in peaks else ''
    for name in ('torch', 'compiled'):
        ratios = sorted(t / o for t, o in zip(seconds.get(name, []), seconds['ours'], strict=False))
        row[f'{name}_over_ours'] = f'{middle[name] / middle["ours"]:.2f}' if ratios else ''
        row[f'{name}_over_ours_least'] = f'{least[name] / least["ours"]:.2f}' if ratios else ''
        row[f'{name}_over_ours_range'] = f'{ratios[0]:.2f}-{ratios[-1]:.2f}' if ratios else ''
    for name, value in row.items():
        print(f'{name:<24} {value}')
    append('tcn_step', row)


if __name__ == '__main__':
    app.run(main)
