"""Baselines of intraday returns: what they compute, and that they can not see the future."""

import dataclasses

import jax
import numpy as np
import pytest
from scipy import stats
from simulated_market import select

from fjq.baselines import (
    BoostedQuantiles,
    Bootstrap,
    EmpiricalQuantiles,
    GarchT,
    HarQuantiles,
    RandomWalk,
    SeasonalQuantiles,
    Unavailable,
    Zero,
)
from fjq.baselines.garch import fit_garch, span_volatility
from fjq.baselines.seasonal import fill_forward, variance_ahead
from fjq.config import from_dict, to_dict
from fjq.data.ewma import ewma
from fjq.errors import InputError
from fjq.forecast import Law

BARS, DAYS, HORIZONS = 24, 60, (2, 6)
M = BARS * DAYS
BASELINES = {
    'zero': Zero(),
    'ewma quantiles': EmpiricalQuantiles(column='close'),
    'seasonal': SeasonalQuantiles(),
    'seasonal expanding': SeasonalQuantiles(fit='expanding', stride=20),
    'har': HarQuantiles(windows=(2, 6, 24)),
    'har expanding': HarQuantiles(windows=(2, 6, 24), fit='expanding', stride=20),
    'garch-t': GarchT(),
    'random walk': RandomWalk(),
    'bootstrap': Bootstrap(window=100, paths=30),
    'bootstrap as it is': Bootstrap(window=100, paths=30, scaled=False),
    'boosted': BoostedQuantiles(package='sklearn', windows=(1, 6), trees=3, levels=(0.1, 0.9)),
}
each_baseline = pytest.mark.parametrize('baseline', BASELINES.values(), ids=BASELINES.keys())


def rng(*key):
    return np.random.Generator(np.random.Philox(list(key)))


@pytest.fixture(scope='module')
def bars() -> tuple[dict, dict]:
    """(history, rows) of a market whose volatility is four times as high in the middle of the day."""
    place = np.tile(np.arange(BARS), DAYS)
    daily = np.repeat(np.exp(0.4 * rng(1).standard_normal(DAYS)), BARS)
    returns = 1e-3 * np.where(abs(place - 12) < 4, 4.0, 1.0) * daily * rng(2).standard_t(5, M)
    close = 100 * np.exp(np.cumsum(returns))
    start = np.repeat(np.datetime64('2023-01-02T14:00', 'ns') + np.arange(DAYS) * np.timedelta64(1, 'D'), BARS)
    time = start + place * np.timedelta64(5, 'm')
    history = {'time': time, 'close': close, 'bar_in_day': place}
    n = M - max(HORIZONS)
    rows = {
        'time': time[:n],
        'target': np.stack([np.log(close[h : h + n] / close[:n]) for h in HORIZONS], 1),
        'valid': np.ones((n, 2), bool),
        'label_end': np.stack([time[h : h + n] for h in HORIZONS], 1),
    }
    return history, rows


def split(rows: dict) -> tuple[dict, dict]:
    """(the rows that are asked for, the training labels)"""
    return select(rows, slice(900, None)), select(rows, slice(0, 880))


def leaves(law: Law) -> np.ndarray:
    return np.concatenate([np.asarray(x, np.float64).reshape(*law.shape, -1) for x in jax.tree.leaves(law)], -1)


@each_baseline
def test_forecasts_are_there(baseline, bars):
    history, rows = bars
    asked, labels = split(rows)
    law = baseline.forecast(history, asked, labels)
    assert law.shape == asked['target'].shape and np.isfinite(leaves(law)).all()
    assert from_dict(to_dict(baseline)) == baseline


@each_baseline
def test_the_future_changes_no_bit(baseline, bars):
    history, rows = bars
    asked, labels = split(rows)
    before = leaves(baseline.forecast(history, asked, labels))
    moment = history['time'][1100]
    later = history['time'] > moment
    changed = history | {'close': np.where(later, history['close'] * rng(7).uniform(0.5, 2, M), history['close'])}
    unknown = asked['label_end'] > moment
    other = asked | {'target': np.where(unknown, rng(8).standard_normal(unknown.shape), asked['target'])}
    after = leaves(baseline.forecast(changed, other, labels))
    past = asked['time'] <= moment
    np.testing.assert_array_equal(after[past], before[past])
    if not isinstance(baseline, Zero):
        assert (after[~past] != before[~past]).any()


