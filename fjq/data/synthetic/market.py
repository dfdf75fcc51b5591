"""What to simulate: a `Market` names the start, the seed, the streams and their sizes."""

import dataclasses
from typing import NamedTuple

from fjq.data.calendar import parse_date
from fjq.errors import InputError

STREAMS = ('index', 'stocks', 'options', 'spy', 'rv', 'bars', 'daily', 'vix', 'table')
LAYOUTS = ('seed', 'polygon_csv', 'polygon_parquet')


class Origin(NamedTuple):
    """What every path is drawn from; it can be a key of a cache."""

    start: str
    seed: int
    vol: float
    jumps_per_year: float
    half_life: float


@dataclasses.dataclass(kw_only=True)
class Market:
    """A simulated market. Its sizes are those of the scale 'small'; `scaled` gives the others.

    Day d of a seed and a start is the same whatever `days`, `what`, the layouts and the number of processes are.
    """

    start: str = '2022-02-01'  # the first session is on or after it
    days: int = 60  # sessions with files; the target file runs on for more than 30 calendar days
    seed: int = 0  # of every random stream
    what: tuple[str, ...] = ('index', 'rv')  # streams: index stocks options spy rv bars daily vix table
    layouts: tuple[str, ...] = ('seed',)  # of stock and option trades: seed polygon_csv polygon_parquet
    index_symbols: int = 60  # of index values
    stocks: int = 40  # SPY among them
    stock_ticks: int = 100_000  # mean prints a session of all stocks but SPY
    spy_ticks: int = 20_000  # mean prints a session of SPY
    option_roots: int = 5  # underlyings, SPY first
    option_trades: int = 50_000  # mean trades a session of all contracts
    daily_symbols: int = 10  # daily bar files
    table_rows: int = 2_000  # rows of the wide table
    vol: float = 0.16  # long-run annualised volatility of the market, close to close
    jumps_per_year: float = 6.0  # of the market factor, inside sessions
    half_life: float = 46.0  # of the slow variance factor, in sessions; shorter gives more to learn from in fewer days

    @property
    def origin(self) -> Origin:
        return Origin(self.start, self.seed, self.vol, self.jumps_per_year, self.half_life)


SCALES: dict[str, dict[str, int]] = {
    'tiny': dict(
        index_symbols=24,
        stocks=8,
        stock_ticks=2_000,
        spy_ticks=1_500,
        option_roots=2,
        option_trades=1_000,
        daily_symbols=4,
        table_rows=400,
    ),
    'small': {},
    'full': dict(
        index_symbols=888,
        stocks=1_000,
        stock_ticks=5_000_000,
        spy_ticks=500_000,
        option_roots=40,
        option_trades=1_000_000,
        daily_symbols=100,
        table_rows=8_990,
    ),
}


def scaled(scale: str, **fields) -> Market:
    """A market of a scale, 'tiny', 'small' or 'full', with any field set by name.

    Raises:
      InputError: unknown scale.
    """
    if scale not in SCALES:
        raise InputError(f'unknown scale {scale!r}', column='scale', remedy=f'choose from {", ".join(SCALES)}')
    return Market(**{**SCALES[scale], **fields})


def check(market: Market) -> None:
    """Raise InputError at the first field that cannot be simulated."""
    parse_date(market.start, 'start')
    for field, known in (('what', STREAMS), ('layouts', LAYOUTS)):
        unknown = [name for name in getattr(market, field) if name not in known]
        if unknown or not getattr(market, field):
            what = f'unknown name {unknown[0]!r}' if unknown else 'no name given'
            raise InputError(what, column=field, remedy=f'choose from {", ".join(known)}')
    bounds = dict(days=1, seed=0, index_symbols=2, stocks=1, stock_ticks=1, spy_ticks=1, option_roots=1)
    bounds |= dict(option_trades=1, daily_symbols=1, table_rows=60)
    for field, low in bounds.items():
        if getattr(market, field) < low:
            raise InputError(f'{getattr(market, field)} is below {low}', column=field, remedy=f'give at least {low}')
    for field in ('option_roots', 'daily_symbols'):
        if getattr(market, field) > market.stocks:
            what = f'{getattr(market, field)} is more than the {market.stocks} stocks'
            raise InputError(what, column=field, remedy='simulate more stocks or fewer of these')
    if not 0.01 <= market.vol <= 2:
        raise InputError(f'{market.vol} lies outside 0.01..2', column='vol', remedy='give an annualised volatility')
    if not 1 <= market.half_life <= 1000:
        raise InputError(f'{market.half_life} lies outside 1..1000', column='half_life', remedy='give it in sessions')
    if not 0 <= market.jumps_per_year <= 100:
        what = f'{market.jumps_per_year} lies outside 0..100'
        raise InputError(what, column='jumps_per_year', remedy='give a rate a year')
