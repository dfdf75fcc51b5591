"""The simulator's index values, bars, volatility file and table: the real files' schemas and quirks, and the truth."""

import datetime

import numpy as np
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest

from fjq.data.synthetic import scaled, simulate, table

DAYS = 16  # reach past the holiday of 2022-02-21
WHAT = ('index', 'spy', 'rv', 'bars', 'daily', 'vix', 'table')


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    return simulate(tmp_path_factory.mktemp('market'), scaled('tiny', days=DAYS, what=WHAT, index_symbols=60, seed=7))


def first_line(path) -> str:
    with open(path, encoding='utf-8') as file:
        return file.readline()


def day_file(folder, date='2022-02-03', suffix='.parquet'):
    return next(folder.rglob(f'{date}{suffix}'))


def test_index_has_the_real_schema(made, data_dir):
    ours = pq.ParquetFile(day_file(made['index'])).schema
    real = pq.ParquetFile(data_dir / 'tcn' / 'index_data' / '2022' / '2022-02-03.parquet').schema
    assert made['index'].name == 'index_data' and day_file(made['index']).parent.name == '2022'
    assert ours.to_arrow_schema().remove_metadata() == real.to_arrow_schema().remove_metadata()
    assert [(c.name, c.physical_type, str(c.logical_type)) for c in map(ours.column, range(3))] == [
        (c.name, c.physical_type, str(c.logical_type)) for c in map(real.column, range(3))
    ]


