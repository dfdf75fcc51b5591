"""The same data with another future: for leak tests of any config, without its help.

Whatever files a data config names (after `locate`, where it has one), the rows of these later than a moment get
other numbers. Tables are parquet or csv with a column of times: a timestamp, a date, or integers, which are
nanoseconds since 1970 UTC.
"""

import dataclasses
import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

DAY_STARTS = np.timedelta64(4, 'h')  # UTC: a New York day of trading ends before it and starts after it


def with_other_future(data, cache: Path, folder: Path, time: np.datetime64, parallel):
    """The data config on changed copies of its files, which lie in `folder`; and how many cells were changed."""
    located = data.locate(cache, parallel) if hasattr(data, 'locate') else data
    changed, cells = {}, 0
    for field in dataclasses.fields(located):
        value = getattr(located, field.name)
        if isinstance(value, str) and value and Path(value).exists():
            changed[field.name] = str(folder / field.name / Path(value).name)
            cells += _copy(Path(value), Path(changed[field.name]), time)
    return dataclasses.replace(located, **changed), cells


def _copy(source: Path, target: Path, time: np.datetime64) -> int:
    if source.is_dir():
        target.mkdir(parents=True)
        return sum(_copy(path, target / path.name, time) for path in sorted(source.iterdir()))
    target.parent.mkdir(parents=True, exist_ok=True)
    if not source.name.endswith(('.parquet', '.csv', '.csv.gz')):
        shutil.copy(source, target)
        return 0
    csv = not source.name.endswith('.parquet')
    table = pacsv.read_csv(source) if csv else pq.read_table(source)
    moment = next((n for n in table.column_names if _is_time(n, table[n].type)), None)
    later = np.zeros(0, bool) if moment is None else _later(table[moment], time)
    if not later.any():
        os.link(source, target)
        return 0
    columns, cells = {}, 0
    for name in table.column_names:
        columns[name] = table[name]
        if name != moment and _is_number(table[name]):
            columns[name], count = _other(table[name], later)
            cells += count
    pacsv.write_csv(pa.table(columns), target) if csv else pq.write_table(pa.table(columns), target)
    return cells


def _is_time(name: str, kind: pa.DataType) -> bool:
    return pa.types.is_temporal(kind) or pa.types.is_integer(kind) and 'time' in name


def _is_number(column: pa.ChunkedArray) -> bool:
    """Numbers with a fraction, as such or as decimal text; integers are codes and counts."""
    if pa.types.is_string(column.type):
        return bool(pc.all(pc.match_substring_regex(column, r'^\d+\.\d+$')).as_py())
    return pa.types.is_floating(column.type)


def _later(column: pa.ChunkedArray, time: np.datetime64) -> np.ndarray:
    """Rows after a moment; a date, in the rows or as the moment, means its whole day."""
    whole_day = np.datetime_data(time.dtype)[0] == 'D'
    end = (time + np.timedelta64(1, 'D') if whole_day else time).astype('datetime64[ns]')
    if pa.types.is_integer(column.type):
        stamps = column.to_numpy().astype('datetime64[ns]')
        return stamps >= end + DAY_STARTS if whole_day else stamps > end
    stamps = column.cast(pa.timestamp('ns')).to_numpy()
    return stamps >= end if whole_day else stamps > end


def _other(column: pa.ChunkedArray, later: np.ndarray) -> tuple[pa.ChunkedArray, int]:
    """Every later number times something between 0.5 and 2; zeros and nulls stay."""
    values = column.cast(pa.float64()).to_numpy()
    factor = np.exp(np.random.Generator(np.random.Philox(11)).uniform(-0.7, 0.7, len(values)))
    changed = later & np.isfinite(values) & (values != 0)
    out = pa.array(np.where(changed, values * factor, values), from_pandas=True)
    return pa.chunked_array([out.cast(column.type)]), int(changed.sum())
