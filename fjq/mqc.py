"""mqc: the micro quant chat by short commands. Each is translated to `python -m fjq.launch ...`, printed, and run.

    mqc quickstart [--csv FOLDER] [--asset A]     tokenizer, four stages, evaluation, paths and a report in one folder
    mqc tokenize [--bins]                         tokens and their card: learned codes, or quantile bins
    mqc train | stage1 | pretrain                 stage 1 on all assets
    mqc midtrain | stage2, sft | stage3, rl | stage4     the later stages, each from the one before
    mqc evaluate | eval | baseline                the test span beside Markov chains and other baselines
    mqc generate | gen                            paths of candles after an asset's last ones, or after seed tokens
    mqc report                                    the page of a run, and one page of all stages, stages.html
    mqc predict, decode, validate                 forecasts of every row; tokens back to candles; a look at the data
    mqc chat                                      type an asset and a horizon, get a table of prices
    mqc analyze | analysis                        use, entropy, patterns, transitions and outliers of tokens
    mqc examples, download, help

`mqc COMMAND --help` lists the flags of a command. Any field of a config is set by --config.FIELD=VALUE, but
not in quickstart, which has five configs. --fresh trains anew. A run is a folder: where the original had
checkpoints/sft.pt it is checkpoints/sft.
"""

import argparse
import ast
import functools
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fjq.config import Experiment, check_path, nearest
from fjq.errors import InputError
from fjq.mqc_flags import ALIASES, COMMANDS, SWITCHES, Flag
from fjq.mqc_times import record_time

STAGES = ('pretrain', 'midtrain', 'sft', 'rl')
TOKENIZER_RUN, DEFAULT_RUN = 'runs/microchat_tokenizer', 'runs/microchat_pretrain'
JOBS = {'predict': 'forecast'}  # where the job has another name
DOWNLOAD = (
    'nothing is downloaded: put one CSV an asset into a folder (Date, Open, High, Low, Close, Volume, as Yahoo Finance '
    'and others export it; the name of the file is the asset) and give the folder by --data'
)


def main(argv: Sequence[str]) -> int:
    """Runs a command. Returns the exit code: 0 done, 2 wrong input."""
    try:
        return _run(list(argv))
    except InputError as e:
        print(f'mqc: {e}', file=sys.stderr)
        return 2


def _run(argv: list[str]) -> int:
    name = ALIASES.get(argv[0], argv[0]) if argv else 'help'
    if name == 'help':
        print(__doc__.strip())
        return 0
    if name == 'download':
        raise InputError(DOWNLOAD)
    if name not in COMMANDS:
        raise InputError(f'there is no command {argv[0]!r}', remedy=nearest(argv[0], [*COMMANDS, *ALIASES, 'download']))
    asked, rest = parse(name, argv[1:])
    if asked.get('device') not in (None, 'auto'):
        os.environ['JAX_PLATFORMS'] = asked['device']
    if name == 'quickstart':
        from fjq.mqc_quickstart import quickstart

        if rest:
            raise InputError(
                'quickstart trains five models, each with a config of its own',
                file=rest[0],
                remedy='give it to one of the commands that quickstart prints',
            )
        given = (asked.get(key, '') for key in ('csv', 'asset', 'out'))
        return quickstart(*given, asked.get('rng_seed', '0'), fresh='fresh' in asked)
    code = launch(translate(name, asked, rest))
    if name == 'report' and code == 0:
        from fjq.mqc_page import report_stages

        report_stages(Path(_folder(asked.get('run', DEFAULT_RUN))))
    return code


def launch(commands: list[list[str]]) -> int:
    """Prints and runs commands one after the other, up to the first that fails; their wall times are kept."""
    for words in commands:
        print('python -m fjq.launch ' + shlex.join(words), flush=True)
        start = time.monotonic()
        if len(commands) > 1:
            code = _run_child(words)
        else:
            from fjq import launch

            sys.argv = ['fjq.launch', *words]  # ml_collections looks for overrides here
            code = launch.main(sys.argv)
        record_time(words, time.monotonic() - start)
        if code:
            return code
    return 0


def _run_child(words: list[str]) -> int:
    """The exit code of a launch of its own, 128 + n where signal n ended it. Ctrl-C is the child's to answer: it saves
    what it trained, and must not be killed while it does."""
    before = signal.signal(signal.SIGINT, lambda *_: None)  # a signal that is ignored would be so by the child too
    try:
        code = subprocess.run([sys.executable, '-m', 'fjq.launch', *words]).returncode
    finally:
        signal.signal(signal.SIGINT, before)
    return code if code >= 0 else 128 - code


def parse(name: str, argv: list[str]) -> tuple[dict[str, str], list[str]]:
    """The values of a command's flags by the first spelling of each, and the --config.* flags as they are.

    Raises:
      InputError: an unknown flag, or one without its value.
    """
    parser = argparse.ArgumentParser(prog=f'mqc {name}', allow_abbrev=False, exit_on_error=False)
    for flag in COMMANDS[name]:
        kind = {'action': 'store_true'} if flag.names[0] in SWITCHES else {'metavar': 'X'}
        parser.add_argument(*flag.names, dest=_key(flag), default=None, help=flag.text, **kind)
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


