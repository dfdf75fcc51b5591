"""The simulator's stock and option trades: Polygon's schema and dirt, prices of the known variance."""

import csv
import datetime
import gzip
import re

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from scipy.optimize import brentq

from fjq.data.source import list_days
from fjq.data.synthetic import scaled, simulate
from fjq.data.synthetic.options import black_scholes, expiries
from fjq.data.synthetic.volatility import implied_vol, latent
from fjq.data.ticks.conditions import DROPPED, has_condition
from fjq.data.ticks.files import TickFiles, read_day

POLYGON_STOCKS = (
    'ticker,conditions,correction,exchange,id,participant_timestamp,price,sequence_number,sip_timestamp,size,tape,'
    'trf_id,trf_timestamp'
)
POLYGON_OPTIONS = 'ticker,conditions,correction,exchange,price,sip_timestamp,size'
TEXT = ('ticker', 'conditions', 'id')
STREAM_OF = {'options': 'options', 'options_seed': 'options'}


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    layouts = ('polygon_csv', 'seed', 'polygon_parquet')
    market = scaled('tiny', days=3, what=('stocks', 'options', 'spy'), layouts=layouts, seed=7)
    return simulate(tmp_path_factory.mktemp('market'), market)


def day_file(folder, date='2022-02-03', suffix='.parquet'):
    return next(folder.rglob(f'{date}{suffix}'))


def read_gzip(path) -> list[str]:
    with gzip.open(path, 'rt', encoding='utf-8') as file:
        return file.read().splitlines()


def test_stock_csv_is_polygons(made):
    path = day_file(made['stocks'], suffix='.csv.gz')
    assert path.parts[-5:-1] == ('us_stocks_sip', 'trades_v1', '2022', '02')
    text = read_gzip(path)
    assert text[0] == POLYGON_STOCKS
    line = re.compile(r'[A-Z]+,(|\d+|"\d+(,\d+)+"),\d+,\d+,\d+,\d{19},\d+(\.\d+)?,\d+,\d{19},\d+\.\d{6},[123],\d+,\d+')
    assert all(line.fullmatch(row) for row in text[1:])
    assert any('.000000' not in row for row in text[1:]) and any(',,0,' in row for row in text[1:])


def test_layouts_hold_the_same_prints(made):
    text = list(csv.DictReader(read_gzip(day_file(made['stocks'], suffix='.csv.gz'))))
    full = pq.read_table(day_file(made['stocks_polygon_parquet'])).to_pylist()
    seed = pq.read_table(day_file(made['stocks_seed'])).to_pylist()
    assert len(text) == len(full) == len(seed) > 1000
    assert ','.join(full[0]) == POLYGON_STOCKS and list(seed[0]) == ['ticker', 'price', 'size', 'sip_timestamp']
    for a, b, c in zip(text, full, seed, strict=True):
        assert {k: b[k] for k in c} == c
        assert all(type(b[k])(v) == pytest.approx(b[k], abs=5e-7, rel=0) for k, v in a.items() if k not in TEXT)
        assert all(b[k] == a[k] for k in TEXT)


def test_the_reader_of_ticks_takes_every_stream(made):
    for stream in ('stocks', 'stocks_seed', 'options', 'options_seed', 'spy'):
        day = list_days(made[stream])[1]
        ticks, report = read_day(day, TickFiles(root=str(made[stream]), stream=STREAM_OF.get(stream, 'stocks')))
        assert day.date == ticks.date == datetime.date(2022, 2, 2) and len(ticks.price) > 500
        assert len(ticks.names) >= (1 if stream == 'spy' else 8)


