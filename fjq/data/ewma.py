"""Exponentially weighted means of series."""

import numpy as np
from scipy.signal import lfilter

from fjq.errors import InputError


def ewma(values: np.ndarray, decay: float) -> np.ndarray:
    """The weighted mean of values up to each [M], its weights summing to 1 from the first value on.

    An absent value leaves the mean as it was, and has none itself: NaN in, NaN out at that place.

    decay: weight of the past, a value; that of a half-life h is 0.5^(1 / h).
    """
    if not 0 < decay < 1:
        raise InputError(f'a decay of {decay}', column='decay', remedy='give a number between 0 and 1')
    out, there = np.full(len(values), np.nan), np.isfinite(values)
    total = lfilter([1 - decay], [1, -decay], values[there])
    out[there] = total / -np.expm1(np.arange(1, there.sum() + 1) * np.log(decay))
    return out
