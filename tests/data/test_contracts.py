"""Rolls by contract id: adjusted by both contracts at one instant, never by the size of a return."""

import numpy as np
import pyarrow as pa
import pytest
from test_bars import make_bars

from fjq.data.bar_files import BarFile
from fjq.data.sessions import DAY, MINUTE
from fjq.errors import InputError

BASE = np.datetime64('2024-03-04', 'ns').astype(np.int64)  # a Monday
BASIS = 1.013  # the later contract over the earlier one


def two_contracts(crossing=3):
    """Five days of one market in two contracts; the second trades more from day `crossing` - 1 on."""
    time = BASE + np.concatenate([DAY * d + MINUTE * np.arange(60) for d in range(5)])
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
