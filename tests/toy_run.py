"""Toy runs in processes of their own, started as the command starts them and killed where a test says.

A server that has imported everything, but has not yet touched a device, forks one process for each run: the
imports cost seconds, the fork costs nothing. `python tests/toy_run.py` is the server; `Runner` talks to it.
"""

import json
import os
import resource
import signal
import subprocess
import sys
import traceback
from pathlib import Path

HERE = Path(__file__).resolve().parent
CONFIG = HERE / 'toy_config.py'


def environment() -> dict[str, str]:
    """Variables for a process that runs the toy: plain CPU, all programs cached beside the tests' own."""
    return os.environ | {
        'JAX_PLATFORMS': 'cpu',
        'XLA_FLAGS': '',
        'PYTHONPATH': os.pathsep.join([str(HERE.parent), str(HERE)]),
        'JAX_COMPILATION_CACHE_DIR': str(HERE.parent / '.jax_cache'),
        'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
    }


class Runner:
    """Starts runs of tests/toy_config.py; a context manager that ends its server."""

    def __enter__(self):
        self._server = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment()
        )
        return self

    def __exit__(self, *_):
        self._server.stdin.close()
        self._server.wait()
        self._server.stdout.close()

    def start(self, workdir: Path, *flags: str, log: Path | None = None, **options) -> int:
        """Starts a run of the toy and returns its process id; what it says goes to `<workdir>.log`. See `command`."""
        flags = (f'--config={CONFIG}', f'--workdir={workdir}', *flags)
        return self.command(*flags, log=log or Path(f'{workdir}.log'), **options)

    def command(self, *flags: str, log: Path, devices: int = 1, kill: int = 0, disk: int = 0) -> int:
        """Starts `python -m fjq.launch` with any flags.

        Args:
          kill: dies instead of writing this seal, counted from 1.
          disk: no file can grow beyond so many bytes.
        """
        return self._ask(argv=['launch', *flags], log=str(log), devices=devices, kill=kill, disk=disk)

    def wait(self, pid: int) -> int:
        """The exit code of a run, -N where signal N ended it."""
        return self._ask(wait=pid)

    def run(self, workdir: Path, *flags: str, **options) -> int:
        return self.wait(self.start(workdir, *flags, **options))

    def _ask(self, **request):
        self._server.stdin.write(json.dumps(request) + '\n')
        self._server.stdin.flush()
        return json.loads(self._server.stdout.readline())


def _serve():
    import orbax.checkpoint  # noqa: F401
    import tensorboardX  # noqa: F401
    import toy  # noqa: F401

    import fjq.jobs.train  # noqa: F401

    for line in sys.stdin:
        request = json.loads(line)
        if 'wait' in request:
            answer = os.waitstatus_to_exitcode(os.waitpid(request['wait'], 0)[1])
        elif not (answer := os.fork()):
            _become(request)
        print(json.dumps(answer), flush=True)


def _become(request):
    """The forked process: ends here."""
    code = 1
    try:
        out = os.open(request['log'], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for stream in (1, 2):
            os.dup2(out, stream)
        os.close(0)
        os.environ['XLA_FLAGS'] = f'--xla_force_host_platform_device_count={request["devices"]}'
        if request['kill']:
            _kill_at(request['kill'])
        if request['disk']:
            resource.setrlimit(resource.RLIMIT_FSIZE, (request['disk'],) * 2)
        from fjq import launch

        sys.argv = request['argv']
        launch.entry()
    except SystemExit as e:
        code = e.code
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _kill_at(nth):
    from fjq import checkpoint

    real, seen = checkpoint.write_atomic, []

    def write(path, content):
        if path.name.endswith('.sha256.json'):
            seen.append(path)
            if len(seen) == nth:
                os.kill(os.getpid(), signal.SIGKILL)
        real(path, content)

    checkpoint.write_atomic = write


if __name__ == '__main__':
    _serve()
