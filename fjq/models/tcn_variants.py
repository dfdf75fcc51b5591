"""The variants that the configs of the three streams share: devices, sizes, and data of other lengths."""

import dataclasses

from fjq.baselines import Constant, Ewma, Garch, Har, Persistence, Vix
from fjq.config import Experiment, vary
from fjq.data.synthetic.market import scaled
from fjq.data.ticks.profiles import PROFILES, size_batch
from fjq.data.ticks.simulated import SimulatedTcnData
from fjq.data.ticks.tcn import TcnData
from fjq.data.windows import Split
from fjq.errors import InputError

DEVICE = 'rtx5080'  # where no variant names one
BASELINES = (
    Constant(),
    Persistence(),
    Ewma(column='daily_rv', kind='volatility'),
    Har(name='har', log=False),
    Har(name='log-har'),
    Har(name='log-har refitted', fit='expanding'),
    Garch(column='spx', kind='price', calibrate=True),  # targets are annualised
    Vix(),
    Har(name='log-har + vix', extra=('vix',)),
)


def apply_variants(config: Experiment, variant: str) -> Experiment:
    """Applies comma-separated variants, whatever their order: the device, data and sizes, then what a model is.

    A device of fjq.data.ticks.profiles (`h100`, `cpu`, ...) sets the batch, the micro-batches and the precision.
    `compat512` gives the shapes of the original's code: frame vectors of 512, and for stocks `tickers`, a vector for
    each of the 100 most traded. `seven` stops at dilation 64, `simulated` and `tiny` need no data, and read
    every ticker but with `tickers`, `sample` fits the two months of index data that are public.

    Raises:
      InputError: an unknown variant.
    """
    device = next((n for n in variant.split(',') if n in PROFILES), DEVICE)
    _fit_device(config, device)
    vary(config, variant, dict.fromkeys(PROFILES, lambda config: None) | _VARIANTS)
    config.task.horizons = len(config.data.horizons)
    return config


def _fit_device(config: Experiment, device: str) -> None:
    size = size_batch(device, config.data.stream, config.data.chunk_buckets[-1])
    config.data.batch_rows, config.train.micro_batches = size.rows, size.micro_batches
    config.task.dtype = 'float32' if device == 'cpu' else 'bfloat16'
    if PROFILES[device].filter_stocks and config.data.stream == 'stocks':
        _read_top_stocks(config)


def _read_top_stocks(config: Experiment) -> None:
    """Only the tickers of the list that --job=top_stocks writes, in whatever workdir it runs."""
    config.data.tickers = config.data.top.out = f'runs/{config.name}/top_stocks.txt'


def _compat512(config: Experiment) -> None:
    config.task.d_model = 512
    if config.data.stream == 'stocks':
        _tickers(config)


def _tickers(config: Experiment) -> None:
    if config.data.stream == 'index':
        raise InputError('the variant tickers is for trades', remedy='use configs/tcn_stocks.py')
    _read_top_stocks(config)
    config.task.num_tickers = config.data.num_tickers = config.data.top.top_n


def _seven(config: Experiment) -> None:
    config.task.layers = 7


def _simulated(config: Experiment) -> None:
    """A minute or two on two cores: 420 sessions, twelve blocks of 16 channels."""
    _simulate(config, days=420, train_end='2023-01-31', valid_end='2023-05-15', half_life=8)
    config.data.chunk_buckets, config.data.frame_buckets = (20,), (20,)
    _narrow(config)


def _signal(config: Experiment) -> None:
    """Twenty years, so that a test of six can tell forecasters apart (launch/benchmarks/planted_signal.py). Nine
    indices, one chunk a frame, one frame a row. Settings were chosen on the validation span, see LOG.md."""
    _simulate(config, days=5040, train_end='2033-12-31', valid_end='2035-12-31', index_symbols=9)
    config.data.horizons, config.data.compute_labels = (5, 30), True
    config.data.frame, config.data.batch_rows = '25min', 64
    config.data.chunk_buckets, config.data.frame_buckets = (1,), (1,)
    _narrow(config)
    config.task.loss, config.optim.learning_rate = 'qlike', 2e-3
    config.train.steps, config.train.patience, config.train.ema = 1000, 0, 0.98


def _tiny(config: Experiment) -> None:
    """Seconds on two cores: one horizon of five days, 85 sessions, frames of 20 minutes, short chunks. The index keeps
    all twelve blocks, so all keys of an export; the others have three, which compile in a third of the time."""
    _simulate(config, days=85, train_end='2022-03-25', valid_end='2022-04-22', index_symbols=3)
    config.data.chunk_len = 64
    config.data.horizons, config.data.split.purge_days, config.data.compute_labels = (5,), 5, True
    config.data.chunk_buckets, config.data.frame_buckets = (10,), (10,)
    config.task.hidden, config.task.d_model, config.task.head_hidden = 8, 8, 8
    config.task.layers = 12 if config.data.stream == 'index' else 3
    config.optim.learning_rate, config.optim.warmup_steps = 1e-2, 2
    config.train.steps, config.train.eval_every, config.train.save_every, config.train.log_every = 12, 6, 3, 1
    config.evaluate.draws = 200


def _sample(config: Experiment) -> None:
    """February and March 2022, minutes on two cores: the forty indices of volatility, equity and rates, five days
    ahead (30-day labels would leave nothing between the parts after purging)."""
    config.data.horizons, config.data.compute_labels = (5,), True
    config.data.tickers = 'configs/index_tickers.txt'
    config.data.split = Split(train_end='2022-02-28', valid_end='2022-03-14', purge_days=5, embargo_days=0)
    config.data.frame, config.data.batch_rows, config.train.micro_batches = '600s', 8, 1
    config.data.chunk_buckets, config.data.frame_buckets = (20,), (20,)
    _narrow(config)


def _narrow(config: Experiment) -> None:
    """A width that two cores train in minutes; all twelve layers, so all keys of an export."""
    config.task.hidden, config.task.d_model, config.task.head_hidden, config.task.dtype = 16, 16, 32, 'float32'
    config.task.dropout = config.task.head_dropout = 0.0
    config.optim.learning_rate, config.optim.warmup_steps = 1e-3, 20
    config.train.steps, config.train.eval_every, config.train.save_every = 150, 50, 50


def _simulate(
    config: Experiment, *, days: int, train_end: str, valid_end: str, index_symbols: int = 12, half_life: int = 46
) -> None:
    """Twelve indices (or a few stocks), frames of 20 minutes, rows of a day or half of one."""
    stream = config.data.stream
    fields = {f.name: getattr(config.data, f.name) for f in dataclasses.fields(TcnData)}
    sizes = {'days': days, 'index_symbols': index_symbols, 'half_life': half_life}
    config.data = SimulatedTcnData(**fields, market=scaled('tiny', what=(stream, 'rv'), **sizes))
    config.data.tickers, config.data.top.out, config.data.frame, config.data.batch_rows = '', '', '20min', 8
    config.task.num_tickers = config.data.num_tickers = 0
    config.data.split = Split(train_end=train_end, valid_end=valid_end, purge_days=30, embargo_days=0)
    config.train.micro_batches, config.task.dtype = 1, 'float32'
    config.task.dropout = config.task.head_dropout = 0.0


_VARIANTS = {
    'simulated': _simulated,
    'signal': _signal,
    'tiny': _tiny,
    'sample': _sample,
    'compat512': _compat512,
    'tickers': _tickers,
    'seven': _seven,
}
