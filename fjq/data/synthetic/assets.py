"""Assets: what loads on the market, on a sector and on news of its own, and where each stands at every open.

The log return of an asset is beta * market + load * sector + its own part, with a few jumps of its own by day (news)
and by night (earnings). Sector and own variances move less than the market's, so correlations rise with volatility.
Asset k draws its numbers from a stream of its own: it is the same whatever other assets are simulated.
"""

import functools
from typing import NamedTuple

import numpy as np

from fjq.data.synthetic.draws import generator
from fjq.data.synthetic.market import Origin
from fjq.data.synthetic.volatility import GAP, PART_VARIANCE, SESSION, latent, mean_variance

SECTORS = 11
SECTOR_SD = 0.0055  # of a session's sector return at the mean variance
SECTOR_POWER, OWN_POWER = 0.25, 0.30  # sds grow with (V / mean V) to these powers
NEWS_RATE, NEWS_SD = 0.01, 2.0  # own jumps a session, size in own sds
EARNINGS_RATE, EARNINGS_SD = 1 / 63, 2.5  # own jumps a night, size in own sds

KNOWN = (
    ('SPY', 450.0, 5), ('AAPL', 170.0, 0), ('MSFT', 300.0, 0), ('AMZN', 150.0, 1), ('NVDA', 240.0, 0),
    ('GOOGL', 135.0, 2), ('META', 320.0, 2), ('TSLA', 310.0, 1), ('JPM', 150.0, 3), ('V', 230.0, 3),
    ('XOM', 78.0, 4), ('JNJ', 170.0, 6), ('WMT', 140.0, 7), ('PG', 160.0, 7), ('HD', 370.0, 1),
    ('BAC', 46.0, 3), ('UNH', 470.0, 6), ('DIS', 140.0, 2), ('AMD', 115.0, 0), ('INTC', 48.0, 0),
    ('F', 20.0, 1), ('KO', 61.0, 7), ('PFE', 53.0, 6), ('CVX', 132.0, 4), ('T', 25.0, 2),
)  # fmt: skip  # (ticker, first price, sector); the paths that follow are invented


class Assets(NamedTuple):
    """K assets; every array is [K]."""

    tag: str  # of their streams
    names: list[str]
    key: np.ndarray  # number of each in the streams
    beta: np.ndarray
    sector: np.ndarray
    load: np.ndarray
    own: np.ndarray  # sd of a session's own return at the mean variance
    price: np.ndarray  # before the first night

    def take(self, chosen: np.ndarray) -> 'Assets':
        """Some of the assets, in the order of `chosen`."""
        return Assets(self.tag, [self.names[k] for k in chosen], *(a[chosen] for a in self[2:]))


class Walk(NamedTuple):
    """Daily positions of K assets over D sessions."""

    start: np.ndarray  # [D, K] log price at 20:00 of the evening before
    total: np.ndarray  # [D, K, 4] log return of each part of the day, everything included
    own: np.ndarray  # [D, K, 4] the asset's own share of it, jumps included
    jump: np.ndarray  # [D, K] own log jump inside the session, mostly 0
    jump_at: np.ndarray  # [D, K] share of the session gone when it comes
    sd: np.ndarray  # [D, 4] sd of each part's own return without jumps, in units of `Assets.own`

    def take(self, chosen: np.ndarray) -> 'Walk':
        """The positions of some of the assets."""
        return Walk(*(a[:, chosen] for a in self[:-1]), self.sd)


class Sectors(NamedTuple):
    """Daily returns of the sector factors, orthogonal to the market."""

    returns: np.ndarray  # [D, SECTORS, 4]
    sd: np.ndarray  # [D, 4]


