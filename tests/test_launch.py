"""The command: what it says in one line, and what it costs to ask."""

import json
import os
import re
import subprocess
import sys
import time
from types import SimpleNamespace

import command
import pytest
from toy_run import CONFIG, HERE, Runner, environment

from fjq import launch
from fjq.config import to_dict, to_json
from fjq.launch import describe, list_configs, list_jobs, load_config

ROOT = HERE.parent
COMMAND = [sys.executable, '-m', 'fjq.launch']


@pytest.fixture(scope='module')
def runner():
    with Runner() as runner:
        yield runner


@pytest.fixture
def ask(runner, tmp_path):
    """Runs the command; gives its exit code and the lines that it said."""

    def run(*flags):
        log = tmp_path / 'log'
        log.unlink(missing_ok=True)
        code = runner.wait(runner.command(*flags, log=log))
        return code, log.read_text().splitlines()

    return run


TOY = f'--config={CONFIG}'


@pytest.mark.parametrize(
    ('flags', 'words'),
    [
        (['--job=train'], ['--config', 'no config is given']),
        ([f'--config={HERE}/toy_confg.py'], ['toy_confg.py', "Did you mean 'toy_config.py'"]),
        ([f'{TOY}:tinny'], ["'tinny'", "'tiny'"]),
        ([TOY, '--job=trian'], ["'trian'", "Did you mean 'train'"]),
        ([TOY, '--config.optim.lerning_rate=1'], ["'lerning_rate'", "Did you mean 'learning_rate'"]),
        ([TOY, '--config.optm.eps=1'], ["'optm'", "Did you mean 'optim'"]),
        ([TOY, '--config.optim.eps', '1', '--config.data.nois', '1'], ["'nois'", "Did you mean 'noise'"]),
        ([TOY, '--config.optim.learning_rate=fast'], ['config.optim.learning_rate', "'fast'"]),
        (
            [TOY, '--config.optim.betas=fast'],
            ["'optim.betas'", "'fast' is no float", '--config.optim.betas="(0.1, 0.9)"'],
        ),
        ([TOY, '--config.train.steps=1.5'], ['config.train.steps', "'1.5'"]),
        ([TOY, '--config.mesh.fsdp=maybe'], ['config.mesh.fsdp', "'maybe'"]),
        ([TOY, '--config.optim=3'], ['config.optim', '3']),
        ([TOY, '--workdri=x'], ["'workdri'", 'workdir']),
        ([TOY, 'train'], ["'train'", '--flag=value']),
        ([TOY, '--coordinator=a:1', '--processes=2'], ['--processes=2', '--process=-1']),
        (['--config', str(CONFIG), '--job', 'trian'], ["Did you mean 'train'"]),
        ([f'-config={CONFIG}', '-job=trian'], ["Did you mean 'train'"]),
    ],
)
def test_a_mistake_is_one_line_and_code_2(ask, flags, words):
    code, said = ask(*flags)
    assert code == 2
    assert len(said) == 1 and said[0].startswith('fjq: ') and all(w in said[0] for w in words), said


def test_a_config_that_cannot_be_read_is_one_line(ask, tmp_path):
    bad = tmp_path / 'bad.py'
    for text, words in (('x = (\n', ['bad.py', 'line 1']), ('x = 1\n', ['bad.py', 'get_config'])):
        bad.write_text(text)
        code, said = ask(f'--config={bad}')
        assert code == 2 and len(said) == 1 and all(w in said[0] for w in words), said


def test_wrong_input_of_the_run_itself_is_one_line_too(ask, tmp_path):
    code, said = ask(TOY, f'--workdir={tmp_path}/run', '--config.train.metric=qlik')
    assert code == 2 and said == [
        "fjq: train.metric is 'qlik', which validation does not give. Choose one of loss, mae."
    ]


