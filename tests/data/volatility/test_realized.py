"""From ticks and bars to the file of realised volatility: sessions, clocks, bad files, and the file itself."""

import datetime
import shutil
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fjq.data.volatility import estimators
from fjq.data.volatility.realized import MEASURES, ComputeRv, Prices, compute_rv, measure_day, read_bars
from fjq.data.volatility.targets import forward_rv, read_targets
from fjq.errors import InputError
from fjq.parallel import Parallel

NEW_YORK = ZoneInfo('America/New_York')
INLINE = Parallel(workers=1)
SECOND = 10**9
DAY = datetime.date(2022, 3, 10)
AFTER_DST = datetime.date(2022, 3, 14)  # clocks went forward on the 13th
HALF_DAY = datetime.date(2022, 11, 25)


def _instant(date: datetime.date, clock: str) -> int:
    return int(datetime.datetime.fromisoformat(f'{date}T{clock}').replace(tzinfo=NEW_YORK).timestamp()) * SECOND


def _ticks(date: datetime.date, seed: int = 0, count: int = 5000, opens: str = '09:30:00') -> Prices:
    """Trades at random times of a regular session, with noise."""
    rng = np.random.Generator(np.random.Philox(seed))
    time = _instant(date, opens) + np.sort(rng.integers(0, 23_400 * SECOND, count))
    price = 400 * np.exp(
        0.01 * rng.standard_normal(count).cumsum() / np.sqrt(count) + 1e-4 * rng.standard_normal(count)
    )
    return Prices(time, price)


@given(
    seed=st.integers(0, 2**32 - 1),
    scale=st.floats(1e-4, 1e4),
    days=st.integers(-30, 30),
    name=st.sampled_from(MEASURES),
)
@settings(max_examples=40, deadline=None)
def test_the_unit_of_the_price_and_the_date_do_not_matter(seed, scale, days, name):
    options = ComputeRv(measure=name, session='all', min_share=0)
    date, other = datetime.date(2022, 6, 15), datetime.date(2022, 6, 15) + datetime.timedelta(days=days)
    prices = _ticks(date, seed, 800)
    here = measure_day(prices, date, options)
    there = measure_day(Prices(prices.time + days * 86_400 * SECOND, prices.price * scale), other, options)
    np.testing.assert_allclose(there.variance, here.variance, rtol=1e-8)
    assert (there.ticks, there.returns, there.left_out) == (here.ticks, here.returns, '')


@pytest.mark.parametrize('name', MEASURES)
def test_the_new_york_session_moves_with_the_clock(name):
    """The same wall-clock day before and after the change: in UTC they are 95 hours apart, not 96."""
    before, after = _ticks(DAY), _ticks(AFTER_DST)
    assert after.time[0] - before.time[0] == 95 * 3600 * SECOND
    options = ComputeRv(measure=name)
    assert measure_day(before, DAY, options)[1:] == measure_day(after, AFTER_DST, options)[1:]


@pytest.mark.parametrize(
    ('clock', 'nanoseconds', 'counts'),
    [('09:30:00', -1, False), ('09:30:00', 0, True), ('16:00:00', 0, True), ('16:00:00', 1, False)],
)
def test_the_session_holds_both_its_ends(clock, nanoseconds, counts):
    prices = _ticks(DAY)
    extra = _instant(DAY, clock) + nanoseconds
    at = np.searchsorted(prices.time, extra)
    wild = Prices(np.insert(prices.time, at, extra), np.insert(prices.price, at, 800.0))
    without, day = (measure_day(p, DAY, ComputeRv(measure='tick_sum')) for p in (prices, wild))
    assert (day.ticks == without.ticks + 1) == counts
    assert (day.variance != without.variance) == counts


def test_a_half_day_ends_at_one():
    prices = _ticks(HALF_DAY)
    day = measure_day(prices, HALF_DAY, ComputeRv())
    one = _instant(HALF_DAY, '13:00:00')
    assert day.ticks == (prices.time <= one).sum() and day.returns == 42


