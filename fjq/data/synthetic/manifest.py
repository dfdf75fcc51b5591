"""What an output folder holds: `synthetic.json`, one entry a stream with the settings that shaped its files.

A stream's settings are written before its first file and the sessions of its single files after them. So whatever the
folder holds under an entry is of these settings, and a killed run goes on where it stopped.
"""

import json
from pathlib import Path
from typing import Any

from fjq.atomic import atomic
from fjq.data.synthetic.market import Market
from fjq.errors import InputError

VERSION = 1  # of the numbers: another version of the simulator that draws others counts it up
SETTINGS = dict(
    index=('index_symbols',),
    stocks=('stocks', 'stock_ticks', 'spy_ticks'),
    options=('option_roots', 'option_trades'),
    spy=('spy_ticks',),
    rv=('spy_ticks',),
    bars=(),
    daily=('daily_symbols',),
    vix=(),
    table=('table_rows',),
)


def settings(market: Market, stream: str) -> dict[str, Any]:
    """What the files of a stream depend on, the number of sessions left out."""
    if stream == 'table':
        return dict(version=VERSION, seed=market.seed, table_rows=market.table_rows)
    fields = {field: getattr(market, field) for field in SETTINGS[stream]}
    return dict(version=VERSION) | market.origin._asdict() | fields


def read(out: Path) -> dict[str, dict[str, Any]]:
    """The entries of a folder, none where it has no manifest.

    Raises:
      InputError: the manifest is damaged.
    """
    path = out / 'synthetic.json'
    if not path.exists():
        return {}
    try:
        entries = json.loads(path.read_text(encoding='utf-8'))
        return {str(k): dict(v) for k, v in entries.items()}
    except (ValueError, AttributeError, TypeError) as e:
        raise InputError('this is no manifest of the simulator', file=path, remedy='choose another folder') from e


def claim(out: Path, market: Market, stream: str, wanted: list[Path]) -> int:
    """Makes sure that the files of a stream in a folder are ours and of these settings, and says so in the manifest.

    Returns:
      the sessions that the stream's single files were finished for, 0 where they were not.

    Raises:
      InputError: the folder holds files of other settings, or files that the simulator did not write.
    """
    new, entry = settings(market, stream), read(out).get(stream)
    if entry is None:
        foreign = [path for path in wanted if path.exists()]
        if foreign:
            raise InputError('the simulator did not write this file', file=foreign[0], remedy='choose another folder')
        _record(out, stream, dict(settings=new, sessions=0))
        return 0
    old = entry.get('settings', {})
    for field in {**new, **old}:
        if old.get(field) != new.get(field):
            what = f'the folder holds {stream} of {field} {old.get(field)}, not {new.get(field)}'
            raise InputError(what, file=out, column=field, remedy='choose another folder, or remove this one')
    return int(entry.get('sessions', 0))


def finish(out: Path, market: Market, stream: str) -> None:
    """Notes that the stream's single files are whole for all sessions of the market."""
    _record(out, stream, dict(settings=settings(market, stream), sessions=market.days))


def _record(out: Path, stream: str, entry: dict[str, Any]) -> None:
    entries = read(out) | {stream: entry}
    with atomic(out / 'synthetic.json') as part:
        part.write_text(json.dumps(entries, indent=1, sort_keys=True) + '\n', encoding='utf-8')
