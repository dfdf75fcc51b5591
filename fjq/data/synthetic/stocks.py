"""Stock trades as Polygon's flat files hold them, with their dirt, and the four columns that the TCN configs read.

Prints alternate between bid and ask around the efficient price and are rounded to the cent. Some come late with the
price of earlier (condition 33, or 13 outside the session), some are average prices (2), some were corrected or
cancelled (correction 1, 8 or 12) and lie off the market: a careful reader drops them. The session opens with an opening
print (17) and ends with a closing print (8). Rows are grouped by ticker, in the order of the SIP's clock.

What a day tells of the slow variance factor beyond its own returns: more prints, of smaller size, at wider spreads.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fjq.data.calendar import Date, pre_open_ns
from fjq.data.clock import MINUTE
from fjq.data.synthetic.assets import Assets, stock_walk, stocks
from fjq.data.synthetic.draws import generator
from fjq.data.synthetic.files import as_text, lines, parquet, trade_paths
from fjq.data.synthetic.market import Market
from fjq.data.synthetic.minutes import Day, asset_paths, simulate_day
from fjq.data.synthetic.ticks import Ticks, fill, tick_counts
from fjq.data.synthetic.volatility import latent

INTEGERS = ('correction', 'exchange', 'participant_timestamp', 'sequence_number', 'sip_timestamp', 'tape')
INTEGERS += ('trf_id', 'trf_timestamp')
COLUMNS = ('ticker', 'conditions', 'correction', 'exchange', 'id', 'participant_timestamp', 'price')
COLUMNS += ('sequence_number', 'sip_timestamp', 'size', 'tape', 'trf_id', 'trf_timestamp')
TYPES = dict.fromkeys(INTEGERS, pa.int64()) | dict(price=pa.float64(), size=pa.float64())
SCHEMA = pa.schema([(name, TYPES.get(name, pa.string())) for name in COLUMNS])
SEED_SCHEMA = pa.schema([SCHEMA.field(name) for name in ('ticker', 'price', 'size', 'sip_timestamp')])

BLOCK_TICKS, BLOCK_ASSETS = 250_000, 64  # mean prints and stocks that are held at a time, one row group
LATE, AVERAGE, CORRECTED = 1 / 250, 1 / 1000, 1 / 3000  # shares of the prints
LATE_ROWS = 300  # mean rows by which a late print is late
# Condition texts: 16 from the bits (outside the session, odd lot, sweep, trade-through exempt), then the special ones.
BITS = ('12', '37', '14', '41')
CONDITIONS = [','.join(code for i, code in enumerate(BITS) if row >> i & 1) for row in range(16)]
CONDITIONS += ['33', '13', '2', '17,41', '8,9,41']
LATE_CODE, LATE_OUTSIDE_CODE, AVERAGE_CODE, OPENING_CODE, CLOSING_CODE = range(16, 21)
TRF, NYSE = 4, 10  # FINRA's trade reporting facilities, and where auctions are held here
# Venue by a random byte: TRF, Nasdaq, Arca, NYSE, EDGX, BZX, MEMX, IEX, BYX, EDGA, PHLX.
VENUES = np.repeat([TRF, 12, 11, NYSE, 8, 19, 21, 15, 18, 7, 17], [100, 44, 28, 24, 18, 16, 8, 6, 5, 4, 3])
CORRECTIONS = np.array([1, 8, 12], np.int8)  # later corrected, later cancelled, the correction itself


def mean_prints(market: Market) -> np.ndarray:
    """[K] mean prints a session of each stock: SPY's own figure, the others' by rank as Zipf has it."""
    weight = np.arange(1.0, market.stocks + 1) ** -0.9
    mean = market.stock_ticks * weight / max(weight[1:].sum(), weight[-1])
    mean[0] = market.spy_ticks
    return mean


def blocks(market: Market) -> list[np.ndarray]:
    """The stocks in alphabetical order, cut so that the mean prints of a block are bounded. SPY is always alone."""
    names, mean = stocks(market.origin, market.stocks).names, mean_prints(market)
    cuts: list[list[int]] = []
    for k in sorted(range(market.stocks), key=names.__getitem__):
        full = not cuts or len(cuts[-1]) == BLOCK_ASSETS or mean[cuts[-1]].sum() + mean[k] > BLOCK_TICKS
        if full or k == 0 or cuts[-1] == [0]:
            cuts.append([])
        cuts[-1].append(k)
    return [np.array(cut) for cut in cuts]


def print_counts(market: Market, day: Day, block: np.ndarray, count: int) -> tuple[np.random.Generator, np.ndarray]:
    """The prints a minute [K, M] of a block, and the generator that goes on with everything else of it."""
    rng = generator(market.seed, 'prints', day.index, int(block[0]))
    activity = np.exp(latent(market.origin, count).activity[day.index])
    return rng, tick_counts(rng, day, mean_prints(market)[block] * activity)


def day_tables(market: Market, d: int, count: int) -> Iterator[pa.Table]:
    """The prints of session d: one table a block of stocks, its columns those of SCHEMA."""
    assets, walk = stock_walk(market.origin, market.stocks, count)
    day = simulate_day(market.origin, d, count)
    for block in blocks(market):
        rng, counts = print_counts(market, day, block, count)
        some = assets.take(block)
        ticks = fill(rng, counts, asset_paths(market.origin, day, some, walk.take(block)))
        if len(ticks.price):
            yield _dress(rng, day, some, ticks)


def _dress(rng: np.random.Generator, day: Day, assets: Assets, ticks: Ticks) -> pa.Table:
    """Turns ticks into prints: sides, rounding, sizes, venues, clocks and conditions, then auctions and faults."""
    n = len(ticks.price)
    byte = rng.integers(0, 256, (4, n), np.uint8)  # a random byte of each print for each kind of choice
    inside = (ticks.minute >= day.session.start) & (ticks.minute < day.session.stop)

    width = np.where(assets.own > 0, 2e-4, 1e-5) * np.exp(0.3 * (day.slow[0] + day.fast[0]))
    half = 0.5 * np.maximum(0.01, assets.price * width)
    side = np.where(byte[0] & 1, 1.0, -1.0) * (byte[0] >= 20)  # 8 % trade at the midpoint
    price = np.maximum(np.rint((ticks.price + side * half[ticks.asset]) * 100), 1) / 100

    mean_lot = np.exp(3.6 - 0.15 * day.slow[0]) * (assets.price / 50) ** -0.25
    size = mean_lot[ticks.asset] * np.exp(np.float32(1.3) * rng.standard_normal(n, np.float32))
    size = np.where(byte[1] < 90, np.ceil(size / 100) * 100, np.ceil(size))
    size[byte[1] == 255] /= 1e4  # parts of a share

    venue = VENUES[byte[2]]
    wait = rng.standard_exponential(n, np.float32)
    latency = np.where(venue == TRF, 2e6 + 8e6 * wait, 1.5e4 + 2e5 * wait).astype(np.int64)
    sip = pre_open_ns(day.date) + ticks.minute * np.int64(MINUTE)
    sip += (ticks.share * 6e10).astype(np.int64)
    code = ~inside + 2 * (size < 100) + 4 * (byte[3] < 70) + 8 * (byte[3] < 40)
    prints = dict(price=price, size=size, exchange=venue, sip_timestamp=sip, participant_timestamp=sip - latency)
    prints |= dict(code=code, correction=np.zeros(n, np.int64), trf_timestamp=sip - latency // 8)
    auctions = _add_auctions(prints, inside, ticks.asset)
    _add_faults(rng, prints, inside, ticks.asset, auctions)

    number = np.cumsum(1 + (byte[3] & 7), dtype=np.int64) + 1000
    off_exchange = venue == TRF
    prints['trf_timestamp'] *= off_exchange
    columns = prints | dict(
        ticker=_labels(assets.names, ticks.asset),
        conditions=_labels(CONDITIONS, prints['code']),
        id=as_text(pa.array(number + 52_983_000_000_000)),
        sequence_number=number,
        tape=(1 + assets.key % 3)[ticks.asset],
        trf_id=(201 + (byte[0] & 1)) * off_exchange,
    )
    return pa.table({name: columns[name] for name in COLUMNS})


def _add_auctions(prints: dict[str, np.ndarray], inside: np.ndarray, asset: np.ndarray) -> np.ndarray:
    """Makes the first and the last print of each stock's session large ones of its exchange; gives their rows."""
    rows = np.flatnonzero(inside)
    first = rows[np.diff(asset[rows], prepend=-1) != 0]
    last = rows[np.diff(asset[rows], append=-1) != 0]
    for at, code, times in ((first, OPENING_CODE, 50), (last, CLOSING_CODE, 200)):
        prints['code'][at], prints['exchange'][at] = code, NYSE
        prints['size'][at] = np.ceil(prints['size'][at]) * times
    return np.concatenate([first, last])


