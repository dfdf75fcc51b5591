"""Ticks from files of every accepted schema, and every fault said with file, column and row."""

import datetime
import gzip
import zoneinfo

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest

from fjq.data.clock import day_bounds
from fjq.data.source import DayFile, list_days
from fjq.data.ticks.files import TickFiles, check_files, read_day, read_tickers, split_table
from fjq.errors import InputError

DATE = datetime.date(2022, 2, 1)
OPEN = 1643725800 * 10**9  # 09:30 in New York
SEC = 10**9
STOCKS = TickFiles(stream='stocks')


def trades(**changes) -> dict:
    columns = {
        'ticker': ['B', 'B', 'A', 'A'],
        'price': [10.0, 10.5, 20.0, 0.25],
        'size': [100, 200, 300, 400],
        'sip_timestamp': [OPEN + 5 * SEC, OPEN + 1, OPEN + 5 * SEC, OPEN],
    }
    return {**columns, **changes}


def save(tmp_path, columns, name='2022-02-01.parquet') -> DayFile:
    pq.write_table(pa.table(columns), tmp_path / name)
    return DayFile(datetime.date.fromisoformat(name[:10]), tmp_path / name)


def rows_of(ticks) -> list[tuple]:
    size = ticks.size if ticks.size is not None else [None] * len(ticks.time)
    return [
        (ticks.names[c], int(t), float(p), s)
        for c, t, p, s in zip(ticks.ticker, ticks.time, ticks.price, size, strict=True)
    ]


def refused(file, files=STOCKS) -> str:
    with pytest.raises(InputError) as e:
        read_day(file, files)
    assert str(file.path) in str(e.value) and '\n' not in str(e.value)
    return str(e.value).removeprefix(str(file.path))


def test_trades_come_in_the_order_of_time_and_ticker(tmp_path):
    ticks, report = read_day(save(tmp_path, trades()), STOCKS)
    assert rows_of(ticks) == [
        ('A', OPEN, 0.25, 400.0),
        ('B', OPEN + 1, 10.5, 200.0),
        ('A', OPEN + 5 * SEC, 20.0, 300.0),
        ('B', OPEN + 5 * SEC, 10.0, 100.0),
    ]
    assert ticks.ticker.dtype == np.int32 and ticks.time.dtype == np.int64
    assert (report.rows, report.kept, report.tickers, report.zero_prices, report.unsorted) == (4, 4, 2, 0, 2)
    assert (report.first, report.last) == (OPEN, OPEN + 5 * SEC)


def test_equal_ticks_keep_the_order_of_the_file(tmp_path):
    price = np.arange(1.0, 101.0)
    file = save(
        tmp_path, trades(ticker=['A'] * 100, price=price, size=price, sip_timestamp=[OPEN + 1] * 50 + [OPEN] * 50)
    )
    assert read_day(file, STOCKS)[0].price.tolist() == [*price[50:], *price[:50]]


def test_polygon_trades_with_every_column(tmp_path):
    head = (
        'ticker,conditions,correction,exchange,id,participant_timestamp,price,sequence_number,sip_timestamp,size,tape,'
        'trf_id,trf_timestamp\n'
    )
    line = '{},"{}",{},11,{},0,{},1,{},{},1,0,0\n'
    rows = [
        ('AAA', '12,37', 0, 10.0, OPEN + 3, '10.000000'),
        ('AAA', '', '', 10.1, OPEN + 2, '0.001500'),
        ('AAA', '37,2', 0, 99.0, OPEN + 1, '1'),  # average price
        ('AAA', '', 1, 99.0, OPEN + 1, '1'),  # corrected
        ('NA', '14', 0, 5.0, OPEN, '7'),  # a ticker that looks like a missing value
        ('BBB', '53', 8, 99.0, OPEN, '7'),  # both: counted once
    ]
    text = head + ''.join(line.format(t, c, k, i, p, s, z) for i, (t, c, k, p, s, z) in enumerate(rows))
    with gzip.open(tmp_path / '2022-02-01.csv.gz', 'wt') as f:
        f.write(text)
    ticks, report = read_day(DayFile(DATE, tmp_path / '2022-02-01.csv.gz'), STOCKS)
    assert rows_of(ticks) == [('NA', OPEN, 5.0, 7.0), ('AAA', OPEN + 2, 10.1, 0.0015), ('AAA', OPEN + 3, 10.0, 10.0)]
    assert report.dropped == {'ticker': 0, 'correction': 2, 'condition': 1, 'price': 0, 'session': 0}
    everything = TickFiles(stream='stocks', keep_corrections=(0, 1, 8), drop_conditions=())
    assert read_day(DayFile(DATE, tmp_path / '2022-02-01.csv.gz'), everything)[1].kept == 6


