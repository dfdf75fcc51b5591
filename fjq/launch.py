"""The command: flags in, job out. It names no model.

python -m fjq.launch --config=configs/NAME.py[:variant,...] [--job=train] [--workdir=runs/NAME]
  [--config.any.field=value]

--config=RUN/config.json is the config of a run as it was trained; --workdir is then RUN by default.
"""

import ast
import errno
import importlib.util
import os
import pkgutil
import sys
import traceback
from pathlib import Path
from types import ModuleType

from absl import flags, logging
from ml_collections import config_flags

from fjq import jobs
from fjq.config import Experiment, check_elements, check_path, nearest, settle
from fjq.errors import InputError

RUN_CONFIG = 'config.json'
_DISK_FAULTS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES)
CONFIG = config_flags.DEFINE_config_file(
    'config', None, "a file of configs/ with get_config(variant), and its variant; or a run's config.json."
)
JOB = flags.DEFINE_string('job', None, "what to do; the config's own job by default.")
WORKDIR = flags.DEFINE_string('workdir', None, 'the run folder; runs/NAME by default, of a config.json its own folder.')
FRESH = flags.DEFINE_bool('fresh', False, 'start over instead of resuming; of jobs that train.')
COORDINATOR = flags.DEFINE_string('coordinator', '', 'host:port of process 0 of a run of several processes.')
PROCESSES = flags.DEFINE_integer('processes', 0, 'how many processes there are.')
PROCESS = flags.DEFINE_integer('process', -1, 'the number of this process.')


class _ConfigParser(flags.ArgumentParser):
    """Reads the flag's value as `load_config` does; what follows from other fields waits for the other flags."""

    def parse(self, argument: str) -> Experiment:
        return _read_config(*argument.partition(':')[::2])

    def flag_type(self) -> str:
        return 'config'


flags.FLAGS['config'].parser = _ConfigParser()


def main(argv: list[str]) -> int:
    """Runs one job. Returns the exit code: 0 done, 2 wrong input, 128 + n stopped by signal n."""
    try:
        if {'--help', '-h'} & set(argv) or len(argv) == 1:
            print(describe())
            return 0
        check_arguments(argv)
        rest = flags.FLAGS(argv)
        if len(rest) > 1:
            raise InputError(f'the argument {rest[1]!r} is not a flag', remedy='write --flag=value')
        return _run()
    except (InputError, flags.Error) as e:
        print(f'fjq: {" ".join(str(e).split())}', file=sys.stderr)
        return 2
    except OSError as e:
        if e.errno not in _DISK_FAULTS:
            raise
        print(f'fjq: {e.filename or "a file"}: {e.strerror}. Make room, or make it writable.', file=sys.stderr)
        return 2


def _run() -> int:
    config: Experiment = CONFIG.value
    check_elements(config)
    config = settle(config)
    name = JOB.value or config.job
    job = find_job(name)
    if FRESH.value and not hasattr(job, 'start_over'):
        raise InputError(
            f'the job {name!r} has nothing to start over',
            file='--fresh',
            remedy='leave it out; to train anew: --job=train --fresh',
        )
    import jax

    from fjq import adopt, heap, mesh, signals

    logging.set_verbosity(logging.ERROR)  # Orbax warns of what is meant
    use_compile_cache()
    heap.keep_freed()
    mesh.connect(COORDINATOR.value, PROCESSES.value, PROCESS.value)
    first = jax.process_index() == 0
    if jax.process_count() > 1 and name != 'train':
        raise InputError(f'the job {name!r} runs in one process', file='--job', remedy='start it once')
    if not first:
        sys.stdout = open(os.devnull, 'w')  # the first one speaks; errors of all go to stderr
    file = Path(config_flags.get_config_filename(flags.FLAGS['config']))
    workdir = Path(WORKDIR.value or (file.parent if file.name == RUN_CONFIG else f'runs/{config.name}'))
    if FRESH.value:
        job.start_over(config, workdir)
        mesh.wait_for_all('the run folder is empty')
    try:
        with adopt.given(config_flags.get_override_values(flags.FLAGS['config'])):
            job.run(config, workdir)
    except signals.Interrupted as e:
        if first:
            print(f'fjq: {e}', file=sys.stderr)
        return e.exit_code
    return 0


