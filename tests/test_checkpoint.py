"""Checkpoints: what is kept, what is read, and that damage of any file is found."""

import contextlib
import json
import math
import os
import resource
import shutil
import tempfile
import threading
import time
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fjq import seal
from fjq.checkpoint import Checkpoints, best_step, read_params
from fjq.errors import InputError


class Moments(NamedTuple):
    count: jax.Array
    mu: dict


def state(value, *, ema=False, size=3):
    params = {'layer': {'kernel': jnp.full((size, 2), value, jnp.float32), 'bias': jnp.arange(2.0) + value}}
    return {
        'params': params,
        'extra': {'codes': jnp.full((2,), value, jnp.bfloat16)},
        'opt': (Moments(jnp.int32(value), params), ()),
        'ema': jax.tree.map(lambda x: x / 2, params) if ema else {},
        'step': jnp.int32(value),
    }


LIKE = jax.eval_shape(lambda: state(0))


def same(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert a.dtype == b.dtype and np.array_equal(a, b)


@contextlib.contextmanager
def opened(folder, **options):
    checkpoints = Checkpoints(folder, **options)
    try:
        yield checkpoints
    finally:
        checkpoints.close()


def write(folder, *metrics, **options):
    """Steps 1, 2, ... with these metrics."""
    with opened(folder, **options) as checkpoints:
        for step, metric in enumerate(metrics, 1):
            checkpoints.save(step, state(step), {'data': {'next_index': step}}, metric)


def kept(folder):
    return sorted(int(p.name) for p in folder.iterdir() if p.is_dir() and p.name.isdecimal())


@pytest.fixture(scope='module')
def two_steps(tmp_path_factory):
    folder = tmp_path_factory.mktemp('run') / 'checkpoints'
    write(folder, 1.0, 0.5)
    return folder


def files(folder, step):
    inside = sorted(p.relative_to(folder).as_posix() for p in (folder / str(step)).rglob('*') if p.is_file())
    return [*inside, f'{step}.sha256.json']


def test_the_state_comes_back_bit_for_bit(two_steps):
    with opened(two_steps) as checkpoints:
        step, restored, facts = checkpoints.restore(LIKE)
    assert step == 2 and facts == {'data': {'next_index': 2}}
    same(restored, state(2))


def test_nothing_comes_back_from_an_empty_folder(tmp_path):
    with opened(tmp_path / 'new') as checkpoints:
        assert checkpoints.restore(LIKE) is None
    with pytest.raises(InputError, match='no whole checkpoint'):
        shutil.copytree(tmp_path / 'new', tmp_path / 'run' / 'checkpoints')
        read_params(tmp_path / 'run')
    with pytest.raises(InputError, match='no checkpoint here'):
        read_params(tmp_path / 'nowhere')


NAN = math.nan


@pytest.mark.parametrize(
    ('metrics', 'mode', 'count'),
    [
        ([3.0, 1.0, 2.0, 4.0, 5.0], 'min', 1),
        ([3.0, 1.0, 2.0, 4.0, 5.0], 'max', 1),
        ([1.0, 5.0, 4.0, 3.0, NAN, 2.0], 'max', 2),
        ([0.3, NAN, 0.1, None, -math.inf, 0.2], 'min', 1),
        ([0.3, NAN, 0.1, None, math.inf, 0.2], 'max', 1),
        ([-0.3, -0.1, -0.2, 0.0, 0.1], 'min', 2),
    ],
)
def test_the_best_and_the_two_newest_are_kept(tmp_path, metrics, mode, count):
    write(tmp_path, *metrics, mode=mode, keep_best=count)
    finite = {i: m for i, m in enumerate(metrics, 1) if m is not None and math.isfinite(m)}
    best = sorted(finite, key=finite.get, reverse=mode == 'max')[:count]
    assert set(kept(tmp_path)) == {len(metrics), len(metrics) - 1, *best}
    assert best_step(tmp_path) == best[0]
    assert seal.steps(tmp_path) == kept(tmp_path)
    assert len(list(tmp_path.glob('*.sha256.json'))) == len(kept(tmp_path))  # no seal without its step


def test_without_a_finite_metric_the_newest_counts(tmp_path):
    write(tmp_path, None, NAN, None)
    assert best_step(tmp_path) == 3


def test_the_best_survives_a_restart(tmp_path):
    write(tmp_path, 0.5, 0.1, 0.9)
    with opened(tmp_path) as checkpoints:
        for step in (4, 5, 6):
            checkpoints.save(step, state(step), {}, 0.7)
    assert kept(tmp_path) == [2, 5, 6] and best_step(tmp_path) == 2


def test_a_step_is_saved_once(tmp_path):
    write(tmp_path, 0.5)
    with opened(tmp_path) as checkpoints:
        checkpoints.save(1, state(9), {}, 0.1)
        same(checkpoints.restore(LIKE)[1], state(1))


def test_an_unknown_mode_is_named(tmp_path):
    with pytest.raises(InputError, match="train.mode is 'least'"):
        Checkpoints(tmp_path, mode='least')


def test_read_params_gives_the_average_where_there_is_one(tmp_path):
    for name, ema in (('plain', False), ('average', True)):
        with opened(tmp_path / name / 'checkpoints') as checkpoints:
            checkpoints.save(4, state(4, ema=ema), {'note': 1}, 0.5)
    plain, average = read_params(tmp_path / 'plain'), read_params(tmp_path / 'average')
    same(plain.params, jax.device_get(state(4)['params']))
    same(average.params, jax.device_get(state(4, ema=True)['ema']))
    assert average.step == 4 and average.facts == {'note': 1}
    assert all(type(x) is np.ndarray for x in jax.tree.leaves(average.state))
    np.testing.assert_array_equal(average.state['opt'][0]['mu']['layer']['bias'], [4.0, 5.0])


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        (lambda s: s | {'params': {'layer': s['params']['layer'] | {'kernel': s['step']}}}, r"float32\[3, 2\] in it"),
        (lambda s: s | {'params': {'other': s['params']['layer']}}, "'params.other.bias' is absent in it"),
        (lambda s: s | {'ema': s['params']}, "'ema.layer.bias' is absent in it"),
        (lambda s: s | {'extra': {'codes': jnp.ones((2,), jnp.float32)}}, r"'extra.codes' is bfloat16\[2\] in it"),
        (lambda s: s | {'opt': ()}, "'opt.0.count' is int32.* in it and absent"),
    ],
)  # fmt: skip
def test_another_model_is_named(two_steps, change, words):
    like = jax.eval_shape(lambda: change(state(0)))
    with opened(two_steps) as checkpoints, pytest.raises(InputError, match=words) as e:
        checkpoints.restore(like)
    assert '--fresh' in str(e.value) and '\n' not in str(e.value)