def read_index(path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rows = pq.read_table(path)
    return rows['ticker'].to_numpy(), rows['timestamp'].to_numpy(), rows['price'].to_numpy()


def test_index_blocks_wrap_and_zeros_lead(made):
    ticker, time, price = read_index(day_file(made['index']))
    names, counts = np.unique(ticker, return_counts=True)
    assert (counts == 391).all() and len(names) >= 58
    starts = np.flatnonzero(ticker[1:] != ticker[:-1]) + 1
    assert len(starts) == len(names)  # one run more than symbols, since one is cut
    assert ticker[0] == ticker[-1] and time[0] == time[-1] + np.timedelta64(1, 'm')
    assert (names != ticker[np.sort(np.unique(ticker, return_index=True)[1])]).any()  # not in alphabetical order
    grid = np.datetime64('2022-02-03T09:30', 'us') + np.arange(391) * np.timedelta64(1, 'm')
    order = np.lexsort((time, ticker))
    np.testing.assert_array_equal(time[order].reshape(-1, 391), np.tile(grid, (len(names), 1)))
    value = dict(zip(names, price[order].reshape(-1, 391), strict=True))
    zero = np.array(list(value.values())) == 0
    assert (zero[:, 1:] <= zero[:, :-1]).all()  # never 0 after a first print
    assert 0.2 < zero.mean() < 0.4 and 0.15 < zero.all(1).mean() < 0.35
    assert value['SPX'][0] == 0 < value['SPX'][1] and value['VIX'][0] > 0 and not value['SKEW'].any()
    assert min(names) == 'AMBTX' and len(set(value['AMBTX'])) == 1 and value['AMBTX'][0] > 0
    still = np.diff(np.array(list(value.values())), axis=1) == 0
    assert 0.35 < still.mean() < 0.75
    assert np.mean(np.diff(value['TNX']) == 0) > 0.5 > 0.1 > np.mean(np.diff(value['SPX']) == 0)


def test_holiday_has_a_file_without_spx(made):
    day, holiday = read_index(day_file(made['index'])), read_index(day_file(made['index'], '2022-02-21'))
    assert not {'SPX', 'VIX'} & set(holiday[0]) and any('BTC' in name for name in holiday[0])
    assert len(set(holiday[0])) < len(set(day[0])) / 2 and (holiday[2] > 0).all()
    assert len(list(made['index'].rglob('*.parquet'))) == DAYS + 1


def test_index_symbols_follow_the_market(made):
    ticker, time, price = read_index(day_file(made['index']))
    order = np.lexsort((time, ticker))
    value = dict(zip(np.unique(ticker), price[order].reshape(-1, 391), strict=True))
    spx, xsp, vix = value['SPX'][1:], value['XSP'], value['VIX'][1:]
    shown = xsp > 0
    np.testing.assert_allclose(xsp[shown][1:], value['SPX'][shown][1:] / 10, rtol=2e-3)
    assert np.corrcoef(np.diff(np.log(spx[::5])), np.diff(np.log(vix[::5])))[0, 1] < -0.3
    assert 5 < vix.min() < vix.max() < 80


def test_half_day_stands_still_after_the_close(tmp_path):
    market = scaled('tiny', start='2022-11-25', days=1, what=('index', 'spy'))
    made = simulate(tmp_path, market)
    ticker, time, price = read_index(day_file(made['index'], '2022-11-25'))
    spx = price[ticker == 'SPX'][np.argsort(time[ticker == 'SPX'])]
    assert len(np.unique(spx[212:])) == 1 < len(np.unique(spx[150:211]))
    last = pq.read_table(day_file(made['spy'], '2022-11-25'))['sip_timestamp'].to_numpy()[-1]
    assert np.datetime64(int(last), 'ns') < np.datetime64('2022-11-25T22:00')  # 17:00 in New York


def test_smallest_index(tmp_path):
    made = simulate(tmp_path, scaled('tiny', start='2022-02-18', days=2, what=('index',), index_symbols=2))
    assert [len(read_index(path)[0]) for path in sorted(made['index'].rglob('*.parquet'))] == [782, 391, 782]


def test_large_index_has_visitors_and_row_groups(tmp_path):
    made = simulate(tmp_path, scaled('tiny', start='2022-02-17', days=3, what=('index',), index_symbols=500))
    *names, holiday = (set(read_index(day_file(made['index'], f'2022-02-{day}'))[0]) for day in (17, 18, 22, 21))
    assert 0.25 < len(holiday) / len(names[0]) < 0.5
    assert len(set.union(*names)) > max(map(len, names)) and len(set.intersection(*names)) < min(map(len, names))
    assert pq.ParquetFile(day_file(made['index'], '2022-02-22')).num_row_groups == 2


def test_realised_volatility_file(made, data_dir):
    ours, real = (pq.read_table(p) for p in (made['rv'], data_dir / 'tcn' / 'spy_daily_rv.parquet'))
    assert ours.schema.remove_metadata() == real.schema.remove_metadata()
    rows = ours.to_pylist()
    last = rows[DAYS - 1]['date']
    assert rows[-1]['date'] == datetime.datetime(2022, 3, 25) == last + datetime.timedelta(days=30)
    for i, row in enumerate(rows):
        after = [r for r in rows if row['date'] < r['date'] <= row['date'] + datetime.timedelta(days=30)]
        expected = np.sqrt(sum(r['daily_rv'] ** 2 for r in after)) if len(after) >= 10 else None
        assert row['rv_30d_forward'] == (pytest.approx(expected, rel=1e-12) if expected else None)
        if i < DAYS:
            file = made['spy'] / f'{row["date"]:%Y-%m-%d}.parquet'
            assert row['n_ticks'] == pq.read_metadata(file).num_rows == row['n_returns'] + 1


def test_daily_volatility_estimates_the_truth(tmp_path):
    made = simulate(tmp_path, scaled('tiny', days=250, what=('rv',), seed=3))
    rv = pq.read_table(made['rv'])['daily_rv'].to_numpy() ** 2 / 252
    truth = pq.read_table(made['truth'] / 'spy_variance.parquet').to_pandas()
    variation = truth.integrated_variance + truth.jump_variance
    assert np.mean(rv / variation) == pytest.approx(1, abs=4 * np.sqrt(2 / 78 / len(rv)) + 0.02)
    assert np.corrcoef(np.log(rv), np.log(variation))[0, 1] > 0.9
    row = 40
    window = truth[(truth.date > truth.date[row]) & (truth.date <= truth.date[row] + np.timedelta64(30, 'D'))]
    assert truth.forward_variance_30d[row] == pytest.approx((window.integrated_variance + window.jump_variance).sum())
    minutes = pq.read_table(made['truth'] / 'spy_minutes.parquet').to_pandas()
    sums = minutes.groupby(minutes.timestamp.dt.date).spot_variance.sum()
    np.testing.assert_allclose(sums, truth.integrated_variance[:250], rtol=1e-12)


def test_future_bars(made, data_dir):
    ours, real = made['bars'] / 'NQ_5min.csv', data_dir / 'bars' / 'NQ_5min.csv'
    assert first_line(ours) == first_line(real)
    bars = pacsv.read_csv(ours).to_pandas()
    assert len(bars) == DAYS * 276 and (bars.symbol == 'NQ').all() and bars.datetime.is_monotonic_increasing
    hour, weekday = bars.datetime.dt.hour, bars.datetime.dt.day_of_week
    assert (hour != 17).all() and not ((weekday == 4) & (hour >= 17)).any() and not (weekday == 5).any()
    assert ((weekday != 6) | (hour >= 18)).all() and (weekday == 6).any()
    assert (bars.high >= bars[['open', 'close']].max(axis=1)).all()
    assert (bars.low <= bars[['open', 'close']].min(axis=1)).all()
    assert (bars[['open', 'high', 'low', 'close']] % 0.25 == 0).all(axis=None) and (bars.volume >= 0).all()
    np.testing.assert_array_equal(bars.open[1:276], bars.close[:275])


def test_bars_have_their_true_variance(tmp_path):
    made = simulate(tmp_path, scaled('tiny', days=60, what=('bars',)))
    bars = pacsv.read_csv(made['bars'] / 'ES_5min.csv').to_pandas()
    truth = pq.read_table(made['truth'] / 'ES_bars.parquet').to_pandas()
    assert (truth.timestamp == bars.datetime).all()
    hour = bars.datetime.dt.hour
    noise = 2 * (0.25**2 / 12) / bars.close**2  # of two roundings to a quarter
    z = np.log(bars.close / bars.open) / np.sqrt(truth.variance + noise)
    for inside in ((hour >= 10) & (hour < 15), (hour >= 19) & (hour < 23)):
        assert z[inside].clip(-5, 5).std() == pytest.approx(1, abs=0.05)  # jumps clipped
    spread = (np.log(bars.high / bars.low) ** 2 / (4 * np.log(2)))[(hour >= 10) & (hour < 15)]  # Parkinson, 1980
    assert spread.mean() == pytest.approx(truth.variance[(hour >= 10) & (hour < 15)].mean(), rel=0.12)


def test_daily_bars_and_vix(made, data_dir):
    assert first_line(made['daily'] / 'SPY.csv') == 'Date,Open,High,Low,Close,Adj Close,Volume\n'
    assert first_line(made['vix']) == first_line(data_dir / 'daily' / 'vix-daily.csv')
    assert len(list(made['daily'].iterdir())) == 4
    bars = pacsv.read_csv(made['daily'] / 'SPY.csv').to_pandas()
    assert len(bars) == DAYS and (bars.High >= bars[['Open', 'Close']].max(axis=1)).all()
    truth = pq.read_table(made['truth'] / 'spy_variance.parquet').to_pandas()[:DAYS]
    np.testing.assert_allclose(np.log(bars.Close / bars.Open), truth.session_return, atol=5e-5)
    vix = pacsv.read_csv(made['vix']).to_pandas()
    assert (vix.HIGH >= vix[['OPEN', 'CLOSE']].max(axis=1)).all() and str(vix.DATE[2]) == '2022-02-03'
    ticker, time, price = read_index(day_file(made['index']))
    shown = price[ticker == 'VIX'][np.argsort(time[ticker == 'VIX'])]
    assert (vix.OPEN[2], vix.CLOSE[2]) == (shown[0], pytest.approx(shown[-1], rel=0.02))


def test_table_has_clean_paths_and_a_signal(made):
    seen = table.simulate_table(0, 8990)
    assert len(seen.names) == 94 and seen.names == sorted(seen.names)
    missing = np.isnan(seen.observed)
    assert (missing[1:] <= missing[:-1]).all() and 0.1 < missing.mean() < 0.5 and not missing[-1].any()
    kinds = np.array([name[0] for name in seen.names])
    assert set(np.unique(seen.observed[:, kinds == 'D'])) == {0, 1}
    grid = [np.allclose(x * 1512, np.round(x * 1512)) for x in seen.observed[-500:, kinds != 'D'].T]
    assert 20 < sum(grid) < 55
    noise = np.where(missing, np.nan, seen.observed - seen.clean)[:, kinds != 'D']
    share = np.nanvar(noise, 0) / np.nanvar(seen.observed[:, kinds != 'D'], 0)
    assert 0.05 < np.median(share) < 0.6 and share.max() > 0.5
    drivers = [seen.names.index(name) for name in seen.drivers]
    x = seen.clean[:, drivers]
    x = (x - x.mean(0)) / x.std(0)
    fitted = x @ np.array(list(seen.drivers.values()))
    t = np.corrcoef(fitted, seen.targets[:, 0])[0, 1] * np.sqrt(len(x))
    assert t > 5
    few = table.simulate_table(0, 500)
    np.testing.assert_array_equal(few.clean, seen.clean[:500])
    header = first_line(made['table']).strip().split(',')
    assert header[0] == 'date_id' and header[-3:] == list(table.TARGETS) and header[1:-3] == seen.names
    written = pacsv.read_csv(made['table'])
    assert written.num_rows == 400
    clean = pq.read_table(made['truth'] / 'table_clean.parquet')
    np.testing.assert_array_equal(clean['M1'], table.simulate_table(7, 400).clean[:, seen.names.index('M1')])
    ours = np.array(written['M1'].to_numpy(), float)
    np.testing.assert_array_equal(ours, table.simulate_table(7, 400).observed[:, seen.names.index('M1')])
