"""The map over processes: order, errors, progress, and workers that are killed on the way."""

import contextlib
import os
import signal
import subprocess
import sys
import time
import warnings
from functools import partial
from pathlib import Path

import pytest

from fjq.errors import InputError
from fjq.parallel import Parallel, run


def _square(x: int) -> int:
    return x * x


def _pid(_: int) -> int:
    return os.getpid()


def _folder(_: int) -> Path:
    return Path('.').resolve()


def _refuse_three(x: int) -> int:
    if x == 3:
        raise InputError('the price is negative', file='a.csv', column='price', row=7, remedy='correct it')
    return x


def _die_once(folder: Path, x: int) -> int:
    """Writes one line per run of an item; the process that first runs item 5 is killed in the middle of it."""
    with open(folder / f'runs-{x}', 'a') as f:
        f.write('1\n')
    if x == 5 and not (folder / 'killed').exists():
        (folder / 'killed').touch()
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.02)
    return 10**x


def _die(x: int) -> int:
    if x == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return x


@pytest.mark.parametrize('workers', [1, 2])
def test_results_keep_the_order_of_the_items(workers):
    items = list(range(50, 0, -1))
    assert run(_square, items, Parallel(workers=workers), what='squares') == [x * x for x in items]
    assert run(_square, [], Parallel(workers=workers), what='nothing') == []


def test_one_worker_is_this_process_and_two_are_others():
    assert set(run(_pid, range(4), Parallel(workers=1), what='pids')) == {os.getpid()}
    assert os.getpid() not in run(_pid, range(4), Parallel(workers=2), what='pids')


def test_relative_paths_are_those_of_the_caller_though_workers_are_used_again(tmp_path, monkeypatch):
    for name in 'first', 'second':
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        assert set(run(_folder, range(4), Parallel(workers=2), what='folders')) == {tmp_path / name}


@pytest.mark.parametrize('workers', [1, 2])
def test_an_input_error_of_a_worker_arrives_as_the_same_line(workers):
    with pytest.raises(InputError) as caught:
        run(_refuse_three, range(8), Parallel(workers=workers), what='checks')
    with pytest.raises(InputError) as direct:
        _refuse_three(3)
    assert str(caught.value) == str(direct.value)
    assert (caught.value.file, caught.value.row, caught.value.remedy) == ('a.csv', 7, 'correct it')


def test_progress_ends_with_one_line(capsys):
    run(_square, range(6), Parallel(workers=1), what='squares')
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 and lines[0].startswith('squares: 6 in ')


def test_a_killed_local_worker_loses_and_doubles_nothing(tmp_path):
    results = run(partial(_die_once, tmp_path), range(12), Parallel(workers=2), what='powers')
    assert (tmp_path / 'killed').exists()
    assert sum(results) == 111_111_111_111  # a digit other than 1 is an item that was lost or counted twice


def test_an_item_that_always_kills_its_worker_is_given_up():
    with pytest.raises(InputError, match='worker processes died 4 times'):
        run(_die, range(6), Parallel(workers=2), what='deadly')


def test_a_negative_count_is_refused():
    with pytest.raises(InputError, match='parallel.workers'):
        run(_square, [1], Parallel(workers=-1), what='squares')


def _interrupt_itself(x):
    os.kill(os.getpid(), signal.SIGINT)
    return x


def test_ctrl_c_is_the_main_process_s_alone():
    assert run(_interrupt_itself, range(4), Parallel(workers=2), what='interrupted') == [0, 1, 2, 3]


def test_ctrl_c_stops_at_once_and_leaves_no_process(tmp_path):
    script = tmp_path / 'long.py'
    script.write_text(
        'import signal, time\n'
        'signal.signal(signal.SIGINT, signal.default_int_handler)\n'  # a shell's background is deaf to it
        'from fjq.parallel import Parallel, run\n'
        'def wait(x):\n'
        f'    open(r"{tmp_path}/started-%d" % x, "w").close()\n'
        '    time.sleep(60)\n'
        'try:\n'
        '    run(wait, range(8), Parallel(workers=2), what="waits")\n'
        'except KeyboardInterrupt:\n'
        '    raise SystemExit(130)\n'
    )
    env = {**os.environ, 'PYTHONPATH': str(Path(__file__).parent.parent)}
    child = subprocess.Popen([sys.executable, script], env=env, start_new_session=True, stderr=subprocess.PIPE)
    for _ in range(300):
        if len(list(tmp_path.glob('started-*'))) == 2:
            break
        time.sleep(0.1)
    os.killpg(child.pid, signal.SIGINT)  # as a terminal does: to every process of the group
    _, errors = child.communicate(timeout=20)
    assert child.returncode == 130
    assert errors == b''
    for _ in range(100):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, 0)
            time.sleep(0.1)
            continue
        return
    pytest.fail('a worker outlived the run')


@pytest.fixture(scope='module')
def cluster():
    distributed = pytest.importorskip('distributed')
    import dask

    # A killed worker is asked for its results for this long before they are computed again; 30 s by default.
    with warnings.catch_warnings(), dask.config.set({'distributed.comm.timeouts.connect': '2s'}):
        warnings.simplefilter('ignore')
        with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
            yield cluster


def test_cluster_results_equal_local_ones(cluster):
    parallel = Parallel(scheduler=cluster.scheduler_address)
    assert run(_square, range(20), parallel, what='squares') == [x * x for x in range(20)]
    assert os.getpid() not in run(_pid, range(4), parallel, what='pids')


def test_cluster_workers_work_in_the_folder_of_the_map(cluster, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    parallel = Parallel(scheduler=cluster.scheduler_address)
    assert run(_folder, range(2), parallel, what='folders') == [tmp_path, tmp_path]
    monkeypatch.setattr('os.getcwd', lambda: '/no/such/folder')
    with pytest.raises(InputError, match='a worker can not enter /no/such/folder'):
        run(_folder, range(2), parallel, what='folders')


def test_a_killed_cluster_worker_loses_and_doubles_nothing(cluster, tmp_path):
    """One of two worker processes is killed midway: the items it had finished and the one it held are run again."""
    parallel = Parallel(scheduler=cluster.scheduler_address)
    results = run(partial(_die_once, tmp_path), range(40), parallel, what='powers')
    assert len((tmp_path / 'runs-5').read_text().splitlines()) == 2
    assert sum(results) == int('1' * 40)


def test_cluster_errors_arrive_as_the_same_line(cluster):
    with pytest.raises(InputError, match="a.csv, column 'price', row 7: the price is negative. Correct it.$"):
        run(_refuse_three, range(8), Parallel(scheduler=cluster.scheduler_address), what='checks')


def test_cluster_gives_up_a_deadly_item(cluster):
    with pytest.raises(InputError, match='gave up'):
        run(_die, range(6), Parallel(scheduler=cluster.scheduler_address), what='deadly')


def test_a_scheduler_out_of_reach_is_named(monkeypatch):
    monkeypatch.setattr('fjq.parallel.CONNECT_SECONDS', 1)
    for address in ('tcp://127.0.0.1:1', 'no such thing'):
        with pytest.raises(InputError, match='no Dask scheduler answers'):
            run(_square, [1], Parallel(scheduler=address), what='squares')


def test_a_missing_dask_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, 'distributed', None)
    with pytest.raises(InputError, match=r'Install fjq\[cluster\]'):
        run(_square, [1], Parallel(scheduler='tcp://127.0.0.1:1'), what='squares')
