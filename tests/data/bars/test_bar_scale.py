"""The volatility of a horizon: units, the fit on a market whose variance is known, still spells, nothing of later."""

import dataclasses

import numpy as np
import pytest

from fjq.data.bars.features import bar_returns
from fjq.data.bars.scale import (
    COUNT,
    HALF_LIVES,
    LEAST_SCALE,
    LEAST_SHARE,
    bar_variance,
    fit_scale,
    log_variances,
    scale_by_root,
)
from fjq.data.bars.series import Bars
from fjq.data.bars.simulated import SimulatedMigtData
from fjq.data.windows import Split
from fjq.parallel import Parallel

SPLIT = Split(train_end='2022-12-31', valid_end='2023-03-31', purge_days=0, embargo_days=1)


@pytest.fixture(scope='module')
def config():
    return SimulatedMigtData(split=SPLIT, start='2022-02-01', sessions=400, minutes=15, horizons=(1, 4, 16), window=92)


@pytest.fixture(scope='module')
def data(config, tmp_path_factory):
    return config.open(tmp_path_factory.mktemp('bars'), Parallel(workers=1))


def with_prices(data, change) -> Bars:
    """The bars with what `change` makes of each array of prices."""
    return dataclasses.replace(
        data.bars, **{n: change(getattr(data.bars, n)) for n in ('open', 'high', 'low', 'close')}
    )


def test_ranges_tell_the_variance_of_bars(config, data):
    """Of known variance; they tell it with less noise than squared returns. Few prices a bar bias a range down."""
    known, opens = config.simulate().variance, np.isin(np.arange(len(data.bars)) % 92, [0])
    within, whole = (bar_variance(data.bars, breaks=b) for b in (False, True))
    share, square = within[~opens] / known[~opens], bar_returns(data.bars)[~opens] ** 2 / known[~opens]
    assert 0.6 < share.mean() < 1 and share.std() / share.mean() < 0.8 * square.std() / square.mean()
    np.testing.assert_array_equal(within[~opens], whole[~opens])
    assert whole[opens][1:].mean() > 3 * within[opens][1:].mean()


def test_variances_by_hand(data):
    got = log_variances(data.bars, 0.97)
    assert got.shape == (len(data.bars), COUNT) and np.isfinite(got).all()
    within, returns = bar_variance(data.bars, breaks=False), bar_returns(data.bars)
    for t in (0, 5, 900):
        ages = np.arange(t, -1, -1)
        weights = [0.97**ages, *(0.5 ** (ages / h) for h in HALF_LIVES)]
        values = [returns[: t + 1] ** 2] + [within[: t + 1]] * len(HALF_LIVES)
        want = [np.average(v, weights=w) for v, w in zip(values, weights, strict=True)]
        np.testing.assert_allclose(got[t], np.log(want), rtol=1e-9)


def test_the_future_changes_no_bit(data):
    later = np.arange(len(data.bars)) > 3000
    other = with_prices(data, lambda price: np.where(later, 1.5 * price**1.2, price))
    a, b = (log_variances(bars, 0.97) for bars in (data.bars, other))
    np.testing.assert_array_equal(a[:3001], b[:3001])
    assert (a[3001:] != b[3001:]).all()


def test_it_finds_the_volatility_that_is_known(config, data):
    """On test rows, against the truth: the spread of the log ratio is a third of that of EWMA sqrt(h) at most."""
    rows = data.rows('test')
    truth = np.log(config.oracle_sd(rows))
    place, x = (data.tables()[n][: len(data.bars)] for n in ('bar_in_day', 'log_variance'))
    end = np.searchsorted(data.history()['time'], rows['time'])
    for scale, most in ((data.scale, 0.2), (scale_by_root(data.horizons, data.bars_per_day), 0.8)):
        off = np.log(scale.volatility(place[end], x[end])) - truth
        spread = np.array([off[rows['valid'][:, h], h].std() for h in range(3)])
        assert (spread < most).all() and (spread > most / 3).all(), spread


def test_scale_by_root(data):
    x = log_variances(data.bars, 0.97)[[50, 60]]
    got = scale_by_root((1, 4), 96).volatility(np.array([0, 95]), x)
    np.testing.assert_allclose(got, np.exp(x[:, :1] / 2) * [1, 2])


def make_rows(count, seed=0, places=24):
    """Rows whose log variance ahead is a season plus 0.5 of one log variance plus noise."""
    rng = np.random.Generator(np.random.Philox(seed))
    place = np.arange(count) % places
    x = rng.normal(-14, 1, (count, COUNT))
    season = np.sin(2 * np.pi * place / places)
    ahead = np.exp(season + 0.5 * x[:, 2] + rng.normal(0, 0.5, count))[:, None]
    return place, x, ahead


def test_fit_of_a_known_law():
    place, x, ahead = make_rows(20_000)
    scale = fit_scale(place, x, ahead, (1,), 24)
    np.testing.assert_allclose(scale.weight[:, 0], [0, 0, 0.5, 0, 0, 0], atol=0.02)
    season = scale.offset[:, 0] - scale.offset[:, 0].mean()
    np.testing.assert_allclose(season, np.sin(2 * np.pi * np.arange(24) / 24), atol=0.05)


def test_few_rows_are_held_to_their_mean():
    """Rows that overlap 48-fold count as a 48th: the fit of ten of them hardly leaves their mean log variance."""
    place, x, ahead = make_rows(10)
    loose, held = (fit_scale(place, x, ahead, (h,), 24).volatility(place, x)[:, 0] for h in (1, 480))
    mean = np.log(ahead).mean() / 2
    assert np.abs(np.log(held) - mean).max() < 0.1 < np.abs(np.log(loose) - mean).max()


def test_places_without_rows_lie_between_their_neighbours():
    place, x, ahead = make_rows(20_000)
    seen = ~np.isin(place, (4, 5, 6))
    offset = fit_scale(place[seen], x[seen], ahead[seen], (1,), 24).offset[:, 0]
    np.testing.assert_allclose(offset[4:7], np.linspace(offset[3], offset[7], 5)[1:-1], rtol=1e-6)


def test_unlabelled_rows_do_not_count():
    place, x, ahead = make_rows(400)
    more = np.concatenate([ahead, np.full((100, 1), np.nan)])
    again = np.concatenate([place, place[:100]]), np.concatenate([x, 2 * x[:100]])
    for a, b in zip(fit_scale(*again, more, (1,), 24), fit_scale(place, x, ahead, (1,), 24), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_market_that_stands_still(data):
    """No move at all has a variance, and a still spell counts as a hundredth of the longest average, not as none."""
    still = with_prices(data, np.ones_like)
    np.testing.assert_allclose(log_variances(still, 0.97), np.log(LEAST_SCALE**2))
    later = np.arange(len(data.bars)) > 3000
    halted = log_variances(with_prices(data, lambda price: np.where(later, 5.0, price)), 0.97)
    np.testing.assert_allclose(halted[3400, 1], halted[3400, -1] + np.log(LEAST_SHARE))
    place, x, ahead = make_rows(400)
    ahead[7] = 0
    assert np.isfinite(np.concatenate(fit_scale(place, x, ahead, (1,), 24))).all()