def test_prints_are_in_order_and_from_everywhere(made):
    rows = pq.read_table(day_file(made['stocks_polygon_parquet']))
    ticker, sip, number = (rows[k].to_numpy() for k in ('ticker', 'sip_timestamp', 'sequence_number'))
    assert list(dict.fromkeys(ticker)) == sorted(set(ticker)) and len(set(ticker)) == 8
    same = ticker[1:] == ticker[:-1]
    assert (np.diff(sip)[same] >= 0).all() and (np.diff(number)[same] > 0).all()
    assert (rows['participant_timestamp'].to_numpy() < sip).all()
    first, last = np.array(['2022-02-03T09:00', '2022-02-04T01:00'], 'datetime64[ns]').astype(int)  # 04:00 to 20:00
    assert (sip >= first).all() and (sip < last).all() and len(np.unique(sip % 1_000_000_000)) > 0.99 * len(sip)
    opening, close = np.array(['2022-02-03T14:30', '2022-02-03T21:00'], 'datetime64[ns]').astype(int)
    outside = (sip < opening) | (sip >= close)
    marked = has_condition(rows['conditions'], (12, 13), 'x')
    usual = ~has_condition(rows['conditions'], (2,), 'x')
    np.testing.assert_array_equal(outside[usual], marked[usual])
    assert 0.01 < outside.mean() < 0.1
    size, code = rows['size'].to_numpy(), has_condition(rows['conditions'], (37,), 'x')
    assert (size[code] < 100).all() and 0.3 < (size < 100).mean() < 0.7
    trf, exchange = rows['trf_id'].to_numpy(), rows['exchange'].to_numpy()
    np.testing.assert_array_equal(trf > 0, exchange == 4)
    np.testing.assert_array_equal(rows['trf_timestamp'].to_numpy() > 0, exchange == 4)
    assert set(trf) == {0, 201, 202} and 0.3 < (trf == 0).mean() < 0.8


@pytest.fixture(scope='module')
def spy(tmp_path_factory):
    """Many SPY prints of few days."""
    return simulate(tmp_path_factory.mktemp('spy'), scaled('tiny', days=8, what=('spy', 'rv'), spy_ticks=60_000))


def test_faults_are_marked_and_matter(spy):
    for path in sorted(spy['spy'].glob('*.parquet'))[:3]:
        rows = pq.read_table(path)
        price = rows['price'].to_numpy()
        late = has_condition(rows['conditions'], (33, 13), 'x')
        average = has_condition(rows['conditions'], (2,), 'x')
        wrong = rows['correction'].to_numpy() != 0
        assert set(rows['correction'].to_numpy()) <= {0, 1, 8, 12}
        good = ~(late | average | wrong)
        assert 0.002 < late.mean() < 0.006 and 0 < average.mean() < 0.002 and 0 < wrong.mean() < 0.001
        near = np.interp(np.arange(len(price)), np.flatnonzero(good), price[good])
        error = np.abs(np.log(price / near))
        assert np.median(error[wrong]) > 20 * np.median(error[~good & ~wrong])
        assert np.mean(error[late]) > 10 * 0.01 / np.mean(price)  # ten spreads
        assert not has_condition(rows['conditions'].filter(pa.array(good)), DROPPED, 'x').any()
        for code in (17, 8):
            assert has_condition(rows['conditions'], (code,), 'x').sum() == 1


def test_realised_variance_of_clean_prints_is_the_truth(spy):
    truth = pq.read_table(spy['truth'] / 'spy_variance.parquet').to_pylist()
    ratios, dirty = [], []
    for path, row in zip(sorted(spy['spy'].glob('*.parquet')), truth, strict=False):
        rows = pq.read_table(path)
        drop = has_condition(rows['conditions'], DROPPED, path) | (rows['correction'].to_numpy() != 0)
        clock = rows['sip_timestamp'].to_numpy() - np.datetime64(f'{path.stem}T14:30', 'ns').astype(int)
        session = (clock >= 0) & (clock < 390 * 60e9)
        time, price = clock[session & ~drop], rows['price'].to_numpy()[session & ~drop]
        grid = np.log(price[np.searchsorted(time, np.arange(1, 391) * 60e9) - 1])
        variation = row['integrated_variance'] + row['jump_variance']
        ratios.append(np.sum(np.diff(grid) ** 2) / variation)
        dirty.append(np.sum(np.diff(np.log(rows['price'].to_numpy()[session])) ** 2) / variation)
    assert np.mean(ratios) == pytest.approx(1, abs=4 * np.sqrt(2 / 390 / len(ratios)) + 0.03)  # 3 %: bid, ask, cents
    assert np.mean(dirty) > 5


