"""The most traded tickers of the days up to the train end: what a ticker filter may know without looking ahead."""

import dataclasses
import datetime
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fjq.atomic import write_atomic
from fjq.data.source import iter_columns, list_days
from fjq.data.ticks.files import OPTIONAL, REASONS, TickFiles, keep_trades
from fjq.data.windows import next_start
from fjq.errors import InputError
from fjq.log import say
from fjq.parallel import Parallel, run

WEIGHTS = ('shares', 'dollars')
NOTE = '# train_end='  # begins the first line of a list, before the last day that it knows


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
    files: TickFiles, top_n: int, until: datetime.date, parallel: Parallel, *, by: str = 'shares'
) -> tuple[list[Traded], int]:
    """The `top_n` tickers with the largest sum of sizes, largest first; of equal sums the first by name.

    Only the columns that this needs are read, and only trades counted that `read_day` keeps, at any hour. Files of days
    after `until` are not opened: a list that knew them would hand the model the survivors.

    Args:
      files: where the trades are and which count.
      until: the last day of the train split.
      by: what is summed, 'shares' or 'dollars'.

    Returns:
      the tickers, fewer than `top_n` where there are fewer; and how many files they come from.

    Raises:
      InputError: an unknown choice, no file up to `until`, a bad file, a null or a size that is not finite and >= 0.
    """
    for field, value, choices in (('by', by, WEIGHTS), ('on_bad_file', files.on_bad_file, ('stop', 'skip'))):
        if value not in choices:
            raise InputError(f'unknown choice {value!r}', column=field, remedy='choose one of ' + ', '.join(choices))
    if top_n < 1:
        raise InputError(f'the top {top_n} tickers', column='top_n', remedy='ask for at least one')
    days = list_days(files.root)
    paths = [day.path for day in days if day.date <= until]
    if not paths:
        raise InputError(
            f'no daily file up to the train end {until}; the first is of {days[0].date}',
            file=files.root,
            remedy='move the train end, or fetch earlier days',
        )
    sums = run(partial(_sum_file, by, files), paths, parallel, what='sum sizes')
    bad = [fault for fault in sums if isinstance(fault, str)]
    for fault in bad:
        say('left out:', fault)
    if len(bad) == len(paths):
        raise InputError(f'all {len(paths)} files are bad', file=files.root, remedy='see above')
    total: dict[str, float] = {}
    traded: dict[str, int] = {}
    for part in sums:  # in the order of the days: the same floating-point sums wherever the files were read
        if not isinstance(part, str):
            for ticker, amount in part.items():
                total[ticker] = total.get(ticker, 0.0) + amount
                traded[ticker] = traded.get(ticker, 0) + 1
    order = sorted(total, key=lambda ticker: (-total[ticker], ticker))
    return [Traded(t, total[t], traded[t]) for t in order[:top_n]], len(paths) - len(bad)


def write_list(tickers: Sequence[str], path: str | os.PathLike, until: datetime.date) -> None:
    """Writes one ticker a line after a note of the last day that it knows; whole or not at all."""
    write_atomic(path, ''.join(f'{line}\n' for line in (f'{NOTE}{until}', *tickers)).encode())


def check_list(path: str | os.PathLike, until: datetime.date) -> None:
    """Refuses a list that `write_list` made on days after `until`, the last of the train split: it would look ahead."""
    with open(path, encoding='utf-8') as f:
        head = f.readline().strip()
    if head.startswith(NOTE) and head.removeprefix(NOTE) > str(until):
        raise InputError(
            f'the list knows days up to {head.removeprefix(NOTE)}, the train split ends on {until}',
            file=path,
            column='tickers',
            remedy='make it again with --job=top_stocks and this --config.data.split.train_end',
        )


def last_whole_day(train_end: str) -> datetime.date:
    """The last day that lies in the train split whole: a moment within a day leaves that day out.

    Raises:
      InputError: the text is no date.
    """
    start = next_start(train_end, 'data.split.train_end')
    return (start.astype('datetime64[D]') - np.timedelta64(1, 'D')).item()


def _sum_file(by: str, files: TickFiles, path: Path) -> dict[str, float] | str:
    """The sum of each ticker of one day, or what is wrong with the file."""
    try:
        return _sum_sizes(by, files, path)
    except InputError as e:
        if files.on_bad_file == 'stop':
            raise
        return str(e)


def _sum_sizes(by: str, files: TickFiles, path: Path) -> dict[str, float]:
    amounts = ('size', 'price') if by == 'dollars' else ('size',)
    columns = {'ticker': 'text', **dict.fromkeys(amounts, 'number'), 'correction': 'integer', 'conditions': 'codes'}
    total: dict[str, float] = {}
    for whole in iter_columns(path, columns, optional=OPTIONAL):
        block = keep_trades(whole, files, path, dict.fromkeys(REASONS, 0))
        amount = np.ones(block.table.num_rows)
        for name in amounts:
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
