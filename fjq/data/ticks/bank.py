"""The chunk bank: every day of a folder of ticks, framed once and kept on disk for all runs.

    CACHE/ticks-KEY/manifest.json           the days of the bank and the files left out; written last
    CACHE/ticks-KEY/2022-02-01-STAMP/       one day: chunks, weights, frame, scalars, time[, tickers] .npy, day.json

KEY stands for the source folder, the settings and the code that frames; STAMP for the name, size and time of change of
the source file. A day appears by one rename, so what is there is whole, a killed build goes on where it was, and two
builds at once make the same days. A changed source file makes one new day.
"""

import dataclasses
import functools
import hashlib
import json
import os
import shutil
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fjq.atomic import is_left_over, make_mark, sweep, write_atomic
from fjq.data import calendar, clock, source
from fjq.data.source import DayFile, list_days
from fjq.data.ticks import conditions, frames
from fjq.data.ticks import files as tick_files
from fjq.data.ticks.files import REASONS, TickFiles, Ticks, check_files, read_day, read_tickers
from fjq.data.ticks.frames import Frames, frame_day
from fjq.errors import InputError
from fjq.parallel import Parallel, run

CLOSES = ('SPX', 'VIX')  # indices whose last price of a day is noted
MANIFEST = 'manifest.json'
_BUILDING = '.building'


class Framing(NamedTuple):
    """How ticks become chunks: the arguments of `frame_day`, and whether places of tickers are kept."""

    features: str = 'compat'
    frame: str = '10s'
    chunk_len: int = 256
    tickers: bool = False


class BankDay(NamedTuple):
    """One day of a bank. rows, kept, dropped, zero_prices and unsorted count rows of the source file (see `DayReport`);
    chunks and frames may be 0."""

    date: np.datetime64
    folder: str
    chunks: int
    frames: int
    rows: int
    kept: int
    dropped: dict[str, int]
    zero_prices: int
    unsorted: int
    closes: dict[str, float]
    checks: dict[str, int]  # array -> CRC-32 of its bytes


@dataclasses.dataclass(frozen=True)
class Bank:
    """An open bank; it holds no file open, so it travels to other processes.

    folder: where it is. days: in order of dates. skipped: bad source file -> why it was left out.
    """

    folder: Path
    framing: Framing
    days: tuple[BankDay, ...]
    skipped: dict[str, str]

    @property
    def dates(self) -> np.ndarray:
        """datetime64[D] [N]."""
        return np.array([d.date for d in self.days], 'datetime64[D]')

    def read(self, day: int, name: str, start: int, out: np.ndarray) -> None:
        """Fills `out` with rows of one of a day's arrays, from row `start` on.

        Plain reads are as quick as a memory map, need no open file between calls, and fail with a message where a map
        of a file that became shorter would end the process.
        """
        path = self.folder / self.days[day].folder / f'{name}.npy'
        try:
            fd = os.open(path, os.O_RDONLY)
        except OSError as e:
            raise InputError(
                f'the chunk bank changed while it was in use ({e})', file=path, remedy='start again'
            ) from e
        try:
            rows = self.days[day].frames if name in ('scalars', 'time') else self.days[day].chunks
            offset = os.fstat(fd).st_size - (rows - start) * out[0].nbytes if len(out) else 0
            view, got = memoryview(out).cast('B'), 0
            while got < len(view):
                more = os.preadv(fd, [view[got:]], offset + got)
                if more == 0:
                    raise InputError('the chunk bank is cut short', file=path, remedy='remove the folder of the bank')
                got += more
        finally:
            os.close(fd)

    def array(self, day: int, name: str) -> np.ndarray:
        """A whole array of a day."""
        return np.load(self.folder / self.days[day].folder / f'{name}.npy')

    def closes(self, name: str) -> np.ndarray:
        """The last price of an index on each day, float64 [N], NaN where it has none."""
        return np.array([d.closes.get(name, np.nan) for d in self.days])

    def counts(self) -> dict[str, int]:
        """What the bank holds and what was left out, by reason."""
        return {
            'days': len(self.days),
            'chunks': sum(d.chunks for d in self.days),
            'frames': sum(d.frames for d in self.days),
            'rows': sum(d.rows for d in self.days),
            'rows_kept': sum(d.kept for d in self.days),
            **{f'rows_dropped_{r}': sum(d.dropped[r] for d in self.days) for r in REASONS},
            'rows_at_price_0': sum(d.zero_prices for d in self.days),
            'rows_out_of_order': sum(d.unsorted for d in self.days),
            'days_without_ticks': sum(not d.frames for d in self.days),
            'files_skipped': len(self.skipped),
        }

    def summary(self) -> str:
        """The counts in one line."""
        counts = self.counts()
        shown = [f'{counts[n]:,} {n}' for n in ('days', 'frames', 'chunks', 'rows')]
        more = {name: n for name, n in counts.items() if n and '_' in name and name != 'rows_kept'}
        noted = ', '.join(f'{n:,} {name.replace("_", " ")}' for name, n in more.items())
        return 'chunk bank: ' + ', '.join(shown) + (f'; {noted}' if noted else '')

    def content(self) -> str:
        """A hash of all arrays: equal for equal data, wherever and whenever the bank was built."""
        return _digest([[str(d.date), d.chunks, d.frames, d.checks] for d in self.days if d.frames])


