"""writes paths of tokens, candles and prices after a prompt, with quantiles and a fan chart, to generated/."""

import io
import re
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from fjq.adopt import adopt_task
from fjq.atomic import write_atomic
from fjq.config import Experiment, nearest
from fjq.data.candles.files import times_after
from fjq.data.tokens.data import TokenDataset
from fjq.data.tokens.options import Generate
from fjq.errors import InputError
from fjq.fit import open_data
from fjq.keys import make_key
from fjq.log import say
from fjq.studies import Chart
from fjq.trained import Trained

LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)
SEED_ID, SEED_CLOSE = 'seed', 100.0
SHOWN = 64  # candles of the past in a fan chart


class Prompt(NamedTuple):
    """tokens int32 [C]; the close and the scale that candles go on from; times: of the candles up to it [N], NaT for a
    seed; past: their closes. Prices are those of a share of today."""

    id: str
    tokens: np.ndarray
    close: float
    scale: float
    times: np.ndarray
    past: np.ndarray

    @property
    def time(self) -> np.datetime64:
        """Of the last candle; NaT for a seed."""
        return self.times[-1]

    def ahead(self, count: int) -> np.ndarray:
        """Times of the next candles [count]."""
        return np.repeat(self.time, count) if np.isnat(self.time) else times_after(self.times, count)


class Paths(NamedTuple):
    """P paths after a prompt: tokens int32 [P, T], candles float64 [P, T, 4] as open, high, low, close; times [T]."""

    prompt: Prompt
    tokens: np.ndarray
    candles: np.ndarray
    times: np.ndarray

    def quantiles(self) -> np.ndarray:
        """Of the close at each step [T, 5]."""
        return np.quantile(self.candles[..., 3], LEVELS, axis=0, method='weibull').T


def run(config: Experiment, workdir: Path) -> None:
    """One table of paths and one of quantiles as CSV and parquet, and a fan chart a prompt. The same seed, weights and
    data give the same files."""
    config = adopt_task(config, workdir)
    dataset = open_data(config, workdir)
    options = read_options(config)
    trained = Trained.load(workdir, config.task)
    prompts = find_prompts(dataset, options)
    everyone = continue_prompts(make_sampler(trained, options), dataset, prompts, config.seed)
    folder = workdir / 'generated'
    for name, tables in (('paths', map(path_table, everyone)), ('quantiles', map(quantile_table, everyone))):
        write_table(pa.concat_tables(list(tables)), folder / name)
    for old in folder.glob('*.png'):  # of prompts that are not asked for now
        old.unlink()
    for paths in everyone:
        if chart := draw(paths):
            write_atomic(folder / f'{_safe(paths.prompt.id)}.png', chart)
        say(describe(paths))
    say(f'{options.paths} paths of {options.horizon} candles for {len(everyone)} prompts are in {folder}')


def read_options(config: Experiment) -> Generate:
    """Raises InputError where the data are not of tokens."""
    options = getattr(config.data, 'generate', None)
    if not isinstance(options, Generate):
        raise InputError(f'{config.name} has no tokens to go on from', file='--job', remedy='use a config of microchat')
    return options


def find_prompts(dataset: TokenDataset, options: Generate) -> list[Prompt]:
    """The tokens that are gone on from.

    Raises:
      InputError: an unknown asset, no such time, or seed tokens of another vocabulary.
    """
    if options.seed_tokens:
        tokens = np.array(options.seed_tokens)
        dataset.tokenizer.features(tokens)  # refuses what is not of its vocabulary, and may be of any size
        scale = float(np.median([a.scale[-1] for a in dataset.assets]))
        never = np.array(['NaT'], 'datetime64[ns]')
        return [Prompt(SEED_ID, tokens.astype(np.int32), SEED_CLOSE, scale, never, np.array([SEED_CLOSE]))]
    known = {a.candles.id: a for a in dataset.every}
    for name in options.assets:
        if name not in known:
            raise InputError(f'there is no asset {name!r}', column='data.generate.assets', remedy=nearest(name, known))
    names = dict.fromkeys(options.assets) or [a.candles.id for a in dataset.assets]
    return [_prompt(known[name], dataset.context, options) for name in names]


def _prompt(asset, context: int, options: Generate) -> Prompt:
    candles, time = asset.candles, options.time
    try:
        end = np.searchsorted(candles.time, np.datetime64(time), side='right') if time else len(candles)
    except ValueError as e:
        raise InputError(f'{time!r} is no time', column='data.generate.time', remedy='write it as 2024-12-31') from e
    if end < context:
        raise InputError(
            f'{candles.id} has {end} candles' + (f' up to {time}' if time else '') + f', a context is {context}',
            column='data.generate.time' if time else 'data.context',
            remedy='take a later time or a shorter context',
        )
    tokens, past = asset.prompt(slice(end - context, end)), candles.close[:end] * candles.unit
    return Prompt(candles.id, tokens, float(past[-1]), float(asset.scale[end]), candles.time[:end], past)


