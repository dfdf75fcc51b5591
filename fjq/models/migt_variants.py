"""The variants of configs/migt_tvdt.py: the original's function, less memory, simulated and public bars, sizes."""

import dataclasses

from fjq.baselines import (
    BoostedQuantiles,
    EmpiricalQuantiles,
    GarchT,
    HarQuantiles,
    SeasonalQuantiles,
    Zero,
)
from fjq.config import Experiment, vary
from fjq.data.bars.migt import MigtData
from fjq.data.bars.simulated import SimulatedMigtData
from fjq.data.windows import Split
from fjq.errors import InputError
from fjq.studies.backtest import Backtest
from fjq.studies.coverage import Coverage
from fjq.studies.quantile_scores import QuantileScores

BASELINES = (
    EmpiricalQuantiles(name='ewma quantiles', column='close', fit='expanding', stride=100),  # the one to beat
    EmpiricalQuantiles(name='training quantiles'),
    EmpiricalQuantiles(name='expanding quantiles', fit='expanding', stride=100),
    EmpiricalQuantiles(name='rolling quantiles', fit='expanding', window=5000, stride=100),
    SeasonalQuantiles(),
    HarQuantiles(),
    GarchT(),
    BoostedQuantiles(),
    Zero(),
)
STUDIES = (Coverage(), QuantileScores(), Backtest(commission=0.0625))  # NQ: $1.25 a side, at $20 a point


def apply_variants(config: Experiment, variant: str) -> Experiment:
    """Applies comma-separated variants, whatever their order: data first, then what a model on any data is.

    Raises:
      InputError: an unknown variant, or two kinds of data.
    """
    if len(data := sorted(_DATA.keys() & set(variant.split(',')))) > 1:
        raise InputError(f'the variants {" and ".join(data)} are data each', remedy='choose one of them')
    vary(config, variant, _VARIANTS)
    return config


def _compat(config: Experiment) -> None:
    """The original's function, features and optimisation, with its mask error corrected. Its fresh intervals are a
    thousand times too wide and its trained ones collapsed, so no alarm watches them."""
    config.task.compat, config.data.features = True, ('core24',)
    config.optim.learning_rate, config.optim.final_learning_rate, config.optim.weight_decay = 1e-4, 1e-6, 0.01
    config.optim.decay_rules, config.train.alarm = (r'.*=1',), ''


def _lowmem(config: Experiment) -> None:
    config.task.remat = 'chunked'


def _simulated(config: Experiment) -> None:
    """Minutes on two cores: eight years of bars of 15 minutes whose quantiles are known, a window of a day, six
    features, one row an hour."""
    _simulate(config, minutes=15, sessions=2000)
    config.data.split = Split(train_end='2026-12-31', valid_end='2027-08-31', purge_days=1, embargo_days=1)
    config.data.horizons, config.data.window, config.data.min_bars = (1, 2, 4, 8, 16), 96, 16
    config.data.features = ('log_close', 'log_return', 'log_volume', 'log_gk', 'log_rv_12', 'log_rv_72')
    config.data.stride, config.data.batch_rows = 4, 64
    _narrow(config)
    config.task.width, config.task.heads, config.task.hidden, config.task.head_hidden = 32, 4, 64, 32
    config.optim.learning_rate, config.optim.warmup_steps, config.train.ema = 5e-4, 100, 0.98
    config.train.steps, config.train.eval_every, config.train.save_every = 400, 100, 100
    config.task.remat = 'none'


