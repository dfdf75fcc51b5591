"""The mechanical map between our nested parameters (Flax layout) and PyTorch state dicts.

A path is joined by dots; the last part and the layout follow one table:

  ours                             PyTorch
  kernel [in, out]                 weight [out, in]          dense
  kernel [W..., in, out]           weight [out, in, W...]    convolution over any number of axes (W is spatial)
  scale, embedding                 weight, as it is
  bias and every other name        the same name, as it is

Models whose modules are named otherwise than their PyTorch twins say so in their own `interop` file.
"""

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from fjq.errors import InputError

_RENAMED = {'kernel': 'weight', 'scale': 'weight', 'embedding': 'weight'}
_NAMED_IN_FULL = 4  # keys that a message lists before it counts the rest


def to_state_dict(params: Mapping[str, Any], order: Sequence[str] | None = None) -> 'OrderedDict[str, np.ndarray]':
    """Nested parameters -> PyTorch names and layouts, as contiguous NumPy arrays.

    Args:
      order: the names in the order of the PyTorch module; without it, natural order ('2' before '10') with weight
        before bias. JAX sorts the keys of dicts as text, so their own order says nothing.

    Raises:
      InputError: two parameters get one name, or `order` is not a permutation of the names.
    """
    state = OrderedDict()
    for path, value in sorted(_leaves(params), key=lambda item: _natural(item[0])):
        name = _torch_name(path)
        if name in state:
            raise InputError(f'two parameters are called {name!r} in PyTorch')
        state[name] = _to_torch(path, np.asarray(value))
    if order is None:
        return state
    _require_same(state, order, 'the parameter tree')
    return OrderedDict((name, state[name]) for name in order)


def from_state_dict(state: Mapping[str, Any], template: Mapping[str, Any], *, file: Any = None) -> dict[str, Any]:
    """A PyTorch state dict (arrays or CPU tensors) -> NumPy parameters shaped and typed like `template`.

    Strict both ways, like `load_state_dict(strict=True)`.

    Args:
      template: nested parameters or their `jax.ShapeDtypeStruct`s.
      file: where the state dict comes from, for messages.

    Raises:
      InputError: keys are missing, extra, of another shape or not of numbers; the first few are named.
    """
    names = {_torch_name(path): path for path, _ in _leaves(template)}
    _require_same(state, names, 'the state dict', file)
    wrong = []

    def fill(like: Mapping[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
        tree = {}
        for key, leaf in like.items():
            here = (*path, str(key))
            if isinstance(leaf, Mapping):
                tree[key] = fill(leaf, here)
                continue
            name = _torch_name(here)
            value = np.asarray(state[name])
            expected = _torch_shape(here, tuple(leaf.shape))
            if value.shape != expected or not np.can_cast(value.dtype, leaf.dtype, 'same_kind'):
                wrong.append(f'{name} is {value.dtype}{list(value.shape)}, expected {leaf.dtype}{list(expected)}')
                continue
            tree[key] = np.ascontiguousarray(_from_torch(here, value), dtype=leaf.dtype).reshape(leaf.shape)
        return tree

    params = fill(template, ())
    if wrong:
        raise InputError('the state dict is of another model: ' + _first(wrong, '; '), file=file)
    return params


def _leaves(tree: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterable[tuple[tuple[str, ...], Any]]:
    for key, value in tree.items():
        here = (*path, str(key))
        if isinstance(value, Mapping):
            yield from _leaves(value, here)
        else:
            yield here, value


def _natural(path: tuple[str, ...]) -> list[tuple[bool, int, str]]:
    *folders, leaf = path
    numbered = [(False, int(p), '') if p.isdecimal() else (True, 0, p) for p in folders]
    return [*numbered, (True, leaf == 'bias', leaf)]


def _torch_name(path: tuple[str, ...]) -> str:
    return '.'.join((*path[:-1], _RENAMED.get(path[-1], path[-1])))


def _torch_axes(path: tuple[str, ...], ndim: int) -> tuple[int, ...]:
    """The permutation from our axes to PyTorch's."""
    if path[-1] != 'kernel':
        return tuple(range(ndim))
    if ndim < 2:
        raise InputError(f'the kernel {".".join(path)!r} has {ndim} axes', remedy='a kernel has at least [in, out]')
    return (ndim - 1, ndim - 2, *range(ndim - 2))


def _torch_shape(path: tuple[str, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(shape[a] for a in _torch_axes(path, len(shape)))


def _to_torch(path: tuple[str, ...], value: np.ndarray) -> np.ndarray:
    return np.asarray(value.transpose(_torch_axes(path, value.ndim)), order='C')


def _from_torch(path: tuple[str, ...], value: np.ndarray) -> np.ndarray:
    return value.transpose(np.argsort(_torch_axes(path, value.ndim)))


def _require_same(got: Iterable[str], expected: Iterable[str], what: str, file: Any = None) -> None:
    got, expected = dict.fromkeys(got), dict.fromkeys(expected)
    faults = []
    if missing := [name for name in expected if name not in got]:
        faults.append('lacks ' + _first(missing))
    if extra := [name for name in got if name not in expected]:
        faults.append('has unknown keys ' + _first(extra))
    if faults:
        raise InputError(f'{what} {" and ".join(faults)}', file=file)


def _first(names: list[str], separator: str = ', ') -> str:
    rest = len(names) - _NAMED_IN_FULL
    return separator.join(names[:_NAMED_IN_FULL]) + (f' and {rest} more' if rest > 0 else '')
