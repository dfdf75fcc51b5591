"""The line that a run belongs to, by `init_from`: the runs before it and after it, and the card of their tokenizer."""

import json
import os
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote


class Link(NamedTuple):
    """A page beside a run's own. address: relative to the run folder, as HTML and Markdown want it."""

    text: str
    address: str


def find_pages(workdir: Path) -> list[Link]:
    """The pages of the other runs of the line, oldest first, the card of the tokenizer, and generated paths.

    A run that has no report yet is linked by its folder. Runs after this one are looked for beside it.
    """
    workdir = Path(workdir).resolve()
    links = [
        Link(
            f'{name}: {run.name}',
            find_address(run / 'report.html' if (run / 'report.html').is_file() else run, workdir),
        )
        for run, name in find_line(workdir).items()
        if run != workdir
    ]
    links += [Link('the card of the tokenizer', find_address(card, workdir)) for card in find_cards(workdir)[:1]]
    if (workdir / 'generated').is_dir():
        links.append(Link('generated paths and their fan charts', 'generated'))
    return links


def find_line(workdir: Path) -> dict[Path, str]:
    """The folder of every run of the line -> its config's name; each run comes after the one it started from."""
    line = [workdir]
    while (start := _start(line[0])) and start not in line:
        line.insert(0, start)
    beside = {p.parent: _start(p.parent) for p in sorted(workdir.parent.glob('*/manifest.json'))}
    while found := [run for run, start in beside.items() if start in line and run not in line]:
        line += found
    return {run: _read(run).get('name', run.name) for run in line}


def _start(run: Path) -> Path | None:
    """The run that a run started from, where it is still there."""
    name = _read(run).get('init_from')
    places = [Path(name).resolve(), run.parent / Path(name).name] if name else []
    return next((p for p in places if (p / 'config.json').is_file()), None)


def find_cards(workdir: Path) -> list[Path]:
    """card.md of the tokenizer of a run, wherever it lies; not that of another one which took its place."""
    tokenizer = (_read(workdir).get('data') or {}).get('tokenizer') or {}
    folders = [workdir / 'tokenizer']
    folders += [Path(tokenizer['path'])] if 'path' in tokenizer else []
    folders += [Path(tokenizer['run']) / 'tokenizer'] if 'run' in tokenizer else []
    used = (_read(workdir, 'manifest.json').get('data') or {}).get('tokenizer')
    cards = [f / 'card.md' for f in folders if used in (None, _read(f, 'card.json').get('hash'))]
    return [card.resolve() for card in cards if card.is_file()]


def _read(folder: Path, name: str = 'config.json') -> dict[str, Any]:
    """Its file; nothing of a neighbour that was killed before it wrote one, or that is no run of ours."""
    try:
        found = json.loads((folder / name).read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def find_address(path: Path, workdir: Path) -> str:
    """Of a page as one in `workdir` links it."""
    return quote(Path(os.path.relpath(path, workdir)).as_posix())
