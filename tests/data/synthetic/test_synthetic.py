"""The simulator's runs: the same bits again, going on after a kill, folders that are not ours, the command."""

import dataclasses
import hashlib
import subprocess
import sys

import pytest

from fjq import atomic
from fjq.data.synthetic import scaled, simulate
from fjq.errors import InputError
from fjq.parallel import Parallel


def digests(folder) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob('*'))
        if path.is_file()
    }


def test_same_bits_from_other_processes_and_fewer_days(tmp_path):
    market = scaled('tiny', days=6, what=('index', 'stocks', 'options', 'spy'))
    simulate(tmp_path / 'a', market)
    simulate(tmp_path / 'b', market, Parallel(workers=2))
    simulate(tmp_path / 'c', dataclasses.replace(market, days=3))
    simulate(tmp_path / 'd', dataclasses.replace(market, days=3, seed=1))
    a, b, c, d = (digests(tmp_path / name) for name in 'abcd')
    assert a == b
    days = {name for name in c if name != 'synthetic.json'}
    assert len(days) == 12 and {k: a[k] for k in days} == {k: c[k] for k in days}
    assert all(c[k] != d[k] for k in days)


def test_killed_run_goes_on(tmp_path, monkeypatch):
    market = scaled('tiny', days=4, what=('spy', 'stocks', 'index', 'rv'))
    whole = digests(simulate(tmp_path / 'whole', market)['index'].parent)

    class Killed(BaseException):
        pass

    replace, left = atomic.os.replace, iter(range(3))

    def dying(part, path):
        if next(left, None) is None:
            raise Killed
        replace(part, path)

    out = tmp_path / 'part'
    monkeypatch.setattr(atomic.os, 'replace', dying)
    with pytest.raises(Killed):
        simulate(out, market)
    monkeypatch.undo()
    written = {path: path.stat().st_mtime_ns for path in out.rglob('*.parquet')}
    assert len(written) == 2 and not list(out.rglob('.*'))
    simulate(out, market)
    assert digests(out) == whole
    assert all(path.stat().st_mtime_ns == time for path, time in written.items())


def test_more_days_or_a_lost_file_are_added(tmp_path):
    market = scaled('tiny', days=3, what=('spy', 'rv'))
    made = simulate(tmp_path / 'a', market)
    next(made['spy'].glob('2022-02-03.*')).unlink()
    (made['truth'] / 'spy_minutes.parquet').unlink()
    longer = dataclasses.replace(market, days=5)
    simulate(tmp_path / 'a', longer)
    simulate(tmp_path / 'b', longer)
    assert digests(tmp_path / 'a') == digests(tmp_path / 'b')


def test_folders_of_other_settings_or_owners_are_refused(tmp_path):
    market = scaled('tiny', days=1, what=('spy',))
    made = simulate(tmp_path / 'a', market)
    with pytest.raises(InputError, match='spy of seed 0, not 1'):
        simulate(tmp_path / 'a', dataclasses.replace(market, seed=1))
    foreign = tmp_path / 'b' / 'spy_ticks' / '2022-02-01.parquet'
    foreign.parent.mkdir(parents=True)
    foreign.write_bytes(b'mine')
    with pytest.raises(InputError, match='did not write'):
        simulate(tmp_path / 'b', market)
    assert foreign.read_bytes() == b'mine'
    (tmp_path / 'a' / 'synthetic.json').write_text('[')
    with pytest.raises(InputError, match='manifest'):
        simulate(tmp_path / 'a', market)
    with pytest.raises(InputError, match='this is a file'):
        simulate(next(made['spy'].iterdir()), market)


@pytest.mark.parametrize(
    ('field', 'value'),
    [
        ('start', '2022-02-30'), ('start', '1890-01-01'), ('days', 0), ('seed', -1), ('what', ('index', 'news')),
        ('what', ()), ('layouts', ('arrow',)), ('vol', 0.0), ('jumps_per_year', -1.0), ('half_life', 0.0),
        ('option_roots', 9), ('daily_symbols', 0), ('index_symbols', 1),
    ],
)  # fmt: skip
def test_bad_fields_are_named(tmp_path, field, value):
    with pytest.raises(InputError, match=field):
        simulate(tmp_path, scaled('tiny', **{field: value}))
    assert not list(tmp_path.iterdir())


def run_command(*flags):
    command = [sys.executable, '-m', 'fjq.data.synthetic', *flags]
    return subprocess.run(command, capture_output=True, text=True)


def test_command(tmp_path):
    done = run_command(f'--out={tmp_path}', '--scale=tiny', '--days=2', '--what=spy,vix', '--workers=1')
    assert done.returncode == 0 and 'rows/s' in done.stdout and f'vix: {tmp_path}' in done.stdout
    assert len(list((tmp_path / 'spy_ticks').iterdir())) == 2
    assert 'mean prints a session of SPY' in run_command('--help').stdout
    for flags in (['--days=2'], [f'--out={tmp_path}', '--days=x'], [f'--out={tmp_path}', 'word'], ['--oot=x']):
        wrong = run_command(*flags)
        assert wrong.returncode == 2 and wrong.stderr.count('\n') == 1 and wrong.stderr.startswith('fjq: ')


def test_workers_import_little():
    code = 'import sys, fjq.data.synthetic; print(*sorted({m.split(".")[0] for m in sys.modules}))'
    loaded = set(subprocess.run([sys.executable, '-c', code], capture_output=True, text=True).stdout.split())
    assert 'numpy' in loaded and not loaded & {'jax', 'torch', 'pandas', 'matplotlib', 'scipy', 'flax'}