@pytest.mark.parametrize(
    'conditions',
    [
        pa.array(['209', '201,209', '', None]),
        pa.array(['209', '201,209', '', None]).dictionary_encode(),
        pa.array([[209], [209, 201], [], None], pa.list_(pa.uint8())),
        pa.array([209, 201, None, None], pa.int16()),
    ],
    ids=['text', 'dictionary', 'lists', 'integers'],
)
def test_conditions_in_every_form(tmp_path, conditions):
    columns = trades(conditions=conditions, ticker=['O:MU240119C00080000'] * 4, correction=[0, 0, 0, 0])
    report = read_day(save(tmp_path, columns), TickFiles(stream='options'))[1]
    assert report.dropped['condition'] == 1 and report.kept == 3


def test_conditions_that_are_no_codes_are_refused(tmp_path):
    assert "column 'conditions'" in refused(save(tmp_path, trades(conditions=['12', '@', '', ''])))


def test_index_of_the_seed_is_wall_clock_of_new_york(tmp_path):
    for date, hours in (('2022-02-01', 5), ('2022-03-14', 4)):  # before and after the change of clocks
        wall = np.array([f'{date}T16:00', f'{date}T09:30', f'{date}T09:29:59', f'{date}T16:00:01'], 'datetime64[us]')
        file = save(tmp_path, {'ticker': ['VIX'] * 4, 'timestamp': wall, 'price': [4.0, 3, 2, 1]}, f'{date}.parquet')
        ticks, _ = read_day(file, TickFiles())
        assert ticks.size is None and ticks.price.tolist() == [2.0, 3, 4, 1]
        expected = np.sort(wall.astype('datetime64[ns]').astype(np.int64)) + hours * 3600 * SEC
        assert ticks.time.tolist() == expected.tolist()
        regular, report = read_day(file, TickFiles(session='regular'))
        assert regular.price.tolist() == [3.0, 4.0] and report.dropped['session'] == 2


def test_polygon_index_values(tmp_path):
    text = f'ticker,value,timestamp\nI:SPX,4500.5,{OPEN}\nI:VIX,20.5,{OPEN}\n'
    (tmp_path / '2022-02-01.csv').write_text(text)
    ticks, _ = read_day(DayFile(DATE, tmp_path / '2022-02-01.csv'), TickFiles())
    assert rows_of(ticks) == [('SPX', OPEN, 4500.5, None), ('VIX', OPEN, 20.5, None)]
    ticks, report = read_day(DayFile(DATE, tmp_path / '2022-02-01.csv'), TickFiles(), ('VIX',))
    assert rows_of(ticks) == [('VIX', OPEN, 20.5, None)] and report.dropped['ticker'] == 1


@pytest.mark.parametrize('unit', ['s', 'ms', 'us', 'ns'])
@pytest.mark.parametrize('zone', [None, 'UTC', 'Asia/Tokyo'])
def test_every_unit_and_zone_of_timestamps(tmp_path, unit, zone):
    utc = datetime.datetime(2022, 2, 1, 15, 0, tzinfo=datetime.UTC)
    value = utc if zone else utc.astimezone(zoneinfo.ZoneInfo('Europe/Berlin')).replace(tzinfo=None)
    stamp = pa.array([value], pa.timestamp(unit, zone))
    file = save(tmp_path, {'ticker': ['A'], 'timestamp': stamp, 'price': [1.0]})
    assert read_day(file, TickFiles(zone='Europe/Berlin'))[0].time.tolist() == [int(utc.timestamp()) * SEC]


