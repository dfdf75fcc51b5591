"""MIGT-TVDT: a training step, one forecast, and the FLOPs of a forward pass; ours beside PyTorch with SDPA.

  python launch/benchmarks/migt_step.py --device=gpu                  full size, B = 128, bfloat16, every policy
  python launch/benchmarks/migt_step.py --rows=2 --slots=64           two CPU cores, float32
  python launch/benchmarks/migt_step.py --rows=0                      only one forecast and the FLOPs

Both sides take the same weights and batch through dropout, pinball loss, backward, clipping and AdamW; PyTorch drops
no attention weights either. Rounds alternate in one process, so that a busy machine slows both. Appends to
launch/results/migt_step.csv: one row a policy, one for the forecast, one for the FLOPs.
"""

import dataclasses
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
ROWS = flags.DEFINE_integer('rows', 128, 'windows in a step; 0 = no steps.')
SLOTS = flags.DEFINE_integer('slots', 288, 'bars in a window.')
POLICIES = flags.DEFINE_list('policies', ['chunked', 'block', 'dots', 'none'], 'ours, the least memory first.')
ROUNDS = flags.DEFINE_integer('rounds', 5, 'timed rounds; each times one step of every side.')
CORES = flags.DEFINE_integer('cores', 2, 'CPU cores for both.')
COMPILE = flags.DEFINE_bool('compile', False, 'time torch.compile too.')
TORCH = flags.DEFINE_bool('torch', True, 'time PyTorch beside ours.')
FLOPS_ROWS = flags.DEFINE_integer('flops_rows', 128, 'windows of the forward pass whose FLOPs are counted; 0 = none.')
SEED = flags.DEFINE_integer('seed', 0, 'of weights, data and dropout.')
_RATE, _DECAY, _CLIP = 1e-4, 0.01, 1.0
_BUDGET_TFLOP = 6.6  # the forward pass at 128 windows of 288 bars, 24 variables, with folded pooling


def make_batch(rows: int, slots: int, variables: int, horizons: int) -> dict[str, np.ndarray]:
    """Windows as `fjq.models.migt_task` takes them; one in five is short, as after a weekend."""
    from fjq.data.bars.scale import COUNT

    rng = np.random.Generator(np.random.Philox(SEED.value))
    length = np.where(np.arange(rows) % 5 == 4, slots // 2, slots - slots // 24).astype(np.int32)
    valid = np.arange(slots)[None] < length[:, None]
    return {
        'features': np.where(valid[..., None], rng.standard_normal((rows, slots, variables)), 0).astype(np.float32),
        'length': length,
        'bar_in_day': np.where(valid, np.arange(slots)[None] % 288, 0).astype(np.int32),
        'day_of_week': rng.integers(0, 7, rows).astype(np.int32),
        'day_of_month': rng.integers(1, 32, rows).astype(np.int32),
        'day_of_year': rng.integers(1, 367, rows).astype(np.int32),
        'log_variance': 2 * np.log(rng.uniform(5e-4, 2e-3, (rows, COUNT))).astype(np.float32),
        'target': (rng.standard_normal((rows, horizons)) * 1e-3).astype(np.float32),
        'target_mask': np.ones((rows, horizons), bool),
        'mask': np.ones(rows, bool),
    }


def make_ours(config, batch):
    """(one step that returns its loss, the state dict it starts from, bytes by the compiler's account)."""
    import jax

    from fjq.config import Optim
    from fjq.keys import make_key
    from fjq.models.migt_files import to_state_dict
    from fjq.optim import make_optimizer
    from fjq.step import init_state, make_train_step

    task, key = config.build(), make_key(SEED.value, 'init')
    optim = Optim(learning_rate=_RATE, final_learning_rate=_RATE, weight_decay=_DECAY, clip_norm=_CLIP)
    optimizer = make_optimizer(optim, 1000, jax.eval_shape(task.init, key)[0])
    state = jax.jit(lambda key: init_state(task, optimizer, 0.0, key))(key)
    start = to_state_dict(*jax.device_get((state['params'], state['extra'])))
    train_step = make_train_step(task, optimizer, micro_batches=1, ema=0.0, seed=SEED.value)
    batch = jax.device_put(batch)
    compiled = jax.jit(train_step, donate_argnums=0).lower(state, batch).compile()
    memory = compiled.memory_analysis()
    holder = [state]

    def step() -> float:
        holder[0], metrics = compiled(holder[0], batch)
        return float(jax.block_until_ready((holder[0], metrics))[1]['loss'])

    return step, start, memory.temp_size_in_bytes + memory.argument_size_in_bytes


def make_theirs(config, batch, start, *, remat: bool, compiled: bool):
    """One step in PyTorch that returns its loss."""
    import torch

    from fjq.forecast.quantiles import trapezoid_weights

    device = torch.device('cuda' if DEVICE.value == 'gpu' else 'cpu')
    torch.manual_seed(SEED.value)
    torch.backends.cuda.matmul.allow_tf32 = True  # JAX's default on a GPU
    model = make_twin(config, start, remat).to(device).train()
    decay = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW([{'params': decay}, {'params': plain, 'weight_decay': 0}], _RATE, weight_decay=_DECAY)
    inputs, options = torch_inputs(batch, device)
    levels, weights = (
        torch.tensor(x, device=device).float() for x in (config.levels, trapezoid_weights(config.levels))
    )
    with torch.no_grad():
        target = torch.tensor(batch['target'], device=device)
        target = target if config.compat else target / model.find_unit(*inputs[1:3], options['log_variance_BxK'])
    forward = torch.compile(model) if compiled else model

    def step() -> float:
        with torch.autocast(device.type, torch.bfloat16, enabled=config.dtype == 'bfloat16'):
            quantiles = forward(*inputs, **options)
        error = target[..., None] - quantiles.float()
        loss = (2 * torch.maximum(levels * error, (levels - 1) * error) @ weights).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), _CLIP)
        optimizer.step()
        if device.type == 'cuda':
            torch.cuda.synchronize()
        return float(loss.detach())

    return step


