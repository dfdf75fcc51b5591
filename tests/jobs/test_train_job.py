"""The job of training lets the task say what came of its best weights, before it says how to go on."""

import jax
import numpy as np
import toy

from fjq.checkpoint import read_params
from fjq.jobs import train as job


def test_a_task_concludes_from_its_best_weights(tmp_path, monkeypatch, capsys):
    config, asked = toy.experiment(train__mode='max', train__metric='mae'), []  # the best is not the last

    def conclude(self, params, extra, dataset):
        asked.append((params, extra, dataset))
        return ['first line', 'second line']

    monkeypatch.setattr(toy.ToyTask, 'conclude', conclude, raising=False)
    monkeypatch.setattr('fjq.trained.read_config', lambda workdir: config)  # a config of fjq's own types alone is read
    job.run(config, tmp_path)
    ((params, extra, dataset),) = asked
    best = read_params(tmp_path)
    assert best.step < config.train.steps and isinstance(dataset, toy.ToyDataset)
    jax.tree.map(np.testing.assert_array_equal, (params, extra), (best.params, best.extra))
    said = capsys.readouterr().out.splitlines()
    assert said[-4:-2] == ['first line', 'second line'] and said[-2].startswith('validation: ')


def test_a_task_without_a_conclusion_says_where_the_run_lies(tmp_path, capsys):
    job.run(toy.experiment(train__steps=3), tmp_path)
    assert capsys.readouterr().out.splitlines()[-1].startswith(f'the run is in {tmp_path}; --job=evaluate')
