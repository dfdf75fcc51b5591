"""Our parameters to a PyTorch state dict and back, whatever the model.

A model `fjq.models.NAME` whose PyTorch twin is not a mere renaming has `interop/NAME.py` define

  to_torch(config, params, extra) -> state dict of NumPy arrays; config is the dataclass of the task
  from_torch(state, params, extra, *, file) -> (params, extra); those given are fresh and have every shape
  refuse_other(config, state, *, file), which raises InputError where equal names would hide another model

and every other model goes through the table of `fjq.torch_names`, with its extra under `extra.`.
"""

import importlib
import importlib.util
from typing import Any

import numpy as np

from fjq.torch_names import from_state_dict, to_state_dict


def to_torch(config: Any, params: dict, extra: dict) -> dict[str, np.ndarray]:
    """The PyTorch state dict of a model; `config` is the task's dataclass, which tells the family."""
    family = _family(config)
    if hasattr(family, 'to_torch'):
        return family.to_torch(config, params, extra)
    return to_state_dict(params | ({'extra': extra} if extra else {}))


def from_torch(config: Any, state: dict[str, np.ndarray], params: dict, extra: dict, *, file: Any) -> tuple[dict, dict]:
    """The parameters and extra that a PyTorch state dict holds.

    Args:
      params, extra: a fresh model's; they give every shape, and stand where a family says that a file may be silent.

    Raises:
      InputError: the state dict is of another model.
    """
    family = _family(config)
    if hasattr(family, 'refuse_other'):
        family.refuse_other(config, state, file=file)
    if hasattr(family, 'from_torch'):
        return family.from_torch(state, params, extra, file=file)
    whole = from_state_dict(state, params | ({'extra': extra} if extra else {}), file=file)
    return {name: whole[name] for name in params}, whole.get('extra', extra)


def _family(config: Any) -> Any:
    name = f'interop.{type(config).__module__.rpartition(".")[2]}'
    return importlib.import_module(name) if importlib.util.find_spec(name) else None
