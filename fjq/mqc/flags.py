"""The commands of mqc: their aliases, and their flags in every spelling of the original."""

import argparse
from typing import NamedTuple

from fjq.config import nearest
from fjq.errors import InputError

ALIASES = {
    'train': 'pretrain', 'stage1': 'pretrain', 'stage2': 'midtrain', 'stage3': 'sft', 'stage4': 'rl',
    'eval': 'evaluate', 'baseline': 'evaluate', 'gen': 'generate', 'analysis': 'analyze',
    '--help': 'help', '-h': 'help',
}  # fmt: skip
SWITCHES = ('--bins', '--fresh', '--patterns', '--outliers')  # flags without a value


class Flag(NamedTuple):
    """A flag: its spellings, the config field it sets ('' = it is dealt with by name), and what it is."""

    names: tuple[str, ...]
    field: str
    text: str


DATA = Flag(('--data', '--data_file', '--data-file'), 'data.path', 'folder of candles, one CSV an asset')
DEVICE = Flag(('--device',), '', 'auto, cpu or cuda')
SEED = Flag(('--rng-seed',), 'seed', 'of all random numbers')
PRESET = Flag(('--preset',), '', 'variants of the config: tiny, readme, compat, learned, muon, simulated, planted')
OUT = Flag(('--out', '--save_dir', '--save-dir'), '', 'the run folder')
FRESH = Flag(('--fresh',), '', 'train anew instead of going on: all that is in the run folder is deleted')
START = Flag(('--in', '--init'), 'init_from', 'the run that it starts from')
CSV = Flag(('--csv', '--asset-csv', '--btc-csv', '--asset_csv'), '', 'the CSV of one asset, in the folder of all')
ASSET = Flag(('--asset', '--assets'), '', 'assets, joined by commas')
EPOCHS = Flag(('--epochs', '--num_epochs', '--num-epochs'), '', 'passes over the training windows')
STEPS = Flag(('--steps',), 'train.steps', 'updates')
BATCH = Flag(
    ('--batch', '--batch_size', '--batch-size', '--batch-episodes', '--batch_episodes'), 'data.batch_rows', 'rows'
)
RATE = Flag(('--lr', '--learning_rate', '--learning-rate'), 'optim.learning_rate', 'peak of the learning rate')
LENGTH = Flag(('--seq-len', '--seq_len'), '', 'tokens of a packed training row')
CONTEXT = Flag(('--context-len', '--context_len', '--context_length'), 'data.context', 'candles of a prompt')
HORIZON = Flag(('--horizon',), '', 'candles of the future')
MODEL = (
    Flag(('--vocab',), '', 'tokens'),
    Flag(('--layers',), 'task.gpt.layers', 'layers'),
    Flag(('--heads',), 'task.gpt.heads', 'heads of queries'),
    Flag(('--kv-heads', '--kv_heads'), 'task.gpt.kv_heads', 'heads of keys and values'),
    Flag(('--embd',), 'task.gpt.width', 'width'),
)
RUN = Flag(('--run', '--checkpoint'), '', 'the run folder')
SAMPLING = (
    Flag(('--temp', '--temperature'), 'data.generate.temperature', '0 = the likeliest token, always'),
    Flag(('--top-k', '--top_k'), 'data.generate.top_k', 'only the k likeliest tokens; 0 = all'),
    Flag(('--top-p', '--top_p'), 'data.generate.top_p', 'only the likeliest tokens of this mass'),
    Flag(('--samples', '--num_samples', '--num-samples'), 'data.generate.paths', 'paths of a prompt'),
)
COMMON = (DATA, DEVICE, SEED, PRESET)
SIZES = (*COMMON, OUT, EPOCHS, STEPS, BATCH, RATE, LENGTH, *MODEL)
STAGE = (*SIZES, FRESH, START, CSV, ASSET, CONTEXT, HORIZON)
OF_RUN = (RUN, *COMMON, CSV, ASSET)