def _add_faults(
    rng: np.random.Generator, prints: dict[str, np.ndarray], inside: np.ndarray, asset: np.ndarray, spared: np.ndarray
) -> None:
    """Makes some prints late, average prices, or corrected."""
    price, code, n = prints['price'], prints['code'], len(asset)
    plain = np.ones(n, bool)
    plain[spared] = False
    late, average, wrong = (
        np.flatnonzero((rng.random(n, np.float32) < share) & plain) for share in (LATE, AVERAGE, CORRECTED)
    )
    group = np.flatnonzero(np.diff(asset, prepend=-1))
    oldest = group[np.searchsorted(group, late, 'right') - 1]
    source = np.maximum(late - rng.geometric(1 / LATE_ROWS, len(late)), oldest)
    price[late], code[late] = price[source], np.where(inside[late], LATE_CODE, LATE_OUTSIDE_CODE)
    prints['participant_timestamp'][late] = prints['participant_timestamp'][source]
    code[average] = AVERAGE_CODE
    price[average] = np.rint(price[average] * np.exp(0.004 * rng.standard_normal(len(average))) * 1e4) / 1e4
    prints['correction'][wrong] = CORRECTIONS[rng.integers(0, 3, len(wrong))]
    price[wrong] = np.rint(price[wrong] * np.exp(0.03 * rng.standard_normal(len(wrong))) * 100) / 100


