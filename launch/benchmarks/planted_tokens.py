"""Does the GPT find what only two tokens together tell? A market with a planted chain of second order.

  python launch/benchmarks/planted_tokens.py            a few minutes on two CPU cores
  python launch/benchmarks/planted_tokens.py --small    a minute, to try it

The law of the chain is known, so the information that two tokens hold of the next is known in bits, and no chain of
first order sees any of it (fjq.data.candles.simulated.PlantedTokenData); a chain of second order, given beside the
model, is of the right form and hard to beat. The bar: on the test span the model recovers
at least 90 % of what the true law saves against uniform tokens, with the lower end of a 95 % block bootstrap interval.
Appends a row to launch/results/planted_tokens.csv.
"""

import datetime
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from absl import app, flags, logging

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

RUN = flags.DEFINE_string('run', '', 'run folder, resumed where it holds a run; empty = a temporary one.')
SMALL = flags.DEFINE_bool('small', False, 'fewer updates, and no row in the results.')
SMALL_STEPS = 150
BAR = 0.9
BLOCK = 20  # days


def measure(workdir: Path, small: bool) -> dict:
    """Trains configs/microchat_pretrain.py:planted and compares bits a token with the true law's on the same tokens."""
    from fjq import compare
    from fjq.baselines.markov import fit_chains
    from fjq.launch import load_config
    from fjq.run import cache_folder, commit
    from fjq.studies.tokens import read_series, score_chain, score_model, spans
    from fjq.train import train
    from fjq.trained import Trained

    config = load_config(ROOT / 'configs' / 'microchat_pretrain.py', 'planted')
    if small:
        config.train.steps = SMALL_STEPS
    start = time.monotonic()
    train(config, workdir)
    seconds = time.monotonic() - start
    dataset = config.data.open(cache_folder(config, workdir), config.parallel)
    series = read_series(dataset)
    model, asked = score_model(Trained.load(workdir), dataset, 'test', dataset.rows('test'), series)
    K, noise = config.data.states, config.data.noise
    x = [np.array([series[a].token[p - k] for a, p in zip(asked.asset, asked.place, strict=True)]) for k in range(3)]
    truth = -np.log2(np.where((x[0] - x[1] - x[2]) % K == 0, 1 - noise, noise / (K - 1)))
    returns = dataset.tokenizer.features(np.arange(K))[:, 0]
    tokens = ([s.token for s in part] for part in spans(dataset, 'test', series))
    chains = {c.name: score_chain(c, series, asked).nats / np.log(2) for c in fit_chains(*tokens, K, returns)}
    bits = {'model': model.nats / np.log(2), **chains}
    saved = {name: (np.log2(K) - b).mean() / (np.log2(K) - truth).mean() for name, b in bits.items()}
    days, day = np.unique(asked.time, return_inverse=True)
    sums = np.stack([np.bincount(day, np.log2(K) - v) for v in (bits['model'], truth)], -1)
    ratio = lambda means: means[..., 0] / means[..., 1]
    low, high = compare.block_bootstrap(sums, block=BLOCK, draws=2000, seed=0, statistic=ratio)
    return {
        'commit': commit(),
        'date': datetime.date.today().isoformat(),
        'seed': config.seed,
        'tokens': len(truth),
        'seconds': f'{seconds:.0f}',
        'uniform_bits': f'{np.log2(K):.4f}',
        'known_gain_bits': f'{config.data.information():.4f}',
        'true_law_bits': f'{truth.mean():.4f}',
        'model_bits': f'{bits["model"].mean():.4f}',
        'recovered': f'{saved["model"]:.4f}',
        'low': f'{low:.4f}',
        'high': f'{high:.4f}',
        'trigram_recovered': f'{saved["trigram"]:.4f}',
        'bigram_recovered': f'{saved["bigram"]:.4f}',
    }


def main(_) -> None:
    from launch.benchmarks.rows import append

    logging.set_verbosity(logging.ERROR)  # Orbax warns of what is meant
    with tempfile.TemporaryDirectory() as temporary:
        row = measure(Path(RUN.value or temporary), SMALL.value)
    for name, value in row.items():
        print(f'{name:>18}  {value}')
    if SMALL.value:
        return
    append('planted_tokens', row)
    met = float(row['low']) >= BAR
    print('bar met' if met else f'bar missed: {row["recovered"]} ({row["low"]} to {row["high"]}) of the gain')


if __name__ == '__main__':
    app.run(main)
