"""The symbols of the index stream: how many of each kind, what they follow, how often they print.

The mix is that of a real day of index values: three in ten rows hold 0 because their symbol never prints or has not
yet, half the minutes repeat the one before, and a third of the symbols, crypto and regions, also prints on holidays.
The first in the alphabet prints always and never moves: features that divide by a frame's first price keep the levels.
"""

from typing import NamedTuple

import numpy as np

from fjq.data.synthetic.assets import SECTORS, Assets
from fjq.data.synthetic.draws import generator
from fjq.data.synthetic.market import Origin

# Volatility indices: sessions of the horizon and factor over the market's own figure.
VOLATILITY = dict(VIX=(21, 1.0), VIX9D=(6, 1.0), VIX3M=(63, 1.0), VIX6M=(126, 1.0), VIX1Y=(252, 1.0))
VOLATILITY |= dict(VXN=(21, 1.22), RVX=(21, 1.28), VXD=(21, 0.93), VXMT=(126, 1.02), VIN=(15, 1.0), VIF=(25, 1.0))
SPECIAL = ('VVIX', 'COR1M', 'COR3M')
# Name, kind, beta, load, sector, own sd of a session, first level.
EQUITY = (
    ('SPX', 'equity', 1.0, 0.0, 5, 0.0, 4515.0), ('XSP', 'equity', 1.0, 0.0, 5, 0.0, 451.5),
    ('OEX', 'equity', 1.02, 0.1, 0, 0.0008, 2090.0), ('RUT', 'equity', 1.15, 0.0, 3, 0.006, 2030.0),
    ('DJX', 'equity', 0.95, 0.0, 5, 0.002, 351.0), ('BXM', 'slow', 0.6, 0.0, 5, 0.001, 1690.0),
    ('PUT', 'slow', 0.55, 0.0, 5, 0.001, 2280.0), ('TNX', 'rate', 0.25, 0.0, 3, 0.018, 17.8),
    ('TYX', 'rate', 0.2, 0.0, 3, 0.014, 21.1), ('FVX', 'rate', 0.25, 0.0, 3, 0.022, 16.0),
    ('IRX', 'rate', 0.0, 0.0, 3, 0.02, 2.2), ('OVX', 'slow', -1.2, 0.0, 4, 0.03, 45.0),
    ('GVZ', 'slow', -0.8, 0.0, 4, 0.025, 16.6),
)  # fmt: skip
CORE = ('AMBTX', 'SPX', 'VIX', 'BTC5RP', 'VIX9D', 'VIX3M', 'SKEW', 'VIX6M', 'VIX1Y', 'VVIX', 'SPRO01', 'SPEN01')
CORE += ('VXN', 'RVX', 'XSP', 'RPEN01', 'OEX', 'RUT', 'RPRO01', 'DJX', 'COR1M', 'TNX', 'SPBUF01', 'COR3M', 'BXM')
CORE += ('PUT', 'RLR', 'TYX', 'FVX', 'IRX', 'OVX', 'GVZ', 'RVOL', 'VXD', 'VXMT', 'VIN', 'VIF', 'SP0BF10A')
DEAD = ('SKEW', 'SPRO01', 'SPEN01', 'RPEN01', 'RPRO01', 'SPBUF01', 'RLR', 'RVOL', 'SP0BF10A')
# What fills the rest, in a cycle of 34 with a real day's shares. Regions print while New York sleeps, worlds do not.
CYCLE = ('region', 'dead', 'crypto', 'fund', 'world', 'dead', 'equity', 'region', 'crypto', 'slow', 'dead', 'world')
CYCLE += ('region', 'crypto', 'dead', 'slow', 'world', 'region', 'dead', 'crypto', 'equity', 'fund', 'dead', 'world')
CYCLE += ('region', 'dead', 'crypto', 'slow', 'world', 'dead', 'fixed', 'crypto', 'dead', 'region')
PREFIX = dict(region='MS', world='MW', dead='SPRE', crypto='BTC', equity='SI', slow='TW', fixed='AMC')
TRAITS = dict(  # beta, load, own sd, mean log level, sd of it
    region=(0.6, 0.4, 0.004, 7.0, 1.2), world=(0.7, 0.4, 0.003, 7.0, 1.2), crypto=(0.8, 0.0, 0.035, 2.5, 3.0),
    fund=(0.9, 0.5, 0.004, 3.7, 0.5), equity=(1.0, 1.0, 0.003, 6.0, 0.8), slow=(0.4, 0.1, 0.001, 5.5, 0.9),
    fixed=(0, 0, 0, 2.0, 2.0), dead=(0, 0, 0, 0, 0),
)  # fmt: skip
REFRESH = dict(volatility=0.9, special=0.8, equity=0.98, fund=0.9, region=0.75, world=0.75, crypto=0.98, slow=0.5)
REFRESH |= dict(rate=0.3)
LATE_KINDS = ('equity', 'fund', 'slow', 'world', 'volatility', 'special')  # print for the first time after 09:30
HOLIDAY_KINDS = ('crypto', 'region', 'fixed')  # print on a holiday
VISITOR_EVERY = 25  # one filler symbol in so many is absent on half the days


class Symbols(NamedTuple):
    """S index symbols in alphabetical order."""

    names: list[str]
    kind: np.ndarray  # [S] volatility, special, equity, rate, slow, region, crypto, fund, fixed or dead
    refresh: np.ndarray  # [S] probability of a new value in a minute
    visitor: np.ndarray  # [S] whether the symbol is absent on half the days
    assets: Assets  # all S; those of volatility, special and dead symbols are not used


def _filler_name(kind: str, i: int) -> str:
    letters = chr(65 + i // 676 % 26) + chr(65 + i // 26 % 26) + chr(65 + i % 26)
    return f'F{letters}IV' if kind == 'fund' else PREFIX[kind] + letters


def symbols(origin: Origin, count: int) -> Symbols:
    """The first `count` symbols of the mix, those that matter first."""
    known = {row[0]: row for row in EQUITY}
    rows = []
    for i in range(count):
        core = i < len(CORE)
        name = CORE[i] if core else _filler_name(CYCLE[i % len(CYCLE)], i)
        if name in VOLATILITY or name in SPECIAL or name in DEAD or (core and name in known):
            _, kind, beta, load, sector, own, level = known.get(name, (name, 'dead', 0, 0, 0, 0, 1.0))
            kind = 'volatility' if name in VOLATILITY else 'special' if name in SPECIAL else kind
        else:
            kind = dict(AMBTX='fixed', BTC5RP='crypto')[name] if core else CYCLE[i % len(CYCLE)]
            z = generator(origin.seed, 'index traits', part=i).standard_normal(3)
            beta, load, own, mean, sd = TRAITS[kind]
            beta, load, own = beta * np.exp(0.2 * z[0]), load * np.exp(0.2 * z[1]), own * np.exp(0.2 * z[1])
            sector, level = i % SECTORS, np.exp(mean + sd * z[2])
        visitor = not core and i % VISITOR_EVERY == 0
        rows.append((name, kind, visitor, i, beta, sector, load, own, level))
    names, kind, visitor, *traits = zip(*sorted(rows), strict=True)
    refresh = np.array([REFRESH.get(k, 0.0) for k in kind])
    assets = Assets('index', list(names), *(np.array(t) for t in traits))
    return Symbols(list(names), np.array(kind), refresh, np.array(visitor), assets)
