"""Files of others: what is safe is read to the same numbers, what is not is refused before it can do anything."""

import io
import os
import pickle
import resource
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fjq import torch_file
from fjq.errors import InputError
from interop.files import read_model_file, read_npz, read_state

torch = pytest.importorskip('torch')
import safetensors.torch  # noqa: E402


@pytest.fixture(autouse=True)
def little_memory():
    """A bomb that goes off must fail the test, not the machine."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 4 * 2**30, hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def test_precisions(tmp_path):
    values = torch.tensor([1.5, -2.25, 3.0])
    tensors = {
        'single': values,
        'double': values.double() / 3,
        'half': values.half(),
        'brain': values.bfloat16(),
        'ids': torch.arange(3),
        'yes': values > 0,
    }
    torch.save(tensors | {'trained': torch.nn.Parameter(values)}, tmp_path / 'x.pt')
    safetensors.torch.save_file(tensors, tmp_path / 'x.safetensors')
    state = read_state(tmp_path / 'x.pt')
    np.testing.assert_array_equal(state.pop('trained'), values.numpy())
    assert state.keys() == tensors.keys()
    for read in (state, read_state(tmp_path / 'x.safetensors')):
        for name, tensor in tensors.items():
            expected = tensor.float().numpy() if name in ('half', 'brain') else tensor.numpy()
            np.testing.assert_array_equal(read[name], expected, strict=True)


def test_trainers_files_give_the_weights_alone(tmp_path):
    a, b = torch.ones(2), torch.zeros(3)
    content = {
        'epoch': 3,
        'model_state_dict': {'w': a},
        'head_state_dict': OrderedDict(w=b),
        'optimizer_state_dict': {'state': {0: {'exp_avg': a}}},
        'scheduler_state_dict': {'last_epoch': 2, 'base': a},
    }
    torch.save(content, tmp_path / 'x.pt')
    assert list(read_state(tmp_path / 'x.pt')) == ['w', 'head.w']


def test_the_config_of_a_file_is_read_beside_its_weights(tmp_path):
    config = {
        'n_head': 4,
        'dropout': 0.1,
        'tied': False,
        'name': 'x',
        'model': {'levels': [0.1, 0.9], 'w': torch.ones(2)},
    }
    torch.save({'model_state_dict': {'w': torch.ones(2)}, 'config': config}, tmp_path / 'x.pt')
    state, stated = read_model_file(tmp_path / 'x.pt')
    assert list(state) == ['w'] and state.keys() == read_state(tmp_path / 'x.pt').keys()
    assert stated == {'n_head': 4, 'dropout': 0.1, 'tied': False, 'model.levels': [0.1, 0.9]}
    torch.save({'w': torch.ones(2)}, tmp_path / 'y.pt')
    safetensors.torch.save_file({'w': torch.ones(2)}, tmp_path / 'y.safetensors')
    torch.save({'w': torch.ones(2), 'config': 3}, tmp_path / 'z.pt')
    assert [read_model_file(tmp_path / n).config for n in ('y.pt', 'y.safetensors', 'z.pt')] == [{}, {}, {}]


class Payload:
    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


def corpus(marker):
    """Objects whose unpickling would create the file `marker` (or worse)."""
    touch = f'open({str(marker)!r}, "w").close()'
    return {
        'system': Payload(os.system, f'touch {marker}'),
        'eval': Payload(eval, touch),
        'exec': Payload(exec, touch),
        'getattr': Payload(getattr, 'text', '__class__'),
        'loads': Payload(pickle.loads, pickle.dumps(Payload(exec, touch))),
        'partial': Payload(__import__, 'antigravity'),
        'torch.load': Payload(torch.load, str(marker)),
        'compile': Payload(compile, touch, 'x', 'exec'),
        'in a key': {Payload(eval, touch + ' or 1'): 1},
        'in a list': [1, [2, Payload(exec, touch)]],
    }


@pytest.mark.parametrize('kind', corpus('x'))
@pytest.mark.parametrize('container', ['torch', 'legacy', 'bare'])
def test_payloads_are_refused_and_not_run(tmp_path, container, kind):
    marker, path = tmp_path / 'pwned', tmp_path / 'x.pt'
    obj = {'w': torch.ones(2), 'x': corpus(marker)[kind]}
    if container == 'bare':
        obj.pop('w')
        path.write_bytes(pickle.dumps(obj))
    else:
        torch.save(obj, path, _use_new_zipfile_serialization=container == 'torch')
    with pytest.raises(InputError, match='asks for|no PyTorch zip|more than containers'):
        read_state(path)
    assert not marker.exists()


def test_a_message_names_what_the_pickle_asked_for(tmp_path):
    torch.save({'x': Payload(os.system, 'true')}, tmp_path / 'x.pt')
    with pytest.raises(InputError, match=r'asks for (posix|os)\.system, so it was not loaded'):
        read_state(tmp_path / 'x.pt')


def rewrite(path, change, **options):
    """Rebuilds a .pt zip with `change(name, content) -> content or None`."""
    with zipfile.ZipFile(path) as archive:
        entries = [(n, archive.read(n)) for n in archive.namelist()]
    with zipfile.ZipFile(path, 'w', **options) as archive:
        for name, content in entries:
            content = change(name, content)
            if content is not None:
                archive.writestr(name, content)


def test_absurd_shapes_are_refused_before_they_are_allocated(tmp_path):
    path = tmp_path / 'x.pt'
    torch.save({'w': torch.ones(()).expand(2**20, 2**20)}, path)
    with pytest.raises(InputError, match=r'w claims the shape \[1048576, 1048576\]'):
        read_state(path)
    torch_file.write(path, {'w': np.ones(7001, np.float32)})
    huge = struct.pack('<i', 2**31 - 1)
    rewrite(path, lambda n, c: c.replace(struct.pack('<i', 7001), huge) if n.endswith('data.pkl') else c)
    with pytest.raises(InputError, match='claims the shape'):
        read_state(path)


def test_compressed_entries_are_refused(tmp_path):
    path = tmp_path / 'x.pt'
    torch_file.write(path, {'w': np.zeros(2**22, np.float32)})
    rewrite(path, lambda n, c: c, compression=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 100_000
    with pytest.raises(InputError, match='an entry is compressed'):
        read_state(path)


def test_entries_that_overlap_are_refused(tmp_path):
    """Many names for the same bytes: the bomb that needs no compression."""
    path = tmp_path / 'x.pt'
    torch_file.write(path, {'w': np.zeros(10_000, np.float32)})
    with zipfile.ZipFile(path, 'a') as archive:
        first = archive.getinfo('archive/data/0')
        for i in range(1, 60):
            twin = zipfile.ZipInfo(f'archive/data/{i}')
            twin.header_offset, twin.file_size, twin.compress_size, twin.CRC = (
                first.header_offset, first.file_size, first.compress_size, first.CRC,
            )  # fmt: skip
            archive.filelist.append(twin)
        archive._didModify = True
    with pytest.raises(InputError, match='claim more bytes than the file has'):
        read_state(path)


def test_the_size_cap(tmp_path):
    torch_file.write(tmp_path / 'x.pt', {'w': np.zeros(1000, np.float32)})
    with pytest.raises(InputError, match='more than the 0.0 GiB allowed'):
        read_state(tmp_path / 'x.pt', max_bytes=3999)
    assert read_state(tmp_path / 'x.pt', max_bytes=10_000)


def test_values_that_are_not_finite_are_named(tmp_path):
    torch_file.write(tmp_path / 'x.pt', {'a': np.ones(3), 'b': np.array([1, np.nan, np.inf])})
    with pytest.raises(InputError, match='b has 2 values that are not finite'):
        read_state(tmp_path / 'x.pt')


@pytest.mark.parametrize('content', [{'epoch': 3}, [np.ones(2)], {}])
def test_files_without_a_state_dict(tmp_path, content):
    torch_file.write(tmp_path / 'x.pt', content)
    with pytest.raises(InputError, match='holds no weights|not a state dict'):
        read_state(tmp_path / 'x.pt')


def test_safetensors_headers_that_lie(tmp_path):
    def write(header: bytes, data: bytes = b'\0' * 8):
        (tmp_path / 'x.safetensors').write_bytes(struct.pack('<Q', len(header)) + header + data)

    ok = b'{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
    write(ok)
    np.testing.assert_array_equal(read_state(tmp_path / 'x.safetensors')['w'], [0, 0])
    lies = [
        ok.replace(b'[2]', b'[2000000000,2000000000]'),
        ok.replace(b'[2]', b'[-2]'),
        ok.replace(b'[0,8]', b'[0,800000000]'),
        ok.replace(b'F32', b'OBJ'),
        b'{' * 100,
    ]
    for header in lies:
        write(header)
        with pytest.raises(InputError, match='cannot be read'):
            read_state(tmp_path / 'x.safetensors')
    (tmp_path / 'x.safetensors').write_bytes(struct.pack('<Q', 2**62) + b'{}')
    with pytest.raises(InputError, match='cannot be read'):
        read_state(tmp_path / 'x.safetensors')


@settings(max_examples=60, deadline=None)
@given(where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), cut=st.booleans())
@example(where=0.76953125, bit=6, cut=False)  # a zip of version 8.4
def test_damage_is_an_input_error_or_harmless(tmp_path_factory, where, bit, cut):
    path = tmp_path_factory.mktemp('damage') / 'x.pt'
    torch_file.write(path, {'w': np.ones(20, np.float32), 'b': np.arange(3)})
    content = bytearray(path.read_bytes())
    place = int(where * len(content))
    if cut:
        content = content[:place]
    else:
        content[place] ^= 1 << bit
    path.write_bytes(content)
    try:
        state = read_state(path)
    except InputError:
        return
    assert sum(v.size for v in state.values()) < 100


def npz(path, **entries):
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(f'{name}.npy', content)


def npy(array, **header):
    stream = io.BytesIO()
    described = {'descr': array.dtype.str, 'fortran_order': False, 'shape': array.shape} | header
    np.lib.format.write_array_header_1_0(stream, described)
    return stream.getvalue() + array.tobytes()


def test_npz(tmp_path):
    path = tmp_path / 'x.npz'
    arrays = {'a': np.arange(6.0).reshape(2, 3), 'b': np.array(3), 'f': np.asfortranarray(np.eye(3)[:, :2])}
    np.savez_compressed(path, **arrays)
    for name, array in read_npz(path).items():
        np.testing.assert_array_equal(array, arrays[name], strict=True)
    npz(path, a=npy(np.ones(2), shape=(2**20, 2**20)))
    with pytest.raises(InputError, match=r'a.npy claims the shape \[1048576, 1048576\]'):
        read_npz(path)
    npz(path, a=npy(np.zeros(10**6)))
    with pytest.raises(InputError, match='more than 1000000 bytes'):
        read_npz(path, max_bytes=10**6)
    path.write_bytes(b'PK nothing')
    with pytest.raises(InputError, match='cannot be read'):
        read_npz(path)
    with pytest.raises(InputError, match='cannot be read'):
        read_npz(tmp_path / 'absent.npz')


def test_npz_with_objects_is_refused_and_not_run(tmp_path):
    marker = tmp_path / 'pwned'
    array = np.empty(1, object)
    array[0] = Payload(os.system, f'touch {marker}')
    np.savez(tmp_path / 'x.npz', a=np.ones(2), x=array)
    with pytest.raises(InputError, match='x.npy holds pickled objects'):
        read_npz(tmp_path / 'x.npz')
    assert not marker.exists()