@each_baseline
def test_each_row_stands_alone(baseline, bars):
    history, rows = bars
    asked, labels = split(rows)
    labels = rows | {'train': np.arange(len(rows['time'])) < 880}
    whole = leaves(baseline.forecast(history, asked, labels))
    lone = leaves(baseline.forecast(history, {'time': asked['time'][200:201]}, labels))
    np.testing.assert_allclose(lone[0], whole[200], rtol=1e-9, atol=1e-15)


@each_baseline
def test_several_series_are_forecast_apart(baseline, bars):
    history, rows = bars
    asked, labels = split(rows)
    double = {'time': history['time'], 'close': history['close'] ** 2, 'bar_in_day': history['bar_in_day']}
    stack = lambda a, b: {k: np.concatenate([a[k], b[k]]) for k in a} | {'id': np.repeat(['a', 'b'], len(a['time']))}
    both = baseline.forecast(
        stack(history, double),
        stack(asked, asked | {'target': 2 * asked['target']}),
        stack(labels, labels | {'target': 2 * labels['target']}),
    )
    alone = leaves(baseline.forecast(history, asked, labels))
    np.testing.assert_allclose(leaves(both)[: len(alone)], alone, rtol=1e-9, atol=1e-15)


def test_seasonal_volatility_by_brute_force(bars):
    history, rows = bars
    asked, labels = split(rows)
    baseline = SeasonalQuantiles(levels=(0.25, 0.75), days=3.0, decay=0.9)
    place, variance = history['bar_in_day'], np.diff(np.log(history['close']), prepend=np.nan) ** 2
    weight = 0.5 ** (1 / 3.0)

    def average(values, t, delay):
        """Of the values at places of the same number at least `delay` bars before t, newer ones weighing more."""
        past = [s for s in range(t - delay + 1) if place[s] == place[t] and np.isfinite(values[s])]
        weights = weight ** np.arange(len(past))[::-1]
        return (weights * values[past]).sum() / weights.sum() if len(past) >= 5 else np.nan

    typical = np.array([average(variance, t, 1) for t in range(M)])
    level = fill_forward(ewma(variance / typical, 0.9))
    asked = select(asked, slice(0, 40))
    law = baseline.forecast(history, asked, labels)
    for h, steps in enumerate(HORIZONS):
        ahead = np.array([variance[t + 1 : t + 1 + steps].sum() if t + steps < M else np.nan for t in range(M)])
        np.testing.assert_allclose(variance_ahead(variance, steps), ahead, rtol=1e-9)
        # The first steps of a label and none of what comes after t: day averages only reach bars of earlier days here.
        scale = fill_forward(np.sqrt(level * np.array([average(ahead / level, t, steps) for t in range(M)])))
        units = labels['target'][:, h] / scale[:880]
        expected = np.nanquantile(units, [0.25, 0.75]) * scale[900:940, None]
        np.testing.assert_allclose(law.values[:, h], expected, rtol=1e-6)


def test_a_place_that_is_absent_is_said(bars):
    history, rows = bars
    with pytest.raises(Unavailable, match="no column 'bar_in_day'"):
        SeasonalQuantiles().forecast({k: v for k, v in history.items() if k != 'bar_in_day'}, *split(rows))


def test_the_time_of_day_pays(bars):
    """On a market with a season, knowing it lowers the CRPS."""
    history, rows = bars
    asked, labels = split(rows)
    score = lambda b: float(np.asarray(b.forecast(history, asked, labels).crps(asked['target']))[:, 0].mean())
    assert score(SeasonalQuantiles()) < 0.97 * score(EmpiricalQuantiles(column='close'))


