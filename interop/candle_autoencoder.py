"""The candle tokenizer as a state dict with the original's names, both ways."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fjq.models.candle_files import from_model_state_dict, model_state_dict


def to_torch(config: Any, params: dict, extra: dict) -> dict[str, np.ndarray]:
    """The state dict with the codebook as it is after its last update; see `fjq.models.candle_files`."""
    extra = jax.tree.map(jnp.asarray, extra)  # what NumPy sums has other last bits
    return model_state_dict(params, jax.tree.map(np.asarray, config.build().current(extra, True, False)))


def from_torch(state: dict[str, np.ndarray], params: dict, extra: dict, *, file: Any) -> tuple[dict, dict]:
    """The inverse."""
    return from_model_state_dict(state, params, extra, file=file)
