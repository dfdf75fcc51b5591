"""The TCN's data: ticks of days on one side, realised volatility that follows on the other.

A row of a batch is a fragment of a day and predicts the labels of that day; the harness averages the fragments of a
day. `fjq.data.ticks.fragments` documents the batch.
"""

import dataclasses
import functools
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa

from fjq.atomic import write_atomic
from fjq.data.clock import SECOND
from fjq.data.order import InOrder, Shuffled
from fjq.data.ticks.bank import CLOSES, Bank, Framing, build_bank, frame_ticks, verify_bank
from fjq.data.ticks.files import REASONS, TickFiles, check_files, read_tickers, split_table
from fjq.data.ticks.fragments import (
    BatchSource,
    DayStore,
    Fragments,
    Labels,
    MemoryDays,
    cut_days,
    pick_bucket,
)
from fjq.data.ticks.frames import parse_frame
from fjq.data.ticks.top_stocks import TopStocks, check_list, last_whole_day
from fjq.data.volatility.realized import ComputeRv
from fjq.data.volatility.targets import TRADING_SHARE, Targets, read_targets
from fjq.data.windows import Parts, Split, split_at, walk_forward
from fjq.errors import InputError
from fjq.log import say
from fjq.parallel import Parallel
from fjq.task import Batch, Shard

if TYPE_CHECKING:
    import grain  # costs 0.6 s and brings jax, which processes that frame days do not need

TICKERS = 'tickers.txt'  # the list that a model was trained with, in its run
SPLITS = ('train', 'valid', 'test', 'all')
VALID_SHARE = 0.2  # of the days before a fold's test, the last ones, that validate


