"""One row of a parity table: ours against a golden value."""

from typing import NamedTuple

import numpy as np


class Check(NamedTuple):
    """`max_abs` is the largest difference, `max_rel` the same over the scale of the golden value."""

    name: str
    max_abs: float
    max_rel: float
    tolerance: float
    ok: bool


def compare(name: str, ours, golden, tolerance: float, *, floor: float = 1.0) -> Check:
    """Shapes must be equal; NaN or infinity on either side fails; `max_rel` must not exceed `tolerance`.

    The scale is the largest absolute golden value, but at least `floor`: give 0 for gradients that are tiny as a whole.
    """
    ours, golden = np.asarray(ours, np.float64), np.asarray(golden, np.float64)
    if ours.shape != golden.shape:
        return Check(f'{name} (shape {ours.shape}, golden {golden.shape})', np.inf, np.inf, tolerance, False)
    if not (np.isfinite(ours).all() and np.isfinite(golden).all()):
        return Check(name, np.nan, np.nan, tolerance, False)
    worst = float(np.abs(ours - golden).max(initial=0))
    relative = worst / max(floor, float(np.abs(golden).max(initial=0)), np.finfo(np.float64).tiny)
    return Check(name, worst, relative, tolerance, relative <= tolerance)
