"""The chunk bank: whole days or none, rebuilt only where something changed, whatever is killed."""

import datetime
import os
import signal
import socket
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fjq.data.source import DayFile, list_days
from fjq.data.ticks import bank as bank_module
from fjq.data.ticks.bank import Framing, build_bank, last_prices, open_bank, verify_bank
from fjq.data.ticks.files import TickFiles, read_day
from fjq.data.ticks.frames import frame_day
from fjq.errors import InputError
from fjq.parallel import Parallel

ONE = Parallel(workers=1)
SHORT = Framing(chunk_len=16)
DATES = ['2022-02-01', '2022-02-02', '2022-02-03']


def write_day(root: Path, date: str, *, seed: int = 0, rows: int = 900, **changes) -> Path:
    """An index day: three tickers, a tick a second from 09:30."""
    rng = np.random.Generator(np.random.Philox([seed, int(date[-2:])]))
    wall = np.datetime64(f'{date}T09:30', 'us') + np.arange(rows) // 3 * np.timedelta64(1, 's')
    columns = {'ticker': ['VIX', 'SPX', 'RUT'] * (rows // 3), 'timestamp': wall, 'price': 100 + rng.random(rows)}
    root.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({**columns, **changes}), root / f'{date}.parquet')
    return root / f'{date}.parquet'


@pytest.fixture
def root(tmp_path) -> Path:
    for date in DATES:
        write_day(tmp_path / 'ticks', date)
    return tmp_path / 'ticks'


def build(root: Path, framing: Framing = SHORT, parallel: Parallel = ONE, **fields):
    return build_bank(root.parent / 'cache', TickFiles(root=str(root), **fields), framing, parallel)


def inodes(bank) -> dict[str, int]:
    return {d.folder: (bank.folder / d.folder / 'chunks.npy').stat().st_ino for d in bank.days}


def test_a_bank_holds_what_framing_makes(root):
    bank = build(root)
    assert [str(d) for d in bank.dates] == DATES
    for i, day in enumerate(bank.days):
        ticks, _ = read_day(DayFile(day.date.item(), root / f'{day.date}.parquet'), TickFiles())
        for name, expected in frame_day(ticks, chunk_len=16)._asdict().items():
            if expected is not None:
                np.testing.assert_array_equal(bank.array(i, name), expected)
                part = np.empty_like(expected[3:7])
                bank.read(i, name, 3, part)
                np.testing.assert_array_equal(part, expected[3:7])
        assert day.closes == last_prices(ticks) and set(day.closes) == {'SPX', 'VIX'}
    assert verify_bank(bank) == []
    counts = bank.counts()
    assert (counts['days'], counts['frames'], counts['rows'], counts['rows_kept']) == (3, 90, 2700, 2700)
    assert counts['chunks'] == 180 and '180 chunks' in bank.summary()


def test_two_processes_build_the_same_bank_as_one(root):
    one = build(root)
    (one.folder).rename(root.parent / 'first')
    two = build(root, parallel=Parallel(workers=2))
    assert two.content() == one.content() and two.folder == one.folder


def test_nothing_is_built_twice_and_only_changed_days_again(root):
    before = build(root)
    old = inodes(before)
    assert inodes(build(root)) == old
    write_day(root, DATES[1], seed=9)
    os.utime(root / f'{DATES[1]}.parquet', ns=(1, 1))
    after = build(root)
    new = inodes(after)
    assert [k[:10] for k in new if k not in old] == [DATES[1]] and len(new) == 3
    assert {k: v for k, v in new.items() if k in old} == {k: v for k, v in old.items() if k in new}
    assert after.content() != before.content()
    assert sorted(p.name for p in after.folder.iterdir()) == sorted([*new, 'manifest.json'])  # the old day is gone


def test_a_touched_file_with_the_same_ticks_has_the_same_content(root):
    before = build(root)
    old = inodes(before)
    os.utime(root / f'{DATES[0]}.parquet', ns=(1, 1))
    after = build(root)
    assert inodes(after) != old and after.content() == before.content()


@pytest.mark.parametrize(
    'framing, fields',
    [
        (Framing(chunk_len=8), {}),
        (Framing(chunk_len=16, features='v2'), {}),
        (Framing(chunk_len=16, frame='20s'), {}),
        (Framing(chunk_len=16), {'session': 'regular'}),
        (Framing(chunk_len=16), {'tickers': 'top.txt'}),
    ],
    ids=['chunk_len', 'features', 'frame', 'session', 'tickers'],
)
def test_another_setting_is_another_bank(root, framing, fields):
    if 'tickers' in fields:
        (root / 'top.txt').write_text('VIX\n')
        fields = {'tickers': str(root / 'top.txt')}
    assert build(root, framing, **fields).folder != build(root).folder
    if 'tickers' in fields:
        first = build(root, framing, **fields)
        (root / 'top.txt').write_text('SPX\n')
        assert build(root, framing, **fields).folder != first.folder
        assert first.counts()['rows_dropped_ticker'] == 1800 and '1,800 rows dropped ticker' in first.summary()


def test_other_code_is_another_bank(root, monkeypatch, tmp_path):
    first = build(root)
    changed = tmp_path / 'frames.py'
    changed.write_text(Path(bank_module.frames.__file__).read_text() + '# changed\n')
    monkeypatch.setattr(bank_module.frames, '__file__', str(changed))
    assert build(root).folder != first.folder


@pytest.mark.parametrize('damage', ['cut', 'gone', 'json', 'no json'])
def test_a_damaged_day_is_built_again(root, damage):
    bank = build(root)
    day = bank.folder / bank.days[1].folder
    if damage == 'cut':
        with open(day / 'chunks.npy', 'r+b') as f:
            f.truncate(200)
    elif damage == 'gone':
        (day / 'time.npy').unlink()
    elif damage == 'json':
        (day / 'day.json').write_text((day / 'day.json').read_text().replace('"rows": 900', '"rows": 901'))
    else:
        (day / 'day.json').unlink()
    with pytest.raises(InputError, match='no whole chunk bank'):
        open_bank(bank.folder)
    again = build(root)
    assert again.content() == bank.content() and verify_bank(again) == []
    assert len(list(again.folder.iterdir())) == 4


def test_changed_bytes_are_found_by_verify_and_by_the_reader(root):
    bank = build(root)
    path = bank.folder / bank.days[2].folder / 'weights.npy'
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert verify_bank(bank) == [f'{bank.days[2].folder}/weights.npy']
    path.write_bytes(b'x' * len(data))
    assert verify_bank(bank) == [f'{bank.days[2].folder}/weights.npy']
    (bank.folder / bank.days[2].folder / 'frame.npy').unlink()
    with pytest.raises(InputError, match='changed while it was in use'):
        bank.read(2, 'frame', 0, np.zeros(1, np.int32))


def test_a_damaged_manifest_is_not_opened(root):
    bank = build(root)
    manifest = bank.folder / 'manifest.json'
    manifest.write_text(manifest.read_text().replace(DATES[0], DATES[1], 1))
    with pytest.raises(InputError, match='no whole chunk bank'):
        open_bank(bank.folder)
    assert build(root).content() == bank.content()


def test_bad_files_stop_the_build_and_keep_what_is_done(root):
    write_day(root, DATES[1], price=[-1.0] * 900)
    write_day(root, '2022-02-04', rows=3, price=[None, 1.0, 1.0])
    with pytest.raises(InputError) as e:
        build(root)
    text = str(e.value)
    assert DATES[1] in text and "column 'price', row 0" in text and '2 of 4 files are bad' in text and 'skip' in text
    kept = [p.name[:10] for p in (root.parent / 'cache').glob('*/2022*')]
    assert sorted(kept) == [DATES[0], DATES[2]]
    bank = build(root, on_bad_file='skip')
    assert [str(d) for d in bank.dates] == [DATES[0], DATES[2]]
    assert {Path(p).name for p in bank.skipped} == {f'{DATES[1]}.parquet', '2022-02-04.parquet'}
    assert bank.counts()['files_skipped'] == 2 and '2 files skipped' in bank.summary()


def test_a_day_without_ticks_is_counted(root):
    (root / 'top.txt').write_text('VIX\n')
    write_day(root, DATES[1], ticker=['RUT'] * 900)
    bank = build(root, tickers=str(root / 'top.txt'))
    assert bank.counts()['days_without_ticks'] == 1 and bank.days[1].frames == 0
    assert np.isnan(bank.closes('VIX')[1]) and bank.closes('VIX')[0] > 0


def test_places_of_tickers_are_kept_where_asked(root):
    (root / 'top.txt').write_text('SPX\nVIX\n')
    bank = build(root, Framing(chunk_len=16, tickers=True), tickers=str(root / 'top.txt'))
    places = bank.array(0, 'tickers')
    assert places.shape == (60, 16) and set(np.unique(places)) == {-1, 0, 1}
    with pytest.raises(InputError, match='need the list'):
        build(root, Framing(tickers=True))


def test_absent_list_of_tickers_is_refused(root):
    with pytest.raises(InputError, match="absent.txt, column 'tickers': no such file"):
        build(root, tickers='absent.txt')


BUILD = """
import sys
from fjq.data.ticks.bank import Framing, build_bank
from fjq.data.ticks.files import TickFiles
from fjq.parallel import Parallel
bank = build_bank(sys.argv[2], TickFiles(root=sys.argv[1]), Framing(chunk_len=16), Parallel(workers=1))
print(bank.content())
"""


def test_a_killed_build_goes_on_and_leaves_nothing_behind(tmp_path):
    root, cache = tmp_path / 'ticks', tmp_path / 'cache'
    for i in range(1, 25):
        write_day(root, f'2022-02-{i:02d}', rows=30_000)
    command = [sys.executable, '-c', BUILD, str(root), str(cache)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and len(list(cache.glob('*/2022*'))) < 3:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = {p.name: p.stat().st_ino for p in cache.glob('*/2022*')}
    assert 3 <= len(done) < 24 and not list(cache.glob('*/manifest.json'))
    bank = build(root)
    assert len(bank.days) == 24 and verify_bank(bank) == []
    assert {p.name: p.stat().st_ino for p in bank.folder.glob('2022*') if p.name in done} == done
    assert len(list(bank.folder.iterdir())) == 25


def test_left_overs_of_dead_builds_go_and_those_of_living_ones_stay(root):
    bank = build(root)
    dead = subprocess.run([sys.executable, '-c', 'import os; print(os.getpid())'], capture_output=True, text=True)
    names = {pid: f'.building-{socket.gethostname()}-{pid}-0123abcd' for pid in (int(dead.stdout), os.getpid())}
    for name in names.values():
        (bank.folder / name).mkdir()
    build(root)
    assert [p.name for p in bank.folder.glob('.building*')] == [names[os.getpid()]]


def test_a_day_that_another_process_made_meanwhile_is_kept(root):
    bank = build(root)
    day, made = list_days(root)[0], inodes(bank)
    assert bank_module._build_day(day, TickFiles(root=str(root)), None, SHORT, bank.folder) is None
    assert inodes(bank) == made and not list(bank.folder.glob('.building*'))


def test_two_builds_at_once_do_no_harm(root, tmp_path):
    for i in range(4, 15):
        write_day(root, f'2022-02-{i:02d}')
    command = [sys.executable, '-c', BUILD, str(root), str(tmp_path / 'cache')]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    contents = [p.communicate(timeout=60)[0].splitlines()[-1] for p in both]
    bank = build(root)
    assert contents == [bank.content()] * 2 and all(p.returncode == 0 for p in both)
    assert len(list(bank.folder.iterdir())) == 15 and verify_bank(bank) == []


def test_memory_does_not_grow_with_the_days(tmp_path):
    code = (
        'import sys, resource\n'
        'from pathlib import Path\n'
        'from fjq.data.ticks.bank import Framing, build_bank\n'
        'from fjq.data.ticks.files import TickFiles\n'
        'from fjq.parallel import Parallel\n'
        'build_bank(sys.argv[2], TickFiles(root=sys.argv[1]), Framing(), Parallel(workers=1))\n'
        'print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n'
    )
    peaks = []
    for count in (2, 12):
        root = tmp_path / f'{count}'
        for i in range(1, count + 1):
            write_day(root, f'2022-03-{i:02d}', rows=60_000)
        command = [sys.executable, '-c', code, str(root), str(tmp_path / f'cache{count}')]
        peaks.append(int(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1]))
    assert peaks[1] < peaks[0] * 1.15, peaks


def test_checks_are_of_the_bytes(root):
    bank = build(root)
    assert bank.days[0].checks['time'] == zlib.crc32(bank.array(0, 'time').tobytes())
    assert bank.days[0].date == np.datetime64(datetime.date(2022, 2, 1))


def test_what_is_odd_in_a_file_is_said(root):
    price = 100 + np.random.Generator(np.random.Philox(1)).random(900)
    price[:5] = 0
    seconds = np.arange(900) // 3
    seconds[[30, 60]] = seconds[[60, 30]]
    wall = np.datetime64(f'{DATES[0]}T09:30', 'us') + seconds * np.timedelta64(1, 's')
    write_day(root, DATES[0], price=price, timestamp=wall)
    assert build(root).summary().endswith('; 5 rows at price 0, 2 rows out of order')