def make_sampler(trained: Trained, options: Generate) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """(prompts [R, C], keys [R]) -> ids [R, paths, horizon], compiled once for each shape."""
    asked = {'horizon': options.horizon, 'paths': options.paths, 'sampling': options}
    return jax.jit(lambda prompts, keys: trained.task.generate(trained.params, prompts, keys, **asked))


def continue_prompts(sampler: Callable, dataset: TokenDataset, prompts: list[Prompt], seed: int) -> list[Paths]:
    """Paths after prompts of one length. They depend on the seed and the prompt's name, and on no other prompt.

    Raises:
      InputError: they do not fit the model, before anything as long as the horizon is made.
    """
    keys = jnp.stack([make_key(seed, 'generate', zlib.crc32(p.id.encode()) & 0x7FFFFFFF) for p in prompts])
    ids_RxPxT = np.asarray(sampler(np.stack([p.tokens for p in prompts]), keys))
    out = []
    for prompt, ids in zip(prompts, ids_RxPxT, strict=True):
        start = np.full(len(ids), prompt.close), np.full(len(ids), prompt.scale)
        out.append(Paths(prompt, ids, dataset.tokenizer.decode(ids, *start), prompt.ahead(ids.shape[1])))
    return out


def path_table(paths: Paths) -> pa.Table:
    """One line a path and step."""
    P, T = paths.tokens.shape
    columns = {
        'id': [paths.prompt.id] * (P * T),
        'after': np.full(P * T, paths.prompt.time.astype('datetime64[s]')),
        'path': np.repeat(np.arange(P), T),
        'step': np.tile(np.arange(1, T + 1), P),
        'time': np.tile(paths.times.astype('datetime64[s]'), P),
        'token': paths.tokens.reshape(-1),
    }
    candles = paths.candles.reshape(-1, 4)
    return pa.table(columns | {name: candles[:, i] for i, name in enumerate(('open', 'high', 'low', 'close'))})


def quantile_table(paths: Paths) -> pa.Table:
    """One line a step: the mean and the quantiles of the close."""
    T = paths.tokens.shape[1]
    columns = {
        'id': [paths.prompt.id] * T,
        'after': np.full(T, paths.prompt.time.astype('datetime64[s]')),
        'step': np.arange(1, T + 1),
        'time': paths.times.astype('datetime64[s]'),
        'mean': paths.candles[..., 3].mean(0),
    }
    return pa.table(
        columns | {f'q{level * 100:02.0f}': q for level, q in zip(LEVELS, paths.quantiles().T, strict=True)}
    )


def write_table(table: pa.Table, stem: Path) -> None:
    """STEM.csv and STEM.parquet, each whole or not at all."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    for write, ending in ((pacsv.write_csv, 'csv'), (pq.write_table, 'parquet')):
        content = io.BytesIO()
        write(table, content)
        write_atomic(stem.with_suffix(f'.{ending}'), content.getvalue())


def draw(paths: Paths) -> bytes | None:
    """The last closes and the fan of those to come; None without matplotlib."""
    try:
        from fjq.plots import plot_chart
    except ImportError:
        return None
    past = paths.prompt.past[-SHOWN:]
    T = paths.tokens.shape[1]
    gap = np.full(len(past) - 1, np.nan)
    ahead = np.concatenate([np.full((1, len(LEVELS)), paths.prompt.close), paths.quantiles()])
    lines = {'median': np.concatenate([gap, ahead[:, 2]]), 'close': np.concatenate([past, np.full(T, np.nan)])}
    lines |= {f'{level:.0%}': np.concatenate([gap, ahead[:, i]]) for i, level in enumerate(LEVELS) if level != 0.5}
    chart = Chart(
        title=paths.prompt.id,
        x=np.arange(1 - len(past), T + 1),
        lines=lines,
        xlabel=f'candles after {format_moment(paths.prompt.time)}' if not np.isnat(paths.prompt.time) else 'candles',
        ylabel=f'price, {paths.prompt.id}',
        bands=(('5%', '95%'), ('25%', '75%')),
    )
    return plot_chart(chart)


def describe(paths: Paths) -> str:
    """The last close and the quantiles at the end of the paths."""
    close, ends = paths.prompt.close, paths.quantiles()[-1]
    parts = ', '.join(f'{level:.0%} {q:.6g} ({q / close - 1:+.1%})' for level, q in zip(LEVELS, ends, strict=True))
    dated = not np.isnat(paths.prompt.time)
    when = f' on {format_moment(paths.prompt.time)}' if dated else ''
    then = f' (about {format_moment(paths.times[-1])})' if dated else ''
    return f'{paths.prompt.id}: {close:.6g}{when}; {paths.tokens.shape[1]} candles later{then} {parts}'


def format_moment(time: np.datetime64) -> str:
    """A date where it is midnight, else to the minute."""
    day = time.astype('datetime64[D]')
    return str(day if day == time else time.astype('datetime64[m]'))


def _safe(name: str) -> str:
    return re.sub(r'[^\w.-]', '_', name)
