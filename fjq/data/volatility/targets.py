"""Forward realised volatility: what the TCN predicts, and from which days each label is made."""

import os
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fjq.data.source import column_names, read_columns
from fjq.errors import InputError

HORIZONS = (1, 5, 10, 30)
TRADING_SHARE = 252 / 365.25  # trading days in a calendar day
SHORT = 0.85  # of the usual count of rows; a 30-day window is short below 18 rows
DAYS = ('calendar', 'trading')
SHORT_WINDOWS = ('keep', 'drop', 'rescale')


class Targets(NamedTuple):
    """The labels of N days at H horizons.

    dates: datetime64[D] [N], ascending.
    daily_rv: float64 [N], realised volatility of the day, annualised.
    target: float64 [N, H], NaN where not valid.
    valid: bool [N, H].
    label_end: datetime64[D] [N, H], the last day that the label looks at, NaT where it looks at none.
    steps: float64 [N, H], days whose variance the label sums: 1 where it is annualised.
    short: bool [N, H], the window holds under 85 % of the usual rows.
    """

    dates: np.ndarray
    daily_rv: np.ndarray
    target: np.ndarray
    valid: np.ndarray
    label_end: np.ndarray
    steps: np.ndarray
    short: np.ndarray


def forward_rv(
    dates: np.ndarray,
    daily_rv: np.ndarray,
    horizon_days: int,
    *,
    days: str = 'calendar',
    min_rows: int | None = None,
    short_windows: str = 'keep',
    annualised: bool = False,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Volatility of the `horizon_days` after each date: sqrt of the sum of daily_rv^2 over its window.

    The window of t starts after t, so a label never holds its own day. Calendar windows hold the rows dated
    t < u <= t + horizon_days; trading windows hold the next `horizon_days` rows.

    Args:
      dates: datetime64[D] [N], strictly ascending.
      daily_rv: [N], annualised volatility of each day.
      days: what the horizon counts, 'calendar' or 'trading'.
      min_rows: a window with fewer rows has no label; None = a third of the horizon for calendar windows (10 rows of
        30 days), every row for trading windows.
      short_windows: what becomes of a window that has its `min_rows` but under 85 % of the usual rows (under 18 in 30
        calendar days), whose sum is too low: 'keep' it, 'drop' the label, 'rescale' its variance to the usual rows.
      annualised: divide the sum by the rows in the window, which gives an annualised volatility at every horizon.

    Returns:
      values: float64 [N], NaN = no label.
      n_rows: int64 [N], rows in the window.
      label_end: datetime64[D] [N], the last day of the window (trading: of its last row; NaT for an empty one).

    Raises:
      InputError: an unknown choice, or a horizon or min_rows below 1.
    """
    for field, value, choices in (('days', days, DAYS), ('short_windows', short_windows, SHORT_WINDOWS)):
        if value not in choices:
            raise InputError(f'unknown choice {value!r}', column=field, remedy='choose one of ' + ', '.join(choices))
    calendar = days == 'calendar'
    if min_rows is None:
        min_rows = -(-horizon_days // 3) if calendar else horizon_days
    if horizon_days < 1 or min_rows < 1:
        raise InputError(f'a horizon of {horizon_days} days with at least {min_rows} rows', remedy='both start at 1')
    dates = np.asarray(dates, 'datetime64[D]')
    squares = np.asarray(daily_rv, np.float64) ** 2
    start = np.arange(1, len(dates) + 1)
    if calendar:
        label_end = dates + np.timedelta64(horizon_days, 'D')
        end = np.searchsorted(dates, label_end, side='right')
    else:
        end = np.minimum(start + horizon_days, len(dates))
        label_end = np.where(end > start, dates[end - 1], np.datetime64('NaT', 'D'))
    n_rows = end - start
    # A running sum would be faster and not exact; the published labels are the sums of their own windows.
    variance = np.array([squares[a:b].sum() for a, b in zip(start, end, strict=True)], np.float64)
    labelled = n_rows >= min_rows
    if short_windows == 'drop':
        labelled &= ~is_short(n_rows, horizon_days, days)
    steps = count_steps(n_rows, horizon_days, days=days, short_windows=short_windows, annualised=annualised)
    variance *= steps / np.maximum(n_rows, 1)
    return np.where(labelled, np.sqrt(variance), np.nan), n_rows, label_end


def usual_rows(horizon_days: int, days: str) -> float:
    """Rows in a window where no day is missing."""
    return horizon_days * (TRADING_SHARE if days == 'calendar' else 1.0)


def is_short(n_rows: np.ndarray, horizon_days: int, days: str) -> np.ndarray:
    """Whether windows hold so few rows that their sums are too low."""
    return n_rows < SHORT * usual_rows(horizon_days, days)


def count_steps(
    n_rows: np.ndarray, horizon_days: int, *, days: str, short_windows: str, annualised: bool
) -> np.ndarray:
    """Days whose variance the label of each window sums, float64: its rows, unless `forward_rv` scaled the sum."""
    if annualised:
        return np.ones(n_rows.shape)
    scaled = is_short(n_rows, horizon_days, days) & (short_windows == 'rescale')
    return np.where(scaled, usual_rows(horizon_days, days), n_rows)


def read_targets(
    path: str | os.PathLike,
    horizons: tuple[int, ...] = HORIZONS,
    *,
    compute_labels: bool = False,
    days: str = 'calendar',
    min_rows: int | None = None,
    short_windows: str = 'keep',
    annualised: bool = False,
) -> Targets:
    """Reads a realised-volatility file with the columns `date` and `daily_rv`, and its labels.

    Where every option has its default the labels are those of the column `rv_{h}d_forward`. With `compute_labels`, and
    with any other option, they are computed from `daily_rv` by `forward_rv`, whose options these are. No other column
    is ever taken.

    Raises:
      InputError: a missing column, a null, a date that is there twice or out of order, a volatility that is not
        positive, or a horizon without a single label.
    """
    if not horizons or len(set(horizons)) < len(horizons):
        raise InputError(f'horizons {horizons}', remedy='give at least one, each once')
    options = {'days': days, 'min_rows': min_rows, 'short_windows': short_windows, 'annualised': annualised}
    plain = days == 'calendar' and min_rows is None and short_windows == 'keep' and not annualised
    published = {h: f'rv_{h}d_forward' for h in horizons} if plain and not compute_labels else {}
    there = column_names(path)
    for name in published.values():
        if name not in there:
            others = ', '.join(n for n in there if n.startswith('rv_') and n.endswith('_forward')) or 'none'
            raise InputError(
                f'no such column; the forward columns are: {others}',
                file=path,
                column=name,
                remedy='set --config.data.compute_labels=true to compute it from daily_rv, or make the file with '
                '--job=compute_rv',
            )
    table = read_columns(path, {'date': 'any', 'daily_rv': 'number', **dict.fromkeys(published.values(), 'number')})
    dates = _dates(table['date'], path)
    daily_rv = _positive(table['daily_rv'], path, 'daily_rv')
    parts = []
    for h in horizons:
        values, n_rows, label_end = forward_rv(dates, daily_rv, h, **options)
        if h in published:
            values = _positive(table[published[h]], path, published[h], nulls=True)
        if np.isnan(values).all():
            raise InputError(
                f'no day has a label {h} days ahead', file=path, remedy='give a longer file or a shorter horizon'
            )
        steps = count_steps(n_rows, h, days=days, short_windows=short_windows, annualised=annualised)
        parts.append((values, ~np.isnan(values), label_end, steps, is_short(n_rows, h, days)))
    return Targets(dates, daily_rv, *(np.stack(columns, axis=1) for columns in zip(*parts, strict=True)))


def _dates(column: pa.ChunkedArray, path) -> np.ndarray:
    _refuse_nulls(column, path, 'date')
    try:
        if pa.types.is_integer(column.type):  # arrow would take 20220201 for seconds
            raise pa.ArrowTypeError
        dates = column.cast(pa.timestamp('s'), safe=False).to_numpy().astype('datetime64[D]')
    except pa.ArrowException as e:
        raise InputError(
            f'the type {column.type} holds no dates', file=path, column='date', remedy='store it as a date or timestamp'
        ) from e
    step = np.diff(dates).astype(np.int64)
    if (step <= 0).any():
        row = int(np.argmax(step <= 0)) + 1
        fault = f'{dates[row]} is there twice' if step[row - 1] == 0 else f'{dates[row]} comes after {dates[row - 1]}'
        raise InputError(fault, file=path, column='date', row=row, remedy='sort the rows by date, one row a date')
    return dates


def _positive(column: pa.ChunkedArray, path, name: str, *, nulls: bool = False) -> np.ndarray:
    if not nulls:
        _refuse_nulls(column, path, name)
    values = column.to_numpy().astype(np.float64)
    bad = ~(np.isfinite(values) & (values > 0)) & ~pc.is_null(column).to_numpy()
    if bad.any():
        row = int(np.argmax(bad))
        raise InputError(
            f'{values[row]} is no volatility', file=path, column=name, row=row, remedy='it must be positive and finite'
        )
    return values


def _refuse_nulls(column: pa.ChunkedArray, path, name: str) -> None:
    if column.null_count:
        row = int(np.argmax(pc.is_null(column).to_numpy()))
        raise InputError('a missing value', file=path, column=name, row=row, remedy='fill or remove the row')
