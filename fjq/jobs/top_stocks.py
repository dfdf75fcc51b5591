"""writes the most traded tickers of the days up to the train end, one a line, to top_stocks.txt."""

import datetime
from pathlib import Path

import numpy as np

from fjq.config import Experiment
from fjq.data.top_stocks import TopStocks, top_stocks, write_list
from fjq.errors import InputError
from fjq.log import say
from fjq.run import cache_folder

SHOWN = 10
UNITS = ((1e12, 'T'), (1e9, 'B'), (1e6, 'M'), (1e3, 'k'))


def run(config: Experiment, workdir: Path) -> None:
    """Prints how many files were read and the first tickers, and writes the list."""
    options = getattr(config.data, 'top', None)
    if not isinstance(options, TopStocks):
        raise InputError(f'{config.name} has no trades to count', column='data.top', remedy='use a config of the TCN')
    data = config.data.locate(cache_folder(config, workdir), config.parallel)
    until = last_whole_day(config.data.split.train_end)
    stocks, files = top_stocks(
        data.root,
        options.top_n,
        until,
        config.parallel,
        by=options.by,
        on_bad_file=config.data.on_bad_file,
    )
    say(f'{files} files up to the train end {until}')
    for i, stock in enumerate(stocks[:SHOWN], 1):
        say(f'{i}. {stock.ticker}: {_short(stock.total)} {options.by}, {stock.days} days')
    path = Path(options.out) if options.out else workdir / 'top_stocks.txt'
    write_list([stock.ticker for stock in stocks], path)
    say(f'{len(stocks)} tickers are in {path}; --config.data.tickers={path} reads only these')


def last_whole_day(train_end: str) -> datetime.date:
    """The last day that lies in the train split whole: a moment within a day leaves that day out.

    Raises:
      InputError: the text is no date.
    """
    try:
        end = np.datetime64(train_end)
        return (end.astype('datetime64[D]') - np.timedelta64(0 if len(train_end) == 10 else 1, 'D')).item()
    except ValueError as e:
        raise InputError(
            f'{train_end!r} is no date', column='data.split.train_end', remedy='write it as 2022-12-31'
        ) from e


def _short(amount: float) -> str:
    size, unit = next(((size, unit) for size, unit in UNITS if amount >= size), (1.0, ''))
    return f'{amount / size:.2f}{unit}'
