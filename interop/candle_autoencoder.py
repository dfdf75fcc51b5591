"""The candle tokenizer as a state dict with the original's names, both ways."""

from typing import Any

import numpy as np

from fjq.models.candle_files import from_model_state_dict, model_state_dict


def to_torch(params: dict, extra: dict) -> dict[str, np.ndarray]:
    """The state dict; see `fjq.models.candle_files`."""
    return model_state_dict(params, extra)


def from_torch(state: dict[str, np.ndarray], params: dict, extra: dict, *, file: Any) -> tuple[dict, dict]:
    """The inverse."""
    return from_model_state_dict(state, params, extra, file=file)