def _labels(words: list[str], codes: np.ndarray) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.array(codes.astype(np.int32)), pa.array(words, pa.string()))


def day_paths(market: Market, out: Path, date: Date) -> list[Path]:
    """Where the layouts keep a day's stock trades."""
    return list(trade_paths(out, date, market.layouts, 'stocks_data', 'us_stocks_sip').values())


def write_day(market: Market, out: Path, item: tuple[Date, int], count: int) -> int:
    """Writes the stock trades of (date, session) in every layout that lacks them; gives the number of prints."""
    date, d = item
    files = zip(market.layouts, day_paths(market, out, date), strict=True)
    with contextlib.ExitStack() as stack:
        add = [stack.enter_context(_open(layout, path)) for layout, path in files if not path.exists()]
        rows = 0
        for table in day_tables(market, d, count):
            rows += len(table)
            for write in add:
                write(table)
    return rows


def _open(layout: str, path: Path) -> contextlib.AbstractContextManager:
    if layout == 'polygon_csv':
        return _csv(path)
    return parquet(path, SEED_SCHEMA if layout == 'seed' else SCHEMA)


@contextlib.contextmanager
def _csv(path: Path) -> Iterator[Callable[[pa.Table], None]]:
    """Gives a function that adds a table as Polygon writes it: several conditions quoted, sizes with six decimals."""
    with lines(path, ','.join(COLUMNS)) as write:

        def add(table: pa.Table) -> None:
            columns = {name: table[name] for name in table.column_names}
            codes = table['conditions'].cast(pa.string())
            quoted = pc.binary_join_element_wise('"', codes, '"', '')
            columns['conditions'] = pc.if_else(pc.match_substring(codes, ','), quoted, codes)
            columns['size'] = decimal_text(table['size'])
            write(list(columns.values()))

        yield add


def decimal_text(sizes: pa.ChunkedArray) -> pa.ChunkedArray:
    """Sizes as Polygon writes them since 2026: '10.000000'."""
    return sizes.cast(pa.decimal128(18, 6)).cast(pa.string())


def spy_paths(market: Market, out: Path, date: Date) -> list[Path]:
    """Where SPY's trades of a day are."""
    return [out / 'spy_ticks' / f'{date}.parquet']


def write_spy_day(market: Market, out: Path, item: tuple[Date, int], count: int) -> int:
    """Writes SPY's trades of (date, session), the rows that the stock file holds too; gives their number."""
    date, d = item
    alone = dataclasses.replace(market, stocks=1)
    rows = 0
    with parquet(spy_paths(market, out, date)[0], SCHEMA) as write:
        for table in day_tables(alone, d, count):
            rows += len(table)
            write(table)
    return rows