def test_every_file_is_sealed(two_steps):
    sums = json.loads((two_steps / '2.sha256.json').read_text())
    assert sorted(f'2/{name}' for name in sums) == files(two_steps, 2)[:-1]


@pytest.mark.parametrize('damage', ['cut', 'flip', 'gone'])
def test_damage_of_any_file_is_named_and_the_step_before_used(two_steps, tmp_path, capsys, damage):
    for number, name in enumerate(files(two_steps, 2)):
        folder = tmp_path / str(number)
        shutil.copytree(two_steps, folder)
        content = bytearray((folder / name).read_bytes())
        (folder / name).unlink()
        if damage != 'gone':
            content[len(content) // 2] ^= 0x10
            (folder / name).write_bytes(content if damage == 'flip' else content[: len(content) // 2])
        with opened(folder) as checkpoints:
            step, restored, _ = checkpoints.restore(LIKE)
            assert step == 1, name
            same(restored, state(1))
            said = capsys.readouterr().out
            if name != '2.sha256.json':
                assert f'checkpoint 2 is damaged ({name} ' in said
            elif damage == 'gone':
                assert 'checkpoint 2 was cut off' in said
            else:
                assert 'checkpoint 2 is damaged (2' in said  # the seal, or the file that it now misstates
            checkpoints.save(2, state(2), {}, 0.5)  # the run goes on over it
        assert seal.steps(folder) == [1, 2] and seal.check(folder, 2) == ''


@given(st.integers(0), st.integers(0), st.integers(0, 7))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_flip_of_any_bit_is_found(two_steps, number, position, bit):
    names = files(two_steps, 2)[:-1]
    path = two_steps / names[number % len(names)]
    whole = path.read_bytes()
    damaged = bytearray(whole)
    damaged[position % len(whole)] ^= 1 << bit
    path.write_bytes(damaged)
    try:
        assert seal.check(two_steps, 2) == f'{path.relative_to(two_steps)} does not match its checksum'
    finally:
        path.write_bytes(whole)
    assert seal.check(two_steps, 2) == ''


@pytest.mark.parametrize('damage', ['{"score', '{"score": 9.0}'])
def test_a_damaged_best_is_named_and_the_next_best_is_read(two_steps, tmp_path, capsys, damage):
    folder = tmp_path / 'checkpoints'
    shutil.copytree(two_steps, folder)
    with opened(folder, keep_best=2) as checkpoints:
        checkpoints.save(3, state(3), {}, 2.0)  # the newest, and the worst
    assert read_params(tmp_path).step == 2 == best_step(folder) and 'damaged' not in capsys.readouterr().out
    (folder / '2' / 'metrics' / 'metrics').write_text(damage)
    assert read_params(tmp_path).step == 1 == best_step(folder)
    assert 'checkpoint 2 is damaged (2/metrics/metrics does not match its checksum)' in capsys.readouterr().out
    with pytest.raises(InputError, match='no whole checkpoint'):
        read_params(tmp_path, 2)
    assert (folder / '2').is_dir()  # a reader changes nothing


def test_a_step_that_was_cut_off_is_passed_over(two_steps, tmp_path, capsys):
    """Killed between Orbax's rename and the seal, or in the middle of the write."""
    folder = tmp_path / 'checkpoints'
    shutil.copytree(two_steps, folder)
    (folder / '2.sha256.json').unlink()
    shutil.copytree(folder / '1', folder / '3.orbax-checkpoint-tmp')
    with opened(folder) as checkpoints:
        assert 'checkpoint 2 was cut off while it was written; using the one before it' in capsys.readouterr().out
        assert checkpoints.restore(LIKE)[0] == 1
        checkpoints.save(3, state(3), {}, None)
    assert kept(folder) == [1, 3] and not list(folder.glob('*tmp*'))


def test_when_all_are_damaged_the_run_starts_anew_and_nothing_is_deleted(two_steps, tmp_path, capsys):
    folder = tmp_path / 'checkpoints'
    shutil.copytree(two_steps, folder)
    for step in (1, 2):
        (folder / str(step) / 'facts' / 'metadata').write_text('')
    with opened(folder) as checkpoints:
        assert checkpoints.restore(LIKE) is None
    assert (folder / 'damaged-1').is_dir() and (folder / 'damaged-2').is_dir()


@pytest.mark.parametrize('name', ['../1/_CHECKPOINT_METADATA', '/etc/hostname', 'state/../../../secret', 'link'])
def test_a_seal_cannot_name_a_file_outside(two_steps, tmp_path, monkeypatch, name):
    folder = tmp_path / 'checkpoints'
    shutil.copytree(two_steps, folder)
    secret = tmp_path / 'secret'
    secret.write_text('x')
    (folder / '2' / 'link').symlink_to(secret)
    sums = json.loads((folder / '2.sha256.json').read_text())
    (folder / '2.sha256.json').write_text(json.dumps({name: '0' * 64} | sums))
    opened_files = []
    monkeypatch.setattr(seal, '_digest', lambda path: opened_files.append(path))
    assert f'names {name!r}, which lies outside the checkpoint' in seal.check(folder, 2)
    assert not opened_files


def test_odd_names_in_the_folder_are_left_alone(two_steps, tmp_path):
    folder = tmp_path / 'a' / 'checkpoints'
    shutil.copytree(two_steps, folder)
    odd = ['x.sha256.json', '..sha256.json', '-1.sha256.json', 'tcn_index_best.pt', '٣.sha256.json']
    for name in odd:
        (folder / name).write_text('{"../../../evil": "0"}')
    (folder / 'notes').mkdir()
    before = sorted(p.relative_to(tmp_path) for p in tmp_path.rglob('*') if 'checkpoints' not in p.parts)
    with opened(folder) as checkpoints:
        assert checkpoints.restore(LIKE)[0] == 2
        assert seal.steps(folder) == [1, 2]
    assert all((folder / name).exists() for name in ('tcn_index_best.pt', 'notes'))
    assert before == sorted(p.relative_to(tmp_path) for p in tmp_path.rglob('*') if 'checkpoints' not in p.parts)


def test_names_of_parameters_write_nothing_outside(tmp_path):
    folder = tmp_path / 'a' / 'b' / 'checkpoints'
    wild = {'params': {'../../../evil': jnp.ones(2), '/tmp/evil-fjq': jnp.ones(2), 'a/b': {'..': jnp.ones(2)}}}
    with opened(folder) as checkpoints:
        checkpoints.save(1, wild, {}, None)
    assert [p for p in tmp_path.rglob('*') if p.is_file() and folder not in p.parents] == []
    assert not Path('/tmp/evil-fjq').exists()
    same(read_params(folder.parent).params, jax.device_get(wild['params']))


def test_a_save_returns_before_it_is_sealed(tmp_path, monkeypatch):
    go, make = threading.Event(), seal.make
    monkeypatch.setattr(seal, 'make', lambda *a: (go.wait(30), make(*a))[1])
    with opened(tmp_path) as checkpoints:
        checkpoints.save(1, state(1), {}, None)
        assert seal.steps(tmp_path) == []
        go.set()
        checkpoints.wait()
        assert seal.steps(tmp_path) == [1]


def test_a_save_costs_the_loop_a_copy_not_a_write(tmp_path):
    big = {'params': {'x': jnp.zeros((4096, 4096), jnp.float32)}}  # 64 MiB
    ratios = []
    for i in range(3):
        with opened(tmp_path / str(i)) as checkpoints:
            start = time.perf_counter()
            checkpoints.save(1, big, {}, None)
            returned = time.perf_counter() - start
            checkpoints.wait()
            ratios.append(returned / (time.perf_counter() - start))
    assert min(ratios) < 0.5


def test_what_is_given_away_after_a_save_is_saved_whole(tmp_path):
    bump = jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s), donate_argnums=0)
    current = {'params': {'x': jnp.zeros((512, 512))}}
    with opened(tmp_path / 'checkpoints', keep_best=9) as checkpoints:
        for step in range(1, 5):
            for _ in range(3):
                current = bump(current)
            checkpoints.save(step, current, {}, -step)
            current = bump(current)  # at once
    for step in range(1, 5):
        value = read_params(tmp_path, step).params['x']
        assert value.min() == value.max() == 4 * step - 1


@contextlib.contextmanager
def small_disk(size):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_one_line_and_earlier_steps_stay(tmp_path):
    noise = lambda seed: {'params': {'x': jax.random.normal(jax.random.key(seed), (300, 300))}}  # does not compress
    like = jax.eval_shape(lambda: noise(0))
    with opened(tmp_path, keep_best=3) as checkpoints:
        checkpoints.save(1, noise(1), {}, 0.5)
    checkpoints = Checkpoints(tmp_path, keep_best=3)
    with small_disk(100_000), pytest.raises(InputError, match='could not be written: File too large') as e:
        checkpoints.save(2, noise(2), {}, 0.4)
        checkpoints.wait()
    assert str(tmp_path) in str(e.value) and 'make room' in str(e.value).lower() and '\n' not in str(e.value)
    with contextlib.suppress(InputError):
        checkpoints.close()
    with opened(tmp_path, keep_best=3) as checkpoints:  # with room again
        step, restored, _ = checkpoints.restore(like)
        assert step == 1
        same(restored, noise(1))
        checkpoints.save(2, noise(2), {}, 0.4)
    assert seal.steps(tmp_path) == [1, 2]


@pytest.fixture
def locked_folder():
    """A folder with a checkpoint that this user may read but not write."""
    root = Path(tempfile.mkdtemp())
    root.chmod(0o755)
    folder = root / 'checkpoints'
    write(folder, 1.0)
    folder.chmod(0o555)
    me = os.geteuid()
    if me == 0:
        os.seteuid(65534)  # root may write anywhere
    yield folder
    os.seteuid(me)
    folder.chmod(0o755)
    shutil.rmtree(root)


def test_a_read_only_folder_is_one_line(locked_folder):
    checkpoints = Checkpoints(locked_folder)
    with pytest.raises(InputError, match='could not be written: Permission denied'):
        checkpoints.save(2, state(2), {}, 0.1)
        checkpoints.wait()
    with contextlib.suppress(InputError):
        checkpoints.close()
    assert seal.check(locked_folder, 1) == '' and read_params(locked_folder.parent).step == 1


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(InputError, match='could not be written: Not a directory'):
        Checkpoints(tmp_path / 'file' / 'checkpoints')
