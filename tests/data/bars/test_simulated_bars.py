"""The simulated market keeps its word: the quantiles it claims are those of its returns, and of nothing later."""

import dataclasses

import numpy as np
import pytest
from scipy import stats

from fjq.data.bars.simulated import ALPHA, BETA, SimulatedMigtData, session_weights
from fjq.data.clock import find_zone, to_wall
from fjq.data.windows import Split
from fjq.errors import InputError
from fjq.parallel import Parallel

SPLIT = Split(train_end='2022-10-31', valid_end='2023-01-31', purge_days=0, embargo_days=1)
LEVELS = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)


@pytest.fixture(scope='module')
def config():
    return SimulatedMigtData(split=SPLIT, start='2022-02-01', sessions=400)


@pytest.fixture(scope='module')
def rows(config, tmp_path_factory):
    return config.open(tmp_path_factory.mktemp('bars'), Parallel(workers=1)).rows('all')


def test_returns_are_as_wide_as_claimed(config, rows):
    """Standardised by the truth, returns that do not overlap are standard normal, at every horizon."""
    units = rows['target'] / config.oracle_sd(rows)
    for h, bars in enumerate(rows['horizon']):
        apart = units[rows['valid'][:, h], h][:: int(bars)]
        assert stats.kstest(apart, 'norm').pvalue > 0.001
        assert np.mean(apart**2) == pytest.approx(1, abs=4 * np.sqrt(2 / len(apart)))
    raw = rows['target'][rows['valid'][:, 0], 0][::3]
    assert stats.kurtosis(raw) > 1  # over time: tails that the conditional law does not have


def test_oracle_covers_by_hour_and_by_volatility(config, rows):
    quantiles = config.oracle(rows, LEVELS)
    assert quantiles.shape == (*rows['target'].shape, 7) and (np.diff(quantiles[rows['valid']], axis=-1) > 0).all()
    inside = (rows['target'] > quantiles[..., 1]) & (rows['target'] < quantiles[..., 5])
    calm = rows['scale'] < np.median(rows['scale'])
    for part in (calm, ~calm, rows['hour'] == 9, rows['hour'] == 3, np.isin(rows['hour'], (15, 16))):
        for h, bars in enumerate(rows['horizon'][:4]):
            chosen = inside[part & rows['valid'][:, h], h]
            assert chosen.mean() == pytest.approx(0.8, abs=4 * 0.4 / np.sqrt(len(chosen) / bars))


def test_no_forecast_is_better_than_the_oracle(config, rows):
    """Wider, narrower and flat quantiles have a higher pinball loss."""

    def pinball(quantiles):
        error = rows['target'][..., None] - quantiles
        loss = np.maximum(np.array(LEVELS) * error, (np.array(LEVELS) - 1) * error)
        return loss[rows['valid']].mean()

    truth = config.oracle(rows, LEVELS)
    sd = config.oracle_sd(rows)
    flat = truth / sd[..., None] * np.sqrt(np.nanmean(sd**2, 0))[None, :, None]
    assert pinball(truth) < min(pinball(1.15 * truth), pinball(0.85 * truth), pinball(flat) / 1.05)


def test_the_truth_is_a_function_of_the_past(config):
    """The variance of a session is that of its recursion on whole sessions before the one before it."""
    bars = config.simulate()
    per_day = len(session_weights(5))
    log_close = np.log(bars.close).reshape(-1, per_day)
    level = bars.variance.reshape(-1, per_day)[:, 1] / session_weights(5)[1]
    inside = np.log(bars.close.reshape(-1, per_day)[:, -1] / bars.open.reshape(-1, per_day)[:, 0])
    assert log_close.shape[0] == 400
    # The recursion takes the session's whole return; its first eighth of a bar, before the open, is not in the prices.
    want = (1 - ALPHA - BETA) * config.volatility**2 + ALPHA * inside[:-2] ** 2 / per_day + BETA * level[1:-1]
    np.testing.assert_allclose(level[2:], want, rtol=0.2)
    assert np.corrcoef(level[2:], want)[0, 1] > 0.999


def test_sessions(config):
    """23 hours from 18:00 to 17:00 in New York on both sides of both changes of clocks, no weekends, no holidays."""
    bars = config.simulate()
    wall = to_wall(bars.closed - 5 * 60 * 10**9, find_zone('America/New_York')).astype('datetime64[ns]')
    minute = (wall - wall.astype('datetime64[D]')).astype('timedelta64[m]').astype(int)
    np.testing.assert_array_equal(minute.reshape(400, 276)[:, [0, -1]], np.tile([18 * 60, 17 * 60 - 5], (400, 1)))
    weekday = (wall.astype('datetime64[D]').astype(int) + 3) % 7
    assert set(weekday) == {0, 1, 2, 3, 4, 6} and minute[weekday == 6].min() == 18 * 60
    assert not np.isin(
        wall[minute == 600].astype('datetime64[D]'), np.array(['2022-07-04', '2022-12-26'], 'datetime64[D]')
    ).any()
    assert ((bars.low <= np.minimum(bars.open, bars.close)) & (bars.high >= np.maximum(bars.open, bars.close))).all()


def test_longer_and_other_simulations(config, tmp_path):
    short = dataclasses.replace(config, sessions=20).simulate()
    for a, b in zip(short, config.simulate(), strict=True):
        np.testing.assert_array_equal(a, b[: len(a)])
    assert (dataclasses.replace(config, market_seed=1).simulate().close != config.simulate().close).all()
    located = dataclasses.replace(config, sessions=20).locate(tmp_path, Parallel(workers=1))
    assert located.path.endswith('.parquet') and type(located).__name__ == 'MigtData'


def test_beyond_a_session_and_beyond_the_end(config, rows):
    with pytest.raises(InputError, match='300 bars are more than a session'):
        config.oracle(rows | {'horizon': np.array([300])}, LEVELS)
    np.testing.assert_array_equal(np.isnan(config.oracle_sd(rows)), ~rows['valid'])
