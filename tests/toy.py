"""A linear regression as a task: small enough to train in milliseconds, complete enough to test the loop."""

import dataclasses
import time

import grain
import jax
import jax.numpy as jnp
import numpy as np

from fjq import config
from fjq.forecast import Point
from fjq.task import Loss


@dataclasses.dataclass(kw_only=True)
class Toy:
    width: int = 8
    dropout: float = 0.0  # of the inputs, so that a run depends on its random keys

    def build(self):
        return ToyTask(self)


class ToyTask:
    def __init__(self, config: Toy):
        self.config = config

    def init(self, key):
        return {'linear': {'kernel': jax.random.normal(key, (self.config.width, 1)), 'bias': jnp.zeros(1)}}, {
            'seen': jnp.zeros((), jnp.float32)
        }

    def loss(self, params, extra, batch, key):
        if key is not None and self.config.dropout:
            kept = jax.random.bernoulli(key, 1 - self.config.dropout, batch['x'].shape)
            batch = batch | {'x': jnp.where(kept, batch['x'], 0)}
        error = jnp.where(batch['mask'], self._forward(params, batch)[:, 0] - batch['target'], 0)
        weight = batch['mask'].sum().astype(jnp.float32)
        metrics = {'mae': (jnp.abs(error).sum(), weight)}
        return Loss(jnp.square(error).sum(), weight, metrics, {'seen': extra['seen'] + weight})

    def predict(self, params, extra, batch, key=None):
        return Point(self._forward(params, batch))

    def _forward(self, params, batch):
        return batch['x'] @ params['linear']['kernel'] + params['linear']['bias'][None]


@dataclasses.dataclass(kw_only=True)
class ToyData:
    rows: int = 100
    batch: int = 16
    noise: float = 0.1
    width: int = 8
    poison_from: int = -1  # batches from this one on have NaN targets
    poison_to: int = 10**9
    masked_from: int = -1  # batches from this one on have no row that takes part
    masked_to: int = 10**9
    pause: float = 0.0  # seconds that each batch takes

    def open(self, cache, parallel):
        return ToyDataset(self)


class ToyDataset:
    def __init__(self, config: ToyData):
        self.config = config
        rng = np.random.Generator(np.random.Philox(7))
        self.x = rng.standard_normal((2 * config.rows, config.width)).astype(np.float32)
        self.y = (self.x.sum(1) + config.noise * rng.standard_normal(2 * config.rows)).astype(np.float32)

    def train(self, seed, shard):
        return grain.MapDataset.source(_Steps(self, seed, shard))

    def batches(self, split, shard):
        start = {'train': 0, 'valid': self.config.rows, 'test': self.config.rows}[split]
        return grain.MapDataset.source(_Rows(self, start, shard))

    def rows(self, split):
        n = self.config.rows
        start = 0 if split == 'train' else n
        return {
            'id': np.arange(n),
            'time': np.arange(start, start + n),
            'target': self.y[start : start + n, None].astype(np.float64),
            'valid': np.ones((n, 1), bool),
        }

    def history(self):
        return {'time': np.arange(2 * self.config.rows), 'level': self.y.astype(np.float64)}

    def fingerprint(self):
        return {'rows': self.config.rows, 'noise': self.config.noise}

    def pick(self, index, mask, row, shard):
        part = slice(shard.index * len(index) // shard.count, (shard.index + 1) * len(index) // shard.count)
        index, mask, row = index[part], mask[part], row[part]
        return {'x': self.x[index], 'target': self.y[index].copy(), 'mask': mask, 'row': row}


class _Steps:
    def __init__(self, data, seed, shard):
        self.data, self.seed, self.shard = data, seed, shard

    def __len__(self):
        return 2**31 - 1

    def __getitem__(self, step):
        c = self.data.config
        rng = np.random.Generator(np.random.Philox([self.seed, step]))
        index = rng.integers(0, c.rows, c.batch)
        batch = self.data.pick(index, np.ones(c.batch, bool), index.astype(np.int32), self.shard)
        if 0 <= c.poison_from <= step < c.poison_to:
            batch['target'][:] = np.nan
        if 0 <= c.masked_from <= step < c.masked_to:
            batch['mask'][:] = False
        time.sleep(c.pause)
        return batch


class _Rows:
    def __init__(self, data, start, shard):
        self.data, self.start, self.shard = data, start, shard

    def __len__(self):
        return -(-self.data.config.rows // self.data.config.batch)

    def __getitem__(self, i):
        c = self.data.config
        row = np.arange(i * c.batch, (i + 1) * c.batch)
        mask = row < c.rows
        index = self.start + np.where(mask, row, 0)
        return self.data.pick(index, mask, np.where(mask, row, -1).astype(np.int32), self.shard)


def experiment(**changes) -> config.Experiment:
    """A toy run of 20 updates; fields are set by dotted path with '__' for '.'."""
    e = config.Experiment(
        name='toy',
        task=Toy(),
        data=ToyData(),
        optim=config.Optim(learning_rate=0.1, warmup_steps=2),
        train=config.Train(steps=20, eval_every=5, save_every=5, log_every=1),
    )
    for path, value in changes.items():
        *parents, field = path.split('__')
        holder = e
        for p in parents:
            holder = getattr(holder, p)
        config.check_path(e, path.replace('__', '.'))
        setattr(holder, field, value)
    return e