@dataclasses.dataclass(kw_only=True)
class TcnData(TickFiles):
    """Daily tick files, a file of daily realised volatility, and how both become batches."""

    split: Split
    targets: str = ''  # file with date, daily_rv and rv_{h}d_forward; '' = no labels
    horizons: tuple[int, ...] = (30,)  # days ahead, one output each
    horizon_days: str = 'calendar'  # what a horizon counts: 'calendar' or 'trading'
    short_windows: str = 'keep'  # labels of windows with too few days: 'keep', 'drop' or 'rescale'
    annualised: bool = False  # divide each label's sum by its days
    compute_labels: bool = False  # labels from daily_rv; else, with the plain settings above, from rv_{h}d_forward
    symbol: str = 'SPY'  # whose volatility it is: the `id` of the rows
    features: str = 'compat'  # 'compat' or 'v2', see fjq.data.ticks.frames
    frame: str = '10s'  # interval that makes a frame
    chunk_len: int = 256  # ticks in a chunk
    fold: int = -1  # of a walk forward, from 0; -1 = the split by dates
    folds: int = 5
    num_tickers: int = 0  # above 0: each tick's place in the file `tickers`, for an embedding of this size
    batch_rows: int = 20  # fragments in a batch
    chunk_buckets: tuple[int, ...] = (50, 100, 200)  # static chunks in a row; a fragment has at most the last
    frame_buckets: tuple[int, ...] = (50, 100, 200)  # static frames in a row; a fragment has at most the last
    rv: ComputeRv = dataclasses.field(default_factory=ComputeRv)  # --job=compute_rv
    top: TopStocks = dataclasses.field(default_factory=TopStocks)  # --job=top_stocks

    def locate(self, cache: str | os.PathLike, parallel: Parallel) -> 'TcnData':
        """These settings with the files that they mean; a simulated market writes them here."""
        return self

    def open(self, cache: str | os.PathLike, parallel: Parallel) -> 'TcnDataset':
        """Reads the labels and opens the chunk bank, framing what is not there yet.

        Raises:
          InputError: what is wrong with a file or a field.
        """
        self.check()
        if self.tickers and self.fold < 0:
            check_list(self.tickers, last_whole_day(self.split.train_end))
        labels = None
        if self.targets:
            labels = read_targets(
                self.targets,
                self.horizons,
                compute_labels=self.compute_labels,
                days=self.horizon_days,
                short_windows=self.short_windows,
                annualised=self.annualised,
            )
        bank = build_bank(cache, self.tick_files(), self._framing(), parallel)
        say(bank.summary())
        for why in bank.skipped.values():
            say(f'skipped: {why}')
        counts = [np.bincount(bank.array(i, 'frame'), minlength=d.frames) for i, d in enumerate(bank.days)]
        closes = {name.lower(): bank.closes(name) for name in CLOSES}
        dataset = TcnDataset(self, bank, bank.dates, counts, labels, closes, bank.content())
        if labels is not None:
            left_out = dataset.days_without_label()
            say(f'labels: {len(bank.days) - left_out} of {len(bank.days)} days have one')
        return dataset

    def from_table(self, table: pa.Table) -> 'TcnDataset':
        """Ticks of one or more days in memory as a dataset with the split 'all', without labels.

        Args:
          table: the columns of the config's daily files.
        """
        tickers, framing = self.check(), self._framing()
        days = split_table(table, self.tick_files(), tickers)
        dropped = {reason: sum(report.dropped[reason] for _, report in days) for reason in REASONS}
        if any(dropped.values()):
            say('ticks left out: ' + ', '.join(f'{n:,} by {reason}' for reason, n in dropped.items() if n))
        parts = [ticks for ticks, _ in days]
        frames = [frame_ticks(ticks, framing, tickers) for ticks in parts]
        dates = np.array([ticks.date for ticks in parts], 'datetime64[D]')
        counts = [np.bincount(f.frame, minlength=len(f.time)) for f in frames]
        return TcnDataset(self, MemoryDays(frames), dates, counts, None, {}, '')

    def with_fitted(self, folder: str | os.PathLike) -> 'TcnData':
        """These settings with the list of tickers that `TcnDataset.save_fitted` wrote."""
        return dataclasses.replace(self, tickers=str(Path(folder) / TICKERS))

    def tick_files(self) -> TickFiles:
        """The part of the settings that says where ticks are and which count."""
        return TickFiles(**{f.name: getattr(self, f.name) for f in dataclasses.fields(TickFiles)})

    def _framing(self) -> Framing:
        return Framing(self.features, self.frame, self.chunk_len, self.num_tickers > 0)

    def check(self) -> tuple[str, ...] | None:
        """Raises InputError where fields make no sense; gives the list of tickers."""
        check_files(self.tick_files())
        if not self.horizons or len(set(self.horizons)) < len(self.horizons) or min(self.horizons) < 1:
            raise InputError(
                f'{self.horizons} are no horizons',
                column='horizons',
                remedy='give at least one count of days, each once',
            )
        for field in ('chunk_buckets', 'frame_buckets'):
            buckets = getattr(self, field)
            if not buckets or min(buckets) < 1 or list(buckets) != sorted(set(buckets)):
                raise InputError(
                    f'{buckets} are no buckets', column=field, remedy='give ascending sizes such as (50, 100)'
                )
        for field in ('batch_rows', 'chunk_len', 'folds'):
            if getattr(self, field) < 1:
                raise InputError(f'{getattr(self, field)} is too few', column=field, remedy='make it 1 or more')
        if not -1 <= self.fold < self.folds:
            raise InputError(
                f'no fold {self.fold} of {self.folds}', column='fold', remedy='count from 0, or -1 for none'
            )
        tickers = read_tickers(self.tickers, self.stream)
        if self.num_tickers and (tickers is None or len(tickers) > self.num_tickers):
            raise InputError(
                f'{self.num_tickers} places for {len(tickers or ())} tickers',
                column='num_tickers',
                remedy='name a file of tickers that has no more lines than places',
            )
        return tickers


class DayBatches(NamedTuple):
    """One day in order. time: int64 [T], start of each frame, ns since 1970 UTC. batches: cover its frames in order."""

    date: np.datetime64
    time: np.ndarray
    batches: Iterator[Batch]