def test_har_quantiles_by_least_squares(bars):
    history, rows = bars
    asked, labels = split(rows)
    law = HarQuantiles(windows=(2, 24), levels=(0.1, 0.9)).forecast(history, asked, labels)
    variance = np.nan_to_num(np.diff(np.log(history['close']), prepend=np.nan) ** 2)
    trailing = lambda t, w: np.log(variance[t - w + 1 : t + 1].mean())
    kept = np.arange(23, 880)
    for h, steps in enumerate(HORIZONS):
        x = np.array([[1, trailing(t, 2), trailing(t, 24)] for t in range(23, len(rows['time']))])
        y = np.array([np.log(variance[t + 1 : t + 1 + steps].sum()) for t in kept])
        weights = np.linalg.solve(x[: len(kept)].T @ x[: len(kept)], x[: len(kept)].T @ y)
        scale = np.exp(np.clip(x @ weights, y.min(), y.max()) / 2)
        quantiles = np.quantile(labels['target'][kept, h] / scale[: len(kept)], [0.1, 0.9])
        np.testing.assert_allclose(law.values[:, h], quantiles * scale[900 - 23 :, None], rtol=1e-6)


def test_har_quantiles_stay_within_what_was_fitted(bars):
    """A regression of logs on a volatility beyond all that it was fitted on would explode."""
    history, rows = bars
    returns = 1e-3 * np.exp(2 * np.sin(np.arange(M) / 100)) * rng(3).standard_normal(M)
    returns[-40] = 100.0
    close = 100 * np.exp(np.cumsum(returns))
    n = len(rows['time'])
    target = np.stack([np.log(close[h : h + n] / close[:n]) for h in HORIZONS], 1)
    asked, labels = split(rows | {'target': target})
    law = HarQuantiles(windows=(24,)).forecast(history | {'close': close}, asked, labels)
    for h, steps in enumerate(HORIZONS):
        sums = [(returns[t + 1 : t + 1 + steps] ** 2).sum() for t in range(24, 880)]
        width = np.log(np.ptp(law.values[:, h], axis=-1))
        assert (
            np.ptp(width) == pytest.approx(np.ptp(np.log(sums)) / 2, rel=0.5)
            and np.ptp(width) <= np.ptp(np.log(sums)) / 2
        )


def test_har_quantiles_count_the_bars_of_a_day(bars):
    history, rows = bars
    asked, labels = split(rows)
    ours, given = (HarQuantiles(windows=w).forecast(history, asked, labels).values for w in ((), (1, 6, 24)))
    np.testing.assert_array_equal(ours, given)  # an hour and six of a session of 23, and a day of 24 bars
    count = lambda table: table | {k: np.arange(len(v)) for k, v in table.items() if k == 'time'}
    with pytest.raises(Unavailable, match='the times are no dates, so the bars of a day are not known: set `windows`'):
        ends = {'label_end': np.arange(len(rows['time']))[:, None] + np.array(HORIZONS)}
        HarQuantiles().forecast(count(history), *split(count(rows | ends)))


def test_har_quantiles_need_ten_labels_a_regressor(bars):
    history, rows = bars
    asked, labels = split(rows)
    law = HarQuantiles(windows=(2, 6, 24)).forecast(history, asked, select(labels, slice(0, 63)))  # 40 have a day
    assert np.isfinite(law.values).all()
    with pytest.raises(Unavailable, match='horizon 1 has 39 training labels for 4 regressors, not ten of each'):
        HarQuantiles(windows=(2, 6, 24)).forecast(history, asked, select(labels, slice(0, 62)))


def test_garch_t_is_a_student_law_of_its_volatility(bars):
    history, rows = bars
    asked, labels = split(rows)
    law = GarchT().forecast(history, asked, labels)
    returns = np.diff(np.log(history['close']))
    parameters = fit_garch(returns[:879], 't')
    scale = span_volatility(returns, *parameters[:3], np.array(HORIZONS, float))
    for h in range(2):
        units = labels['target'][20:, h] / scale[19:879, h]
        df, _, size = stats.t.fit(units, floc=0)
        expected = scale[899 : 899 + len(asked['time']), h, None] * stats.t.ppf([0.05, 0.5, 0.9], df, scale=size)
        np.testing.assert_allclose(law.quantile([0.05, 0.5, 0.9])[:, h], expected, rtol=0.02, atol=1e-7)


def test_random_walk_is_gaussian_with_the_recent_variance(bars):
    history, rows = bars
    asked, labels = split(rows)
    law = RandomWalk(decay=0.9).forecast(history, asked, labels)
    returns = np.diff(np.log(history['close']))[:900]
    weights = 0.9 ** np.arange(900)[::-1]
    sigma = np.sqrt((weights * returns**2).sum() / weights.sum())
    got = np.asarray(law.quantile(0.9))
    np.testing.assert_allclose(got[0], stats.norm.ppf(0.9) * sigma * np.sqrt(HORIZONS), rtol=1e-3)