def _tiny(config: Experiment) -> None:
    """Seconds on two cores: hourly bars of half a year."""
    _simulate(config, minutes=60, sessions=120)
    config.data.split = Split(train_end='2022-04-15', valid_end='2022-05-15', purge_days=1, embargo_days=1)
    config.data.horizons, config.data.window, config.data.min_bars = (1, 2, 4), 24, 12
    config.data.features = ('log_close', 'log_return', 'log_gk')
    config.data.stride, config.data.batch_rows = 5, 8
    _narrow(config)
    config.task.width, config.task.heads, config.task.hidden, config.task.head_hidden = 8, 2, 16, 64
    config.task.temporal_layers = config.task.variable_layers = 1
    config.task.clock_dims, config.task.age_dim = (8, 4, 4, 4), 8
    config.optim.learning_rate, config.optim.warmup_steps, config.optim.weight_decay = 1e-2, 3, 0.0
    config.train.steps, config.train.eval_every, config.train.save_every, config.train.log_every = 60, 30, 20, 1
    config.evaluate.baselines = tuple(_quick(b) for b in BASELINES if not isinstance(b, BoostedQuantiles))
    config.evaluate.draws = 200


def _nq(config: Experiment) -> None:
    """The ten weeks of E-mini Nasdaq bars that are public, minutes on two cores: windows of eight hours."""
    _shrink(config, 'NQ_5min.csv', 'America/New_York')
    config.data.split = Split(train_end='2026-03-31', valid_end='2026-04-12', purge_days=1, embargo_days=1)


def _cn(config: Experiment) -> None:
    """Ten weeks of an A-share, 48 bars a day: windows of two days over the night."""
    _shrink(config, 'cn_5min.csv', 'Asia/Shanghai')
    config.data.span, config.data.min_bars, config.data.stamps = 'bars', 96, 'end'
    config.data.split = Split(train_end='2024-08-02', valid_end='2024-08-14', purge_days=1, embargo_days=1)
    rule = Backtest(tick=0.01, fee=5.1e-4)  # broker 0.025 %, transfer 0.001 %, half of the 0.05 % that a sale pays
    config.evaluate.studies = (Coverage(), QuantileScores(), rule)


def _shrink(config: Experiment, file: str, timezone: str) -> None:
    """A small model for few bars. It starts from a forecast that is hard to better, so it learns slowly, in averaged
    weights, and is stopped early: ten updates into a long warm-up it is still what it started as, and may stay so."""
    config.data.path, config.data.timezone = str(config.data.path).rpartition('/')[0] + '/' + file, timezone
    config.data.features = ('log_return', 'log_volume', 'log_gk', 'log_rv_12', 'log_rv_72', 'log_amihud')
    config.data.window, config.data.batch_rows = 96, 64
    _narrow(config)
    config.task.dropout, config.task.remat, config.train.ema = 0.2, 'none', 0.95
    config.optim.learning_rate, config.optim.warmup_steps, config.optim.weight_decay = 3e-4, 100, 0.05
    config.train.steps, config.train.eval_every, config.train.save_every, config.train.patience = 300, 10, 10, 5
    config.evaluate.baselines = tuple(_quick(b) for b in BASELINES)


def _narrow(config: Experiment) -> None:
    """A width for two cores."""
    config.task.width, config.task.heads, config.task.hidden, config.task.head_hidden = 16, 2, 32, 16
    config.task.temporal_layers, config.task.variable_layers = 2, 1
    config.task.clock_dims, config.task.age_dim = (16, 8, 4, 4), 16
    config.task.dtype, config.task.dropout, config.train.ema = 'float32', 0.0, 0.0


def _quick(baseline):
    """Fewer labels before quantiles are taken, for short histories."""
    changes = {'stride': 20, 'window': 500} if getattr(baseline, 'window', 0) else {'stride': 20}
    return dataclasses.replace(baseline, **changes) if hasattr(baseline, 'stride') else baseline


def _simulate(config: Experiment, *, minutes: int, sessions: int) -> None:
    fields = {f.name: getattr(config.data, f.name) for f in dataclasses.fields(MigtData)}
    config.data = SimulatedMigtData(**fields | {'path': '', 'minutes': minutes}, sessions=sessions)


_DATA = {'simulated': _simulated, 'tiny': _tiny, 'nq': _nq, 'cn': _cn}
_VARIANTS = _DATA | {'compat': _compat, 'lowmem': _lowmem}
