"""The market simulator: rows a second with writing, and peak memory.

  python launch/benchmarks/simulate.py [--workers=2]

  stocks/LAYOUT    stock prints to files of a layout, processes that are already running; the bar is 100 million an hour
  options, index   the same for the other tick streams
  core ...         the same in one process, by its own CPU time: what a busy machine leaves is not counted
  memory           peak resident memory of one fresh process with a day of a million prints, and of four million

Appends one row a figure to launch/results/simulate.csv.
"""

import datetime
import gzip
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from absl import app, flags

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

ROUNDS = flags.DEFINE_integer('rounds', 3, 'timed rounds of each figure.')
DAYS = flags.DEFINE_integer('days', 4, 'sessions in a round.')
WORKERS = flags.DEFINE_integer('workers', 2, 'processes that simulate.')
BAR = 100e6 / 3600
MEMORY_BAR = 1.0
CASES = {f'stocks/{layout}': ('stocks', layout) for layout in ('seed', 'polygon_parquet', 'polygon_csv')}
CASES |= {'options': ('options', 'seed'), 'index': ('index', 'seed')}
SIZES = dict(stocks=500, stock_ticks=1_000_000, spy_ticks=200_000, option_trades=500_000, index_symbols=888)
_CHILD = """
import resource, sys
from pathlib import Path
from fjq.data.synthetic import Market, simulate
ticks = int(sys.argv[2])
simulate(Path(sys.argv[1]), Market(what=('stocks',), days=1, stocks=500, stock_ticks=ticks, spy_ticks=ticks // 5))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9)
"""


def time_stream(stream: str, layout: str, workers: int, clock: Callable[[], float]) -> list[float]:
    """Rows a second of every round; a first one starts the processes and is not counted."""
    from fjq.data.synthetic import Market, simulate
    from fjq.parallel import Parallel

    market = Market(what=(stream,), layouts=(layout,), days=DAYS.value, **SIZES)
    rates = []
    for _ in range(ROUNDS.value + 1):
        with tempfile.TemporaryDirectory() as out:
            start = clock()
            folder = simulate(Path(out), market, Parallel(workers=workers))[stream]
            seconds = clock() - start
            rates.append(count_rows(folder) / seconds)
    return rates[1:]


def count_rows(folder: Path) -> int:
    """Rows of every file of a folder."""
    import pyarrow.parquet as pq

    rows = sum(pq.read_metadata(path).num_rows for path in folder.rglob('*.parquet'))
    for path in folder.rglob('*.csv.gz'):
        with gzip.open(path) as file:
            rows += sum(block.count(b'\n') for block in iter(lambda file=file: file.read(2**24), b'')) - 1
    return rows


def measure_memory(ticks: int) -> float:
    """GB of one fresh process that simulates a day of so many stock prints."""
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, '-c', _CHILD, out, str(ticks)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    return float(done.stdout.splitlines()[-1])


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f'{argv[1]!r} is not a flag')
    import pyarrow as pa

    from fjq.run import commit
    from launch.benchmarks.rows import append, cpu_name

    facts = {
        'commit': commit(),
        'date': datetime.date.today().isoformat(),
        'device': cpu_name(),
        'workers': WORKERS.value,
        'numpy': np.__version__,
        'pyarrow': pa.__version__,
        'rounds': ROUNDS.value,
        'load': f'{os.getloadavg()[0]:.1f}',  # of others: above zero the figures are too low
    }
    figures = {}
    for name, (stream, layout) in CASES.items():
        figures[name] = time_stream(stream, layout, WORKERS.value, time.perf_counter)
        figures[f'core {name}'] = time_stream(stream, layout, 1, time.process_time)
    figures |= {f'memory/{ticks // 10**6}M': [measure_memory(ticks)] for ticks in (10**6, 4 * 10**6)}
    print(f'{"figure":<24}{"median":>12}{"least":>12}{"most":>12}{"bar":>10}  met')
    for name, values in figures.items():
        memory = name.startswith('memory')
        bar, median, digits = MEMORY_BAR if memory else BAR, statistics.median(values), ',.2f' if memory else ',.0f'
        met = median <= bar if memory else median >= bar
        print(
            f'{name:<24}{median:>12{digits}}{min(values):>12{digits}}{max(values):>12{digits}}{bar:>10{digits}}  '
            f'{"yes" if met else "no"}  {"GB" if memory else "rows/s"}'
        )
        row = {'figure': name, 'unit': 'GB' if memory else 'rows/s', 'bar': f'{bar:.4g}', 'met': met}
        row |= {'median': f'{median:.4g}', 'least': f'{min(values):.4g}', 'most': f'{max(values):.4g}'}
        append('simulate', facts | row)


if __name__ == '__main__':
    app.run(main)