def test_stock_file_holds_the_spy_file(made):
    stocks = pq.read_table(day_file(made['stocks_polygon_parquet']))
    assert (
        stocks.filter(pc.equal(stocks['ticker'], 'SPY')).to_pydict() == pq.read_table(day_file(made['spy'])).to_pydict()
    )


def test_options_are_polygons_and_in_alphabetical_order(made):
    path = day_file(made['options'], suffix='.csv.gz')
    assert path.parts[-5:-1] == ('us_options_opra', 'trades_v1', '2022', '02')
    text = read_gzip(path)
    assert text[0] == POLYGON_OPTIONS
    assert all(
        re.fullmatch(r'O:[A-Z]+\d{6}[CP]\d{8},\d*,0,3\d\d,\d+(\.\d+)?,\d{19},\d+\.\d{6}', row) for row in text[1:]
    )
    rows = pq.read_table(day_file(made['options_polygon_parquet']))
    assert ','.join(rows.column_names) == POLYGON_OPTIONS and len(rows) == len(text) - 1
    seed = pq.read_table(day_file(made['options_seed']))
    assert seed.to_pydict() == rows.select(['ticker', 'price', 'size', 'sip_timestamp']).to_pydict()
    ticker = rows['ticker'].to_numpy()
    assert list(dict.fromkeys(ticker)) == sorted(set(ticker))


def implied(spot, strike, years, price):
    return brentq(lambda vol: black_scholes(1, spot, strike, years, vol) - price, 0.01, 2)


def test_implied_volatility_of_spy_trades_is_the_expected_one(tmp_path):
    market = scaled('tiny', days=3, what=('options', 'spy'), option_trades=20_000, spy_ticks=20_000)
    made = simulate(tmp_path, market)
    path, d = latent(market.origin, 30), 2
    trades = pq.read_table(day_file(made['options'])).to_pylist()
    spy = pq.read_table(day_file(made['spy'])).to_pandas()
    spy = spy[(spy.correction == 0) & ~spy.conditions.isin(['33', '13', '2'])]
    found = []
    for row in trades:
        parts = re.fullmatch(r'O:SPY(\d{6})C(\d{8})', row['ticker'])
        if not parts:
            continue
        expiry = datetime.datetime.strptime(parts[1], '%y%m%d').date()
        spot = spy.price.to_numpy()[np.searchsorted(spy.sip_timestamp.to_numpy(), row['sip_timestamp']) - 1]
        strike, years = int(parts[2]) / 1000, (expiry - path.dates[d]).days / 365
        if 10 < years * 365 < 50 and abs(np.log(strike / spot)) < 0.01:
            found.append(implied(spot, strike, years, row['price']))
    expected = implied_vol(market.origin, path.slow[d], path.fast[d], path.premium[d], [21])[0]
    assert len(found) > 30
    assert np.median(found) == pytest.approx(expected, rel=0.1)


def test_black_scholes_keeps_parity_and_a_known_price():
    call, put = (black_scholes(sign, 42.0, 40.0, 0.5, 0.2, rate=0.1) for sign in (1, -1))
    assert call == pytest.approx(4.7594, abs=5e-5) and put == pytest.approx(0.8086, abs=5e-5)  # Hull, example 15.6


def test_expiries_are_sessions_ahead():
    day = datetime.date(2022, 4, 11)
    found = expiries(day)
    assert datetime.date(2022, 4, 14) in found and datetime.date(2022, 4, 15) not in found  # Good Friday
    assert all(expiry > day for expiry in found) and datetime.date(2022, 6, 17) in found
