"""Batches and a small model for the tests of MIGT-TVDT."""

import numpy as np

from fjq.data.bars.scale import COUNT
from fjq.models.migt import Migt

SMALL = Migt(
    variables=3,
    horizons=(1, 4),
    bars_per_day=48,
    width=8,
    heads=2,
    hidden=16,
    temporal_layers=2,
    variable_layers=1,
    head_hidden=8,
    clock_dims=(8, 4, 4, 4),
    age_dim=8,
    dropout=0.0,
)


def make_batch(rows=5, slots=12, variables=3, horizons=2, lengths=None, seed=0):
    """Windows of any length up to `slots`, their valid bars first and zeros after them."""
    rng = np.random.Generator(np.random.Philox(seed))
    length = np.array(rng.integers(slots // 2, slots + 1, rows) if lengths is None else lengths, np.int32)
    valid = np.arange(slots)[None] < length[:, None]
    level = 10.0 ** np.arange(variables)  # variables of very different size
    features = level * (rng.standard_normal((rows, slots, variables)) + 3)
    return {
        'features': np.where(valid[..., None], features, 0).astype(np.float32),
        'length': length,
        'bar_in_day': np.where(valid, rng.integers(0, 48, (rows, 1)) + np.arange(slots), 0).astype(np.int32) % 48,
        'day_of_week': rng.integers(0, 7, rows).astype(np.int32),
        'day_of_month': rng.integers(1, 32, rows).astype(np.int32),
        'day_of_year': rng.integers(1, 367, rows).astype(np.int32),
        'log_variance': 2 * np.log(rng.uniform(5e-4, 2e-3, (rows, COUNT))).astype(np.float32),
        'target': (rng.standard_normal((rows, horizons)) * 1e-3).astype(np.float32),
        'target_mask': np.ones((rows, horizons), bool),
        'mask': np.ones(rows, bool),
        'row': np.arange(rows, dtype=np.int32),
    }


def with_live_heads(params, seed=0):
    """Fresh heads answer nothing to their input; these do."""
    rng = np.random.Generator(np.random.Philox(seed))
    out = params['heads']['out_proj']
    kernel = rng.standard_normal(out['kernel'].shape).astype(np.float32) * 0.3
    return params | {'heads': params['heads'] | {'out_proj': out | {'kernel': kernel}}}
