"""The typed dataclasses that every config is made of. A config file returns one `Experiment`.

Every field can be set on the command line by its path: `--config.optim.learning_rate=3e-4`.
"""

import dataclasses
import difflib
import importlib
import json
import typing
from collections.abc import Callable
from typing import Any

from fjq.errors import InputError
from fjq.parallel import Parallel

ABSENT = 'absent'
LEVELS = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)  # quantiles that are forecast and scored, where nothing else is said
_EXAMPLES = {int: '(1, 5)', float: '(0.1, 0.9)', str: "('a', 'b')"}


@dataclasses.dataclass(kw_only=True)
class Optim:
    """AdamW with warm-up and cosine decay, both stepped per update (Loshchilov & Hutter, 2019), and Muon."""

    learning_rate: float = 1e-3  # peak
    final_learning_rate: float = 0.0  # at the last update
    warmup_steps: int = 0  # updates from 1 / warmup_steps of the peak to the peak
    betas: tuple[float, ...] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    clip_norm: float = 1.0  # of the global gradient; 0 = off
    # Ordered 'pattern=factor' rules over parameter paths; the first that matches counts, an uncovered path is an error.
    decay_rules: tuple[str, ...] = (r'(kernel|embedding)$=1', r'.*=0')  # weight decay: matrices only
    rate_rules: tuple[str, ...] = (r'.*=1',)  # learning rate; 0 freezes
    muon_rules: tuple[str, ...] = (r'.*=0',)  # 1 = orthogonalised momentum in place of Adam: hidden matrices only


@dataclasses.dataclass(kw_only=True)
class Train:
    """The length and rhythm of a run, counted in updates."""

    steps: int = 1000
    # Slices of a batch that one device runs one after the other (lax.scan); D devices need a D-th of them.
    micro_batches: int = 1
    log_every: int = 10
    eval_every: int = 100  # and at the start, before update 1: each checkpoint that is evaluated can be the best
    save_every: int = 100
    metric: str = 'loss'  # validation figure that picks the best checkpoint and stops early
    mode: str = 'min'  # 'min' or 'max' of the metric
    patience: int = 0  # evaluations without a better metric before the run stops; 0 = never
    ema: float = 0.0  # decay of the averaged weights that are evaluated and exported; 0 = off
    max_bad_steps: int = 3  # non-finite updates in a row that end the run
    keep_best: int = 1  # checkpoints kept by metric, besides the newest
    alarm: str = ''  # validation figure, with its parts NAME/..., whose fall says that the model collapsed; '' = none
    alarm_below: float = 0.0  # the run ends with an error where the figure or one of its parts is less
    # Training figure that the weights may not exceed, such as 'kl'; '' = none. The figure of an update is that of the
    # weights it began from, so an evaluation tries the next update too: what is beyond the budget is never the best.
    budget: str = ''
    budget_above: float = 0.0  # the run ends, done, at the first update with more


@dataclasses.dataclass(kw_only=True)
class Mesh:
    """Devices as a ('data', 'model') grid."""

    model: int = 1  # devices along 'model'; the others go to 'data'
    fsdp: bool = False  # cut parameters and optimiser state over 'data' too
    rules: tuple[str, ...] = ()  # ordered 'pattern=axis,axis,...' over parameter paths, '-' = not cut


@dataclasses.dataclass(kw_only=True)
class Evaluate:
    """What `--job=evaluate` scores and against what."""

    split: str = 'test'
    baselines: tuple[Any, ...] = ()  # dataclasses of fjq.baselines
    # A dataclass of fjq.calibration, fitted on the valid split; None = forecasts as they are, points with past errors.
    calibration: Any = None
    studies: tuple[Any, ...] = ()  # dataclasses of fjq.studies: further tables and charts
    levels: tuple[float, ...] = LEVELS
    loss: str = 'qlike'  # the loss whose difference is tested
    overlap: int = 1  # moments (rows of one time) that one target spans; 0 = counted for each horizon from its labels
    block: int = 2  # moments in a bootstrap block: about twice the overlap; 0 = twice the overlap of each horizon
    draws: int = 2000  # bootstrap draws


