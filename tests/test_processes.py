"""Two real processes on 127.0.0.1 against one, started by the command."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from toy_run import CONFIG, HERE, Runner, environment

from fjq import seal
from fjq.checkpoint import read_params

STEPS = 16
FLAGS = (f'--config.train.steps={STEPS}', '--config.train.save_every=4', '--config.train.eval_every=8')
SLOW = (*FLAGS, '--config.data.pause=0.05')


@pytest.fixture(scope='module')
def runner():
    with Runner() as runner:
        yield runner


def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


def start_two(runner, workdir, *flags, devices=1):
    """Process ids of two processes that work on one run; the second's words go to `<workdir>.1.log`."""
    where = (f'--coordinator=127.0.0.1:{free_port()}', '--processes=2')
    return [
        runner.start(workdir, *where, f'--process={i}', *flags, devices=devices, log=Path(f'{workdir}.{i}.log'))
        for i in (0, 1)
    ]


def run_two(runner, workdir, *flags, **options):
    return [runner.wait(pid) for pid in start_two(runner, workdir, *flags, **options)]


def figures(workdir):
    """(step, name) -> value of what does not depend on the clock, each written once."""
    found = {}
    for line in (workdir / 'metrics.jsonl').read_text().splitlines():
        values = json.loads(line)
        step = values.pop('step')
        for name in set(values) - {'step_s', 'data_wait', 'compiles'}:
            assert (step, name) not in found
            found[step, name] = values[name]
    return found


def wait_for_lines(workdir, count):
    path, end = workdir / 'metrics.jsonl', time.monotonic() + 120
    while not path.exists() or path.read_bytes().count(b'\n') < count:
        assert time.monotonic() < end
        time.sleep(0.002)


def assert_close(workdir, other):
    one, two = figures(workdir), figures(other)
    assert one.keys() == two.keys()
    for key in one:
        assert one[key] == pytest.approx(two[key], rel=1e-6, abs=1e-6), key
    a, b = (read_params(w, STEPS).params['linear'] for w in (workdir, other))
    for name in a:
        np.testing.assert_allclose(a[name], b[name], atol=1e-6)


@pytest.fixture(scope='module')
def alone(runner, tmp_path_factory):
    """The run of one process with one device."""
    workdir = tmp_path_factory.mktemp('alone') / 'run'
    assert runner.run(workdir, *FLAGS) == 0
    return workdir


def test_two_processes_give_the_figures_of_one(runner, alone, tmp_path):
    """Weights of 16 rows a step and equal losses: each row was read, by one process, once."""
    workdir = tmp_path / 'run'
    assert run_two(runner, workdir, *FLAGS) == [0, 0]
    assert_close(workdir, alone)
    assert {figures(workdir)[step, 'weight'] for step in range(1, STEPS + 1)} == {16}
    first, second = (Path(f'{workdir}.{i}.log').read_text() for i in (0, 1))
    assert '2 x 1 devices' in first and 'the run is in' in first
    assert [line for line in second.splitlines() if '[Gloo]' not in line] == []  # one voice
    assert json.loads((workdir / 'manifest.json').read_text())['processes'] == 2


def test_stopped_then_killed_then_finished(runner, alone, tmp_path):
    """SIGTERM to the second alone stops and saves both; kill -9 of both; then the end, on one process."""
    workdir = tmp_path / 'run'
    pids = start_two(runner, workdir, *SLOW)
    wait_for_lines(workdir, 5)
    os.kill(pids[1], signal.SIGTERM)
    assert [runner.wait(pid) for pid in pids] == [143, 143]
    last = max(step for step, _ in figures(workdir))
    assert seal.steps(workdir / 'checkpoints')[-1] == last < STEPS
    pids = start_two(runner, workdir, *SLOW)
    wait_for_lines(workdir, last + 3)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    assert [runner.wait(pid) for pid in pids] == [-9, -9]
    assert runner.run(workdir, *FLAGS) == 0
    said = Path(f'{workdir}.0.log').read_text() + Path(f'{workdir}.log').read_text()
    assert len(re.findall(r'resuming from step \d+', said)) == 2
    assert_close(workdir, alone)


def test_when_one_process_dies_the_other_ends(runner, tmp_path):
    workdir = tmp_path / 'run'
    pids = start_two(runner, workdir, *SLOW, '--config.train.steps=1000')
    wait_for_lines(workdir, 3)
    os.kill(pids[1], signal.SIGKILL)
    start = time.monotonic()
    assert runner.wait(pids[1]) == -9
    assert runner.wait(pids[0]) not in (0, 143)
    assert time.monotonic() - start < 60