def test_a_hand_made_day():
    """Prices 100, 102, 101 at 09:30, 11:00 and 14:00: two returns whatever the grid."""
    prices = Prices(
        np.array([_instant(DAY, c) for c in ('09:30:00', '11:00:00', '14:00:00')]), np.array([100.0, 102, 101])
    )
    expected = np.log(1.02) ** 2 + np.log(101 / 102) ** 2
    for options in (
        ComputeRv(min_share=0),
        ComputeRv(min_share=0, measure='tick_sum'),
        ComputeRv(min_share=0, offset=300),
    ):
        day = measure_day(prices, DAY, options)
        np.testing.assert_allclose(day.variance, expected, rtol=1e-12)
        assert (day.first, day.last, day.ticks) == (100, 101, 3)
    assert 'under 50%' in measure_day(prices, DAY, ComputeRv()).left_out
    flat = Prices(prices.time, np.full(3, 100.0))
    assert 'not positive' in measure_day(flat, DAY, ComputeRv(min_share=0)).left_out
    assert 'no price' in measure_day(prices, AFTER_DST, ComputeRv()).left_out


def test_the_two_scale_measure_picks_its_slow_scale_from_sparse_returns():
    prices = _ticks(DAY)
    noise = 1e-3 * np.random.Generator(np.random.Philox(9)).standard_normal(len(prices.price))
    prices = Prices(prices.time, prices.price * np.exp(noise))
    ticks, minutes = np.log(prices.price), _instant(DAY, '09:30:00') + np.arange(391) * 60 * SECOND
    slow = estimators.slow_scale(
        ticks, estimators.realized_quarticity(estimators.sample_prices(prices.time, ticks, minutes), 5)
    )
    assert slow > 10
    day = measure_day(prices, DAY, ComputeRv(measure='two_scale'))
    assert day.variance == estimators.two_scale_variance(ticks, slow)


def _write_day(root, date, prices, ticker='SPY'):
    """A daily file in the stock schema with a second ticker between."""
    count = len(prices.time)
    table = pa.table(
        {
            'ticker': [ticker, 'QQQ'] * count,
            'price': np.repeat(prices.price, 2) * np.tile([1, 0.7], count),
            'size': np.full(2 * count, 100.0),
            'sip_timestamp': np.repeat(prices.time, 2),
        }
    )
    pq.write_table(table, root / f'{date}.parquet')


@pytest.fixture(scope='module')
def market(tmp_path_factory):
    """12 sessions of trades of SPY and a holiday file without it."""
    root = tmp_path_factory.mktemp('trades')
    dates = np.busday_offset(DAY, np.arange(12)).astype('datetime64[D]').tolist()
    for i, date in enumerate(dates):
        _write_day(root, date, _ticks(date, seed=i, count=2000))
    holiday = dates[-1] + datetime.timedelta(days=1)
    _write_day(root, holiday, _ticks(holiday, count=500), ticker='IWM')
    return root, dates


def test_the_file_has_the_known_schema_and_its_labels(market, tmp_path, capsys):
    root, dates = market
    table = compute_rv(ComputeRv(root=str(root), horizons=(1, 10, 30)), INLINE)
    forwards = [f'rv_{h}d_forward' for h in (1, 10, 30)]
    assert table.column_names == ['date', 'daily_rv', 'n_ticks', 'n_returns', *forwards]
    types = {str(table.schema.field(n).type) for n in ('date', 'daily_rv', 'n_ticks', 'n_returns', *forwards)}
    assert types == {'timestamp[ms]', 'double', 'int64'}
    assert table['date'].to_pylist() == [datetime.datetime.combine(d, datetime.time()) for d in dates]
    daily_rv = table['daily_rv'].to_numpy()
    direct = [measure_day(_ticks(d, i, 2000), d, ComputeRv()) for i, d in enumerate(dates)]
    np.testing.assert_allclose(daily_rv, [np.sqrt(252 * d.variance) for d in direct], rtol=1e-12)
    assert table['n_ticks'].to_pylist() == [d.ticks for d in direct]
    for h, name in zip((1, 10, 30), forwards, strict=True):
        expected = forward_rv(np.array(dates, 'datetime64[D]'), daily_rv, h)[0]
        np.testing.assert_array_equal(table[name].to_numpy(), expected)
        assert table[name].null_count == np.isnan(expected).sum()
    assert 'days left out, no tick of SPY: 1' in capsys.readouterr().out
    pq.write_table(table, tmp_path / 'rv.parquet')
    assert read_targets(tmp_path / 'rv.parquet', (10,)).valid.sum() == 12 - table['rv_10d_forward'].null_count


def test_two_processes_give_the_same_table(market):
    options = ComputeRv(root=str(market[0]), measure='two_scale')
    assert compute_rv(options, Parallel(workers=2)).equals(compute_rv(options, INLINE))