COMMANDS: dict[str, tuple[Flag, ...]] = {
    'pretrain': STAGE,
    'midtrain': STAGE,
    'sft': (*STAGE, Flag(('--loss-on', '--loss_on'), 'task.loss_on', 'horizon or full')),
    'rl': (
        *STAGE,
        Flag(('--reward',), 'task.reward', 'token_acc, return_mse, proximity, crps, direction, pnl or sharpe'),
        Flag(('--group',), 'task.group', 'paths of a context'),
        Flag(('--kl',), 'task.kl_weight', 'weight of the divergence from where it started'),
        Flag(('--entropy-coef', '--entropy_coef'), 'task.entropy_weight', 'weight of the entropy'),
    ),
    'tokenize': (
        *COMMON,
        OUT,
        FRESH,
        Flag(('--bins',), '', 'quantile bins, which need no training'),
        EPOCHS,
        STEPS,
        Flag(('--num_codes', '--num-codes'), 'task.codes', 'codes'),
        Flag(('--emb_dim', '--emb-dim'), 'task.dim', 'width of a code'),
        Flag(('--hidden_dim', '--hidden-dim'), 'task.hidden', 'width of the encoder'),
        Flag(('--seq_len', '--seq-len'), 'data.window', 'candles of a training row'),
        BATCH,
        RATE,
    ),
    'decode': (*COMMON, RUN, Flag(('--bins',), '', 'the tokens are quantile bins')),
    'evaluate': (*OF_RUN, Flag(('--seq-len', '--seq_len'), 'data.context', 'candles of a prompt')),
    'generate': (
        *OF_RUN,
        *SAMPLING,
        Flag(('--seed', '--seed_tokens', '--seed-tokens'), '', 'tokens to go on from, such as "80 81 83"'),
        Flag(('--num', '--num_generate', '--num-generate', '--horizon'), 'data.generate.horizon', 'candles of a path'),
    ),
    'predict': OF_RUN,
    'chat': (*OF_RUN, *SAMPLING),
    'report': (RUN, DEVICE),
    'validate': (*SIZES, RUN, CSV, ASSET),
    'analyze': (
        *COMMON,
        Flag(('--tokens_file', '--tokens-file'), 'data.path', 'the same as --data: a file of ids alone is refused'),
        RUN,
        CSV,
        ASSET,
        Flag(('--patterns',), '', 'always printed'),
        Flag(('--outliers',), '', 'always printed'),
        Flag(('--top',), 'data.analyze.top', 'lines of each table'),
    ),
    'quickstart': (
        DEVICE,
        SEED,
        FRESH,
        Flag(('--csv', '--data'), '', 'folder of candles, one CSV an asset; without it a market is simulated'),
        ASSET,
        Flag(('--out',), '', 'the folder of all runs; runs/mqc by default'),
    ),
    'examples': (DEVICE, FRESH, Flag(('--out',), '', 'the run folder')),
}


def parse(name: str, argv: list[str]) -> tuple[dict[str, str], list[str]]:
    """The values of a command's flags by the first spelling of each, and the --config.* flags as they are.

    Raises:
      InputError: an unknown flag, or one without its value.
    """
    parser = argparse.ArgumentParser(prog=f'mqc {name}', allow_abbrev=False, exit_on_error=False)
    for flag in COMMANDS[name]:
        kind = {'action': 'store_true'} if flag.names[0] in SWITCHES else {'metavar': 'X'}
        parser.add_argument(*flag.names, dest=key_of(flag), default=None, help=flag.text, **kind)
    own = [word for word in argv if word.startswith('--config.')]
    try:
        asked, unknown = parser.parse_known_args([word for word in argv if word not in own])
    except argparse.ArgumentError as e:
        raise InputError(str(e), remedy=f'see mqc {name} --help') from e
    if unknown:
        word = unknown[0].partition('=')[0]
        others = [command for command, flags in COMMANDS.items() if any(word in flag.names for flag in flags)]
        known = [n for flag in COMMANDS[name] for n in flag.names]
        remedy = f'it is one of mqc {", ".join(others)}' if others else nearest(word, known)
        raise InputError(f'mqc {name} has no flag {unknown[0]!r}', remedy=remedy)
    return {k: v for k, v in vars(asked).items() if v is not None}, own


def key_of(flag: Flag) -> str:
    return flag.names[0].lstrip('-').replace('-', '_')
