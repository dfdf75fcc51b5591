"""The table of features of a file of bars, kept in the cache."""

import hashlib
import inspect
import os
from pathlib import Path

import numpy as np

from fjq.atomic import atomic
from fjq.data import clock
from fjq.data.bars import features
from fjq.data.bars.features import compute_features
from fjq.data.bars.series import Bars
from fjq.log import say


def read_or_compute(cache: str | os.PathLike, bars: Bars, names: tuple[str, ...]) -> np.ndarray:
    """The features of the bars, float32 [N, V], from the cache where equal bars had them by the same formulas."""
    code = ''.join(inspect.getsource(module) for module in (features, clock))
    key = hashlib.sha256('|'.join([bars.digest(), *names, code]).encode()).hexdigest()[:16]
    path = Path(cache) / f'bar_features-{key}.npy'
    if path.is_file():
        try:
            table = np.load(path, allow_pickle=False)
            if table.shape == (len(bars), len(names)) and table.dtype == np.float32:
                return table
        except (OSError, ValueError, EOFError):
            pass
        say(f'{path} is damaged: the features are computed again')
    table = compute_features(bars, names)
    with atomic(path) as part, open(part, 'wb') as file:
        np.save(file, table)
    return table