def translate(name: str, asked: dict[str, str], rest: list[str]) -> list[list[str]]:
    """A command with its flags -> the arguments of each `fjq.launch` that it means; what trains may start over."""
    fresh = ['--fresh'] if 'fresh' in asked else []
    if name == 'examples':
        base = [f'--config={find_config("pretrain")}:tiny', f'--workdir={asked.get("out", "runs/examples")}', *rest]
        jobs = ('validate', 'train', 'analyze', 'evaluate', 'generate', 'report')  # --fresh empties the folder
        return [[*base, f'--job={job}', *(fresh if job == 'train' else [])] for job in jobs]
    if fresh and 'bins' in asked:
        raise InputError('bins are not trained', file='--fresh', remedy='leave it out, or tokenize without --bins')
    if name == 'tokenize' and 'bins' not in asked:
        config = find_config('tokenizer', asked.get('preset', ''))
        run = _folder(asked.get('out', TOKENIZER_RUN))
        fields = _fields(name, asked, config, rest) + rest
        last = [w for w in fields if not w.startswith(('--config.train.', '--config.optim.'))]
        base = [f'--config={config}', f'--workdir={run}']
        return [[*base, *fields, *fresh], [*base, '--job=tokenize', *last]]
    if name == 'decode' and 'bins' not in asked:
        run = _folder(asked.get('run', TOKENIZER_RUN))
        config = describe_run(run, 'tokenizer', asked.get('preset', ''))
        return [[f'--config={config}', '--job=decode', f'--workdir={run}', *_fields(name, asked, config, rest), *rest]]
    if name in STAGES:
        config = find_config(name, asked.get('preset', ''))
        run = _folder(asked.get('out', f'runs/microchat_{name}'))
        return [[f'--config={config}', f'--workdir={run}', *_fields(name, asked, config, rest, run), *rest, *fresh]]
    run = _folder(asked.get('run', asked.get('out', DEFAULT_RUN)))
    config = describe_run(run, 'pretrain', asked.get('preset', ''))
    own = {word.partition('=')[0] for word in rest}  # absl would join two lists of one field
    fields = [word for word in _fields(name, asked, config, rest, run) if word.partition('=')[0] not in own]
    return [[f'--config={config}', f'--job={JOBS.get(name, name)}', f'--workdir={run}', *fields, *rest]]


def find_config(stage: str, variant: str = '') -> str:
    """configs/microchat_STAGE.py here or beside the package, with its variants."""
    name = f'microchat_{stage}.py'
    here = Path('configs') / name
    file = here if here.is_file() else Path(__file__).resolve().parent.parent / 'configs' / name
    return f'{file}:{variant}' if variant else str(file)


def describe_run(run: str, stage: str, variant: str) -> str:
    """The config of a run: its own config.json.

    A folder without a run gives the config of a stage: data need no weights to be looked at.

    Raises:
      InputError: it is a run of another family, or a preset is asked of a run.
    """
    path = Path(run) / 'config.json'
    if not path.is_file():
        return find_config(stage, variant)
    from fjq.data.candles import CandleFiles

    trained = _load(str(path))
    if not isinstance(trained.data, CandleFiles):
        raise InputError(f'it is a run of {trained.name}, not of the micro quant chat', file=run)
    if variant:
        raise InputError(
            f'the run has its own config, of which {variant!r} is no preset',
            file='--preset',
            remedy='leave it out, or set fields by --config.FIELD=VALUE',
        )
    return str(path)


def _fields(name: str, asked: dict[str, str], config: str, rest: list[str], run: str = '') -> list[str]:
    """The --config.* flags of what was asked; `rest`, which were given as such, decide how long an epoch is too."""
    out = {f.field: asked[_key(f)] for f in COMMANDS[name] if f.field and _key(f) in asked}
    if 'init_from' in out:
        out['init_from'] = _folder(out['init_from'])
    if 'data.path' in out and out['data.path'].endswith('.txt'):
        raise InputError(
            'ids alone have no dates to be split by and no prices to be judged by',
            file=out['data.path'],
            remedy='give the folder of candles that they were made from',
        )
    if 'csv' in asked:
        file = Path(asked['csv'])
        out |= {'data.path': str(file.parent), 'data.assets': (_asset_of(file),)}
    if 'asset' in asked:
        names = tuple(asked['asset'].split(','))
        out['data.generate.assets' if name in ('generate', 'chat') else 'data.assets'] = names
    if 'seed' in asked:
        tokens = tuple(_count(word) for word in asked['seed'].replace(',', ' ').split())
        if not tokens or min(tokens) < 0:
            raise InputError(f'{asked["seed"]!r} are no tokens', file='--seed', remedy='give ids such as "80 81 83"')
        out['data.generate.seed_tokens'] = tokens
    if 'seq_len' in asked and name in (*STAGES, 'validate'):
        length, settings = _number(asked, 'seq_len'), _load(config)
        if getattr(settings.data, 'layout', '') != 'packed':
            raise InputError(
                f'the rows of {settings.name} are not packed, but a context and its future',
                file='--seq-len',
                remedy='give --context-len and --horizon',
            )
        out |= {'data.length': length} | ({'task.gpt.length': length} if length > settings.task.gpt.length else {})
    if 'vocab' in asked:
        out |= _vocabulary(_number(asked, 'vocab'), getattr(_load(config).data, 'tokenizer', None))
    if 'horizon' in asked and name in STAGES:
        horizon = _number(asked, 'horizon')
        ahead = (*(h for h in (1, 8, 32) if h < horizon), horizon)
        out |= {'data.horizons': ahead, 'task.horizons': ahead}
    flags = [f'--config.{field}={_literal(value)}' for field, value in out.items()]
    steps = _number(asked, 'steps') if 'steps' in asked else 0
    if 'epochs' in asked:
        steps = count_updates(config, flags + rest, _number(asked, 'epochs'), run)
        flags.append(f'--config.train.steps={steps}')
    if steps and steps <= (warmup := _load(config).optim.warmup_steps):
        flags.append(f'--config.optim.warmup_steps={min(warmup, steps // 10)}')
    return flags