@dataclasses.dataclass(kw_only=True)
class Forecast:
    """What `--job=forecast` writes."""

    only_latest: bool = False  # the newest row of each `id` alone, for who waits for it; else all others after it


@dataclasses.dataclass(kw_only=True)
class Experiment:
    """One runnable experiment: a model (`task`), its data, and how to train and judge it."""

    name: str
    task: Any  # a dataclass with build() -> fjq.task.Task
    data: Any  # a dataclass with open(cache, parallel) -> fjq.task.Dataset
    optim: Optim = dataclasses.field(default_factory=Optim)
    train: Train = dataclasses.field(default_factory=Train)
    mesh: Mesh = dataclasses.field(default_factory=Mesh)
    evaluate: Evaluate = dataclasses.field(default_factory=Evaluate)
    forecast: Forecast = dataclasses.field(default_factory=Forecast)
    parallel: Parallel = dataclasses.field(default_factory=Parallel)
    job: str = 'train'
    seed: int = 0
    init_from: str = ''  # a workdir whose best parameters start this run
    cache: str = ''  # folder of caches shared by runs; '' = inside the workdir


def to_dict(config: Any) -> Any:
    """Nested plain values of a dataclass, JSON ready; a dataclass keeps its dotted type under `type`."""
    if dataclasses.is_dataclass(config):
        kind = type(config)
        fields = {f.name: to_dict(getattr(config, f.name)) for f in dataclasses.fields(config)}
        return {'type': f'{kind.__module__}.{kind.__qualname__}', **fields}
    if isinstance(config, tuple | list):
        return [to_dict(v) for v in config]
    if config is None or isinstance(config, str | int | float | bool):
        return config
    raise InputError(f'a config holds a {type(config).__name__}, which has no JSON form')


def from_dict(value: Any) -> Any:
    """The inverse of `to_dict`. Only dataclasses of this package are made, by their dotted type.

    Raises:
      InputError: a type from elsewhere, a field that the type does not have, or one that is absent.
    """
    if isinstance(value, list):
        return tuple(from_dict(v) for v in value)
    if not isinstance(value, dict):
        return value
    module, _, name = str(value.get('type', '')).rpartition('.')
    if not module.startswith('fjq.'):
        raise InputError(f'the config names the type {value.get("type")!r}, which is not of fjq')
    try:
        kind = getattr(importlib.import_module(module), name, None)
    except ImportError:
        kind = None
    if not (isinstance(kind, type) and dataclasses.is_dataclass(kind)):
        raise InputError(
            f'the config names the type {module}.{name}, which is no config dataclass',
            remedy='read it by the version of fjq that wrote it (manifest.json has its commit), or train again',
        )
    known = {f.name for f in dataclasses.fields(kind)}
    fields = {k: from_dict(v) for k, v in value.items() if k != 'type'}
    if extra := sorted(set(fields) - known):
        raise InputError(f'{name} has no field {extra[0]!r}', remedy=nearest(extra[0], known))
    needed = [f.name for f in dataclasses.fields(kind) if f.default is f.default_factory is dataclasses.MISSING]
    if absent := sorted(set(needed) - set(fields)):
        raise InputError(f'{name} lacks the field {absent[0]!r}')
    return kind(**fields)


def to_json(config: Experiment) -> str:
    return json.dumps(to_dict(config), indent=1, sort_keys=False) + '\n'


def from_json(text: str) -> Experiment:
    return from_dict(json.loads(text))


def find_changes(old: dict[str, Any], new: dict[str, Any], within: str = '') -> dict[str, tuple[Any, Any]]:
    """Dotted path -> (old, new) of the fields of two `to_dict`s that differ; ABSENT where only one has the field."""
    out = {}
    for name in {**old, **new}:
        was, is_ = old.get(name, ABSENT), new.get(name, ABSENT)
        if isinstance(was, dict) and isinstance(is_, dict):
            out |= find_changes(was, is_, f'{within}{name}.')
        elif was != is_:
            out[within + name] = was, is_
    return out


