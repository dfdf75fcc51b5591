"""Forward realised volatility: the published labels, brute force, and files that must be refused."""

import datetime

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fjq.data.volatility.targets import HORIZONS, forward_rv, read_targets
from fjq.errors import InputError

START = datetime.date(2022, 2, 1)


def _weekdays(count: int) -> np.ndarray:
    return np.busday_offset(np.datetime64(START), np.arange(count), roll='forward')


def _brute(dates, daily_rv, horizon, days, min_rows, short_windows, annualised):
    """Row by row, straight from the definition, in Python floats."""
    for i, t in enumerate(dates):
        if days == 'calendar':
            rows = [j for j, u in enumerate(dates) if t < u <= t + np.timedelta64(horizon, 'D')]
            usual = horizon * 252 / 365.25
        else:
            rows = list(range(i + 1, min(i + 1 + horizon, len(dates))))
            usual = horizon
        total = sum(daily_rv[j] ** 2 for j in rows)
        short = len(rows) < 0.85 * usual
        if len(rows) < min_rows or (short and short_windows == 'drop'):
            yield float('nan'), len(rows)
        elif annualised:
            yield (total / len(rows)) ** 0.5, len(rows)
        else:
            yield (total * (usual / len(rows) if short and short_windows == 'rescale' else 1)) ** 0.5, len(rows)


@given(
    gaps=st.lists(st.integers(1, 40), min_size=1, max_size=60),
    horizon=st.integers(1, 45),
    days=st.sampled_from(['calendar', 'trading']),
    min_rows=st.integers(1, 12),
    short_windows=st.sampled_from(['keep', 'drop', 'rescale']),
    annualised=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=150, deadline=None)
def test_labels_equal_brute_force(gaps, horizon, days, min_rows, short_windows, annualised, seed):
    dates = np.datetime64(START) + np.cumsum(np.where(np.arange(len(gaps)) % 3, 1, gaps)).astype('timedelta64[D]')
    daily_rv = np.random.Generator(np.random.Philox(seed)).uniform(0.01, 0.6, len(dates))
    options = {'days': days, 'min_rows': min_rows, 'short_windows': short_windows, 'annualised': annualised}
    values, n_rows, _ = forward_rv(dates, daily_rv, horizon, **options)
    expected = list(_brute(dates, daily_rv, horizon, **options))
    np.testing.assert_allclose(values, [v for v, _ in expected], rtol=1e-12)
    np.testing.assert_array_equal(n_rows, [n for _, n in expected])


@given(st.integers(0, 39), st.sampled_from(['calendar', 'trading']), st.integers(1, 12))
@settings(deadline=None)
def test_a_label_reads_only_after_its_day_and_up_to_its_end(changed, days, horizon):
    dates, daily_rv = _weekdays(40), np.linspace(0.1, 0.3, 40)
    values, _, label_end = forward_rv(dates, daily_rv, horizon, days=days, min_rows=1)
    other = daily_rv.copy()
    other[changed] *= 2
    moved = forward_rv(dates, other, horizon, days=days, min_rows=1)[0]
    differs = (values != moved) & ~np.isnan(values)
    inside = (dates < dates[changed]) & (dates[changed] <= label_end)
    np.testing.assert_array_equal(differs, inside)


def test_the_published_labels_are_reproduced_to_the_bit(data_dir):
    table = pq.read_table(data_dir / 'tcn' / 'spy_daily_rv.parquet')
    published = table['rv_30d_forward'].to_numpy()
    dates = table['date'].to_numpy().astype('datetime64[D]')
    values, n_rows, _ = forward_rv(dates, table['daily_rv'].to_numpy(), 30)
    assert len(values) == 461 and np.isnan(published).sum() == 20
    np.testing.assert_array_equal(values, published)  # equal bits, NaN where NaN
    dropped = forward_rv(dates, table['daily_rv'].to_numpy(), 30, short_windows='drop')[0]
    assert np.isnan(dropped).sum() - 20 == ((10 <= n_rows) & (n_rows < 18)).sum() == 16


def test_the_real_file_is_read(data_dir):
    targets = read_targets(data_dir / 'tcn' / 'spy_daily_rv.parquet', HORIZONS, compute_labels=True)
    assert targets.target.shape == targets.valid.shape == targets.label_end.shape == (461, 4)
    assert targets.valid[:, 3].sum() == 441
    assert np.isnan(targets.target[~targets.valid]).all() and (targets.target[targets.valid] > 0).all()
    train = targets.valid[targets.dates <= np.datetime64('2022-12-31'), 3]
    assert (len(train), train.sum()) == (231, 221)


def _table(**changes) -> pa.Table:
    columns = {
        'date': pa.array(_weekdays(40)).cast(pa.timestamp('ms')),
        'daily_rv': pa.array(np.full(40, 0.2)),
        'a_forward_column': pa.array(np.full(40, 9.0)),
    }
    columns.update(changes)
    return pa.table({k: v for k, v in columns.items() if v is not None})


@pytest.fixture
def write(tmp_path):
    def write(**changes):
        path = tmp_path / 'rv.parquet'
        pq.write_table(_table(**changes), path)
        return path

    return write


