"""What a task and a dataset may define besides the contract, through the whole loop."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy
from toy import experiment

from fjq.checkpoint import read_params
from fjq.errors import InputError
from fjq.fit import check_fit
from fjq.task import Shard
from fjq.train import train
from fjq.trained import Trained, predict_rows


class Bound(toy.ToyTask):
    """Starts its bias at the mean of the data, keeps a copy of what it starts from, and is bound to the noise."""

    bound_to = ('noise',)

    def init(self, key):
        params, extra = super().init(key)
        return params, extra | {'start': jnp.zeros((self.config.width, 1))}

    def check(self, dataset):
        if dataset.config.width != self.config.width:
            raise InputError('the widths differ')

    def begin(self, params, extra, dataset):
        linear = params['linear'] | {'bias': jnp.full(1, dataset.y.mean())}
        return {'linear': linear}, extra | {'start': params['linear']['kernel']}

    def loss(self, params, extra, batch, key):
        loss = super().loss(params, extra, batch, key)
        return loss._replace(extra=loss.extra | {'start': extra['start']})


class OnDevice(toy.ToyDataset):
    """The rows lie on the device; a batch only says which."""

    def tables(self):
        return {'x': self.x, 'y': self.y}

    def gather(self, tables, batch):
        picked = {'x': tables['x'][batch['at']], 'target': tables['y'][batch['at']]}
        return picked | {'mask': batch['mask'], 'row': batch['row']}

    def pick(self, index, mask, row, shard):
        whole = super().pick(index, mask, row, shard)
        part = slice(shard.index * len(index) // shard.count, (shard.index + 1) * len(index) // shard.count)
        return {'at': index[part].astype(np.int32), 'mask': whole['mask'], 'row': whole['row']}


@dataclasses.dataclass(kw_only=True)
class BoundToy(toy.Toy):
    def build(self):
        return Bound(self)


@dataclasses.dataclass(kw_only=True)
class DeviceData(toy.ToyData):
    def open(self, cache, parallel):
        return OnDevice(self)


def test_batches_gathered_on_the_device_train_and_forecast_the_same(tmp_path):
    config = experiment(train__micro_batches=2)
    figures = [train(config, tmp_path / 'host')]
    config.data = DeviceData()
    assert set(config.data.open(None, None).train(0, Shard())[0]) == {'at', 'mask', 'row'}
    figures.append(train(config, tmp_path / 'device'))
    assert figures[0] == figures[1]
    weights = [read_params(tmp_path / name) for name in ('host', 'device')]
    jax.tree.map(np.testing.assert_array_equal, weights[0].params, weights[1].params)
    laws = []
    for data in (toy.ToyData(), DeviceData()):
        predict = Trained(config, weights[0].params, weights[0].extra).predict
        laws.append(predict_rows(predict, data.open(None, None), 'test')[0].mean())
    np.testing.assert_array_equal(*laws)


def test_begin_sees_the_data_and_the_loaded_weights(tmp_path):
    source = experiment()
    train(source, tmp_path / 'source')
    config = experiment(train__steps=1, optim__learning_rate=0.0, optim__warmup_steps=0, train__ema=0.5)
    config.task, config.init_from = BoundToy(), str(tmp_path / 'source')
    train(config, tmp_path / 'run')
    end, start = (read_params(tmp_path / name) for name in ('run', 'source'))
    np.testing.assert_allclose(end.params['linear']['bias'], [source.data.open(None, None).y.mean()], rtol=1e-6)
    np.testing.assert_array_equal(end.extra['start'], start.params['linear']['kernel'])


def test_begin_may_not_change_shapes(tmp_path, monkeypatch):
    monkeypatch.setattr(Bound, 'begin', lambda self, params, extra, dataset: (params, {}))
    with pytest.raises(TypeError, match='another tree'):
        train(dataclasses.replace(experiment(), task=BoundToy()), tmp_path)


def test_data_that_do_not_fit_are_refused(tmp_path):
    config = dataclasses.replace(experiment(data__width=9), task=BoundToy())
    with pytest.raises(InputError, match='the widths differ'):
        train(config, tmp_path / 'run')
    train(experiment(data__noise=0.2), tmp_path / 'other')
    config = dataclasses.replace(experiment(), task=BoundToy(), init_from=str(tmp_path / 'other'))
    with pytest.raises(InputError, match='trained with the noise 0.2, the data have 0.1'):
        train(config, tmp_path / 'run')
    check_fit(Bound(toy.Toy()), experiment(data__noise=0.2).data.open(None, None), tmp_path / 'other')


def test_an_alarm_ends_the_run_with_what_it_had(tmp_path):
    config = experiment(train__alarm='mae', train__alarm_below=1.7)
    with pytest.raises(InputError, match=r'mae of the valid split is 1\.\d+, below 1.7'):
        train(config, tmp_path)
    failure = json.loads((tmp_path / 'failure.json').read_text())
    assert failure['step'] % config.train.eval_every == 0 and failure['step'] < config.train.steps
    assert read_params(tmp_path).step == failure['step']


class InParts(toy.ToyTask):
    """A figure of each half of the rows: the alarm is that of the least, and a part without rows has none."""

    def loss(self, params, extra, batch, key):
        loss = super().loss(params, extra, batch, key)
        total, weight = loss.metrics['mae']
        return loss._replace(metrics=loss.metrics | {'mae/1': (0.1 * total, weight), 'mae/2': (0 * total, 0 * weight)})


@dataclasses.dataclass(kw_only=True)
class PartsToy(toy.Toy):
    def build(self):
        return InParts(self)


def test_an_alarm_is_not_raised_before_the_first_update(tmp_path):
    """Only training can make a model collapse; this one starts below what it must reach."""
    start = experiment(train__mode='max', train__metric='mae', optim__learning_rate=-0.5, optim__warmup_steps=0)
    train(start, tmp_path / 'start')
    lines = [json.loads(line) for line in (tmp_path / 'start' / 'metrics.jsonl').read_text().splitlines()]
    first, second = (line['valid/mae'] for line in lines if 'valid/mae' in line and line['step'] in (0, 5))
    assert first < second
    start.train.alarm, start.train.alarm_below = 'mae', (first + second) / 2
    train(start, tmp_path / 'watched')


def test_an_alarm_watches_every_part_of_its_figure(tmp_path):
    config = dataclasses.replace(experiment(train__alarm='mae', train__alarm_below=0.0), task=PartsToy())
    train(config, tmp_path / 'well')
    config.train.alarm_below = 0.5
    with pytest.raises(InputError, match=r'mae/1 of the valid split is 0\.\d+, below 0.5'):
        train(config, tmp_path / 'collapsed')


def test_a_budget_ends_the_run_well_and_for_good(tmp_path):
    config = experiment(
        train__budget='grad_norm', train__budget_above=0.0, train__eval_every=100, train__save_every=100
    )
    figures = train(config, tmp_path)
    lines = [json.loads(line) for line in (tmp_path / 'metrics.jsonl').read_text().splitlines()]
    assert figures['mae'] > 0 and max(line['step'] for line in lines) == 2  # metrics are read one step late
    assert train(config, tmp_path) == figures
    assert max(json.loads(line)['step'] for line in (tmp_path / 'metrics.jsonl').read_text().splitlines()) == 2


@pytest.mark.parametrize('field', ['alarm', 'budget'])
def test_a_misspelt_figure_is_named(field, tmp_path):
    with pytest.raises(InputError, match=f"train.{field} is 'mea'"):
        train(experiment(**{f'train__{field}': 'mea'}), tmp_path)
