"""Index values as the TCN seed keeps them: every symbol once a minute from 09:30 to 16:00, New York's clock, no zone.

The files have a real one's quirks. A symbol holds 0 until its first print and then its last value; some never print.
Rows lie in one block a symbol, in no useful order, and one symbol wraps round from the end of the file to its start. A
half day's values stand still after the close. A weekday holiday has a file too: the symbols that follow other markets,
and neither SPX nor VIX.

What a frame, all symbols at one minute, tells of the future: VIX and its kin are the exact expectation of the variance
over their horizons given both factors, times a premium with noise. Realised variance only shows the sum of the
factors with noise, and of these the forward variance needs the slow one. VVIX and implied correlation say it again
with other weights. An encoder that reads levels across symbols can so beat what past returns allow (persistence, HAR).
"""

import datetime
import functools
from pathlib import Path

import numpy as np
import pyarrow as pa

from fjq.data.calendar import CLOSE, OPEN, Date
from fjq.data.synthetic.assets import Walk, session_variance, stocks, walk
from fjq.data.synthetic.draws import generator
from fjq.data.synthetic.files import parquet
from fjq.data.synthetic.market import Market, Origin
from fjq.data.synthetic.minutes import SESSION_START, Day, asset_paths, simulate_day
from fjq.data.synthetic.symbols import HOLIDAY_KINDS, LATE_KINDS, VOLATILITY, Symbols, symbols
from fjq.data.synthetic.volatility import implied_vol, latent, mean_level

SCHEMA = pa.schema(dict(ticker=pa.string(), timestamp=pa.timestamp('us'), price=pa.float64()))
MINUTES = CLOSE - OPEN + 1  # rows of a symbol
ROW_GROUP = 122_880  # rows, as DuckDB cuts them
RUNS = 8  # alphabetical runs of symbols whose order is arbitrary
LEAD = ((1, 0.70), (2, 0.15), (34, 0.10), (121, 0.03), (390, 0.02))  # minutes before a late symbol's first print
FIRST_PRINT = dict(VIX=0, SPX=1)  # minutes before it, where it is always the same
SMILE_NOISE = 0.003  # log noise of a volatility index by the minute


@functools.lru_cache(maxsize=4)
def _index_walk(origin: Origin, symbol_count: int, count: int) -> tuple[Symbols, Walk]:
    listed = symbols(origin, symbol_count)
    return listed, walk(origin, listed.assets, count)


def levels(market: Market, day: Day, listed: Symbols, positions: Walk, premium: float) -> np.ndarray:
    """[S, 391] values on the grid, as if every symbol printed every minute."""
    origin, d = market.origin, day.index
    paths = asset_paths(origin, day, listed.assets, positions)
    grid = np.minimum(np.arange(MINUTES) + SESSION_START, day.session.stop)  # the end of each minute, then the close
    value = np.exp(paths.end[:, grid - 1])
    slow, fast = day.slow[grid], day.fast[grid]
    z = generator(market.seed, 'index noise', d).standard_normal((len(VOLATILITY) + 3, MINUTES))
    vols = implied_vol(origin, slow, fast, premium, [horizon for horizon, _ in VOLATILITY.values()])
    for name, (_, factor), vol, noise in zip(VOLATILITY, VOLATILITY.values(), vols, z[:-3], strict=True):
        if name in listed.names:
            value[listed.names.index(name)] = 100 * factor * vol * np.exp(SMILE_NOISE * noise)
    # The volatility of VIX rises with the fast factor; implied correlation with the market's share of all variance.
    special = dict(VVIX=92 * np.exp(0.22 * fast + 0.08 * slow + 0.004 * z[-1]))
    names = stocks(origin, 50)
    for i, (name, weight) in enumerate((('COR1M', 0.3), ('COR3M', 0.1))):
        market_variance = np.exp(mean_level(origin) + slow + weight * fast)
        share = market_variance / session_variance(origin, names, market_variance).mean(-1)
        special[name] = 100 * share * np.exp(0.01 * z[-2 - i])
    for name, row in special.items():
        if name in listed.names:
            value[listed.names.index(name)] = row
    return value


