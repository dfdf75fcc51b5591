"""How batches reach the loop and the harness: Grain iterators over whole batches."""

import grain

from fjq.mesh import this_shard
from fjq.task import Dataset

_READ = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)  # one index is a whole batch: threads only cost


def prefetch(dataset: grain.MapDataset) -> grain.IterDataset:
    """Whole batches, made one ahead in a thread. The state of its iterator is the data position."""
    return grain.experimental.ThreadPrefetchIterDataset(dataset.to_iter_dataset(_READ), prefetch_buffer_size=2)


def read_batches(dataset: Dataset, split: str) -> grain.IterDataset:
    """This process's part of every batch of a split, each once."""
    return dataset.batches(split, this_shard()).to_iter_dataset(_READ)
