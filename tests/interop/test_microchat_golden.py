"""The GPT on the golden values, every one of them, and a change that they notice."""

import dataclasses

import jax
import numpy as np

from fjq.bridge import Pure
from fjq.models.gpt import Model
from interop import microchat_gpt
from interop.files import read_npz


def test_everything_golden_is_met(golden_dir):
    stem = golden_dir / 'microchat_gpt_tiny'
    checks = microchat_gpt.check(stem)
    assert {c.name for c in checks} == set(read_npz(f'{stem}_io.npz')) - {'ids'}
    assert all(c.ok for c in checks), [c for c in checks if not c.ok]


def test_the_rounded_table_of_angles_matters(golden_dir):
    stem = golden_dir / 'microchat_gpt_tiny'
    _, params, config = microchat_gpt.load(stem)
    golden = read_npz(f'{stem}_io.npz')
    exact = Pure(lambda rngs: Model(dataclasses.replace(config, rope_rounded=False), rngs=rngs))
    ids = golden['ids'][:, :-1].astype(np.int32)
    logits = jax.jit(lambda p: exact.apply(p, {}, Model.__call__, ids)[0])(params)
    assert np.abs(logits - golden['logits']).max() > 1e-4
