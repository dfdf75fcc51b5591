"""How batches reach the loop and the harness: Grain iterators over whole batches, and the gather on the device."""

from collections.abc import Callable

import grain
import jax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from fjq.task import Batch, Dataset, Shard

_READ = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)  # one index is a whole batch: threads only cost
_ALL = Shard()


def prefetch(dataset: grain.MapDataset) -> grain.IterDataset:
    """Whole batches, made one ahead in a thread. The state of its iterator is the data position."""
    return grain.experimental.ThreadPrefetchIterDataset(dataset.to_iter_dataset(_READ), prefetch_buffer_size=2)


def read_batches(dataset: Dataset, split: str, shard: Shard = _ALL) -> grain.IterDataset:
    """Every batch of a split once; of several processes that share the work, each names its shard."""
    return dataset.batches(split, shard).to_iter_dataset(_READ)


def read_tail(dataset: Dataset, split: str, first: int) -> list[Batch]:
    """The last batches of a split, from the one that the row `first` begins in."""
    batches, out = dataset.batches(split, _ALL), []
    for i in reversed(range(len(batches))):
        batch = batches[i]
        if batch['row'][batch['mask']].max(initial=-1) < first:
            break
        out.append(batch)
    return out[::-1]


def make_gather(dataset: Dataset, mesh: jax.sharding.Mesh | None = None) -> Callable[[Batch], Batch]:
    """Host batch -> the batch that the model reads.

    A dataset with `tables` and `gather` keeps its tables on the device (a copy on each of the mesh), and its batches
    hold only where to look; any other batch stays as it is.
    """
    if not hasattr(dataset, 'gather'):
        return lambda batch: batch
    if mesh is None:
        gather, tables = jax.jit(dataset.gather), jax.device_put(dataset.tables())
    else:
        gather = jax.jit(dataset.gather, out_shardings=NamedSharding(mesh, P('data')))
        tables = jax.device_put(dataset.tables(), NamedSharding(mesh, P()))
    return lambda batch: gather(tables, batch)
