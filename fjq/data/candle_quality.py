"""What can be wrong with candles: found, named, counted; refused, repaired or dropped."""

import dataclasses
from typing import NamedTuple

import numpy as np

from fjq.data.candle_columns import PRICES
from fjq.errors import InputError

ACTIONS = ('refuse', 'repair', 'drop')
ROUNDING = 1e-6  # of a price: an open above its high by less is an artefact of adjusting, and clipped
RATIOS = (2, 3, 4, 5, 6, 7, 8, 10, 15, 20, 25, 30, 40, 50, 100)  # shares for one in a split, or one for so many
SPLIT_ERROR = 0.05  # log distance from a ratio that a split and the night's own move may leave
STATED_ERROR = 0.3  # the same where the file says that there was a split by this ratio
QUIET = 10.0  # a split jump is so many times the median move
WORDS = {
    'price': 'a price is zero, negative or absent',
    'high below low': 'the high is below the low',
    'outside': 'the open or close is outside of low and high',
    'duplicate': 'its time was there before',
    'order': 'it is older than the candle before it',
    'split': 'the price jumps by the ratio of a split',
    'gap': 'a gap in time comes before it',
}
REMEDY = 'correct the file, or set quality=repair or quality=drop'
REMEDIES = {
    'split': 'read adjusted prices, set quality=repair to adjust what came before, or splits=False if the move is real',
    'gap': 'give what is missing, raise max_gap_days, or set quality=repair to keep it',
}


@dataclasses.dataclass(kw_only=True)
class Quality:
    """What to do with faults, and what counts as one."""

    quality: str = 'refuse'  # 'refuse' = the first fault is an error, 'repair', or 'drop' the candle
    max_gap_days: float = 10.0  # calendar days between candles that count as a gap; 0 = any
    splits: bool = True  # jumps by the ratio of a split are faults


class Checked(NamedTuple):
    """Candles in order of time without faults, and how many of each were found."""

    time: np.ndarray  # datetime64[ns] [N]
    values: dict[str, np.ndarray]
    faults: dict[str, int]


def check(time: np.ndarray, values: dict[str, np.ndarray], row: np.ndarray, settings: Quality, file) -> Checked:
    """The candles of one asset without faults.

    Repairs use nothing that came later, but for a split: the candles before it are divided by its ratio, which changes
    no return among them but by rounding. `repair` too drops a candle without a close, and keeps the last of several at
    one time. A gap is counted and stays.

    Args:
      time: [N] in the order of the file; newest first is an order, not a fault.
      values: open, high, low, close and others [N].
      row: [N] the rows of the file, for messages.

    Raises:
      InputError: with `refuse`, the first fault; or no candle is left.
    """
    if settings.quality not in ACTIONS:
        raise InputError(f'{settings.quality!r} is unknown', column='quality', remedy='choose ' + ', '.join(ACTIONS))
    if len(time) > 1 and (np.diff(time) <= np.timedelta64(0, 'ns')).all():
        time, row, values = time[::-1], row[::-1], {n: v[::-1] for n, v in values.items()}
    faults: dict[str, int] = {}

    def found(name: str, bad: np.ndarray) -> bool:
        if not bad.any():
            return False
        faults[name] = int(bad.sum())
        if settings.quality == 'refuse':
            what, row_of = f'{WORDS[name]} ({faults[name]} in all)', int(row[bad.argmax()])
            raise InputError(what, file=file, row=row_of, remedy=REMEDIES.get(name, REMEDY))
        return True

    def keep(mask: np.ndarray) -> None:
        nonlocal time, row, values
        time, row, values = time[mask], row[mask], {n: v[mask] for n, v in values.items()}

    if found('order', np.r_[False, np.diff(time) < np.timedelta64(0, 'ns')]):
        order = np.argsort(time, kind='stable')
        time, row, values = time[order], row[order], {n: v[order] for n, v in values.items()}
    if found('duplicate', np.r_[False, np.diff(time) == np.timedelta64(0, 'ns')]):
        keep(np.r_[np.diff(time) > np.timedelta64(0, 'ns'), True])
    values = {n: np.array(v, np.float64) for n, v in values.items()}
    bad = {n: ~(np.isfinite(values[n]) & (values[n] > 0)) for n in PRICES}
    if found('price', np.any(list(bad.values()), 0)):
        keep(~bad['close'] if settings.quality == 'repair' else ~np.any(list(bad.values()), 0))
        _fill(values)
    crossed, outside, rounded = _disorder(values)
    if found('high below low', crossed) | found('outside', outside) and settings.quality == 'drop':
        keep(~(crossed | outside))
    if rounded.any():
        faults['rounding'] = int(rounded.sum())
    prices = [values[n] for n in PRICES]
    values |= {'high': np.maximum.reduce(prices), 'low': np.minimum.reduce(prices)}
    if settings.splits:
        ratio = find_splits(values['open'], values['close'], values.get('split'))
        if found('split', ratio != 1):
            if settings.quality == 'drop':
                keep(np.arange(len(time)) >= np.flatnonzero(ratio != 1)[-1])
            else:
                after = np.cumprod(ratio[::-1])[::-1]  # of the jumps from each candle on
                factor = np.r_[after[1:], 1.0]
                values |= {n: values[n] * factor for n in PRICES}
                if 'volume' in values:
                    values['volume'] = values['volume'] / factor
    if settings.max_gap_days > 0:
        found('gap', np.r_[False, np.diff(time) > np.timedelta64(round(settings.max_gap_days * 86_400e9), 'ns')])
    if not len(time):
        raise InputError('no candle is left', file=file, remedy='give a file with valid candles')
    return Checked(time, values, faults)


def find_splits(open_: np.ndarray, close: np.ndarray, stated: np.ndarray | None = None) -> np.ndarray:
    """[N] the factor by which a split changed the price between candles t - 1 and t; 1.0 where none did.

    A jump counts where it lies near the ratio of a split and is far beyond the median move; it is the move from close
    to open, which a crash within a session is not.

    Args:
      stated: [N] shares for one, as the file says; 0, 1 or NaN = none. Most files say so of prices that are adjusted
        already: without the jump there is nothing to do.
    """
    out = np.ones(len(close))
    if len(close) < 3:
        return out
    jump = np.log(open_[1:] / close[:-1])
    usual = np.median(np.abs(np.diff(np.log(close))))
    logs = np.log(np.r_[np.array(RATIOS, float), 1 / np.array(RATIOS, float)])
    nearest = np.abs(jump[:, None] - logs[None]).argmin(1)
    is_split = (np.abs(jump - logs[nearest]) < SPLIT_ERROR) & (np.abs(jump) > QUIET * usual)
    out[1:] = np.where(is_split, np.exp(logs[nearest]), 1.0)
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
