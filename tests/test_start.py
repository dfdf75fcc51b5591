"""The start of a run is evaluated and kept like any other step."""

import json
import math

import jax
import numpy as np
import pytest
from toy import experiment

from fjq import train as loop
from fjq.checkpoint import best_step, read_params
from fjq.jobs import train as job
from fjq.train import train


def losses(workdir):
    lines = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
    return {line['step']: line['valid/loss'] for line in lines if 'valid/loss' in line}


def test_a_fine_tuning_that_only_makes_things_worse_keeps_what_it_began_from(tmp_path, capsys):
    source, run = tmp_path / 'source', tmp_path / 'run'
    figures = train(experiment(train__ema=0.8), source)
    job.run(experiment(init_from=str(source), optim__learning_rate=-0.02, train__ema=0.5), run)
    found = losses(run)
    assert list(found) == [0, 5, 10, 15, 20] and min(found, key=found.get) == 0
    assert found[0] == pytest.approx(figures['loss'], rel=1e-6)
    best, old = read_params(run), read_params(source)
    assert best.step == 0
    jax.tree.map(np.testing.assert_array_equal, (best.params, best.extra), (old.params, old.extra))
    assert 'loss of the valid split was best at the start' in capsys.readouterr().out


def test_a_start_that_is_bettered_is_not_spoken_of(tmp_path, capsys):
    job.run(experiment(), tmp_path)
    assert best_step(tmp_path / 'checkpoints') == 20 and 'best at the start' not in capsys.readouterr().out


def test_a_start_without_a_figure_is_not_held_against_the_run(tmp_path, monkeypatch):
    """A metric that is not finite before the first update is no evaluation without an improvement."""
    figures = loop._Loop._validation_figures
    monkeypatch.setattr(
        loop._Loop, '_validation_figures', lambda self: figures(self) | ({} if self.step else {'loss': math.nan})
    )
    train(experiment(train__patience=1), tmp_path)
    assert list(losses(tmp_path)) == [0, 5, 10, 15, 20] and best_step(tmp_path / 'checkpoints') == 20