def build_bank(cache: str | os.PathLike, files: TickFiles, framing: Framing, parallel: Parallel) -> Bank:
    """The bank of a folder of ticks; only days that are not there yet, or whose file changed, are framed.

    Args:
      cache: folder that holds the banks of all settings.

    Raises:
      InputError: no daily files, an unknown choice, or a bad file where `files.on_bad_file` is 'stop' (the days of the
        other files are kept).
    """
    check_files(files)
    names = read_tickers(files.tickers, files.stream)
    if framing.tickers and names is None:
        raise InputError('places of tickers need the list of them', column='tickers', remedy='name a file')
    days = list_days(files.root)
    folder = Path(cache) / f'ticks-{_bank_key(files, names, framing)}'
    folder.mkdir(parents=True, exist_ok=True)
    todo = [d for d in days if _load_day(folder / _day_name(d)) is None]
    build = functools.partial(_build_day, files=files, tickers=names, framing=framing, folder=folder)
    results = run(build, todo, parallel, what='frames of days') if todo else []
    bad = [(d, e) for d, e in zip(todo, results, strict=True) if e is not None]
    if bad and files.on_bad_file == 'stop':
        first = bad[0][1]
        more = f' ({len(bad)} of {len(days)} files are bad)' if len(bad) > 1 else ''
        raise InputError(
            first.what + more,
            file=first.file,
            column=first.column,
            row=first.row,
            remedy=f'{first.remedy or "correct the file"}, or set on_bad_file to skip',
        )
    skipped = {str(d.path): str(e) for d, e in bad}
    content = {
        'framing': list(framing),
        'days': [_day_name(d) for d in days if str(d.path) not in skipped],
        'skipped': skipped,
    }
    _write_json(folder / MANIFEST, content)
    _clean(folder, {_day_name(d) for d in days})
    return open_bank(folder)


def open_bank(folder: str | os.PathLike) -> Bank:
    """A bank as its manifest lists it.

    Raises:
      InputError: no bank there, or a damaged one.
    """
    folder = Path(folder)
    manifest = _read_json(folder / MANIFEST)
    days = [_load_day(folder / name) for name in manifest['days']] if manifest else []
    if manifest is None or None in days:
        raise InputError('no whole chunk bank', file=folder, remedy='build it again')
    return Bank(folder, Framing(*manifest['framing']), tuple(days), manifest['skipped'])


def verify_bank(bank: Bank) -> list[str]:
    """Reads every array; the names of those that differ from what was written."""
    return [
        f'{day.folder}/{name}.npy'
        for i, day in enumerate(bank.days)
        for name, check in day.checks.items()
        if _sum_of(bank, i, name) != check
    ]


def _sum_of(bank: Bank, day: int, name: str) -> int | None:
    try:
        return zlib.crc32(bank.array(day, name).data)
    except (OSError, ValueError, EOFError):  # a damaged header
        return None


