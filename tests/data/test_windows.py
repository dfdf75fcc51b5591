"""No label of a part may reach into a later one, whatever the data and the settings."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fjq.data.windows import Split, split_at, walk_forward
from fjq.errors import InputError

DAYS = np.arange('2022-01-03', '2023-12-29', dtype='datetime64[D]')
DAY = np.timedelta64(1, 'D')


@st.composite
def labelled_rows(draw):
    """Times with repeats and gaps, in any order, labels of any length, and their unit, as integers or as dates."""
    n = draw(st.integers(8, 60))
    time = np.cumsum(draw(st.lists(st.integers(0, 5), min_size=n, max_size=n)))
    length = np.array(draw(st.lists(st.integers(0, 12), min_size=n, max_size=n)))
    order = draw(st.permutations(range(n)))
    time, label_end = time[order], (time + length)[order]
    if draw(st.booleans()):
        return np.datetime64('2020-02-20') + time * DAY, np.datetime64('2020-02-20') + label_end * DAY, DAY
    return time, label_end, 1


gaps = st.integers(0, 6)


@given(rows=labelled_rows(), purge=gaps, embargo=gaps, cuts=st.tuples(st.integers(1, 150), st.integers(1, 150)))
def test_labels_of_a_part_end_before_the_next(rows, purge, embargo, cuts):
    time, label_end, one = rows
    starts = np.sort(time.min() + np.array(cuts) * one)
    try:
        parts = split_at(time, label_end, starts, purge=purge, embargo=embargo)
    except InputError as error:
        assert 'no rows' in str(error) or starts[0] == starts[1]
        return
    purge, embargo = purge * one, embargo * one
    assert np.array_equal(sum(part.astype(int) for part in parts), np.ones(len(time)))
    for part, start in ((parts.train, starts[0]), (parts.valid, starts[1])):
        assert (label_end[part] + embargo < start).all()
        assert (time[part] + purge + embargo < start).all()
    np.testing.assert_array_equal(parts.test, time >= starts[1])
    # Only what must go is gone.
    gone = parts.purged
    following = np.where(time < starts[0], starts[0], starts[1])
    assert (np.maximum(label_end, time + purge)[gone] + embargo >= following[gone]).all()


@given(
    rows=labelled_rows(),
    purge=gaps,
    embargo=gaps,
    folds=st.integers(1, 4),
    min_train=st.integers(1, 6),
    window=st.none() | st.integers(5, 60),
)
def test_walk_forward_never_looks_ahead(rows, purge, embargo, folds, min_train, window):
    time, label_end, one = rows
    settings = dict(folds=folds, purge=purge, embargo=embargo, min_train=min_train, window=window)
    try:
        steps = walk_forward(time, label_end, **settings)
    except InputError as error:
        assert 'too few' in str(error) or 'fewer than' in str(error)
        return
    assert len(steps) == folds
    purge, embargo = purge * one, embargo * one
    for step in steps:
        start = time[step.test].min()
        assert len(step.train) >= min_train and len(step.test)
        assert (np.maximum(label_end, time + purge)[step.train] + embargo < start).all()
        first = time.min() if window is None else start - window * one
        assert (time[step.train] >= first).all()
        others = np.setdiff1d(np.flatnonzero((time < start) & (time >= first)), step.train)
        assert (np.maximum(label_end, time + purge)[others] + embargo >= start).all()  # only what must go is gone
        assert (np.diff(time[step.train].astype(int)) >= 0).all() and (np.diff(time[step.test].astype(int)) >= 0).all()
    tests = np.concatenate([step.test for step in steps])
    np.testing.assert_array_equal(np.sort(tests), np.flatnonzero(time >= time[steps[0].test].min()))
    edges = [(time[step.test].min(), time[step.test].max()) for step in steps]
    assert all(a[1] < b[0] for a, b in zip(edges, edges[1:], strict=False))


def split(**settings) -> Split:
    return Split(
        **({'train_end': '2022-12-31', 'valid_end': '2023-06-30', 'purge_days': 0, 'embargo_days': 0} | settings)
    )


def test_dates_of_a_split():
    ends = DAYS + 30 * DAY
    parts = split().parts(DAYS, ends)
    # A label of 30 days that ends on the last day of train still belongs to it.
    assert DAYS[parts.train].max() == np.datetime64('2022-12-01')
    assert DAYS[parts.valid].min() == np.datetime64('2023-01-01')
    assert DAYS[parts.valid].max() == np.datetime64('2023-05-31')
    assert DAYS[parts.test].min() == np.datetime64('2023-07-01')
    assert parts.purged.sum() == 60
    apart = split(embargo_days=10, purge_days=35).parts(DAYS, ends)
    assert DAYS[apart.train].max() == np.datetime64('2022-11-16')
    np.testing.assert_array_equal(apart.test, parts.test)
    # The longest horizon counts, and rows without a label have none to reach over.
    several = split().parts(DAYS, np.stack([DAYS + 5 * DAY, ends], 1))
    np.testing.assert_array_equal(several.train, parts.train)
    np.testing.assert_array_equal(
        split().parts(DAYS, np.full_like(DAYS, 'NaT')).train, DAYS <= np.datetime64('2022-12-31')
    )


def test_moments_within_a_day():
    bars = np.arange('2022-12-30T00:00', '2023-01-03T00:00', 5, dtype='datetime64[m]')
    kept = split(train_end='2022-12-31T12:00', valid_end='2023-01-01', embargo_days=0.25).parts(
        bars, bars + np.timedelta64(1, 'h')
    )
    assert bars[kept.train].max() == np.datetime64('2022-12-31T05:00')
    assert bars[kept.valid].min() == np.datetime64('2022-12-31T12:05')
    assert bars[kept.test].min() == np.datetime64('2023-01-02T00:00')
    # A label that ends on a date holds all of that day, so it reaches past noon.
    daily = split(train_end='2022-12-31T12:00', valid_end='2023-01-01').parts(bars, bars.astype('datetime64[D]'))
    assert bars[daily.train].max() == np.datetime64('2022-12-30T23:55')


@pytest.mark.parametrize(
    'settings,message',
    [
        ({'train_end': '2021-01-01'}, 'the train part has no rows: '),
        ({'embargo_days': 400}, 'the train part has no rows, after 363 rows were purged'),
        ({'valid_end': '2024-01-01'}, 'the test part has no rows'),
        ({'valid_end': '2022-12-30'}, 'Put train_end before valid_end'),
        ({'train_end': 'soon'}, "'train_end'"),
        ({'purge_days': -1}, "'purge'"),
        ({'purge_days': float('nan')}, "'purge'"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(InputError, match=message) as error:
        split(**settings).parts(DAYS, DAYS)
    assert '\n' not in str(error.value)


def test_the_gaps_must_be_named():
    with pytest.raises(TypeError, match='purge_days.*embargo_days'):
        Split(train_end='2022-12-31', valid_end='2023-06-30')


def test_bad_rows():
    ends = DAYS + DAY
    with pytest.raises(InputError, match='row 3'):
        split().parts(np.where(np.arange(len(DAYS)) == 3, np.datetime64('NaT', 'D'), DAYS), ends)
    with pytest.raises(InputError, match='row 5.*before'):
        split().parts(DAYS, np.where(np.arange(len(DAYS)) == 5, DAYS - DAY, ends))
    with pytest.raises(InputError, match='datetime64'):
        split().parts(DAYS, np.arange(len(DAYS)))
    with pytest.raises(InputError, match='shape'):
        split().parts(DAYS, ends[:-1])
    with pytest.raises(InputError, match='no rows'):
        split().parts(DAYS[:0], ends[:0])


def test_dates_in_messages_have_no_zeros_of_their_unit():
    time = np.arange('2022-02-01', '2022-03-01', dtype='datetime64[D]')
    split = Split(train_end='2022-02-10', valid_end='2023-01-01', purge_days=0, embargo_days=0)
    with pytest.raises(InputError) as error:
        split.parts(time, time + np.timedelta64(1, 'D'))
    assert 'cut at 2022-02-11 and 2023-01-02, the data run from 2022-02-01 to 2022-02-28.' in str(error.value)
