"""Writes PyTorch's `.pt` container without PyTorch, so that a JAX user can ship weights that `torch.load` reads.

The container is a stored (uncompressed) zip: `data.pkl` (pickle protocol 2 of the object, each tensor a call of
`torch._utils._rebuild_tensor_v2` on a persistent id), `data/<n>` (the raw little-endian elements of storage n),
`version`, `byteorder` and the alignment of the data. The pickle is emitted opcode by opcode for the few types that
`torch.load(weights_only=True)` accepts, so nothing of this process can end up in the file by accident.
"""

import os
import pickle
import re
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np

from fjq.atomic import atomic
from fjq.errors import InputError

_STORAGE = {
    'float64': 'DoubleStorage', 'float32': 'FloatStorage', 'float16': 'HalfStorage', 'bfloat16': 'BFloat16Storage',
    'int64': 'LongStorage', 'int32': 'IntStorage', 'int16': 'ShortStorage', 'int8': 'CharStorage',
    'uint8': 'ByteStorage', 'bool': 'BoolStorage',
}  # fmt: skip
_ALIGNMENT = 64  # bytes; torch.load(mmap=True) hands out views of the file, which must start on whole elements
_PLAIN_NAME = re.compile(r'\w[\w.-]*', re.ASCII)
_ROOT = 'archive'  # not the file's name, so that equal contents are equal bytes under any name


def write(path: str | Path, obj: Any) -> None:
    """Writes `obj` so that `torch.load(path, weights_only=True)` returns it with tensors in place of arrays.

    `obj` is any nesting of dict, OrderedDict, list, tuple, str, int, float, bool, None, NumPy scalars (they become
    Python numbers) and arrays (NumPy or anything with `__array__`). An array object that occurs several times is
    stored once and its tensors share memory. Equal objects give equal bytes. The file appears whole or not at all.

    Raises:
      InputError: a value or an array dtype that a weights-only file cannot hold; the place is named.
    """
    path = Path(path)
    program, arrays = _pickle(obj)
    with atomic(path) as part, open(part, 'wb') as file:
        _write_zip(file, program, arrays)
    folder = os.open(path.parent, os.O_RDONLY)  # the rename itself must survive a power cut
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_all(folder: str | Path, contents: dict[str, Any]) -> list[Path]:
    """Writes `{file name: object}` into a folder; returns the paths.

    Raises:
      InputError: a name that is no plain file name, such as one with a folder in it; then nothing is written.
    """
    for name in contents:
        if not _PLAIN_NAME.fullmatch(name):
            raise InputError(f'{name!r} is no plain file name', file=folder, remedy='use letters, digits, _, - and .')
    for name, obj in contents.items():
        write(Path(folder) / name, obj)
    return [Path(folder) / name for name in contents]


def _write_zip(file, program: bytes, arrays: list[Any]) -> None:
    with zipfile.ZipFile(file, 'w', zipfile.ZIP_STORED) as archive:
        _add(archive, file, 'data.pkl', program)
        _add(archive, file, '.format_version', b'1')
        _add(archive, file, '.storage_alignment', str(_ALIGNMENT).encode())
        _add(archive, file, 'byteorder', b'little')
        for number, array in enumerate(arrays):
            values = np.asarray(array)
            values = values.astype(values.dtype.newbyteorder('<'), copy=False)
            _add(archive, file, f'data/{number}', memoryview(values.reshape(-1).view(np.uint8)))
        _add(archive, file, 'version', b'3\n')


def _add(archive: zipfile.ZipFile, file, name: str, content) -> None:
    info = zipfile.ZipInfo(f'{_ROOT}/{name}', date_time=(1980, 1, 1, 0, 0, 0))
    info.create_system = 3  # the default is the writing system's
    info.file_size = len(content)
    header = 30 + len(info.filename) + 4  # fixed part, name, and the padding field's own four bytes
    if info.file_size * 1.05 > zipfile.ZIP64_LIMIT:  # zipfile's rule for adding long sizes to the header
        header += 20
    padding = -(file.tell() + header) % _ALIGNMENT
    info.extra = b'FB' + struct.pack('<H', padding) + b'Z' * padding
    archive.writestr(info, content)


