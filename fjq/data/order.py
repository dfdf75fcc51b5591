"""The order of rows: endless and shuffled, or each once; and the part of a batch that a process makes."""

import dataclasses
import functools

import numpy as np

from fjq.errors import InputError
from fjq.task import Shard

STEPS = 2**31 - 1  # length of an endless training set


@dataclasses.dataclass(frozen=True)
class Shuffled:
    """An endless order: every epoch is a permutation of its own, and batches run on across its end.

    places: what is ordered [N]. rows: of a batch. weights: positive [N]; where given, an epoch has each place
    N weight / sum(weights) times, rounded up or down by chance (systematic sampling); else once.
    """

    places: np.ndarray
    rows: int
    seed: int
    weights: np.ndarray | None = None

    def __len__(self) -> int:
        return STEPS

    def __call__(self, step: int) -> np.ndarray:
        count = len(self.places)
        epoch, place = np.divmod(np.arange(step * self.rows, (step + 1) * self.rows), count)
        out = np.empty(self.rows, np.int64)
        for e in range(epoch[0], epoch[-1] + 1):
            here = epoch == e
            out[here] = self._draw(_permutation(self.seed, e, count)[place[here]], e)
        return self.places[out]

    def _draw(self, which: np.ndarray, epoch: int) -> np.ndarray:
        """The places of which an epoch's draws number `which` are."""
        if self.weights is None:
            return which
        chance = np.random.Generator(np.random.Philox(key=[self.seed, epoch]).jumped()).random()
        return np.minimum(np.searchsorted(self._edges, which + chance, side='right'), len(self.places) - 1)

    @functools.cached_property
    def _edges(self) -> np.ndarray:
        """Draws of an epoch up to and with each place."""
        total = np.cumsum(self.weights, dtype=np.float64)
        return total * (len(total) / total[-1])


@dataclasses.dataclass(frozen=True)
class InOrder:
    """Every place once, in order; the last batch is filled up with -1."""

    places: np.ndarray
    rows: int

    def __len__(self) -> int:
        return -(-len(self.places) // self.rows)

    def __call__(self, step: int) -> np.ndarray:
        part = self.places[step * self.rows : (step + 1) * self.rows]
        return np.concatenate([part, np.full(self.rows - len(part), -1, part.dtype)])


def take_share(whole: np.ndarray, shard: Shard) -> np.ndarray:
    """This process's rows of a batch [B] -> [B / count].

    Raises:
      InputError: the processes do not divide the rows.
    """
    if len(whole) % shard.count:
        raise InputError(
            f'{len(whole)} rows do not divide by {shard.count} processes',
            column='batch_rows',
            remedy='make it a multiple',
        )
    size = len(whole) // shard.count
    return whole[shard.index * size : (shard.index + 1) * size]


@functools.lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, count: int) -> np.ndarray:
    return np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(count)
