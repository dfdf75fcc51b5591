"""MIGT-TVDT's data: a file of bars and how it becomes windows (fjq.data.bars.windows documents the batch)."""

import dataclasses
import os

import pyarrow as pa

from fjq.data.bars.features import compute_features, find_features, warm_up
from fjq.data.bars.files import BarFile
from fjq.data.bars.series import Bars, hold_to_hours, resample
from fjq.data.bars.table import read_or_compute
from fjq.data.bars.windows import BarWindows
from fjq.data.clock import find_zone
from fjq.data.windows import Split
from fjq.errors import InputError
from fjq.log import say
from fjq.parallel import Parallel

SPANS = ('clock', 'bars')
SCALES = ('seasonal', 'ewma')
SAMPLINGS = ('uniform', 'uniqueness')


@dataclasses.dataclass(kw_only=True)
class MigtData(BarFile):
    """A file of bars and how it becomes windows."""

    split: Split
    minutes: int = 5  # of a bar; shorter ones in the file are put together
    session: str = ''  # exchange hours to keep, such as '09:30-16:00'; '' = all
    features: tuple[str, ...] = ('scaled24',)  # sets and features of fjq.data.bars.features
    horizons: tuple[int, ...] = (3, 6, 12, 24, 48)  # bars ahead
    window: int = 288  # T, slots
    span: str = 'clock'  # a window holds the bars of the last T bars' 'clock' time, or the last T 'bars' over any break
    min_bars: int = 48  # least bars of a window
    across_breaks: bool = True  # whether targets may span a break of more than half an hour
    scale: str = 'seasonal'  # that quantiles are units of: fitted on training rows (fjq.data.bars.scale), or 'ewma'
    decay: float = 0.97  # of the EWMA volatility, a bar
    stride: int = 1  # bars of the clock between rows of training and scoring; every bar with a window is forecast
    sampling: str = 'uniform'  # of training rows: each once an epoch, or in proportion to the 'uniqueness' of its label
    batch_rows: int = 128
    fold: int = -1  # of a walk forward, from 0; -1 = the split by dates
    folds: int = 5

    @property
    def bars_per_day(self) -> int:
        """Bars from midnight to midnight."""
        if self.minutes < 1 or 1440 % self.minutes:
            raise InputError(
                f'{self.minutes} minutes do not divide a day', column='data.minutes', remedy='take 5, 15, 30 or 60'
            )
        return 1440 // self.minutes

    def locate(self, cache: str | os.PathLike, parallel: Parallel) -> 'MigtData':
        """These settings with the files that they mean; simulated bars are written here."""
        return self

    def open(self, cache: str | os.PathLike, parallel: Parallel) -> BarWindows:
        """Reads the bars, and computes the features that the cache does not hold yet.

        Raises:
          InputError: what is wrong with the file or a field.
        """
        names = self.check()
        bars = self._prepare(self.read())
        say(f'{bars.id}: {len(bars):,} bars of {self.minutes} minutes')
        return BarWindows(self, bars, read_or_compute(cache, bars, names))

    def from_table(self, table: pa.Table) -> BarWindows:
        """Bars in memory as rows of the split 'all'."""
        names, bars = self.check(), self._prepare(super().from_table(table))
        return BarWindows(self, bars, compute_features(bars, names))

    def _prepare(self, bars: Bars) -> Bars:
        bars = resample(hold_to_hours(bars, self.session, self.timezone), self.minutes, self.timezone)
        needed = self.warm_up() + self.min_bars
        if len(bars) < needed:
            raise InputError(
                f'{len(bars)} bars of {self.minutes} minutes are too few for one window',
                file=self.path or None,
                remedy=f'give {needed} or more, {self.min_bars} of them in the window and the others before it',
            )
        return bars

    def warm_up(self) -> int:
        """Bars before the first of any window: those that features and volatility need."""
        return max(warm_up(find_features(self.features)), int(1 / (1 - self.decay)))

    def check(self) -> tuple[str, ...]:
        """Raises InputError where fields make no sense; gives the names of the features."""
        for field in ('window', 'min_bars', 'stride', 'batch_rows', 'folds'):
            if getattr(self, field) < 1:
                raise InputError(f'{getattr(self, field)} is too few', column=field, remedy='make it 1 or more')
        if self.min_bars > self.window:
            raise InputError(
                f'windows of {self.window} bars never have {self.min_bars}', column='min_bars', remedy='make it less'
            )
        if not self.horizons or list(self.horizons) != sorted(set(self.horizons)) or self.horizons[0] < 1:
            raise InputError(
                f'{self.horizons} are no horizons', column='horizons', remedy='give ascending counts of bars'
            )
        if not 0 < self.decay < 1:
            raise InputError(f'a decay of {self.decay}', column='decay', remedy='give a number between 0 and 1')
        if not -1 <= self.fold < self.folds:
            raise InputError(
                f'no fold {self.fold} of {self.folds}', column='fold', remedy='count from 0, or -1 for none'
            )
        for field, choices in (('span', SPANS), ('scale', SCALES), ('sampling', SAMPLINGS)):
            value = getattr(self, field)
            if value not in choices:
                raise InputError(f'unknown choice {value!r}', column=field, remedy='choose ' + ' or '.join(choices))
        find_zone(self.timezone)
        return find_features(self.features)
