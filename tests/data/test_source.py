"""Daily files: found by date, read by name, and every fault said in one line."""

import datetime
import gzip

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fjq.data import source
from fjq.data.source import column_names, iter_columns, list_days, read_columns
from fjq.errors import InputError

TICKERS = ['AA', 'AA', 'MM', 'MM', 'NA', 'ZZ']
KINDS = {'ticker': 'text', 'price': 'number'}


def write(path, *, tickers=None, rows_in_group=2, **columns):
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table({'ticker': TICKERS if tickers is None else tickers, 'price': np.arange(6.0), **columns})
    pq.write_table(table, path, row_group_size=rows_in_group)
    return path


def one_line(error) -> str:
    text = str(error.value)
    assert '\n' not in text
    return text


def test_all_layouts_are_found_in_the_order_of_dates(tmp_path):
    names = ['2022/02/2022-02-03.csv.gz', '2022/2022-02-01.parquet', '2022-02-02.csv.parquet', '2021-12-31.csv']
    others = ['._2022-03-01.parquet', 'notes.csv', '2022-03-02.txt', 'a/b/c/2022-03-03.csv', '.git/2022-03-04.csv']
    for name in names + others:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    days = list_days(tmp_path)
    assert [str(d.path.relative_to(tmp_path)) for d in days] == [names[3], names[1], names[2], names[0]]
    assert [d.date for d in days][:2] == [datetime.date(2021, 12, 31), datetime.date(2022, 2, 1)]


def test_a_date_twice_names_both_files(tmp_path):
    write(tmp_path / '2022-02-01.parquet'), write(tmp_path / '2022' / '2022-02-01.csv.parquet')
    with pytest.raises(InputError) as e:
        list_days(tmp_path)
    assert '2022-02-01.parquet' in one_line(e) and '2022-02-01.csv.parquet' in str(e.value)


def test_a_folder_without_days_is_refused(tmp_path):
    with pytest.raises(InputError, match='no daily file'):
        list_days(tmp_path)
    with pytest.raises(InputError, match='no such folder'):
        list_days(tmp_path / 'absent')


@pytest.mark.parametrize(
    'tickers',
    [pa.array(TICKERS), pa.array(TICKERS).dictionary_encode(), pa.array(TICKERS, pa.large_string())],
    ids=['string', 'dictionary', 'large_string'],
)
def test_only_wanted_columns_and_tickers_are_read(tmp_path, tickers):
    path = write(tmp_path / 'a.parquet', tickers=tickers, other=np.arange(6))
    table = read_columns(path, KINDS, tickers=['MM', 'NA', 'absent'])
    assert table.column_names == ['ticker', 'price']
    assert table['ticker'].to_pylist() == ['MM', 'MM', 'NA'] and table['price'].to_pylist() == [2.0, 3.0, 4.0]
    blocks = list(iter_columns(path, KINDS, tickers=['NA']))
    assert [b.rows().tolist() for b in blocks] == [[], [], [4]]
    assert [b.total for b in blocks] == [2, 2, 2]
    assert read_columns(path, ['price']).column_names == ['price']


@pytest.mark.parametrize('dictionary', [False, True])
def test_row_groups_without_a_wanted_ticker_are_not_decoded(tmp_path, monkeypatch, dictionary):
    tickers = pa.array(TICKERS).dictionary_encode() if dictionary else pa.array(TICKERS)
    path = write(tmp_path / 'a.parquet', tickers=tickers)
    read, plain = [], pq.ParquetFile.iter_batches
    monkeypatch.setattr(
        pq.ParquetFile,
        'iter_batches',
        lambda *a, row_groups, **k: read.extend(row_groups) or plain(*a, row_groups=row_groups, **k),
    )
    assert read_columns(path, KINDS, tickers=['NA']).num_rows == 1
    assert read == [2]


def test_csv_and_gz_equal_parquet(tmp_path):
    text = 'ticker,size,price\n' + ''.join(f'{t},"{i}.500000",{float(i)}\n' for i, t in enumerate(TICKERS))
    (tmp_path / 'a.csv').write_text(text)
    with gzip.open(tmp_path / 'a.csv.gz', 'wt') as f:
        f.write(text)
    sizes = [f'{i}.500000' for i in range(6)]  # decimal text
    write(tmp_path / 'a.parquet', size=sizes)
    kinds = {**KINDS, 'size': 'number'}
    tables = [read_columns(tmp_path / f'a{s}', kinds, tickers=['AA', 'NA']) for s in source.SUFFIXES]
    assert tables[0].to_pylist() == tables[1].to_pylist() == tables[2].to_pylist()
    assert tables[0]['size'].to_pylist() == [0.5, 1.5, 4.5]
    assert {t['size'].type for t in tables} == {pa.float64()}


def test_blocks_are_small_and_rows_count_on(tmp_path, monkeypatch):
    monkeypatch.setattr(source, 'BLOCK_ROWS', 4)
    path = write(tmp_path / 'a.parquet', rows_in_group=6)
    blocks = list(iter_columns(path, KINDS, tickers=['ZZ', 'MM']))
    assert [(b.first, b.total) for b in blocks] == [(0, 4), (4, 2)]
    assert [b.rows().tolist() for b in blocks] == [[2, 3], [5]]


