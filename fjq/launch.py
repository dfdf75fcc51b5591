"""The command: flags in, job out. It names no model.

python -m fjq.launch --config=configs/NAME.py[:variant,...] [--job=train] [--workdir=runs/NAME]
  [--config.any.field=value]
"""

import ast
import importlib
import os
import pkgutil
import sys
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from fjq import jobs
from fjq.config import Experiment, check_path, nearest
from fjq.errors import InputError

CONFIG = config_flags.DEFINE_config_file(
    'config', None, 'a file of configs/ with get_config(variant), and its variant.'
)
JOB = flags.DEFINE_string('job', None, "what to do; the config's own job by default.")
WORKDIR = flags.DEFINE_string('workdir', None, 'the run folder; runs/NAME by default.')
FRESH = flags.DEFINE_bool('fresh', False, 'start over instead of resuming what the workdir holds.')
COORDINATOR = flags.DEFINE_string('coordinator', '', 'host:port of process 0 of a run of several processes.')
PROCESSES = flags.DEFINE_integer('processes', 0, 'how many processes there are.')
PROCESS = flags.DEFINE_integer('process', -1, 'the number of this process.')


def main(argv: list[str]) -> int:
    """Runs one job. Returns the exit code: 0 done, 2 wrong input, 128 + n stopped by signal n."""
    try:
        if '--help' in argv or '-h' in argv or len(argv) == 1:
            print(describe())
            return 0
        _check_arguments(argv)
        rest = flags.FLAGS(argv)
        if len(rest) > 1:
            raise InputError(f'the argument {rest[1]!r} is not a flag', remedy='write --flag=value')
        return _run()
    except InputError as e:
        print(f'fjq: {e}', file=sys.stderr)
        return 2
    except flags.Error as e:
        print(f'fjq: {" ".join(str(e).split())}', file=sys.stderr)
        return 2


def _run() -> int:
    from fjq import mesh, run

    config: Experiment = CONFIG.value
    job = find_job(JOB.value or config.job)
    use_compile_cache()
    mesh.connect(COORDINATOR.value, PROCESSES.value, PROCESS.value)
    workdir = Path(WORKDIR.value or f'runs/{config.name}')
    if FRESH.value:
        run.start_over(workdir)
    try:
        job(config, workdir)
    except run.Interrupted as e:
        print(f'fjq: {e}', file=sys.stderr)
        return e.exit_code
    return 0


def find_job(name: str):
    """The `run(config, workdir)` of fjq/jobs/NAME.py; InputError with the nearest name where there is none."""
    names = list_jobs()
    if name not in names:
        raise InputError(f'there is no job {name!r}', column='--job', remedy=nearest(name, names))
    return importlib.import_module(f'fjq.jobs.{name}').run


def list_jobs() -> dict[str, str]:
    """Every job with the first line of its file."""
    folder = Path(jobs.__path__[0])
    return {m.name: _first_line(folder / f'{m.name}.py') for m in pkgutil.iter_modules([str(folder)])}


def list_configs(folder: Path = Path('configs')) -> dict[str, str]:
    """Every config with the first line of its file."""
    return {p.name: _first_line(p) for p in sorted(folder.glob('*.py'))}


def describe() -> str:
    """The text of --help."""
    lines = [__doc__.strip(), '', 'Jobs (--job=...):']
    lines += [f'  {n:<12} {text}' for n, text in list_jobs().items()]
    lines += ['', 'Configs (--config=configs/...; every one has the variant :tiny):']
    lines += [f'  {n:<18} {text}' for n, text in list_configs().items()]
    lines += ['', 'Flags:']
    lines += [f'  --{f.name:<12} {f.help}' for f in (CONFIG, JOB, WORKDIR, FRESH, COORDINATOR, PROCESSES, PROCESS)]
    lines += [
        '',
        'Fields of a config are set by their path: --config.optim.learning_rate=3e-4.',
    ]
    return '\n'.join(lines)


def use_compile_cache() -> None:
    """Keeps compiled programs between runs, in $JAX_COMPILATION_CACHE_DIR or the user's cache folder."""
    import jax

    if not jax.config.jax_compilation_cache_dir:
        home = Path(os.environ.get('XDG_CACHE_HOME', Path.home() / '.cache'))
        jax.config.update('jax_compilation_cache_dir', str(home / 'fjq' / 'jax'))


def _check_arguments(argv: list[str]) -> None:
    """Names the file, the variant or the field that is wrong before absl does it at length."""
    given = [a.removeprefix('--').removeprefix('-') for a in argv[1:]]
    path = next((a.partition('=')[2] for a in given if a.startswith('config=')), '')
    if not path:
        raise InputError(
            'no config is given',
            column='--config',
            remedy='name one, as in --config=configs/' + next(iter(list_configs()), 'NAME.py'),
        )
    file, _, variant = path.partition(':')
    if not Path(file).is_file():
        raise InputError(
            'there is no such config', file=file, remedy=nearest(Path(file).name, list_configs(Path(file).parent))
        )
    fields = [
        a.partition('=')[0].removeprefix('no').removeprefix('config.')
        for a in given
        if a.startswith(('config.', 'noconfig.'))
    ]
    if fields:
        config = load_config(file, variant)
        for field in fields:
            check_path(config, field)


def load_config(file: str | Path, variant: str = '') -> Experiment:
    """The `get_config(variant)` of a config file."""
    spec = importlib.util.spec_from_file_location(f'fjq_config_{Path(file).stem}', file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(variant) if variant else module.get_config()


def _first_line(path: Path) -> str:
    return (ast.get_docstring(ast.parse(path.read_text())) or '').split('\n')[0]


def entry() -> None:
    sys.exit(main(sys.argv))


if __name__ == '__main__':
    entry()
