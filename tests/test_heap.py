import os
import subprocess
import sys

import pytest

TOUCH_TWICE = """
import resource
import numpy as np
from fjq.heap import keep_freed
kept = {} and keep_freed()
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(2):
    before = faults()
    np.ones(2**24).sum()  # 128 MiB: above the threshold of mmap
print(int(kept), faults() - before)
"""


def touch_twice(call: bool, **environment: str) -> tuple[bool, int]:
    """Whether it keeps, and the page faults of the second of two equal large arrays."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(('MALLOC_', 'JAX_PLATFORMS'))}
    command = [sys.executable, '-c', TOUCH_TWICE.format(call)]
    out = subprocess.run(command, env=inherited | environment, capture_output=True, text=True, check=True).stdout
    kept, faults = out.split()
    return bool(int(kept)), int(faults)


def test_memory_stays_and_comes_back_without_page_faults():
    kept, faults = touch_twice(True, JAX_PLATFORMS='cpu')
    assert kept
    assert faults * 10 < touch_twice(False, JAX_PLATFORMS='cpu')[1]


@pytest.mark.parametrize('other', [{'JAX_PLATFORMS': 'cuda'}, {'JAX_PLATFORMS': 'cpu', 'MALLOC_ARENA_MAX': '4'}])
def test_accelerators_and_limits_of_the_environment_are_left_alone(other):
    assert not touch_twice(True, **other)[0]
