"""A wide daily table of features with a known clean signal: `table.csv`, and `truth/table_clean.parquet` beside it.

94 feature columns in seven families, missing up to a first row of their own and never after, of many characters:
binary flags, ranks on a grid, mean-reverting, trending, seasonal, wandering, heavy-tailed, with noise that comes in
waves. Every feature is a clean path plus noise; a denoiser is scored against the clean one. The next day's return
holds a little of three clean paths: denoising can help a forecaster, as much as `truth/table_signal.csv` says.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from fjq.atomic import atomic
from fjq.data.synthetic.draws import generator
from fjq.data.synthetic.files import lines, parquet
from fjq.data.synthetic.market import Market

FAMILIES = dict(D=9, E=20, I=9, M=18, P=13, S=12, V=13)
TARGETS = ('forward_returns', 'risk_free_rate', 'market_forward_excess_returns')
FULL_ROWS = 8_990  # to which the first rows below belong; a shorter table has them in proportion
FIRST_ROWS = (0, 0, 1006, 1006, 1006, 1006, 1006, 1006, 1006, 1006, 1511, 1616, 1784, 2018, 3009, 4539, 5540, 6969)
RANK_GRID = 1512  # ranks are multiples of 1 over it
RANK_SHARE = 0.42  # of the features outside D
# Kind: AR(1) decay of the clean path, growth a row (of its sd), period of a season in rows (0: none).
KINDS = dict(
    reverting=(0.9, 0.0, 0),
    slow=(0.985, 0.0, 0),
    wandering=(0.9995, 0.0, 0),
    trending=(0.995, 0.002, 0),
    seasonal=(0.8, 0.0, 63),
)
NOISE_DECAY = 0.97  # of the log noise level, which comes in waves
RETURN_SD, RETURN_MEAN = 0.0105, 4.7e-4  # of the next day
DRIVERS, SIGNAL_SHARE = 3, 0.01  # clean paths in the next return, and their share of its variance


class Table(NamedTuple):
    """T rows of F features in the order of the file's columns."""

    names: list[str]
    clean: np.ndarray  # [T, F]
    observed: np.ndarray  # [T, F], NaN where missing
    targets: np.ndarray  # [T, 3]
    drivers: dict[str, float]  # weight of each clean path (standardised) in the next return


def feature_names() -> list[str]:
    """The columns in the order of their text: E1, E10, E11, ..."""
    return sorted(f'{family}{i}' for family, n in FAMILIES.items() for i in range(1, n + 1))


def simulate_table(seed: int, rows: int) -> Table:
    """The table; a longer one starts with the same rows, but for where its columns begin."""
    names = feature_names()
    columns = [_feature(seed, i, name, rows) for i, name in enumerate(names)]
    clean, noisy, hidden = (np.stack(x, 1) for x in zip(*columns, strict=True))
    rng = generator(seed, 'table traits')
    starts = np.array(FIRST_ROWS)[rng.integers(0, len(FIRST_ROWS), len(names))]
    starts[[name[0] == 'D' for name in names]] = 0
    observed = np.where(np.arange(rows)[:, None] < starts * rows // FULL_ROWS, np.nan, noisy)

    early = [i for i in np.argsort(starts, kind='stable') if names[i][0] != 'D'][:DRIVERS]
    weights = np.sqrt(SIGNAL_SHARE / DRIVERS) * np.array([1, -1, 1])
    z = generator(seed, 'table returns').standard_normal(rows)
    forward = RETURN_SD * (hidden[:, early] @ weights + np.sqrt(1 - SIGNAL_SHARE) * z) + RETURN_MEAN
    rate = 1.5e-4 * np.exp(np.cumsum(generator(seed, 'table rate').standard_normal(rows)) * 0.01)
    excess = forward - rate - 4e-4
    targets = np.stack([forward, rate, excess], 1)
    return Table(names, clean, observed, targets, {names[i]: w for i, w in zip(early, weights, strict=True)})


def _feature(seed: int, i: int, name: str, rows: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(clean, noisy, standardised clean path) of one column."""
    traits = generator(seed, 'table column', part=i)
    kind = list(KINDS)[traits.integers(len(KINDS))]
    decay, growth, period = KINDS[kind]
    z = generator(seed, 'table signal', part=i).standard_normal(rows)
    path = _ar1(z, decay)
    time = np.arange(rows)
    if period:
        path = np.sqrt(0.5) * path + np.sin(2 * np.pi * time / (period * np.exp(traits.normal() * 0.5)))
    shown = path + growth * time
    shake = generator(seed, 'table noise', part=i).standard_normal((rows, 2))
    level = np.exp(0.4 * _ar1(shake[:, 0], NOISE_DECAY)) * np.exp(traits.uniform(-1.6, 0.2))
    error = level * shake[:, 1]
    if name[0] == 'D':
        return (shown > 0.8).astype(float), (shown + 0.2 * error > 0.8).astype(float), path
    if traits.random() < RANK_SHARE:
        return _rank(shown), np.ceil(_rank(shown + error) * RANK_GRID) / RANK_GRID, path
    if traits.random() < 0.3:  # heavy tails in the noise
        error = error * np.sqrt(3 / generator(seed, 'table tails', part=i).standard_gamma(1.5, rows) / 2) / 1.5
    scale, shift = np.exp(traits.normal()), traits.normal()
    return shift + scale * shown, shift + scale * (shown + error), path


def _ar1(z: np.ndarray, decay: float) -> np.ndarray:
    from scipy.signal import lfilter

    steps = np.sqrt(1 - decay**2) * z
    steps[0] = z[0]
    return lfilter([1.0], [1.0, -decay], steps)


def _rank(x: np.ndarray) -> np.ndarray:
    from scipy.special import ndtr

    return np.clip(ndtr(x), 1 / RANK_GRID, 1)


def paths(market: Market, out: Path) -> list[Path]:
    """Where the table, its clean paths and the weights of the returns' signal are."""
    return [out / 'table.csv', out / 'truth' / 'table_clean.parquet', out / 'truth' / 'table_signal.csv']


def write(market: Market, out: Path) -> None:
    """Writes the table and what only the simulator knows of it."""
    table = simulate_table(market.seed, market.table_rows)
    date_id = pa.array(np.arange(market.table_rows))
    path, clean_path, signal_path = paths(market, out)
    with lines(path, ','.join(('date_id', *table.names, *TARGETS))) as write_lines:
        shown = [pa.array(x, from_pandas=True).cast(pa.string()).fill_null('') for x in table.observed.T]
        write_lines([date_id, *shown, *(pa.array(x) for x in table.targets.T)])
    schema = pa.schema([('date_id', pa.int64())] + [(name, pa.float64()) for name in table.names])
    with parquet(clean_path, schema) as write_table:
        write_table(pa.table([date_id, *table.clean.T], schema))
    with atomic(signal_path) as part:
        weights = [f'{name},{float(weight)}\n' for name, weight in table.drivers.items()]
        part.write_text('column,weight\n' + ''.join(weights), encoding='utf-8')
