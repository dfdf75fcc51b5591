"""The selective scan, forward and backward, against PyTorch; with --attention also cuDNN against XLA.

  python launch/benchmarks/scan.py                           two CPU cores, float32, 64 x 60 steps of 256 x 16 states
  python launch/benchmarks/scan.py --cores=1                 on a busy machine: one thread waits for no other
  python launch/benchmarks/scan.py --keep                    PyTorch too keeps freed memory, which it does not by itself
  python launch/benchmarks/scan.py --device=gpu --attention  the same on a GPU, by every method, and attention

  mamba loop   a loop as the reference implementation has it: exp(dt A) and dt B u of all steps first, then [:, i]
  lean loop    a loop that makes what a step needs inside the step
  memory       temporary bytes of the compiled gradient at 512 steps (bar: 150 MB)

Both sides take the same arrays and must agree before they are timed. Rounds alternate in one process, so that a busy
machine slows both. Appends one row a case to launch/results/scan.csv.
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
ATTENTION = flags.DEFINE_bool('attention', False, 'time attention too; left out on a machine without a GPU.')
ROUNDS = flags.DEFINE_integer('rounds', 7, 'timed rounds; each times one call of every side.')
CORES = flags.DEFINE_integer('cores', 2, 'CPU cores for both.')
KEEP = flags.DEFINE_bool('keep', False, 'both sides keep freed memory in one heap.')
SEED = flags.DEFINE_integer('seed', 0, 'of the data.')
_BATCH, _LENGTH, _WIDTH, _STATES, _LONG = 64, 60, 256, 16, 512
_MAMBA_BAR, _LEAN_BAR, _MEMORY_BAR = 25, 1.5, 150
_ATTENTION = {  # batch, length, heads, heads of keys, head size, causal, ragged
    'causal 512': (32, 512, 8, 8, 64, True, False),
    'ragged 512': (32, 512, 8, 8, 64, False, True),
    'grouped causal 2048': (8, 2048, 16, 4, 64, True, False),
}


def make_arrays(length: int) -> list[np.ndarray]:
    """u, delta before softplus, A, B, C and the gradient of y."""
    rng = np.random.Generator(np.random.Philox(SEED.value))
    draw = lambda *shape: rng.normal(size=shape).astype(np.float32)
    A = -np.tile(np.arange(1, _STATES + 1, dtype=np.float32), (_WIDTH, 1))
    wide, narrow = (_BATCH, length, _WIDTH), (_BATCH, length, _STATES)
    return [draw(*wide), draw(*wide) - 3, A, draw(*narrow), draw(*narrow), draw(*wide)]


def make_ours(length: int, method: str):
    """(compiled value and gradients of the scan, its arrays on the device)."""
    import jax

    from fjq.nn.ssm import selective_scan

    arrays = [jax.device_put(a) for a in make_arrays(length)]

    def both(*arrays):
        y, pull = jax.vjp(lambda *a: selective_scan(*a, method=method)[0], *arrays[:-1])
        return y, *pull(arrays[-1])

    return jax.jit(both).lower(*arrays).compile(), arrays


def make_theirs(lean: bool):
    """A function that gives value and gradients of a loop in PyTorch."""
    import torch

    device = 'cuda' if DEVICE.value == 'gpu' else 'cpu'
    *inputs, cotangent = (torch.tensor(a, device=device) for a in make_arrays(_LENGTH))
    inputs = [a.requires_grad_() for a in inputs]

    def scan(u, delta, A, B, C):
        dt = torch.nn.functional.softplus(delta)
        if not lean:
            decay = torch.exp(torch.einsum('bld,dn->bldn', dt, A))
            drive = torch.einsum('bld,bln,bld->bldn', dt, B, u)
        state, y = u.new_zeros(_BATCH, _WIDTH, _STATES), []
        for i in range(u.shape[1]):
            if lean:
                state = torch.exp(dt[:, i, :, None] * A) * state + (dt[:, i] * u[:, i])[..., None] * B[:, i, None]
            else:
                state = decay[:, i] * state + drive[:, i]
            y.append(torch.einsum('bdn,bn->bd', state, C[:, i]))
        return torch.stack(y, dim=1)

    def both():
        y = scan(*inputs)
        gradients = torch.autograd.grad(y, inputs, cotangent)
        if device == 'cuda':
            torch.cuda.synchronize()
        return [a.detach().cpu().numpy() for a in (y, *gradients)] if both.copy else None

    both.copy = False
    return both


def compare(case: str, taken: dict, ours: str, reference: str, bar: float | None) -> dict:
    """One row: medians, the median ratio of a round, and the ratio of the least times, for which the bar is.

    With several threads a busy machine slows PyTorch far more than XLA
    (its threads wait for each other at every operation), so that only a run on a quiet machine says much.
    """
    wall = {name: taken[name].wall for name in (ours, reference)}
    cpu = {name: min(taken[name].cpu) for name in (ours, reference)}
    ratio = min(wall[reference]) / min(wall[ours])
    return {
        'case': case,
        'unit': 'ms',
        'ours': f'{statistics.median(wall[ours]):.4g}',
        'ours_least': f'{min(wall[ours]):.4g}',
        'reference': f'{statistics.median(wall[reference]):.4g}',
        'reference_least': f'{min(wall[reference]):.4g}',
        'median_ratio': f'{statistics.median(r / o for o, r in zip(*wall.values(), strict=True)):.2f}',
        'cpu_ratio': f'{cpu[reference] / cpu[ours]:.2f}',
        'ratio': f'{ratio:.2f}',
        'bar': bar or '',
        'met': ratio >= bar if bar else '',
    }


def time_scan() -> list[dict]:
    """The rows of the scan."""
    import jax

    from launch.benchmarks.rounds import time_rounds

    gpu = DEVICE.value == 'gpu'
    methods = ('auto', 'sequential', 'associative', 'chunked') if gpu else ('auto',)
    sides = {}
    for method in methods:
        run, arrays = make_ours(_LENGTH, method)
        sides[method] = lambda run=run, arrays=arrays: jax.block_until_ready(run(*arrays))
    for name in ('mamba loop', 'lean loop'):
        sides[name] = make_theirs(name == 'lean loop')
        sides[name].copy = True
        for golden, ours in zip(sides[name](), sides['auto'](), strict=True):
            worst = np.abs(ours - golden).max() / np.abs(golden).max()
            if not worst < (1e-2 if gpu else 1e-4):  # TF32 in the sums of a GPU
                raise RuntimeError(f'ours and the {name} differ by {worst:.1e} of the largest value')
        sides[name].copy = False
    taken = time_rounds(sides, ROUNDS.value)
    size = f'scan {_BATCH}x{_LENGTH}x{_WIDTH}x{_STATES} forward+backward' + ', heap kept' * KEEP.value
    rows = [compare(f'{size}, mamba loop', taken, 'auto', 'mamba loop', None if gpu else _MAMBA_BAR)]
    rows += [compare(f'{size}, lean loop', taken, 'auto', 'lean loop', None if gpu else _LEAN_BAR)]
    rows += [compare(f'{size}, {method}', taken, 'auto', method, None) for method in methods[1:]]
    used = make_ours(_LONG, 'auto')[0].memory_analysis().temp_size_in_bytes / 1e6
    long = f'scan {_BATCH}x{_LONG}x{_WIDTH}x{_STATES} gradient, temporary memory'
    met = '' if gpu else used < _MEMORY_BAR
    return [*rows, {'case': long, 'unit': 'MB', 'ours': f'{used:.1f}', 'bar': '' if gpu else _MEMORY_BAR, 'met': met}]


def make_attention(implementation: str, case: str):
    """A function that gives the output and the gradients of attention in bfloat16."""
    import jax
    import jax.numpy as jnp

    from fjq.nn.attention import attend

    batch, length, heads, kv_heads, size, causal, ragged = _ATTENTION[case]
    rng = np.random.Generator(np.random.Philox(SEED.value))
    draw = lambda n: jnp.asarray(rng.normal(size=(batch, length, n, size)), jnp.bfloat16)
    arrays = draw(heads), draw(kv_heads), draw(kv_heads), draw(heads)
    lengths = jnp.asarray(rng.integers(0, length + 1, batch), jnp.int32) if ragged else None

    @jax.jit
    def both(q, k, v, cotangent):
        run = lambda q, k, v: attend(q, k, v, causal=causal, kv_lengths_B=lengths, implementation=implementation)
        y, pull = jax.vjp(run, q, k, v)
        return y, *pull(cotangent)

    return lambda: jax.block_until_ready(both(*arrays))


def time_attention() -> list[dict]:
    """cuDNN against XLA, forward and backward, with the largest difference of outputs and gradients."""
    from launch.benchmarks.rounds import time_rounds

    rows = []
    for case in _ATTENTION:
        sides = {name: make_attention(name, case) for name in ('cudnn', 'xla')}
        fused, plain = ([np.asarray(a, np.float32) for a in sides[name]()] for name in ('cudnn', 'xla'))
        worst = max(np.abs(a - b).max() / np.abs(b).max() for a, b in zip(fused, plain, strict=True))
        name = f'attention {case} forward+backward, XLA (difference {worst:.0e})'
        rows.append(compare(name, time_rounds(sides, ROUNDS.value), 'cudnn', 'xla', None))
    return rows


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f'{argv[1]!r} is not a flag')
    gpu = DEVICE.value == 'gpu'
    if not gpu:
        os.environ['JAX_PLATFORMS'] = 'cpu'
    os.environ['XLA_PYTHON_CLIENT_PREALLOCATE'] = 'false'  # the GPU is shared with PyTorch
    from launch.benchmarks.rounds import use_cores

    cores = use_cores(CORES.value, keep=KEEP.value)  # before the thread pools of either are made
    import jax
    import torch

    from fjq.run import commit
    from launch.benchmarks.rows import append, cpu_name

    torch.set_num_threads(cores)
    load = os.getloadavg()[0]  # of others: above zero the figures are too slow, the ratio less so
    rows = time_scan()
    if ATTENTION.value and not gpu:
        print('attention: no GPU, its rows are left out')
    elif ATTENTION.value:
        rows += time_attention()
    about = {
        'commit': commit(),
        'date': datetime.date.today().isoformat(),
        'device': jax.devices()[0].device_kind if gpu else cpu_name(),
        'cores': cores,
        'versions': f'jax {jax.__version__} torch {torch.__version__}',
        'seed': SEED.value,
        'rounds': ROUNDS.value,
        'load': f'{load:.1f}',
    }
    for row in rows:
        print('  '.join(f'{name} {value}' for name, value in row.items() if value != ''))
    append('scan', *(about | row for row in rows))


if __name__ == '__main__':
    app.run(main)
