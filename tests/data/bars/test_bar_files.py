"""The same bars in the layouts of all vendors, and one clear line for what is wrong with a file."""

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
from test_bars import make_bars

from fjq.data import source
from fjq.data.bars.files import BarFile
from fjq.data.clock import MINUTE
from fjq.errors import InputError

START = np.datetime64('2024-03-08T14:30', 'ns').astype(np.int64)
FIELDS = ('open', 'high', 'low', 'close', 'volume')


def rounded(count=40):
    """Bars with prices that every layout can write, over a weekend with a change of clocks."""
    time = START + MINUTE * np.concatenate([np.arange(count // 2), 3 * 1440 - 60 + np.arange(count // 2)])
    bars = make_bars(time)
    for name in FIELDS[:4]:
        getattr(bars, name)[:] = np.round(getattr(bars, name), 2)
    return bars


def columns(bars):
    return {n: getattr(bars, n) for n in FIELDS}


def new_york(bars):
    import pandas as pd

    return pd.DatetimeIndex(bars.time, tz='UTC').tz_convert('America/New_York').tz_localize(None)


def named_csv(bars, folder):
    pacsv.write_csv(
        pa.table(
            {'DateTime': pa.array(new_york(bars).astype('datetime64[s]')), **columns(bars), 'symbol': ['X'] * len(bars)}
        ),
        folder / 'x.csv',
    )
    return BarFile(path=str(folder / 'x.csv'))


def date_and_time(bars, folder):
    local = new_york(bars)
    table = {'Date': local.strftime('%Y-%m-%d'), 'Time': local.strftime('%H:%M:%S'), **columns(bars)}
    pacsv.write_csv(pa.table({n: pa.array(v) for n, v in table.items()}), folder / 'x.csv')
    return BarFile(path=str(folder / 'x.csv'))


def k_lines_at_the_end(bars, folder):
    stamps = (bars.time + MINUTE).astype('datetime64[ns]').astype('datetime64[s]')
    pacsv.write_csv(pa.table({'timestamps': stamps, **columns(bars), 'amount': bars.volume}), folder / 'x.csv')
    return BarFile(path=str(folder / 'x.csv'), stamp_zone='UTC', stamps='end')


def first_rate(bars, folder):
    rows = zip(new_york(bars).strftime('%Y-%m-%d %H:%M:%S'), *columns(bars).values(), strict=True)
    (folder / 'x.txt').write_text(''.join(','.join(map(str, row)) + '\n' for row in rows))
    return BarFile(path=str(folder / 'x.txt'))


def ninja_trader(bars, folder):
    import pandas as pd

    stamps = pd.DatetimeIndex(bars.time + MINUTE).strftime('%Y%m%d %H%M%S')
    rows = zip(stamps, *columns(bars).values(), strict=True)
    (folder / 'x.txt').write_text(''.join(';'.join(map(str, row)) + '\n' for row in rows))
    return BarFile(path=str(folder / 'x.txt'))


def databento_integers(bars, folder):
    prices = {n: np.round(getattr(bars, n) * 1e9).astype(np.int64) for n in FIELDS[:4]}
    table = {'ts_event': bars.time, 'rtype': [33] * len(bars), 'instrument_id': [7] * len(bars), **prices}
    pacsv.write_csv(
        pa.table({**table, 'volume': bars.volume.astype(np.int64), 'symbol': ['X'] * len(bars)}), folder / 'x.csv'
    )
    return BarFile(path=str(folder / 'x.csv'))


def databento_text(bars, folder):
    stamps = [f'{t}Z' for t in bars.time.astype('datetime64[ns]').astype(str)]
    pacsv.write_csv(pa.table({'ts_event': stamps, 'instrument_id': [7] * len(bars), **columns(bars)}), folder / 'x.csv')
    return BarFile(path=str(folder / 'x.csv'))


def polygon(bars, folder):
    table = {'ticker': ['X'] * len(bars), **columns(bars), 'window_start': bars.time, 'transactions': [3] * len(bars)}
    with pa.CompressedOutputStream(str(folder / 'x.csv.gz'), 'gzip') as stream:
        pacsv.write_csv(pa.table(table), stream)
    return BarFile(path=str(folder / 'x.csv.gz'))


def parquet(bars, folder):
    stamps = pa.array(bars.time.astype('datetime64[ns]'), pa.timestamp('ns', 'UTC'))
    pq.write_table(pa.table({**columns(bars), 'ts_event': stamps, 'symbol': ['X'] * len(bars)}), folder / 'x.parquet')
    return BarFile(path=str(folder / 'x.parquet'))


VENDORS = (
    named_csv,
    date_and_time,
    k_lines_at_the_end,
    first_rate,
    ninja_trader,
    databento_integers,
    databento_text,
    polygon,
    parquet,
)


@pytest.mark.parametrize('write', VENDORS, ids=lambda f: f.__name__)
def test_layouts(write, tmp_path):
    bars = rounded()
    got = write(bars, tmp_path).read()
    np.testing.assert_array_equal(got.time.astype('datetime64[ns]'), bars.time.astype('datetime64[ns]'))
    for name in FIELDS:
        np.testing.assert_allclose(getattr(got, name), getattr(bars, name), rtol=1e-12, err_msg=name)
    assert got.length == MINUTE and not got.piece.any() and got.id.lower() == 'x'


def table_of(bars, **other):
    stamps = pa.array(bars.time.astype('datetime64[ns]'), pa.timestamp('ns', 'UTC'))
    return pa.table({'time': stamps, **columns(bars), **other})


def test_a_symbol_among_others():
    bars = rounded()
    two = pa.concat_tables([table_of(bars, symbol=['A'] * 40), table_of(bars, symbol=['B'] * 40)])
    with pytest.raises(InputError, match=r"column 'symbol', row 40: 2 symbols, A, B among them. Set data.symbol"):
        BarFile().from_table(two)
    got = BarFile(symbol='B').from_table(two)
    assert got.id == 'B' and len(got) == 40
    with pytest.raises(InputError, match="no bar of 'C'"):
        BarFile(symbol='C').from_table(two)
    bad = two.set_column(4, 'close', pa.array(np.r_[bars.close, bars.close[:30], 0.0, bars.close[31:]]))
    with pytest.raises(InputError, match="column 'close', row 70: 0 is no price"):
        BarFile(symbol='B').from_table(bad)


def test_bad_tables():
    bars = rounded()
    good = table_of(bars)
    with pytest.raises(InputError, match="the table, column 'volume': no such column. The columns are time, open"):
        BarFile().from_table(good.drop_columns(['volume']))
    with pytest.raises(InputError, match='no column is a time'):
        BarFile().from_table(good.drop_columns(['time']))
    with pytest.raises(InputError, match="column 'time', row 3: the stamp is that of the bar before"):
        BarFile().from_table(good.take([0, 1, 2, 2, 3]))
    with pytest.raises(InputError, match="column 'time', row 2: the stamp is before that of the bar before"):
        BarFile().from_table(good.take([0, 2, 1]))
    with pytest.raises(InputError, match='holds no bar'):
        BarFile().from_table(good.slice(0, 0))
    with pytest.raises(InputError, match="unknown choice 'middle'.*auto, start, end"):
        BarFile(stamps='middle').from_table(good)
    missing = good.set_column(0, 'time', pa.array([None, *good['time'].to_pylist()[1:]], good['time'].type))
    with pytest.raises(InputError, match="column 'time', row 0: a missing value"):
        BarFile().from_table(missing)


def test_stamps_have_an_offset_all_or_none():
    """A row without one among others would be read in another zone."""
    bars = rounded()
    stamps = [f'{t}Z' for t in bars.time.astype('datetime64[ns]').astype('datetime64[s]').astype(str)]
    read = lambda cells: BarFile().from_table(pa.table({'time': cells, **columns(bars)}))
    assert read(stamps).time[7] == bars.time[7]
    for first, other, what in (
        (stamps, 7, "row 7: '2024-03-08T14:37:00' has no offset, and the rows before it have"),
        ([t[:-1] for t in stamps], 9, "row 9: '2024-03-08T14:39:00Z' has an offset, and the rows before it have none"),
    ):
        mixed = list(first)
        mixed[other] = mixed[other][:-1] if mixed[other][-1] == 'Z' else mixed[other] + 'Z'
        with pytest.raises(InputError, match=f"column 'time', {what}"):
            read(mixed)


def test_an_epoch_of_any_type_is_an_instant():
    bars = rounded()
    for kind in (np.int64, np.float64):
        got = BarFile().from_table(pa.table({'time': (bars.time // 10**9).astype(kind), **columns(bars)}))
        np.testing.assert_array_equal(got.time, bars.time)


def test_no_field_is_passed_over_in_silence(tmp_path):
    bars = rounded()
    ninja_trader(bars, tmp_path)
    got = BarFile(path=str(tmp_path / 'x.txt'), stamp_zone='Asia/Shanghai').read()
    np.testing.assert_array_equal(got.time, bars.time - 8 * 60 * MINUTE)
    with pytest.raises(InputError, match="column 'stamp_zone': no time zone is called 'Pekin'"):
        BarFile(stamp_zone='Pekin').from_table(table_of(bars))
    with pytest.raises(InputError, match="column 'contracts': no column is called 'instrument'.*instrument_id"):
        BarFile(contracts='instrument').from_table(table_of(bars, instrument_id=[1] * 40))
    with pytest.raises(InputError, match="column 'symbol': 'ES' is asked for, and no column names a symbol"):
        BarFile(symbol='ES').from_table(table_of(bars))


@pytest.mark.parametrize('hours', [9, 10])
def test_days_before_months_are_not_taken_for_months(hours):
    """The first twelve days of a month, written day first, are the second of every month to an American."""
    day = np.datetime64('2024-02-01') + np.arange(12).repeat(30)
    bars = make_bars(day.astype('datetime64[ns]').astype(np.int64) + MINUTE * (60 * hours + np.tile(np.arange(30), 12)))
    time = bars.time.astype('datetime64[ns]')
    write = lambda form: [f'{t:{form}}' for t in time.astype('datetime64[s]').tolist()]
    read = lambda form: BarFile(timezone='UTC').from_table(pa.table({'time': write(form), **columns(bars)}))
    for form in ('%m/%d/%Y %H:%M', '%d/%m/%Y %H:%M'):
        np.testing.assert_array_equal(read(form).time, bars.time)
    one_day = pa.table({'time': write('%d/%m/%Y %H:%M'), **columns(bars)}).slice(30, 30)
    np.testing.assert_array_equal(BarFile(timezone='UTC').from_table(one_day).time, bars.time[30:60])
    one_day = pa.table({'time': write('%d/%m/%Y %H:%M'), **columns(bars)}).slice(60, 30)
    with pytest.raises(InputError, match="column 'time', row 0: '03/02/2024 .* Set data.date_order"):
        BarFile(timezone='UTC').from_table(one_day)
    np.testing.assert_array_equal(BarFile(timezone='UTC', date_order='day').from_table(one_day).time, bars.time[60:90])


def written(bars, folder, **other):
    stamps = [f'{t}Z' for t in bars.time.astype('datetime64[ns]').astype('datetime64[s]')]
    pacsv.write_csv(pa.table({'time': stamps} | columns(bars) | other), folder / 'x.csv')
    return BarFile(path=str(folder / 'x.csv'))


LATE = np.arange(200) >= 150
ODD = {
    'volume': {'volume': np.where(LATE, 7.5, 7)},
    'a column that nobody reads': {'open_interest': pa.array(np.where(LATE, 'none', ''))},
    'prices': dict.fromkeys(FIELDS[:4], np.where(LATE, 100.25, 100)),
    'stamps': {'time': [f'{t}Z' for t in rounded(200).time.astype('datetime64[ns]').astype('datetime64[s]')[:150]]},
    'ids': {'instrument_id': np.where(LATE, 'NQH4', '42')},
}
ODD['stamps']['time'] += [f'{t}Z' for t in rounded(200).time.astype('datetime64[ns]').astype('datetime64[ms]')[150:]]


@pytest.mark.parametrize('name', ODD)
def test_types_of_columns_are_those_of_the_whole_file(name, tmp_path, monkeypatch):
    """Not those of the first block: what is whole, empty or a number there may be another thing later."""
    monkeypatch.setattr(source, 'BLOCK_BYTES', 2**9)
    bars, cells = rounded(200), ODD[name]
    got = written(bars, tmp_path, **cells).read()
    np.testing.assert_array_equal(got.time, bars.time)
    if name != 'ids':
        for field in FIELDS:
            np.testing.assert_array_equal(getattr(got, field), cells.get(field, getattr(bars, field)))
    np.testing.assert_array_equal(got.piece, LATE * (name == 'ids'))


BAD_CELLS = {
    'close': ('y', "row 150: 'y' is no number"),
    'open': ('', 'row 150: a missing value'),
    'volume': (None, 'row 150: a missing value'),
    'time': ('', 'row 150: a missing value'),
    'symbol': ('600977.SH', 'row 150: 2 symbols, 600977, 600977.SH among them'),
    'instrument_id': (None, 'row 150: a contract has no id'),
}


@pytest.mark.parametrize('name', BAD_CELLS)
def test_a_bad_cell_of_a_late_block_is_named(name, tmp_path, monkeypatch):
    monkeypatch.setattr(source, 'BLOCK_BYTES', 2**9)
    bars, (cell, text) = rounded(200), BAD_CELLS[name]
    cells = [f'{t}Z' for t in bars.time.astype('datetime64[ns]')] if name == 'time' else columns(bars).get(name)
    cells = ['600977'] * 200 if cells is None else [str(x) for x in cells]
    cells[150] = cell
    with pytest.raises(InputError, match=f"x.csv, column '{name}', {text}"):
        written(bars, tmp_path, **{name: cells}).read()


def test_integers_of_databento_are_exact_and_an_absent_one_is_missing(tmp_path):
    count = 12
    price = 4_525_250_000_001 + 250_000_000 * np.arange(count)
    table = {'ts_event': START + MINUTE * np.arange(count), **dict.fromkeys(FIELDS[:4], price), 'volume': [1] * count}
    pacsv.write_csv(pa.table(table), tmp_path / 'x.csv')
    np.testing.assert_array_equal(BarFile(path=str(tmp_path / 'x.csv')).read().close, price.astype(float) * 1e-9)
    absent = np.where(np.arange(count) == 7, 2**63 - 1, price)
    pacsv.write_csv(pa.table(table | dict.fromkeys(FIELDS[:4], absent)), tmp_path / 'x.csv')
    with pytest.raises(InputError, match="column 'open', row 7: a missing value"):
        BarFile(path=str(tmp_path / 'x.csv')).read()
    whole = pa.array([f'{x}.000000000' for x in range(100, 100 + count)])  # Databento's text of a whole price
    pacsv.write_csv(pa.table(table | dict.fromkeys(FIELDS[:4], whole)), tmp_path / 'x.csv')
    np.testing.assert_array_equal(BarFile(path=str(tmp_path / 'x.csv')).read().close, np.arange(100.0, 100 + count))


def test_cells_keep_their_zeros_and_lose_their_blanks(tmp_path):
    """A time of the day such as 093000 is no number, and vendors put blanks after commas."""
    rows = [f'20240308, 09{minute:02}00, 1, 2.5, 1, {1 + minute / 4}, 5\n' for minute in range(5)]
    (tmp_path / 'x.csv').write_text('date, time, open, high, low, close, volume\n' + ''.join(rows))
    bars = BarFile(path=str(tmp_path / 'x.csv'), timezone='UTC').read()
    nine = np.datetime64('2024-03-08T09:00', 'ns').astype(np.int64)
    np.testing.assert_array_equal(bars.time, nine + MINUTE * np.arange(5))
    np.testing.assert_array_equal(bars.close, 1 + np.arange(5) / 4)


def test_days_of_an_exchange_that_changes_its_clocks():
    """Naive dates are midnights of the exchange: days in March and November have 23 and 25 hours."""
    days = np.arange('2023-10-02', '2024-04-01', dtype='datetime64[D]')
    bars = make_bars(days.astype('datetime64[ns]').astype(np.int64))
    for kept in (days == days, np.is_busday(days)):
        table = pa.table({'date': pa.array(days), **columns(bars)}).filter(pa.array(kept))
        got = BarFile().from_table(table)
        assert len(got) == kept.sum() and got.length == 1440 * MINUTE


BAD_FILES = {
    'empty.csv': ('', 'the file is empty'),
    'five.txt': ('2024-01-02 09:30:00,1,1,1,1\n', "column 'volume': no such column"),
    'seven.txt': ('2024-01-02 09:30:00,1,1,1,1,1,1\n', '7 columns and no header'),
    'hole.txt': ('2024-01-02 09:30:00,1,1,1,,2\n', "column 'close', row 0: a missing value"),
    'words.txt': ('2024-01-02 09:30:00,1,1,1,1,2\n2024-01-02 09:31:00,y,1,1,1,1\n', "row 1: 'y' is no number"),
    'nan.csv': (
        'time,open,high,low,close,volume\n2024-01-02 09:30:00,1,1,1,,1\n',
        "column 'close', row 0: a missing value",
    ),
    'twins.csv': (
        'time,open,high,low,close,volume,volume\n2024-01-02 09:30,1,1,1,1,1,1\n',
        "column 'volume': the column is there twice",
    ),
    'clock.csv': ('time,open,high,low,close,volume\n09:30:00,1,1,1,1,1\n', 'a time of the day has no day'),
    'x.parquet': ('no parquet', 'not a parquet file'),
    'x.feather': ('', 'unknown format'),
}


@pytest.mark.parametrize('name', BAD_FILES)
def test_bad_files(name, tmp_path):
    text, what = BAD_FILES[name]
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError) as e:
        BarFile(path=str(tmp_path / name)).read()
    assert what in str(e.value) and name in str(e.value)


def test_no_file(tmp_path):
    with pytest.raises(InputError, match='no such file'):
        BarFile(path=str(tmp_path / 'x.csv')).read()
    with pytest.raises(InputError, match='no file is named'):
        BarFile().read()


@pytest.mark.parametrize(
    ('name', 'settings', 'count', 'minutes', 'first'),
    [
        ('NQ_5min.csv', {}, 13_767, 5, '2026-02-17T05:00'),
        ('cn_5min.csv', {'timezone': 'Asia/Shanghai', 'stamps': 'end'}, 2_500, 5, '2024-06-18T03:10'),
        ('spy_minute_2011.csv', {}, 14_180, 1, '2011-01-03T09:00'),
    ],
)
def test_real_files(data_dir, name, settings, count, minutes, first):
    bars = BarFile(path=str(data_dir / 'bars' / name), **settings).read()
    assert len(bars) == count and bars.length == minutes * MINUTE
    assert bars.zone == settings.get('timezone', 'America/New_York')
    assert bars.time[0].astype('datetime64[ns]') == np.datetime64(first)