class TcnDataset:
    """`fjq.task.Dataset` of a stream. A row of `rows(split)` is a day; splits: train, valid, test, and all days."""

    def __init__(
        self,
        config: TcnData,
        store: DayStore,
        dates: np.ndarray,
        counts: list[np.ndarray],
        labels: Targets | None,
        closes: dict[str, np.ndarray],
        content: str,
    ):
        """dates [D] and counts [D] of [T], chunks of each frame, are of the store's days; closes: name -> [D]."""
        self.config, self.store, self.dates, self.labels, self.closes = config, store, dates, labels, closes
        self._frames = np.array([len(c) for c in counts], np.int64)
        self._content = content
        self.fragments: Fragments = cut_days(counts, config.chunk_buckets[-1], config.frame_buckets[-1], dates)
        shape = (len(dates), len(config.horizons))
        self._target, self._valid = np.full(shape, np.nan), np.zeros(shape, bool)
        self._label_end, self._steps = np.full(shape, 'NaT', 'datetime64[D]'), np.full(shape, np.nan)
        self._short, self._unended = np.zeros(shape, bool), np.zeros(shape, bool)
        if labels is not None:
            _, here, there = np.intersect1d(dates, labels.dates, return_indices=True)
            self._target[here], self._valid[here] = labels.target[there], labels.valid[there]
            self._label_end[here] = np.where(labels.valid[there], labels.label_end[there], np.datetime64('NaT', 'D'))
            self._steps[here] = labels.steps[there]
            self._short[here] = labels.short[there] & labels.valid[there]
            self._unended[here] = self._label_end[here] > labels.dates[-1]  # NaT compares false

    def train(self, seed: int, shard: Shard) -> 'grain.MapDataset':
        """Endless; each epoch is a permutation of all fragments of all training days."""
        import grain

        order = Shuffled(self._fragments_of(self._days('train')), self.config.batch_rows, seed)
        return grain.MapDataset.source(self._source('train', order, shard))

    def batches(self, split: str, shard: Shard) -> 'grain.MapDataset':
        """Every fragment of every day of a split, in order."""
        import grain

        order = InOrder(self._fragments_of(self._days(split)), self.config.batch_rows)
        return grain.MapDataset.source(self._source(split, order, shard))

    def day_batches(self, split: str = 'all') -> Iterator[DayBatches]:
        """The days of a split one by one, in batches of one shape for all, for embedding them.

        The vectors of a day are those of its batches where `frame_mask` is True, one after the other.
        """
        days, f = self._days(split), self.fragments
        rows = min(self.config.batch_rows, int(np.bincount(f.day)[days].max()))
        buckets = {
            'chunk_buckets': (pick_bucket(self.config.chunk_buckets, f.chunks.max()),),
            'frame_buckets': (pick_bucket(self.config.frame_buckets, f.frames.max()),),
        }
        for day in days:
            time = np.empty(self._frames[day], np.int64)
            self.store.read(day, 'time', 0, time)
            order = InOrder(self._fragments_of(day), rows)
            source = dataclasses.replace(self._source(split, order, Shard()), **buckets)
            yield DayBatches(self.dates[day], time, (source[i] for i in range(len(source))))

    def rows(self, split: str) -> dict[str, np.ndarray]:
        """id, time [N] (the day; the forecast is made at its end), horizon [H]; of the labels [N, H]: target, valid,
        label_end; the steps (days) whose variance each sums; whether its window is short of days, and unended when
        the file of volatility stops."""
        days = self._days(split)
        return {
            'id': np.full(len(days), self.config.symbol),
            'time': self.dates[days],
            'target': self._target[days],
            'valid': self._valid[days],
            'label_end': self._label_end[days],
            'steps': self._steps[days],
            'short': self._short[days],
            'unended': self._unended[days],
            'horizon': np.array(self.config.horizons),
        }

    def history(self) -> dict[str, np.ndarray]:
        """time [M] (days), daily_rv, and the closes of the index stream, NaN on days without one."""
        if self.labels is None:
            return {'time': self.dates, **self.closes}
        out = {'time': self.labels.dates, 'daily_rv': self.labels.daily_rv}
        _, here, there = np.intersect1d(self.dates, self.labels.dates, return_indices=True)
        for name, values in self.closes.items():
            if np.isfinite(values[here]).any():
                out[name] = np.full(len(self.labels.dates), np.nan)
                out[name][there] = values[here]
        return out

    def fingerprint(self) -> dict[str, Any]:
        """Equal for equal batches, wherever the files are and whenever the bank was built."""
        c = self.config
        labels = hashlib.sha256(np.where(self._valid, self._target, -1).tobytes()).hexdigest()[:16]
        fields = ('stream', 'horizons', 'features', 'frame', 'chunk_len', 'num_tickers', 'batch_rows', 'fold', 'folds')
        settings = {name: getattr(c, name) for name in (*fields, 'chunk_buckets', 'frame_buckets')}
        settings['frame'] = f'{parse_frame(c.frame) / SECOND:g}s'  # 60s and 1min are the same
        plain = {n: list(v) if isinstance(v, tuple) else v for n, v in settings.items()}
        if c.num_tickers:  # a vector of the embedding is that of the ticker in its place
            names = '\n'.join(read_tickers(c.tickers, c.stream))
            plain['tickers'] = hashlib.sha256(names.encode()).hexdigest()[:16]
        return {'chunks': self._content, 'labels': labels, **plain, 'split': dataclasses.asdict(c.split)}

    def save_fitted(self, folder: str | os.PathLike) -> None:
        """Writes the list of tickers, if there is one."""
        if self.config.tickers:
            write_atomic(Path(folder) / TICKERS, Path(self.config.tickers).read_bytes())

    def verify(self) -> None:
        """Raises InputError where the chunk bank does not hold what was written to it."""
        if isinstance(self.store, Bank) and (damaged := verify_bank(self.store)):
            raise InputError(
                f'{len(damaged)} arrays of the chunk bank are damaged',
                file=self.store.folder / damaged[0],
                remedy=f'remove {self.store.folder}: the next run frames its days again',
            )

    def days_without_label(self) -> int:
        """Days with ticks that take no part in train, valid and test."""
        return int(((self._frames > 0) & ~self._valid.any(1)).sum())

    def counts(self) -> dict[str, int]:
        """Days by what became of them."""
        used = {name: len(days) for name, days in self._parts.items()}
        empty, unlabelled = int((self._frames == 0).sum()), self.days_without_label()
        purged = len(self.dates) - empty - unlabelled - sum(used.values())
        return {'days_without_ticks': empty, 'days_without_label': unlabelled, **used, 'purged': purged}

    @functools.cached_property
    def _parts(self) -> dict[str, np.ndarray]:
        """Places of the days of train, valid and test."""
        usable = np.flatnonzero((self._frames > 0) & self._valid.any(1))
        if not len(usable):
            raise InputError(
                f'none of the {len(self.dates)} days with ticks has a label',
                file=self.config.targets or None,
                column='targets',
                remedy='give a file whose dates overlap those of the ticks',
            )
        found = self._walk(usable) if self.config.fold >= 0 else self._split(usable)
        parts = {name: usable[getattr(found, name)] for name in ('train', 'valid', 'test')}
        if self.config.fold >= 0 and self.config.tickers:
            check_list(self.config.tickers, (self.dates[parts['valid'][0]] - np.timedelta64(1, 'D')).item())
        self._say_windows(parts)
        return parts

    def _split(self, usable: np.ndarray) -> Parts:
        try:
            return self.config.split.parts(self.dates[usable], self._label_end[usable])
        except InputError as e:
            if self.config.stream != 'index' or e.column != 'split':
                raise
            remedy = f'{e.remedy}; the variant :sample fits the public two months'
            raise InputError(e.what, column=e.column, remedy=remedy) from e

    def _walk(self, usable: np.ndarray) -> Parts:
        """The fold's parts, rows of `usable`: a test block, and before it valid and train, purged like the split."""
        c, time, end = self.config, self.dates[usable], self._label_end[usable]
        gaps = {'purge': c.split.purge_days, 'embargo': c.split.embargo_days}
        lost = round(sum(gaps.values()) * TRADING_SHARE)
        least = max(len(usable) // (c.folds + 1) - lost, 1)
        fold = walk_forward(time, end, folds=c.folds, min_train=least, **gaps)[c.fold]
        cut = time[fold.train[int((1 - VALID_SHARE) * len(fold.train))]]
        rows = np.concatenate([fold.train, fold.test])
        parts = split_at(time[rows], end[rows], (cut, time[fold.test[0]]), **gaps)
        return Parts(*(rows[part] for part in parts))

    def _say_windows(self, parts: dict[str, np.ndarray]) -> None:
        """Counts the labels whose windows lack days: their sums are too low."""
        for what, flags in (('are short of days', self._short), ('end after the file does', self._unended)):
            for h, horizon in enumerate(self.config.horizons):
                counts = [f'{name} {flags[d, h].sum()} of {self._valid[d, h].sum()}' for name, d in parts.items()]
                if any(flags[d, h].any() for d in parts.values()):
                    say(f'labels {horizon} days ahead whose windows {what}: ' + ', '.join(counts))

    def _days(self, split: str) -> np.ndarray:
        if split not in SPLITS:
            raise InputError(f'unknown split {split!r}', remedy='choose one of ' + ', '.join(SPLITS))
        if split != 'all':
            return self._parts[split]
        days = np.flatnonzero(self._frames > 0)
        if not len(days):
            raise InputError('no day has ticks', remedy='check the tickers, the session and the files')
        return days

    def _fragments_of(self, days: np.ndarray) -> np.ndarray:
        return np.flatnonzero(np.isin(self.fragments.day, days))

    def _source(self, split: str, order, shard: Shard) -> BatchSource:
        days = self._days(split)
        row = np.full(len(self.dates), -1, np.int32)
        row[days] = np.arange(len(days))
        c = self.config
        return BatchSource(
            store=self.store,
            fragments=self.fragments,
            labels=Labels(np.where(self._valid, self._target, 0).astype(np.float32), self._valid, row),
            order=order,
            shard=shard,
            chunk_buckets=c.chunk_buckets,
            frame_buckets=c.frame_buckets,
            chunk_len=c.chunk_len,
            tickers=c.num_tickers > 0,
        )
