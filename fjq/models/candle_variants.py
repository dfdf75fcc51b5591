"""The variants of configs/microchat_tokenizer.py: kinds of codes, the original, and simulated data."""

from fjq.config import Experiment, vary
from fjq.data.candles.simulated import SimulatedCandleWindowData
from fjq.data.windows import Split


def apply_variants(config: Experiment, variant: str) -> Experiment:
    """Applies comma-separated variants, whatever their order: data and sizes, then the codes.

    Raises:
      InputError: an unknown variant.
    """
    vary(config, variant, _VARIANTS)
    return config


def _fsq(config: Experiment) -> None:
    config.task.quantizer, config.task.levels = 'fsq', (8, 8, 8)


def _rvq(config: Experiment) -> None:
    config.task.quantizer, config.task.levels = 'rvq', (32, 16)


def _bsq(config: Experiment) -> None:
    config.task.quantizer = 'bsq'


def _compat(config: Experiment) -> None:
    """The original's model, data and schedule in updates: windows of 256 by 64, features not scaled."""
    config.task.compat, config.task.clip = True, 0.0
    config.data.decay, config.data.window, config.data.stride, config.data.context = 1.0, 256, 64, 3
    config.optim.warmup_steps = config.train.steps // 10


def _simulated(config: Experiment) -> None:
    """A minute on two cores: 1,000 days of six simulated stocks."""
    config.data = SimulatedCandleWindowData.like(config.data, start='2022-02-01', days=1000)
    config.data.split = Split(train_end='2024-06-30', valid_end='2025-03-31', purge_days=0, embargo_days=0)
    config.train.steps = 1000


def _tiny(config: Experiment) -> None:
    """Seconds on two cores: two years of six stocks, 64 codes."""
    _simulated(config)
    config.data.days = 500
    config.data.split = Split(train_end='2023-06-30', valid_end='2023-09-30', purge_days=0, embargo_days=0)
    config.data.window, config.data.stride, config.data.batch_rows, config.data.eval_rows = 4, 2, 8, 256
    config.task.hidden, config.task.dim, config.task.codes, config.task.ema = 16, 8, 64, 0.9
    config.optim.learning_rate, config.optim.warmup_steps = 2e-2, 2
    config.train.steps, config.train.eval_every, config.train.save_every, config.train.log_every = 60, 20, 10, 1
    config.evaluate.draws = 200


_VARIANTS = {
    'simulated': _simulated,
    'tiny': _tiny,
    'fsq': _fsq,
    'rvq': _rvq,
    'bsq': _bsq,
    'compat': _compat,
}
