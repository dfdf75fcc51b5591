"""The GPT of the micro quant chat to PyTorch and back: a renaming, for files of both eras of the original."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from fjq.torch_names import from_state_dict, to_state_dict

_OLD = 'transformer.'  # before every name but the head's, in files of the first era
_TABLES = ('cos', 'sin')  # angles that some files keep beside the weights


def to_torch(config: Any, params: dict, extra: dict) -> dict[str, np.ndarray]:
    """The state dict of `interop.microchat_modules.Gpt`."""
    return to_state_dict(params)


def from_torch(state: dict[str, np.ndarray], params: dict, extra: dict, *, file: Any) -> tuple[dict, dict]:
    """The inverse. Where the policy has a reference, the reference is the file's weights too."""
    read = read_params(state, params, file=file)
    return read, {'reference': read} if extra else extra


def read_params(state: Mapping[str, np.ndarray], template: dict, *, file: Any) -> dict[str, Any]:
    """Parameters like `template` from a state dict of either era.

    Raises:
      InputError: keys are missing, extra, or of another shape.
    """
    named = {name.removeprefix(_OLD): value for name, value in state.items()}
    return from_state_dict({n: v for n, v in named.items() if n not in _TABLES}, template, file=file)