def make_twin(config, state, remat: bool):
    import torch

    from interop.migt_modules import MigtTvdt

    c = config
    model = MigtTvdt(
        variables=c.variables,
        width=c.width,
        heads=c.heads,
        hidden=c.hidden,
        temporal_layers=c.temporal_layers,
        variable_layers=c.variable_layers,
        horizons=len(c.horizons),
        quantiles=len(c.levels),
        head_hidden=c.head_hidden,
        clock_dims=c.clock_dims,
        age_dim=0 if c.compat else c.age_dim,
        bars_per_day=c.bars_per_day,
        dropout=c.dropout,
        compat=c.compat,
        window_scale=c.window_scale,
        remat=remat,
    )
    model.load_state_dict({name: torch.tensor(value) for name, value in state.items()}, strict=True)
    return model


def torch_inputs(batch, device):
    import torch

    tensor = lambda x: torch.tensor(x, device=device)
    mask = np.arange(batch['features'].shape[1])[None] < batch['length'][:, None]
    clock = [tensor(batch[n]) for n in ('bar_in_day', 'day_of_week', 'day_of_month', 'day_of_year')]
    return (tensor(batch['features']), tensor(mask), *clock), {'log_variance_BxK': tensor(batch['log_variance'])}


def measure_steps(config) -> list[dict]:
    """One row a policy and one a PyTorch version. Peaks are what the card held at most, so the leanest goes first."""
    import jax

    from launch.benchmarks.rounds import time_rounds

    batch = make_batch(ROWS.value, SLOTS.value, config.variables, len(config.horizons))
    steps, rows, gpu = {}, {}, DEVICE.value == 'gpu'
    for policy in POLICIES.value:
        step, start, size = make_ours(dataclasses.replace(config, remat=policy), batch)
        steps[policy] = step
        losses = [step() for _ in range(3)]
        rows[policy] = {'compiled_gib': f'{size / 2**30:.2f}', 'losses': ' '.join(f'{x:.4f}' for x in losses)}
        if gpu:
            rows[policy]['peak_gib'] = f'{jax.devices()[0].memory_stats()["peak_bytes_in_use"] / 2**30:.2f}'
    kinds = [('torch', False, False), ('torch remat', True, False), ('torch compiled', False, True)]
    for name, remat, compiled in kinds if TORCH.value else ():
        if compiled and not COMPILE.value:
            continue
        import torch

        steps[name] = make_theirs(config, batch, start, remat=remat, compiled=compiled)
        if gpu:
            torch.cuda.reset_peak_memory_stats()
        losses = [steps[name]() for _ in range(3)]
        rows[name] = {'losses': ' '.join(f'{x:.4f}' for x in losses)}
        if gpu:
            rows[name]['peak_gib'] = f'{torch.cuda.max_memory_allocated() / 2**30:.2f}'
    for name, taken in time_rounds(steps, ROUNDS.value).items():
        rows[name] |= {'median_ms': f'{statistics.median(taken.wall):.1f}', 'least_ms': f'{min(taken.wall):.1f}'}
    return [{'what': f'step {name}', 'rows': ROWS.value} | row for name, row in rows.items()]


