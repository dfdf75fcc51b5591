"""Option trades as Polygon's flat files hold them, and the four columns that the TCN configs read.

Every contract is priced by Black and Scholes (1973) at the volatility that the latent factors imply for its expiry,
with a premium and a smile around it. Level and slope of the term structure therefore show the two variance factors,
which past returns show only with noise.
"""

import datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from fjq.data.calendar import Date, is_session, pre_open_ns
from fjq.data.clock import MINUTE
from fjq.data.synthetic.assets import Assets, session_variance, stock_walk
from fjq.data.synthetic.draws import generator
from fjq.data.synthetic.files import lines, parquet, trade_paths
from fjq.data.synthetic.market import Market, Origin
from fjq.data.synthetic.minutes import Day, Paths, asset_paths, print_clock, simulate_day
from fjq.data.synthetic.stocks import SEED_SCHEMA, decimal_text
from fjq.data.synthetic.volatility import NIGHT, YEAR, expected_variance, latent

COLUMNS = ('ticker', 'conditions', 'correction', 'exchange', 'price', 'sip_timestamp', 'size')
TYPES = dict(ticker=pa.string(), conditions=pa.string(), price=pa.float64(), size=pa.float64())
SCHEMA = pa.schema([(name, TYPES.get(name, pa.int64())) for name in COLUMNS])

ROW_GROUP = 2**18  # rows
WEEKS, MONTHS = 4, 3  # Friday expiries listed ahead, by the week and by the month
STRIKES = 21  # of each expiry
WIDTH = 2.5  # how far the outer strikes are from the money, in standard deviations of the expiry
RATE = 0.03  # annual
SKEW, CURVATURE = -0.10, 0.03  # of the smile, in standard deviations from the money
CONDITIONS = ('209', '219', '227', '232', '', '202')
LATE, LATE_CODE = 1 / 500, 5  # share of the trades that come late, with the price of the one before
VENUES = np.array([300, 301, 302, 303, 304, 307, 308, 309, 312, 313, 316, 318, 319, 320, 322, 323], np.int64)


class Contracts(NamedTuple):
    """C contracts of one day, in alphabetical order of their tickers."""

    tickers: list[str]
    root: np.ndarray  # [C] which underlying
    expiry: np.ndarray  # [C] which expiry
    days: np.ndarray  # [C] calendar days to it
    strike: np.ndarray  # [C]
    sign: np.ndarray  # [C] 1 for a call, -1 for a put
    weight: np.ndarray  # [C] share of the trades


def expiries(date: Date) -> list[Date]:
    """The next weekly Fridays and the third Fridays of the next months; Thursday where Friday is closed."""
    friday = date + datetime.timedelta(days=(4 - date.weekday()) % 7)
    fridays = [friday + datetime.timedelta(weeks=w) for w in range(5 * (MONTHS + 2))]
    chosen = fridays[:WEEKS] + [f for f in fridays if 15 <= f.day <= 21][:MONTHS]
    return sorted({f if is_session(f) else f - datetime.timedelta(days=1) for f in chosen} - {date})


def ticker(root: str, expiry: Date, sign: int, strike: float) -> str:
    """An OPRA ticker: root, yymmdd, C or P, and the strike in thousandths."""
    return f'O:{root}{expiry:%y%m%d}{"C" if sign > 0 else "P"}{round(strike * 1000):08d}'


