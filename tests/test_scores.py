"""Differences of two forecasters against figures worked out by hand."""

import numpy as np
import pytest

from fjq import compare
from fjq.forecast import Point
from fjq.scores import Judged, difference


def rng(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(seed))


def test_rows_of_one_moment_are_no_more_independent():
    """Two series at the same times: half as many independent observations as rows, and a wider interval."""
    rows = {'time': np.repeat(np.arange(100), 2), 'target': np.repeat(rng(30).standard_normal((100, 1)), 2, 0)}
    mask, zero = np.ones((200, 1), bool), Point(np.zeros((200, 1)))
    guess = rng(31).standard_normal((100, 1)) / 4
    model, other = Judged('model', Point(np.repeat(guess, 2, 0)), zero), Judged('other', zero, zero)
    settings = dict(loss='mse', overlaps=[1], blocks=[2], draws=400)
    (both,) = difference(model, other, rows, mask, **settings)
    one = {k: v[::2] for k, v in rows.items()}
    half = Judged('model', Point(guess), zero), Judged('other', Point(np.zeros((100, 1))), zero)
    (single,) = difference(*half, one, mask[::2], **settings)
    assert both == pytest.approx(single)
    y, f = one['target'][:, 0], guess[:, 0]
    assert both['r2'] == pytest.approx(1 - ((y - f) ** 2).sum() / (y**2).sum(), rel=1e-6)
    assert both['r2_low'] < both['r2'] < both['r2_high']
    loss = y**2 - (y - f) ** 2
    assert both['dm'] == pytest.approx(compare.diebold_mariano(loss, 0 * loss, horizon=1).statistic, rel=1e-5)
