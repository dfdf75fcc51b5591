"""A training step of the GPT, ours beside the same model in PyTorch: tokens a second.

  python launch/benchmarks/gpt_step.py                        6 layers of 512, 16 rows of 128, float32, two CPU cores
  python launch/benchmarks/gpt_step.py --device=gpu --rows=512 --length=256    bfloat16, and torch.compile beside it
  python launch/benchmarks/gpt_step.py --small                seconds, to see that it runs

Both take the same weights and tokens through cross-entropy, backward, clipping and AdamW, and must start from the same
loss. Rounds alternate in one process, so that a busy machine slows both. Appends a row to launch/results/gpt_step.csv.
"""

import datetime
import os
import statistics
import sys
from pathlib import Path

import numpy as np
from absl import app, flags

sys.path.insert(0, str(Path(__file__).resolve().parent))

import gpt_generate  # its flags --device, --rounds, --cores, --small and --seed hold here too
from gpt_generate import CORES, DEVICE, SEED, SMALL

ROWS = flags.DEFINE_integer('rows', 16, 'sequences in a step.')
LENGTH = flags.DEFINE_integer('length', 128, 'targets in a sequence.')
_RATE, _BETAS, _CLIP = 3e-4, (0.9, 0.95), 1.0


def make_batch(vocabulary: int) -> dict[str, np.ndarray]:
    """Rows of one segment each, in the form that forecasts, for which attention needs no mask on either side."""
    rng = np.random.Generator(np.random.Philox(SEED.value))
    rows, length = ROWS.value, LENGTH.value
    return {
        'tokens': rng.integers(0, vocabulary, (rows, length + 1)).astype(np.int32),
        'counts': np.ones((rows, length), bool),
        'mask': np.ones(rows, bool),
        'row': np.arange(rows, dtype=np.int32),
        'target': np.zeros((rows, 1), np.float32),
    }


def make_ours(gpt, batch):
    """(a step that gives its loss, the state dict it starts from)."""
    import jax

    from fjq.config import Optim
    from fjq.keys import make_key
    from fjq.models.microchat import Microchat
    from fjq.optim import make_optimizer
    from fjq.step import init_state, make_train_step
    from fjq.torch_names import to_state_dict

    task, key = Microchat(gpt=gpt, horizons=(1,)).build(), make_key(SEED.value, 'init')
    optim = Optim(learning_rate=_RATE, final_learning_rate=_RATE, betas=_BETAS, clip_norm=_CLIP)
    optimizer = make_optimizer(optim, 1000, jax.eval_shape(task.init, key)[0])
    holder = [jax.jit(lambda key: init_state(task, optimizer, 0.0, key))(key)]
    state = to_state_dict(jax.device_get(holder[0]['params']))
    train_step = make_train_step(task, optimizer, micro_batches=1, ema=0.0, seed=SEED.value)
    batch = jax.device_put(batch)
    compiled = jax.jit(train_step, donate_argnums=0).lower(holder[0], batch).compile()

    def step() -> float:
        holder[0], metrics = compiled(holder[0], batch)
        return float(jax.block_until_ready((holder[0], metrics))[1]['loss'])

    return step, state


def make_theirs(gpt, batch, state, *, compiled: bool):
    """A step in PyTorch that gives its loss."""
    import torch

    from interop.microchat_modules import Gpt, Sizes

    device = torch.device('cuda' if DEVICE.value == 'gpu' else 'cpu')
    torch.backends.cuda.matmul.allow_tf32 = True  # JAX's default on a GPU
    model = Gpt(Sizes(gpt.length, gpt.vocabulary, gpt.layers, gpt.heads, gpt.heads, gpt.width)).to(device).train()
    model.load_state_dict({k: torch.tensor(v) for k, v in state.items()}, strict=True)
    optimizer = torch.optim.AdamW(model.parameters(), _RATE, _BETAS, weight_decay=0.0, fused=True)
    forward = torch.compile(model) if compiled else model
    tokens = torch.tensor(batch['tokens'], device=device).long()

    def step() -> float:
        with torch.autocast(device.type, torch.bfloat16, enabled=gpt.dtype == 'bfloat16'):
            logits = forward(tokens[:, :-1])
        loss = torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), tokens[:, 1:].flatten())
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
        raise app.UsageError(f'unknown words {argv[1:]}')
    gpu = DEVICE.value == 'gpu'
    os.environ['JAX_PLATFORMS'] = 'cuda' if gpu else 'cpu'
    from launch.benchmarks.rounds import time_rounds, use_cores

    cores = use_cores(CORES.value)  # before the thread pools of either are made
    import jax
    import torch

    from fjq.models.gpt import Gpt
    from fjq.run import commit
    from launch.benchmarks.rows import append

    torch.set_num_threads(cores)
    load = os.getloadavg()[0]  # of others: above zero the figures are too slow, the ratio less so
    layers, width = (2, 64) if SMALL.value else (6, 512)
    gpt = Gpt(layers=layers, width=width, heads=8, length=LENGTH.value, dropout=0.0, rope_rounded=True)
    gpt.dtype = 'bfloat16' if gpu else 'float32'
    batch = make_batch(gpt.vocabulary)
    ours, state = make_ours(gpt, batch)
    sides = {'ours': ours, 'torch': make_theirs(gpt, batch, state, compiled=False)}
    if gpu:
        sides['torch.compile'] = make_theirs(gpt, batch, state, compiled=True)
    losses = [[step() for _ in range(3)] for step in sides.values()]
    np.testing.assert_allclose(losses, losses[:1] * len(losses), rtol=2e-2 if gpu else 1e-4)
    taken = {name: side.wall for name, side in time_rounds(sides, gpt_generate.ROUNDS.value).items()}
    tokens = ROWS.value * LENGTH.value
    rate = {name: 1e3 * tokens / min(ms) for name, ms in taken.items()}
    # Six operations a weight and token of the matrices, and the triangle of attention forward and twice backward.
    flops = tokens * (6 * (12 * layers * width**2 + gpt.padded * width) + 6 * layers * width * LENGTH.value)
    about = {
        'commit': commit(),
        'date': datetime.date.today().isoformat(),
        'device': jax.devices()[0].device_kind,
        'cores': cores,
        'versions': f'jax {jax.__version__} torch {torch.__version__}',
        'seed': SEED.value,
        'rounds': gpt_generate.ROUNDS.value,
        'load': f'{load:.1f}',
    }
    rows = []
    for name in [n for n in sides if n != 'ours']:
        row = {
            'case': f'{ROWS.value} x {LENGTH.value}, {layers} x {width}, {gpt.dtype}, {name}',
            'ours_ms': f'{statistics.median(taken["ours"]):.4g}',
            'ours_tokens_a_second': f'{rate["ours"]:.0f}',
            'ours_tflops': f'{1e-9 * flops / min(taken["ours"]):.3g}',
            'torch_ms': f'{statistics.median(taken[name]):.4g}',
            'torch_tokens_a_second': f'{rate[name]:.0f}',
            'ratio': f'{rate["ours"] / rate[name]:.2f}',
        }
        print('  '.join(f'{k} {v}' for k, v in row.items()), flush=True)
        rows.append(about | row)
    if not SMALL.value:
        append('gpt_step', *rows)


if __name__ == '__main__':
    app.run(main)
