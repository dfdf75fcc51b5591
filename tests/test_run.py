"""The run folder: what starting over removes and leaves, and the model that a later job works with."""

import json
import shutil
from types import SimpleNamespace

import command
import pytest
from toy import ToyData, experiment
from toy_run import HERE

from fjq import launch, run
from fjq import train as loop
from fjq.config import Experiment, to_json
from fjq.errors import InputError
from fjq.jobs import train as train_job
from fjq.jobs import walk_forward
from fjq.launch import load_config
from fjq.train import train

PRETRAIN = 'configs/microchat_pretrain.py'


def names(folder):
    return {p.relative_to(folder).as_posix() for p in folder.rglob('*') if not p.is_dir()}


def write(folder, *paths, text=''):
    for path in (folder / p for p in paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """A run of five updates."""
    workdir = tmp_path_factory.mktemp('trained') / 'run'
    train(experiment(train__steps=5), workdir)
    return workdir


@pytest.fixture
def folder(trained, tmp_path):
    """A copy of that run."""
    return shutil.copytree(trained, tmp_path / 'run')


def test_nothing_that_was_made_of_the_old_weights_stays(folder):
    """Whatever it is called: jobs that are yet to be written leave files of their own."""
    write(folder, 'cache/ticks-1/manifest.json', 'generated/X.png', 'decoded/X.csv', 'tokenizer/card.md')
    write(folder, 'tokens.npz', 'analysis.json', 'latest.parquet', 'of_no_job_so_far', 'by/nobody/yet.bin', '.part')
    (folder / 'link').symlink_to(folder.parent)
    run.clear(folder)
    assert names(folder) == {'.lock', 'cache/ticks-1/manifest.json'} and len(list(folder.iterdir())) == 2
    assert train(experiment(train__steps=5), folder)


def test_inputs_that_lie_in_the_folder_stay(trained, tmp_path, monkeypatch):
    """--job=top_stocks writes what training reads to the run folder; a cache may have any name."""
    monkeypatch.chdir(tmp_path)
    config = load_config(HERE / 'ticks_config.py')
    config.data.tickers, config.data.root, config.cache = 'run/top_stocks.txt', 'run/in/ticks', 'run/frames'
    folder = tmp_path / 'run'
    write(folder, 'config.json', text=to_json(config))
    write(folder, 'top_stocks.txt', 'in/ticks/2022-02-01.parquet', 'frames/x/day.json', 'other_stocks.txt')
    config.data.tickers = 'run/new_stocks.txt'  # made for the training to come
    write(folder, 'new_stocks.txt')
    run.clear(folder, config)
    kept = {'top_stocks.txt', 'new_stocks.txt', 'in/ticks/2022-02-01.parquet', 'frames/x/day.json'}
    assert names(folder) == kept | {'.lock'}


def test_a_run_does_not_remove_the_weights_that_it_is_to_begin_with(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    before = names(folder)
    with pytest.raises(InputError, match='is to begin with the weights of this run'):
        train_job.start_over(experiment(init_from='run'), folder)
    assert names(folder) == before


def test_a_folder_of_other_things_is_refused_before_the_data_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(ToyData, 'open', lambda *_: pytest.fail('the data were opened'))
    write(tmp_path, 'thesis.tex')
    with pytest.raises(InputError, match='it holds thesis.tex'):
        train_job.start_over(experiment(), tmp_path)
    assert names(tmp_path) == {'thesis.tex'}


def test_a_damaged_manifest_is_one_line(tmp_path):
    folder = tmp_path / 'run'
    whole = b'{"data": {"bars": "x"}}'
    for damaged in (whole[:-3], bytes([whole[0] ^ 128]) + whole[1:]):
        folder.mkdir(exist_ok=True)
        (folder / 'manifest.json').write_bytes(damaged)
        with pytest.raises(InputError, match='manifest.json: the file is damaged'):
            run.changes_since_training(folder, {})


@pytest.mark.parametrize('facts', ['config.json', 'manifest.json'])
def test_other_runs_inside_stay(folder, trained, facts):
    """A run folder in which others were made, or the folds of walk_forward."""
    (folder / facts).unlink()
    shutil.copytree(trained, folder / 'stages' / 'sft')
    write(folder, 'walk_forward/fold_0/.lock', 'walk_forward/report.html', 'generated/X.png')
    kept = {name for name in names(folder) if name.startswith(('stages/', 'walk_forward/'))}
    run.clear(folder)
    assert names(folder) == kept | {'.lock'} and len(kept) > 10


def test_a_removal_that_is_killed_can_be_gone_on_with(folder, monkeypatch):
    """What says that the folder is ours goes last."""
    write(folder, 'a/b', 'z/b')
    rmtree = shutil.rmtree

    def die(path, *_, **__):
        rmtree(path)
        raise KeyboardInterrupt

    monkeypatch.setattr(shutil, 'rmtree', die)
    with pytest.raises(KeyboardInterrupt):
        run.clear(folder)
    monkeypatch.undo()
    assert len(names(folder)) > 3
    run.clear(folder)
    assert names(folder) == {'.lock'}


def test_what_a_killed_start_leaves_is_no_obstacle(tmp_path, monkeypatch):
    def die(*_):
        write(tmp_path, '.config.json.host-1-12345678.part', 'cache/x', 'wall.jsonl')
        raise KeyboardInterrupt

    monkeypatch.setattr(loop, 'write_facts', die)
    with pytest.raises(KeyboardInterrupt):
        train(experiment(), tmp_path)
    assert (tmp_path / 'checkpoints').is_dir()
    run.clear(tmp_path)
    assert names(tmp_path) == {'.lock', 'cache/x'}
    run.clear(tmp_path)
    run.clear(tmp_path / 'new')


@pytest.mark.parametrize(
    ('files', 'text', 'named'),
    [
        (['thesis.tex', 'data/bars.csv'], '', 'data'),
        (['checkpoints/model.pt'], '', 'checkpoints'),  # another program's
        (['config.json', 'weights.bin'], '{"model_type": "bert"}', 'config.json'),
        (['manifest.json'], '["app.js"]', 'manifest.json'),
    ],
)
def test_a_folder_of_other_things_is_refused_and_left_alone(tmp_path, files, text, named):
    write(tmp_path, *files, text=text)
    with pytest.raises(InputError, match=f'is no run folder.*it holds {named}. Leave --fresh out'):
        run.clear(tmp_path)
    assert names(tmp_path) == set(files)


def test_a_home_or_a_project_in_which_a_run_was_made_is_refused(folder):
    write(folder, '.git/HEAD', 'src/main.c')
    before = names(folder)
    with pytest.raises(InputError, match=r'it holds \.git'):
        run.clear(folder)
    assert names(folder) == before


@pytest.mark.parametrize('flag', ['--config.train.steps=0', '--config.train.steps=1'])
def test_a_training_that_can_not_begin_removes_nothing(tmp_path, flag, capsys):
    config = HERE / 'toy_config.py'
    assert command.run(f'--config={config}', f'--workdir={tmp_path}', '--config.train.steps=4') == 0
    before = names(tmp_path)
    assert command.run(f'--config={config}', f'--workdir={tmp_path}', '--fresh', flag) == 2
    assert names(tmp_path) == before


FOLDED = Experiment(name='folded', task=None, data=SimpleNamespace(folds=2))


def test_walking_forward_anew_leaves_the_training_run(folder):
    write(folder, 'walk_forward/fold_0/checkpoints/1/x', 'walk_forward/report.html', 'cache/x')
    rest = {name for name in names(folder) if not name.startswith('walk_forward')}
    with run.lock(folder / 'walk_forward' / 'fold_0'), pytest.raises(InputError, match='another run is at work'):
        walk_forward.start_over(FOLDED, folder)
    with run.lock(folder), pytest.raises(InputError, match='another run is at work'):
        walk_forward.start_over(FOLDED, folder)
    assert (folder / 'walk_forward' / 'fold_0' / 'checkpoints' / '1' / 'x').is_file()
    walk_forward.start_over(FOLDED, folder)
    assert names(folder) == rest and not (folder / 'walk_forward').exists()


@pytest.fixture
def adopted(tmp_path, monkeypatch, capsys):
    """The task that a job works with after the run in `tmp_path` was trained with fields of its own, and what was said:
    (--config.* flags, config) -> (exit code, task, words)."""
    config = load_config(PRETRAIN, 'tiny')
    config.task.paths, config.task.gpt.dropout = 8, 0.1
    (tmp_path / 'config.json').write_text(to_json(config))
    seen = []
    job = SimpleNamespace(run=lambda config, workdir: seen.append(run.adopt_task(config, workdir).task))
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
    task = run.adopt_task(config, tmp_path).task
    assert (task.paths, task.gpt.dropout) == (8, 0.1)