def stocks(origin: Origin, count: int) -> Assets:
    """SPY, which is the market factor itself, and the other stocks, the most traded first."""
    k = np.arange(count)
    z = np.array([generator(origin.seed, 'stock traits', part=i).standard_normal(4) for i in k])
    known = KNOWN[:count]
    # Invented tickers have four letters and start with X: none of the table above does.
    names = [row[0] for row in known]
    names += ['X' + ''.join(chr(65 + i // 26**j % 26) for j in (2, 1, 0)) for i in k[len(known) :]]
    price, sector = np.exp(3.8 + 0.8 * z[:, 3]), k % SECTORS
    price[: len(known)] = [row[1] for row in known]
    sector[: len(known)] = [row[2] for row in known]
    beta, load = np.clip(1 + 0.3 * z[:, 0], 0.2, 2), np.clip(1 + 0.3 * z[:, 2], 0, 2)
    own = 0.012 * np.exp(0.35 * z[:, 1])
    beta[0], load[0], own[0] = 1, 0, 0
    return Assets('stock', names, k, beta, sector, load, own, price)


def part_sd(origin: Origin, count: int, power: float) -> np.ndarray:
    """[D, 4] sds of the parts of a day, in units of a session's sd at the mean variance."""
    path, mean = latent(origin, count), mean_variance(origin)
    session = (path.variance / mean) ** power
    night = (np.exp(path.level + path.slow_close + path.fast_close) / mean) ** power
    before = np.concatenate([session[:1], night[:-1]])  # the night before belongs to the last close
    return np.sqrt(PART_VARIANCE) * np.stack([before, before, session, night], 1)


@functools.lru_cache(maxsize=4)
def sectors(origin: Origin, count: int) -> Sectors:
    """The sector factors of the first `count` sessions."""
    sd = SECTOR_SD * part_sd(origin, count, SECTOR_POWER)
    z = [generator(origin.seed, 'sector', part=s).standard_normal((count, 4)) for s in range(SECTORS)]
    return Sectors(np.stack(z, 1) * sd[:, None, :], sd)


def walk(origin: Origin, assets: Assets, count: int) -> Walk:
    """Where every asset stands in the first `count` sessions; a longer walk starts with the same rows."""
    size = (count, len(assets.key))
    z, u, sizes = np.empty((*size, 4)), np.empty((*size, 3)), np.empty((*size, 2))
    for i, key in enumerate(assets.key):
        z[:, i] = generator(origin.seed, f'{assets.tag} walk', part=key).standard_normal((count, 4))
        u[:, i] = generator(origin.seed, f'{assets.tag} events', part=key).random((count, 3))
        sizes[:, i] = generator(origin.seed, f'{assets.tag} sizes', part=key).standard_normal((count, 2))
    sd = part_sd(origin, count, OWN_POWER)
    own = z * sd[:, None, :] * assets.own[:, None]
    jump = np.where(u[..., 0] < NEWS_RATE, NEWS_SD * assets.own * sizes[..., 0], 0.0)
    own[..., SESSION] += jump
    own[..., GAP] += np.where(u[..., 1] < EARNINGS_RATE, EARNINGS_SD * assets.own * sizes[..., 1], 0.0)
    total = own + assets.beta[:, None] * latent(origin, count).returns[:, None, :]
    total += assets.load[:, None] * sectors(origin, count).returns[:, assets.sector]
    start = np.log(assets.price) + np.cumsum(total.sum(2), 0) - total.sum(2)
    return Walk(start, total, own, jump, u[..., 2], sd)


@functools.lru_cache(maxsize=4)
def stock_walk(origin: Origin, stock_count: int, count: int) -> tuple[Assets, Walk]:
    """The stocks and their walk, kept for the process that asks for day after day."""
    assets = stocks(origin, stock_count)
    return assets, walk(origin, assets, count)


def session_variance(origin: Origin, assets: Assets, market_variance: np.ndarray) -> np.ndarray:
    """Variance of the assets' sessions given the market's: [..., K] from [...], own jumps left out."""
    market_variance = np.asarray(market_variance)[..., None]
    ratio = market_variance / mean_variance(origin)
    sector = (assets.load * SECTOR_SD) ** 2 * ratio ** (2 * SECTOR_POWER)
    return assets.beta**2 * market_variance + sector + assets.own**2 * ratio ** (2 * OWN_POWER)
