"""Candles: every layout to the same arrays, every fault named, counted, refused, repaired or dropped."""

import gzip

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fjq.data.candles.files import CandleFiles, digest, times_after
from fjq.errors import InputError
from fjq.parallel import Parallel

HERE = Parallel(workers=1)
DATES = ('2024-01-02', '2024-01-03', '2024-01-04', '2024-01-05')
ROWS = (
    (10.0, 11.0, 9.5, 10.5, 100),
    (10.6, 12.0, 10.4, 11.5, 200),
    (11.4, 11.6, 11.0, 11.1, 50),
    (11.0, 11.2, 9, 9.1, 70),
)


def write(path, lines):
    path.write_text('\n'.join(lines) + '\n')
    return path


def plain(dates=DATES, rows=ROWS, header='Date,Open,High,Low,Close,Volume'):
    return [header, *(f'{d},' + ','.join(f'{v}' for v in r) for d, r in zip(dates, rows, strict=True))]


def read(path, **settings):
    return CandleFiles(path=str(path), **settings).read(HERE)


def yahoo_download():
    head = ['Price,Adj Close,Close,High,Low,Open,Volume', 'Ticker,ABC,ABC,ABC,ABC,ABC,ABC', 'Date,,,,,,']
    return head + [f'{d},{c / 2},{c},{h},{lo},{o},{v}' for d, (o, h, lo, c, v) in zip(DATES, ROWS, strict=True)]


def by_ticker(lines):
    """The same download with group_by='ticker', whose first two header rows change places."""
    return [lines[1], lines[0], *lines[2:]]


LAYOUTS = {
    'plain': plain(),
    'upper case': plain(header='DATE,OPEN,HIGH,LOW,CLOSE,VOLUME'),
    'other order': [
        'date,close,high,low,open,volume',
        *(f'{d},{c},{h},{lo},{o},{v}' for d, (o, h, lo, c, v) in zip(DATES, ROWS, strict=True)),
    ],
    'offsets across a clock change': plain([f'{d} 00:00:00-0{5 - i % 2}:00' for i, d in enumerate(DATES)]),
    'newest first': [plain()[0], *plain()[:0:-1]],
    'three headers': yahoo_download(),
    'three headers, by ticker': by_ticker(yahoo_download()),
    'k-lines': plain([f'{d} 00:00:00' for d in DATES], header='timestamps,open,high,low,close,volume'),
    'no header': [f'{d.replace("-", "")} 000000;' + ';'.join(map(str, r)) for d, r in zip(DATES, ROWS, strict=True)],
    'no header, commas': plain()[1:],
    'unix seconds': plain(
        [int(np.datetime64(d, 's').astype(int)) for d in DATES], header='time,open,high,low,close,volume'
    ),
    'a name': [f'{line},{"symbol" if i == 0 else "XY"}' for i, line in enumerate(plain())],
}
NAMES = {'three headers': 'ABC', 'three headers, by ticker': 'ABC', 'a name': 'XY'}


@pytest.mark.parametrize('layout', LAYOUTS)
def test_every_layout_gives_the_same_candles(layout, tmp_path):
    (candles,) = read(write(tmp_path / 'ASSET_2024-01-02_2024-01-05_1d.csv', LAYOUTS[layout]))
    assert candles.id == NAMES.get(layout, 'ASSET')
    assert candles.time.dtype == 'datetime64[ns]' and [str(t)[:10] for t in candles.time] == list(DATES)
    np.testing.assert_array_equal(candles.ohlc(), np.array(ROWS)[:, :4])
    np.testing.assert_array_equal(candles.volume, np.array(ROWS)[:, 4])


def test_other_files(tmp_path):
    (text,) = read(write(tmp_path / 'A.csv', plain()))
    with gzip.open(tmp_path / 'B.csv.gz', 'wt') as f:
        f.write('\n'.join(plain()))
    prices = dict(zip(('Open', 'High', 'Low', 'Close'), text.ohlc().T, strict=True))
    table = pa.table({'Date': np.array(DATES, 'datetime64[ms]'), **prices})
    pq.write_table(table, tmp_path / 'C.parquet')
    (tmp_path / 'notes.md').write_text('no candles')
    assert [c.id for c in read(tmp_path)] == ['A', 'B', 'C'] and np.isnan(read(tmp_path)[2].volume).all()
    assert [c.id for c in read(tmp_path, assets=('C', 'A'))] == ['A', 'C']
    for c in read(tmp_path):
        np.testing.assert_array_equal(c.ohlc(), text.ohlc())
    (table,) = CandleFiles().from_table(table)
    np.testing.assert_array_equal(table.time, text.time)