def measure_forecast(config) -> list[dict]:
    """One window, warm: ours as a job forecasts it, and PyTorch."""
    import jax

    from fjq.keys import make_key
    from fjq.models.migt_files import to_state_dict
    from launch.benchmarks.rounds import time_rounds

    batch = make_batch(1, SLOTS.value, config.variables, len(config.horizons))
    task = config.build()
    params, extra = jax.jit(task.init)(make_key(SEED.value, 'init'))
    predict = jax.jit(task.predict)
    sides = {'ours': lambda: jax.block_until_ready(predict(params, extra, batch))}
    if TORCH.value:
        import torch

        device = torch.device('cuda' if DEVICE.value == 'gpu' else 'cpu')
        model = make_twin(config, to_state_dict(*jax.device_get((params, extra))), False).to(device).eval()
        inputs, options = torch_inputs(batch, device)

        def theirs():
            with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=config.dtype == 'bfloat16'):
                return model(*inputs, **options).cpu()

        sides['torch'] = theirs
    for side in sides.values():
        side(), side()
    return [
        {'what': f'forecast {name}', 'dtype': config.dtype, 'rows': 1, 'median_ms': f'{statistics.median(ms.wall):.1f}'}
        | {'least_ms': f'{min(ms.wall):.1f}'}
        for name, ms in time_rounds(sides, max(ROUNDS.value, 5)).items()
    ]


def count_flops(config) -> dict:
    """What the compiler counts for a forward pass. The body of a loop would be counted once, so layers are unrolled and
    attention is not cut into groups."""
    import jax

    from fjq.nn import transformer

    usual, transformer.GROUP_BYTES = transformer.GROUP_BYTES, 1 << 62
    task = dataclasses.replace(config, remat='none', dropout=0.0, dtype='float32').build()
    shapes = jax.eval_shape(task.init, jax.random.key(0))
    batch = make_batch(FLOPS_ROWS.value, SLOTS.value, config.variables, len(config.horizons))
    flops = jax.jit(task.predict).lower(*shapes, batch).compile().cost_analysis()['flops']
    transformer.GROUP_BYTES = usual
    budget = _BUDGET_TFLOP * FLOPS_ROWS.value / 128 * SLOTS.value / 288
    note = f'{flops / 1e12 / budget:.3f} of {budget:.3g} TFLOP'
    return {'what': 'forward flops', 'rows': FLOPS_ROWS.value, 'tflop': f'{flops / 1e12:.4f}', 'note': note}


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f'{argv[1]!r} is not a flag')
    from launch.benchmarks.rounds import use_cores

    gpu = DEVICE.value == 'gpu'
    if not gpu:
        os.environ['JAX_PLATFORMS'] = 'cpu'
        use_cores(CORES.value)  # before either makes thread pools
    os.environ['XLA_PYTHON_CLIENT_PREALLOCATE'] = 'false'  # the GPU is shared with PyTorch
    load = os.getloadavg()[0]  # of others: above zero the figures are too slow, the ratio less so
    import jax

    from fjq.models.migt import Migt
    from fjq.run import commit
    from launch.benchmarks.rows import append, cpu_name

    if TORCH.value:
        import torch

        torch.set_num_threads(len(os.sched_getaffinity(0)))
    config = Migt(dtype='bfloat16' if gpu else 'float32')
    rows = [count_flops(config)] if FLOPS_ROWS.value else []
    for dtype in ('bfloat16',) if gpu else ('bfloat16', 'float32'):  # a config's default first
        rows += measure_forecast(dataclasses.replace(config, dtype=dtype))
    rows += measure_steps(config) if ROWS.value else []
    common = {
        'commit': commit(),
        'date': datetime.date.today().isoformat(),
        'device': jax.devices()[0].device_kind if gpu else cpu_name(),
        'cores': len(os.sched_getaffinity(0)),
        'jax': jax.__version__,
        'dtype': config.dtype,
        'slots': SLOTS.value,
        'seed': SEED.value,
        'load': f'{load:.1f}',
    }
    fields = ('what', 'rows', 'median_ms', 'least_ms', 'compiled_gib', 'peak_gib', 'losses', 'tflop', 'note')
    for row in rows:
        print('  '.join(f'{k} {v}' for k, v in row.items()), flush=True)
        append('migt_step', common | {f: row.get(f, common.get(f, '')) for f in ('dtype', *fields)})


if __name__ == '__main__':
    app.run(main)