@pytest.fixture
def run_of_another(tmp_path):
    """A run folder with nothing but the config of a run."""
    config = load_config(ROOT / 'configs' / 'microchat_tokenizer.py', 'tiny')
    config.data.window, config.optim.betas = 5, (0.8, 0.9)
    (tmp_path / 'run').mkdir()
    (tmp_path / 'run' / 'config.json').write_text(to_json(config))
    return tmp_path / 'run'


def test_the_config_of_a_run_is_a_config_too(run_of_another, monkeypatch):
    asked = []
    job = SimpleNamespace(run=lambda config, workdir: asked.append((config, workdir)))
    monkeypatch.setattr(launch, 'find_job', lambda name: job)
    file = run_of_another / 'config.json'
    then = json.loads(file.read_text())
    assert command.run(f'--config={file}', '--config.data.stride=3', '--workdir=elsewhere') == 0
    assert command.run(f'--config={file}') == 0
    (changed, elsewhere), (own, folder) = asked
    assert to_dict(own) == then and to_dict(changed) == then | {'data': then['data'] | {'stride': 3}}
    assert str(elsewhere) == 'elsewhere' and folder == run_of_another, 'its own folder where none is given'


def test_the_config_of_no_run_is_one_line(ask, run_of_another, tmp_path):
    for flags, words in (
        ([f'--config={run_of_another}/config.json:tiny'], ['config.json', "no variants such as 'tiny'"]),
        ([f'--config={run_of_another}/config.json', '--config.optm.eps=1'], ["Did you mean 'optim'"]),
        ([f'--config={tmp_path}/none/config.json'], [f'{tmp_path}/none', 'no run here']),
    ):
        code, said = ask(*flags)
        assert code == 2 and len(said) == 1 and all(w in said[0] for w in words), said


@pytest.mark.parametrize('job', sorted({*list_jobs()} - {'train', 'walk_forward'}))
def test_a_job_that_trains_nothing_can_not_start_over(run_of_another, capsys, job):
    """It would remove the weights that it needs."""
    (run_of_another / 'checkpoints' / '5').mkdir(parents=True)
    before = sorted(run_of_another.rglob('*'))
    assert command.run(f'--config={run_of_another}/config.json', f'--job={job}', '--fresh') == 2
    said = capsys.readouterr().err
    assert said.count('\n') == 1 and f"--fresh: the job '{job}'" in said and '--job=train --fresh' in said
    assert sorted(run_of_another.rglob('*')) == before


def test_a_job_that_trains_starts_over_in_its_own_way(monkeypatch, tmp_path):
    done = []
    job = SimpleNamespace(
        run=lambda config, workdir: done.append('run'), start_over=lambda config, workdir: done.append(workdir)
    )
    monkeypatch.setattr(launch, 'find_job', lambda name: job)
    for flags in ([], ['--fresh']):
        assert command.run(TOY, f'--workdir={tmp_path}', *flags) == 0
    assert done == ['run', tmp_path, 'run']


def test_a_fault_of_ours_shows_where(ask, tmp_path):
    broken = tmp_path / 'broken.py'
    broken.write_text('def get_config(variant=""):\n    return 1 / 0\n')
    code, said = ask(f'--config={broken}')
    assert code == 1 and said[0].startswith('Traceback') and 'ZeroDivisionError' in said[-1]


def test_overrides_reach_the_run_and_the_compile_cache_is_on(tmp_path):
    """In a process of its own; programs are kept in the user's folder, unless JAX is told of another."""
    env = environment() | {'XDG_CACHE_HOME': str(tmp_path / 'home')}
    del env['JAX_COMPILATION_CACHE_DIR']
    fields = ('--config.train.steps=3', '--config.optim.betas=(0.8,0.9)', '--config.mesh.fsdp')
    command = [*COMMAND, f'{TOY}:tiny', '--job=train', f'--workdir={tmp_path}/run', *fields]
    said = subprocess.run(command, env=env, check=True, capture_output=True, text=True).stdout
    assert 'toy: 3 in' in said
    text = (tmp_path / 'run' / 'config.json').read_text()
    assert re.search(r'"betas": \[\s*0.8,\s*0.9\s*\]', text) and '"fsdp": true' in text
    kept = [p.name for p in (tmp_path / 'home' / 'fjq' / 'jax').iterdir()]
    assert sum(name.endswith('-cache') for name in kept) >= 3  # init, step, evaluation


