"""Stamps of any vendor as times: ISO, compact, American, European, seconds to nanoseconds since 1970."""

import re
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fjq.errors import InputError

ORDERS = ('auto', 'month', 'day')
FIRST_ROW = 'row 0 is the first below the header'
_ISO = (
    r'^(?P<stamp>\d{4}-\d{2}-\d{2}(?:[ T]\d{2}:\d{2}(?::\d{2}(?:\.\d{1,9})?)?)?)'
    r' ?(?P<offset>Z|UTC|[+-]\d{2}:?\d{2})?$'
)
_COMPACT = r'^(\d{4})(\d{2})(\d{2})$'
_COMPACT_TIME = r'^(\d{4})(\d{2})(\d{2})[ T]?(\d{2})(\d{2})(\d{2})$'
_SLASHED = r'^(?P<first>\d{1,2})/(?P<second>\d{1,2})/(?P<year>\d{4})(?P<rest>.*)$'
_UNITS = ((1e11, 's'), (1e14, 'ms'), (1e17, 'us'), (np.inf, 'ns'))  # of an integer stamp, by its size
_YEARS = 1678, 2261  # of times in nanoseconds
_MONTH = 28  # days of the shortest
_EVEN = 1.2  # the longest step over the shortest of candles of months or quarters: 31 / 28, 92 / 90


def read_times(column: pa.ChunkedArray, file, name: str, order: str = 'auto') -> np.ndarray:
    """Stamps as datetime64[ns] [N]. Midnights with an offset are dates and keep theirs; other offsets become UTC.

    Args:
      order: what stands first in dates such as 02/01/2024, the 'month' or the 'day'; 'auto' = as the column shows.

    Raises:
      InputError: a cell that is no time, or dates whose order nothing shows.
    """
    if order not in ORDERS:
        raise InputError(f'{order!r} is unknown', column='date_order', remedy='choose ' + ', '.join(ORDERS))
    if pa.types.is_timestamp(column.type) or pa.types.is_date(column.type):
        return _to_times(column, column, file, name)
    if pa.types.is_floating(column.type) or pa.types.is_integer(column.type):
        column = cast(column, pa.int64(), file, name)
    elif pa.types.is_temporal(column.type):  # a time of day, a duration
        raise InputError(f'its type is {column.type}, which is not a time', file=file, column=name, remedy='add dates')
    text = pc.utf8_trim_whitespace(cast(column, pa.string(), file, name))
    first = next((v for v in text.to_pylist() if v), '')
    if re.match(r'^\d{9,}$', first):
        stamps = pc.if_else(pc.fill_null(pc.match_substring_regex(text, r'^\d{9,19}$'), False), text, None)
        unit = next(u for size, u in _UNITS if abs(float(first)) < size)
        return _to_times(stamps.cast(pa.int64()).cast(pa.timestamp(unit)), text, file, name)
    if re.match(_COMPACT_TIME, first):
        text = pc.replace_substring_regex(text, _COMPACT_TIME, r'\1-\2-\3 \4:\5:\6')
    elif re.match(_COMPACT, first):
        text = pc.replace_substring_regex(text, _COMPACT, r'\1-\2-\3')
    elif re.match(_SLASHED, first):
        text = _to_iso(text, file, name, order)
    parts = pc.extract_regex(text, _ISO)
    stamp, offset = (pc.struct_field(parts, [n]) for n in ('stamp', 'offset'))
    _refuse_years(pc.utf8_slice_codeunits(stamp, 0, 4).cast(pa.int64()), column, file, name)
    wall = np.array([_moment(s) for s in stamp.to_pylist()], 'datetime64[ns]')
    _refuse_nat(wall, column, file, name)
    given = pc.fill_null(offset, '').to_numpy(zero_copy_only=False)
    if not (given != '').any() or (wall.astype('datetime64[D]') == wall).all():
        return wall
    minutes = {o: _minutes(o) for o in set(given.tolist())}
    return wall - np.array([minutes[o] for o in given.tolist()], 'timedelta64[m]')


def _to_iso(text: pa.ChunkedArray, file, name: str, order: str) -> pa.ChunkedArray:
    """Cells such as 2/1/2024 09:30 as 2024-02-01 09:30, or 2024-01-02 09:30; null where a cell is none."""
    parts = pc.extract_regex(text, _SLASHED)
    one, two, year, rest = (pc.struct_field(parts, [n]) for n in ('first', 'second', 'year', 'rest'))
    if order == 'auto':
        rows = np.flatnonzero(parts.is_valid().to_numpy())
        numbers = (pc.drop_null(p).cast(pa.int64()).to_numpy() for p in (one, two, year))
        hours = pc.count_distinct(rest).as_py() > 1

        def refuse(row: int, what: str) -> InputError:
            cell, remedy = text[int(rows[row])].as_py(), "set data.date_order to 'month' or 'day'"
            return InputError(f'{cell!r} {what}', file=file, column=name, row=int(rows[row]), remedy=remedy)

        order = find_order(*numbers, hours, refuse)
    month, day = (one, two) if order == 'month' else (two, one)
    date = pc.binary_join_element_wise(year, *(pc.utf8_lpad(p, 2, '0') for p in (month, day)), '-')
    return pc.binary_join_element_wise(date, rest, '')