def test_the_time_column_can_be_named(tmp_path):
    file = save(tmp_path, {'ticker': ['A'], 'when': [OPEN], 'price': [1.0]})
    assert read_day(file, TickFiles(time_column='when'))[0].time.tolist() == [OPEN]
    assert "column 'timestamp': no such column" in refused(file, TickFiles())


BAD_CELLS = {
    'null price': ({'price': [1.0, 2.0, None, 4.0]}, "column 'price', row 2: the cell is empty"),
    'negative price': ({'price': [1.0, -2.0, 3.0, 4.0]}, "column 'price', row 1: -2.0 is negative"),
    'infinite price': ({'price': [1.0, 2.0, 3.0, np.inf]}, "column 'price', row 3: inf"),
    'nan price': ({'price': [np.nan, 2.0, 3.0, np.inf]}, "column 'price', row 0: nan"),
    'null size': ({'size': [1, None, 3, 4]}, "column 'size', row 1: the cell is empty"),
    'negative size': ({'size': [1, 2, 3, -4]}, "column 'size', row 3: -4.0 is negative"),
    'null ticker': ({'ticker': ['A', 'B', None, 'B']}, "column 'ticker', row 2: the cell is empty"),
    'empty ticker': ({'ticker': ['A', 'B', '', 'B']}, "column 'ticker', row 2: the cell is empty"),
    'null time': ({'sip_timestamp': [OPEN, None, OPEN, OPEN]}, "column 'sip_timestamp', row 1: the cell is empty"),
    'text time': ({'sip_timestamp': ['a', 'b', 'c', 'd']}, "column 'sip_timestamp': the type is string, not time"),
    'text price': ({'price': ['1', '2', '3', 'x']}, "column 'price', row 3: 'x' is no number"),
    'number ticker': ({'ticker': [1, 2, 3, 4]}, "column 'ticker': the type is int64, not text"),
    'other day': ({'sip_timestamp': [OPEN, OPEN, OPEN + 86400 * SEC, OPEN]}, "column 'sip_timestamp', row 2: the time"),
    'day before': (
        {'sip_timestamp': [OPEN - 86400 * SEC] * 4},
        '2022-01-31T14:30:00.000000000 UTC is not of 2022-02-01',
    ),
    'microseconds': ({'sip_timestamp': [OPEN // 1000] * 4}, 'integers are ns since 1970 UTC'),
}


@pytest.mark.parametrize('case', BAD_CELLS)
def test_bad_cells_name_column_and_row(tmp_path, case):
    changes, expected = BAD_CELLS[case]
    assert expected in refused(save(tmp_path, trades(**changes)))


@pytest.mark.parametrize('column', ['ticker', 'price', 'size', 'sip_timestamp'])
def test_a_missing_column_is_named(tmp_path, column):
    columns = trades()
    del columns[column]
    assert f'column {column!r}: no such column' in refused(save(tmp_path, columns))


def test_bad_rows_are_counted_in_the_file_whatever_was_left_out(tmp_path):
    columns = trades(correction=[1, 0, 0, 0], price=[-1.0, 2.0, 3.0, -4.0])
    assert 'row 3: -4.0' in refused(save(tmp_path, columns))
    file = save(tmp_path, trades(price=[1.0, 2.0, 3.0, -4.0]))
    with pytest.raises(InputError, match='row 3: -4.0'):
        read_day(file, STOCKS, ('A',))
    assert read_day(file, STOCKS, ('B',))[1].dropped['ticker'] == 2


def test_a_day_where_no_row_counts_is_empty(tmp_path):
    ticks, report = read_day(save(tmp_path, trades()), STOCKS, ('ABSENT',))
    assert len(ticks.time) == len(ticks.size) == report.kept == 0 and report.dropped['ticker'] == 4


def test_list_of_tickers(tmp_path):
    (tmp_path / 'top.txt').write_text('# train_end=2022-01-31\nMSFT\n\n AAPL \n')
    assert read_tickers(tmp_path / 'top.txt') == ('MSFT', 'AAPL')
    assert read_tickers('') is None
    (tmp_path / 'index.txt').write_text('I:VIX\nSPX\n')
    assert read_tickers(tmp_path / 'index.txt', 'index') == ('VIX', 'SPX')
    (tmp_path / 'none.txt').write_text('\n')
    (tmp_path / 'twice.txt').write_text('A\nB\nA\n')
    for name, what in (('absent.txt', 'no such file'), ('none.txt', 'no ticker'), ('twice.txt', "'A' is there twice")):
        with pytest.raises(InputError, match=what):
            read_tickers(tmp_path / name)
    with pytest.raises(InputError, match='--job=top_stocks'):
        read_tickers(tmp_path / 'absent.txt', 'stocks')


@pytest.mark.parametrize('field', ['stream', 'session', 'on_bad_file', 'zone'])
def test_unknown_choices_are_refused(field):
    with pytest.raises(InputError, match=f"column '{field}': .*'Nowhere'"):
        check_files(TickFiles(**{field: 'Nowhere'}))
    check_files(TickFiles())


def test_the_regular_session_of_a_half_day_ends_at_one(tmp_path):
    wall = np.array(['2022-11-25T09:30', '2022-11-25T13:00', '2022-11-25T13:01'], 'datetime64[us]')
    file = save(tmp_path, {'ticker': ['VIX'] * 3, 'timestamp': wall, 'price': [1.0, 2, 3]}, '2022-11-25.parquet')
    ticks, report = read_day(file, TickFiles(session='regular'))
    assert ticks.price.tolist() == [1.0, 2.0] and report.dropped['session'] == 1


def test_an_hour_that_comes_twice_is_the_first_whatever_the_order_of_the_file(tmp_path):
    wall = np.array(['2022-11-06T00:30', '2022-11-06T01:30', '2022-11-06T03:00'] * 2, 'datetime64[us]')
    columns = {'ticker': ['B'] * 3 + ['A'] * 3, 'timestamp': wall, 'price': np.arange(1.0, 7)}
    ticks, _ = read_day(save(tmp_path, columns, '2022-11-06.parquet'), TickFiles())
    assert ticks.price.tolist() == [4.0, 1, 5, 2, 6, 3]
    assert np.diff(ticks.time[::2]).tolist() == [3600 * SEC, 5400 * SEC + 3600 * SEC]


@pytest.mark.parametrize('naive', [True, False])
def test_a_table_of_several_days_is_split_by_new_york_days(tmp_path, naive):
    wall = np.array(['2022-03-11T19:30', '2022-03-14T09:30', '2022-03-11T09:30'], 'datetime64[us]')
    utc = np.array(['2022-03-12T00:30', '2022-03-14T13:30', '2022-03-11T14:30'], 'datetime64[ns]').astype(np.int64)
    table = pa.table({'ticker': ['B', 'A', 'A'], 'timestamp': wall if naive else utc, 'price': [1.0, 2.0, 3.0]})
    days = split_table(table, TickFiles())
    assert [t.date.isoformat() for t, _ in days] == ['2022-03-11', '2022-03-14']
    assert days[0][0].time.tolist() == [utc[2], utc[0]] and days[1][0].time.tolist() == [utc[1]]
    assert [r.rows for _, r in days] == [2, 1]
    assert [len(t.time) for t, _ in split_table(table, TickFiles(), ('A',))] == [1, 1]
    if naive:  # the evening of a Friday in New York is a Saturday in UTC
        saturday = table.set_column(1, 'timestamp', pa.array(utc.astype('datetime64[ns]').astype('datetime64[us]')))
        there = split_table(saturday, TickFiles(zone='UTC'))
        assert [t.time.tolist() for t, _ in there] == [t.time.tolist() for t, _ in days]
    with pytest.raises(InputError, match="the table, column 'price', row 1: the cell is empty"):
        split_table(table.set_column(2, 'price', pa.array([1.0, None, 2.0])), TickFiles())


def test_real_files_are_sound(data_dir):
    days = list_days(data_dir / 'tcn' / 'index_data')
    assert len(days) == 43
    reports = [read_day(d, TickFiles())[1] for d in days[:3]]
    assert [r.rows for r in reports] == [r.kept for r in reports] and all(r.tickers in range(883, 900) for r in reports)
    assert all(r.first == day_bounds(r.date)[0] + 34_200 * SEC for r in reports)
    holiday = read_day(next(d for d in days if d.date == datetime.date(2022, 2, 21)), TickFiles())[1]
    assert (holiday.rows, holiday.tickers) == (129_030, 330)


def test_a_trade_at_no_price_is_left_out_and_counted_an_index_may_have_none_yet(tmp_path):
    ticks, report = read_day(save(tmp_path, trades(price=[10.0, 0.0, 20.0, 0.25])), STOCKS)
    assert (report.kept, report.dropped['price'], report.zero_prices) == (3, 1, 0) and (ticks.price > 0).all()
    index = {'ticker': ['VIX', 'VIX'], 'timestamp': [OPEN, OPEN + 1], 'price': [0.0, 20.0]}
    report = read_day(save(tmp_path, index), TickFiles())[1]
    assert (report.kept, report.dropped['price'], report.zero_prices) == (2, 0, 1)


@pytest.mark.parametrize(
    'correction',
    [
        pa.array([0.0, None, float('nan'), 1.0]),
        pa.array(['0', None, '0', '1']),
        pa.array(['0.0', None, '0.0', '1.0']).dictionary_encode(),
    ],
    ids=['floats', 'text', 'float text'],
)
def test_corrections_may_be_whole_floats_and_text(tmp_path, correction):
    report = read_day(save(tmp_path, trades(correction=correction)), STOCKS)[1]
    assert (report.kept, report.dropped['correction']) == (3, 1)
    pacsv.write_csv(pa.table(trades(correction=correction.cast(pa.string()))), tmp_path / '2022-02-01.csv')
    assert read_day(DayFile(DATE, tmp_path / '2022-02-01.csv'), STOCKS)[1].dropped['correction'] == 1
    bad = trades(correction=[0.0, 0.5, 0.0, 0.0])
    assert "column 'correction', row 1: 0.5 is no whole number" in refused(save(tmp_path, bad))


def test_a_column_that_is_there_twice_is_refused(tmp_path):
    twice = pa.table(trades()).append_column('price', pa.array([1.0] * 4))
    pq.write_table(twice, tmp_path / '2022-02-01.parquet')
    assert "column 'price': the column is there twice" in refused(DayFile(DATE, tmp_path / '2022-02-01.parquet'))
    pacsv.write_csv(twice, tmp_path / '2022-02-01.csv')
    assert "column 'price': the column is there twice" in refused(DayFile(DATE, tmp_path / '2022-02-01.csv'))
    with pytest.raises(InputError, match="column 'price': the column is there twice"):
        split_table(twice, STOCKS)


def test_one_index_in_two_spellings_is_refused(tmp_path):
    columns = {'ticker': ['I:SPX', 'SPX', 'VIX'], 'timestamp': [OPEN, OPEN, OPEN], 'price': [1.0, 1.0, 20.0]}
    file = save(tmp_path, columns)
    assert "column 'ticker': I:SPX and SPX are one index" in refused(file, TickFiles())
    ticks = read_day(file, TickFiles(), ('VIX',))[0]  # the others are not read
    assert ticks.names == ('SPX', 'VIX') and ticks.ticker.tolist() == [1]


def test_times_in_another_unit_are_said_before_anything_else():
    micro = pa.table(trades(sip_timestamp=[OPEN // 1000] * 4))
    with pytest.raises(InputError, match="column 'sip_timestamp', row 0: .* is of 1970-01-19. Give .* nanoseconds"):
        split_table(micro, STOCKS)
