"""Days cut into rows, the order of rows, and batch sizes of devices."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fjq.data.order import InOrder, Shuffled
from fjq.data.ticks.fragments import cut_days, pick_bucket
from fjq.data.ticks.profiles import PROFILES, size_batch
from fjq.errors import InputError
from fjq.mesh import count_micro_batches

DATES = ['2022-02-01', '2022-02-02']


@settings(max_examples=150, deadline=None)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=9), st.integers(5, 12), st.integers(1, 9))
def test_cuts_are_few_and_nearly_equal(counts, max_chunks, max_frames):
    f = cut_days([np.array(counts)], max_chunks, max_frames, DATES)
    assert f.frame.tolist() == [0, *np.cumsum(f.frames)[:-1]] and f.frames.sum() == len(counts)
    assert f.chunk.tolist() == [0, *np.cumsum(f.chunks)[:-1]]
    assert f.chunks.tolist() == [sum(counts[a : a + n]) for a, n in zip(f.frame, f.frames, strict=True)]
    assert f.chunks.max() <= max_chunks and f.frames.max() <= max_frames
    # of all ways to cut: none has fewer runs, and none with as few has a smaller largest run
    best = None
    for parts in range(1, len(counts) + 1):
        for inner in itertools.combinations(range(1, len(counts)), parts - 1):
            bounds = [0, *inner, len(counts)]
            sums = [sum(counts[a:b]) for a, b in itertools.pairwise(bounds)]
            if max(sums) <= max_chunks and max(b - a for a, b in itertools.pairwise(bounds)) <= max_frames:
                best = min(best or max(sums), max(sums))
        if best:
            assert (len(f.frames), f.chunks.max()) == (parts, best)
            return


def test_days_are_cut_apart_and_empty_ones_make_no_row():
    f = cut_days([np.array([2, 2, 2]), np.zeros(0, int), np.array([4])], 4, 9, [*DATES, '2022-02-03'])
    assert f.day.tolist() == [0, 0, 2] and f.frames.tolist() == [2, 1, 1] and f.day.dtype == np.int32
    assert cut_days([], 4, 4, []).day.shape == (0,)


def test_a_frame_larger_than_a_row_is_refused_with_what_is_needed():
    with pytest.raises(InputError, match='frame 1 of 2022-02-02 has 7 chunks, a row holds 6.*last bucket 7 or more'):
        cut_days([np.array([1, 6]), np.array([2, 7, 1])], 6, 9, DATES)


def test_every_epoch_is_another_permutation_of_all():
    places = np.array([3, 5, 8, 13, 21, 34, 55])
    order = Shuffled(places, rows=4, seed=1)
    run = np.concatenate([order(step) for step in range(14)])  # 56 rows: 8 epochs
    epochs = run.reshape(8, 7)
    assert all(sorted(e) == places.tolist() for e in epochs.tolist())
    assert len({tuple(e) for e in epochs.tolist()}) > 5
    np.testing.assert_array_equal(order(9), Shuffled(places, rows=4, seed=1)(9))
    assert any((order(s) != Shuffled(places, rows=4, seed=2)(s)).any() for s in range(3))
    assert len(order) == 2**31 - 1 and order(2**31 - 2).shape == (4,)


def test_a_batch_may_span_many_epochs():
    assert np.bincount(Shuffled(np.array([0, 1]), rows=7, seed=0)(3)).tolist() in ([3, 4], [4, 3])


def test_the_last_batch_in_order_is_filled_up():
    order = InOrder(np.array([4, 5, 6, 7, 8]), rows=2)
    assert [order(i).tolist() for i in range(len(order))] == [[4, 5], [6, 7], [8, -1]]
    assert len(InOrder(np.arange(4), rows=2)) == 2


def test_buckets():
    assert [pick_bucket((5, 10), n) for n in (0, 5, 6, 10)] == [5, 5, 10, 10]


@pytest.mark.parametrize('name', PROFILES)
@pytest.mark.parametrize('stream', ['stocks', 'options', 'index'])
@pytest.mark.parametrize('row_chunks', [50, 200])
def test_batches_of_profiles_keep_their_budgets_on_any_devices(name, stream, row_chunks):
    size, profile = size_batch(name, stream, row_chunks), PROFILES[name]
    assert profile.chunks[stream] - profile.devices * row_chunks < size.rows * row_chunks <= profile.chunks[stream]
    assert size.rows % size.micro_batches == 0
    for devices in (n for n in (1, 2, 4, 8) if n <= profile.devices):
        count = count_micro_batches(*size, devices)
        assert size.rows // count // devices * row_chunks <= profile.at_once
        assert devices > 1 or count == size.micro_batches


def test_published_batches_of_the_index():
    assert size_batch('rtx5080', 'index', 200).rows * 200 == 4_000
    assert size_batch('h100', 'index', 200).rows * 200 == size_batch('a100', 'index', 200).rows * 200 == 24_000


def test_profiles_that_can_not_be():
    for arguments, what in (
        (('gtx', 'index', 200), 'unknown profile'),
        (('h100', 'bonds', 200), 'unknown stream'),
        (('rtx5080', 'index', 400), 'does not run at once'),
    ):
        with pytest.raises(InputError, match=what):
            size_batch(*arguments)
