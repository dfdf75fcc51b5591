"""The most traded tickers of the days up to the train end: what a ticker filter may know without looking ahead."""

import dataclasses
import datetime
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fjq.data.source import iter_columns, list_days
from fjq.data.ticks import read_tickers
from fjq.errors import InputError
from fjq.log import say
from fjq.parallel import Parallel, run

WEIGHTS = ('shares', 'dollars')


@dataclasses.dataclass(kw_only=True)
class TopStocks:
    """What `--job=top_stocks` picks from the config's ticks."""

    top_n: int = 100  # tickers in the list
    by: str = 'shares'  # what is summed, 'shares' or 'dollars'
    out: str = ''  # the file that is written; '' = top_stocks.txt in the workdir


class Traded(NamedTuple):
    """One ticker: its shares (or dollars) over all days read, and the days on which it traded."""

    ticker: str
    total: float
    days: int


def top_stocks(
    root: str | os.PathLike,
    top_n: int,
    until: datetime.date,
    parallel: Parallel,
    *,
    by: str = 'shares',
    on_bad_file: str = 'stop',
) -> tuple[list[Traded], int]:
    """The `top_n` tickers with the largest sum of sizes, largest first; of equal sums the first by name.

    Only the columns ticker and size (and price for dollars) are read. Files of days after `until` are not opened: a
    list that knew them would hand the model the survivors.

    Args:
      root: folder of daily trade files.
      until: the last day of the train split.
      by: what is summed, 'shares' or 'dollars'.
      on_bad_file: 'stop', or 'skip' = say it and go on.

    Returns:
      the tickers, fewer than `top_n` where there are fewer; and how many files they come from.

    Raises:
      InputError: an unknown choice, no file up to `until`, a bad file, a null or a size that is not finite and >= 0.
    """
    for field, value, choices in (('by', by, WEIGHTS), ('on_bad_file', on_bad_file, ('stop', 'skip'))):
        if value not in choices:
            raise InputError(f'unknown choice {value!r}', column=field, remedy='choose one of ' + ', '.join(choices))
    if top_n < 1:
        raise InputError(f'the top {top_n} tickers', column='top_n', remedy='ask for at least one')
    days = list_days(root)
    files = [day.path for day in days if day.date <= until]
    if not files:
        raise InputError(
            f'no daily file up to the train end {until}; the first is of {days[0].date}',
            file=root,
            remedy='move the train end, or fetch earlier days',
        )
    sums = run(partial(_sum_file, by, on_bad_file), files, parallel, what='sum sizes')
    bad = [fault for fault in sums if isinstance(fault, str)]
    for fault in bad:
        say('left out:', fault)
    if len(bad) == len(files):
        raise InputError(f'all {len(files)} files are bad', file=root, remedy='see above')
    total: dict[str, float] = {}
    traded: dict[str, int] = {}
    for part in sums:  # in the order of the days: the same floating-point sums wherever the files were read
        if not isinstance(part, str):
            for ticker, amount in part.items():
                total[ticker] = total.get(ticker, 0.0) + amount
                traded[ticker] = traded.get(ticker, 0) + 1
    order = sorted(total, key=lambda ticker: (-total[ticker], ticker))
    return [Traded(t, total[t], traded[t]) for t in order[:top_n]], len(files) - len(bad)


def write_list(tickers: Sequence[str], path: str | os.PathLike) -> None:
    """Writes one ticker a line; the file is there whole or not at all."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + '.part')
    part.write_text(''.join(f'{ticker}\n' for ticker in tickers), encoding='utf-8')
    os.replace(part, path)


def read_list(path: str | os.PathLike) -> tuple[str, ...]:
    """The tickers of a file with one a line, in its order.

    Raises:
      InputError: the file is absent, empty, or has a ticker twice.
    """
    if not str(path):
        raise InputError('no file of tickers is named', column='tickers', remedy='write one with --job=top_stocks')
    return read_tickers(path)


def _sum_file(by: str, on_bad_file: str, path: Path) -> dict[str, float] | str:
    """The sum of each ticker of one day, or what is wrong with the file."""
    try:
        return _sum_sizes(by, path)
    except InputError as e:
        if on_bad_file == 'stop':
            raise
        return str(e)


def _sum_sizes(by: str, path: Path) -> dict[str, float]:
    columns = {'ticker': 'text', 'size': 'number'} | ({'price': 'number'} if by == 'dollars' else {})
    total: dict[str, float] = {}
    for block in iter_columns(path, columns):
        amount = np.ones(block.table.num_rows)
        for name in list(columns)[1:]:
            values = block.table[name].to_numpy()  # a null becomes NaN
            if (bad := ~((values >= 0) & (values < np.inf))).any():
                row = int(np.argmax(bad))
                raise InputError(
                    f'{values[row]} is no {name}',
                    file=path,
                    column=name,
                    row=block.rows()[row],
                    remedy='correct the row',
                )
            amount *= values
        at = 0
        for chunk in block.table['ticker'].chunks:
            if chunk.null_count:
                row = block.rows()[at + int(np.argmax(chunk.is_null().to_numpy(zero_copy_only=False)))]
                raise InputError('a missing ticker', file=path, column='ticker', row=row, remedy='correct the row')
            codes = chunk.indices.to_numpy()
            names = chunk.dictionary.to_pylist()
            sums = np.bincount(codes, amount[at : at + len(chunk)], minlength=len(names))
            for code in np.flatnonzero(np.bincount(codes, minlength=len(names))):
                total[names[code]] = total.get(names[code], 0.0) + float(sums[code])
            at += len(chunk)
    return total