def test_a_bad_file_stops_or_is_counted(market, tmp_path, capsys):
    root, dates = market
    shutil.copytree(root, tmp_path / 'trades')
    (tmp_path / 'trades' / f'{dates[3]}.parquet').write_bytes(b'no parquet')
    options = ComputeRv(root=str(tmp_path / 'trades'))
    with pytest.raises(InputError, match=str(dates[3])):
        compute_rv(options, INLINE)
    options.on_bad_file = 'skip'
    assert compute_rv(options, INLINE).num_rows == 11
    assert 'days left out, a bad file' in capsys.readouterr().out


def test_overnight_returns_need_a_known_close(market):
    root, dates = market
    session = compute_rv(ComputeRv(root=str(root)), INLINE)
    both = compute_rv(ComputeRv(root=str(root), overnight=True), INLINE)
    assert both['date'].to_pylist() == session['date'].to_pylist()[1:]
    days = [_ticks(d, i, 2000).price for i, d in enumerate(dates)]
    nights = [np.log(b[0] / a[-1]) ** 2 for a, b in zip(days, days[1:], strict=False)]
    added = (both['daily_rv'].to_numpy() ** 2 - session['daily_rv'].to_numpy()[1:] ** 2) / 252
    np.testing.assert_allclose(added, nights, rtol=1e-6)


def test_a_hole_in_the_data_is_no_night_and_a_split_is_an_error(tmp_path, capsys):
    dates = [datetime.date(2022, 3, d) for d in (10, 11, 21, 22)]
    for i, date in enumerate(dates):
        prices = _ticks(date, i, 2000)
        _write_day(tmp_path, date, Prices(prices.time, prices.price / (2 if date.day == 22 else 1)))
    options = ComputeRv(root=str(tmp_path), overnight=True)
    with pytest.raises(InputError, match='over the night to 2022-03-22'):
        compute_rv(options, INLINE)
    (tmp_path / '2022-03-22.parquet').unlink()
    assert compute_rv(options, INLINE)['date'].to_pylist() == [datetime.datetime(2022, 3, 11)]
    assert 'days left out, no close before it: 2' in capsys.readouterr().out


def test_the_tick_sum_comes_with_a_warning(market, capsys):
    compute_rv(ComputeRv(root=str(market[0]), measure='tick_sum'), INLINE)
    assert 'tick_sum adds up the noise' in capsys.readouterr().out


@pytest.mark.parametrize(
    ('fields', 'message'),
    [
        ({'root': ''}, "column 'root'"),
        ({'kind': 'candles'}, "column 'kind'"),
        ({'measure': 'best'}, 'variance, bipower, two_scale, tick_sum'),
        ({'session': 'night'}, "column 'session'"),
        ({'zone': 'New York'}, "column 'zone': no time zone"),
        ({'offset': 70}, "column 'offset'"),
        ({'interval': 0}, "column 'interval'"),
        ({'days_per_year': 0}, "column 'days_per_year'"),
        ({'days_per_year': -1}, "column 'days_per_year'"),
        ({'min_share': 2}, "column 'min_share'"),
        ({'horizons': ()}, "column 'horizons'"),
        ({'horizons': (0,)}, "column 'horizons'"),
        ({'ticker': 'DIA'}, "no day of 'DIA' is left"),
        ({'bar_time': 'middle'}, "column 'bar_time': .* Choose one of start, end"),
    ],
)
def test_options_without_a_meaning_are_refused(market, fields, message):
    with pytest.raises(InputError, match=message):
        compute_rv(ComputeRv(**{'root': str(market[0]), **fields}), INLINE)


def test_bars_give_the_returns_of_their_opens_and_closes(tmp_path):
    """Three bars of 5 minutes, and the price jumps between two of them."""
    path = tmp_path / 'bars.csv'
    rows = [
        '2022-03-10 09:30:00,100,104,99,101',
        '2022-03-10 09:35:00,102,103,98,100',
        '2022-03-10 09:40:00,100,100,97,98',
    ]
    path.write_text('\n'.join(['Datetime,Open,High,Low,Close', *rows]) + '\n')
    table = compute_rv(ComputeRv(root=str(path), kind='bars', min_share=0, offset=300, horizons=(30,)), INLINE)
    closes = np.log([100, 101, 100, 98])
    np.testing.assert_allclose(table['daily_rv'].to_numpy() ** 2 / 252, [(np.diff(closes) ** 2).sum()], rtol=1e-12)
    start, end = (read_bars(path, ComputeRv(bar_time=s)) for s in ('start', 'end'))
    np.testing.assert_array_equal(start.time - end.time, 300 * SECOND)
    np.testing.assert_array_equal(start.price, [100, 101, 102, 100, 100, 98])
    assert start.time[0] == _instant(DAY, '09:30:00') + 1 and start.time[1] == _instant(DAY, '09:35:00')


