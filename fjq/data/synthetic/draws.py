"""Random streams: one counter-based generator a (seed, stream, day, part), whatever was drawn before.

Philox (Salmon et al., 2011) takes the seed and the stream's name as its key and the day and the part as the high
words of its counter, so that no two streams overlap and none depends on the number of processes.
"""

import zlib

import numpy as np


def generator(seed: int, stream: str, day: int = 0, part: int = 0) -> np.random.Generator:
    """The generator of one use: the same arguments always give the same numbers.

    Args:
      seed: of the market, 0 <= seed < 2**64.
      stream: what the numbers are for.
      day: session counted from the market's start.
      part: asset, block or column inside the stream.
    """
    key = np.array([seed, zlib.crc32(stream.encode())], np.uint64)
    counter = np.array([0, 0, day, part], np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))
