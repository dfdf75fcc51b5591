"""The run folder's own files."""

import pytest

from fjq import run
from fjq.errors import InputError


def test_a_damaged_manifest_is_one_line(tmp_path):
    folder = tmp_path / 'run'
    whole = b'{"data": {"bars": "x"}}'
    for damaged in (whole[:-3], bytes([whole[0] ^ 128]) + whole[1:]):
        folder.mkdir(exist_ok=True)
        (folder / 'manifest.json').write_bytes(damaged)
        with pytest.raises(InputError, match='manifest.json: the file is damaged'):
            run.changes_since_training(folder, {})
