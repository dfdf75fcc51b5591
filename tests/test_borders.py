"""Who may import whom, and how long a file may be: read from the source, so that lazy imports count too."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FJQ = sorted((ROOT / 'fjq').rglob('*.py'))
HEAVY = {'torch', 'pandas', 'matplotlib', 'arch', 'statsmodels', 'sklearn', 'dask', 'distributed', 'optuna'}


def imports(path, *, module_level=False):
    """Top-level names of the packages that a file imports, anywhere or only when it is loaded."""
    tree = ast.parse(path.read_text())
    found = set()

    def look(node):
        if isinstance(node, ast.Import):
            found.update(a.name.split('.')[0] for a in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add(node.module.split('.')[0])
        if module_level and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            return
        for child in ast.iter_child_nodes(node):
            look(child)

    look(tree)
    return found


def name(path):
    return path.relative_to(ROOT).as_posix()


def test_the_reader_sees_what_it_should(tmp_path):
    file = tmp_path / 'x.py'
    file.write_text('import a.b\nfrom c import d\nif a:\n    import e\ndef f():\n    import g\n    from h.i import j\n')
    assert imports(file) == {'a', 'c', 'e', 'g', 'h'}
    assert imports(file, module_level=True) == {'a', 'c', 'e'}


@pytest.mark.parametrize('path', FJQ, ids=name)
def test_borders_of_fjq(path):
    where = name(path)
    anywhere, loaded = imports(path), imports(path, module_level=True)
    assert 'torch' not in anywhere, 'torch is imported in interop/, tests/ and launch/benchmarks/ only'
    assert 'pickle' not in anywhere or where == 'fjq/torch_file.py', 'no pickle of our own'
    assert not loaded & HEAVY, 'import it inside the function that needs it'
    if 'flax' in anywhere:
        assert where.startswith(('fjq/nn/', 'fjq/models/')) or where == 'fjq/bridge.py'
    if where.startswith('fjq/data/') or where == 'fjq/parallel.py':
        assert 'jax' not in loaded, 'worker processes import this'
    assert not anywhere & {'interop', 'tests', 'configs'}, 'fjq stands on its own'


@pytest.mark.parametrize('path', [p for p in FJQ if p.stat().st_size], ids=name)
def test_files_are_short_and_say_what_they_are(path):
    text = path.read_text()
    assert text.count('\n') <= 400
    assert ast.get_docstring(ast.parse(text)), 'the first line says what the file is'
    assert 'NotImplementedError' not in text and 'TODO' not in text and 'FIXME' not in text


@pytest.mark.parametrize('path', sorted((ROOT / 'configs').glob('*.py')), ids=name)
def test_a_config_is_one_page(path):
    text = path.read_text()
    assert text.count('\n') < 60
    assert ast.get_docstring(ast.parse(text)) and 'def get_config(' in text


def test_no_file_has_the_name_of_a_drawer():
    drawers = {'utils', 'util', 'helpers', 'helper', 'common', 'misc', 'manager', 'base'}
    assert [name(p) for p in FJQ if p.stem in drawers] == []


def test_torch_stays_in_its_rooms():
    rooms = ('interop/', 'tests/', 'launch/benchmarks/')
    files = [p for folder in ('fjq', 'configs', 'launch', 'interop') for p in (ROOT / folder).rglob('*.py')]
    assert [name(p) for p in files if 'torch' in imports(p) and not name(p).startswith(rooms)] == []