def test_the_own_column_of_the_horizon_is_used_and_no_other(write):
    path = write(rv_5d_forward=pa.array([0.7] * 30 + [None] * 10))
    np.testing.assert_array_equal(read_targets(path, (5,)).target[:, 0], [0.7] * 30 + [np.nan] * 10)
    with pytest.raises(InputError) as error:
        read_targets(path, (5, 10))
    assert str(error.value).startswith(
        f"{path}, column 'rv_10d_forward': no such column; the forward columns are: rv_5d_forward. Set "
        '--config.data.compute_labels=true'
    )
    targets = read_targets(path, (5, 10), compute_labels=True)
    for h, horizon in enumerate((5, 10)):
        computed = forward_rv(targets.dates, targets.daily_rv, horizon)[0]
        np.testing.assert_array_equal(targets.target[:, h], computed)


def test_an_option_that_the_own_column_does_not_have_is_computed(write):
    path = write(rv_5d_forward=pa.array(np.full(40, 0.7)))
    for options in ({'annualised': True}, {'days': 'trading'}, {'short_windows': 'drop'}, {'min_rows': 3}):
        targets = read_targets(path, (5,), **options)
        np.testing.assert_array_equal(
            targets.target[:, 0], forward_rv(targets.dates, targets.daily_rv, 5, **options)[0]
        )
        assert not (targets.target == 0.7).any()


@pytest.mark.parametrize('short_windows', ['keep', 'rescale'])
@pytest.mark.parametrize('annualised', [False, True])
@pytest.mark.parametrize('days', ['calendar', 'trading'])
def test_a_label_of_constant_volatility_is_the_root_of_its_steps(write, short_windows, annualised, days):
    dates = np.delete(_weekdays(60), [20, 21, 22, 23])[:40]
    options = {'short_windows': short_windows, 'annualised': annualised, 'days': days}
    targets = read_targets(write(date=pa.array(dates)), (5, 10), compute_labels=True, **options)
    v = targets.valid
    np.testing.assert_allclose(targets.target[v], 0.2 * np.sqrt(targets.steps[v]), rtol=1e-14)
    assert (targets.short & v).any() == (days == 'calendar')  # a trading window with too few rows has no label
    short = targets.short & v & (not annualised)
    usual = np.broadcast_to([5 * 252 / 365.25, 10 * 252 / 365.25], v.shape)[short]
    assert (targets.steps[short] == usual).all() == (short_windows == 'rescale' or not short.any())


def test_constant_volatility_is_its_own_annualised_label():
    values, _, _ = forward_rv(_weekdays(60), np.full(60, 0.2), 30, annualised=True)
    np.testing.assert_allclose(values[:38], 0.2, rtol=1e-14)


@pytest.mark.parametrize('kind', ['date32', 'text', 'csv'])
def test_dates_of_other_types_are_read(tmp_path, kind):
    table = _table()
    days = table['date'].cast(pa.date32())
    table = table.set_column(0, 'date', days.cast(pa.string()) if kind == 'text' else days)
    path = tmp_path / ('rv.csv' if kind == 'csv' else 'rv.parquet')
    (pacsv.write_csv if kind == 'csv' else pq.write_table)(table, path)
    np.testing.assert_array_equal(read_targets(path, (5,), compute_labels=True).dates, _weekdays(40))


def _swapped() -> pa.Array:
    dates = _weekdays(40)
    dates[[7, 8]] = dates[[8, 7]]
    return pa.array(dates)


def _repeated() -> pa.Array:
    dates = _weekdays(40)
    dates[12] = dates[11]
    return pa.array(dates)


def _rv(row: int, value: float | None) -> pa.Array:
    return pa.array([value if i == row else 0.2 for i in range(40)])


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'date': None}, "column 'date': no such column"),
        ({'daily_rv': None}, "column 'daily_rv': no such column"),
        ({'date': _swapped()}, "column 'date', row 8: 2022-02-10 comes after 2022-02-11"),
        ({'date': _repeated()}, "column 'date', row 12: 2022-02-16 is there twice"),
        ({'date': pa.array(range(20220201, 20220241))}, "column 'date': the type int64 holds no dates"),
        ({'date': pa.array(['Tuesday'] * 40)}, "column 'date': the type string holds no dates"),
        ({'date': pa.array([None, *_weekdays(39).tolist()])}, "column 'date', row 0: a missing value"),
        ({'daily_rv': _rv(5, None)}, "column 'daily_rv', row 5: a missing value"),
        ({'daily_rv': _rv(6, 0.0)}, "column 'daily_rv', row 6: 0.0 is no volatility"),
        ({'daily_rv': _rv(6, -0.1)}, "column 'daily_rv', row 6: -0.1 is no volatility"),
        ({'daily_rv': _rv(3, float('nan'))}, "column 'daily_rv', row 3: nan is no volatility"),
        ({'rv_5d_forward': _rv(4, float('inf'))}, "column 'rv_5d_forward', row 4: inf is no volatility"),
        ({'rv_5d_forward': pa.array([None] * 40, pa.float64())}, 'no day has a label 5 days ahead'),
    ],
)
def test_a_bad_file_is_refused_by_name(write, changes, message):
    with pytest.raises(InputError) as error:
        read_targets(write(**changes), (5,), compute_labels='rv_5d_forward' not in changes)
    assert message in str(error.value) and 'rv.parquet' in str(error.value)


@pytest.mark.parametrize('options', [{'days': 'weeks'}, {'short_windows': 'zero'}, {'min_rows': 0}])
def test_unknown_choices_are_refused(options):
    with pytest.raises(InputError, match='Choose one of|start at 1'):
        forward_rv(_weekdays(5), np.full(5, 0.2), 3, **options)


def test_horizons_are_given_once(write):
    for horizons in ((), (5, 5)):
        with pytest.raises(InputError, match='horizons'):
            read_targets(write(), horizons)
