"""Writes a simulated market: stream after stream, the days of a stream in parallel."""

import functools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fjq.atomic import sweep
from fjq.data.calendar import Date, closed_weekdays
from fjq.data.synthetic import bars, daily, index, manifest, options, stocks, table, truth
from fjq.data.synthetic.market import Market, check
from fjq.data.synthetic.volatility import latent
from fjq.errors import InputError
from fjq.log import say
from fjq.parallel import Parallel, run

CHUNK = 16  # sessions of one task where a session takes milliseconds


def simulate(out: Path, market: Market, parallel: Parallel | None = None) -> dict[str, Path]:
    """Writes the streams that `market.what` names; files that are there already, of the same settings, stay.

    Args:
      out: folder, made if need be.
      market: what to simulate.
      parallel: where the days run; in this process by default.

    Returns:
      stream -> its file, or the folder above its years, months and days. Trades in a second or third layout are under
      'stocks_polygon_csv' and the like; 'truth' is the folder of what only the simulator knows, where some was written.

    Raises:
      InputError: a field that cannot be, or a folder with files of other settings or of another origin.
    """
    out, parallel = Path(out), parallel or Parallel(workers=1)
    check(market)
    if out.exists() and not out.is_dir():
        raise InputError('this is a file', file=out, remedy='name a folder')
    sweep(out)
    count = daily.session_count(market)
    made: dict[str, Path] = {}
    for stream in market.what:
        write = _write_days if stream in DAY_FILES else _write_single
        made |= write(stream, market, out, parallel, count)
    return made


def _session_items(market: Market, count: int) -> list[tuple[Date, int]]:
    return [(date, d) for d, date in enumerate(latent(market.origin, count).dates[: market.days])]


def _index_items(market: Market, count: int) -> list[tuple[Date, int]]:
    """The sessions, and the weekday holidays between them with the session before."""
    sessions = _session_items(market, count)
    holidays = closed_weekdays(sessions[0][0], sessions[-1][0])
    return sorted(sessions + [(day, max(d for date, d in sessions if date < day)) for day in holidays])


# Streams of one file a day: what the days are, where their files lie, what writes them.
DAY_FILES: dict[str, tuple[Callable, Callable, Callable]] = dict(
    index=(_index_items, index.day_paths, index.write_day),
    stocks=(_session_items, stocks.day_paths, stocks.write_day),
    options=(_session_items, options.day_paths, options.write_day),
    spy=(_session_items, stocks.spy_paths, stocks.write_spy_day),
)


def _write_days(stream: str, market: Market, out: Path, parallel: Parallel, count: int) -> dict[str, Path]:
    items_of, paths_of, write = DAY_FILES[stream]
    items = items_of(market, count)
    wanted = [paths_of(market, out, date) for date, _ in items]
    manifest.claim(out, market, stream, [path for paths in wanted for path in paths])
    todo = [item for item, paths in zip(items, wanted, strict=True) if not all(path.exists() for path in paths)]
    start = time.monotonic()
    rows = sum(run(functools.partial(_call, write, market, out, count), todo, parallel, what=f'{stream}, days'))
    rate = rows / max(time.monotonic() - start, 1e-9)
    say(f'{stream}: {rows:,} rows, {rate:,.0f} rows/s; {len(items) - len(todo)} of {len(items)} days were there')
    folders = [out.joinpath(*(p for p in path.relative_to(out).parts[:-1] if not p.isdigit())) for path in wanted[0]]
    return dict(zip([stream, *(f'{stream}_{name}' for name in market.layouts[1:])], folders, strict=False))


def _call(write: Callable, market: Market, out: Path, count: int, item: tuple[Date, int]) -> int:
    return write(market, out, item, count)


def _write_rv(market: Market, out: Path, each: Callable, count: int) -> None:
    rv, ticks = zip(*each(daily.realised_day, count), strict=True)
    truth.write(market, out, count)
    daily.write_rv(market, out, latent(market.origin, count).dates, np.array(rv), np.array(ticks))


def _write_bars(market: Market, out: Path, each: Callable, count: int) -> None:
    bars.write(market, out, latent(market.origin, count).dates[: market.days], each(bars.bar_day, market.days))


def _write_daily(market: Market, out: Path, each: Callable, count: int) -> None:
    days = np.array(each(daily.bar_day, market.days))
    daily.write_bars(market, out, latent(market.origin, count).dates[: market.days], days)


def _write_vix(market: Market, out: Path, each: Callable, count: int) -> None:
    days = np.array(each(daily.vix_day, market.days))
    daily.write_vix(market, out, latent(market.origin, count).dates[: market.days], days)


def _write_table(market: Market, out: Path, each: Callable, count: int) -> None:
    table.write(market, out)


# Streams of a few files over all sessions: where they lie, what writes them.
SINGLE_FILES: dict[str, tuple[Callable, Callable]] = dict(
    rv=(daily.rv_paths, _write_rv),
    bars=(bars.paths, _write_bars),
    daily=(daily.bar_paths, _write_daily),
    vix=(daily.vix_paths, _write_vix),
    table=(table.paths, _write_table),
)


def _write_single(stream: str, market: Market, out: Path, parallel: Parallel, count: int) -> dict[str, Path]:
    paths_of, write = SINGLE_FILES[stream]
    files = paths_of(market, out)
    done = manifest.claim(out, market, stream, files)
    if done == market.days and all(path.exists() for path in files):
        say(f'{stream}: was there')
    else:
        write(market, out, functools.partial(_each, market, count, parallel, stream), count)
        manifest.finish(out, market, stream)
    made = {stream: files[0] if files[0].parent == out else files[0].parent}
    if out / 'truth' in [path.parent for path in files]:
        made['truth'] = out / 'truth'
    return made


def _each(market: Market, count: int, parallel: Parallel, stream: str, fn: Callable, sessions: int) -> list[Any]:
    """`[fn(market, d, count) for d in range(sessions)]`, a chunk of sessions a task."""
    chunks = [range(first, min(first + CHUNK, sessions)) for first in range(0, sessions, CHUNK)]
    results = run(functools.partial(_call_chunk, fn, market, count), chunks, parallel, what=f'{stream}, tasks')
    return [result for chunk in results for result in chunk]


def _call_chunk(fn: Callable, market: Market, count: int, chunk: Sequence[int]) -> list[Any]:
    return [fn(market, d, count) for d in chunk]
