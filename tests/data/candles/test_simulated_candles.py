"""Simulated candles are the same for every kind of rows, and settings of the user's files are not theirs."""

import pyarrow as pa
import pytest

from fjq.data.candles.simulated import PlantedTokenData, SimulatedCandleWindowData, SimulatedTokenData
from fjq.data.candles.windows import CandleWindowData
from fjq.data.windows import Split
from fjq.parallel import Parallel

ONE = Parallel(workers=1)
SPLIT = Split(train_end='2018-09-30', valid_end='2018-11-30', purge_days=0, embargo_days=0)
SIZES = {'days': 300, 'simulated_assets': 2}
KINDS = SimulatedCandleWindowData, SimulatedTokenData, PlantedTokenData


def test_tokens_and_windows_are_of_the_same_candles(tmp_path):
    windows, tokens = (kind(split=SPLIT, **SIZES).open(tmp_path, ONE) for kind in KINDS[:2])
    assert windows.fingerprint()['candles'] == tokens.fingerprint()['candles']
    assert len(list(tmp_path.glob('candles_*'))) == 1


def test_candles_in_memory_are_rows_at_the_scale_of_the_simulated_ones(tmp_path):
    config = SimulatedCandleWindowData(split=SPLIT, **SIZES)
    whole = config.open(tmp_path, ONE)
    own = whole.history()
    memory = config.from_table(pa.table({'symbol': own.pop('id'), **own}))
    assert memory.first_scale == whole.first_scale and len(memory.rows('all')['id']) == len(own['time'])


@pytest.mark.parametrize('kind', KINDS)
def test_what_is_said_of_files_is_not_of_simulated_ones(kind):
    given = CandleWindowData(split=SPLIT, path='mine', quality='stop', splits=True, assets=('X',), batch_rows=5)
    data = kind.like(given, days=9)
    fresh = kind(split=SPLIT)
    assert (data.path, data.quality, data.splits, data.assets) == (fresh.path, 'repair', False, ())
    assert (data.batch_rows, data.days, data.split) == (5, 9, SPLIT)
