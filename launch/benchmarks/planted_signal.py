"""Can the encoder find a signal that is there? Twenty simulated years, scored beside the baselines on the last six.

  python launch/benchmarks/planted_signal.py            about eight minutes on two CPU cores

The index files of the simulator carry the state of volatility that a noisy daily figure hides. The bar: 30 days ahead
the encoder beats persistence and HAR in QLIKE, each with a 95 % interval above zero. Appends one row a baseline and
horizon to launch/results/planted_signal.csv.
"""

import datetime
import sys
import tempfile
from pathlib import Path

from absl import app, flags

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

RUN = flags.DEFINE_string('run', '', 'run folder, resumed where it holds a run; empty = a temporary one.')
BEATEN = ('persistence', 'har')


def measure(workdir: Path) -> dict:
    """Trains `configs/tcn_index.py:signal` in the workdir and returns the findings on its test split."""
    from fjq.evaluate import evaluate
    from fjq.launch import load_config
    from fjq.run import cache_folder
    from fjq.train import train
    from fjq.trained import Trained

    config = load_config(ROOT / 'configs' / 'tcn_index.py', 'cpu,signal')
    train(config, workdir)
    dataset = config.data.open(cache_folder(config, workdir), config.parallel)
    return evaluate(config, Trained.load(workdir), dataset)[0]


def main(_) -> None:
    from fjq.evaluate import conclude
    from fjq.run import commit
    from launch.benchmarks.rows import append

    with tempfile.TemporaryDirectory() as temporary:
        findings = measure(Path(RUN.value or temporary))
    rows = []
    for h, horizon in enumerate(findings['horizons']):
        for name, differences in findings['differences'].items():
            d = differences[h]
            rows.append(
                {
                    'commit': commit(),
                    'date': datetime.date.today().isoformat(),
                    'horizon_days': horizon,
                    'rows': findings['rows'][h],
                    'model_qlike': f'{findings["scores"][findings["name"]]["qlike"][h]:.4f}',
                    'baseline': name,
                    'baseline_qlike': f'{findings["scores"][name]["qlike"][h]:.4f}',
                    'difference': f'{d["mean"]:.4f}',
                    'low': f'{d["low"]:.4f}',
                    'high': f'{d["high"]:.4f}',
                    'p': f'{d["p"]:.4f}',
                    'model': d['model'],
                }
            )
    append('planted_signal', *rows)
    for line in conclude(findings):
        print(line)
    verdicts = {name: findings['differences'][name][-1]['model'] for name in BEATEN}
    print('bar met' if set(verdicts.values()) == {'better'} else f'bar missed: {verdicts}')


if __name__ == '__main__':
    app.run(main)
