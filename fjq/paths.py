"""Parameter paths ('frame_encoder/encoder/layers/0/conv1/kernel') and ordered rules over them."""

import re
from collections.abc import Sequence
from typing import Any

import jax

from fjq.errors import InputError


def path_of(key_path: Sequence[Any]) -> str:
    """The path of a leaf as `jax.tree_util` gives it, joined by '/'."""
    return '/'.join(str(getattr(k, 'key', getattr(k, 'idx', getattr(k, 'name', k)))) for k in key_path)


def match_rules(rules: Sequence[str], tree: Any, field: str) -> Any:
    """The value of the first 'pattern=value' rule that matches each leaf's path, as a tree of strings.

    Args:
      rules: ordered; a pattern is searched for anywhere in the path.
      tree: nested dicts, the parameters.
      field: the config field that the rules come from, for messages.

    Raises:
      InputError: a rule without '=', a bad pattern, or a path that no rule covers.
    """
    compiled = []
    for rule in rules:
        pattern, sep, value = rule.rpartition('=')
        if not sep:
            raise InputError(f'the rule {rule!r} is not of the form pattern=value', column=field)
        try:
            compiled.append((re.compile(pattern), value))
        except re.error as e:
            raise InputError(f'the rule {rule!r} has a bad pattern ({e})', column=field) from e

    def value_of(key_path, _):
        path = path_of(key_path)
        for pattern, value in compiled:
            if pattern.search(path):
                return value
        raise InputError(f'no rule covers the parameter {path!r}', column=field, remedy="end the rules with '.*=...'")

    return jax.tree_util.tree_map_with_path(value_of, tree)


def flatten(tree: Any) -> dict[str, Any]:
    """Leaves by path."""
    return {path_of(p): leaf for p, leaf in jax.tree_util.tree_leaves_with_path(tree)}
