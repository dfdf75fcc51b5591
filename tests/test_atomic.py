"""Files appear whole, or as they were."""

import pytest

from fjq.atomic import atomic, write_atomic


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