def find_order(
    one: np.ndarray, two: np.ndarray, year: np.ndarray, hours: bool, refuse: Callable[[int, str], InputError]
) -> str:
    """What stands first in dates `one`/`two`/`year` [N], the 'month' or the 'day'.

    A number over 12 is a day. Where there is none, time runs one way, up or down, as one order reads it alone; or else
    the days of one lie closer, while the other's are no calendar of months: their steps are uneven, or the stamps are
    of `hours`, and leap over months between two days. The first days of twelve months, and twelve days, show nothing.

    Raises:
      InputError: made by `refuse(row, what)`, where dates contradict one another or nothing shows the order.
    """
    if (one > 12).any() or (two > 12).any():
        row = max(int((n > 12).argmax()) for n in (one, two))
        if (one > 12).any() and (two > 12).any():
            raise refuse(row, 'has its day where earlier dates have their month')
        return 'day' if (one > 12).any() else 'month'
    if (one == two).all():
        return 'month'
    days = {'month': _days(year, one, two), 'day': _days(year, two, one)}
    runs = [order for order, d in days.items() if (np.diff(d) >= 0).all() or (np.diff(d) <= 0).all()]
    if len(runs) == 1:
        return runs[0]
    steps = {order: np.diff(np.unique(d)) for order, d in days.items()}
    near, far = sorted(steps, key=lambda order: steps[order].max(initial=0))
    a, b = (steps[order].max(initial=0) for order in (near, far))
    if a < b and (b > _EVEN * steps[far].min() or (hours and a < _MONTH <= b)):
        return near
    raise refuse(int((one != two).argmax()), 'has its month or its day first, and no date of the column shows which')


def _days(year: np.ndarray, month: np.ndarray, day: np.ndarray) -> np.ndarray:
    """Days since 1970."""
    first = (12 * (year - 1970) + month - 1).astype('datetime64[M]').astype('datetime64[D]')
    return first.astype(np.int64) + day - 1


def _to_times(stamps: pa.ChunkedArray, cells, file, name: str) -> np.ndarray:
    """Dates or timestamps of any unit as datetime64[ns] [N]; `cells` are for messages."""
    _refuse_years(pc.year(stamps), cells, file, name)
    zone = getattr(stamps.type, 'tz', None)
    return _refuse_nat(stamps.cast(pa.timestamp('ns', zone)).to_numpy(), cells, file, name)


def _refuse_years(year: pa.ChunkedArray, cells, file, name: str) -> None:
    first, last = _YEARS
    bad = pc.fill_null(pc.or_(pc.less(year, first), pc.greater(year, last)), False).to_numpy()
    if bad.any():
        row = int(bad.argmax())
        raise InputError(
            f'{str(cells[row].as_py())!r} lies outside of {first} to {last}',
            file=file,
            column=name,
            row=row,
            remedy=f'correct it; {FIRST_ROW}',
        )


def _moment(stamp: str | None) -> np.datetime64:
    try:
        return np.datetime64(stamp, 'ns') if stamp else np.datetime64('NaT', 'ns')
    except ValueError:
        return np.datetime64('NaT', 'ns')


def _minutes(offset: str) -> int:
    if offset in ('', 'Z', 'UTC'):
        return 0
    hours, minutes = int(offset[1:3]), int(offset[-2:])
    return (60 * hours + minutes) * (-1 if offset[0] == '-' else 1)


def _refuse_nat(time: np.ndarray, cells, file, name: str) -> np.ndarray:
    bad = np.isnat(time)
    if bad.any():
        row = int(bad.argmax())
        raise InputError(
            f'{cells[row].as_py()!r} is no time',
            file=file,
            column=name,
            row=row,
            remedy=f'write it as 2022-12-31 16:00; {FIRST_ROW}',
        )
    return time.astype('datetime64[ns]')


def cast(column: pa.ChunkedArray, kind: pa.DataType, file, name: str) -> pa.ChunkedArray:
    """Raises InputError where the column is of no such kind."""
    try:
        return column.cast(kind)
    except pa.ArrowException as e:
        what = 'a time' if pa.types.is_temporal(kind) or pa.types.is_string(kind) else 'a number'
        raise InputError(
            f'its type is {column.type}, which is not {what}', file=file, column=name, remedy=f'store it as {what}'
        ) from e
