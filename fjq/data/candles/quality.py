"""What can be wrong with candles: found, named, counted; refused, repaired or dropped."""

import dataclasses
from typing import Any, NamedTuple

import numpy as np

from fjq.data.candles.columns import PRICES
from fjq.data.stamps import FIRST_ROW
from fjq.errors import InputError

ACTIONS = ('refuse', 'repair', 'drop')
ROUNDING = 1e-6  # of a price: an open above its high by less is an artefact of adjusting, and clipped
WHOLE = (2, 3, 4, 5, 6, 7, 8, 10, 15, 20, 25, 30, 40, 50, 100)  # shares for one in a split, or one for so many
RATIOS = (1.5, *WHOLE, *(1 / n for n in WHOLE))  # three for two too; two for three is no habit, but a takeover's jump
SPLIT_ERROR = 0.05  # log distance from a ratio that a split and the night's own move may leave
STATED_ERROR = 0.3  # the same where the file says that there was a split by this ratio
QUIET = 10.0  # a split jump is so many times the median move before it
DAY = np.timedelta64(1, 'D')
WEEKEND = 3.0  # days from a Friday's candle to a Monday's
PAUSES = 4.0  # a gap is longer than so many usual pauses; the eleven days of China's new year are none
WORDS = {  # the column that a fault is in, and what it is; a price is named by its own column
    'price': ('', 'a price is zero, negative or absent'),
    'high below low': ('high', 'the high is below the low'),
    'outside': ('open or close', 'the open or close is outside of low and high'),
    'duplicate': ('time', 'its time was there before'),
    'order': ('time', 'it is older than the candle before it'),
    'split': ('open', 'the price jumps by the ratio of a split'),
    'gap': ('time', 'a gap in time comes before it'),
}
REMEDY = 'correct the file, or set quality=repair or quality=drop'
REMEDIES = {
    'split': 'read adjusted prices, set quality=repair to join both sides, or splits=False if the move is real',
    'gap': 'give what is missing, set max_gap_days beyond it, or set quality=repair to keep it',
}


@dataclasses.dataclass(kw_only=True)
class Quality:
    """What to do with faults, and what counts as one."""

    quality: str = 'refuse'  # 'refuse' = the first fault is an error, 'repair', or 'drop' the candle
    max_gap_days: float = 0.0  # a longer pause is a gap; 0 = four times the longest pause of a usual week
    splits: bool = True  # jumps by the ratio of a split are faults


class Checked(NamedTuple):
    """Candles in order of time without faults, and how many of each were found."""

    time: np.ndarray  # datetime64[ns] [N]
    values: dict[str, np.ndarray]
    faults: dict[str, int]
    unit: float  # times a price = the price of a share of today; not 1 where splits were repaired


def check(
    time: np.ndarray, values: dict[str, np.ndarray], row: np.ndarray, settings: Quality, file, name: str
) -> Checked:
    """The candles of one asset without faults.

    Repairs use nothing that came later. A split changes the candles from it on, which are told in the shares of the
    first candle: what came before keeps every bit. `repair` too drops a candle without a close, and keeps the last of
    several at one time. A gap is counted and stays.

    Args:
      time: [N] in the order of the file; newest first is an order, not a fault.
      values: open, high, low, close and others [N].
      row: [N] the rows of the file, for messages.
      name: the asset, for messages.

    Raises:
      InputError: with `refuse`, the first fault; or no candle is left.
    """
    if settings.quality not in ACTIONS:
        raise InputError(f'{settings.quality!r} is unknown', column='quality', remedy='choose ' + ', '.join(ACTIONS))
    if not settings.max_gap_days >= 0:
        remedy = 'give days, or 0 for what the candles themselves show'
        raise InputError(f'{settings.max_gap_days} are no days', column='max_gap_days', remedy=remedy)
    candles = _Inspected(
        time, {n: np.array(v, np.float64) for n, v in values.items()}, row, settings.quality, file, name
    )
    _order(candles)
    _mend_prices(candles)
    _mend_ranges(candles)
    unit = _join_splits(candles) if settings.splits else 1.0
    _count_gaps(candles, settings.max_gap_days)
    if not len(candles.time):
        raise InputError('no candle is left', file=file, column=name or None, remedy='give a file with valid candles')
    return Checked(candles.time, candles.values, candles.faults, unit)


