"""Runs our models on golden values of the originals: `python -m interop.parity STEM [STEM ...]`.

A stem is a path without its endings: `.../tcn_tiny` stands for `tcn_tiny_config.json`, `tcn_tiny*.safetensors` and
`tcn_tiny_io.npz`. The family is the name up to its last underscore, and `interop.FAMILY.check(stem)` does the work.
Prints one row an output. Exit code 0: all within tolerance; 1: some are not; 2: the input is wrong.
"""

import importlib
import re
import sys
from pathlib import Path

from fjq.config import nearest
from fjq.errors import InputError
from interop.check import Check

_HEADER = ('output', 'max abs', 'max rel', 'tolerance', '')


def check(stem: str | Path) -> list[Check]:
    """The checks of one stem.

    Raises:
      InputError: a file of the stem is absent, or no family has its name.
    """
    stem = Path(stem)
    family, _, size = stem.name.rpartition('_')
    if not family or not size:
        raise InputError(f'{stem.name!r} is no FAMILY_SIZE', file=stem, remedy='give a stem such as golden/tcn_tiny')
    known = families()
    if family not in known:
        raise InputError(f'there is no family {family!r}', file=stem, remedy=nearest(family, known))
    needed = [f'{stem.name}_config.json', f'{stem.name}_io.npz', f'{stem.name}*.safetensors']
    for pattern in needed:
        if not any(stem.parent.glob(pattern)):
            raise InputError(f'{pattern} is absent', file=stem.parent, remedy='give the path of a golden stem')
    return importlib.import_module(f'interop.{family}').check(stem)


def families() -> list[str]:
    """The modules of this folder that define `check(stem...`."""
    defines = re.compile(r'^def check\(stem', re.MULTILINE)
    files = sorted(Path(__file__).parent.glob('*.py'))
    return [f.stem for f in files if f.stem != 'parity' and defines.search(f.read_text())]


def format_table(title: str, checks: list[Check]) -> str:
    """One line a check under a title and a header, in columns."""
    rows = [(c.name, f'{c.max_abs:.2e}', f'{c.max_rel:.2e}', f'{c.tolerance:.0e}', _verdict(c)) for c in checks]
    width = max(len(row[0]) for row in [_HEADER, *rows])
    lines = [f'{a:<{width}}  {b:>9}  {c:>9}  {d:>9}  {e}'.rstrip() for a, b, c, d, e in [_HEADER, *rows]]
    failed = sum(not c.ok for c in checks)
    return '\n'.join([title, *lines, f'{len(checks) - failed} of {len(checks)} ok'])


def main(stems: list[str]) -> int:
    """Prints a table a stem; returns the exit code."""
    if not stems:
        print('usage: python -m interop.parity STEM [STEM ...]', file=sys.stderr)
        return 2
    ok = True
    for stem in stems:
        try:
            checks = check(stem)
        except InputError as e:
            print(e, file=sys.stderr)
            return 2
        print(format_table(str(stem), checks), end='\n\n', flush=True)
        ok &= bool(checks) and all(c.ok for c in checks)
    return 0 if ok else 1


def _verdict(check: Check) -> str:
    return 'ok' if check.ok else 'FAILED'


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
