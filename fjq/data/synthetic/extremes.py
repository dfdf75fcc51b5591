"""The high and the low of a price between two known points."""

import numpy as np


def extremes(
    rng: np.random.Generator, start: np.ndarray, end: np.ndarray, variance: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Draws the maximum and the minimum of Brownian bridges, each from its exact law, the two independently.

    P(max > m) = exp(-2 (m - start)(m - end) / variance), solved for m at a uniform probability.

    Args:
      start, end: log prices, of any one shape.
      variance: of the motion between them.

    Returns:
      (high, low), of the same shape.
    """
    move2 = (end - start) ** 2
    middle = start + end
    draws = -2 * variance * np.log1p(-rng.random((2, *start.shape)))
    return (middle + np.sqrt(move2 + draws[0])) / 2, (middle - np.sqrt(move2 + draws[1])) / 2
