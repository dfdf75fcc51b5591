"""Splits by time in which no label of an earlier part reaches into a later one.

A row dated t has a label made of (t, label_end]. Positions in time are datetime64, with gaps in calendar days, or
integers, with gaps in bars. A row may train a part that is followed by one that starts at s only if

    max(label_end, t + purge) + embargo < s

so labels that overlap the next part go whatever the settings; `purge` sets a least length for every label (for
inputs or labels that reach further than `label_end` says), and `embargo` is further distance. The rows that are
evaluated are all kept: their number does not depend on the gaps. (Lopez de Prado 2018, chapter 7.)
"""

import dataclasses
from typing import NamedTuple

import numpy as np

from fjq.errors import InputError


class Parts(NamedTuple):
    """One boolean mask [N] a part, disjoint; `purged` are the rows that a gap took from train and valid."""

    train: np.ndarray
    valid: np.ndarray
    test: np.ndarray
    purged: np.ndarray


class Fold(NamedTuple):
    """Row indices of one step of a walk forward, each in time order."""

    train: np.ndarray
    test: np.ndarray


@dataclasses.dataclass(kw_only=True)
class Split:
    """Train, then valid, then test."""

    train_end: str  # last moment of train: an ISO date (the whole day) or datetime
    valid_end: str  # last moment of valid; test is everything later
    purge_days: float  # calendar days: the least length that every label is taken to have
    embargo_days: float  # calendar days from the last label of a part to the start of the next

    def parts(self, time: np.ndarray, label_end: np.ndarray) -> Parts:
        """Masks over rows. time: datetime64 [N]; label_end: [N] or [N, H], NaT = no label, a date means its end.

        Raises:
          InputError: a date that is none, ends out of order, or a part without rows.
        """
        return split_at(time, label_end, self.starts(), purge=self.purge_days, embargo=self.embargo_days)

    def starts(self) -> tuple[np.datetime64, np.datetime64]:
        """The first moments of valid and of test."""
        return next_start(self.train_end, 'train_end'), next_start(self.valid_end, 'valid_end')


def split_at(time, label_end, starts, *, purge: float, embargo: float) -> Parts:
    """Masks over rows of the three parts, where valid starts at `starts[0]` and test at `starts[1]`.

    Args:
      time: [N] datetime64 or integers.
      label_end: [N] or [N, H], of the kind of `time`; NaT = no label; a date means its end.
      starts: two positions, of the kind of `time`.
      purge, embargo: days or bars, 0 or more.

    Raises:
      InputError: starts out of order, or a part without rows.
    """
    time, last = _positions(time, label_end)
    if not time.size:
        raise InputError('there are no rows to split', column='split', remedy='give more data')
    limit = _limit(time, last, purge, embargo)
    valid_start, test_start = (_cast(s, time) for s in starts)
    if not valid_start < test_start:
        raise InputError(
            f'valid starts at {_show(valid_start)} and test at {_show(test_start)}',
            remedy='put train_end before valid_end',
        )
    in_train, in_test = time < valid_start, time >= test_start
    in_valid = ~in_train & ~in_test
    train, valid = in_train & (limit < valid_start), in_valid & (limit < test_start)
    parts = Parts(train, valid, in_test, (in_train & ~train) | (in_valid & ~valid))
    for name, rows, before in (('train', train, in_train), ('valid', valid, in_valid), ('test', in_test, in_test)):
        if not rows.any():
            first, last, *cuts = (_show(t) for t in (time.min(), time.max(), valid_start, test_start))
            span = f'the data run from {first} to {last}'
            lost = f', after {int(before.sum())} rows were purged' if before.any() else ''
            raise InputError(
                f'the {name} part has no rows{lost}: it was cut at {cuts[0]} and {cuts[1]}, {span}',
                column='split',
                remedy='move train_end and valid_end, or give more data',
            )
    return parts