def test_no_header_and_no_volume(tmp_path):
    (candles,) = read(write(tmp_path / 'A.csv', [line.rpartition(',')[0] for line in plain()[1:]]))
    np.testing.assert_array_equal(candles.ohlc(), np.array(ROWS)[:, :4])
    assert np.isnan(candles.volume).all()


def test_the_order_of_day_and_month_is_a_field_where_nothing_shows_it(tmp_path):
    path = write(tmp_path / 'A.csv', plain([f'{d[5:7]}/{d[8:]}/{d[:4]}' for d in DATES]))
    with pytest.raises(InputError, match="column 'Date', row 0: '01/02/2024' has its month or its day first"):
        read(path)
    (days,), (months,) = (read(path, date_order=order) for order in ('month', 'day'))
    assert [str(t)[:10] for t in days.time] == list(DATES)
    assert [str(t)[:10] for t in months.time] == ['2024-02-01', '2024-03-01', '2024-04-01', '2024-05-01']
    with pytest.raises(InputError, match="column 'date_order': 'year' is unknown. Choose auto, month, day"):
        read(path, date_order='year')


def test_several_assets_in_one_download(tmp_path):
    lines = ['Price,Close,Close,High,High,Low,Low,Open,Open', 'Ticker,A,B,A,B,A,B,A,B', 'Date,,,,,,,,']
    for d, (o, h, lo, c, _) in zip(DATES, ROWS, strict=True):
        lines.append(f'{d},{c},{2 * c},{h},{2 * h},{lo},{2 * lo},{o},{2 * o}')
    for layout in (lines, by_ticker(lines)):
        a, b = read(write(tmp_path / 'x.csv', layout))
        assert (a.id, b.id) == ('A', 'B')
        np.testing.assert_array_equal(2 * a.ohlc(), b.ohlc())


def test_moments_with_offsets_become_utc(tmp_path):
    dates = [f'{d} {h}:30:00{z}' for d, z in (('2024-03-08', '-05:00'), ('2024-03-11', '-04:00')) for h in ('09', '10')]
    (candles,) = read(write(tmp_path / 'A.csv', plain(dates)))
    assert [str(t)[11:16] for t in candles.time] == ['14:30', '15:30', '13:30', '14:30']


def test_adjusted_prices(tmp_path):
    (candles,) = read(write(tmp_path / 'A.csv', yahoo_download()), adjusted=True)
    np.testing.assert_allclose(candles.ohlc(), np.array(ROWS)[:, :4] / 2)
    with pytest.raises(InputError, match='adjusted=False'):
        read(write(tmp_path / 'B.csv', plain()), adjusted=True)


def with_cell(row, column, value):
    rows = [list(r) for r in ROWS]
    rows[row][column] = value
    return plain(rows=rows)


FAULTS = {
    'price': (with_cell(1, 0, 0), 1, 4, 3),
    'no close': (with_cell(1, 3, ''), 1, 3, 3),
    'high below low': (with_cell(2, 1, 10.9), 2, 4, 3),
    'outside': (with_cell(1, 3, 12.5), 1, 4, 3),
    'duplicate': (plain(DATES[:3] + DATES[2:3]), 3, 3, 3),
    'order': (plain((DATES[0], DATES[2], DATES[1], DATES[3])), 2, 4, 4),
    'gap': (plain((*DATES[:3], '2024-02-05')), 3, 4, 4),
    'split': (plain(rows=[*ROWS[:2], *[[v / 10 for v in r[:4]] + [r[4]] for r in ROWS[2:]]]), 2, 4, 2),
}


@pytest.mark.parametrize('fault', FAULTS)
def test_every_fault(fault, tmp_path, capsys):
    lines, row, repaired, dropped = FAULTS[fault]
    path = write(tmp_path / 'A.csv', lines)
    with pytest.raises(InputError, match=f'row {row}:') as error:
        read(path)
    assert str(path) in str(error.value) and error.value.remedy
    assert 'row 0 is the first below the header' in str(error.value) and ': A: ' in str(error.value)
    for quality, count in (('repair', repaired), ('drop', dropped)):
        capsys.readouterr()
        (candles,) = read(path, quality=quality)
        name = 'price' if fault == 'no close' else fault
        assert f'1 x {name}' in capsys.readouterr().out
        assert len(candles) == count and (np.diff(candles.time) > np.timedelta64(0, 'ns')).all()
        o, h, lo, c = candles.ohlc().T
        assert (0 < lo).all() and (lo <= np.minimum(o, c)).all() and (h >= np.maximum(o, c)).all()