def test_the_last_close_of_a_whole_day_is_at_midnight(tmp_path):
    path = tmp_path / 'bars.csv'
    path.write_text(
        'time,open,close\n2022-03-10 23:50:00,100,101\n2022-03-10 23:55:00,101,105\n2022-03-11 00:00:00,105,106\n'
    )
    options = ComputeRv(root=str(path), kind='bars', session='all', min_share=0, offset=300, horizons=(30,))
    daily_rv = compute_rv(options, INLINE)['daily_rv'].to_numpy()
    expected = [np.log(1.01) ** 2 + np.log(105 / 101) ** 2, np.log(106 / 105) ** 2]
    np.testing.assert_allclose(daily_rv**2 / 252, expected, rtol=1e-12)


@pytest.mark.parametrize('layout', ['milliseconds', 'databento', 'minutes and days', 'headless'])
def test_bars_of_any_layout_give_one_volatility(tmp_path, layout):
    """Whatever the unit of their stamps and prices: one reader for all."""
    count, date = 78, datetime.date(2022, 3, 10)
    time = _instant(date, '09:30:00') + 300 * SECOND * np.arange(count)
    walk = np.round(
        400 * np.exp(np.cumsum(1e-3 * np.random.Generator(np.random.Philox(1)).standard_normal(count + 1))), 2
    )
    plain = {'open': walk[:-1], 'high': np.maximum(walk[:-1], walk[1:]), 'low': np.minimum(walk[:-1], walk[1:])}
    plain |= {'close': walk[1:], 'volume': np.ones(count)}
    fixed = {n: np.round(v * 1e9).astype(np.int64) for n, v in plain.items() if n != 'volume'}
    local = [f'{datetime.datetime.fromtimestamp(t / 1e9, NEW_YORK):%Y-%m-%d %H:%M:%S}' for t in time]
    tables = {
        'milliseconds': {'timestamp': time // 10**6, 'open': plain['open'], 'close': plain['close']},
        'databento': {'ts_event': time, 'instrument_id': [7] * count, **fixed, 'volume': [1] * count},
        'minutes and days': {'Date': [t[:10] for t in local], 'Time': [t[11:] for t in local], **plain},
        'headless': {'time': local, **plain},
    }
    path = tmp_path / 'bars.csv'
    pacsv.write_csv(pa.table(tables[layout]), path, pacsv.WriteOptions(include_header=layout != 'headless'))
    options = ComputeRv(root=str(path), kind='bars', offset=300, horizons=(30,))
    np.testing.assert_allclose(read_bars(path, options).price, np.repeat(walk, 2)[1:-1], rtol=1e-12)
    table = compute_rv(options, INLINE)
    assert table['date'].to_pylist() == [datetime.datetime(2022, 3, 10)]
    np.testing.assert_allclose(table['daily_rv'].to_numpy() ** 2 / 252, [(np.diff(np.log(walk)) ** 2).sum()], rtol=1e-6)


def test_columns_that_are_not_needed_may_hold_anything(tmp_path):
    """As of indices, whose files have no volume, or a column of dashes, and lows above their opens."""
    path = tmp_path / 'bars.csv'
    rows = ''.join(f'2022-03-10 09:{minute}:00,20,{low},21,-\n' for minute, low in ((30, 19), (31, 20.5), (32, '')))
    path.write_text('time,open,low,close,volume\n' + rows)
    np.testing.assert_array_equal(read_bars(path, ComputeRv()).price, [20, 21] * 3)


def test_bars_of_an_hour_that_comes_twice(tmp_path):
    path = tmp_path / 'bars.csv'
    path.write_text('time,open,close\n' + ''.join(f'2022-11-06 {c}:00,1,1\n' for c in ('01:00', '01:30') * 2))
    time = read_bars(path, ComputeRv()).time
    np.testing.assert_array_equal(
        time[::2], _instant(datetime.date(2022, 11, 6), '01:00:00') + np.arange(4) * 1800 * SECOND + 1
    )


def test_ninjatrader_text_is_utc_at_the_end_of_the_bar(tmp_path):
    path = tmp_path / 'spy.csv'
    path.write_text('20220310 143100;10;12;9;11;5\n20220310 143200;11.5;12;9;11;5\n20220310 143300;11;12;9;11;5\n')
    bars = read_bars(path, ComputeRv())
    np.testing.assert_array_equal(bars.time[::2], _instant(DAY, '09:30:00') + 60 * SECOND * np.arange(3) + 1)
    np.testing.assert_array_equal(bars.price, [10, 11, 11.5, 11, 11, 11])


def test_integer_times_are_utc_and_other_tickers_stay_out(tmp_path):
    times = [_instant(DAY, c) for c in ('09:30:00', '09:31:00', '09:32:00')]
    columns = {
        'window_start': np.repeat(times, 2),
        'open': [5.0, 7.0] * 3,
        'close': [5.5, 7.5] * 3,
        'ticker': ['A', 'B'] * 3,
    }
    pq.write_table(pa.table(columns), tmp_path / 'bars.parquet')
    bars = read_bars(tmp_path / 'bars.parquet', ComputeRv(ticker='B'))
    np.testing.assert_array_equal(bars.price, [7, 7.5] * 3)
    assert bars.time[1] == _instant(DAY, '09:31:00')
    with pytest.raises(InputError, match="no bar of 'C'"):
        read_bars(tmp_path / 'bars.parquet', ComputeRv(ticker='C'))


@pytest.mark.parametrize(
    ('rows', 'message'),
    [
        (
            ['2022-03-10 09:30:00,1,1', '2022-03-10 09:30:00,1,1'],
            "column 'time', row 1: the stamp is that of the bar before",
        ),
        (['2022-03-10 09:30:00,1,1', '2022-03-10 09:31:00,0,1'], "column 'open', row 1: 0 is no price"),
        (['2022-03-10 09:30:00,1,', '2022-03-10 09:31:00,1,1'], "column 'close', row 0: a missing value"),
        (['2022-03-10 09:30:00,1,1'], 'one bar alone'),
    ],
)
def test_bad_bars_are_refused_by_row(tmp_path, rows, message):
    path = tmp_path / 'bars.csv'
    path.write_text('\n'.join(['time,open,close', *rows]) + '\n')
    with pytest.raises(InputError, match=message):
        read_bars(path, ComputeRv())


def test_a_table_without_bars_and_broken_text_are_refused(tmp_path):
    (tmp_path / 'other.csv').write_text('day,value\n1,2\n')
    with pytest.raises(InputError, match='other.csv: no column is a time'):
        read_bars(tmp_path / 'other.csv', ComputeRv())
    (tmp_path / 'ninja.csv').write_text('20220310 093000;1;1;1;1;5\n20220310 0931xx;1;1;1;1;5\n')
    with pytest.raises(InputError, match='ninja.csv'):
        read_bars(tmp_path / 'ninja.csv', ComputeRv())


def test_real_spy_minutes(data_dir, tmp_path):
    """43 sessions: sampling faster or slower moves the mean volatility by a few percent, and the measures agree."""
    for path in sorted((data_dir / 'bars').glob('spy_minute_2011*.csv')):
        (tmp_path / path.name).symlink_to(path)

    def volatility(**fields):
        return compute_rv(ComputeRv(root=str(tmp_path), kind='bars', **fields), INLINE)['daily_rv'].to_numpy()

    five = volatility()
    assert len(five) == 43 and 0.05 < five.min() and five.max() < 0.30
    others = {
        'one minute': {'interval': 60, 'offset': 60},
        'bipower': {'measure': 'bipower'},
        'two': {'measure': 'two_scale'},
    }
    for name, fields in others.items():
        ratio = volatility(**fields) / five
        assert 0.9 < np.median(ratio) < 1.1, name
        assert 0.7 < ratio.min() and ratio.max() < 1.4, name


def test_the_real_index_files_and_their_holiday(data_dir, tmp_path, capsys):
    for name in ('2022-02-18', '2022-02-21', '2022-02-22'):
        (tmp_path / f'{name}.parquet').symlink_to(data_dir / 'tcn' / 'index_data' / '2022' / f'{name}.parquet')
    table = compute_rv(ComputeRv(root=str(tmp_path), stream='index', ticker='SPX'), INLINE)
    assert [d.day for d in table['date'].to_pylist()] == [18, 22]
    assert table['n_ticks'].to_pylist() == [390, 390]  # 391 minutes, the first of which shows 0
    assert 0.1 < table['daily_rv'].to_numpy().min() and table['daily_rv'].to_numpy().max() < 0.4
    assert 'no tick of SPX: 1' in capsys.readouterr().out
