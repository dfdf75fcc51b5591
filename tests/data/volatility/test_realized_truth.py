"""Daily volatility from simulated trades with noise, jumps and auctions, whose true variance is known."""

import numpy as np
import pyarrow.parquet as pq
import pytest

from fjq.data.volatility.realized import ComputeRv, compute_rv
from fjq.parallel import Parallel

INLINE = Parallel(workers=1)


@pytest.fixture(scope='module')
def market(tmp_path_factory):
    """40 sessions of SPY's trades, and the integrated and jump variance behind each."""
    from fjq.data.synthetic.market import scaled
    from fjq.data.synthetic.simulate import simulate

    made = simulate(tmp_path_factory.mktemp('market'), scaled('small', days=40, what=('spy', 'rv')), INLINE)
    return made['spy'], pq.read_table(made['truth'] / 'spy_variance.parquet')


def _log_errors(market, column: list[str], **fields) -> np.ndarray:
    """Error of each day's log volatility."""
    trades, truth = market
    table = compute_rv(ComputeRv(root=str(trades), **fields), INLINE)
    assert table.num_rows == 40
    at = np.searchsorted(truth['date'].to_numpy(), table['date'].to_numpy())
    true = sum(truth[name].to_numpy() for name in column)[at]
    return np.log(table['daily_rv'].to_numpy()) - np.log(true * 252) / 2


def test_each_measure_finds_the_true_volatility_as_well_as_theory_lets_it(market):
    whole, smooth = ['integrated_variance', 'jump_variance'], ['integrated_variance']
    errors = {
        'one grid': _log_errors(market, whole, offset=300),
        'sub-grids': _log_errors(market, whole),
        'bipower': _log_errors(market, smooth, measure='bipower'),
        'two scales': _log_errors(market, whole, measure='two_scale'),
        'tick sum': _log_errors(market, whole, measure='tick_sum'),
    }
    size = {name: np.sqrt((e**2).mean()) for name, e in errors.items()}
    # A log volatility from n = 78 returns errs by sqrt(2 / n) / 2 = 0.08; averaged, by sqrt(4 / 3 / n) / 2 = 0.065.
    assert 0.05 < size['one grid'] < 0.12 and size['sub-grids'] < 0.95 * size['one grid']
    assert size['bipower'] < 0.12
    assert size['two scales'] < 0.03
    for name in ('one grid', 'sub-grids', 'bipower', 'two scales'):
        assert abs(errors[name].mean()) < 0.03, name
    assert errors['tick sum'].mean() > 0.03  # only noise can do that: it errs little and always upwards
    assert size['tick sum'] > 3 * size['two scales']