def test_repairs(tmp_path):
    read_one = lambda lines: read(write(tmp_path / 'A.csv', lines), quality='repair')[0]
    assert read_one(with_cell(1, 0, 0)).open[1] == ROWS[0][3]  # the close before
    assert read_one(with_cell(1, 3, 12.5)).high[1] == 12.5
    assert read_one(plain(DATES[:3] + DATES[2:3])).close[-1] == ROWS[3][3]  # the last one counts
    split = read_one(FAULTS['split'][0])
    np.testing.assert_array_equal(split.ohlc()[:2], np.array(ROWS)[:2, :4])
    np.testing.assert_allclose(split.ohlc(), np.array(ROWS)[:, :4], rtol=1e-12)  # ten new shares are an old one
    np.testing.assert_allclose(split.volume[2:] / split.unit, np.array(ROWS)[2:, 4])
    assert split.unit == pytest.approx(0.1)


def walk(moves, split_at=None, ratio=1.0):
    """open and close of a walk by given moves of the close, with a split."""
    close = 100 * np.exp(np.cumsum(moves))
    opened = np.r_[100, close[:-1]]
    factor = np.where(np.arange(len(close)) >= split_at, 1 / ratio, 1.0) if split_at else 1.0
    return opened * factor, close * factor


@pytest.mark.parametrize('ratio', [1.5, 3.0, 1 / 4])
def test_a_split_is_found_by_what_came_before_it_alone(ratio):
    from fjq.data.candles.quality import find_splits

    rng = np.random.Generator(np.random.Philox(4))
    moves = np.r_[0.01 * rng.standard_normal(400), 0.3 * rng.standard_normal(900)]  # calm, then wild
    opened, close = walk(moves, 300, ratio)
    now = find_splits(opened[:350], close[:350])
    assert np.flatnonzero(now != 1).tolist() == [300] and now[300] == pytest.approx(1 / ratio)
    np.testing.assert_array_equal(find_splits(opened, close)[:350], now)


def test_repairing_a_split_changes_no_bit_before_it(tmp_path):
    rng = np.random.Generator(np.random.Philox(5))
    opened, close = walk(0.01 * rng.standard_normal(90), 60, 3.0)
    rows = np.stack(
        [opened, np.maximum(opened, close) * 1.002, np.minimum(opened, close) / 1.003, close, 0 * close], -1
    )
    dates = (np.datetime64('2024-01-01') + np.arange(90)).astype(str)
    early, whole = (read(write(tmp_path / 'A.csv', plain(dates[:n], rows[:n])), quality='repair')[0] for n in (60, 90))
    np.testing.assert_array_equal(whole.ohlc()[:60], early.ohlc())
    assert abs(np.diff(np.log(whole.close))[59]) < 0.05 and early.unit == 1
    np.testing.assert_allclose(whole.ohlc()[60:] * whole.unit, rows[60:, :4], rtol=1e-12)  # prices of today


def test_adjusted_rounding_is_clipped_and_counted(tmp_path, capsys):
    (candles,) = read(write(tmp_path / 'A.csv', with_cell(1, 3, 12.0000001)))
    assert candles.high[1] == candles.close[1] == 12.0000001 and '1 x rounding' in capsys.readouterr().out


def test_a_price_fault_names_its_column_and_asset(tmp_path):
    with pytest.raises(InputError, match=r"column 'low', row 2: A: a price is zero, negative or absent"):
        read(write(tmp_path / 'A.csv', with_cell(2, 2, -1)))


def test_rows_without_prices_are_no_candles_of_a_download_of_several_assets(tmp_path, capsys):
    """Before a listing, and on days that only the other asset trades."""
    lines = ['Price,Close,Close,High,High,Low,Low,Open,Open', 'Ticker,A,B,A,B,A,B,A,B', 'Date,,,,,,,,']
    for i, (d, (o, h, lo, c, _)) in enumerate(zip(DATES, ROWS, strict=True)):
        b = [c, h, lo, o] if i > 1 else [''] * 4
        lines.append(f'{d},{c},{b[0]},{h},{b[1]},{lo},{b[2]},{o},{b[3]}')
    a, b = read(write(tmp_path / 'x.csv', lines))
    assert len(a) == 4 and [str(t)[:10] for t in b.time] == list(DATES[2:])
    assert 'B: 2 x row without prices' in capsys.readouterr().out
    half = [*lines[:3], '2024-01-02,10,,11,,9,,10,', '2024-01-03,10,10,11,,9,,10,']
    with pytest.raises(InputError, match='row 1: B: a price is zero, negative or absent'):
        read(write(tmp_path / 'x.csv', half))


