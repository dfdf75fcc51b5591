"""Five-minute bars of index futures: New York's clock without a zone, from 18:00 to 17:00, stamped at their start.

Beside each file, `truth/{symbol}_bars.parquet` holds the variance of every bar's log return given the volatility path:
the scale that a perfect forecaster of the next bar would know.
"""

import datetime
import functools
from pathlib import Path

import numpy as np
import pyarrow as pa

from fjq.atomic import atomic
from fjq.data.calendar import PRE_OPEN, Date
from fjq.data.synthetic.assets import Assets, Walk, walk
from fjq.data.synthetic.draws import generator
from fjq.data.synthetic.extremes import extremes
from fjq.data.synthetic.files import parquet
from fjq.data.synthetic.market import Market, Origin
from fjq.data.synthetic.minutes import Day, Paths, asset_paths, print_clock, simulate_day
from fjq.data.synthetic.volatility import GAP, PART_VARIANCE, latent

FUTURES = ('ES', 'NQ')
TICK = 0.25
MINUTES = 5  # of a bar
EVENING_MINUTES = 24 * 60 - 18 * 60 + PRE_OPEN  # from 18:00 to 04:00
DAY_MINUTES = 17 * 60 - PRE_OPEN  # from 04:00 to 17:00
CONTRACTS_A_DAY = 600_000
EVENING_CONTRACTS = 0.05  # share of them before 04:00
TRUTH_SCHEMA = pa.schema(dict(timestamp=pa.timestamp('us'), variance=pa.float64()))


def futures() -> Assets:
    """ES, which is the market, and NQ, with more of it and of technology."""
    columns = ([0, 1], [1.0, 1.15], [5, 0], [0.0, 0.7], [0.0, 0.002], [4500.0, 14800.0])
    return Assets('future', list(FUTURES), *(np.array(c) for c in columns))


def halt_level(day: Day, paths: Paths) -> np.ndarray:
    """[K] log prices at 17:00."""
    return paths.end[:, min(DAY_MINUTES, paths.end.shape[1]) - 1]


def bar_day(market: Market, d: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The bars of trading day d: [K, N, 5] open, high, low, close, volume, and [K, N] variances.

    N is 276: 120 from 18:00 of the evening before, then 156 from 04:00.
    """
    origin, assets = market.origin, futures()
    positions = _walk(origin, count)
    day = simulate_day(origin, d, count)
    paths = asset_paths(origin, day, assets, positions)
    if d:
        before = simulate_day(origin, d - 1, count)
        opening = halt_level(before, asset_paths(origin, before, assets, positions))
    else:
        opening = positions.start[0]
    rng = generator(market.seed, 'future bars', d)
    evening = _evening(rng, origin, d, count, opening, paths.start[:, 0])
    last = min(DAY_MINUTES, paths.end.shape[1])
    path = Paths(*(np.concatenate([a, b[:, :last]], 1) for a, b in zip(evening, paths, strict=True)))
    high, low = extremes(rng, *path)
    fold = lambda x: x.reshape(len(x), -1, MINUTES)
    log = [fold(path.start)[..., 0], fold(high).max(2), fold(low).min(2), fold(path.end)[..., -1]]
    price = np.round(np.exp(np.stack(log, 2)) / TICK) * TICK
    clock = print_clock(day.date)[:last]
    share = np.concatenate([np.full(EVENING_MINUTES, EVENING_CONTRACTS / EVENING_MINUTES), clock])
    mean = CONTRACTS_A_DAY * np.exp(latent(origin, count).activity[d]) * share.reshape(-1, MINUTES).sum(1)
    volume = np.round(mean * rng.standard_gamma(4.0, price.shape[:2]) / 4)
    return np.concatenate([price, volume[..., None]], 2), fold(path.variance).sum(2)


@functools.lru_cache(maxsize=4)
def _walk(origin: Origin, count: int) -> Walk:
    return walk(origin, futures(), count)


def _evening(rng, origin: Origin, d: int, count: int, start: np.ndarray, end: np.ndarray) -> Paths:
    """The minutes from 18:00 to 04:00: bridges between the two levels, on an even clock."""
    variance = futures().beta ** 2 * PART_VARIANCE[GAP] * latent(origin, count).variance[max(d - 1, 0)]
    minute = np.repeat(variance[:, None] / EVENING_MINUTES, EVENING_MINUTES, 1)
    steps = np.sqrt(minute) * rng.standard_normal(minute.shape)
    steps += ((end - start - steps.sum(1)) / EVENING_MINUTES)[:, None]
    ends = start[:, None] + np.cumsum(steps, 1)
    return Paths(ends - steps, ends, minute)


def stamps(date: Date, bars: int) -> np.ndarray:
    """The start of each bar of a trading day."""
    evening = np.datetime64(date - datetime.timedelta(days=1), 's') + np.timedelta64(18, 'h')
    return evening + np.arange(bars) * np.timedelta64(MINUTES, 'm')


def paths(market: Market, out: Path) -> list[Path]:
    """Where the bars of each future and the truth behind them are."""
    return [out / 'bars' / f'{name}_5min.csv' for name in FUTURES] + [
        out / 'truth' / f'{name}_bars.parquet' for name in FUTURES
    ]


def write(market: Market, out: Path, dates: list[Date], days: list[tuple[np.ndarray, np.ndarray]]) -> None:
    """One CSV and one truth file a future, from the bars of every day."""
    times = np.concatenate([stamps(date, bars.shape[1]) for date, (bars, _) in zip(dates, days, strict=True)])
    text = np.char.replace(np.datetime_as_string(times), 'T', ' ')
    files = paths(market, out)
    for k, name in enumerate(FUTURES):
        rows = np.concatenate([bars[k] for bars, _ in days])
        with atomic(files[k]) as part, open(part, 'w', encoding='utf-8', newline='') as file:
            file.write('datetime,open,high,low,close,volume,symbol\n')
            for time, (o, h, lo, c, v) in zip(text, rows, strict=True):
                file.write(f'{time},{o},{h},{lo},{c},{int(v)},{name}\n')
        with parquet(files[len(FUTURES) + k], TRUTH_SCHEMA) as write_table:
            variance = np.concatenate([v[k] for _, v in days])
            write_table(pa.table([pa.array(times.astype('datetime64[us]')), variance], names=TRUTH_SCHEMA.names))
