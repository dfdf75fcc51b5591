"""Runs that are killed anywhere and started again by the same command end in the same bits."""

import json
import os
import random
import re
import shutil
import signal
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from toy_run import Runner

from fjq import seal
from fjq.checkpoint import read_params

STEPS = 40
FLAGS = (
    f'--config.train.steps={STEPS}',
    '--config.train.save_every=4',
    '--config.train.eval_every=8',
    '--config.train.ema=0.9',
    '--config.data.pause=0.004',
)


@pytest.fixture(scope='module')
def runner():
    with Runner() as runner:
        yield runner


def lines(workdir):
    """The metrics of a run, without what tells of its speed."""
    path = workdir / 'metrics.jsonl'
    whole = path.read_text().splitlines() if path.exists() else []
    return [{k: v for k, v in json.loads(w).items() if k not in ('step_s', 'data_wait', 'compiles')} for w in whole]


@pytest.fixture(scope='module')
def reference(runner, tmp_path_factory):
    """What an uninterrupted run writes: its lines and its final state."""
    workdir = tmp_path_factory.mktemp('reference') / 'run'
    assert runner.run(workdir, *FLAGS) == 0
    return lines(workdir), read_params(workdir, STEPS).state


def assert_same(workdir, reference):
    wanted, state = reference
    assert lines(workdir) == wanted
    got = read_params(workdir, STEPS).state
    assert jax.tree.structure(got) == jax.tree.structure(state)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(state), strict=True):
        np.testing.assert_array_equal(a, b)


def wait_until(condition, pid=0, seconds=60):
    """True when the condition holds; False when the run has ended before."""
    end = time.monotonic() + seconds
    while not condition():
        if pid and Path(f'/proc/{pid}/stat').read_text().rsplit(')', 1)[1].split()[0] == 'Z':
            return False
        assert time.monotonic() < end, 'nothing happened'
        time.sleep(0.0005)
    return True


def count(workdir):
    try:
        return (workdir / 'metrics.jsonl').read_bytes().count(b'\n')
    except FileNotFoundError:
        return 0


def kill_when(runner, workdir, condition, delay=0.0):
    pid = runner.start(workdir, *FLAGS)
    wait_until(condition, pid)
    time.sleep(delay)
    os.kill(pid, signal.SIGKILL)
    return runner.wait(pid)


def test_a_run_that_is_killed_again_and_again_ends_in_the_same_bits(runner, reference, tmp_path):
    workdir = tmp_path / 'run'
    folder = workdir / 'checkpoints'
    assert kill_when(runner, workdir, workdir.exists) == -9  # before the first step
    assert runner.run(workdir, *FLAGS, kill=1) == -9  # the start is evaluated and written, not sealed
    assert count(workdir) and not seal.steps(folder)
    assert kill_when(runner, workdir, lambda: seal.steps(folder) == [0]) == -9  # the start is all there is
    assert kill_when(runner, workdir, lambda: count(workdir) >= 3) == -9  # a few steps on
    assert kill_when(runner, workdir, lambda: list(folder.glob('8.*tmp*'))) == -9  # while step 8 is written
    assert seal.steps(folder)[-1] in (4, 8)
    assert runner.run(workdir, *FLAGS, kill=2) == -9  # between the rename and the seal
    newest = max(int(p.name) for p in folder.iterdir() if p.name.isdecimal())
    assert newest not in seal.steps(folder)
    assert kill_when(runner, workdir, lambda: count(workdir) >= 28, delay=0.003) == -9
    assert runner.run(workdir, *FLAGS) == 0
    said = Path(f'{workdir}.log').read_text()
    assert f'checkpoint {newest} was cut off while it was written; using the one before it' in said
    assert len(re.findall('resuming from step', said)) >= 3
    assert_same(workdir, reference)


def draw_moment(rng, workdir):
    """A condition that comes true at a random point of a run: a number of lines, or any change of the checkpoints."""
    goal, known = count(workdir) + rng.randint(0, 9), set((workdir / 'checkpoints').glob('*'))
    if rng.random() < 0.4:
        return lambda: count(workdir) >= goal
    return lambda: set((workdir / 'checkpoints').glob('*')) != known


