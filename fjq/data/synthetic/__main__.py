"""python -m fjq.data.synthetic --out=DIR [--scale=small] [--what=index,rv] [--days=60] [--workers=0] [--FIELD=VALUE]

Writes a simulated market. A killed run goes on with the same command; whole files of the same settings are kept.
"""

import dataclasses
import inspect
import re
import sys
from pathlib import Path

from absl import flags

from fjq.data.synthetic import SCALES, Market, scaled, simulate
from fjq.errors import InputError
from fjq.log import say
from fjq.parallel import Parallel

OUT = flags.DEFINE_string('out', '', 'folder to write to.')
SCALE = flags.DEFINE_string('scale', 'small', f'sizes of what no other flag sets: {", ".join(SCALES)}.')
WORKERS = flags.DEFINE_integer('workers', 0, 'processes; 0 = one for each core.')
DEFINE = {int: flags.DEFINE_integer, float: flags.DEFINE_float, str: flags.DEFINE_string}
HELP = dict(re.findall(r'^    (\w+): .*?  # (.*)$', inspect.getsource(Market), re.MULTILINE))  # its comments
FIELDS = {
    field.name: DEFINE.get(field.type, flags.DEFINE_list)(field.name, None, f'{HELP[field.name]}; {field.default}.')
    for field in dataclasses.fields(Market)
}
NAMES = ('out', 'scale', 'workers', *FIELDS)


def main(argv: list[str]) -> int:
    """Writes what the flags ask for. Returns the exit code: 0 done, 2 wrong input."""
    try:
        if '--help' in argv or '-h' in argv or len(argv) == 1:
            print(__doc__.strip(), '', *(f'  --{name:<15} {flags.FLAGS[name].help}' for name in NAMES), sep='\n')
            return 0
        rest = flags.FLAGS(argv)
        if len(rest) > 1:
            raise InputError(f'the argument {rest[1]!r} is not a flag', remedy='write --flag=value')
        if not OUT.value:
            raise InputError('no folder is given', column='--out', remedy='name one, as in --out=data')
        given = {name: flag.value for name, flag in FIELDS.items() if flag.value is not None}
        fields = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
        made = simulate(Path(OUT.value), scaled(SCALE.value, **fields), Parallel(workers=WORKERS.value))
    except (InputError, flags.Error) as e:
        print(f'fjq: {" ".join(str(e).split())}', file=sys.stderr)
        return 2
    for name, path in made.items():
        say(f'{name}: {path}')
    return 0


if __name__ == '__main__':
    sys.exit(main(sys.argv))
