"""Candles of one asset or many as tokens: packed windows to train on, rows of a context and its future to judge by.

All assets are cut at one moment (`Split`), so that no asset's future is another one's past: returns of one day move
together. The tokenizer is fitted on the training span of all assets at `path`, whatever `assets` picks, so that the
stages of a model, which train on other assets, share it. A token is made of its candle and those before it.
"""

import dataclasses
import functools
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from fjq.config import nearest
from fjq.data.candles.files import CandleFiles, Candles, digest
from fjq.data.order import InOrder, Shuffled
from fjq.data.tokens.cache import encode, encode_cached
from fjq.data.tokens.options import Analyze, Generate
from fjq.data.tokens.windows import ForecastSource, Line, PackedSource, Runs
from fjq.data.windows import Split
from fjq.errors import InputError
from fjq.log import say
from fjq.parallel import Parallel
from fjq.task import Shard
from fjq.tokenizers import Bins, Saved, Tokenizer, load

if TYPE_CHECKING:
    import grain  # costs 0.6 s and brings jax

SPLITS = ('train', 'valid', 'test', 'all')
LAYOUTS = ('packed', 'forecast')
DAY = np.timedelta64(1, 'D')
PRICES = ('open', 'high', 'low', 'close')


@dataclasses.dataclass(kw_only=True)
class TokenData(CandleFiles):
    """Files of candles, a tokenizer, and how both become batches.

    `assets` picks those that train and are forecast; all at `path` are read, as the tokenizer is of all.
    """

    split: Split
    tokenizer: Any = dataclasses.field(default_factory=Bins)  # a dataclass of fjq.tokenizers, or what one opened as
    # Assets with a token of their own in front of every row and prompt, in place of the oldest candle's; '' among them
    # is the mark of whatever asset is not named. ('',) marks the start alone; () = no marks.
    marks: tuple[str, ...] = ()
    layout: str = 'packed'  # training batches: 'packed' windows, or rows that 'forecast'
    length: int = 256  # targets of a packed row
    context: int = 128  # candles of a prompt
    horizons: tuple[int, ...] = (1, 8, 32)  # candles ahead that are forecast; a row's future is as long as the largest
    stride: int = 1  # candles between the training rows of an asset
    eval_stride: int = 1  # the same for all other rows; the largest horizon scores every token once
    batch_rows: int = 32
    generate: Generate = dataclasses.field(default_factory=Generate)  # --job=generate and chat
    analyze: Analyze = dataclasses.field(default_factory=Analyze)  # --job=analyze

    def locate(self, cache: str | os.PathLike, parallel: Parallel) -> 'TokenData':
        """These settings with the files that they mean; simulated data write them here."""
        return self

    def open(self, cache: str | os.PathLike, parallel: Parallel) -> 'TokenDataset':
        """Reads the candles, opens or fits the tokenizer, and encodes what the cache does not hold.

        Raises:
          InputError: what is wrong with a file or a field.
        """
        self._check()
        candles = self.candle_files().read(parallel)
        chosen = self._choose([c.id for c in candles])
        tokenizer, train = self._open_tokenizer(candles)
        encoded = encode_cached(Path(cache), tokenizer, candles)
        V = tokenizer.vocabulary
        every = [Tokens(c, *e, t, self._mark(c.id, V)) for c, e, t in zip(candles, encoded, train, strict=True)]
        dataset = TokenDataset(self, tokenizer, [every[i] for i in chosen], every)
        dataset.say_what_it_is()
        return dataset

    def from_table(self, table: pa.Table) -> 'TokenDataset':
        """Candles in memory as a dataset with the split 'all'; the tokenizer is that of the files, which are read where
        it is fitted on them.

        Args:
          table: time, open, high, low, close, volume, and id with several assets.
        """
        self._check()
        if isinstance(self.tokenizer, Saved | Tokenizer):
            tokenizer = self.tokenizer.open()
        else:
            tokenizer, _ = self._open_tokenizer(self.candle_files().read(Parallel(workers=1)))
        names = ['symbol' if name == 'id' else name for name in table.column_names]
        candles = self.candle_files().from_table(table.rename_columns(names))
        V = tokenizer.vocabulary
        every = [Tokens(c, *encode(tokenizer, c), np.zeros(len(c), bool), self._mark(c.id, V)) for c in candles]
        return TokenDataset(self, tokenizer, every, every)

    def with_fitted(self, folder: str | os.PathLike) -> 'TokenData':
        """These settings with the tokenizer that `TokenDataset.save_fitted` wrote: a table needs no files then."""
        return self.as_kind(TokenData, tokenizer=load(folder))

    def candle_files(self) -> CandleFiles:
        """All files at `path`."""
        return self.as_kind(CandleFiles, assets=())

    def _open_tokenizer(self, candles: list[Candles]) -> tuple[Any, list[np.ndarray]]:
        """The tokenizer, and which candles of each asset are of the training span.

        Raises:
          InputError: it was fitted on candles after that span.
        """
        time = np.concatenate([c.time for c in candles])
        in_train = self.split.parts(time, time).train
        train = np.split(in_train, np.cumsum([len(c) for c in candles])[:-1])
        tokenizer = self.tokenizer.open(candles, train)
        if tokenizer.fitted_until >= self.split.starts()[0]:
            raise InputError(
                f'the tokenizer was fitted on candles up to {tokenizer.fitted_until.astype("datetime64[s]")}, training '
                f'ends with {self.split.train_end}',
                column='data.split.train_end',
                remedy='fit a tokenizer up to there, or train as long as it was fitted',
            )
        return tokenizer, train

    def _choose(self, ids: list[str]) -> list[int]:
        for name in self.assets:
            if name not in ids:
                raise InputError(
                    f'there is no asset {name!r}', file=self.path, column='assets', remedy=nearest(name, ids)
                )
        return [i for i, name in enumerate(ids) if not self.assets or name in self.assets]

    def _mark(self, asset: str, vocabulary: int) -> int:
        """The id in front of an asset's tokens, after those of the vocabulary; -1 where there are no marks."""
        if not self.marks:
            return -1
        name = asset if asset in self.marks else ''
        if name not in self.marks:
            raise InputError(f'{asset} has no mark', column='marks', remedy="name it, or add '' for all others")
        return vocabulary + self.marks.index(name)

    def _check(self) -> None:
        if len(set(self.marks)) < len(self.marks):
            raise InputError(f'{self.marks} has a name twice', column='marks', remedy='give each asset once')
        if self.marks and self.context < 2:
            raise InputError('a prompt is a mark alone', column='context', remedy='make it 2 or more')
        if self.layout not in LAYOUTS:
            raise InputError(f'{self.layout!r} is unknown', column='layout', remedy=nearest(self.layout, LAYOUTS))
        for field in ('length', 'context', 'stride', 'eval_stride', 'batch_rows'):
            if getattr(self, field) < 1:
                raise InputError(f'{getattr(self, field)} is too few', column=field, remedy='make it 1 or more')
        ahead = self.horizons
        if not ahead or min(ahead) < 1 or list(ahead) != sorted(set(ahead)):
            raise InputError(f'{ahead} are no horizons', column='horizons', remedy='give ascending numbers from 1 on')


