"""Price paths from the GPT: 64 paths of 32 tokens after a context of 128, ours beside two loops in PyTorch.

  python launch/benchmarks/gpt_generate.py                 6 layers of 512, 8 heads, two CPU cores, float32
  python launch/benchmarks/gpt_generate.py --device=gpu    the same on a GPU
  python launch/benchmarks/gpt_generate.py --small         seconds, to see that it runs

  prefix    a loop that runs the whole prefix of every path for each token, as the original does (bar: 10)
  cached    a loop that runs the prompt once, copies its keys and values to every path and appends (bar: 1; 1.2 alone)

All take the same weights and must give the same greedy tokens before they are timed. Rounds alternate in one process,
so that a busy machine slows all. Appends one row a case to launch/results/gpt_generate.csv; times are of all paths.
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

DEVICE = flags.DEFINE_enum('device', 'cpu', ['cpu', 'gpu'], 'where all run.')
ROUNDS = flags.DEFINE_integer('rounds', 5, 'timed rounds; each times one call of every side.')
CORES = flags.DEFINE_integer('cores', 2, 'CPU cores for all.')
PATHS = flags.DEFINE_list('paths', ['64', '1'], 'the cases.')
SMALL = flags.DEFINE_bool('small', False, 'two layers of 64, 16 tokens after 32.')
SEED = flags.DEFINE_integer('seed', 0, 'of weights and prompt.')
_BARS = {('prefix', 64): 10, ('cached', 64): 1, ('cached', 1): 1.2}


def make_ours(config, context: int, horizon: int):
    """(paths, temperature -> a function that gives tokens, the state dict of the weights)."""
    import jax

    from fjq.bridge import Pure
    from fjq.models.gpt import Model
    from fjq.models.sampling import Sampling, generate
    from fjq.torch_names import to_state_dict

    pure = Pure(lambda rngs: Model(config, rngs=rngs))
    params, _ = jax.jit(pure.init)(jax.random.key(SEED.value))
    noise = 0.02 * jax.random.normal(jax.random.key(1), (config.width, config.padded))
    params['lm_head']['kernel'] = params['lm_head']['kernel'] + noise  # a fresh head likes all tokens alike
    prompt = jax.device_put(make_prompt(config, context))
    keys = jax.random.split(jax.random.key(2), 1)

    def make(paths: int, temperature: float):
        options = dict(horizon=horizon, paths=paths, sampling=Sampling(temperature=temperature))
        run = jax.jit(lambda params: pure.apply(params, {}, generate, prompt, keys, **options)[0][0])
        return lambda: np.asarray(run(params))

    return make, to_state_dict(params)


def make_theirs(config, state, context: int, horizon: int):
    """(cached, paths, temperature -> a function that gives tokens)."""
    import torch

    from interop.microchat_modules import Gpt, Sizes

    device = 'cuda' if DEVICE.value == 'gpu' else 'cpu'
    sizes = Sizes(config.length, config.vocabulary, config.layers, config.heads, config.heads, config.width)
    model = Gpt(sizes).to(device).eval()
    model.load_state_dict({k: torch.tensor(v) for k, v in state.items()}, strict=True)
    prompt = torch.tensor(make_prompt(config, context), device=device).long()

    def pick(logits, temperature):
        logits = logits[:, -1]
        if temperature == 0:
            return logits.argmax(-1, keepdim=True)
        return torch.multinomial(torch.softmax(logits / temperature, -1), 1)

    def prefix(paths, temperature):
        ids = prompt.expand(paths, -1)
        for _ in range(horizon):
            ids = torch.cat([ids, pick(model(ids), temperature)], 1)
        return ids[:, context:]

    def cached(paths, temperature):
        first = model.make_caches(1, context)
        logits = model(prompt, first).expand(paths, -1, -1)
        caches = model.make_caches(paths, context + horizon)
        for own, past in zip(caches, first, strict=True):
            for a, b in zip(own, past, strict=True):
                a[:, :, :context] = b
        token = pick(logits, temperature)
        out = [token]
        for t in range(horizon - 1):
            token = pick(model(token, caches, context + t), temperature)
            out.append(token)
        return torch.cat(out, 1)

    def make(kind: str, paths: int, temperature: float):
        loop = {'prefix': prefix, 'cached': cached}[kind]

        def run():
            with torch.inference_mode():
                return loop(paths, temperature).cpu().numpy()

        return run

    return make


def make_prompt(config, context: int) -> np.ndarray:
    rng = np.random.Generator(np.random.Philox(SEED.value))
    return rng.integers(0, config.vocabulary, (1, context)).astype(np.int32)


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
    context, horizon = (32, 16) if SMALL.value else (128, 32)
    layers, width = (2, 64) if SMALL.value else (6, 512)
    config = Gpt(layers=layers, width=width, heads=8, dropout=0.0, rope_rounded=True)
    ours, state = make_ours(config, context, horizon)
    theirs = make_theirs(config, state, context, horizon)
    rows = []
    for paths in map(int, PATHS.value):
        greedy = ours(paths, 0.0)()
        for kind in ('prefix', 'cached'):
            if not np.array_equal(greedy, theirs(kind, paths, 0.0)()):
                raise RuntimeError(f'greedy tokens differ from those of the {kind} loop')
        sides = {'ours': ours(paths, 1.0)} | {kind: theirs(kind, paths, 1.0) for kind in ('prefix', 'cached')}
        sides['ours']()  # compiled here
        taken = {name: side.wall for name, side in time_rounds(sides, ROUNDS.value).items()}
        for kind in ('prefix', 'cached'):
            ratio, bar = min(taken[kind]) / min(taken['ours']), None if SMALL.value else _BARS.get((kind, paths))
            row = {
                'case': f'{paths} x {horizon} after {context}, {layers} x {width}, {kind}',
                'ours_ms': f'{statistics.median(taken["ours"]):.4g}',
                'ours_least': f'{min(taken["ours"]):.4g}',
                'torch_ms': f'{statistics.median(taken[kind]):.4g}',
                'torch_least': f'{min(taken[kind]):.4g}',
                'tokens_a_second': f'{1e3 * paths * horizon / min(taken["ours"]):.0f}',
                'ratio': f'{ratio:.2f}',
                'bar': bar or '',
                'met': ratio >= bar if bar else '',
            }
            print('  '.join(f'{k} {v}' for k, v in row.items() if v != ''), flush=True)
            rows.append(row)
    about = {
        'commit': commit(),
        'date': datetime.date.today().isoformat(),
        'device': jax.devices()[0].device_kind,
        'cores': cores,
        'versions': f'jax {jax.__version__} torch {torch.__version__}',
        'seed': SEED.value,
        'rounds': ROUNDS.value,
        'load': f'{load:.1f}',
    }
    if not SMALL.value:
        append('gpt_generate', *(about | row for row in rows))


if __name__ == '__main__':
    app.run(main)
