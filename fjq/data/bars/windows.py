"""Windows of bars and the log returns that follow, gathered by index on the device.

A row is the close of a bar. The batch that the model reads (after `gather`):

  features float32 [B, T, V]     causal features of the window's bars, the oldest first, zeros after the last
  length int32 [B]               bars of the window
  bar_in_day int32 [B, T]        bars from the exchange's midnight to each bar
  day_of_week, day_of_month, day_of_year int32 [B]   0..6, 1..31, 1..366, of the window's last bar
  log_variance float32 [B, K]    of a bar, over several half-lives (fjq.data.bars.scale), at the window's end
  target float32 [B, H]          ln(C_{t+h} / C_t), h bars ahead; target_mask bool [B, H]
  mask bool [B], row int32 [B]

The host makes only start (row of the table at which the window begins), length, target, target_mask, mask and row.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from fjq.data.bars.features import find_features, opens_session
from fjq.data.bars.scale import BarScale, bar_variance, fit_scale, log_variances, scale_by_root
from fjq.data.bars.series import Bars
from fjq.data.bars.uniqueness import average_uniqueness
from fjq.data.clock import DAY, find_zone, read_clock, to_wall
from fjq.data.order import InOrder, Shuffled, take_share
from fjq.data.windows import Parts, split_at, walk_forward
from fjq.errors import InputError
from fjq.log import say
from fjq.task import Batch, Shard

if TYPE_CHECKING:
    import grain  # costs 0.6 s and brings jax

    from fjq.data.bars.migt import MigtData

SPLITS = ('train', 'valid', 'test', 'all')
VALID_SHARE = 0.2  # of the rows before a fold's test, the last ones, that validate


class BarWindows:
    """`fjq.task.Dataset` of windows of bars. A row of `rows(split)` is the close of a bar.

    Attributes:
      features: names of the V features. horizons: bars ahead [H]. window: T.
      bars_per_day: bars from midnight to midnight.
      bars: the bars.
    """

    def __init__(self, config: 'MigtData', bars: Bars, table: np.ndarray):
        """table: float32 [N, V], features of the bars."""
        self.config, self.bars = config, bars
        self.features, self.horizons = find_features(config.features), tuple(config.horizons)
        self.window, self.bars_per_day = config.window, config.bars_per_day
        self._table, self._clock = table, read_clock(bars.time, find_zone(config.timezone))
        self._log_variance = log_variances(bars, config.decay)
        ends, first = np.arange(len(bars)), config.warm_up()
        if config.span == 'clock':
            starts = np.searchsorted(bars.time, bars.time - config.window * bars.length, side='right')
        else:
            starts = ends - config.window + 1
        starts = np.maximum(starts, first)
        kept = np.flatnonzero(ends - starts + 1 >= config.min_bars)
        if not len(kept):
            raise InputError(
                f'no window of {config.window} bars has {config.min_bars}',
                file=config.path or None,
                column='min_bars',
                remedy="lower it, or set span='bars'",
            )
        self._end, self._start = kept, starts[kept]
        self._say_what_is_later()
        due = bars.time[kept] // bars.length % config.stride == 0  # on the clock, whichever bar the file begins with
        self._target, valid, self._last = self._label(kept)
        self._due, self._valid = due, valid & due[:, None]

    def train(self, seed: int, shard: Shard) -> 'grain.MapDataset':
        """Endless; each epoch is a permutation of the training windows, or of as many drawn by their uniqueness."""
        import grain

        weights = self.uniqueness() if self.config.sampling == 'uniqueness' else None
        order = Shuffled(self._places('train'), self.config.batch_rows, seed, weights)
        return grain.MapDataset.source(self._source('train', order, shard))

    def uniqueness(self) -> np.ndarray:
        """Average uniqueness of the labels of the training rows, each to its longest horizon that is valid [N]."""
        places = self._places('train')
        end = self._end[places]
        return average_uniqueness(end, np.where(self._valid[places], self._last[places], end[:, None]).max(1))

    def batches(self, split: str, shard: Shard) -> 'grain.MapDataset':
        """Every window of a split, in order."""
        import grain

        order = InOrder(self._places(split), self.config.batch_rows)
        return grain.MapDataset.source(self._source(split, order, shard))

    def tables(self) -> dict[str, np.ndarray]:
        """What windows are cut from, T rows of zeros at the end."""
        pad = lambda x: np.concatenate([x, np.zeros((self.window, *x.shape[1:]), x.dtype)])
        clock = self._clock
        return {
            'features': pad(self._table),
            'bar_in_day': pad(self._bar_in_day),
            'day_of_week': pad(clock.weekday),
            'day_of_month': pad(clock.day_of_month),
            'day_of_year': pad(clock.day_of_year),
            'log_variance': pad(self._log_variance.astype(np.float32)),
        }

    def gather(self, tables: dict[str, Any], batch: Batch) -> Batch:
        """The batch that the model reads, from `start` and `length`; a pure function of arrays."""
        import jax
        import jax.numpy as jnp

        valid_BxT = jnp.arange(self.window)[None] < batch['length'][:, None]

        def cut(name):
            return jax.vmap(lambda start: jax.lax.dynamic_slice_in_dim(tables[name], start, self.window))(
                batch['start']
            )

        last_B = batch['start'] + batch['length'] - 1
        names = ('day_of_week', 'day_of_month', 'day_of_year', 'log_variance')
        rest = {name: value for name, value in batch.items() if name != 'start'}
        return {
            'features': jnp.where(valid_BxT[..., None], cut('features'), 0),
            'bar_in_day': jnp.where(valid_BxT, cut('bar_in_day'), 0),
            **{name: tables[name][last_B] for name in names},
            **rest,
        }

    def rows(self, split: str) -> dict[str, np.ndarray]:
        """id, time (when the bar closed, UTC), hour (exchange, at which the bar began), scale (EWMA volatility of a
        bar) [N]; target, valid, label_end [N, H]; horizon [H], in bars. `all` has every bar whose window holds
        `min_bars`; of these the rows between those that the stride trains and scores are not valid."""
        places = self._places(split)
        end = self._end[places]
        return {
            'id': np.full(len(places), self.bars.id),
            'time': self.bars.closed[end].astype('datetime64[ns]'),
            'hour': self._clock.minute[end] // 60,
            'scale': np.exp(self._log_variance[end, 0] / 2),
            'target': self._target[places],
            'valid': self._valid[places],
            'label_end': self._label_end[places],
            'horizon': np.array(self.horizons),
        }

    def history(self) -> dict[str, np.ndarray]:
        """time (when each bar closed), open, high, low, close, volume, hour, bar_in_day [M]. Prices of futures are
        chained over rolls."""
        b = self.bars
        prices = {name: getattr(b, name) for name in ('open', 'high', 'low', 'close', 'volume')}
        clock = {'hour': self._clock.minute // 60, 'bar_in_day': self._bar_in_day}
        return {'time': b.closed.astype('datetime64[ns]'), **prices, **clock}

    @functools.cached_property
    def scale(self) -> BarScale:
        """The volatility of each horizon by `config.scale`, fitted on the training rows alone.

        Raises:
          InputError: a horizon has no training row with a target.
        """
        if self.config.scale == 'ewma':
            return scale_by_root(self.horizons, self.bars_per_day)
        places = self._places('train')
        end, valid = self._end[places], self._valid[places]
        self._check_targets(valid)
        total = np.cumsum(bar_variance(self.bars, breaks=True))
        ahead = np.where(valid, total[self._last[places]] - total[end][:, None], np.nan)
        return fit_scale(self._bar_in_day[end], self._log_variance[end], ahead, self.horizons, self.bars_per_day)

    def standard_quantiles(self, levels: tuple[float, ...]) -> np.ndarray:
        """Empirical quantiles [H, Q] of the targets of training rows in units of `scale`."""
        places = self._places('train')
        end, valid = self._end[places], self._valid[places]
        self._check_targets(valid)
        standard = self._target[places] / self.scale.volatility(self._bar_in_day[end], self._log_variance[end])
        return np.stack([np.quantile(standard[valid[:, h], h], levels) for h in range(len(self.horizons))])

    def _check_targets(self, valid: np.ndarray) -> None:
        if not valid.any(0).all():
            bars = self.horizons[int(valid.any(0).argmin())]
            raise InputError(f'no training row has a target {bars} bars ahead', column='horizons', remedy='drop it')

    def fingerprint(self) -> dict[str, Any]:
        """Equal for equal batches, wherever the file is."""
        c = self.config
        fields = ('minutes', 'window', 'span', 'min_bars', 'across_breaks', 'decay', 'scale', 'stride', 'batch_rows')
        settings = {name: getattr(c, name) for name in (*fields, 'timezone', 'fold', 'folds')}
        if c.sampling != 'uniform':  # what began before there was a choice goes on
            settings['sampling'] = c.sampling
        lists = {'features': list(self.features), 'horizons': list(self.horizons)}
        return {'bars': self.bars.digest(), **settings, **lists, 'split': dataclasses.asdict(c.split)}

    def counts(self) -> dict[str, int]:
        """Rows by what became of them."""
        return self._count(self._parts)

    @functools.cached_property
    def _bar_in_day(self) -> np.ndarray:
        return self._clock.minute // np.int32(self.config.minutes)

    @functools.cached_property
    def _label_end(self) -> np.ndarray:
        """When each target's last bar closed [N, H], NaT where it is not valid."""
        return np.where(self._valid, self.bars.closed[self._last].astype('datetime64[ns]'), np.datetime64('NaT', 'ns'))

    def _say_what_is_later(self) -> None:
        """A line where bars are newer than the newest row, so that its forecast is not taken for one of now."""
        if late := len(self.bars) - 1 - int(self._end[-1]):
            row, newest = np.datetime_as_string(self.bars.closed[[self._end[-1], -1]].astype('datetime64[ns]'), 'm')
            why = f'their windows hold fewer bars than data.min_bars={self.config.min_bars}'
            remedy = "a model trained with fewer, or with data.span='bars', forecasts them"
            say(f'the last {late} bars, up to {newest}, have no row, the newest is of {row}: {why}; {remedy}')

    def _label(self, end: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(target, valid, last bar) [N, H] of windows that end at bars `end` [N]. No target spans a roll."""
        b = self.bars
        last = end[:, None] + np.array(self.horizons)
        inside, last = last < len(b), np.minimum(last, len(b) - 1)
        session = np.cumsum(opens_session(b))
        valid = inside & (b.piece[last] == b.piece[end][:, None])
        if not self.config.across_breaks:
            valid &= session[last] == session[end][:, None]
        target = np.log(b.close)[last] - np.log(b.close)[end][:, None]
        return np.where(valid, target, np.nan), valid, last

    @functools.cached_property
    def _parts(self) -> dict[str, np.ndarray]:
        """Places of the rows of train, valid and test."""
        usable = np.flatnonzero(self._valid.any(1))
        if not self._due.any():
            what = f'none of {len(self._end)} windows ends on the clock at a multiple of {self.config.stride} bars'
            raise InputError(what, file=self.config.path or None, column='stride', remedy='make it less')
        if not len(usable):
            raise InputError('no row has a target', file=self.config.path or None, remedy='give more bars')
        if self.config.fold >= 0:
            found = self._walk(usable)
        else:
            time = self.bars.closed[self._end[usable]].astype('datetime64[ns]')
            found = self.config.split.parts(time, self._label_end[usable])
        parts = {name: usable[getattr(found, name)] for name in ('train', 'valid', 'test')}
        counts = ', '.join(f'{name} {count:,}' for name, count in self._count(parts).items())
        short = len(self.bars) - len(self._end)
        say(f'rows: {counts}; bars without a row, their windows hold fewer than data.min_bars: {short:,}')
        return parts

    def _count(self, parts: dict[str, np.ndarray]) -> dict[str, int]:
        used, usable = {name: len(rows) for name, rows in parts.items()}, int(self._valid.any(1).sum())
        return used | {'purged or unused': usable - sum(used.values()), 'without target': int(self._due.sum()) - usable}

    def _walk(self, usable: np.ndarray) -> Parts:
        """The fold's parts, rows of `usable`. Positions are bars: labels are purged by the bar in which they end, and
        the embargo is at least a day of bars."""
        c, end = self.config, self._end[usable]
        last = np.where(self._valid[usable], self._last[usable], end[:, None]).max(1)
        _, sizes = np.unique(to_wall(self.bars.time, find_zone(c.timezone)) // DAY, return_counts=True)
        gap = {'purge': 0, 'embargo': max(1, round(c.split.embargo_days)) * int(np.median(sizes))}
        least = max(len(usable) // (c.folds + 1) - gap['embargo'], 1)
        fold = walk_forward(end, last, folds=c.folds, min_train=least, **gap)[c.fold]
        cut = end[fold.train[int((1 - VALID_SHARE) * len(fold.train))]]
        rows = np.concatenate([fold.train, fold.test])
        parts = split_at(end[rows], last[rows], (cut, end[fold.test[0]]), **gap)
        return Parts(*(rows[part] for part in parts))

    def _places(self, split: str) -> np.ndarray:
        if split not in SPLITS:
            raise InputError(f'unknown split {split!r}', remedy='choose one of ' + ', '.join(SPLITS))
        return np.arange(len(self._end)) if split == 'all' else self._parts[split]

    def _source(self, split: str, order: Callable[[int], np.ndarray], shard: Shard) -> '_Source':
        places = self._places(split)
        row = np.full(len(self._end), -1, np.int32)
        row[places] = np.arange(len(places))
        columns = {
            'start': self._start.astype(np.int32),
            'length': (self._end - self._start + 1).astype(np.int32),
            'target': np.where(self._valid, self._target, 0).astype(np.float32),
            'target_mask': self._valid,
            'row': row,
        }
        return _Source(columns, order, shard)


@dataclasses.dataclass(frozen=True)
class _Source:
    """Random access to whole batches. columns: one entry a row; order: step -> rows [B], -1 = padding."""

    columns: dict[str, np.ndarray]
    order: Callable[[int], np.ndarray]
    shard: Shard

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, step: int) -> Batch:
        which = take_share(self.order(int(step)), self.shard)
        mask, which = which >= 0, np.maximum(which, 0)  # padding repeats the first window
        batch = {name: column[which] for name, column in self.columns.items()}
        batch['target_mask'] = batch['target_mask'] & mask[:, None]
        return batch | {'mask': mask, 'row': np.where(mask, batch['row'], -1).astype(np.int32)}
