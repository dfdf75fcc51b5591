"""Turns a Flax NNX module into pure functions over nested dicts with string keys.

Layers are written as NNX modules; everything else sees plain pytrees, which plain `jax.jit`, Orbax and
sharding rules take as they are. (Measured: `nnx.jit` with `nnx.Optimizer` costs several milliseconds of
Python a step; a split module under `jax.jit` costs none.)
"""

from collections.abc import Callable
from typing import Any

import jax
from flax import nnx


class Pure:
    """A module as `init(key) -> (params, extra)` and `apply(params, extra, fn, *args) -> (output, extra)`.

    Args:
      make: builds the module from `nnx.Rngs`. House rules for modules: no stored random state, no shared
        submodules, no sow; lists only as `nnx.List`. Parameters are `nnx.Param`; every other variable
        (running statistics, codebooks) is `extra`.
    """

    def __init__(self, make: Callable[[nnx.Rngs], nnx.Module]):
        self._make = make
        module = nnx.eval_shape(lambda: make(nnx.Rngs(0)))
        self._graphdef, params, extra = nnx.split(module, nnx.Param, ...)
        self._params, self._extra = nnx.to_pure_dict(params), nnx.to_pure_dict(extra)
        self._init = jax.jit(self._start)  # one program, where by itself each operation would be one

    def init(self, key: jax.Array) -> tuple[dict[str, Any], dict[str, Any]]:
        """Random key -> (params, extra), nested dicts with string keys."""
        return self._init(key)

    def _start(self, key: jax.Array) -> tuple[dict[str, Any], dict[str, Any]]:
        _, params, extra = nnx.split(self._make(nnx.Rngs(key)), nnx.Param, ...)
        return _with_string_keys(nnx.to_pure_dict(params)), _with_string_keys(nnx.to_pure_dict(extra))

    def apply(self, params: dict, extra: dict, fn: Callable, *args: Any, **kwargs: Any) -> tuple[Any, dict]:
        """Runs `fn(module, *args, **kwargs)` with these values; returns its output and the new extra."""
        state = _with_keys_of(self._params, params), _with_keys_of(self._extra, extra)
        module = nnx.merge(self._graphdef, *(nnx.State(s) for s in state))
        output = fn(module, *args, **kwargs)
        _, new_extra = nnx.split(module, nnx.Param, ...)[1:]
        return output, _with_string_keys(nnx.to_pure_dict(new_extra))


def _with_string_keys(tree: Any) -> Any:
    return {str(k): _with_string_keys(v) for k, v in tree.items()} if isinstance(tree, dict) else tree


def _with_keys_of(like: Any, tree: Any) -> Any:
    """Puts back the integer keys of `nnx.List`, which checkpoints can not hold."""
    return {k: _with_keys_of(v, tree[str(k)]) for k, v in like.items()} if isinstance(like, dict) else tree
