"""How batches reach the loop and the harness: Grain iterators over whole batches."""

import grain

from fjq.task import Dataset, Shard

_READ = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)  # one index is a whole batch: threads only cost
_ALL = Shard()


def prefetch(dataset: grain.MapDataset) -> grain.IterDataset:
    """Whole batches, made one ahead in a thread. The state of its iterator is the data position."""
    return grain.experimental.ThreadPrefetchIterDataset(dataset.to_iter_dataset(_READ), prefetch_buffer_size=2)


def read_batches(dataset: Dataset, split: str, shard: Shard = _ALL) -> grain.IterDataset:
    """Every batch of a split once; of several processes that share the work, each names its shard."""
    return dataset.batches(split, shard).to_iter_dataset(_READ)
