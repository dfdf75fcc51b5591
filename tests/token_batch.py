"""Hand-made batches of the micro quant chat."""

import numpy as np

from fjq.models.gpt import Gpt

SMALL = dict(vocabulary=20, length=16, layers=1, heads=4, kv_heads=2, width=32, dropout=0.0)


def small(**changes) -> Gpt:
    return Gpt(**SMALL | changes)


def make_batch(rows=5, context=8, horizon=4, horizons=(1, 4), vocabulary=20, seed=0) -> dict:
    """Rows that forecast, the last but one with half its future, the last one padding."""
    rng = np.random.Generator(np.random.Philox(seed))
    mask = np.arange(rows) < rows - 1
    known = mask[:, None] & np.ones(horizon, bool)
    known[rows - 2, horizon // 2 :] = False
    returns = np.where(known, 0.02 * rng.standard_normal((rows, horizon)), 0).astype(np.float32)
    counts = np.concatenate([np.zeros((rows, context - 1), bool), known], 1)
    return {
        'tokens': rng.integers(0, vocabulary, (rows, context + horizon)).astype(np.int32),
        'segment': np.repeat(mask[:, None], context + horizon, 1).astype(np.int32),
        'counts': counts,
        'mask': mask,
        'row': np.where(mask, np.arange(rows), -1).astype(np.int32),
        'target': np.cumsum(returns, 1)[:, np.array(horizons) - 1],
        'target_mask': known[:, np.array(horizons) - 1],
        'returns': returns,
        'returns_mask': known,
        'token_return': np.repeat(np.sort(rng.standard_normal(vocabulary))[None], rows, 0).astype(np.float32),
        'scale': rng.uniform(0.01, 0.03, rows).astype(np.float32),
        'scale_decay': np.full(rows, 0.9, np.float32),
        'close': np.full(rows, 100, np.float32),
    }