def walk_forward(
    time,
    label_end,
    *,
    folds: int,
    purge: float,
    embargo: float,
    min_train: int,
    window: float | None = None,
) -> list[Fold]:
    """Consecutive test blocks, each with the rows that may train before it.

    The tests have nearly the same number of distinct times, follow one another without a gap, and reach to the
    end; rows of one time are never separated.

    Args:
      time: [N] datetime64 or integers, in any order.
      label_end: [N] or [N, H], of the kind of `time`; NaT = no label; a date means its end.
      purge, embargo: days or bars, 0 or more.
      min_train: rows that every fold has to train on; the first test starts as soon as there are so many.
      window: train only on rows this close before the test (days or bars); None = on all that came before.

    Raises:
      InputError: too few rows for `folds` and `min_train`.
    """
    time, last = _positions(time, label_end)
    limit = _limit(time, last, purge, embargo)
    if folds < 1 or min_train < 1:
        raise InputError(f'{folds} folds with at least {min_train} rows to train on', remedy='both start at 1')
    times = np.unique(time)
    if min_train <= len(limit):
        times = times[times > np.sort(limit)[min_train - 1]]
    if min_train > len(limit) or len(times) < folds:
        raise InputError(
            f'{len(limit)} rows are too few for {folds} folds after {min_train} rows to train on',
            remedy='ask for fewer folds or a smaller min_train, or give more data',
        )
    order = np.argsort(time, kind='stable')
    out = []
    for block in np.array_split(times, folds):
        start, end = block[0], block[-1]
        train = limit < start
        if window is not None:
            train &= time >= start - _gap(window, time, 'window')
        if train.sum() < min_train:
            raise InputError(
                f'the fold of {_show(start)} has {int(train.sum())} rows to train on, fewer than {min_train}',
                remedy='widen the window or lower min_train',
            )
        out.append(Fold(order[train[order]], order[((time >= start) & (time <= end))[order]]))
    return out


def _positions(time, label_end) -> tuple[np.ndarray, np.ndarray]:
    """Times [N] and the last moment of each row's labels [N], both in one unit."""
    time, label_end = np.asarray(time), np.asarray(label_end)
    if time.dtype.kind not in 'Miu' or (label_end.dtype.kind == 'M') != (time.dtype.kind == 'M'):
        raise InputError(
            f'times of type {time.dtype} with label ends of type {label_end.dtype}',
            remedy='give both as datetime64 or both as integers',
        )
    if label_end.shape[:1] != time.shape or time.ndim != 1:
        raise InputError(f'times of shape {time.shape} with label ends of shape {label_end.shape}')
    if not time.size:
        return time, time
    label_end = label_end.reshape(len(time), -1)
    if time.dtype.kind == 'M':
        whole_days = np.datetime_data(label_end.dtype)[0] == 'D'  # a label that ends on a day knows all of that day
        time, label_end = time.astype('datetime64[ns]'), label_end.astype('datetime64[ns]')
        if np.isnat(time).any():
            raise InputError('a row has no time', column='time', row=int(np.isnat(time).argmax()))
        if whole_days:
            label_end = label_end + np.timedelta64(1, 'D') - np.timedelta64(1, 'ns')
        label_end = np.where(np.isnat(label_end), time[:, None], label_end)
    early = (label_end < time[:, None]).any(-1)
    if early.any():
        raise InputError('a label ends before its row', column='label_end', row=int(early.argmax()))
    return time, label_end.max(-1)


def _limit(time: np.ndarray, last: np.ndarray, purge: float, embargo: float) -> np.ndarray:
    """The moment that a later part must start after [N]."""
    return np.maximum(last, time + _gap(purge, time, 'purge')) + _gap(embargo, time, 'embargo')


def _gap(amount: float, time: np.ndarray, name: str):
    if not amount >= 0:
        raise InputError(f'a {name} of {amount}', column=name, remedy='give 0 or more')
    if time.dtype.kind == 'M':
        return np.timedelta64(round(amount * 86_400_000_000_000), 'ns')
    return int(np.ceil(amount))


def _show(moment) -> str:
    """A position without the zeros that its unit adds."""
    return str(np.datetime_as_string(moment, unit='auto') if np.asarray(moment).dtype.kind == 'M' else moment)


def _cast(position, time: np.ndarray):
    return np.asarray(position).astype(time.dtype)[()]


def next_start(end: str, field: str) -> np.datetime64:
    """The first moment after an ISO date (all of its day, month or year) or datetime.

    Raises:
      InputError: the text is no date.
    """
    try:
        moment = np.datetime64(end)
    except ValueError:
        moment = np.datetime64('NaT', 'ns')
    if np.isnat(moment):
        raise InputError(f'{end!r} is no date', column=field, remedy='write it as 2022-12-31')
    unit = np.datetime_data(moment.dtype)[0]
    if unit in ('Y', 'M', 'W', 'D'):  # to the end of the day, month or year
        return (moment + np.timedelta64(1, unit)).astype('datetime64[D]').astype('datetime64[ns]')
    return moment.astype('datetime64[ns]') + np.timedelta64(1, 'ns')
