"""What is set of a model after its training reaches the forecasts, in every job that makes some."""

import json

import command
import numpy as np
import pyarrow.parquet as pq
import pytest

CONFIG = '--config=configs/microchat_pretrain.py:tiny'


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp('run')
    short = '--config.train.steps=3', '--config.optim.warmup_steps=0', '--config.task.paths=8'
    assert command.run(CONFIG, f'--workdir={folder}', *short) == 0
    return folder


def launch(run, job, *fields):
    assert command.run(CONFIG, f'--job={job}', f'--workdir={run}', *(f'--config.{f}' for f in fields)) == 0


def test_scores_are_those_of_the_sampling_that_is_asked_for(run):
    found = []
    for fields in ((), ('task.paths=8',), ('task.paths=4',), ('task.paths=4', 'task.sampling.temperature=0.0')):
        launch(run, 'evaluate', *fields)
        found.append(json.loads((run / 'evaluation.json').read_text())['scores']['microchat_pretrain']['crps'])
    assert found[0] == found[1] != found[2] != found[3]
    assert json.loads((run / 'config.json').read_text())['task']['paths'] == 8


def test_a_forecast_of_the_likeliest_tokens_has_no_width(run):
    width = []
    for temperature in (1.0, 0.0):
        launch(run, 'forecast', 'forecast.only_latest=true', f'task.sampling.temperature={temperature}')
        table = pq.read_table(run / 'forecasts' / 'latest.parquet')
        width.append(np.abs(table['q95'].to_numpy() - table['q05'].to_numpy()).max())
    assert width[0] > 0 == width[1]