def test_header_names(tmp_path):
    (tmp_path / 'a.csv').write_text('\ufeffticker,"price, of it"\nA,1\n', encoding='utf-8')
    assert column_names(tmp_path / 'a.csv') == ['ticker', 'price, of it']
    assert column_names(write(tmp_path / 'a.parquet')) == ['ticker', 'price']


def test_missing_column_names_what_is_there(tmp_path):
    path = write(tmp_path / 'a.parquet')
    with pytest.raises(InputError) as e:
        read_columns(path, {'ticker': 'text', 'size': 'number'})
    assert one_line(e) == f"{path}, column 'size': no such column. The columns are ticker, price."
    assert read_columns(path, {'price': 'number', 'size': 'number'}, optional=['size']).column_names == ['price']


@pytest.mark.parametrize(
    'column, kind',
    [('price', 'text'), ('flag', 'integer'), ('price', 'time'), ('flag', 'number')],
)
def test_wrong_type_is_refused(tmp_path, column, kind):
    path = write(tmp_path / 'a.parquet', flag=[True] * 6)
    with pytest.raises(InputError) as e:
        read_columns(path, {column: kind})
    assert f'column {column!r}' in one_line(e) and f'not {kind}' in str(e.value)


def test_text_that_is_no_number_names_its_row(tmp_path):
    path = write(tmp_path / 'a.parquet', size=['1', '2.0', '3', '1e2', 'four', '6'])
    with pytest.raises(InputError, match=r"column 'size', row 4: 'four' is no number"):
        read_columns(path, {'size': 'number'})
    (tmp_path / 'a.csv').write_text('ticker,price\nA,1\nA,2\nA,x\n')
    with pytest.raises(InputError, match=r"a.csv, column 'price', row 2: .*'x'"):
        read_columns(tmp_path / 'a.csv', KINDS)


def test_ragged_csv_names_its_row(tmp_path):
    (tmp_path / 'a.csv').write_text('ticker,price\nA,1\nA,2,3\n')
    with pytest.raises(InputError, match=r'a.csv, row 1: CSV parse error.*Expected 2 columns'):
        read_columns(tmp_path / 'a.csv', KINDS)


def test_unreadable_files(tmp_path):
    whole = write(
        tmp_path / 'whole.parquet', noise=np.random.Generator(np.random.Philox(0)).normal(size=6)
    ).read_bytes()
    packed = gzip.compress(b'ticker,price\n' + b''.join(b'A,%d\n' % i for i in range(9999)))
    bad = bytearray(whole)
    bad[4:60] = b'\xff' * 56
    cases = {
        'empty.parquet': (b'', 'the file is empty'),
        'empty.csv': (b'', 'the file is empty'),
        'cut.parquet': (whole[: len(whole) // 2], 'not a parquet file, or a truncated one'),
        'text.parquet': (b'ticker,price\nA,1\n', 'not a parquet file'),
        'page.parquet': (bytes(bad), 'damaged'),
        'cut.csv.gz': (packed[: len(packed) // 2], 'Truncated compressed stream'),
        'plain.csv.gz': (b'ticker,price\nA,1\n', 'not a csv file, or a damaged one'),
        'header.csv': (b'ticker,price\n', 'the file has no rows'),
        'a.txt': (b'x', 'unknown format'),
    }
    for name, (content, what) in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError) as e:
            read_columns(tmp_path / name, KINDS)
        assert name in one_line(e) and what in str(e.value), str(e.value)
    pq.write_table(
        pa.table({'ticker': pa.array([], pa.string()), 'price': pa.array([], pa.float64())}), tmp_path / 'n.parquet'
    )
    with pytest.raises(InputError, match='no rows'):
        read_columns(tmp_path / 'n.parquet', KINDS)
    with pytest.raises(InputError, match='no such file'):
        read_columns(tmp_path / 'absent.parquet', KINDS)


@pytest.mark.parametrize('limit', ['MAX_ROWS', 'MAX_BYTES'])
def test_a_header_that_claims_too_much_is_refused_before_reading(tmp_path, monkeypatch, limit):
    path = write(tmp_path / 'a.parquet')
    monkeypatch.setattr(source, limit, 5)
    monkeypatch.setattr(pq.ParquetFile, 'iter_batches', lambda *a, **k: pytest.fail('it was read'))
    with pytest.raises(InputError, match='the header claims 6 rows'):
        read_columns(path, KINDS)


def test_unknown_kind(tmp_path):
    with pytest.raises(InputError, match='unknown kind'):
        read_columns(write(tmp_path / 'a.parquet'), {'price': 'float'})


def test_a_dictionary_code_out_of_range_is_damage(tmp_path, monkeypatch):
    path = write(tmp_path / 'a.parquet')
    codes = pa.array([0, 1, 2, 0, 0, 0], pa.int32())
    broken = pa.DictionaryArray.from_arrays(codes, pa.array(['AA', 'BB']), safe=False)
    batch = pa.record_batch({'ticker': broken, 'price': np.arange(6.0)})
    monkeypatch.setattr(source, '_read_parquet', lambda *a: iter([source.Block(pa.table(batch), 0, 6)]))
    with pytest.raises(InputError, match='bad dictionary code'):
        read_columns(path, KINDS)
