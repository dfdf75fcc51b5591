"""The `.pt` writer held against the real torch: types, dtypes, aliasing, order, alignment, atomicity."""

import subprocess
import sys
import zipfile
from collections import OrderedDict

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from fjq import torch_file
from fjq.errors import InputError

torch = pytest.importorskip('torch')


def reload(path, obj, **options):
    torch_file.write(path, obj)
    return torch.load(path, weights_only=True, **options)


DTYPES = ['float64', 'float32', 'float16', 'int64', 'int32', 'int16', 'int8', 'uint8', 'bool']


@pytest.mark.parametrize('mmap', [False, True])
@pytest.mark.parametrize('dtype', DTYPES)
def test_arrays_keep_dtype_shape_and_bits(tmp_path, dtype, mmap):
    rng = np.random.Generator(np.random.Philox(3))
    shapes = ((), (1,), (0, 3), (7,), (2, 3), (3, 1, 5))
    arrays = [np.asarray(rng.normal(size=shape) * 50).astype(dtype) for shape in shapes]
    got = reload(tmp_path / 'x.pt', arrays, mmap=mmap)
    for expected, tensor in zip(arrays, got, strict=True):
        assert tensor.dtype == getattr(torch, dtype)
        assert tensor.is_contiguous()
        np.testing.assert_array_equal(tensor.numpy(), expected, strict=True)


def test_bfloat16(tmp_path):
    array = np.linspace(-3, 3, 11).astype(ml_dtypes.bfloat16)
    got = reload(tmp_path / 'x.pt', array)
    assert got.dtype == torch.bfloat16
    np.testing.assert_array_equal(got.view(torch.int16).numpy(), array.view(np.int16))


def test_views_and_foreign_byte_order_are_written_by_value(tmp_path):
    base = np.arange(24.0).reshape(2, 3, 4)
    arrays = {'t': base.T, 'step': base[:, ::2, ::-1], 'big': base.astype('>f4'), 'last': np.asfortranarray(base)}
    for name, tensor in reload(tmp_path / 'x.pt', arrays).items():
        np.testing.assert_array_equal(tensor.numpy(), arrays[name])


def test_jax_arrays(tmp_path):
    import jax.numpy as jnp

    x = jnp.arange(6.0).reshape(2, 3)
    got = reload(tmp_path / 'x.pt', {'a': x, 'b': x})
    np.testing.assert_array_equal(got['a'].numpy(), np.asarray(x))
    assert got['a'].data_ptr() == got['b'].data_ptr()


def test_one_array_twice_is_one_storage(tmp_path):
    weight, twin = np.ones((100, 100), np.float32), np.ones((100, 100), np.float32)
    got = reload(tmp_path / 'x.pt', {'a': weight, 'b': {'c': weight}, 'd': twin})
    assert got['a'].data_ptr() == got['b']['c'].data_ptr()
    assert got['a'].data_ptr() != got['d'].data_ptr()
    assert 2 * weight.nbytes < (tmp_path / 'x.pt').stat().st_size < 2.1 * weight.nbytes


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda leaf: (
        st.lists(leaf, max_size=3)
        | st.lists(leaf, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=5) | st.integers(), leaf, max_size=3)
        | st.dictionaries(st.text(max_size=5), leaf, max_size=3).map(OrderedDict)
    ),
    max_leaves=12,
)


def same(a, b):
    assert type(a) is type(b), (a, b)
    if isinstance(a, dict):
        assert list(a) == list(b)
        for key in a:
            same(a[key], b[key])
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            same(x, y)
    else:
        assert a == b


@settings(max_examples=60, deadline=None)
@given(obj=plain)
def test_any_plain_object_comes_back(tmp_path_factory, obj):
    same(obj, reload(tmp_path_factory.mktemp('plain') / 'x.pt', obj))


@settings(max_examples=40, deadline=None)
@given(
    array=npst.arrays(st.sampled_from(['f4', 'f8', 'i8', '?']), npst.array_shapes(min_dims=0, max_dims=4, min_side=0))
)
def test_any_array_comes_back(tmp_path_factory, array):
    got = reload(tmp_path_factory.mktemp('array') / 'x.pt', array).numpy()
    np.testing.assert_array_equal(got, array, strict=True)


