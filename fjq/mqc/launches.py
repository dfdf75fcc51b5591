"""Commands of `fjq.launch`, one after the other."""

import shlex
import signal
import subprocess
import sys
import time

from fjq.mqc.times import record_time


def launch(commands: list[list[str]]) -> int:
    """Prints and runs commands one after the other, up to the first that fails; their wall times are kept."""
    for words in commands:
        print('python -m fjq.launch ' + shlex.join(words), flush=True)
        start = time.monotonic()
        if len(commands) > 1:
            code = _run_child(words)
        else:
            from fjq import launch

            sys.argv = ['fjq.launch', *words]  # ml_collections looks for overrides here
            code = launch.main(sys.argv)
        record_time(words, time.monotonic() - start)
        if code:
            return code
    return 0


def _run_child(words: list[str]) -> int:
    """The exit code of a launch of its own, 128 + n where signal n ended it. Ctrl-C is the child's to answer: it saves
    what it trained, and must not be killed while it does."""
    before = signal.signal(signal.SIGINT, lambda *_: None)  # a signal that is ignored would be so by the child too
    try:
        code = subprocess.run([sys.executable, '-m', 'fjq.launch', *words]).returncode
    finally:
        signal.signal(signal.SIGINT, before)
    return code if code >= 0 else 128 - code
