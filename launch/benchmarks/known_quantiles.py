"""Does MIGT-TVDT find quantiles that are known? Simulated bars, scored against the truth on the test span.

  python launch/benchmarks/known_quantiles.py            minutes on two CPU cores

The bar, at every horizon: pinball loss within 3 % of that of the true quantiles on the same rows, and coverage of the
80 % interval within 1.5 points, as forecast and as calibrated. The coverage of the truth itself is printed beside: on a
finite span it misses 80 % too. Appends a row a horizon and forecaster to launch/results/known_quantiles.csv.
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
PINBALL, COVERAGE = 1.03, 0.015


def measure(workdir: Path) -> list[dict]:
    """Trains configs/migt_tvdt.py:simulated in the workdir; one row a horizon and forecaster."""
    from fjq.evaluate import forecast_all
    from fjq.forecast import Quantiles
    from fjq.launch import load_config
    from fjq.run import cache_folder, commit
    from fjq.train import train
    from fjq.trained import Trained

    config = load_config(ROOT / 'configs' / 'migt_tvdt.py', 'simulated')
    start = time.monotonic()
    train(config, workdir)
    seconds = time.monotonic() - start
    dataset = config.data.open(cache_folder(config, workdir), config.parallel)
    found = forecast_all(config, Trained.load(workdir), dataset)
    rows, levels = found.rows, config.task.levels
    laws = {j.name: j.law for j in found.judged if isinstance(j.law, Quantiles) and j.law.levels == levels}
    truth = config.data.oracle(rows, levels)
    mask = rows['valid'] & np.isfinite(truth).all(-1)
    laws['truth'] = Quantiles(levels, np.where(mask[..., None], truth, 0))
    out = []
    for h, horizon in enumerate(rows['horizon']):
        target, there = rows['target'][mask[:, h], h], mask[:, h]
        values = {name: np.asarray(law.values, np.float64)[there, h] for name, law in laws.items()}
        best = pinball(target, values['truth'], levels)
        low, high = levels.index(0.1), levels.index(0.9)
        for name, q in values.items():
            out.append(
                {
                    'commit': commit(),
                    'date': datetime.date.today().isoformat(),
                    'seed': config.seed,
                    'train_s': f'{seconds:.0f}',
                    'horizon_bars': f'{horizon}',
                    'rows': int(there.sum()),
                    'forecaster': name,
                    'pinball_over_truth': f'{pinball(target, q, levels) / best:.4f}',
                    'coverage_80': f'{((target >= q[:, low]) & (target <= q[:, high])).mean():.4f}',
                }
            )
    return out


def pinball(target: np.ndarray, quantiles: np.ndarray, levels: tuple[float, ...]) -> float:
    """The mean over rows and levels: target [N], quantiles [N, Q]."""
    error, p = target[:, None] - quantiles, np.array(levels)
    return float(np.maximum(p * error, (p - 1) * error).mean())


def meets_bar(row: dict) -> bool:
    return float(row['pinball_over_truth']) <= PINBALL and abs(float(row['coverage_80']) - 0.8) <= COVERAGE


def main(_) -> None:
    from launch.benchmarks.rows import append

    logging.set_verbosity(logging.ERROR)  # Orbax warns of what is meant
    with tempfile.TemporaryDirectory() as temporary:
        rows = measure(Path(RUN.value or temporary))
    append('known_quantiles', *rows)
    for row in rows:
        print(
            f'{row["forecaster"]:>22} {row["horizon_bars"]:>4} bars: {row["pinball_over_truth"]} {row["coverage_80"]}'
        )
    for name in ('migt_tvdt, raw', 'migt_tvdt'):
        missed = [r['horizon_bars'] for r in rows if r['forecaster'] == name and not meets_bar(r)]
        print(f'{name}: ' + (f'bar missed at {missed}' if missed else 'bar met at every horizon'))


if __name__ == '__main__':
    app.run(main)
