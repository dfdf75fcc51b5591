"""Commands one after the other: told, timed, stopped at the first failure; Ctrl-C is for the one that runs."""

import os
import signal

from fjq.mqc import launches


def test_launch_says_what_it_runs_and_stops_at_the_first_failure(monkeypatch, capsys):
    ran = []

    class Done:
        returncode = 2

    monkeypatch.setattr(launches.subprocess, 'run', lambda words: ran.append(words) or Done)
    assert launches.launch([['--a', '--workdir=none'], ['--b', '--workdir=none']]) == 2
    assert len(ran) == 1 and ran[0][-2] == '--a' and 'python -m fjq.launch --a' in capsys.readouterr().out


def test_ctrl_c_is_left_to_the_command_that_runs_which_saves_what_it_did(monkeypatch):
    before = signal.getsignal(signal.SIGINT)  # of tests in the background of a shell it is SIG_IGN

    class Killed:
        returncode = -signal.SIGINT

    monkeypatch.setattr(launches.subprocess, 'run', lambda words: os.kill(os.getpid(), signal.SIGINT) or Killed)
    assert launches.launch([['--a', '--workdir=none'], ['--b', '--workdir=none']]) == 128 + signal.SIGINT
    assert signal.getsignal(signal.SIGINT) is before
