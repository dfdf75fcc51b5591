"""Files with a row a session: daily bars of stocks (Yahoo's classic columns), VIX (Cboe's), SPY's realised volatility.

The realised volatility comes from five-minute returns of SPY's session, rounded to cents, annualised: the scale of the
seed's file. It runs on after the last day with tick files until that day's forward window of 30 days is whole.
"""

import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa

from fjq.atomic import atomic
from fjq.data.calendar import Date, to_datetime64
from fjq.data.synthetic import truth
from fjq.data.synthetic.assets import stock_walk, stocks
from fjq.data.synthetic.draws import generator
from fjq.data.synthetic.extremes import extremes
from fjq.data.synthetic.files import parquet
from fjq.data.synthetic.index import MINUTES, SMILE_NOISE
from fjq.data.synthetic.market import Market
from fjq.data.synthetic.minutes import asset_paths, simulate_day
from fjq.data.synthetic.stocks import print_counts
from fjq.data.synthetic.volatility import YEAR, implied_vol, latent
from fjq.data.volatility.targets import forward_rv

RV_SCHEMA = pa.schema(
    dict(
        date=pa.timestamp('ms'),
        daily_rv=pa.float64(),
        n_ticks=pa.int64(),
        n_returns=pa.int64(),
        rv_30d_forward=pa.float64(),
    )
)
HORIZON_DAYS = 30  # calendar
RV_MINUTES = 5
SHARES_A_DAY = 2e7  # of a stock at 50 dollars


def session_count(market: Market) -> int:
    """Sessions to simulate: those with files, and the ones of the last forward window."""
    last = latent(market.origin, market.days).dates[-1]
    dates = latent(market.origin, market.days + HORIZON_DAYS).dates
    return next(i for i, date in enumerate(dates) if date > last + datetime.timedelta(days=HORIZON_DAYS))


def realised_day(market: Market, d: int, count: int) -> tuple[float, int]:
    """(annualised volatility of session d from five-minute returns, prints of SPY that day)."""
    day = simulate_day(market.origin, d, count)
    spy, walk = stock_walk(market.origin, 1, count)
    paths = asset_paths(market.origin, day, spy, walk)
    session = day.session
    points = np.append(paths.start[0, session], paths.end[0, session.stop - 1])[::RV_MINUTES]
    returns = np.diff(np.log(np.round(np.exp(points), 2)))
    _, counts = print_counts(market, day, np.array([0]), count)
    return float(np.sqrt(YEAR * np.sum(returns**2))), int(counts.sum())


def bar_day(market: Market, d: int, count: int) -> np.ndarray:
    """[K, 5] open, high, low, close and volume of the first `daily_symbols` stocks in session d."""
    assets, walk = stock_walk(market.origin, market.daily_symbols, count)
    day = simulate_day(market.origin, d, count)
    paths = asset_paths(market.origin, day, assets, walk)
    rng = generator(market.seed, 'daily bars', d)
    s = day.session
    highs, lows = extremes(rng, paths.start[:, s], paths.end[:, s], paths.variance[:, s])
    log = np.stack([paths.start[:, s.start], highs.max(1), lows.min(1), paths.end[:, s.stop - 1]], 1)
    mean = SHARES_A_DAY * (assets.price / 50) ** -0.5 * np.exp(latent(market.origin, count).activity[d])
    volume = np.round(mean * np.exp(0.2 * rng.standard_normal(len(mean))))
    return np.concatenate([np.round(np.exp(log), 2), volume[:, None]], 1)


def bar_paths(market: Market, out: Path) -> list[Path]:
    """Where the daily bars of each stock are."""
    return [out / 'daily' / f'{name}.csv' for name in stocks(market.origin, market.daily_symbols).names]


def write_bars(market: Market, out: Path, dates: list[Date], bars: np.ndarray) -> None:
    """One CSV a stock from bars [D, K, 5]; nothing is ever paid or split, so the adjusted close is the close."""
    for k, path in enumerate(bar_paths(market, out)):
        with atomic(path) as part, open(part, 'w', encoding='utf-8', newline='') as file:
            file.write('Date,Open,High,Low,Close,Adj Close,Volume\n')
            for date, (o, h, lo, c, v) in zip(dates, bars[:, k], strict=True):
                file.write(f'{date},{o:.2f},{h:.2f},{lo:.2f},{c:.2f},{c:.2f},{int(v)}\n')


def vix_day(market: Market, d: int, count: int) -> np.ndarray:
    """[4] open, high, low and close of VIX in session d, as the index stream would show it without its pauses."""
    path, day = latent(market.origin, count), simulate_day(market.origin, d, count)
    grid = np.minimum(np.arange(MINUTES) + day.session.start, day.session.stop)
    vol = implied_vol(market.origin, day.slow[grid], day.fast[grid], path.premium[d], [21])[0]
    noise = generator(market.seed, 'index noise', d).standard_normal(MINUTES)
    value = 100 * vol * np.exp(SMILE_NOISE * noise)
    return np.round([value[0], value.max(), value.min(), value[-1]], 2)


def vix_paths(market: Market, out: Path) -> list[Path]:
    """Where VIX by the day is."""
    return [out / 'vix_daily.csv']


def write_vix(market: Market, out: Path, dates: list[Date], values: np.ndarray) -> None:
    """VIX by the day from values [D, 4]."""
    with atomic(vix_paths(market, out)[0]) as part, open(part, 'w', encoding='utf-8', newline='') as file:
        file.write('DATE,OPEN,HIGH,LOW,CLOSE\n')
        for date, row in zip(dates, values, strict=True):
            file.write(','.join([str(date), *(f'{x:.6f}' for x in row)]) + '\n')


def rv_paths(market: Market, out: Path) -> list[Path]:
    """Where SPY's realised volatility and the truth behind it are."""
    return [out / 'spy_daily_rv.parquet', *truth.paths(out)]


def write_rv(market: Market, out: Path, dates: list[Date], rv: np.ndarray, ticks: np.ndarray) -> None:
    """The target file of the TCN: realised volatility by the day and over the next 30 calendar days."""
    days = to_datetime64(dates)
    forward, _, _ = forward_rv(days, rv, HORIZON_DAYS)
    columns = (days.astype('datetime64[ms]'), rv, ticks, np.maximum(ticks - 1, 0), pa.array(forward, from_pandas=True))
    with parquet(rv_paths(market, out)[0], RV_SCHEMA) as write:
        write(pa.table([pa.array(c) for c in columns], names=RV_SCHEMA.names))