@pytest.mark.parametrize(
    ('columns', 'message'),
    [
        ({'close': pa.array([[1.0], [2.0]])}, "column 'close': its type is list"),
        ({'time': pa.array([1, 2], pa.time32('s'))}, "column 'time': its type is time32"),
        ({'time': pa.array([[1], [2]])}, "column 'time': its type is list"),
        ({'time': pa.array(np.array(['2024-01-01', '9999-01-01'], 'M8[s]'))}, r"row 1: '9999-01-01.* lies outside of"),
        ({'time': pa.array([1_700_000_000, 99_999_999_999])}, r"row 1: '99999999999' lies outside of"),
    ],
)
def test_columns_of_another_type_are_named(columns, message):
    prices = {n: [1.0, 2.0] for n in ('open', 'high', 'low', 'close')}
    table = pa.table({'time': ['2024-01-01', '2024-01-02']} | prices | columns)
    with pytest.raises(InputError, match=message):
        CandleFiles().from_table(table)


BAD = {
    'a word': (with_cell(2, 1, 'abc'), "column 'High', row 2: 'abc' is no number. Write it as 12.5"),
    'a date beyond the clock': (plain((*DATES[:3], '9999-12-31')), "row 3: '9999-12-31' lies outside of 1678 to 2261"),
    'a column twice': (
        plain(header='Date,Open,High,Low,Close,Close'),
        "column 'Close': it is there twice",
    ),
    'no date': (plain((*DATES[:3], '2024-13-05')), "column 'Date', row 3: '2024-13-05' is no time"),
    'no low': (['Date,Open,High,Close', '2024-01-02,1,1,1'], "column 'low': it is absent"),
    'no time': (['Open,High,Low,Close', '1,1,1,1'], 'no column is a time'),
    'only a header': (plain()[:1], 'it holds no candle'),
    'empty': ([''], 'the file is empty'),
    'ragged': ([*plain(), '2024-01-08,1'], 'can not be read'),
    'no header': (['2024-01-02;1;2'], '3 columns and no header'),
}


@pytest.mark.parametrize('name', BAD)
def test_bad_files_are_named(name, tmp_path):
    lines, message = BAD[name]
    path = write(tmp_path / 'A.csv', lines)
    with pytest.raises(InputError) as error:
        read(path)
    assert message in str(error.value) and str(path) in str(error.value)


def test_a_folder_with_one_bad_file(tmp_path, capsys):
    write(tmp_path / 'A.csv', plain())
    write(tmp_path / 'B.csv', BAD['a word'][0])
    with pytest.raises(InputError, match='B.csv'):
        read(tmp_path)
    assert [c.id for c in read(tmp_path, on_bad_file='skip')] == ['A']
    assert 'skipped: ' in capsys.readouterr().out
    with pytest.raises(InputError, match="no candles of 'AB'.*mean 'A'"):
        read(tmp_path, assets=('AB',), on_bad_file='skip')
    write(tmp_path / 'B.csv', BAD['a column twice'][0])
    assert [c.id for c in read(tmp_path, on_bad_file='skip')] == ['A']
    write(tmp_path / 'B.csv', [f'{line},{"symbol" if i == 0 else "A"}' for i, line in enumerate(plain())])
    with pytest.raises(InputError, match='A is in A.csv too'):
        read(tmp_path)
    with pytest.raises(InputError, match='there is no file of candles'):
        read(tmp_path / 'nothing')


