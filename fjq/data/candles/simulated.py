"""Candles where there are none, as CSV files in the cache: a simulated market, or a planted order in its returns."""

import dataclasses
import os
import tempfile
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv

from fjq.atomic import atomic
from fjq.data.candles.files import CandleFiles
from fjq.data.candles.windows import CandleWindowData
from fjq.data.synthetic.market import scaled
from fjq.data.synthetic.simulate import simulate
from fjq.data.tokens.data import TokenData
from fjq.errors import InputError
from fjq.parallel import Parallel
from fjq.task import Dataset
from fjq.tokenizers import Saved
from fjq.tokenizers.bins import BinsTokenizer

FILLED = 0.9  # of a range that planted returns fall into, so that rounding moves none to another
LEAST_SPREAD = 1e-3  # of the wicks, which planted candles do not have


@dataclasses.dataclass(kw_only=True)
class SimulatedCandles(CandleFiles):
    """Daily candles of a simulated market; `path` is its own. A base beside one of `Rows`, which candles become.

    Faults are repaired and none is taken for a split: simulated files have neither, those of a leak test have.
    """

    Rows: ClassVar[type[CandleFiles]]

    quality: str = 'repair'
    splits: bool = False
    start: str = '2018-01-01'  # of the simulation
    days: int = 700  # candles an asset
    simulated_assets: int = 6
    market_seed: int = 0

    @classmethod
    def like(cls, data: CandleFiles, **sizes) -> Self:
        """The rows of `data` on simulated candles; what `data` says of its files is not of these."""
        own = {f.name: getattr(cls(split=data.split), f.name) for f in dataclasses.fields(CandleFiles)}
        return data.as_kind(cls, **own, **sizes)

    def locate(self, cache: str | os.PathLike, parallel: Parallel) -> CandleFiles:
        """Simulates what is not there yet; the same settings on the simulated files."""
        return self.as_kind(self.Rows, path=str(self.write(Path(cache), parallel)))

    def write(self, cache: Path, parallel: Parallel) -> Path:
        """The folder of the candles, one CSV an asset."""
        count = self.simulated_assets
        market = scaled(
            'tiny',
            what=('daily',),
            start=self.start,
            days=self.days,
            seed=self.market_seed,
            stocks=max(count, 2),
            daily_symbols=count,
        )
        name = f'candles_{self.start}_{self.days}_{count}_{self.market_seed}'
        return simulate(cache / name, market, parallel)['daily']

    def open(self, cache: str | os.PathLike, parallel: Parallel) -> Dataset:
        return self.locate(cache, parallel).open(cache, parallel)

    def from_table(self, table: pa.Table) -> Dataset:
        with tempfile.TemporaryDirectory() as folder:  # what is fitted is fitted on the simulated candles
            return self.locate(folder, Parallel(workers=1)).from_table(table)


@dataclasses.dataclass(kw_only=True)
class SimulatedCandleWindowData(SimulatedCandles, CandleWindowData):
    """`CandleWindowData` on simulated candles."""

    Rows = CandleWindowData


@dataclasses.dataclass(kw_only=True)
class SimulatedTokenData(SimulatedCandles, TokenData):
    """`TokenData` on simulated candles."""

    Rows = TokenData


@dataclasses.dataclass(kw_only=True)
class PlantedTokenData(SimulatedTokenData):
    """Daily candles of which each return is drawn from one of `states` ranges of equal width, the ranges following a
    Markov chain of second order that no chain of first order shows.

    x_t = (x_{t-1} + x_{t-2} + e_t) mod K with P(e = 0) = 1 - noise and the other values equally likely. The pairs
    (x_{t-1}, x_{t-2}) are then uniform, so one token and one transition tell nothing: their entropies are log2 K.
    """

    days: int = 4000
    simulated_assets: int = 4
    states: int = 8  # K
    noise: float = 0.2
    sd: float = 0.02  # of a return

    def locate(self, cache: str | os.PathLike, parallel: Parallel) -> TokenData:
        """The settings with the planted ranges as tokens: ranges fitted to counts would blur what was planted."""
        path = Path(cache) / f'ranges_{self.states}_{self.sd}'
        self.make_tokenizer().save(path)
        return dataclasses.replace(super().locate(cache, parallel), tokenizer=Saved(path=str(path)))

    def make_tokenizer(self) -> BinsTokenizer:
        """One token a range."""
        bounds = self.sd * np.sqrt(12) * (np.arange(self.states + 1) / self.states - 0.5)
        middle, zero = (bounds[1:] + bounds[:-1]) / 2, np.zeros(self.states)
        table = np.stack([middle, middle, zero, zero, np.abs(middle)], -1)
        within = FILLED * self.sd / self.states
        spread = np.stack([np.full(self.states, s) for s in (within, within, LEAST_SPREAD, LEAST_SPREAD)], -1)
        return BinsTokenizer(1.0, 1.0, bounds[1:-1], np.zeros((self.states, 0)), table, spread)

    def write(self, cache: Path, parallel: Parallel) -> Path:
        if self.states < 2 or not 0 <= self.noise < 1:
            raise InputError(
                f'{self.states} states with noise {self.noise}',
                column='states',
                remedy='take 2 or more and less than 1',
            )
        name = f'planted_{self.start}_{self.days}_{self.simulated_assets}_{self.states}_{self.noise}_{self.sd}'
        folder = cache / f'{name}_{self.market_seed}'
        for asset in range(self.simulated_assets):
            path = folder / f'P{asset:03d}.csv'
            if not path.is_file():
                with atomic(path) as part:
                    pacsv.write_csv(self._candles(asset), part)
        return folder

    def information(self) -> float:
        """Bits a token that two tokens tell of the next: log2 K less the entropy of e."""
        k, q = self.states, self.noise
        spread = q * np.log2((k - 1) / q) if q else 0.0
        return float(np.log2(k) - spread + (1 - q) * np.log2(1 - q))

    def chain(self, asset: int) -> np.ndarray:
        """The ranges [days] that the returns of an asset come from, 0 the lowest."""
        rng = np.random.Generator(np.random.Philox(key=[self.market_seed, asset]))
        e = np.where(rng.random(self.days) < self.noise, rng.integers(1, self.states, self.days), 0)
        x = list(rng.integers(0, self.states, 2))
        for shock in e[2:]:
            x.append((x[-1] + x[-2] + shock) % self.states)
        return np.array(x[: self.days])

    def _candles(self, asset: int) -> pa.Table:
        rng = np.random.Generator(np.random.Philox(key=[self.market_seed, 1_000_000 + asset]))
        place = (self.chain(asset) + 0.5 + FILLED * (rng.random(self.days) - 0.5)) / self.states  # uniform in its range
        returns = self.sd * np.sqrt(12) * (place - 0.5)
        close = 100 * np.exp(np.cumsum(returns))
        opened = np.concatenate([[100.0], close[:-1]])
        time = np.datetime64(self.start, 'D') + np.arange(self.days)
        high, low = np.maximum(opened, close), np.minimum(opened, close)
        volume = np.full(self.days, 1_000_000)
        names = ('Date', 'Open', 'High', 'Low', 'Close', 'Volume')
        return pa.table([pa.array(c) for c in (time, opened, high, low, close, volume)], names=list(names))
