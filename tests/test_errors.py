"""The input error reads as one line and survives the way between processes."""

import pickle
from pathlib import Path

import pytest

from fjq.errors import InputError


def test_the_line_names_file_column_row_and_remedy():
    error = InputError('the price\n is negative', file=Path('a/b.csv'), column='price', row=3, remedy='correct it')
    assert str(error) == "a/b.csv, column 'price', row 3: the price is negative. Correct it."


@pytest.mark.parametrize('protocol', range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickled_error_reads_the_same(protocol):
    error = InputError('no rows', file='a.csv', row=0, remedy='add some')
    error.add_note('seen on Monday')
    copy = pickle.loads(pickle.dumps(error, protocol))
    assert type(copy) is InputError and str(copy) == str(error)
    assert vars(copy) == vars(error)