def _vocabulary(tokens: int, tokenizer: Any) -> dict[str, int]:
    """The model's vocabulary, and the bins that give it where tokens are bins."""
    if not hasattr(tokenizer, 'returns'):
        return {'task.gpt.vocabulary': tokens}
    ranges = 4 if tokens % 4 == 0 and tokens > 4 else 1
    return {
        'task.gpt.vocabulary': tokens,
        'data.tokenizer.returns': tokens // ranges,
        'data.tokenizer.ranges': ranges,
    }


def count_updates(config: str, flags: list[str], epochs: int, run: str) -> int:
    """Updates of so many passes over the training windows, which only the data can tell."""
    settings, dataset = open_data(config, flags, run)
    if hasattr(dataset, 'training_windows'):
        windows = dataset.training_windows()
    else:  # of the tokenizer
        c = settings.data
        windows = sum(max(0, (int(mask.sum()) - c.window) // c.stride + 1) for mask in dataset.in_train)
    return epochs * -(-windows // settings.data.batch_rows)


def open_data(config: str, flags: list[str], run: str) -> tuple[Experiment, Any]:
    """A config with the fields of --config.* flags, and its data."""
    from fjq.run import cache_folder

    settings = _load(config)
    for flag in (f for f in flags if f.startswith('--config.')):
        _set_field(settings, *flag.removeprefix('--config.').partition('=')[::2])
    return settings, settings.data.open(cache_folder(settings, Path(run or 'runs')), settings.parallel)


def _set_field(settings: Experiment, path: str, value: str) -> None:
    """Raises InputError where the config has no such field, or the value is none of its kind."""
    check_path(settings, path)
    *parents, leaf = path.split('.')
    holder = functools.reduce(getattr, parents, settings)
    before = getattr(holder, leaf)
    try:
        new = (
            value if isinstance(before, str) else ast.literal_eval(value.title() if isinstance(before, bool) else value)
        )
    except (ValueError, SyntaxError):
        new = None
    if not isinstance(new, int if type(before) is int else object) or new is None:
        raise InputError(
            f'{value!r} is not like {before!r}', file=f'--config.{path}', remedy='give a value of that kind'
        )
    setattr(holder, leaf, new)


def _asset_of(file: Path) -> str:
    """The asset of a CSV."""
    from fjq.data.candles import CandleFiles
    from fjq.parallel import Parallel

    if not file.is_file():
        raise InputError('there is no such file', file=file, remedy='name the CSV of an asset')
    return CandleFiles(path=str(file), quality='repair', splits=False).read(Parallel(workers=1))[0].id


def _folder(path: str) -> str:
    """A run folder; the original's X.pt is the folder X."""
    if path.endswith('.pt') and Path(path).is_file():
        raise InputError(
            'this is a file of PyTorch',
            file=path,
            remedy='make a run of it by python -m interop.load, and name its folder',
        )
    return path.removesuffix('.pt')


def _load(config: str) -> Experiment:
    from fjq.launch import load_config

    file, _, variant = config.partition(':')
    return load_config(file, variant)


def _number(asked: dict[str, str], name: str) -> int:
    number = _count(asked[name])
    if number < 1:
        raise InputError(f'{asked[name]!r} is no number from 1 on', file=f'--{name.replace("_", "-")}')
    return number


def _count(word: str) -> int:
    """-1 where it is no number: digits alone do not make one, such as those of ²."""
    try:
        return int(word)
    except ValueError:
        return -1


def _literal(value: Any) -> str:
    return repr(tuple(value)) if isinstance(value, list | tuple) else str(value)


def _key(flag: Flag) -> str:
    return flag.names[0].lstrip('-').replace('-', '_')


def entry() -> None:
    sys.exit(main(sys.argv[1:]))


if __name__ == '__main__':
    entry()
