"""How much of a label is its own, where the labels of many rows span the same bars."""

import numpy as np


def average_uniqueness(start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """The mean, over the bars of each label, of 1 / (labels that span the bar) (Lopez de Prado 2018, chapter 4.4).

    Args:
      start, end: places of bars [N], start < end: a label is made of the bars start + 1 up to end.

    Returns:
      float64 [N], above 0 and up to 1: a label that shares no bar.
    """
    bars = int(end.max()) + 2
    spanning = np.cumsum(np.bincount(start + 1, minlength=bars) - np.bincount(end + 1, minlength=bars))
    share = np.cumsum(1 / np.maximum(spanning, 1))
    return (share[end] - share[start]) / (end - start)
