"""Reads model files that others wrote, without running or believing anything in them.

A `.pt` file is read with `weights_only=True`, after a first pass on the meta device that allocates nothing: a tensor
that claims more bytes than the file has, a compressed entry (PyTorch stores, bombs compress) or a pickle of anything
but plain containers and tensors is refused. `.safetensors` needs no such care and is preferred.
"""

import math
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes  # noqa: F401  gives NumPy the name bfloat16, which safetensors asks for
import numpy as np
from safetensors import SafetensorError, safe_open

from fjq.errors import InputError

MAX_BYTES = 32 * 2**30
_MAX_PROGRAM = 64 * 2**20  # of data.pkl; a state dict of ten thousand tensors takes one
_SAFE_TORCH = (2, 11)  # older ones run code from a weights-only file: CVE-2025-32434, CVE-2026-24747
_NOT_WEIGHTS = re.compile(r'optim|sched|scaler')


class ModelFile(NamedTuple):
    """state: tensors by name, half precisions as float32. config: what sizes the file states, the numbers and rows of
    numbers in its `config` by dotted name, such as 'model.n_heads'; {} where it has none."""

    state: dict[str, np.ndarray]
    config: dict[str, Any]


def read_state(path: str | Path, *, max_bytes: int = MAX_BYTES) -> dict[str, np.ndarray]:
    """The tensors of `read_model_file` alone."""
    return read_model_file(path, max_bytes=max_bytes).state


def read_model_file(path: str | Path, *, max_bytes: int = MAX_BYTES) -> ModelFile:
    """The tensors of a checkpoint as NumPy arrays, and what its trainer wrote down of the model.

    A `.safetensors` file or a `.pt` file holds either a state dict or, as trainers write them, a dict with entries
    `...state_dict`: those of `model_state_dict` and `state_dict` keep their names, those of `NAME_state_dict` get the
    prefix `NAME.`; optimisers, schedulers and scalers are left out.

    Raises:
      InputError: the file is absent, damaged, unsafe, larger than `max_bytes`, or holds no weights or weights that
        are not finite.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError('there is no such file', file=path, remedy='check --file')
    if path.stat().st_size > max_bytes:
        raise InputError(
            f'the file has {path.stat().st_size / 2**30:.1f} GiB, more than the {max_bytes / 2**30:.1f} GiB allowed',
            file=path,
            remedy='raise --max_gib if you trust it',
        )
    state, config = (_read_safetensors(path), {}) if path.suffix == '.safetensors' else _read_torch(path)
    if not state:
        raise InputError('it holds no weights', file=path)
    for name, value in state.items():
        if value.dtype.kind == 'f' and not np.isfinite(value).all():
            raise InputError(f'{name} has {int((~np.isfinite(value)).sum())} values that are not finite', file=path)
    return ModelFile(state, config)


def read_npz(path: str | Path, *, max_bytes: int = MAX_BYTES) -> dict[str, np.ndarray]:
    """The arrays of an `.npz` file; what each claims to be is checked before anything is allocated.

    Raises:
      InputError: the file is damaged, larger than `max_bytes` unpacked, or holds pickled objects.
    """
    path = Path(path)
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(i.file_size for i in archive.infolist()) > max_bytes:
                raise InputError(f'unpacked it has more than {max_bytes} bytes', file=path)
            for info in archive.infolist():
                with archive.open(info) as entry:
                    version = np.lib.format.read_magic(entry)
                    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
                    shape, _, dtype = read[version](entry)
                    if dtype.hasobject:
                        raise InputError(
                            f'{info.filename} holds pickled objects', file=path, remedy='save plain arrays'
                        )
                    if math.prod(shape) * dtype.itemsize != info.file_size - entry.tell():
                        raise InputError(
                            f'{info.filename} claims the shape {list(shape)}, which it does not hold', file=path
                        )
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile) as e:
        raise InputError(f'the file cannot be read ({_line(e)})', file=path) from e


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    try:
        with safe_open(path, framework='np') as file:
            return {name: _plain(file.get_tensor(name)) for name in file.keys()}
    except (SafetensorError, OSError, TypeError, AttributeError) as e:
        raise InputError(f'the file cannot be read ({_line(e)})', file=path) from e


def _read_torch(path: Path) -> ModelFile:
    import torch

    if tuple(int(n) for n in torch.__version__.split('.')[:2]) < _SAFE_TORCH:
        raise InputError(
            f'torch {torch.__version__} can run code hidden in a .pt file',
            remedy='install torch>=2.11 or use safetensors',
        )
    _check_container(path)
    try:
        _check_claims(torch.load(path, map_location='meta', weights_only=True), path.stat().st_size, path)
        content = torch.load(path, map_location='cpu', weights_only=True)
    except InputError:
        raise
    except pickle.UnpicklingError as e:
        named = re.search(r'GLOBAL ([\w.]+)', str(e))
        what = f'it asks for {named[1]}' if named else 'its pickle holds more than containers and tensors'
        raise InputError(f'{what}, so it was not loaded', file=path, remedy='save the state dict alone') from e
    except Exception as e:  # a damaged file can fail anywhere in torch's reader
        raise InputError(f'the file is damaged ({_line(e)})', file=path) from e
    if not isinstance(content, dict):
        raise InputError(f'it holds a {type(content).__name__}, not a state dict', file=path)
    config = content.get('config')
    stated = dict(_numbers(config)) if isinstance(config, dict) else {}
    return ModelFile({name: _numpy(tensor) for name, tensor in _weights(content)}, stated)


def _check_container(path: Path) -> None:
    """A zip of stored entries whose sizes add up to no more than the file, and a pickle of a sane size."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (RuntimeError, zipfile.BadZipFile, OSError) as e:  # RuntimeError: encrypted, or of a later version
        raise InputError(
            f'it is no PyTorch zip file ({_line(e)})', file=path, remedy='save it again with a current torch'
        ) from e
    if any(e.compress_type != zipfile.ZIP_STORED for e in entries):
        raise InputError('an entry is compressed, which PyTorch never does', file=path)
    if sum(e.file_size for e in entries) > path.stat().st_size:
        raise InputError('its entries claim more bytes than the file has', file=path)
    programs = [e for e in entries if e.filename.endswith('/data.pkl')]
    if len(programs) != 1 or programs[0].file_size > _MAX_PROGRAM:
        raise InputError('it is no PyTorch checkpoint: data.pkl is absent, doubled or too large', file=path)


