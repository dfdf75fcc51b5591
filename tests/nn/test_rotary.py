"""Rotary position embedding against complex numbers."""

import numpy as np
import torch

from fjq.nn.rotary import make_table, rotate


def test_planes_turn_by_their_angle():
    rng = np.random.Generator(np.random.Philox(0))
    x = rng.standard_normal((2, 7, 3, 8)).astype(np.float32)
    angle = np.arange(7)[:, None] * 100.0 ** (-np.arange(4) / 4)
    z = (x[..., :4] + 1j * x[..., 4:]) * np.exp(1j * angle)[None, :, None]
    out = rotate(x, *make_table(7, 8, base=100.0))
    np.testing.assert_allclose(out, np.concatenate([z.real, z.imag], -1), atol=2e-6)


def test_a_row_can_have_positions_of_its_own():
    rng = np.random.Generator(np.random.Philox(1))
    x = rng.standard_normal((2, 5, 3, 8)).astype(np.float32)
    cos, sin = make_table(20, 8)
    at = np.array([[0, 1, 2, 3, 4], [7, 8, 0, 1, 2]])
    whole = rotate(x, cos[at], sin[at])
    for b in range(2):
        np.testing.assert_array_equal(whole[b], rotate(x[b], cos[at[b]], sin[at[b]]))


def test_the_rounded_table_is_that_of_torch():
    cos, sin = make_table(512, 64, rounded=True)
    rate = 1.0 / 10_000 ** (torch.arange(0, 64, 2, dtype=torch.float32) / 64)
    angle = torch.outer(torch.arange(512, dtype=torch.float32), rate)
    for ours, theirs in ((cos, angle.cos()), (sin, angle.sin())):
        theirs = theirs.bfloat16().float().numpy()
        assert (ours != theirs).mean() < 1e-3  # the last bit of a cosine may lie on either side of a rounding
        np.testing.assert_allclose(ours, theirs, atol=2**-8)