@dataclasses.dataclass(frozen=True)
class Tokens:
    """An asset's candles with id int32 [N], scale float64 [N + 1] and in_train bool [N]; mark: of `TokenData.marks`."""

    candles: Candles
    id: np.ndarray
    scale: np.ndarray
    in_train: np.ndarray
    mark: int = -1

    def prompt(self, rows: slice) -> np.ndarray:
        """The tokens of `rows` as a model reads them: with the mark first, where there is one."""
        tokens = self.id[rows].copy()
        if self.mark >= 0:
            tokens[0] = self.mark
        return tokens


class TokenDataset:
    """`fjq.task.Dataset` of tokens. A row is a candle after which is forecast; splits: train, valid, test, and all.

    Attributes:
      tokenizer: what made the tokens.
      assets, every: those that train and are forecast; these and the others at the path.
      context, horizon: candles of a prompt and of the future after it.
    """

    def __init__(self, config: TokenData, tokenizer, chosen: list[Tokens], every: list[Tokens]):
        self.config, self.tokenizer = config, tokenizer
        self.context, self.horizon = config.context, max(config.horizons)
        self.assets = chosen
        self.every = every
        sizes = [len(a.id) for a in chosen]
        if max(sizes) < config.context:
            raise InputError(
                f'a context of {config.context} candles is longer than the data, {max(sizes)}',
                file=config.path or None,
                column='context',
                remedy='shorten it or give more candles',
            )
        returns = np.asarray(tokenizer.features(np.arange(tokenizer.vocabulary)))[:, 0]
        self._line = Line(
            token=np.concatenate([a.id for a in chosen]),
            close=np.concatenate([a.candles.close for a in chosen]),
            scale=np.concatenate([a.scale[1:] for a in chosen]),
            left=np.concatenate([np.arange(n)[::-1] for n in sizes]),
            returns=returns,
            decay=float(tokenizer.decay),
            mark=np.repeat(self._marks(), sizes) if config.marks else None,
        )
        self._time = np.concatenate([a.candles.time for a in chosen])
        self._asset = np.repeat(np.arange(len(chosen)), sizes)
        self._place = np.concatenate([np.arange(n) for n in sizes])

    def train(self, seed: int, shard: Shard) -> 'grain.MapDataset':
        """Endless; each epoch is all training tokens or rows in another order."""
        import grain

        if self.config.layout == 'packed':
            return grain.MapDataset.source(self._packed(seed, shard))
        order = Shuffled(np.arange(len(self._at('train'))), self.config.batch_rows, seed)
        return grain.MapDataset.source(self._forecasts('train', order, shard, 'all'))

    def batches(self, split: str, shard: Shard) -> 'grain.MapDataset':
        """Every row of a split once, in order. Only the tokens of the future count; the split 'all' holds none."""
        import grain

        order = InOrder(np.arange(len(self._at(split))), self.config.batch_rows)
        return grain.MapDataset.source(self._forecasts(split, order, shard, 'none' if split == 'all' else 'future'))

    def training_windows(self) -> int:
        """Rows an epoch."""
        return self._packed(0, Shard()).windows if self.config.layout == 'packed' else len(self._at('train'))

    def rows(self, split: str) -> dict[str, np.ndarray]:
        """id, time [N] (of the last candle of the context), scale [N] (the tokenizer's, of the next candle), target,
        valid, label_end [N, H], horizon [H] in candles. Targets are cumulative log returns of the closes."""
        at, ahead = self._at(split), np.array(self.config.horizons)
        valid = ahead <= self._line.left[at][:, None]
        there = np.where(valid, at[:, None] + ahead, at[:, None])
        log_close = np.log(self._line.close)
        return {
            'id': np.array([a.candles.id for a in self.assets])[self._asset[at]],
            'time': self._time[at],
            'scale': self._line.scale[at],
            'target': np.where(valid, log_close[there] - log_close[at][:, None], np.nan),
            'valid': valid,
            'label_end': np.where(valid, self._time[there], np.datetime64('NaT', 'ns')),
            'horizon': ahead,
        }

    def history(self) -> dict[str, np.ndarray]:
        """All candles at the path by time: time, id, open, high, low, close, volume, token, log_density [M]."""
        return self._history

    def fingerprint(self) -> dict[str, Any]:
        """Equal for equal batches, wherever the files are."""
        c = self.config
        settings = {f: getattr(c, f) for f in ('layout', 'length', 'context', 'stride', 'eval_stride', 'batch_rows')}
        return {
            'tokenizer': self.tokenizer.hash,
            'vocabulary': self.tokenizer.vocabulary,
            'candles': digest([a.candles for a in self.assets]),
            'assets': [a.candles.id for a in self.assets],
            **settings,
            'horizons': list(c.horizons),
            'split': dataclasses.asdict(c.split),
            **({'marks': list(c.marks)} if c.marks else {}),
        }

    def save_fitted(self, folder: str | os.PathLike) -> None:
        """Writes the tokenizer."""
        self.tokenizer.save(folder)

    def say_what_it_is(self) -> None:
        """A line of counts, and one each where assets have no rows, the tokenizer looks ahead, or prompts of validation
        reach into training."""
        c, parts = self.config, self._parts
        counts = ', '.join(f'{name} {len(parts[name]):,}' for name in ('train', 'valid', 'test'))
        train = sum(int(a.in_train.sum()) for a in self.assets)
        say(f'{len(self.assets)} assets, {self.tokenizer.vocabulary} tokens, {train:,} to train on; rows: {counts}')
        ids = np.array([a.candles.id for a in self.assets])
        for name, at in parts.items():
            if absent := ids[np.setdiff1d(np.arange(len(ids)), self._asset[at])].tolist():
                say(f'without rows in {name}: {", ".join(absent)}')
        if self.tokenizer.looks_ahead:
            say(f'the tokenizer {self.tokenizer.name} looks at the candle after each: no score on its tokens is honest')
        steps = [np.ptp(a.candles.time) / (len(a.id) - 1) for a in self.assets if len(a.id) > 1]
        days = c.context * max(steps) / DAY
        if c.split.embargo_days < days:
            say(
                f'the embargo of {c.split.embargo_days:g} days is shorter than a context, about {days:.0f}: the first '
                'prompts of validation and test begin before the part'
            )

    @functools.cached_property
    def _history(self) -> dict[str, np.ndarray]:
        every = self.every
        columns = {name: [getattr(a.candles, name) for a in every] for name in ('time', *PRICES, 'volume')}
        columns['id'] = [np.full(len(a.id), a.candles.id) for a in every]
        columns['token'] = [a.id for a in every]
        columns['log_density'] = [np.asarray(self.tokenizer.log_density(a.candles, a.id)) for a in every]
        whole = {name: np.concatenate(parts) for name, parts in columns.items()}
        order = np.argsort(whole['time'], kind='stable')
        return {name: values[order] for name, values in whole.items()}

    def _packed(self, seed: int, shard: Shard) -> PackedSource:
        runs = [(i, a.id[a.in_train]) for i, a in enumerate(self.assets) if a.in_train.any()]
        length = np.array([len(ids) for _, ids in runs], np.int64)
        if not (length > 1).any():
            raise InputError('no asset has two training candles', column='split', remedy='move train_end')
        tokens = np.concatenate([ids for _, ids in runs])
        asset = np.array([i for i, _ in runs])
        whole = Runs(tokens, asset, length, self._marks()[asset] if self.config.marks else None)
        return PackedSource(whole, self.config.length, self.config.batch_rows, seed, shard)

    def _marks(self) -> np.ndarray:
        return np.array([a.mark for a in self.assets], np.int32)

    def _forecasts(self, split: str, order, shard: Shard, scored: str) -> ForecastSource:
        c = self.config
        return ForecastSource(self._line, self._at(split), order, shard, c.context, c.horizons, scored)

    def _at(self, split: str) -> np.ndarray:
        """Places in the line of the rows of a split, by time, then asset."""
        if split not in SPLITS:
            raise InputError(f'unknown split {split!r}', remedy='choose one of ' + ', '.join(SPLITS))
        return self._every_row if split == 'all' else self._parts[split]

    @functools.cached_property
    def _every_row(self) -> np.ndarray:
        due = self._due(self.config.eval_stride) | (self._line.left == 0)  # today's forecast is wanted at any stride
        return self._in_order(due & (self._place >= self.context - 1))

    @functools.cached_property
    def _parts(self) -> dict[str, np.ndarray]:
        """Places of the rows of train, valid and test: each has a future, and that of a training row is of training."""
        due = (self._place >= self.context - 1) & (self._line.left >= min(self.config.horizons))
        at = self._in_order(due)
        left = np.minimum(self._line.left[at], self.horizon)
        parts = self.config.split.parts(self._time[at], self._time[at + left])
        train, rest = self._due(self.config.stride)[at], self._due(self.config.eval_stride)[at]
        picked = {'train': parts.train & train, 'valid': parts.valid & rest, 'test': parts.test & rest}
        for name, rows in picked.items():
            if not rows.any():
                raise InputError(f'the {name} part has no rows at this stride', column='stride', remedy='lower it')
        return {name: at[rows] for name, rows in picked.items()}

    def _due(self, stride: int) -> np.ndarray:
        return (self._place - (self.context - 1)) % stride == 0

    def _in_order(self, rows: np.ndarray) -> np.ndarray:
        at = np.flatnonzero(rows)
        return at[np.lexsort((self._asset[at], self._time[at]))]