def describe_changes(changes: dict[str, tuple[Any, Any]]) -> str:
    """'FIELD: OLD, now NEW; ...' of what `find_changes` found."""
    return '; '.join(f'{n}: ' + ', now '.join(json.dumps(v)[:60] for v in pair) for n, pair in changes.items())


def check_elements(config: Any, within: str = '') -> None:
    """Raises InputError where an element of a tuple is not what its field's annotation says: the command's flags check
    the type of single values alone."""
    hints = typing.get_type_hints(type(config))
    for field in dataclasses.fields(config):
        value, hint, path = getattr(config, field.name), hints[field.name], within + field.name
        if dataclasses.is_dataclass(value):
            check_elements(value, f'{path}.')
        elif typing.get_origin(hint) is tuple and (kind := typing.get_args(hint)[0]) in _EXAMPLES:
            wanted = (int, float) if kind is float else kind
            wrong = [v for v in value if not isinstance(v, wanted) or isinstance(v, bool)]
            if wrong:
                raise InputError(
                    f'{wrong[0]!r} is no {kind.__name__}',
                    column=path,
                    remedy=f'give a list, as in --config.{path}="{_EXAMPLES[kind]}"',
                )


def settle(config: Experiment) -> Experiment:
    """The config with what follows from other fields filled in, by `follow(config)` of its task's dataclass. Done once
    flags are read and before anything is built, so that config.json has it."""
    return config.task.follow(config) if hasattr(config.task, 'follow') else config


def ask_levels(settings: Evaluate, levels: tuple[float, ...]) -> Evaluate:
    """Evaluation at the levels that a model forecasts: what names none of its own, and so has LEVELS, takes them.

    Raises:
      InputError: a calibration or study asks for levels beyond them.
    """

    def follow(part: Any) -> Any:
        own = getattr(part, 'levels', LEVELS)
        if own == LEVELS:
            return dataclasses.replace(part, levels=levels) if hasattr(part, 'levels') else part
        if part not in settings.baselines and (min(own) < levels[0] or max(own) > levels[-1]):
            raise InputError(
                f'{type(part).__name__}.levels {own} are asked of quantiles from {levels[0]} to {levels[-1]}',
                column='evaluate',
                remedy='ask for levels within them, or add them to task.levels',
            )
        return part

    parts = {name: tuple(follow(part) for part in getattr(settings, name)) for name in ('baselines', 'studies')}
    return dataclasses.replace(follow(settings), calibration=follow(settings.calibration), **parts)


def nearest(word: str, choices: typing.Iterable[str]) -> str:
    """'did you mean X' for a misspelt word, or the list of choices."""
    choices = sorted(choices)
    close = difflib.get_close_matches(word, choices, n=1, cutoff=0.5)
    return f'did you mean {close[0]!r}' if close else 'choose one of ' + ', '.join(choices)


def vary(config: Experiment, variant: str, variants: dict[str, Callable[[Experiment], None]]) -> None:
    """Applies comma-separated variants in the order of the table, whatever the order given: data and sizes come first
    there, what is more special later.

    Raises:
      InputError: an unknown variant.
    """
    given = [name for name in variant.split(',') if name]
    for name in given:
        if name not in variants:
            raise InputError(f'there is no variant {name!r}', remedy=nearest(name, variants))
    for name, apply in variants.items():
        if name in given:
            apply(config)


def check_path(config: Any, path: str) -> None:
    """Raises InputError where a dotted path names no field of the config, with the nearest right name."""
    holder, parts = config, path.split('.')
    for depth, part in enumerate(parts):
        if not dataclasses.is_dataclass(holder):
            raise InputError(f'--config.{path}: {".".join(parts[:depth])!r} has no fields')
        names = [f.name for f in dataclasses.fields(holder)]
        if part not in names:
            raise InputError(
                f'--config.{path}: {type(holder).__name__} has no field {part!r}', remedy=nearest(part, names)
            )
        holder = getattr(holder, part)
