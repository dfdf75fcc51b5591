"""Files appear whole, or as they were."""

import os
import socket
import subprocess
import sys

import pytest

from fjq.atomic import atomic, sweep, write_atomic


def test_a_file_replaces_another_and_makes_its_folder(tmp_path):
    path = tmp_path / 'new' / 'file'
    for content in (b'first', b'second'):
        write_atomic(path, content)
        assert path.read_bytes() == content and list(path.parent.iterdir()) == [path]


def test_after_an_error_what_was_there_stays(tmp_path):
    path = tmp_path / 'file'
    path.write_text('old')
    with pytest.raises(KeyError), atomic(path) as part:
        part.write_text('half')
        raise KeyError
    assert path.read_text() == 'old' and list(tmp_path.iterdir()) == [path]


def test_two_may_write_one_file_at_once(tmp_path):
    path = tmp_path / 'file'
    with atomic(path) as mine:
        mine.write_text('mine')
        with atomic(path) as theirs:
            theirs.write_text('theirs')
        assert path.read_text() == 'theirs'
    assert path.read_text() == 'mine' and list(tmp_path.iterdir()) == [path]


def test_what_killed_processes_left_is_swept_away(tmp_path):
    """Not what a living one writes, nor one of another machine, nor a file that has its name."""
    write = (
        'import os, sys\nfrom fjq.atomic import atomic\nwith atomic(sys.argv[1]) as part:\n    part.write_text("x")\n'
    )
    subprocess.run([sys.executable, '-c', write + '    os._exit(9)', tmp_path / 'day' / 'file'], check=False)
    (left,) = (tmp_path / 'day').iterdir()
    others = left.with_name(left.name.replace(socket.gethostname(), 'elsewhere')), left.with_name('file')
    for path in others:
        path.write_text('x')
    with atomic(left.with_name('more')) as part:
        part.write_text('x')
        assert left.exists() and f'-{os.getpid()}-' in part.name
        sweep(tmp_path)
        assert set((tmp_path / 'day').iterdir()) == {*others, part}
