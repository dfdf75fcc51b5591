"""The model that a later job works with: as it was trained, but for what may be set after it."""

import json
from types import SimpleNamespace

import command
import pytest

from fjq import launch
from fjq.adopt import adopt_task
from fjq.config import to_json
from fjq.launch import load_config

PRETRAIN = 'configs/microchat_pretrain.py'


@pytest.fixture
def adopted(tmp_path, monkeypatch, capsys):
    """The task that a job works with after the run in `tmp_path` was trained with fields of its own, and what was said:
    (--config.* flags, config) -> (exit code, task, words)."""
    config = load_config(PRETRAIN, 'tiny')
    config.task.paths, config.task.gpt.dropout = 8, 0.1
    (tmp_path / 'config.json').write_text(to_json(config))
    seen = []
    job = SimpleNamespace(run=lambda config, workdir: seen.append(adopt_task(config, workdir).task))
    monkeypatch.setattr(launch, 'find_job', lambda name: job)

    def ask(*fields, config=f'{PRETRAIN}:tiny'):
        seen.clear()
        code = command.run(f'--config={config}', f'--workdir={tmp_path}', *(f'--config.task.{f}' for f in fields))
        said = capsys.readouterr()
        return code, seen[0] if seen else None, said.out + said.err

    return ask


def test_a_trained_model_stays_as_it_was_trained_whatever_its_file_says_now(adopted, tmp_path):
    code, task, said = adopted()
    assert (code, task.paths, task.gpt.dropout, said) == (0, 8, 0.1, '')


def test_how_forecasts_are_drawn_can_be_set_after_training(adopted, tmp_path):
    flags = 'paths=4', 'sampling.temperature=0.5', 'gpt.dtype=bfloat16'
    for config in (f'{PRETRAIN}:tiny', tmp_path / 'config.json'):
        code, task, said = adopted(*flags, config=config)
        assert (code, task.paths, task.sampling.temperature, task.gpt.dtype) == (0, 4, 0.5, 'bfloat16')
        assert task.gpt.dropout == 0.1, 'of the run, not of the file'
        assert 'task.paths: 8, now 4; ' in said and 'task.sampling.temperature: 1.0, now 0.5' in said
    before = json.loads((tmp_path / 'config.json').read_text())
    assert before['task']['paths'] == 8


@pytest.mark.parametrize('flag', ['gpt.dropout=0.0', 'valid_paths=4', 'stage=sft'])
def test_what_the_weights_were_trained_with_can_not_be_set_after_it(adopted, flag):
    code, _, said = adopted('paths=4', flag)
    assert code == 2 and said.count('\n') == 1 and f'task.{flag.partition("=")[0]}: ' in said and 'Leave' in said, said
    assert 'task.paths' not in said


def test_a_field_that_the_trained_model_has_not_is_refused(adopted):
    code, _, said = adopted('dtype=bfloat16', config='configs/tcn_index.py:tiny')
    assert code == 2 and said.count('\n') == 1 and 'task.dtype: "absent", now "bfloat16"' in said


def test_what_is_given_as_it_was_trained_is_no_change(adopted):
    code, task, said = adopted('gpt.dropout=0.1', 'paths=8')
    assert (code, task.paths, task.gpt.dropout, said) == (0, 8, 0.1, '')


def test_what_was_given_is_forgotten_when_the_job_is_done(adopted, tmp_path):
    adopted('paths=4')
    config = load_config(PRETRAIN, 'tiny')
    config.task.paths, config.task.gpt.dropout = 5, 0.0
    task = adopt_task(config, tmp_path).task
    assert (task.paths, task.gpt.dropout) == (8, 0.1)
