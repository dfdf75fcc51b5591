"""The variants that the configs of the four stages share: presets of the model, tokens, and simulated data."""

from fjq.baselines import Bootstrap, Constant, GarchT, RandomWalk
from fjq.config import Experiment, vary
from fjq.data.candles.simulated import PlantedTokenData, SimulatedTokenData
from fjq.data.tokens.options import Generate
from fjq.data.windows import Split
from fjq.studies.coverage import Coverage
from fjq.studies.tokens import TokenScores
from fjq.tokenizers import Saved

BASELINES = (RandomWalk(), GarchT(), Bootstrap(), Constant())
STUDIES = (TokenScores(), Coverage())
MUON_RULES = (r'^h/.*kernel$=1', r'.*=0')


def apply_variants(config: Experiment, variant: str) -> Experiment:
    """Applies comma-separated variants, whatever their order: data and sizes, then what a model is.

    `compat` is the original's model, rates, rows and updates; `readme` the larger one of its README; `learned` takes
    the tokens of configs/microchat_tokenizer.py; `muon` orthogonalises the updates of the blocks; `simulated`,
    `planted` and `tiny` need no data.

    Raises:
      InputError: an unknown variant.
    """
    vary(config, variant, _VARIANTS)
    config.task.horizons = config.data.horizons
    return config


# The original's peak of the rate, updates, updates of an epoch, after each of which it validates, and rows: by default,
# of stage 1 on its 20 assets, of the others on BTC-USD.
_ORIGINAL = {
    'pretrain': (5e-4, 240, 24, 32),
    'midtrain': (1e-5, 18, 6, 4),
    'sft': (5e-6, 120, 12, 16),
    'rl': (1e-5, 200, 20, 8),
}


def _compat(config: Experiment) -> None:
    """4 layers of 256, 512 tokens: 3,407,872 parameters. Rates and lengths of the original, to their end."""
    gpt = config.task.gpt
    gpt.vocabulary, gpt.length, gpt.layers, gpt.heads, gpt.width = 512, 256, 4, 4, 256
    gpt.rope_rounded, gpt.padded_logits, gpt.dropout = True, True, 0.0
    _learned(config)
    rate, steps, epoch, config.data.batch_rows = _ORIGINAL[config.task.stage]
    config.data.length = 256
    config.train.steps, config.train.eval_every, config.train.save_every, config.train.patience = steps, epoch, epoch, 0
    config.optim.learning_rate, config.optim.warmup_steps = rate, 0
    config.optim.final_learning_rate = rate if config.task.stage == 'rl' else 0.0  # there it is constant
    config.optim.betas, config.optim.weight_decay = (0.9, 0.95), 0.01
    config.optim.decay_rules, config.optim.muon_rules = (r'.*=1',), (r'.*=0',)
    config.task.loss_on = 'full'


def _readme(config: Experiment) -> None:
    """6 layers of 512, 128 tokens: 19,005,440 parameters; with the softcap and the norm of the original's first era."""
    gpt = config.task.gpt
    gpt.vocabulary, gpt.length, gpt.layers, gpt.heads, gpt.width = 128, 256, 6, 8, 512
    gpt.softcap, gpt.embedding_norm, gpt.rope_rounded = 15.0, True, True


def _learned(config: Experiment) -> None:
    """Tokens of a run of configs/microchat_tokenizer.py, after its --job=tokenize."""
    config.data.tokenizer, config.task.gpt.vocabulary = Saved(), 512


def _muon(config: Experiment) -> None:
    config.optim.muon_rules = MUON_RULES


def _simulated(config: Experiment) -> None:
    """Minutes on two cores: six simulated stocks of 1,000 days."""
    config.data = SimulatedTokenData.like(config.data, days=1000)
    config.data.split = Split(train_end='2020-06-30', valid_end='2021-03-31', purge_days=0, embargo_days=0)
    config.data.context, config.data.horizons = 32, (1, 5, 10)


def _planted(config: Experiment) -> None:
    """Returns in which only two tokens together tell of the next (see PlantedTokenData)."""
    config.data = PlantedTokenData.like(config.data)
    config.data.split = Split(train_end='2025-06-30', valid_end='2026-12-31', purge_days=0, embargo_days=0)
    config.data.context, config.data.horizons, config.data.eval_stride = 16, (1, 4), 4
    config.task.gpt.vocabulary, config.task.gpt.layers, config.task.gpt.width = config.data.states, 2, 64
    config.task.gpt.dropout = 0.0


def _tiny(config: Experiment) -> None:
    """Seconds on two cores: 330 days of three stocks, 32 tokens, two layers of 48."""
    config.data = SimulatedTokenData.like(config.data, days=330, simulated_assets=3)
    config.data.split = Split(train_end='2018-05-31', valid_end='2018-07-31', purge_days=0, embargo_days=0)
    config.data.tokenizer.returns, config.data.tokenizer.ranges = 8, 4
    config.data.length, config.data.context, config.data.horizons = 24, 12, (1, 4)
    config.data.batch_rows, config.data.stride, config.data.eval_stride = 8, 1, 4
    gpt = config.task.gpt
    gpt.vocabulary, gpt.length, gpt.layers, gpt.heads, gpt.kv_heads, gpt.width = 32, 32, 2, 4, 2, 48
    gpt.dropout, gpt.padded_logits = 0.0, True  # as the PyTorch file has it, of a vocabulary that is padded
    config.data.generate = Generate(horizon=8, paths=16)
    config.task.paths, config.task.valid_paths, config.task.group = 16, 8, 16
    config.task.reward, config.task.standardised, config.task.kl_weight = 'token_acc', True, 0.01
    config.init_from, config.train.budget = '', ''
    config.optim.learning_rate, config.optim.warmup_steps, config.optim.weight_decay = 1e-2, 2, 0.0
    config.train.steps, config.train.eval_every, config.train.save_every, config.train.log_every = 60, 30, 10, 1
    if config.task.stage == 'rl':  # drawn tokens turn the last bits of a sum into other paths: before that matters
        config.train.steps, config.train.eval_every, config.train.save_every = 30, 15, 5
    config.train.patience = 0
    config.evaluate.draws = 200


_VARIANTS = {
    'simulated': _simulated,
    'planted': _planted,
    'tiny': _tiny,
    'compat': _compat,
    'readme': _readme,
    'learned': _learned,
    'muon': _muon,
}
