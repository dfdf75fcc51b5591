"""Strict run time for every test: eight CPU devices, no silent rank promotion, warnings are errors.

Programs that run once or twice are compiled without the expensive passes; those of child processes in full.
"""

import os
from pathlib import Path

os.environ.setdefault('JAX_PLATFORMS', 'cpu')
os.environ.setdefault(
    'XLA_FLAGS',
    '--xla_force_host_platform_device_count=8'
    ' --xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true',
)

import jax
import pytest
from absl import flags

ROOT = Path(__file__).resolve().parent.parent
jax.config.update('jax_numpy_rank_promotion', 'raise')
jax.config.update('jax_compilation_cache_dir', str(ROOT / '.jax_cache'))
jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.5)
flags.FLAGS.mark_as_parsed()  # Grain's worker processes read flags even outside an absl program


def _shared(variable: str, default: str) -> Path:
    folder = Path(os.environ.get(variable, ROOT.parent / 'shared' / default))
    if not folder.is_dir():
        pytest.skip(f'{default} values are absent: set {variable}')
    return folder


@pytest.fixture(scope='session')
def data_dir() -> Path:
    """The folder of real market data, `$FJQ_DATA`."""
    return _shared('FJQ_DATA', 'data')


@pytest.fixture(scope='session')
def golden_dir() -> Path:
    """The folder of golden parity values, `$FJQ_GOLDEN`."""
    return _shared('FJQ_GOLDEN', 'golden')