def find_job(name: str) -> ModuleType:
    """fjq/jobs/NAME.py with its `run(config, workdir)`; InputError with the nearest name where there is none. A job
    that can start over (--fresh) has `start_over(config, workdir)`, which removes what it made before."""
    names = list_jobs()
    if name not in names:
        raise InputError(f'there is no job {name!r}', file='--job', remedy=nearest(name, names))
    return importlib.import_module(f'fjq.jobs.{name}')


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
    lines += _columns(list_jobs())
    lines += ['', 'Configs (--config=configs/...; every one has the variant :tiny):']
    lines += _columns(list_configs())
    lines += ['', 'Flags:']
    lines += [
        f'  --{f.name:<12} {flags.FLAGS[f.name].help}'
        for f in (CONFIG, JOB, WORKDIR, FRESH, COORDINATOR, PROCESSES, PROCESS)
    ]
    lines += [
        '',
        'Fields of a config are set by their path: --config.optim.learning_rate=3e-4.',
    ]
    return '\n'.join(lines)


def _columns(texts: dict[str, str]) -> list[str]:
    width = max(map(len, texts), default=0)
    return [f'  {name:<{width}}  {text}' for name, text in texts.items()]


def use_compile_cache() -> None:
    """Keeps compiled programs between runs, in $JAX_COMPILATION_CACHE_DIR or the user's cache folder."""
    import jax

    if not jax.config.jax_compilation_cache_dir:
        home = Path(os.environ.get('XDG_CACHE_HOME', Path.home() / '.cache'))
        jax.config.update('jax_compilation_cache_dir', str(home / 'fjq' / 'jax'))


def check_arguments(argv: list[str]) -> None:
    """Names the file, the variant or the field that is wrong before absl does it at length."""
    given = [a.lstrip('-') for a in argv[1:] if a.startswith('-')]
    spaced = [f'config={value}' for flag, value in zip(argv, argv[1:], strict=False) if flag.lstrip('-') == 'config']
    path = next((a.partition('=')[2] for a in [*given, *spaced] if a.startswith('config=')), '')
    if not path:
        name = next(iter(list_configs()), 'NAME.py')
        raise InputError('no config is given', file='--config', remedy=f'name one, as in --config=configs/{name}')
    file, _, variant = path.partition(':')
    config = load_config(file, variant)
    for flag in given:
        field = flag.partition('=')[0].removeprefix('no')
        if field.startswith('config.'):
            check_path(config, field.removeprefix('config.'))


def load_config(file: str | Path, variant: str = '') -> Experiment:
    """The `get_config(variant)` of a config file, or the config of a run by its config.json, settled.

    Raises:
      InputError: it is absent, is no Python, has no such function or variant, or is of a run and damaged.
    """
    return settle(_read_config(file, variant))


def _read_config(file: str | Path, variant: str) -> Experiment:
    path = Path(file)
    if path.name == RUN_CONFIG:
        from fjq.run import read_config

        if variant:
            raise InputError(f'a run has no variants such as {variant!r}', file=file, remedy='set its fields')
        return read_config(path.parent)
    if not path.is_file():
        remedy = nearest(path.name, list_configs(path.parent))
        raise InputError('there is no such config', file=file, remedy=remedy)
    spec = importlib.util.spec_from_file_location(f'fjq_config_{path.stem}', file)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except SyntaxError as e:
        raise InputError(f'line {e.lineno} is no Python ({e.msg})', file=file, remedy='correct it') from e
    if not hasattr(module, 'get_config'):
        raise InputError('it has no function get_config(variant)', file=file, remedy='copy one of configs/')
    return module.get_config(variant) if variant else module.get_config()


def _first_line(path: Path) -> str:
    return (ast.get_docstring(ast.parse(path.read_text())) or '').split('\n')[0]


def entry() -> None:
    code = 1
    try:
        code = main(sys.argv)
    except Exception:
        traceback.print_exc()
    if code in (1, 2) and 'jax' in sys.modules and sys.modules['jax'].distributed.is_initialized():
        sys.stderr.flush()
        os._exit(code)  # an orderly exit would wait for the other processes, and they for this one
    sys.exit(code)


if __name__ == '__main__':
    entry()