@dataclasses.dataclass
class _Inspected:
    """Candles under inspection, in the order of time once `_order` has seen them."""

    time: np.ndarray
    values: dict[str, np.ndarray]
    row: np.ndarray
    quality: str
    file: Any
    name: str
    faults: dict[str, int] = dataclasses.field(default_factory=dict)

    def found(self, fault: str, bad: np.ndarray, column: str = '', more: str = '') -> bool:
        """Counts a fault where `bad` [N]; raises InputError where faults are refused, with `more` of the first."""
        if not bad.any():
            return False
        self.faults[fault] = count = int(bad.sum())
        if self.quality == 'refuse':
            where, words = WORDS[fault]
            raise InputError(
                f'{self.name}: {words}{more} ({count} in all; {FIRST_ROW})',
                file=self.file,
                column=column or where,
                row=int(self.row[bad.argmax()]),
                remedy=REMEDIES.get(fault, REMEDY),
            )
        return True

    def keep(self, rows: np.ndarray) -> None:
        """Only `rows`, a mask or an order of them [N]."""
        self.time, self.row = self.time[rows], self.row[rows]
        self.values = {n: v[rows] for n, v in self.values.items()}


def _order(candles: _Inspected) -> None:
    """By time, one candle a moment."""
    zero = np.timedelta64(0, 'ns')
    if len(candles.time) > 1 and (np.diff(candles.time) <= zero).all():
        candles.keep(np.arange(len(candles.time))[::-1])
    if candles.found('order', np.r_[False, np.diff(candles.time) < zero]):
        candles.keep(np.argsort(candles.time, kind='stable'))
    if candles.found('duplicate', np.r_[False, np.diff(candles.time) == zero]):
        candles.keep(np.r_[np.diff(candles.time) > zero, True])


def _mend_prices(candles: _Inspected) -> None:
    """What is no price is filled, or its candle goes: always where it is the close."""
    bad = np.stack([~(np.isfinite(candles.values[n]) & (candles.values[n] > 0)) for n in PRICES])
    first = PRICES[bad[:, bad.any(0).argmax()].argmax()] if bad.any() else ''
    if candles.found('price', bad.any(0), first):
        candles.keep(~bad[PRICES.index('close')] if candles.quality == 'repair' else ~bad.any(0))
        _fill(candles.values)


def _mend_ranges(candles: _Inspected) -> None:
    """High and low are made to hold open and close."""
    crossed, outside, rounded = _disorder(candles.values)
    if candles.found('high below low', crossed) | candles.found('outside', outside) and candles.quality == 'drop':
        candles.keep(~(crossed | outside))
    if rounded.any():
        candles.faults['rounding'] = int(rounded.sum())
    prices = [candles.values[n] for n in PRICES]
    candles.values |= {'high': np.maximum.reduce(prices), 'low': np.minimum.reduce(prices)}


def _join_splits(candles: _Inspected) -> float:
    """Candles from a split on are told in the shares before it, or those before it go. Returns the unit of prices."""
    ratio = find_splits(candles.values['open'], candles.values['close'], candles.values.get('split'))
    if not candles.found('split', ratio != 1):
        return 1.0
    if candles.quality == 'drop':
        candles.keep(np.arange(len(ratio)) >= np.flatnonzero(ratio != 1)[-1])
        return 1.0
    unit = np.cumprod(ratio)
    candles.values |= {n: candles.values[n] / unit for n in PRICES}
    if 'volume' in candles.values:
        candles.values['volume'] = candles.values['volume'] * unit
    return float(unit[-1])


