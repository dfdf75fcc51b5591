"""The most traded tickers: sums, ties, files, and no look at days after the train end."""

import datetime
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest

from fjq.data.ticks.files import TickFiles, read_tickers
from fjq.data.ticks.top_stocks import Traded, check_list, write_list
from fjq.data.ticks.top_stocks import top_stocks as pick
from fjq.errors import InputError
from fjq.parallel import Parallel

INLINE = Parallel(workers=1)
TRAIN_END = datetime.date(2022, 3, 8)


def top_stocks(root, top_n, until, parallel, by='shares', **fields):
    return pick(TickFiles(root=str(root), stream='stocks', **fields), top_n, until, parallel, by=by)


def _write(root, date: datetime.date, trades: list[tuple[str, float, float]]) -> None:
    ticker, price, size = zip(*trades, strict=True)
    columns = {'exchange': [1] * len(trades), 'ticker': ticker, 'price': price, 'size': size}
    pq.write_table(pa.table(columns), root / f'{date}.parquet')


def _random_day(seed: int) -> list[tuple[str, float, float]]:
    rng = np.random.Generator(np.random.Philox(seed))
    names = [f'T{i:02d}' for i in range(30)]
    return [
        (str(n), float(p), float(s))
        for n, p, s in zip(
            rng.choice(names, 400), rng.uniform(5, 900, 400).round(2), rng.integers(1, 1000, 400), strict=True
        )
    ]


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / 'stocks'
    folder.mkdir()
    for day in range(1, 9):
        _write(folder, datetime.date(2022, 3, day), _random_day(day))
    return folder


@pytest.mark.parametrize('by', ['shares', 'dollars'])
def test_sums_and_days_equal_a_count_by_hand(root, by):
    total, days = Counter(), Counter()
    for day in range(1, 9):
        trades = _random_day(day)
        days.update({ticker for ticker, _, _ in trades})
        for ticker, price, size in trades:
            total[ticker] += size * (price if by == 'dollars' else 1)
    stocks, files = top_stocks(root, 12, TRAIN_END, INLINE, by=by)
    assert files == 8 and len(stocks) == 12
    assert [s.ticker for s in stocks] == [t for t, _ in total.most_common(12)]
    np.testing.assert_allclose([s.total for s in stocks], [total[s.ticker] for s in stocks], rtol=1e-12)
    assert [s.days for s in stocks] == [days[s.ticker] for s in stocks]


def test_days_after_the_train_end_change_nothing_and_are_not_opened(root):
    before = top_stocks(root, 12, TRAIN_END, INLINE)
    _write(root, datetime.date(2022, 3, 9), [('LATER', 1.0, 1e9), ('T05', 1.0, 1e9)])
    (root / '2022-03-10.parquet').write_bytes(b'opening this would be an error')
    assert top_stocks(root, 12, TRAIN_END, INLINE) == before
    assert top_stocks(root, 1, datetime.date(2022, 3, 9), INLINE)[0][0].ticker == 'T05'


def test_equal_sums_are_in_the_order_of_names_and_processes_do_not_matter(tmp_path):
    _write(tmp_path, TRAIN_END, [('B', 1.0, 5.0), ('C', 1.0, 7.0), ('A', 1.0, 5.0), ('C', 1.0, 0.0)])
    _write(tmp_path, TRAIN_END - datetime.timedelta(days=1), [('C', 1.0, 1.0)])
    stocks, _ = top_stocks(tmp_path, 9, TRAIN_END, INLINE)
    assert stocks == [Traded('C', 8.0, 2), Traded('A', 5.0, 1), Traded('B', 5.0, 1)]
    assert top_stocks(tmp_path, 9, TRAIN_END, Parallel(workers=2))[0] == stocks


def test_sizes_may_be_decimal_text(tmp_path):
    table = pa.table({'ticker': ['A', 'A', 'B'], 'size': ['10.000000', '0.001500', '3']})
    pacsv.write_csv(table, tmp_path / '2022-03-01.csv')
    pq.write_table(table, tmp_path / '2022-03-02.parquet')
    stocks, files = top_stocks(tmp_path, 2, TRAIN_END, INLINE)
    assert files == 2
    np.testing.assert_allclose([s.total for s in stocks], [20.003, 6])