def test_order_of_keys(tmp_path):
    names = ['z', 'a', 'layers.10', 'layers.2', 'b']
    got = reload(tmp_path / 'x.pt', OrderedDict((n, np.zeros(1, np.float32)) for n in names))
    assert type(got) is OrderedDict and list(got) == names


def test_loads_strictly_into_a_module(tmp_path):
    rng = np.random.Generator(np.random.Philox(0))
    module = torch.nn.Sequential(torch.nn.Conv1d(3, 4, 3), torch.nn.GroupNorm(1, 4), torch.nn.Linear(8, 2))
    state = OrderedDict((k, rng.normal(size=v.shape).astype(np.float32)) for k, v in module.state_dict().items())
    module.load_state_dict(reload(tmp_path / 'x.pt', state), strict=True)
    for key, value in module.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), state[key])


def test_numpy_scalars_become_numbers(tmp_path):
    got = reload(tmp_path / 'x.pt', {'f': np.float32(0.5), 'd': np.float64(0.1), 'i': np.int32(7), 'b': np.bool_(True)})
    same(got, {'f': 0.5, 'd': 0.1, 'i': 7, 'b': True})


def test_equal_objects_are_equal_bytes_and_data_are_aligned(tmp_path):
    obj = {'a': np.arange(5, dtype=np.int64), 'b': np.ones((3, 7), np.float32), 'c': np.ones(1, np.float64)}
    torch_file.write(tmp_path / 'x.pt', obj)
    torch_file.write(tmp_path / 'other_name.pt', {k: v.copy() for k, v in obj.items()})
    content = (tmp_path / 'x.pt').read_bytes()
    assert content == (tmp_path / 'other_name.pt').read_bytes()
    with zipfile.ZipFile(tmp_path / 'x.pt') as archive:
        assert archive.testzip() is None
        assert archive.read('archive/version') == b'3\n'
        assert archive.read('archive/byteorder') == b'little'
        for number, array in enumerate(obj.values()):
            assert archive.read(f'archive/data/{number}') == array.tobytes()
            assert content.index(array.tobytes()) % 64 == 0
        assert {i.compress_type for i in archive.infolist()} == {zipfile.ZIP_STORED}
        assert {i.date_time for i in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_long_headers_of_large_entries_are_aligned_too(tmp_path, monkeypatch):
    monkeypatch.setattr(zipfile, 'ZIP64_LIMIT', 500)  # as if 128 numbers were more than two gigabytes
    array = np.arange(1, 129, dtype=np.float32)
    np.testing.assert_array_equal(reload(tmp_path / 'x.pt', [array, array + 1])[1].numpy(), array + 1)
    content = (tmp_path / 'x.pt').read_bytes()
    assert content.index(array.tobytes()) % 64 == content.index((array + 1).tobytes()) % 64 == 0


def test_a_failed_write_leaves_the_old_file_and_no_rest(tmp_path, monkeypatch):
    path = tmp_path / 'x.pt'
    torch_file.write(path, {'a': 1})
    before = path.read_bytes()

    class Broken:
        dtype, shape, ndim, size = np.dtype('float32'), (2,), 1, 2

        def __array__(self, dtype=None, copy=None):
            raise OSError('the device is gone')

    with pytest.raises(OSError, match='gone'):
        torch_file.write(path, {'a': np.zeros(3), 'b': Broken()})
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ['x.pt']


@pytest.mark.parametrize(
    ('obj', 'said'),
    [
        ({'a': {'b': object()}}, r"the object\['a'\]\['b'\] is a object"),
        ({'a': [1, {1}]}, r"the object\['a'\]\[1\] is a set"),
        ({'a': np.array(['x'])}, r"the object\['a'\] has the dtype"),
        ({'a': np.array([object()])}, r"the object\['a'\] has the dtype object"),
    ],
)
def test_what_cannot_be_held_is_refused_by_name(tmp_path, obj, said):
    with pytest.raises(InputError, match=said):
        torch_file.write(tmp_path / 'x.pt', obj)
    assert not list(tmp_path.iterdir())


def test_the_writer_imports_neither_torch_nor_jax():
    code = 'import sys, fjq.torch_file; assert not {"torch", "jax", "flax"} & set(sys.modules)'
    subprocess.run([sys.executable, '-c', code], check=True)
