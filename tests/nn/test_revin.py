"""Normalisation of windows against NumPy in float64."""

import numpy as np
import pytest
import torch

from fjq.nn.revin import is_valid, revin, standardize


def windows(lengths=(9, 12, 4, 1, 0), slots=12, level=(0.0, 10.0, 2.4e4), spread=(1e-8, 3e-3, 25.0)):
    rng = np.random.Generator(np.random.Philox(0))
    x = np.array(level) + np.array(spread) * rng.standard_normal((len(lengths), slots, len(level)))
    return x.astype(np.float32), np.array(lengths, np.int32)


def test_each_variable_by_its_own_valid_bars():
    """Spreads of a hundred-millionth, and of a thousandth of the level."""
    x, length = windows()
    z, spread = (np.asarray(a) for a in standardize(x, is_valid(length, 12)))
    for i, n in enumerate(length):
        part = x[i, :n].astype(np.float64)
        assert (z[i, n:] == 0).all()
        if n > 1:
            np.testing.assert_allclose(z[i, :n], (part - part.mean(0)) / part.std(0), atol=2e-4)
            np.testing.assert_allclose(spread[i], part.std(0), rtol=1e-4)
        else:
            assert (z[i] == 0).all() and (spread[i] == 0).all()


def test_padding_may_hold_anything():
    x, length = windows()
    other = np.where(np.arange(12)[None, :, None] < length[:, None, None], x, np.float32('nan'))
    for a, b in zip(standardize(x, is_valid(length, 12)), standardize(other, is_valid(length, 12)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_constant_is_zero_whatever_its_rounding():
    x = np.float32(24_613.1) + np.zeros((1, 300, 1), np.float32)
    x[0, ::7] = np.nextafter(x[0, 0], np.float32(np.inf))
    z, spread = standardize(x, is_valid(np.array([300]), 300))
    assert np.abs(z).max() < 0.01 and spread[0, 0] == 0


def test_the_floor_of_the_original():
    """A spread of 1e-5 or less: centred, not scaled."""
    x, length = windows(lengths=(12,))
    z = np.asarray(standardize(x, is_valid(length, 12), floor=1e-5).x_BxTxV)[0]
    assert 0 < np.abs(z[:, 0]).max() < 1e-7 and np.abs(z[:, 0].mean()) < 1e-10
    np.testing.assert_allclose(z[:, 1].std(), 1, rtol=1e-4)


def test_revin_of_the_original():
    x, _ = windows(lengths=(12, 12), level=(1.0, -3.0, 0.0), spread=(1.0, 0.1, 1e-5))
    gamma, beta = np.float32([1, 2, 3]), np.float32([0, -1, 1])
    t = torch.tensor(x)
    unit = (t - t.mean(1, keepdim=True)) / (t.std(1, keepdim=True) + 1e-5)
    np.testing.assert_allclose(revin(x, gamma, beta), torch.tensor(gamma) * unit + torch.tensor(beta), atol=1e-4)


@pytest.mark.parametrize('length', [0, 1, 12])
def test_valid_bars_come_first(length):
    assert np.asarray(is_valid(np.array([length]), 12))[0].tolist() == [i < length for i in range(12)]