@pytest.mark.slow
@pytest.mark.parametrize('seed', range(5))
def test_twenty_random_kills(runner, reference, tmp_path, seed):
    rng, workdir, kills = random.Random(seed), tmp_path / 'run', 0
    while kills < 20:
        moment = draw_moment(rng, workdir)
        kills += kill_when(runner, workdir, moment, rng.choice([0, 0, rng.random() * 0.05])) == -9
        if count(workdir) > STEPS - 10:  # nearly done: back to where a kill still means something
            for step in [s for s in seal.steps(workdir / 'checkpoints') if s > 12]:
                seal.set_aside(workdir / 'checkpoints', step)
    assert runner.run(workdir, *FLAGS) == 0
    assert_same(workdir, reference)


@pytest.mark.parametrize(
    ('signals', 'code', 'name'),
    [((signal.SIGTERM,) * 3, 143, 'SIGTERM'), ((signal.SIGINT, signal.SIGTERM), 130, 'SIGINT')],
)
def test_a_signal_saves_and_the_run_goes_on(runner, reference, tmp_path, signals, code, name):
    workdir = tmp_path / 'run'
    pid = runner.start(workdir, *FLAGS)
    wait_until(lambda: count(workdir) >= 6)
    for number in signals:
        os.kill(pid, number)
    start = time.monotonic()
    assert runner.wait(pid) == code
    assert time.monotonic() - start < 30
    assert f'fjq: stopped by {name}; the same command resumes' in Path(f'{workdir}.log').read_text()
    last = lines(workdir)[-1]['step']
    assert seal.steps(workdir / 'checkpoints')[-1] == last < STEPS  # where it was, not where it last saved
    assert runner.run(workdir, *FLAGS) == 0
    assert f'resuming from step {last}\n' in Path(f'{workdir}.log').read_text()
    assert_same(workdir, reference)


@pytest.fixture(scope='module')
def halfway(runner, tmp_path_factory):
    """A run that was killed with at least two checkpoints."""
    workdir = tmp_path_factory.mktemp('halfway') / 'run'
    kill_when(runner, workdir, lambda: len(seal.steps(workdir / 'checkpoints')) >= 2 and count(workdir) >= 14)
    return workdir


def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_used(runner, reference, halfway, tmp_path):
    workdir = tmp_path / 'run'
    shutil.copytree(halfway, workdir)
    before, newest = seal.steps(workdir / 'checkpoints')[-2:]
    path = max((workdir / 'checkpoints' / str(newest) / 'state').rglob('d/*'), key=lambda p: p.stat().st_size)
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 4
    path.write_bytes(content)
    assert runner.run(workdir, *FLAGS) == 0
    said = Path(f'{workdir}.log').read_text()
    name = path.relative_to(workdir / 'checkpoints').as_posix()
    assert f'checkpoint {newest} is damaged ({name} does not match its checksum)' in said
    assert f'resuming from step {before}\n' in said
    assert_same(workdir, reference)


def test_a_full_disk_is_one_line_and_the_run_goes_on_with_room(runner, reference, halfway, tmp_path):
    workdir = tmp_path / 'run'
    shutil.copytree(halfway, workdir)
    kept = seal.steps(workdir / 'checkpoints')
    assert runner.run(workdir, *FLAGS, disk=(workdir / 'metrics.jsonl').stat().st_size + 100) == 2
    told = [line for line in Path(f'{workdir}.log').read_text().splitlines() if line.startswith('fjq: ')]
    assert len(told) == 1 and 'File too large. Make room' in told[0]
    left = seal.steps(workdir / 'checkpoints')  # newer ones may have taken their places before the disk was full
    assert len(left) >= len(kept) and left[-1] >= kept[-1]
    assert all(seal.check(workdir / 'checkpoints', step) == '' for step in left)
    assert runner.run(workdir, *FLAGS) == 0
    assert_same(workdir, reference)


def test_fresh_starts_over(runner, reference, halfway, tmp_path):
    workdir = tmp_path / 'run'
    shutil.copytree(halfway, workdir)
    assert runner.run(workdir, *FLAGS, '--fresh') == 0
    assert 'resuming' not in Path(f'{workdir}.log').read_text()
    assert_same(workdir, reference)