def last_prices(ticks: Ticks, names: Sequence[str] = CLOSES) -> dict[str, float]:
    """The last positive price of each of the tickers that has one."""
    found = {}
    for name in names:
        if name in ticks.names:
            rows = np.flatnonzero((ticks.ticker == ticks.names.index(name)) & (ticks.price > 0))
            if len(rows):
                found[name] = float(ticks.price[rows[-1]])
    return found


def frame_ticks(content: Ticks, framing: Framing, tickers: tuple[str, ...] | None) -> Frames:
    """The frames of a day; `tickers` is the list that places refer to."""
    return frame_day(
        content,
        features=framing.features,
        frame=framing.frame,
        chunk_len=framing.chunk_len,
        vocabulary=tickers if framing.tickers else None,
    )


def _build_day(
    day: DayFile, files: TickFiles, tickers: tuple[str, ...] | None, framing: Framing, folder: Path
) -> InputError | None:
    """Frames one file into its folder of the bank; gives the error of a bad file back."""
    name = _day_name(day)  # before reading: a file that changes meanwhile makes a new day
    try:
        content, report = read_day(day, files, tickers)
    except InputError as e:
        return e
    made = frame_ticks(content, framing, tickers)
    arrays = {n: a for n, a in made._asdict().items() if a is not None}
    building = folder / f'{_BUILDING}-{make_mark()}'
    building.mkdir()
    for n, array in arrays.items():
        np.save(building / f'{n}.npy', array)
    noted = {
        'date': day.date.isoformat(),
        'chunks': len(made.chunks),
        'frames': len(made.time),
        'rows': report.rows,
        'kept': report.kept,
        'dropped': report.dropped,
        'zero_prices': report.zero_prices,
        'unsorted': report.unsorted,
        'closes': last_prices(content) if files.stream == 'index' else {},
        'checks': {n: zlib.crc32(array.data) for n, array in arrays.items()},
        'sizes': {n: (building / f'{n}.npy').stat().st_size for n in arrays},
    }
    _write_json(building / 'day.json', noted)
    final = folder / name
    if final.exists() and _load_day(final) is None:  # damaged
        os.rename(final, folder / f'{building.name}-damaged')
    try:
        os.rename(building, final)
    except OSError:  # another process was quicker with the same day
        shutil.rmtree(building)
    return None


def _load_day(folder: Path) -> BankDay | None:
    """The day in a folder, or None where there is no whole one."""
    noted = _read_json(folder / 'day.json')
    if noted is None:
        return None
    for name, size in noted.pop('sizes').items():
        path = folder / f'{name}.npy'
        if not path.is_file() or path.stat().st_size != size:
            return None
    return BankDay(date=np.datetime64(noted.pop('date')), folder=folder.name, **noted)


def _day_name(day: DayFile) -> str:
    stat = day.path.stat()
    return f'{day.date}-{_digest([day.path.name, stat.st_size, stat.st_mtime_ns])}'


def _bank_key(files: TickFiles, tickers: tuple[str, ...] | None, framing: Framing) -> str:
    fields = dataclasses.asdict(files)
    settings = {f.name: fields[f.name] for f in dataclasses.fields(TickFiles)}
    settings |= {'root': str(Path(files.root).resolve()), 'tickers': tickers, 'on_bad_file': '', 'framing': framing}
    modules = (source, conditions, clock, calendar, tick_files, frames)
    code = [hashlib.sha256(Path(m.__file__).read_bytes()).hexdigest() for m in modules]
    return _digest([settings, code])


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def _write_json(path: Path, content: dict) -> None:
    write_atomic(path, json.dumps({'content': content, 'check': _digest(content)}, indent=1).encode())


def _read_json(path: Path) -> dict | None:
    """What `_write_json` wrote, or None where that is not whole."""
    try:
        noted = json.loads(path.read_text())
        return noted['content'] if noted['check'] == _digest(noted['content']) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _clean(folder: Path, wanted: set[str]) -> None:
    """Removes days that a newer file took the place of, and what killed builds of this machine left."""
    dates = {name[:10] for name in wanted}
    sweep(folder)
    for path in folder.iterdir():
        if path.name[:10] in dates and path.name not in wanted:
            shutil.rmtree(path, ignore_errors=True)
        elif path.name.startswith(_BUILDING) and (path.name.endswith('damaged') or is_left_over(path.name)):
            shutil.rmtree(path, ignore_errors=True)
