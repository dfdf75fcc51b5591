"""Labels that share few bars with others are drawn more often: against loops over rows and bars."""

import jax
import numpy as np
import pytest
from test_migt_data import ALL, HORIZONS, ONE, settings

from fjq.data.bars.uniqueness import average_uniqueness
from fjq.data.order import Shuffled
from fjq.errors import InputError
from fjq.task import Shard


def by_loops(start, end):
    spanning = {}
    for a, b in zip(start, end, strict=True):
        for bar in range(a + 1, b + 1):
            spanning[bar] = spanning.get(bar, 0) + 1
    return [np.mean([1 / spanning[bar] for bar in range(a + 1, b + 1)]) for a, b in zip(start, end, strict=True)]


def test_it_is_that_of_loops():
    rng = np.random.Generator(np.random.Philox(4))
    start = np.sort(rng.choice(500, 120, replace=False))
    end = start + rng.integers(1, 30, 120)
    found = average_uniqueness(start, end)
    np.testing.assert_allclose(found, by_loops(start, end), rtol=1e-12)
    assert found.min() > 0 and found.max() <= 1 and np.ptp(found) > 0.3
    np.testing.assert_allclose(average_uniqueness(np.array([0, 3, 9]), np.array([3, 6, 20])), 1)


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """Targets end with their session, so that rows at both ends of one share fewer bars."""
    return settings(across_breaks=False, sampling='uniqueness').open(tmp_path_factory.mktemp('bars'), ONE)


def test_it_is_that_of_the_training_rows_alone(data):
    rows, closes = data.rows('train'), data.history()['time']
    start = np.searchsorted(closes, rows['time'])
    last = np.where(rows['valid'], rows['label_end'], rows['time'][:, None]).max(1)
    found = data.uniqueness()
    np.testing.assert_allclose(found, by_loops(start, np.searchsorted(closes, last)), rtol=1e-9)
    inside = np.isclose(found, 1 / HORIZONS[-1])
    assert 0.4 < inside.mean() < 0.9 and found.max() > 3 / HORIZONS[-1]


def test_rows_are_drawn_in_proportion(data):
    count, weights = len(data.rows('train')['time']), data.uniqueness()
    epochs, step = 40, 16
    batches = data.train(3, ALL)
    rows = np.concatenate([batches[i]['row'] for i in range(epochs * count // step)])
    wanted = count * weights / weights.sum()
    first = np.bincount(rows[:count], minlength=count)
    assert (first >= np.floor(wanted)).all() and (first <= np.ceil(wanted)).all() and first.min() == 0
    drawn = np.bincount(rows, minlength=count) / epochs  # each a mean of 40 draws with a variance of 1 / 4 at most
    assert np.abs(drawn - wanted).max() < 5 * 0.5 / np.sqrt(epochs) and np.corrcoef(drawn, wanted)[0, 1] > 0.9


def test_a_batch_follows_from_the_seed_and_the_step(data, tmp_path):
    """In another process too, at any step, whichever part of a batch it makes."""
    again = settings(across_breaks=False, sampling='uniqueness').open(tmp_path, ONE)
    for step in (900, 7):
        whole, other = data.train(3, ALL)[step], again.train(3, ALL)[step]
        jax.tree.map(np.testing.assert_array_equal, whole, other)
        parts = [again.train(3, Shard(i, 2))[step] for i in range(2)]
        np.testing.assert_array_equal(np.concatenate([p['row'] for p in parts]), whole['row'])
    assert (data.train(4, ALL)[7]['row'] != data.train(3, ALL)[7]['row']).any()


def test_equal_weights_are_a_permutation():
    order = Shuffled(np.arange(100, 137), 37, seed=1, weights=np.full(37, 0.3))
    epochs = [order(i) for i in range(3)]
    for epoch in epochs:
        np.testing.assert_array_equal(np.sort(epoch), np.arange(100, 137))
    assert (epochs[0] != epochs[1]).any()


def test_it_is_part_of_what_the_data_are(data, tmp_path):
    plain = settings(across_breaks=False).open(tmp_path, ONE)
    assert plain.fingerprint() | {'sampling': 'uniqueness'} == data.fingerprint() != plain.fingerprint()
    with pytest.raises(InputError, match="'sampling': unknown choice 'often'. Choose uniform or uniqueness"):
        settings(sampling='often').open(tmp_path, ONE)
