"""Rolls by contract id: adjusted by both contracts at one instant, never by the size of a return."""

import numpy as np
import pyarrow as pa
import pytest
from test_bars import make_bars

from fjq.data.bars.files import BarFile
from fjq.data.clock import DAY, MINUTE
from fjq.errors import InputError

BASE = np.datetime64('2024-03-04', 'ns').astype(np.int64)  # a Monday
BASIS = 1.013  # the later contract over the earlier one


def two_contracts(crossing=3, days=range(5)):
    """Five days of one market in two contracts; the second trades more from day `crossing` - 1 on."""
    time = BASE + np.concatenate([DAY * d + MINUTE * np.arange(60) for d in days])
    spot = make_bars(time)
    parts = []
    for contract, factor in ((11, 1.0), (22, BASIS)):
        more = ((time - BASE) // DAY < crossing - 1) == (contract == 11)
        prices = {n: getattr(spot, n) * factor for n in ('open', 'high', 'low', 'close')}
        parts.append(
            pa.table(
                {
                    'ts_event': time,
                    'instrument_id': [contract] * len(time),
                    **prices,
                    'volume': np.where(more, 900.0, 100.0),
                }
            )
        )
    table = pa.concat_tables(parts)
    return spot, table.take(np.argsort(table['ts_event'].to_numpy(), kind='stable'))


def test_returns_across_a_roll_are_those_of_the_market():
    spot, table = two_contracts()
    got = BarFile().from_table(table)
    np.testing.assert_array_equal(got.time, spot.time)
    np.testing.assert_allclose(got.close, spot.close, rtol=1e-12)
    np.testing.assert_array_equal(got.piece, (spot.time - BASE) // DAY >= 3)  # the day after it traded more


@pytest.mark.parametrize(
    ('crossing', 'days'),
    [(4, (0, 1, 2, 3, 4, 7, 8)), (5, (0, 1, 2, 3, 4, 7, 8)), (5, (0, 1, 2, 3, 4, 8, 9)), (4, (0, 1, 2, 3, 6, 7))],
    ids=['on Thursday', 'on Friday', 'on Friday before a holiday', 'on Thursday before a holiday'],
)
def test_a_roll_over_days_without_bars_is_that_of_the_market(crossing, days, capsys):
    """Both contracts closed at one instant before the weekend, however long that is: its return is kept."""
    spot, table = two_contracts(crossing, days)
    got = BarFile(timezone='UTC').from_table(table)
    assert '1 rolls, 1 adjusted by both' in capsys.readouterr().out
    np.testing.assert_array_equal(np.diff(got.piece).nonzero()[0], [60 * crossing - 1])
    np.testing.assert_allclose(got.close, spot.close, rtol=1e-12)


def test_a_pair_of_closes_from_long_before_the_old_contract_ended_is_stale(capsys):
    """The later contract traded on the first day alone, then not before the old one had gone: chained at the open."""
    _, table = two_contracts()
    contract, day = table['instrument_id'].to_numpy(), (table['ts_event'].to_numpy() - BASE) // DAY
    there = np.where(contract == 22, (day == 0) | (day >= 3), day < 3)
    got = BarFile(timezone='UTC').from_table(table.filter(pa.array(there)))
    assert '1 rolls, 0 adjusted by both' in capsys.readouterr().out
    assert got.open[180] == pytest.approx(got.close[179], rel=1e-12)


def test_rolls_add_up():
    """A third contract follows, twice as dear as the second."""
    spot, table = two_contracts()
    contract, day = table['instrument_id'].to_numpy(), (table['ts_event'].to_numpy() - BASE) // DAY
    third = table.filter(pa.array(contract == 22)).to_pydict()
    third |= {n: [2 * x for x in third[n]] for n in ('open', 'high', 'low', 'close')}
    third |= {'instrument_id': [33] * 300, 'volume': [2000.0 * (t >= BASE + 3 * DAY) for t in third['ts_event']]}
    whole = pa.concat_tables([table, pa.table(third)])
    got = BarFile().from_table(whole.take(np.argsort(whole['ts_event'].to_numpy(), kind='stable')))
    np.testing.assert_allclose(got.close, spot.close, rtol=1e-12)
    assert got.piece[[179, 180, 239, 240]].tolist() == [0, 1, 1, 2] and day.max() == 4


def test_a_crash_is_no_roll():
    spot, table = two_contracts()
    crash = 0.8 ** (table['ts_event'].to_numpy() >= BASE + DAY + 10 * MINUTE)
    for i, name in enumerate(('open', 'high', 'low', 'close'), 2):
        table = table.set_column(i, name, pa.array(table[name].to_numpy() * crash))
    got = BarFile().from_table(table)
    returns = np.diff(np.log(got.close)) - np.diff(np.log(spot.close))
    assert returns[69] == pytest.approx(np.log(0.8)) and np.abs(np.delete(returns, 69)).max() < 1e-12


def test_a_roll_with_one_contract_at_a_time_makes_no_return():
    """As in a vendor's continuous series: the step between the contracts is chained away at the open."""
    spot, table = two_contracts()
    contract, day = table['instrument_id'].to_numpy(), (table['ts_event'].to_numpy() - BASE) // DAY
    got = BarFile().from_table(table.filter(pa.array((contract == 22) == (day >= 3))))
    roll = 180
    np.testing.assert_array_equal(np.diff(got.piece).nonzero()[0], [roll - 1])
    assert got.open[roll] == pytest.approx(got.close[roll - 1], rel=1e-12)
    inside = np.delete(np.arange(299), roll - 1)
    np.testing.assert_allclose(np.diff(np.log(got.close))[inside], np.diff(np.log(spot.close))[inside], atol=1e-12)


def test_what_comes_later_changes_nothing_before_a_roll():
    _, table = two_contracts()
    a = BarFile().from_table(table)
    b = BarFile().from_table(table.filter(pa.array(table['ts_event'].to_numpy() < BASE + 3 * DAY)))
    for name in ('time', 'open', 'high', 'low', 'close', 'volume', 'piece'):
        np.testing.assert_array_equal(getattr(a, name)[:180], getattr(b, name))


def test_no_contract_comes_back():
    _, table = two_contracts()
    contract, day = table['instrument_id'].to_numpy(), (table['ts_event'].to_numpy() - BASE) // DAY
    volume = np.where((contract == 11) & (day == 3), 5000.0, table['volume'].to_numpy())
    got = BarFile().from_table(table.set_column(table.column_names.index('volume'), 'volume', pa.array(volume)))
    assert got.piece.max() == 1


def test_contracts_named_by_symbol_and_duplicates():
    _, table = two_contracts()
    names = np.where(table['instrument_id'].to_numpy() == 11, 'NQH4', 'NQM4')
    by_name = table.drop_columns(['instrument_id']).append_column('symbol', pa.array(names))
    got = BarFile(contracts='symbol').from_table(by_name)
    np.testing.assert_array_equal(got.close, BarFile().from_table(table).close)
    with pytest.raises(InputError, match='2 symbols'):
        BarFile().from_table(by_name)
    with pytest.raises(
        InputError, match="column 'ts_event', row 2: the stamp is not after that of the contract before"
    ):
        BarFile().from_table(table.take([0, 1, 1, 2, 3]))


def test_one_contract_at_a_time_with_bars_of_both_at_the_roll_loses_none(capsys):
    """The old contract ends within a day whose day before knew no other; both traded for the bars before."""
    spot, table = two_contracts()
    contract, since = table['instrument_id'].to_numpy(), table['ts_event'].to_numpy() - BASE
    old_until, new_from = 2 * DAY + 40 * MINUTE, 2 * DAY + 38 * MINUTE
    got = BarFile(timezone='UTC').from_table(
        table.filter(pa.array(np.where(contract == 11, since <= old_until, since >= new_from)))
    )
    np.testing.assert_array_equal(got.time, spot.time)
    np.testing.assert_array_equal(got.piece, spot.time - BASE > old_until)
    np.testing.assert_allclose(got.close, spot.close, rtol=1e-12)  # adjusted by both contracts: the market's returns
    assert 'the table: 1 rolls, 1 adjusted by both contracts at one instant\n' in capsys.readouterr().out


def test_a_far_contract_that_a_file_starts_with_is_held_for_no_more_than_a_day():
    """The far contract has the first row, and the most volume of the first stamp; it leads again later."""
    spot, table = two_contracts(crossing=4)
    volume = table['volume'].to_numpy().copy()
    volume[:2] = np.where(table['instrument_id'].to_numpy()[:2] == 22, 5.0, 1.0)
    order = np.lexsort((-table['instrument_id'].to_numpy(), table['ts_event'].to_numpy()))
    table = table.set_column(table.column_names.index('volume'), 'volume', pa.array(volume)).take(order)
    day = (table['ts_event'].to_numpy() - BASE) // DAY
    alive = (table['instrument_id'].to_numpy() == 22) | (day < 4)  # the near one ends
    got = BarFile(timezone='UTC').from_table(table.filter(pa.array(alive)))
    np.testing.assert_array_equal(got.time, spot.time)
    np.testing.assert_array_equal(got.piece, np.repeat([0, 1, 1, 1, 2], 60))
    np.testing.assert_allclose(np.diff(np.log(got.close)), np.diff(np.log(spot.close)), atol=1e-12)


def test_days_are_those_of_the_exchange():
    """In Chicago the day ends six hours after that of UTC: the volume of those hours counts on the day before."""
    _, table = two_contracts()
    evening = table['ts_event'].to_numpy() + 22 * 60 * MINUTE  # 16:00 to 17:00 there
    table = table.set_column(0, 'ts_event', pa.array(evening))
    late = table.filter(pa.array(evening % DAY >= 22 * 60 * MINUTE + 30 * MINUTE))
    night = late.set_column(0, 'ts_event', pa.array(late['ts_event'].to_numpy() + 4 * 60 * MINUTE))  # 02:30 UTC
    whole = pa.concat_tables([table, night])
    whole = whole.take(np.argsort(whole['ts_event'].to_numpy(), kind='stable'))
    got = BarFile(timezone='America/Chicago').from_table(whole)
    roll = got.time[int(got.piece.argmax())]
    assert roll == BASE + 3 * DAY + 22 * 60 * MINUTE  # by UTC, the night of the third day would be on the fourth


def test_stamps_at_which_another_contract_traded_alone_are_counted(capsys):
    _, table = two_contracts()
    contract, since = table['instrument_id'].to_numpy(), table['ts_event'].to_numpy() - BASE
    absent = (contract == 11) & (since >= 5 * MINUTE) & (since < 9 * MINUTE)
    got = BarFile(timezone='UTC').from_table(table.filter(pa.array(~absent)))
    assert len(got) == 296
    assert (
        'the table: 4 stamps are left out: another contract traded, and not the one that counts\n'
        in capsys.readouterr().out
    )


def test_a_contract_that_is_silent_at_the_end_of_a_file_is_not_over():
    """As in a live file: the near one has no trade in the last bar, and the far one has."""
    _, table = two_contracts(crossing=9)
    contract, since = table['instrument_id'].to_numpy(), table['ts_event'].to_numpy() - BASE
    got = BarFile().from_table(table.filter(pa.array((contract == 22) | (since < 4 * DAY + 58 * MINUTE))))
    assert len(got) == 298 and not got.piece.any()
