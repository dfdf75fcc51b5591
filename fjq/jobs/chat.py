"""a loop: type an asset and a horizon, get a table of the prices that the model expects; an empty line ends it."""

import dataclasses
import sys
from pathlib import Path

from fjq.adopt import adopt_task
from fjq.config import Experiment
from fjq.errors import InputError
from fjq.fit import open_data
from fjq.jobs.generate import (
    LEVELS,
    Paths,
    continue_prompts,
    describe,
    find_prompts,
    format_moment,
    make_sampler,
    read_options,
)
from fjq.log import say
from fjq.trained import Trained

HELP = 'Type an asset and a number of candles, such as {asset} 20; "assets" lists them, an empty line ends.'


def run(config: Experiment, workdir: Path) -> None:
    """Reads stdin to its end, or to Ctrl-C. What is typed wrong is said in a line, and the loop goes on."""
    config = adopt_task(config, workdir)
    dataset, options = open_data(config, workdir), read_options(config)
    trained, samplers = Trained.load(workdir, config.task), {}
    names = [a.candles.id for a in (*dataset.assets, *dataset.every)]
    names = list(dict.fromkeys(names))  # those of the run first
    say(HELP.format(asset=names[0]))
    try:
        while words := read_words():
            try:
                if words == ['assets']:
                    say(' '.join(names))
                    continue
                asset, horizon = read_question(words, names, options.horizon)
                asked = dataclasses.replace(options, assets=(asset,), seed_tokens=(), horizon=horizon)
                prompts = find_prompts(dataset, asked)
                sampler = samplers.setdefault(horizon, make_sampler(trained, asked))
                say(answer(*continue_prompts(sampler, dataset, prompts, config.seed)))
            except InputError as e:
                say(e)
    except KeyboardInterrupt:
        say()  # what comes next begins a line


def read_words() -> list[str]:
    """Of the next line of stdin."""
    if sys.stdin.isatty():
        print('> ', end='', flush=True)
    return sys.stdin.readline().replace(',', ' ').split()


def read_question(words: list[str], names: list[str], horizon: int) -> tuple[str, int]:
    """An asset, in any case of letters, and candles; `horizon` where none are named.

    Raises:
      InputError: more words, or a horizon that is no number of candles.
    """
    by_upper = {name.upper(): name for name in names}
    asset = by_upper.get(words[0].upper(), words[0])
    if len(words) == 1:
        return asset, horizon
    try:
        count = int(words[1]) if len(words) == 2 else 0
    except ValueError:  # digits alone do not make a number, such as those of ²
        count = 0
    if count < 1:
        raise InputError(f'{" ".join(words)!r} is not understood', remedy=HELP.format(asset=names[0]).rstrip('.'))
    return asset, count


def answer(paths: Paths) -> str:
    """A sentence and a table of the quantiles, of ten steps at most."""
    quantiles, T = paths.quantiles(), paths.tokens.shape[1]
    steps = sorted({round(1 + i * (T - 1) / 9) for i in range(10)})
    head = f'{"candle":>8}  {"about":<16}' + ''.join(f'{level:>11.0%}' for level in LEVELS)
    when = [format_moment(time) for time in paths.times]
    rows = [f'{s:>8}  {when[s - 1]:<16}' + ''.join(f'{q:>11.6g}' for q in quantiles[s - 1]) for s in steps]
    return '\n'.join([describe(paths), head, *rows])
