"""Ticks to batches: framing real index files, reading the chunk bank, and what Grain costs.

  python launch/benchmarks/framing.py --data=FOLDER    with index_data/ and spy_daily_rv.parquet in it ($FJQ_DATA/tcn)

  framing   parquet files -> chunk bank on disk, two processes that are already running
  core      the same in one process, by its own CPU time: what a busy machine leaves is not counted
  gather    chunk bank -> whole batches, without Grain
  grain     the same through the Grain iterator that training uses, over a plain NumPy copy of memory-mapped arrays into
            fresh batches; rounds alternate, the figure is the median of their ratios
  memory    peak resident memory of framing all files in one fresh process

Appends one row a figure to launch/results/framing.csv.
"""

import datetime
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

DATA = flags.DEFINE_string('data', str(Path(os.environ.get('FJQ_DATA', '')) / 'tcn'), 'folder of the real sample.')
ROUNDS = flags.DEFINE_integer('rounds', 5, 'timed rounds of each figure.')
STEPS = flags.DEFINE_integer('steps', 40, 'batches in a round.')
WORKERS = flags.DEFINE_integer('workers', 2, 'processes that frame.')
BARS = {'framing': 40_000, 'core': 20_000, 'gather': 150_000, 'grain': 0.40, 'memory': 1.5}
UNITS = {'framing': 'chunks/s', 'core': 'chunks/CPU s', 'gather': 'chunks/s', 'grain': 'of plain NumPy', 'memory': 'GB'}
_CHILD = """
import resource, sys
from fjq.data.ticks.bank import Framing, build_bank
from fjq.data.ticks.files import TickFiles
from fjq.parallel import Parallel
build_bank(sys.argv[2], TickFiles(root=sys.argv[1]), Framing(), Parallel(workers=1))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9)
"""


def time_framing(root: str, workers: int, clock: Callable[[], float], rounds: int) -> list[float]:
    """Chunks a second of building the bank anew; a first build starts the processes and is not counted."""
    from fjq.data.ticks.bank import Framing, build_bank
    from fjq.data.ticks.files import TickFiles
    from fjq.parallel import Parallel

    rates = []
    for _ in range(rounds + 1):
        with tempfile.TemporaryDirectory() as cache:
            start = clock()
            bank = build_bank(cache, TickFiles(root=root), Framing(), Parallel(workers=workers))
            rates.append(bank.counts()['chunks'] / (clock() - start))
    return rates[1:]


def time_reading(data: Path, cache: str, rounds: int, steps: int) -> dict[str, list[float]]:
    """Chunks a second of three readers that make the same batches; the order turns from round to round."""
    import grain

    from fjq.data.order import Shuffled
    from fjq.data.ticks.tcn import TcnData
    from fjq.data.windows import Split
    from fjq.parallel import Parallel
    from fjq.task import Shard

    split = Split(train_end='2022-03-11', valid_end='2022-03-18', purge_days=0, embargo_days=0)
    config = TcnData(
        root=str(data / 'index_data'),
        targets=str(data / 'spy_daily_rv.parquet'),
        split=split,
        horizons=(1,),
        compute_labels=True,
    )
    dataset = config.open(cache, Parallel(workers=WORKERS.value))
    batches = dataset.train(0, Shard())
    read = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
    iterator = iter(batches.to_iter_dataset(read))
    source = dataset._source('train', Shuffled(dataset._fragments_of(dataset._days('train')), 20, 0), Shard())
    maps = [np.load(dataset.store.folder / d.folder / 'chunks.npy', mmap_mode='r') for d in dataset.store.days]
    f = dataset.fragments

    def plain(step: int) -> int:
        rows = source.order(step)
        out = np.zeros((len(rows), config.chunk_buckets[-1], config.chunk_len, 3), np.float32)
        for b, r in enumerate(rows):
            out[b, : f.chunks[r]] = maps[f.day[r]][f.chunk[r] : f.chunk[r] + f.chunks[r]]
        return int(f.chunks[rows].sum())

    def count(batch) -> int:
        return int((batch['weights'] > 0).sum())

    readers: dict[str, Callable[[int], int]] = {
        'plain': plain,
        'gather': lambda step: count(source[step]),
        'grain': lambda step: count(next(iterator)),
    }
    rates = {name: [] for name in readers}
    for number in range(rounds + 1):
        for name in list(readers) if number % 2 else reversed(readers):
            start = time.perf_counter()
            chunks = sum(readers[name](step) for step in range(steps))
            rates[name].append(chunks / (time.perf_counter() - start))
    return {name: values[1:] for name, values in rates.items()}


def measure_memory(root: str, cache: str) -> float:
    """GB of one fresh process that frames every file."""
    command = [sys.executable, '-c', _CHILD, root, cache]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    return float(done.stdout.splitlines()[-1])


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f'{argv[1]!r} is not a flag')
    import grain
    import pyarrow as pa

    from fjq.run import commit
    from launch.benchmarks.rows import append, cpu_name

    data, load = Path(DATA.value), os.getloadavg()[0]  # load of others: above zero the figures are too low
    root = str(data / 'index_data')
    with tempfile.TemporaryDirectory() as cache:
        figures = {
            'memory': [measure_memory(root, cache)],
            'framing': time_framing(root, WORKERS.value, time.perf_counter, ROUNDS.value),
            'core': time_framing(root, 1, time.process_time, ROUNDS.value),
        }
        rates = time_reading(data, cache, ROUNDS.value, STEPS.value)
    figures['gather'] = rates['gather']
    figures['grain'] = [g / p for g, p in zip(rates['grain'], rates['plain'], strict=True)]
    facts = {
        'commit': commit(),
        'date': datetime.date.today().isoformat(),
        'device': cpu_name(),
        'workers': WORKERS.value,
        'numpy': np.__version__,
        'pyarrow': pa.__version__,
        'grain': grain.__version__,
        'rounds': ROUNDS.value,
        'load': f'{load:.1f}',
    }
    print(f'{"figure":<10}{"median":>12}{"least":>12}{"most":>12}{"bar":>10}  met')
    for name in BARS:
        values, bar = figures[name], BARS[name]
        median = statistics.median(values)
        met = median <= bar if name == 'memory' else median >= bar
        digits = ',.2f' if bar < 100 else ',.0f'
        print(
            f'{name:<10}{median:>12{digits}}{min(values):>12{digits}}{max(values):>12{digits}}{bar:>10{digits}}  '
            f'{"yes" if met else "no"}  {UNITS[name]}'
        )
        row = {'figure': name, 'unit': UNITS[name], 'bar': bar, 'met': met}
        row |= {'median': f'{median:.4g}', 'least': f'{min(values):.4g}', 'most': f'{max(values):.4g}'}
        append('framing', facts | row)
    print(f'plain NumPy copy: {statistics.median(rates["plain"]):,.0f} chunks/s')


if __name__ == '__main__':
    app.run(main)
