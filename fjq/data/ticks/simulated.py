"""The TCN's data where there are none: a simulated market, written once to the cache, then read like any other."""

import dataclasses
import os
from pathlib import Path

from fjq.data.synthetic.market import Market
from fjq.data.synthetic.simulate import simulate
from fjq.data.ticks.tcn import TcnData, TcnDataset
from fjq.errors import InputError
from fjq.parallel import Parallel


@dataclasses.dataclass(kw_only=True)
class SimulatedTcnData(TcnData):
    """`TcnData` whose files a simulator writes; `root` and `targets` are its own."""

    market: Market

    def locate(self, cache: str | os.PathLike, parallel: Parallel) -> TcnData:
        """Simulates what is not there yet; the same settings on the simulated files."""
        if self.stream not in self.market.what:
            raise InputError(
                f'the market simulates no {self.stream}, only ' + ', '.join(w for w in self.market.what if w != 'rv'),
                column='data.stream',
                remedy=f'use configs/tcn_{self.stream}.py',
            )
        paths = simulate(Path(cache) / 'market', self.market, parallel)
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(TcnData)}
        return TcnData(**fields | {'root': str(paths[self.stream]), 'targets': str(paths['rv'])})

    def open(self, cache: str | os.PathLike, parallel: Parallel) -> TcnDataset:
        return self.locate(cache, parallel).open(cache, parallel)