def test_a_folder_with_other_things_beside_candles(tmp_path, capsys):
    """The original keeps its tokens beside the CSVs. What is no candle by its first line is named and left out."""
    write(tmp_path / 'A.csv', plain())
    write(tmp_path / 'B.CSV', plain())
    with gzip.open(tmp_path / 'C.Csv.GZ', 'wt') as f:
        f.write('\n'.join(plain()))
    pq.write_table(
        pa.table({'Date': DATES, **dict.fromkeys(('Open', 'High', 'Low', 'Close'), [1.0] * 4)}), tmp_path / 'D.PARQUET'
    )
    write(tmp_path / 'E.TXT', LAYOUTS['no header'])
    write(tmp_path / 'F.txt', plain())
    with gzip.open(tmp_path / 'G.CSV.GZ', 'wt') as f:
        f.write('\n'.join(LAYOUTS['no header']))
    ids = ['A', 'B', 'C', 'D', 'E', 'F', 'G']
    assert [c.id for c in read(tmp_path)] == ids and 'skipped' not in capsys.readouterr().out
    write(tmp_path / 'all_tokens.txt', ['80 81 83 89 66 ' * 2000])
    write(tmp_path / 'README.txt', ['Open, high, low and close of five assets,', 'a CSV each'])
    write(tmp_path / 'reconstructed_log_returns.txt', ['0.00100000', '-0.00200000'])
    write(tmp_path / 'tickers.txt', ['AAPL', 'MSFT'])
    write(tmp_path / 'empty.txt', [])
    (tmp_path / 'old.csv').mkdir()
    assert [c.id for c in read(tmp_path)] == ids
    (line,) = (line for line in capsys.readouterr().out.splitlines() if 'skipped' in line)
    for name in (
        'README.txt',
        'all_tokens.txt',
        'empty.txt',
        'old.csv',
        'reconstructed_log_returns.txt',
        'tickers.txt',
    ):
        assert name in line
    ragged = [*LAYOUTS['no header'], '20240108 000000;1']
    for name, lines in (
        ('G.txt', ragged),
        ('G.csv', ['80 81 83']),
    ):  # what should be candles and is not is no bystander
        write(tmp_path / name, lines)
        with pytest.raises(InputError, match=name):
            read(tmp_path)
        (tmp_path / name).unlink()
    with pytest.raises(InputError, match='1 columns and no header'):
        read(tmp_path / 'all_tokens.txt')


@pytest.mark.parametrize(
    ('times', 'ahead'),
    [
        (np.busday_offset('2024-01-01', np.arange(40)), ['2024-02-26', '2024-02-27', '2024-02-28']),  # after a Friday
        (np.datetime64('2024-01-01') + np.arange(40), ['2024-02-10', '2024-02-11', '2024-02-12']),
        (np.datetime64('2024-01-01') + 7 * np.arange(40), ['2024-10-07', '2024-10-14', '2024-10-21']),
        (
            (np.busday_offset('2024-01-01', np.arange(10))[:, None] + np.array([570, 750], 'm8[m]')).reshape(-1)[:-1],
            ['2024-01-12T12:30', '2024-01-15T09:30', '2024-01-15T12:30'],
        ),
        (np.array(['2024-01-05'], 'M8[D]'), ['2024-01-06', '2024-01-07', '2024-01-08']),
    ],
)
def test_the_times_of_the_next_candles(times, ahead):
    np.testing.assert_array_equal(times_after(times.astype('M8[ns]'), 3), np.array(ahead, 'M8[ns]'))


def test_the_digest_is_of_the_content(tmp_path):
    (a,), (b,) = (read(write(tmp_path / f'{n}.csv', lines)) for n, lines in (('A', plain()), ('B', yahoo_download())))
    assert digest([a]) != digest([b])  # the names differ
    (same,) = read(write(tmp_path / 'ABC.csv', plain()))
    assert digest([same]) == digest([b])
    assert digest([same.part(slice(0, 3))]) != digest([b])


@pytest.mark.parametrize(
    ('name', 'count', 'rows'),
    [('daily_ten', 10, 20_081), ('bars/NQ_5min.csv', 1, 13_767), ('bars/cn_5min.csv', 1, 2_500)],
)
def test_real_files(name, count, rows, data_dir):
    candles = read(data_dir / name)
    assert len(candles) == count and sum(map(len, candles)) == rows


def test_real_faults(data_dir):
    """The unadjusted Apple has four splits by a whole ratio; the early VIX an open outside of low and high."""
    with pytest.raises(InputError, match=r'split \(4 in all;'):
        read(data_dir / 'daily/WIKI-AAPL.csv')
    (repaired,) = read(data_dir / 'daily/WIKI-AAPL.csv', quality='repair')
    (adjusted,) = read(data_dir / 'daily/WIKI-AAPL.csv', adjusted=True)
    difference = np.diff(np.log(repaired.close)) - np.diff(np.log(adjusted.close))
    assert np.abs(difference).max() < 0.01  # dividends
    with pytest.raises(InputError, match='outside of low and high'):
        read(data_dir / 'daily/vix-daily.csv')
    assert len(read(data_dir / 'daily/vix-daily.csv', quality='repair')[0]) == 9_235