def test_help_names_every_job_and_config(tmp_path):
    """Quickly, in a process of its own: nothing heavy is imported for it."""
    best = 1e9
    for flag in ('--help', '-h', ''):
        start = time.perf_counter()
        help_ = subprocess.run([*COMMAND, *filter(None, [flag])], capture_output=True, text=True, cwd=ROOT)
        best = min(best, time.perf_counter() - start)
        assert help_.returncode == 0 and help_.stderr == ''
        for name in [*list_jobs(), *list_configs(ROOT / 'configs')]:
            assert f'  {name} ' in help_.stdout
    assert best < 1.0 and '--config.forecast.only_latest=true' in help_.stdout
    assert 'train' in list_jobs() and all(list_jobs().values())


def test_descriptions_are_the_first_lines_of_the_files(tmp_path):
    (tmp_path / 'one.py').write_text('"""does one thing.\n\nAnd more.\n"""\n')
    (tmp_path / 'two.py').write_text('x = 1\n')
    assert list_configs(tmp_path) == {'one.py': 'does one thing.', 'two.py': ''}
    assert all(text in describe() for text in list_jobs().values())


def test_a_config_is_read_with_its_variant():
    assert load_config(CONFIG).name == load_config(CONFIG, 'tiny').name == 'toy'


def imported(statement):
    """The modules that a fresh interpreter has loaded after a statement, and the seconds it took."""
    program = f'import sys, time; t = time.perf_counter(); {statement}; print(time.perf_counter() - t, *sys.modules)'
    env = {k: v for k, v in os.environ.items() if k != 'PYTHONPATH'}
    out = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True, cwd=ROOT, env=env, check=True)
    seconds, *modules = out.stdout.split()
    return float(seconds), {m.split('.')[0] for m in modules}


def test_import_fjq_is_quick_and_light():
    runs = [imported('import fjq') for _ in range(3)]
    assert min(seconds for seconds, _ in runs) < 0.3
    assert not runs[0][1] & {'torch', 'pandas', 'matplotlib', 'jax', 'scipy'}


def test_the_whole_loop_needs_no_heavy_extra():
    _, modules = imported('import fjq.launch, fjq.jobs.train, fjq.trained')
    assert 'jax' in modules and not modules & {
        'torch',
        'pandas',
        'matplotlib',
        'arch',
        'statsmodels',
        'sklearn',
        'dask',
    }


def test_workers_import_no_jax():
    """Processes that read files start in an instant."""
    names = ['fjq.parallel', *(f'fjq.data.{p.stem}' for p in (ROOT / 'fjq' / 'data').glob('[a-z]*.py'))]
    _, modules = imported('import ' + ', '.join(names))
    assert not modules & {'jax', 'torch', 'pandas', 'matplotlib'}


def test_a_model_that_follows_its_data_follows_the_flags(monkeypatch):
    """Sizes that a model leaves open are taken after the flags are read, not when the config file is."""
    seen = []
    job = SimpleNamespace(run=lambda config, workdir: seen.append(config))
    monkeypatch.setattr(launch, 'find_job', lambda name: job)
    flags = '--config.data.features=core25', '--config.data.minutes=15', '--config.data.horizons=(2, 8)'
    assert command.run('--config=configs/migt_tvdt.py', *flags) == 0
    task = seen[0].task
    assert (task.variables, task.bars_per_day, task.horizons) == (25, 96, (2, 8))
    assert load_config('configs/migt_tvdt.py').task.variables == 24
