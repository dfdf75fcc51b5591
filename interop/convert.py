"""Our parameters to a PyTorch state dict and back, whatever the model.

A model `fjq.models.NAME` whose PyTorch twin is not a mere renaming has `interop/NAME.py` define

  to_torch(config, params, extra) -> state dict of NumPy arrays; config is the dataclass of the task
  from_torch(state, params, extra, *, file) -> (params, extra); those given are fresh and have every shape
  refuse_other(config, state, *, file), which raises InputError where equal names would hide another model
  sizes(config) -> {name in a file's own config: (field, value)}, of which weights may not show all, such as heads

and every other model goes through the table of `fjq.torch_names`, with its extra under `extra.`.
"""

import importlib
import importlib.util
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from fjq.errors import InputError
from fjq.torch_names import from_state_dict, to_state_dict


def to_torch(config: Any, params: dict, extra: dict) -> dict[str, np.ndarray]:
    """The PyTorch state dict of a model; `config` is the task's dataclass, which tells the family."""
    family = _family(config)
    if hasattr(family, 'to_torch'):
        return family.to_torch(config, params, extra)
    return to_state_dict(params | ({'extra': extra} if extra else {}))


def from_torch(
    config: Any,
    state: dict[str, np.ndarray],
    params: dict,
    extra: dict,
    *,
    file: Any,
    stated: Mapping[str, Any] = MappingProxyType({}),
) -> tuple[dict, dict]:
    """The parameters and extra that a PyTorch state dict holds.

    Args:
      params, extra: a fresh model's; they give every shape, and stand where a family says that a file may be silent.
      stated: the sizes that the file states, see `interop.files.ModelFile`.

    Raises:
      InputError: the state dict is of another model, or the file says so.
    """
    family = _family(config)
    if hasattr(family, 'sizes'):
        _refuse_other_sizes(family.sizes(config), stated, file)
    if hasattr(family, 'refuse_other'):
        family.refuse_other(config, state, file=file)
    if hasattr(family, 'from_torch'):
        return family.from_torch(state, params, extra, file=file)
    whole = from_state_dict(state, params | ({'extra': extra} if extra else {}), file=file)
    return {name: whole[name] for name in params}, whole.get('extra', extra)


def _refuse_other_sizes(ours: Mapping[str, tuple[str, Any]], stated: Mapping[str, Any], file: Any) -> None:
    """Equal shapes of weights do not show that a model of other sizes computes the same from them."""
    other = [
        (n, stated[n], *size) for n, size in ours.items() if n in stated and not np.array_equal(stated[n], size[1])
    ]
    if other:
        told = ', '.join(f'{name} {theirs} and {field} is {value}' for name, theirs, field, value in other)
        flags = ' '.join(_flag(field, theirs) for _, theirs, field, _ in other)
        raise InputError(f'its config says {told}', file=file, remedy=f'set {flags}')


def _flag(field: str, value: Any) -> str:
    return f'--config.{field}="{tuple(value)}"' if isinstance(value, list | tuple) else f'--config.{field}={value}'


def _family(config: Any) -> Any:
    name = f'interop.{type(config).__module__.rpartition(".")[2]}'
    return importlib.import_module(name) if importlib.util.find_spec(name) else None
