"""`python -m fjq.launch ...` in this process. absl's flags are global, so what a call leaves is cleared after it."""

import sys
import warnings

import jax
import ml_collections  # noqa: F401  defines the flags of configs
from absl import flags

from fjq import launch


def run(*argv: str) -> int:
    """The exit code of the command with these arguments; nothing of them stays behind."""
    before = sys.argv, sys.stdout
    cache = jax.config.jax_compilation_cache_dir
    sys.argv = ['fjq.launch', *argv]  # ml_collections looks for overrides here
    try:
        with warnings.catch_warnings():
            return launch.main(sys.argv)
    finally:
        sys.argv, sys.stdout = before
        jax.config.update('jax_compilation_cache_dir', cache)
        _forget()


def _forget() -> None:
    for name in [n for n in flags.FLAGS if n.startswith('config.')]:
        delattr(flags.FLAGS, name)
    flags.FLAGS.unparse_flags()
    flags.FLAGS.mark_as_parsed()