@pytest.mark.parametrize(
    ('trades', 'message'),
    [
        ([('A', 1.0, 1.0), ('A', 1.0, -1.0)], "column 'size', row 1: -1.0 is no size"),
        ([('A', 1.0, float('inf'))], "column 'size', row 0: inf is no size"),
        ([('A', 1.0, 1.0), ('A', 1.0, None)], "column 'size', row 1: nan is no size"),
        ([('A', 1.0, 1.0), (None, 1.0, 1.0)], "column 'ticker', row 1: a missing ticker"),
    ],
)
def test_a_bad_row_stops_or_is_said(root, trades, message, capsys):
    _write(root, datetime.date(2022, 3, 4), trades)
    with pytest.raises(InputError, match='2022-03-04.parquet, ' + message):
        top_stocks(root, 12, TRAIN_END, INLINE)
    assert top_stocks(root, 12, TRAIN_END, INLINE, on_bad_file='skip')[1] == 7
    assert f'left out: {root / "2022-03-04.parquet"}' in capsys.readouterr().out


@pytest.mark.parametrize('fields', [{'top_n': 0}, {'by': 'trades'}, {'on_bad_file': 'ignore'}])
def test_options_without_a_meaning_are_refused(root, fields):
    with pytest.raises(InputError, match=next(iter(fields))):
        top_stocks(root, until=TRAIN_END, parallel=INLINE, **{'top_n': 1, **fields})


def test_no_day_up_to_the_train_end_is_an_error(root):
    with pytest.raises(InputError, match='the first is of 2022-03-01'):
        top_stocks(root, 5, datetime.date(2021, 12, 31), INLINE)


def test_only_bad_files_are_an_error(tmp_path):
    (tmp_path / '2022-03-01.parquet').write_bytes(b'x')
    with pytest.raises(InputError, match='all 1 files are bad'):
        top_stocks(tmp_path, 5, TRAIN_END, INLINE, on_bad_file='skip')


def test_a_list_is_read_as_it_was_written(tmp_path):
    path = tmp_path / 'lists' / 'top.txt'
    write_list(['SPY', 'AAPL', 'BRK.B'], path, TRAIN_END)
    assert path.read_text() == '# train_end=2022-03-08\nSPY\nAAPL\nBRK.B\n'
    assert read_tickers(path, 'stocks') == ('SPY', 'AAPL', 'BRK.B')
    assert [p.name for p in path.parent.iterdir()] == ['top.txt']


def test_a_list_that_knows_later_days_is_refused(tmp_path):
    path = tmp_path / 'top.txt'
    write_list(['SPY'], path, TRAIN_END)
    check_list(path, TRAIN_END)
    with pytest.raises(InputError, match="column 'tickers': the list knows days up to 2022-03-08, .* on 2022-03-07"):
        check_list(path, TRAIN_END - datetime.timedelta(days=1))
    path.write_text('SPY\n')
    check_list(path, datetime.date(1990, 1, 1))  # made by hand: nobody knows from what


def test_only_trades_that_the_reader_keeps_are_counted(tmp_path):
    columns = {
        'ticker': ['A', 'A', 'A', 'B'],
        'price': [1.0] * 4,
        'size': [1.0, 100.0, 100.0, 5.0],
        'correction': [0, 8, 0, 0],  # 8: cancelled
        'conditions': ['', '', '2', '12'],  # 2: average price
    }
    pq.write_table(pa.table(columns), tmp_path / f'{TRAIN_END}.parquet')
    assert top_stocks(tmp_path, 2, TRAIN_END, INLINE)[0] == [Traded('B', 5.0, 1), Traded('A', 1.0, 1)]
    everything = {'keep_corrections': (0, 8), 'drop_conditions': ()}
    assert top_stocks(tmp_path, 1, TRAIN_END, INLINE, **everything)[0] == [Traded('A', 201.0, 1)]
