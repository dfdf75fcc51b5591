"""The scan and block of the reference implementation, value and gradient."""

import numpy as np
import pytest

from interop import mamba
from interop.check import compare


def test_golden_values(golden_dir):
    rows = mamba.check(golden_dir / 'mamba_tiny')
    assert len(rows) == 3 * 9 + 11
    assert [row for row in rows if not row.ok] == []


@pytest.mark.parametrize(
    'change', [lambda a: a * (1 + 3e-5), lambda a: np.where(a == a.max(), np.nan, a), lambda a: a[:1]]
)
def test_a_wrong_value_is_found(change):
    golden = np.linspace(-2, 3, 50).reshape(2, 25)
    assert compare('same', golden, golden, 1e-5).ok
    assert not compare('changed', change(golden), golden, 1e-5).ok


def test_scale_of_a_row():
    tiny = np.full(3, 1e-4)
    assert compare('tiny', tiny + 1e-6, tiny, 1e-5).ok
    assert not compare('tiny', tiny + 1e-6, tiny, 1e-5, floor=0).ok
    row = compare('large', np.array([100.0, 0]), np.array([100.0, 0.5]), 1e-2)
    assert (row.max_abs, row.max_rel, row.ok) == (0.5, 0.005, True)


def test_infinity_never_passes():
    """Not even where both sides have it; the suite turns the warning of inf - inf into an error."""
    both = np.array([1.0, np.inf])
    assert not compare('both', both, both, 1e-5).ok
    assert not compare('ours', both, np.ones(2), 1e-5).ok