def _check_claims(content: Any, size: int, path: Path) -> None:
    for name, tensor in _tensors(content):
        name = name or 'the tensor'
        if str(tensor.layout) != 'torch.strided' or tensor.is_quantized:
            raise InputError(f'{name} is a sparse or quantised tensor', file=path)
        if tensor.untyped_storage().nbytes() > size or tensor.numel() * tensor.element_size() > size:
            raise InputError(f'{name} claims the shape {list(tensor.shape)}, more than the file holds', file=path)


def _weights(content: dict) -> list[tuple[str, Any]]:
    """(name, tensor) of a state dict, or of the state dicts of a trainer's checkpoint."""
    parts = {k: v for k, v in content.items() if str(k).endswith('state_dict') and isinstance(v, dict)}
    if not parts:
        return list(_tensors(content))
    named = []
    for key, part in parts.items():
        if not _NOT_WEIGHTS.search(key):
            prefix = key.removesuffix('state_dict').rstrip('_')
            named += [(n if prefix in ('', 'model') else f'{prefix}.{n}', t) for n, t in _tensors(part)]
    return named


def _tensors(content: Any, name: str = '') -> list[tuple[str, Any]]:
    if isinstance(content, dict):
        items = content.items()
    elif isinstance(content, list | tuple):
        items = enumerate(content)
    else:
        return [(name, content)] if hasattr(content, 'untyped_storage') else []
    return [found for k, v in items for found in _tensors(v, f'{name}.{k}' if name else str(k))]


def _numbers(content: Any, name: str = '') -> list[tuple[str, Any]]:
    if isinstance(content, dict):
        return [found for k, v in content.items() for found in _numbers(v, f'{name}.{k}' if name else str(k))]
    row = content if isinstance(content, list | tuple) else [content]
    return [(name, content)] if all(isinstance(v, int | float) for v in row) else []


def _numpy(tensor: Any) -> np.ndarray:
    tensor = tensor.detach()
    return (tensor.float() if tensor.is_floating_point() and tensor.element_size() < 4 else tensor).numpy()


def _plain(array: np.ndarray) -> np.ndarray:
    return array if array.dtype.kind in 'iub' or array.dtype.itemsize > 2 else array.astype(np.float32)


def _line(error: Exception) -> str:
    return ' '.join(str(error).split())[:160] or type(error).__name__
