"""What no file of a real market holds: the variance behind SPY's prices, and what was to be expected of it.

`truth/spy_variance.parquet` has the rows of the realised-volatility file; its variances are of log returns and never
annualised.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa

from fjq.data.calendar import PRE_OPEN, to_datetime64
from fjq.data.synthetic.files import parquet
from fjq.data.synthetic.market import Market
from fjq.data.synthetic.minutes import simulate_day
from fjq.data.synthetic.volatility import expected_variance, latent

VARIANCE_SCHEMA = pa.schema(
    dict(
        date=pa.timestamp('ms'),
        integrated_variance=pa.float64(),  # of the session's diffusion
        jump_variance=pa.float64(),  # squared jump of the session: with the above, the quadratic variation
        night_return=pa.float64(),  # log return from the close before to the open
        session_return=pa.float64(),
        slow=pa.float64(),  # factors at the open
        fast=pa.float64(),
        expected_variance_21=pa.float64(),  # at the close: mean a session, from close to close, of the next 21
        forward_variance_30d=pa.float64(),  # sum of the quadratic variation of the sessions in the next 30 days
    )
)
MINUTE_SCHEMA = pa.schema(dict(timestamp=pa.timestamp('us'), spot_variance=pa.float64()))
HORIZON = 21  # sessions
HORIZON_DAYS = 30  # calendar


def paths(out: Path) -> list[Path]:
    """Where the truth by the day and by the minute is."""
    return [out / 'truth' / 'spy_variance.parquet', out / 'truth' / 'spy_minutes.parquet']


def write(market: Market, out: Path, count: int) -> None:
    """Writes the daily truth of `count` sessions, and the variance of every session minute of those with files."""
    path, origin = latent(market.origin, count), market.origin
    dates = to_datetime64(path.dates)
    variation = path.variance + path.jump**2
    total = np.concatenate([[0.0], np.cumsum(variation)])
    last = np.searchsorted(dates, dates + np.timedelta64(HORIZON_DAYS, 'D'), 'right')
    whole = dates + np.timedelta64(HORIZON_DAYS, 'D') <= dates[-1]
    forward = np.where(whole, total[last] - total[1:], np.nan)
    gap, pre, session, post = path.returns.T
    night = gap + pre + np.concatenate([[0.0], post[:-1]])
    expected = expected_variance(origin, path.slow_close, path.fast_close, [HORIZON])[0]
    columns = [path.variance, path.jump**2, night, session, path.slow, path.fast, expected]
    columns = [dates.astype('datetime64[ms]'), *columns, pa.array(forward, from_pandas=True)]
    with parquet(paths(out)[0], VARIANCE_SCHEMA) as write_table:
        write_table(pa.table(columns, names=VARIANCE_SCHEMA.names))
    with parquet(paths(out)[1], MINUTE_SCHEMA) as write_table:
        for d in range(market.days):
            day = simulate_day(origin, d, count)
            spot = day.spot[day.session]
            first = np.datetime64(day.date, 'us')
            minutes = (PRE_OPEN + day.session.start + np.arange(len(spot))) * np.timedelta64(1, 'm')
            write_table(pa.table([pa.array(first + minutes), spot], names=MINUTE_SCHEMA.names))
