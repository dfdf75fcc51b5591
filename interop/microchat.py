"""The GPT of the micro quant chat to PyTorch and back: a renaming, for files of both eras of the original, which name
the same weights differently and compute other logits from them (`fjq.models.microchat_files`)."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from fjq.errors import InputError
from fjq.models.microchat import Microchat
from fjq.models.microchat_files import FIRST_ERA, model_state_dict, prefix
from fjq.torch_names import from_state_dict

_TABLES = ('cos', 'sin')  # angles that some files keep beside the weights


def to_torch(config: Microchat, params: dict, extra: dict) -> dict[str, np.ndarray]:
    """The state dict of `interop.microchat_modules.Gpt`, of the first era with its prefix."""
    return model_state_dict(config.gpt, params)


def sizes(config: Microchat) -> dict[str, tuple[str, int]]:
    """What the original's files state of the model. Weights show neither heads nor length, nor how much of the
    vocabulary only pads it."""
    gpt = config.gpt
    return {
        'n_layer': ('task.gpt.layers', gpt.layers),
        'n_head': ('task.gpt.heads', gpt.heads),
        'n_kv_head': ('task.gpt.kv_heads', gpt.kv_heads or gpt.heads),
        'n_embd': ('task.gpt.width', gpt.width),
        'vocab_size': ('task.gpt.vocabulary', gpt.vocabulary),
        'sequence_len': ('task.gpt.length', gpt.length),
    }


def refuse_other(config: Microchat, state: Mapping[str, np.ndarray], *, file: Any) -> None:
    """Raises InputError where the file is of the era whose model the config is not."""
    first = any(name.startswith(FIRST_ERA) for name in state)
    if first != bool(prefix(config.gpt)):
        has = 'a softcap of 15 and a norm after the embedding' if first else 'neither softcap nor norm of the embedding'
        raise InputError(
            f'the model of this file has {has}, the config computes another function of its weights',
            file=file,
            remedy='set task.gpt.softcap and task.gpt.embedding_norm to ' + ('15 and True' if first else '0 and False'),
        )


def from_torch(state: dict[str, np.ndarray], params: dict, extra: dict, *, file: Any) -> tuple[dict, dict]:
    """The inverse. Where the policy has a reference, the reference is the file's weights too."""
    read = read_params(state, params, file=file)
    return read, {'reference': read} if extra else extra


def read_params(state: Mapping[str, np.ndarray], template: dict, *, file: Any) -> dict[str, Any]:
    """Parameters like `template` from a state dict of either era.

    Raises:
      InputError: keys are missing, extra, or of another shape.
    """
    named = {name.removeprefix(FIRST_ERA): value for name, value in state.items()}
    return from_state_dict({n: v for n, v in named.items() if n not in _TABLES}, template, file=file)
