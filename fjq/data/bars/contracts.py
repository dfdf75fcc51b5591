"""A continuous series of futures contracts: which one counts when, and what a roll does to prices.

The contract of a day is the one that traded most on the day before, never an earlier one again; days are those of the
exchange. Where that one ends within a day, so does its time. Where a file holds one contract at a time, as vendors'
continuous series do, a roll is where its id changes. No return ever decides.

At a roll every later price is divided by new close / old close of the last bar that both contracts have before it, so
returns are those of a holder who rolled there; prices before a roll keep every bit, whatever comes later. Where the
file has no such bar within a day of the old contract's last one, the new contract is chained at its first open: the
step between the contracts is nobody's return.
"""

import datetime
import itertools
from typing import NamedTuple

import numpy as np

from fjq.data.bars.series import PRICES
from fjq.data.clock import DAY, to_wall
from fjq.errors import InputError

SILENT = 12  # stamps of others after the last bar of a contract that show that it is over, not between two trades


class Quotes(NamedTuple):
    """Rows of one or more contracts: stamp (ns), contract (a number), row of the file [N]; values of the bar."""

    time: np.ndarray
    contract: np.ndarray
    row: np.ndarray
    values: dict[str, np.ndarray]

    def take(self, places: np.ndarray) -> 'Quotes':
        """The rows at `places`."""
        values = {name: column[places] for name, column in self.values.items()}
        return Quotes(self.time[places], self.contract[places], self.row[places], values)


class Joined(NamedTuple):
    """One bar a stamp: time, the number of rolls before it (`piece`) [N], and adjusted values."""

    time: np.ndarray
    piece: np.ndarray
    values: dict[str, np.ndarray]


class Roll(NamedTuple):
    """factor: what later prices are divided by; bridged: whether both contracts traded at one instant before."""

    time: int
    factor: float
    bridged: bool


def sort_contracts(quotes: Quotes, file, column: str) -> Quotes:
    """The rows by time.

    Raises:
      InputError: a contract's stamps do not ascend.
    """
    order = np.lexsort((np.arange(len(quotes.time)), quotes.contract))
    step, same = np.diff(quotes.time[order]), np.diff(quotes.contract[order]) == 0
    if (bad := same & (step <= 0)).any():
        row = quotes.row[order[int(bad.argmax()) + 1]]
        what = 'the stamp is not after that of the contract before it'
        raise InputError(what, file=file, column=column, row=row, remedy='keep each bar once, in order of time')
    return quotes.take(np.argsort(quotes.time, kind='stable'))


def join_contracts(quotes: Quotes, zone: datetime.tzinfo) -> tuple[Joined, list[Roll]]:
    """One continuous series of rows that are in order of time, of an exchange in `zone`."""
    if not quotes.contract.any():
        return Joined(quotes.time, np.zeros(len(quotes.time), np.int32), quotes.values), []
    front = quotes.take(_choose(quotes, zone))
    starts = np.flatnonzero(np.diff(front.contract)) + 1
    rolls, factor = [], 1.0
    divisor = np.ones(len(front.time))
    for i in starts:
        ratio, bridged = _ratio(quotes, front, i)
        factor *= ratio
        divisor[i:] = factor
        rolls.append(Roll(int(front.time[i]), ratio, bridged))
    piece = np.zeros(len(front.time), np.int32)
    piece[starts] = 1
    values = {name: v / divisor if name in PRICES else v for name, v in front.values.items()}
    return Joined(front.time, np.cumsum(piece, dtype=np.int32), values), rolls


def _choose(quotes: Quotes, zone: datetime.tzinfo) -> np.ndarray:
    """Places of the rows of the contract that counts: at most one a stamp."""
    time, contract, volume = quotes.time, quotes.contract, quotes.values['volume']
    if (np.diff(time) > 0).all():
        return np.arange(len(time))
    count = int(contract.max()) + 1
    traded = lambda rows: np.bincount(contract[rows], volume[rows], count)
    end, ahead = _find_ends(quotes), np.ones(count, bool)  # ahead: contracts that were not left yet
    day = np.maximum.accumulate(to_wall(time, zone) // DAY)  # a clock that is set back at midnight starts no new day
    starts = np.flatnonzero(np.diff(day, prepend=day[0] - 1)).tolist()
    before = traded(slice(0, int(np.searchsorted(time, time[0], side='right'))))  # of the first day: its first stamp
    chosen, now = np.empty(len(time), np.int32), int(before.argmax())
    for i, (first, last) in enumerate(itertools.pairwise([*starts, len(time)])):
        best = int(np.where(ahead, before, -1).argmax())
        if before[best] > before[now]:
            ahead[now] = i == 1  # what one stamp chose may come back
            now = best
        chosen[first:last] = now
        while (roll := max(end[now], first)) < last and (on := ahead & (end > roll)).any():
            ahead[now] = False
            seen = int(np.searchsorted(time, time[roll], side='right'))
            now = int(np.where(on, before + traded(slice(first, seen)), -1).argmax())
            chosen[roll:last] = now
        before = traded(slice(first, last))
    return np.flatnonzero(contract == chosen)


def _find_ends(quotes: Quotes) -> np.ndarray:
    """The first row after the last stamp of each contract [C]; the number of rows for one that may go on."""
    moments = np.unique(quotes.time)
    last = np.zeros(int(quotes.contract.max()) + 1, np.int64)
    last[quotes.contract] = quotes.time  # the latest row of each is written last
    over = len(moments) - np.searchsorted(moments, last, side='right') >= SILENT
    return np.where(over, np.searchsorted(quotes.time, last, side='right'), len(quotes.time))


def _ratio(quotes: Quotes, front: Quotes, i: int) -> tuple[float, bool]:
    """What new prices are divided by at a roll to row `i` of the front, and whether both contracts say so."""
    old, new, moment = front.contract[i - 1], front.contract[i], front.time[i]
    before = quotes.time < moment
    ours, theirs = (np.flatnonzero(before & (quotes.contract == c)) for c in (old, new))
    common, at_old, at_new = np.intersect1d(quotes.time[ours], quotes.time[theirs], return_indices=True)
    close = quotes.values['close']
    # Counted from the last bar of the old one, since the ratio has no time to change while nothing trades.
    if len(common) and front.time[i - 1] - common[-1] <= DAY:
        return float(close[theirs[at_new[-1]]] / close[ours[at_old[-1]]]), True
    return float(front.values['open'][i] / front.values['close'][i - 1]), False