def test_bootstrap_draws_sums_of_past_returns(bars):
    history, rows = bars
    asked, labels = split(rows)
    baseline = Bootstrap(window=5, paths=40, scaled=False, steps=(1, 2))
    law = baseline.forecast(history, asked, labels)
    past = np.diff(np.log(history['close']))[900 - 5 : 900]
    singles, pairs = law.values[0, 0], law.values[0, 1]
    assert set(np.round(singles, 12)) == set(np.round(past, 12))
    sums = np.add.outer(past, past).ravel()
    assert all(np.isclose(sums, v, rtol=1e-9, atol=1e-15).any() for v in pairs) and len(np.unique(pairs)) > 8


def test_scaled_bootstrap_has_the_width_of_the_volatility(bars):
    history, rows = bars
    asked, labels = split(rows)
    quiet = history | {'close': history['close'] ** 0.1}
    wide, narrow = (Bootstrap(window=100).forecast(h, asked, labels).std() for h in (history, quiet))
    np.testing.assert_allclose(wide, 10 * np.asarray(narrow), rtol=1e-3)


def test_an_absent_package_is_said(bars, monkeypatch):
    import builtins

    real = builtins.__import__

    def refuse(name, *rest, **more):
        if name.split('.')[0] in ('lightgbm', 'arch'):
            raise ModuleNotFoundError(f'No module named {name!r}', name=name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, '__import__', refuse)
    with pytest.raises(Unavailable, match='lightgbm'):
        BoostedQuantiles().forecast(bars[0], *split(bars[1]))
    with pytest.raises(Unavailable, match='arch'):
        GarchT().forecast(bars[0], *split(bars[1]))


def test_boosted_trees_learn_the_season(bars):
    history, rows = bars
    asked, labels = split(rows)
    trees = BoostedQuantiles(package='sklearn', windows=(1, 6), trees=40, levels=(0.1, 0.9), min_leaf=20)
    blind = dataclasses.replace(trees, extra=())
    losses = []
    for b in (trees, blind):
        law = b.forecast(history, asked, labels)
        losses.append(float(np.asarray(law.crps(asked['target']))[:, 0].mean()))
    assert losses[0] < losses[1]


@pytest.mark.parametrize(
    'baseline',
    [Bootstrap(kind='volume'), Bootstrap(window=1), BoostedQuantiles(package='trees'), RandomWalk(kind='volume')],
)
def test_unknown_choices(baseline, bars):
    with pytest.raises(InputError):
        baseline.forecast(bars[0], *split(bars[1]))


def test_too_few_returns_are_said(bars):
    with pytest.raises(Unavailable, match='not 5000'):
        GarchT(min_steps=5000).forecast(bars[0], *split(bars[1]))


@pytest.mark.parametrize('baseline', [RandomWalk(), GarchT(), GarchT(steps=(6, 2))])
def test_paths_have_the_law_of_each_horizon_and_know_nothing_later(baseline, bars):
    """Their variance is that of the law, over rows together; horizons of one path share their first steps; each row
    stands alone, whatever comes later."""
    history, rows = bars
    asked, labels = split(rows)
    asked = select(asked, slice(0, 300))
    paths = np.asarray(baseline.simulate(history, asked, labels, count=100).values)
    assert paths.shape == (300, 2, 100) and np.isfinite(paths).all()
    short, long = (0, 1) if not baseline.steps else (1, 0)
    together = np.mean([np.corrcoef(p[short], p[long])[0, 1] for p in paths])
    assert together == pytest.approx(np.sqrt(2 / 6), abs=0.08)
    if isinstance(baseline, RandomWalk):
        ratio = paths.std(-1) / np.asarray(baseline.forecast(history, asked, labels).std())
        np.testing.assert_allclose(ratio.mean(0), 1, atol=0.02)
    later = history['time'] > asked['time'][100]
    changed = history | {'close': np.where(later, history['close'] * rng(7).uniform(0.5, 2, M), history['close'])}
    other = np.asarray(baseline.simulate(changed, select(asked, slice(90, 101)), labels, count=100).values)
    np.testing.assert_array_equal(other, paths[90:101])