def contracts(date: Date, assets: Assets, price: np.ndarray, sd: np.ndarray) -> Contracts:
    """What is listed on a day.

    Args:
      price: [R] of the underlyings before the open.
      sd: [R, E] of the log return of each up to each expiry.
    """
    rows = []
    for r, name in enumerate(assets.names):
        for e, expiry in enumerate(expiries(date)):
            steps = np.array([0.5, 1, 2.5, 5, 10, 25, 50, 100])
            step = steps[min(np.searchsorted(steps, 2 * WIDTH * sd[r, e] * price[r] / STRIKES), len(steps) - 1)]
            strikes = step * (round(price[r] / step) + np.arange(STRIKES) - STRIKES // 2)
            for strike in strikes[strikes > 0]:
                far = np.log(strike / price[r]) / sd[r, e]
                for sign in (1, -1):
                    # Traders prefer short expiries and contracts out of the money.
                    weight = np.exp(-0.5 * far**2) * (1.3 if sign * far > 0 else 0.7) / (1 + e) / (1 + r)
                    text = ticker(name, expiry, sign, strike)
                    rows.append((text, r, e, (expiry - date).days, strike, sign, weight))
    columns = list(zip(*sorted(rows), strict=True))
    weight = np.array(columns[6])
    return Contracts(list(columns[0]), *(np.array(c) for c in columns[1:6]), weight / weight.sum())


def black_scholes(sign, spot, strike, years, vol, rate: float = RATE) -> np.ndarray:
    """The price of European options: sign 1 for calls and -1 for puts, times in years, volatility annualised."""
    from scipy.special import ndtr

    sd = vol * np.sqrt(years)
    d1 = (np.log(spot / strike) + rate * years) / sd + sd / 2
    return sign * (spot * ndtr(sign * d1) - strike * np.exp(-rate * years) * ndtr(sign * (d1 - sd)))


def implied_by_minute(origin: Origin, day: Day, assets: Assets, premium: float, sessions: list[int]) -> np.ndarray:
    """[R, E, M + 1] annualised volatility at the money by the minute: underlyings [R], expiries in sessions [E]."""
    market = expected_variance(origin, day.slow, day.fast, sessions)
    # The names' own variance follows the market's, of which a session is the share without the nights.
    total = (1 + NIGHT) * session_variance(origin, assets, market / (1 + NIGHT))
    return np.sqrt(YEAR * np.moveaxis(total, -1, 0)) * np.exp(premium)


def day_table(market: Market, d: int, count: int) -> pa.Table:
    """The option trades of session d, grouped by contract, in order of time; its columns are those of SCHEMA."""
    origin = market.origin
    assets, walk = stock_walk(origin, market.option_roots, count)
    day, path = simulate_day(origin, d, count), latent(origin, count)
    paths = asset_paths(origin, day, assets, walk)
    rng = generator(market.seed, 'options', d)

    days = np.array([(e - day.date).days for e in expiries(day.date)])
    vol = implied_by_minute(origin, day, assets, path.premium[d], [max(round(n * YEAR / 365), 1) for n in days])
    listed = contracts(day.date, assets, np.exp(paths.start[:, 0]), vol[:, :, 0] * np.sqrt(days / 365))

    mean = market.option_trades * np.exp(path.activity[d]) * listed.weight
    n = rng.poisson(mean * rng.standard_gamma(1.0, len(mean)))
    row = np.repeat(np.arange(len(n)), n)
    minute, share = _times(rng, day, n)
    price, size = _trade(rng, day, listed, paths, vol, row, minute, share)
    sip = pre_open_ns(day.date) + minute * np.int64(MINUTE) + (share * 6e10).astype(np.int64)
    byte = rng.integers(0, 256, (2, len(row)), np.uint8)
    kind = np.repeat(np.arange(5, dtype=np.int32), [150, 60, 26, 12, 8])[byte[1]]
    late = np.flatnonzero((rng.random(len(row)) < LATE) & (np.diff(row, prepend=-1) == 0))
    price[late], kind[late] = price[late - 1], LATE_CODE
    columns = dict(
        ticker=pa.DictionaryArray.from_arrays(pa.array(row.astype(np.int32)), pa.array(listed.tickers)),
        conditions=pa.DictionaryArray.from_arrays(pa.array(kind), pa.array(CONDITIONS)),
        correction=np.zeros(len(row), np.int64),
        exchange=VENUES[byte[0] & 15],
        price=price,
        sip_timestamp=sip,
        size=size,
    )
    return pa.table(columns)


def _times(rng: np.random.Generator, day: Day, n: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Minute and share of the minute of each trade: sorted within a contract, inside the session."""
    clock = print_clock(day.date)[day.session]
    at = rng.random(int(n.sum()))
    group = np.repeat(np.arange(len(n)), n)
    at = at[np.lexsort((at, group))]
    gone = np.interp(at, np.concatenate([[0.0], np.cumsum(clock) / clock.sum()]), np.arange(len(clock) + 1.0))
    minute = np.minimum(gone.astype(np.int64), len(clock) - 1)
    return minute + day.session.start, np.minimum(gone - minute, np.nextafter(1.0, 0.0))


def _trade(rng, day: Day, listed: Contracts, paths: Paths, vol: np.ndarray, row, minute, share):
    """Price and size of each trade: [N] each."""
    root, expiry, strike = listed.root[row], listed.expiry[row], listed.strike[row]
    start, end = paths.start[root, minute], paths.end[root, minute]
    noise = np.sqrt(paths.variance[root, minute] * share * (1 - share)) * rng.standard_normal(len(row))
    spot = np.exp(start + (end - start) * share + noise)
    years = (listed.days[row] + (1 - (minute - day.session.start) / 390) * 0.25) / 365
    level = vol[root, expiry, minute]
    far = np.log(strike / spot) / (level * np.sqrt(years))
    smiled = level * np.clip(1 + SKEW * far + CURVATURE * far**2, 0.5, 3)
    fair = black_scholes(listed.sign[row], spot, strike, years, smiled)
    half = 0.5 * np.maximum(0.01, 0.01 * np.sqrt(fair * spot / 100))
    raw = fair + half * np.where(rng.random(len(row)) < 0.5, -1, 1)
    tick = np.where((root > 0) & (raw >= 3), 0.05, 0.01)
    price = np.rint(np.maximum(np.rint(raw / tick), 1) * tick * 100) / 100
    return price, np.ceil(np.exp(0.5 + 1.2 * rng.standard_normal(len(row)) - 0.1 * day.slow[0]))


def day_paths(market: Market, out: Path, date: Date) -> list[Path]:
    """Where the layouts keep a day's option trades."""
    return list(trade_paths(out, date, market.layouts, 'options_data', 'us_options_opra').values())


def write_day(market: Market, out: Path, item: tuple[Date, int], count: int) -> int:
    """Writes the option trades of (date, session) in every layout that lacks them; gives the number of trades."""
    date, d = item
    table = day_table(market, d, count)
    for layout, path in zip(market.layouts, day_paths(market, out, date), strict=True):
        if path.exists():
            continue
        if layout == 'polygon_csv':
            with lines(path, ','.join(COLUMNS)) as write:
                write([*table.columns[:-1], decimal_text(table['size'])])
        else:
            with parquet(path, SEED_SCHEMA if layout == 'seed' else SCHEMA, rows=ROW_GROUP) as write:
                write(table)
    return len(table)
