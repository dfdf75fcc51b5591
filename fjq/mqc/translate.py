"""From a command of mqc to the arguments of each `fjq.launch` that it means."""

import ast
import functools
import itertools
import re
from pathlib import Path
from typing import Any

from fjq.config import Experiment, check_path
from fjq.errors import InputError
from fjq.mqc.flags import COMMANDS, key_of

STAGES = ('pretrain', 'midtrain', 'sft', 'rl')
TOKENIZER_RUN, DEFAULT_RUN = 'runs/microchat_tokenizer', 'runs/microchat_pretrain'
JOBS = {'predict': 'forecast'}  # where the job has another name


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
        run = find_folder(asked.get('out', TOKENIZER_RUN))
        fields = _fields(name, asked, config, rest) + rest
        last = [w for w in fields if not w.startswith(('--config.train.', '--config.optim.'))]
        base = [f'--config={config}', f'--workdir={run}']
        return [[*base, *fields, *fresh], [*base, '--job=tokenize', *last]]
    if name == 'decode' and 'bins' not in asked:
        run = find_folder(asked.get('run', TOKENIZER_RUN))
        config = describe_run(run, 'tokenizer', asked.get('preset', ''))
        return [[f'--config={config}', '--job=decode', f'--workdir={run}', *_fields(name, asked, config, rest), *rest]]
    if name in STAGES:
        config = find_config(name, asked.get('preset', ''))
        run = find_folder(asked.get('out', f'runs/microchat_{name}'))
        return [[f'--config={config}', f'--workdir={run}', *_fields(name, asked, config, rest, run), *rest, *fresh]]
    run = find_folder(asked.get('run', asked.get('out', DEFAULT_RUN)))
    config = describe_run(run, 'pretrain', asked.get('preset', ''))
    own = {word.partition('=')[0] for word in rest}  # absl would join two lists of one field
    fields = [word for word in _fields(name, asked, config, rest, run) if word.partition('=')[0] not in own]
    return [[f'--config={config}', f'--job={JOBS.get(name, name)}', f'--workdir={run}', *fields, *rest]]


def find_config(stage: str, variant: str = '') -> str:
    """configs/microchat_STAGE.py here or beside the package, with its variants."""
    name = f'microchat_{stage}.py'
    here = Path('configs') / name
    file = here if here.is_file() else Path(__file__).resolve().parents[2] / 'configs' / name
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
    from fjq.data.candles.files import CandleFiles

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
    out = {f.field: asked[key_of(f)] for f in COMMANDS[name] if f.field and key_of(f) in asked}
    if 'init_from' in out:
        out['init_from'] = find_folder(out['init_from'])
    if 'data.path' in out and _holds_ids(Path(out['data.path'])):
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
    from fjq.data.candles.files import CandleFiles
    from fjq.parallel import Parallel

    if not file.is_file():
        raise InputError('there is no such file', file=file, remedy='name the CSV of an asset')
    return CandleFiles(path=str(file), quality='repair', splits=False).read(Parallel(workers=1))[0].id


def _holds_ids(file: Path) -> bool:
    """Whether a text file is a list of tokens, as the original's all_tokens.txt: whole numbers and nothing else."""
    if file.suffix.lower() != '.txt' or not file.is_file():
        return file.name.endswith('tokens.txt')
    with open(file, errors='replace') as lines:
        return all(re.fullmatch(r'[\d\s]*', line) for line in itertools.islice(lines, 100))


def find_folder(path: str) -> str:
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