def hold(market: Market, d: int, listed: Symbols, value: np.ndarray) -> np.ndarray:
    """What the feed shows: 0 before a symbol's first print, then its last print, rounded to two decimals."""
    rng = generator(market.seed, 'index prints', d)
    fresh = rng.random(value.shape) < listed.refresh[:, None]
    fresh[:, 0] = True
    last = np.maximum.accumulate(np.where(fresh, np.arange(value.shape[1]), 0), 1)
    value = np.round(np.take_along_axis(value, last, 1), 2)
    waits, share = zip(*LEAD, strict=True)
    wait = np.array(waits)[np.searchsorted(np.cumsum(share)[:-1], rng.random(len(value)))]
    wait[~np.isin(listed.kind, LATE_KINDS)] = 0
    for name, minutes in FIRST_PRINT.items():
        if name in listed.names:
            wait[listed.names.index(name)] = minutes
    value[np.arange(value.shape[1]) < wait[:, None]] = 0
    value[listed.kind == 'dead'] = 0
    return np.maximum(value, 0)


def arrange(rng: np.random.Generator, date: Date, names: list[str], value: np.ndarray) -> pa.Table:
    """Lays the blocks out as a real file does: alphabetical runs in any order, one symbol cut at the file's ends."""
    cuts = np.array_split(np.arange(len(names)), min(RUNS, len(names)))
    order = np.concatenate([cuts[i] for i in rng.permutation(len(cuts))])
    shift = int(rng.integers(1, MINUTES))
    first = np.datetime64(date, 'us') + np.timedelta64(OPEN, 'm')
    times = np.tile(first + np.arange(MINUTES) * np.timedelta64(1, 'm'), len(names))
    codes = np.repeat(order.astype(np.int32), MINUTES)
    columns = (pa.DictionaryArray.from_arrays(pa.array(np.roll(codes, shift)), pa.array(names)),)
    columns += (pa.array(np.roll(times, shift)), pa.array(np.roll(value[order].ravel(), shift)))
    return pa.table(columns, names=SCHEMA.names)


def day_table(market: Market, d: int, count: int) -> pa.Table:
    """The index values of session d."""
    listed, positions = _index_walk(market.origin, market.index_symbols, count)
    day = simulate_day(market.origin, d, count)
    value = hold(market, d, listed, levels(market, day, listed, positions, latent(market.origin, count).premium[d]))
    rng = generator(market.seed, 'index order', d)
    here = np.flatnonzero(~listed.visitor | (rng.random(len(listed.names)) < 0.5))
    return arrange(rng, day.date, [listed.names[i] for i in here], value[here])


def holiday_table(market: Market, date: Date, d: int, count: int) -> pa.Table:
    """The values of a weekday holiday after session d: the last ones, and crypto that moves about them."""
    listed, positions = _index_walk(market.origin, market.index_symbols, count)
    here = np.flatnonzero(np.isin(listed.kind, HOLIDAY_KINDS))
    close = positions.start[d] + positions.total[d, :, :3].sum(1)
    rng = generator(market.seed, 'index holiday', (date - datetime.date(1970, 1, 1)).days)
    moves = np.cumsum(rng.standard_normal((len(here), MINUTES)), 1) * 0.001 * (listed.kind[here] == 'crypto')[:, None]
    value = np.round(np.exp(close[here, None] + moves), 2)
    return arrange(rng, date, [listed.names[i] for i in here], value)


def day_paths(market: Market, out: Path, date: Date) -> list[Path]:
    """Where the values of a day are."""
    return [out / 'index_data' / f'{date:%Y}' / f'{date}.parquet']


def write_day(market: Market, out: Path, item: tuple[Date, int], count: int) -> int:
    """Writes the values of (date, session), on a holiday with the session before; gives the rows."""
    date, d = item
    session = latent(market.origin, count).dates[d] == date
    table = day_table(market, d, count) if session else holiday_table(market, date, d, count)
    with parquet(day_paths(market, out, date)[0], SCHEMA, rows=ROW_GROUP) as write:
        write(table)
    return len(table)