def _count_gaps(candles: _Inspected, most: float) -> None:
    if len(candles.time) < 2:
        return
    days, most = np.diff(candles.time) / DAY, most or find_most_days(candles.time)
    long = days > most
    candles.found('gap', np.r_[False, long], more=f': {days[long.argmax()]:.3g} days, more than {most:.3g}')


def find_most_days(time: np.ndarray) -> float:
    """The longest time between candles [N > 1] that is no gap, in days, as they show it themselves.

    The longest pause of a usual week is the weekend of stocks, in days and hours alike; the bar of a coin, or the
    minutes without a trade of a thin one. Holidays join some of them. Weeks, months and quarters are told by the usual
    step. The median is of weeks, so neither gaps nor a session on a Saturday change it, and of one weekend more, as
    the weeks of a short file may all be unusual.
    """
    days = np.diff(time) / DAY
    week = (time[:-1] + 3 * DAY).astype('datetime64[W]')  # from Monday on: a week has its weekend
    weeks = np.unique(week, return_index=True)[1]
    longest = np.sort(np.r_[np.maximum.reduceat(days, weeks), WEEKEND])
    return PAUSES * max(float(longest[len(weeks) // 2]), float(np.median(days)))


def find_splits(open_: np.ndarray, close: np.ndarray, stated: np.ndarray | None = None) -> np.ndarray:
    """[N] the factor by which a split changed the price between candles t - 1 and t; 1.0 where none did.

    A jump counts where it lies near the ratio of a split and is far beyond the median of the moves before it; it is the
    move from close to open, which a crash within a session is not. Candles after it change nothing.

    Args:
      stated: [N] shares for one, as the file says; 0, 1 or NaN = none. Most files say so of prices that are adjusted
        already: without the jump there is nothing to do.
    """
    out = np.ones(len(close))
    if len(close) < 2:
        return out
    jump = np.log(open_[1:] / close[:-1])
    moves = np.abs(np.diff(np.log(close)))
    logs = -np.log(np.array(RATIOS))
    nearest = np.abs(jump[:, None] - logs[None]).argmin(1)
    for i in np.flatnonzero(np.abs(jump - logs[nearest]) < SPLIT_ERROR):
        if abs(jump[i]) > QUIET * (np.median(moves[:i]) if i else 0.0):
            out[i + 1] = 1 / RATIOS[nearest[i]]
    if stated is not None:
        said = np.where(np.isfinite(stated) & (stated > 0), stated, 1.0)[1:]
        jumped = (said != 1) & (np.abs(jump + np.log(said)) < np.minimum(STATED_ERROR, np.abs(jump)))
        out[1:] = np.where(jumped, 1 / said, out[1:])
    return out


def _disorder(values: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where high is below low, where open or close is outside of them, and where it is so by a rounding only [N]."""
    o, h, lo, c = (values[n] for n in PRICES)
    slack = 1 + ROUNDING
    crossed = h * slack < lo
    outside = ((np.maximum(o, c) > h * slack) | (np.minimum(o, c) * slack < lo)) & ~crossed
    rounded = ((np.maximum(o, c) > h) | (np.minimum(o, c) < lo) | (h < lo)) & ~crossed & ~outside
    return crossed, outside, rounded


def _fill(values: dict[str, np.ndarray]) -> None:
    """An absent open becomes the close before it (its own close in the first candle), an absent high or low the
    farther of open and close."""
    o, h, lo, c = (values[n] for n in PRICES)
    before = np.r_[c[:1], c[:-1]]
    is_price = lambda x: np.isfinite(x) & (x > 0)
    values['open'] = o = np.where(is_price(o), o, before)
    values['high'] = np.where(is_price(h), h, np.maximum(o, c))
    values['low'] = np.where(is_price(lo), lo, np.minimum(o, c))