def _pickle(obj: Any) -> tuple[bytes, list[Any]]:
    """Returns the pickle program and the arrays it refers to, in the order of their storage numbers."""
    out = bytearray(pickle.PROTO + b'\x02')
    numbers: dict[int, int] = {}
    arrays: list[Any] = []

    def name(module: str, attribute: str) -> None:
        out.extend(pickle.GLOBAL + f'{module}\n{attribute}\n'.encode())

    def sequence(values, where: str) -> None:
        out.extend(pickle.MARK)
        for i, value in enumerate(values):
            emit(value, f'{where}[{i}]')

    def items(mapping, where: str) -> None:
        out.extend(pickle.MARK)
        for key, value in mapping.items():
            emit(key, f'a key of {where}')
            emit(value, f'{where}[{key!r}]')
        out.extend(pickle.SETITEMS)

    def tensor(array: Any, where: str) -> None:
        dtype = np.dtype(array.dtype)
        if dtype.name not in _STORAGE:
            raise InputError(f'{where} has the dtype {dtype}', remedy=f'use one of {", ".join(_STORAGE)}')
        if id(array) not in numbers:
            numbers[id(array)] = len(arrays)
            arrays.append(array)  # kept alive, so that its id stays its own
        strides = [int(np.prod(array.shape[i + 1 :])) for i in range(array.ndim)]
        name('torch._utils', '_rebuild_tensor_v2')
        out.extend(pickle.MARK * 2)
        emit('storage', where)
        name('torch', _STORAGE[dtype.name])
        for part in (str(numbers[id(array)]), 'cpu', int(array.size)):
            emit(part, where)
        out.extend(pickle.TUPLE + pickle.BINPERSID)
        for part in (0, tuple(array.shape), tuple(strides), False):  # storage offset, shape, strides, requires_grad
            emit(part, where)
        name('collections', 'OrderedDict')
        out.extend(pickle.EMPTY_TUPLE + pickle.REDUCE + pickle.TUPLE + pickle.REDUCE)

    def emit(value: Any, where: str) -> None:
        if isinstance(value, np.generic):
            value = value.item()
        kind = type(value)
        if value is None:
            out.extend(pickle.NONE)
        elif kind is bool:
            out.extend(pickle.NEWTRUE if value else pickle.NEWFALSE)
        elif kind is int:
            out.extend(_integer(value))
        elif kind is float:
            out.extend(pickle.BINFLOAT + struct.pack('>d', value))
        elif kind is str:
            text = value.encode('utf-8')
            out.extend(pickle.BINUNICODE + struct.pack('<I', len(text)) + text)
        elif kind is tuple:
            sequence(value, where)
            out.extend(pickle.TUPLE)
        elif kind is list:
            out.extend(pickle.EMPTY_LIST)
            sequence(value, where)
            out.extend(pickle.APPENDS)
        elif kind is dict:
            out.extend(pickle.EMPTY_DICT)
            items(value, where)
        elif kind is OrderedDict:
            name('collections', 'OrderedDict')
            out.extend(pickle.EMPTY_TUPLE + pickle.REDUCE)
            items(value, where)
        elif hasattr(value, '__array__') and hasattr(value, 'dtype'):
            tensor(value, where)
        else:
            raise InputError(f'{where} is a {kind.__name__}', remedy='use arrays, numbers, text, dicts, lists, tuples')

    emit(obj, 'the object')
    out.extend(pickle.STOP)
    return bytes(out), arrays


def _integer(value: int) -> bytes:
    if -(2**31) <= value < 2**31:
        return pickle.BININT + struct.pack('<i', value)
    digits = pickle.encode_long(value)
    return pickle.LONG1 + bytes([len(digits)]) + digits
