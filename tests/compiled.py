"""Tasks whose functions are compiled whole: run by the operation, each operation is a program of its own."""

from typing import Any

import jax


def build(config: Any) -> Any:
    """The task of a model's config."""
    task = config.build()
    task.loss, task.predict = jax.jit(task.loss), jax.jit(task.predict)
    return task
