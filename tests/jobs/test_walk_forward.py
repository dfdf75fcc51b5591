"""A model a fold, each blind to its own block and what follows, and one judgement of all blocks."""

import dataclasses
import json
import sys

import grain
import numpy as np
import pyarrow.parquet as pq
import pytest
import toy

from fjq.baselines import Constant
from fjq.config import Evaluate, from_json
from fjq.errors import InputError
from fjq.jobs import walk_forward
from fjq.studies.coverage import Coverage


@dataclasses.dataclass(kw_only=True)
class FoldedData(toy.ToyData):
    fold: int = -1
    folds: int = 3

    def open(self, cache, parallel):
        return FoldedDataset(self)


class FoldedDataset(toy.ToyDataset):
    """200 rows: fold K tests on 40 rows from 80 + 40 K on, valid are the 20 before, train all before those."""

    def span(self, split):
        test = 80 + 40 * self.config.fold
        return {'train': (0, test - 20), 'valid': (test - 20, test), 'test': (test, test + 40)}[split]

    def rows(self, split):
        place = np.arange(*self.span(split))
        return {
            'id': np.full(len(place), 'X'),
            'time': place,
            'target': self.y[place, None].astype(np.float64),
            'valid': np.ones((len(place), 1), bool),
            'label_end': place[:, None] + 1,
            'horizon': np.array([1]),
        }

    def fingerprint(self):
        return super().fingerprint() | {'fold': self.config.fold}

    def train(self, seed, shard):
        size = self.config.batch
        draw = lambda step: np.random.Generator(np.random.Philox([seed, step])).integers(*self.span('train'), size)
        return grain.MapDataset.range(10**6).map(
            lambda step: self.pick(index := draw(step), np.ones(size, bool), index.astype(np.int32), shard)
        )

    def batches(self, split, shard):
        place, size = np.arange(*self.span(split)), self.config.batch
        out = []
        for i in range(0, len(place), size):
            row = np.arange(i, i + size)
            mask = row < len(place)
            index = place[np.where(mask, row, 0)]
            out.append(self.pick(index, mask, np.where(mask, row, -1).astype(np.int32), shard))
        return grain.MapDataset.source(out)


@pytest.fixture(scope='module')
def walked(tmp_path_factory):
    """(config, folder of the run): the toy as a part of fjq as long as this lasts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, 'fjq.toy', toy)
        patch.setattr(toy, 'FoldedData', FoldedData, raising=False)
        for kind in (toy.Toy, FoldedData):
            patch.setattr(kind, '__module__', 'fjq.toy')
        config = dataclasses.replace(
            toy.experiment(),
            data=FoldedData(),
            evaluate=Evaluate(
                baselines=(Constant(),), studies=(Coverage(),), loss='mse', overlap=0, block=0, draws=100
            ),
        )
        folder = tmp_path_factory.mktemp('walk')
        walk_forward.run(config, folder)
        yield config, folder


def test_every_block_is_forecast_once_by_the_model_of_its_fold(walked):
    _, folder = walked
    table = pq.read_table(folder / 'walk_forward' / 'forecasts' / 'test.parquet')
    mine = table.filter(np.asarray(table['model']) == 'toy')
    np.testing.assert_array_equal(mine['time'].to_numpy(), np.arange(80, 200))
    for fold in range(3):
        alone = pq.read_table(folder / 'walk_forward' / f'fold_{fold}' / 'forecasts' / 'test.parquet')
        alone = alone.filter(np.asarray(alone['model']) == 'toy')
        for column in ('point', 'q05', 'q90', 'target'):
            part = mine[column].to_numpy()[40 * fold : 40 * (fold + 1)]
            np.testing.assert_allclose(part, alone[column].to_numpy(), rtol=1e-6)


def test_the_pooled_scores_are_the_means_of_the_folds(walked):
    _, folder = walked
    found = json.loads((folder / 'walk_forward' / 'evaluation.json').read_text())
    parts = [json.loads((folder / 'walk_forward' / f'fold_{k}' / 'evaluation.json').read_text()) for k in range(3)]
    for name in ('toy', 'constant'):
        for loss in ('mse', 'mae'):
            mean = np.mean([p['scores'][name][loss][0] for p in parts])
            assert found['scores'][name][loss][0] == pytest.approx(mean, rel=1e-5)
    assert found['rows'] == [120] and found['differences']['constant'][0]['model'] == 'better'
    folds = found['studies']['folds']
    assert [line['fold'] for line in folds['tables']['Folds']] == [0, 1, 2]
    assert folds['sentences'] == ['Horizon 1, folds of 3 in which the model is ahead: 3 of constant.']
    assert 'coverage' in found['studies']
    assert 'is ahead: 3 of constant.' in (folder / 'walk_forward' / 'report.md').read_text()


def test_folds_of_other_data_are_refused(walked, monkeypatch):
    """Same times, other values: the forecasts that are there are not of these targets."""
    config, folder = walked
    before = (folder / 'walk_forward' / 'evaluation.json').read_bytes()
    stored = FoldedDataset.fingerprint
    monkeypatch.setattr(FoldedDataset, 'fingerprint', lambda self: stored(self) | {'bars': 'of today'})
    with pytest.raises(InputError, match=r'fold_0: the data changed since .*\(bars\).*--fresh'):
        walk_forward.run(config, folder)
    assert (folder / 'walk_forward' / 'evaluation.json').read_bytes() == before


def test_a_fold_that_was_scored_on_other_data_than_it_was_trained_on_is_not_done(walked):
    _, folder = walked
    fold = folder / 'walk_forward' / 'fold_0'
    one = from_json((fold / 'config.json').read_text())
    assert walk_forward.is_done(one, fold)
    found = (fold / 'evaluation.json').read_text()
    (fold / 'evaluation.json').write_text(json.dumps(json.loads(found) | {'changed': ['bars']}))
    assert not walk_forward.is_done(one, fold)
    (fold / 'evaluation.json').write_text(found)


def test_a_finished_fold_is_not_done_again(walked, capsys, monkeypatch):
    config, folder = walked
    (folder / 'walk_forward' / 'fold_1' / 'evaluation.json').unlink()
    done, train = [], walk_forward.train
    monkeypatch.setattr(walk_forward, 'train', lambda one, run: done.append(one.data.fold) or train(one, run))
    walk_forward.run(config, folder)
    assert done == [1]
    assert 'fold 0 is done' in capsys.readouterr().out
    other = dataclasses.replace(config, evaluate=dataclasses.replace(config.evaluate, draws=50))
    walk_forward.run(other, folder)
    assert done == [1, 0, 1, 2]


def test_data_without_folds_are_refused(tmp_path):
    with pytest.raises(InputError, match='not cut into folds'):
        walk_forward.run(toy.experiment(), tmp_path)
