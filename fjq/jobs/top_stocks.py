"""writes the most traded tickers of the days up to the train end, one a line, to top_stocks.txt."""

from pathlib import Path

from fjq.config import Experiment
from fjq.data.ticks.top_stocks import TopStocks, last_whole_day, top_stocks, write_list
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
    stocks, files = top_stocks(data.tick_files(), options.top_n, until, config.parallel, by=options.by)
    say(f'{files} files up to the train end {until}')
    for i, stock in enumerate(stocks[:SHOWN], 1):
        say(f'{i}. {stock.ticker}: {_short(stock.total)} {options.by}, {stock.days} days')
    path = Path(options.out) if options.out else workdir / 'top_stocks.txt'
    write_list([stock.ticker for stock in stocks], path, until)
    say(f'{len(stocks)} tickers are in {path}; --config.data.tickers={path} reads only these')


def _short(amount: float) -> str:
    size, unit = next(((size, unit) for size, unit in UNITS if amount >= size), (1.0, ''))
    return f'{amount / size:.2f}{unit}'
