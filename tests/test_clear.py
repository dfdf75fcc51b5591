"""Starting over: what goes, and what stays."""

import shutil
from types import SimpleNamespace

import command
import pytest
from toy import ToyData, experiment
from toy_run import HERE

from fjq import run
from fjq import train as loop
from fjq.clear import clear
from fjq.config import Experiment, to_json
from fjq.errors import InputError
from fjq.jobs import train as train_job
from fjq.jobs import walk_forward
from fjq.launch import load_config
from fjq.train import train


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
    clear(folder)
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
    clear(folder, config)
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


@pytest.mark.parametrize('facts', ['config.json', 'manifest.json'])
def test_other_runs_inside_stay(folder, trained, facts):
    """A run folder in which others were made, or the folds of walk_forward."""
    (folder / facts).unlink()
    shutil.copytree(trained, folder / 'stages' / 'sft')
    write(folder, 'walk_forward/fold_0/.lock', 'walk_forward/report.html', 'generated/X.png')
    kept = {name for name in names(folder) if name.startswith(('stages/', 'walk_forward/'))}
    clear(folder)
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
        clear(folder)
    monkeypatch.undo()
    assert len(names(folder)) > 3
    clear(folder)
    assert names(folder) == {'.lock'}


def test_what_a_killed_start_leaves_is_no_obstacle(tmp_path, monkeypatch):
    def die(*_):
        write(tmp_path, '.config.json.host-1-12345678.part', 'cache/x', 'wall.jsonl')
        raise KeyboardInterrupt

    monkeypatch.setattr(loop, 'write_facts', die)
    with pytest.raises(KeyboardInterrupt):
        train(experiment(), tmp_path)
    assert (tmp_path / 'checkpoints').is_dir()
    clear(tmp_path)
    assert names(tmp_path) == {'.lock', 'cache/x'}
    clear(tmp_path)
    clear(tmp_path / 'new')


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
        clear(tmp_path)
    assert names(tmp_path) == set(files)


def test_a_home_or_a_project_in_which_a_run_was_made_is_refused(folder):
    write(folder, '.git/HEAD', 'src/main.c')
    before = names(folder)
    with pytest.raises(InputError, match=r'it holds \.git'):
        clear(folder)
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