@pytest.mark.slow
@pytest.mark.parametrize(
    ('flags', 'devices'),
    [(('--config.mesh.fsdp',), 2), (('--config.mesh.model=2',), 1), (('--config.mesh.model=2',), 2)],
)
def test_cut_parameters_and_shared_rows_over_two_processes(runner, tmp_path, flags, devices):
    """With one device each, the two share a row of the mesh and read the same batch; with two, each its half."""
    level = ('--config.optim.warmup_steps=0', '--config.optim.final_learning_rate=0.1')  # whatever the length
    assert runner.run(tmp_path / 'alone', *FLAGS, *level) == 0
    short = (*FLAGS, *level, *flags, '--config.train.steps=8')
    assert run_two(runner, tmp_path / 'run', *short, devices=devices) == [0, 0]
    assert run_two(runner, tmp_path / 'run', *FLAGS, *level, *flags, devices=devices) == [0, 0]
    assert_close(tmp_path / 'run', tmp_path / 'alone')


@pytest.mark.slow
def test_an_error_in_one_process_ends_both(runner, tmp_path):
    """A batch that does not divide is told before the first step, in one line a process."""
    workdir = tmp_path / 'run'
    assert set(run_two(runner, workdir, *FLAGS, '--config.data.batch=17')) <= {2, -6}
    told = Path(f'{workdir}.0.log').read_text() + Path(f'{workdir}.1.log').read_text()
    assert 'a batch of 17 rows does not divide among 2 devices' in told


@pytest.mark.slow
def test_other_jobs_run_in_one_process(runner, tmp_path):
    assert 2 in run_two(runner, tmp_path / 'run', '--job=validate')
    assert "the job 'validate' runs in one process" in Path(f'{tmp_path / "run"}.0.log').read_text()


def multihost(workdir, *flags, **env):
    script = HERE.parent / 'launch' / 'multihost.sh'
    return subprocess.Popen(
        ['sh', str(script), f'--config={CONFIG}', f'--workdir={workdir}', *flags],
        env=environment() | {'PYTHON': sys.executable, 'COORDINATOR': f'127.0.0.1:{free_port()}'} | env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_multihost_starts_two_and_hands_on_a_signal(runner, alone, tmp_path):
    """SIGTERM to the script saves and stops both; two processes started by hand go on from there."""
    workdir = tmp_path / 'run'
    script = multihost(workdir, *FLAGS, '--config.data.pause=0.3', LOCAL='2')
    wait_for_lines(workdir, 4)
    script.send_signal(signal.SIGTERM)
    said = script.communicate(timeout=60)[0]
    assert script.returncode == 143, said
    assert said.count('stopped by SIGTERM') == 1 and '2 x 1 devices' in said
    assert run_two(runner, workdir, *FLAGS) == [0, 0]
    assert 'resuming from step' in Path(f'{workdir}.0.log').read_text()
    assert_close(workdir, alone)


@pytest.mark.slow
def test_multihost_hands_on_the_first_failure(tmp_path):
    script = multihost(tmp_path / 'run', '--config.train.metric=x', LOCAL='2')
    said = script.communicate(timeout=100)[0]
    assert script.returncode == 2 and "train.metric is 'x'" in said


def test_multihost_says_how_it_is_used(tmp_path):
    script = ['sh', str(HERE.parent / 'launch' / 'multihost.sh')]
    help_ = subprocess.run(script, capture_output=True, text=True)
    assert help_.returncode == 0 and 'COORDINATOR' in help_.stdout and 'set -u' not in help_.stdout
    env = {k: v for k, v in environment().items() if k != 'COORDINATOR'} | {'PROCESSES': '4', 'PYTHON': sys.executable}
    lost = subprocess.run([*script, '--config=x'], capture_output=True, text=True, env=env)
    assert lost.returncode == 2 and 'need COORDINATOR' in lost.stderr


@pytest.mark.parametrize(('code', 'requeued'), [(0, False), (2, False), (143, True)])
def test_slurm_puts_a_stopped_job_back_into_the_queue(tmp_path, code, requeued):
    """With an srun and an scontrol that write down what they are asked."""
    for name, ends in (('srun', code), ('scontrol', 0)):
        tool = tmp_path / name
        tool.write_text(f'#!/bin/sh\necho {name} "$@" >> "{tmp_path}/asked"\nexit {ends}\n')
        tool.chmod(0o755)
    env = environment() | {'PATH': f'{tmp_path}:{os.environ["PATH"]}', 'SLURM_JOB_ID': '7', 'SLURM_SUBMIT_DIR': '.'}
    job = ['bash', str(HERE.parent / 'launch' / 'slurm.sbatch'), '--config=a b.py', '--config.seed=1']
    assert subprocess.run(job, env=env | {'PYTHON': 'python3'}).returncode == code
    asked = (tmp_path / 'asked').read_text().splitlines()
    assert asked[0] == 'srun --kill-on-bad-exit=1 python3 -m fjq.launch --config=a b.py --config.seed=1'
    assert asked[1:] == (['scontrol requeue 7'] if requeued else [])
