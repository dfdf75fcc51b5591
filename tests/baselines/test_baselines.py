"""Every baseline: nothing of the future, the number of a brute-force or library reference, honest refusals."""

import dataclasses

import numpy as np
import pytest
import statsmodels.api as sm
from arch import arch_model

from fjq import metrics
from fjq.baselines import Constant, EmpiricalQuantiles, Ewma, Garch, Har, LastValue, Persistence, Unavailable, Vix
from fjq.baselines.ewma import ewma
from fjq.baselines.garch import fit_garch, span_volatility
from fjq.config import from_dict, to_dict
from fjq.errors import InputError

M, HORIZONS = 700, (5, 21)


@pytest.fixture(scope='module')
def market() -> tuple[dict, dict]:
    """Daily returns with GARCH volatility, its measured values, an implied volatility, and forward volatilities."""
    rng = np.random.Generator(np.random.Philox(4))
    variance, returns = np.full(M, 1e-4), np.zeros(M)
    for t in range(1, M):
        variance[t] = 3e-6 + 0.1 * returns[t - 1] ** 2 + 0.87 * variance[t - 1]
        returns[t] = np.sqrt(variance[t]) * rng.standard_normal()
    daily_rv = np.sqrt(variance) * np.exp(0.25 * rng.standard_normal(M))
    time = np.datetime64('2020-01-01') + np.arange(M)
    history = {
        'time': time,
        'close': 100 * np.exp(np.cumsum(returns)),
        'daily_rv': daily_rv,
        'daily_rq': daily_rv**4 * np.exp(rng.standard_normal(M)),
        'vix': 100 * np.sqrt(252 * variance) * 1.2,
    }
    target = np.full((M, len(HORIZONS)), np.nan)
    for h, span in enumerate(HORIZONS):
        target[: M - span, h] = [np.sqrt((daily_rv[t + 1 : t + 1 + span] ** 2).sum()) for t in range(M - span)]
    label_end = np.where(np.isfinite(target), time[:, None] + np.array(HORIZONS), np.datetime64('NaT'))
    return history, {'time': time, 'target': target, 'valid': np.isfinite(target), 'label_end': label_end}


def select(table: dict, kept) -> dict:
    return {name: values[kept] for name, values in table.items()}


def split(rows: dict) -> tuple[dict, dict]:
    """(rows from 420 on, labels of the first 400 rows whose labels end before them)."""
    return select(rows, slice(420, None)), select(rows, slice(0, 400 - HORIZONS[-1]))


BOTH = {
    'constant': Constant(),
    'ewma': Ewma(calibrate=True),
    'har': Har(),
    'har variance': Har(log=False),
    'harq': Har(log=False, quarticity='daily_rq'),
    'har vix': Har(extra=('vix',)),
    'garch': Garch(calibrate=True, stride=100),
    'vix': Vix(),
    'quantiles': EmpiricalQuantiles(),
    'filtered quantiles': EmpiricalQuantiles(column='daily_rv', kind='volatility'),
}
NO_FIT = {
    'persistence': Persistence(),
    'persistence of returns': Persistence(column='close', kind='price'),
    'ewma of returns': Ewma(column='close', kind='price'),
    'last value': LastValue(),
    'rolling quantiles': EmpiricalQuantiles(fit='expanding', window=60, stride=7),
}
ALL = {
    f'{n} {fit}': dataclasses.replace(b, fit=fit) for n, b in BOTH.items() for fit in ('train', 'expanding')
} | NO_FIT
each_baseline = pytest.mark.parametrize('baseline', ALL.values(), ids=ALL.keys())


def leaf(law) -> np.ndarray:
    return np.asarray(law.values if hasattr(law, 'values') else law.value)


@each_baseline
def test_forecasts_are_there(baseline, market):
    history, rows = market
    asked, labels = split(rows)
    law = baseline.forecast(history, asked, labels)
    assert law.shape == asked['target'].shape
    assert np.isfinite(leaf(law)).all() and (leaf(law) > 0).all()
    assert from_dict(to_dict(baseline)) == baseline


@each_baseline
@pytest.mark.parametrize('now', [450, 560])
def test_the_future_changes_no_bit(baseline, market, now):
    """After `now` every column and every label that had not ended by then becomes something else."""
    history, rows = market
    asked, labels = split(rows)
    before = leaf(baseline.forecast(history, asked, labels))
    rng = np.random.Generator(np.random.Philox(now))
    moment = history['time'][now]
    later = history['time'] > moment
    changed = {k: np.where(later, v * rng.uniform(0.2, 5, M), v) for k, v in history.items() if k != 'time'}
    changed['time'] = history['time']
    unknown = ~(asked['label_end'] <= moment)
    noise = rng.uniform(0.2, 5, unknown.shape)
    other = asked | {'target': np.where(unknown & asked['valid'], asked['target'] * noise, asked['target'])}
    after = leaf(baseline.forecast(changed, other, labels))
    past = asked['time'] <= moment
    np.testing.assert_array_equal(after[past], before[past])
    if not isinstance(baseline, Constant | EmpiricalQuantiles) or baseline.fit == 'expanding':
        assert (after[~past] != before[~past]).any()


@each_baseline
def test_train_fits_on_training_labels_only(baseline, market):
    """Later labels matter to an expanding fit and to nothing else."""
    history, rows = market
    asked, _ = split(rows)
    flags = rows['time'] < history['time'][379]
    one = leaf(baseline.forecast(history, asked, rows | {'train': flags}))
    later = rows | {'train': flags, 'target': np.where(flags[:, None], rows['target'], 2 * rows['target'])}
    other = leaf(baseline.forecast(history, select(later, slice(420, None)), later))
    if getattr(baseline, 'fit', 'train') == 'train' or (isinstance(baseline, Garch | Ewma) and not baseline.calibrate):
        np.testing.assert_array_equal(one, other)
    else:
        assert (one != other).any()


@each_baseline
def test_each_row_stands_alone(baseline, market):
    """Asking for one row gives what asking for all gives; rows need no target."""
    history, rows = market
    asked, labels = split(rows)
    whole = leaf(baseline.forecast(history, asked, rows | {'train': rows['time'] < history['time'][379]}))
    lone = {'time': asked['time'][100:101]}
    single = leaf(baseline.forecast(history, lone, rows | {'train': rows['time'] < history['time'][379]}))
    np.testing.assert_allclose(single[0], whole[100], rtol=1e-10)


def test_embargo_holds_labels_back(market):
    history, rows = market
    asked, _ = split(rows)
    baselines = [Constant(fit='expanding', embargo=e) for e in (0, 10)]
    plain, held = (leaf(b.forecast(history, asked, rows)) for b in baselines)
    np.testing.assert_allclose(held[10:], plain[:-10])
    ended = rows['label_end'][:, 0] <= asked['time'][30]
    np.testing.assert_allclose(plain[30, 0], rows['target'][ended, 0].mean())


def test_constant_and_quantiles_of_training(market):
    history, rows = market
    asked, labels = split(rows)
    np.testing.assert_allclose(leaf(Constant().forecast(history, asked, labels))[7], labels['target'].mean(0))
    law = EmpiricalQuantiles(levels=(0.1, 0.6)).forecast(history, asked, labels)
    np.testing.assert_allclose(law.values[3], np.quantile(labels['target'], (0.1, 0.6), axis=0).T)
    assert np.isnan(leaf(Constant(min_labels=1000).forecast(history, asked, labels))).all()


def test_rolling_quantiles(market):
    history, rows = market
    asked, labels = split(rows)
    exact = EmpiricalQuantiles(fit='expanding', window=50, levels=(0.25, 0.5)).forecast(history, asked, rows)
    ended = np.flatnonzero(rows['label_end'][:, 1] <= asked['time'][40])
    np.testing.assert_allclose(exact.values[40, 1], np.quantile(rows['target'][ended[-50:], 1], (0.25, 0.5)))
    coarse = EmpiricalQuantiles(fit='expanding', window=50, levels=(0.25, 0.5), stride=9)
    strided = coarse.forecast(history, asked, rows)
    assert len(np.unique(strided.values[:, 1, 0])) < len(np.unique(exact.values[:, 1, 0])) / 4
    for n in range(20, 120):  # never older than the stride
        assert (exact.values[n - 8 : n + 1, 1] == strided.values[n, 1]).all(-1).any()


def test_filtered_quantiles_follow_volatility(market):
    history, rows = market
    asked, labels = split(rows)
    law = EmpiricalQuantiles(column='daily_rv', kind='volatility', decay=0.9).forecast(history, asked, labels)
    sigma = np.sqrt(ewma(history['daily_rv'] ** 2, 0.9))
    units = labels['target'] / sigma[: len(labels['time']), None]
    np.testing.assert_allclose(law.values[9, 1], np.quantile(units[:, 1], law.levels) * sigma[429])


def test_persistence_and_last_value(market):
    history, rows = market
    asked, labels = split(rows)
    law = Persistence(steps=(5, 20.8)).forecast(history, asked, labels)
    rms = np.sqrt((history['daily_rv'][420 - 21 : 421] ** 2).mean())
    np.testing.assert_allclose(law.value[0], rms * np.sqrt([5, 20.8]))
    counted = Persistence().forecast(history, asked, labels)
    np.testing.assert_allclose(counted.value[0], rms * np.sqrt(HORIZONS))
    np.testing.assert_array_equal(LastValue().forecast(history, asked, labels).value[5], history['close'][[425, 425]])
    early = Persistence().forecast(history, select(rows, slice(0, 30)), labels)
    np.testing.assert_array_equal(np.isnan(early.value[:, 0]), np.arange(30) < 21)


def test_ewma(market):
    history, rows = market
    asked, labels = split(rows)
    values = np.diff(np.log(history['close'])) ** 2
    weights = 0.94 ** np.arange(420)[::-1]
    expected = np.sqrt((weights * values[:420]).sum() / weights.sum() * 5)
    law = Ewma(column='close', kind='price').forecast(history, asked, labels)
    np.testing.assert_allclose(law.value[0, 0], expected)
    gaps = np.array([np.nan, 1.0, np.nan, 3.0])
    np.testing.assert_allclose(ewma(gaps, 0.5), [np.nan, 1, np.nan, (0.5 * 1 + 3) / 1.5])


def test_scale_to_labels(market):
    """Units of the column do not matter once calibrated, and the training mean square is met."""
    history, rows = market
    asked, labels = split(rows)
    base = Ewma(calibrate=True).forecast(history, asked, labels).value
    scaled = Ewma(calibrate=True).forecast(history | {'daily_rv': 40 * history['daily_rv']}, asked, labels).value
    np.testing.assert_allclose(scaled, base)
    inside = Ewma(calibrate=True).forecast(history, labels, labels).value
    np.testing.assert_allclose((inside**2).mean(0), (labels['target'] ** 2).mean(0))
    vix = Vix().forecast(history, labels, labels).value
    np.testing.assert_allclose((vix**2).mean(0), (labels['target'] ** 2).mean(0))
    np.testing.assert_allclose(vix[:, 0] / vix[0, 0], history['vix'][: len(vix)] / history['vix'][0])


def har_columns(history: dict, logs: bool) -> np.ndarray:
    v = history['daily_rv'] ** 2
    means = [np.array([v[max(t - w + 1, 0) : t + 1].mean() for t in range(M)]) for w in (1, 5, 22)]
    return sm.add_constant(np.stack([np.log(m) / 2 if logs else m for m in means], 1))


@pytest.mark.parametrize('correction,share', [('none', 0), ('mean', 0.5), ('variance', 1)])
def test_har_against_statsmodels(market, correction, share):
    history, rows = market
    asked, labels = split(rows)
    x, kept = har_columns(history, True), slice(21, len(labels['time']))
    fit = sm.OLS(np.log(labels['target'][kept, 1]), x[kept]).fit()
    expected = np.exp(x[420:] @ fit.params + share * fit.mse_resid)
    law = Har(correction=correction).forecast(history, asked, labels)
    np.testing.assert_allclose(law.value[:, 1], expected, rtol=1e-7)


def test_expanding_har_against_statsmodels(market):
    history, rows = market
    asked, _ = split(rows)
    x = har_columns(history, True)
    law = Har(fit='expanding', embargo=3).forecast(history, asked, rows)
    for n in (0, 77, 279):
        ended = np.flatnonzero(rows['label_end'][:, 1] + 3 <= asked['time'][n])
        ended = ended[ended >= 21]
        fit = sm.OLS(np.log(rows['target'][ended, 1]), x[ended]).fit()
        np.testing.assert_allclose(law.value[n, 1], np.exp(x[420 + n] @ fit.params + fit.mse_resid / 2), rtol=1e-7)


def test_variance_har_and_harq(market):
    history, rows = market
    asked, labels = split(rows)
    x, kept = har_columns(history, False), slice(21, len(labels['time']))
    y = labels['target'][kept, 1] ** 2
    for quarticity in ('', 'daily_rq'):
        if quarticity:
            x = np.concatenate([x, (np.sqrt(history['daily_rq']) * history['daily_rv'] ** 2)[:, None]], 1)
        fit = sm.OLS(y, x[kept]).fit()
        expected = np.sqrt(np.clip(x[420:] @ fit.params, y.min(), y.max()))
        law = Har(log=False, quarticity=quarticity).forecast(history, asked, labels)
        np.testing.assert_allclose(law.value[:, 1], expected, rtol=1e-6)


def test_variance_har_stays_within_what_it_has_seen(market):
    history, rows = market
    asked, labels = split(rows)
    wild = history | {'daily_rv': np.where(np.arange(M) == 500, 9, 1) * history['daily_rv']}
    for fit in ('train', 'expanding'):
        law = Har(log=False, fit=fit).forecast(wild, asked, rows | {'train': rows['time'] < rows['time'][379]})
        ended = np.arange(M) < 379 if fit == 'train' else rows['label_end'][:, 0] <= rows['time'][500]
        np.testing.assert_allclose(law.value[80, 0], rows['target'][ended & (np.arange(M) >= 21), 0].max())


def test_har_with_a_repeated_column_still_fits(market):
    history, rows = market
    asked, labels = split(rows)
    once = Har(extra=('vix',)).forecast(history, asked, labels).value
    twice = Har(extra=('vix', 'vix')).forecast(history, asked, labels).value
    np.testing.assert_allclose(twice, once, rtol=1e-3)


def test_garch_against_arch(market):
    history, rows = market
    asked, labels = split(rows)
    returns = np.diff(np.log(history['close']))
    train = returns[: len(labels['time']) - 1]
    unit = train.std()
    result = arch_model(train / unit, mean='Zero', rescale=False).fit(disp='off')
    w, a, b = fit_garch(train, 'normal')
    np.testing.assert_allclose((w / unit**2, a, b), result.params, rtol=1e-6)
    fixed = arch_model(returns / unit, mean='Zero', rescale=False).fix(result.params)
    ahead = fixed.forecast(horizon=21, reindex=False).variance.to_numpy()[-1]
    law = Garch().forecast(history, asked, labels)
    np.testing.assert_allclose(law.value[-1], unit * np.sqrt([ahead[:5].sum(), ahead.sum()]), rtol=1e-3)


def test_span_volatility_is_the_sum_of_its_steps():
    returns = np.array([0.0] * 19 + [0.03])
    for w, a, b in ((1e-5, 0.1, 0.85), (1e-5, 0.1, 0.9)):
        step, total = None, 0.0
        start = np.mean(returns**2)
        variance = start
        for e in returns:
            variance = w + a * e**2 + b * variance
        for _ in range(4):
            step = variance if step is None else w + (a + b) * step
            total += step
        np.testing.assert_allclose(span_volatility(returns, w, a, b, np.array([4.0]))[-1, 0], np.sqrt(total), rtol=1e-6)


def test_a_model_of_volatility_beats_the_constant(market):
    """On simulated persistent volatility HAR and GARCH must win by QLIKE, or these baselines are broken."""
    history, rows = market
    asked, labels = split(rows)
    score = {}
    for name, b in {'constant': Constant(), 'har': Har(correction='variance'), 'garch': Garch(calibrate=True)}.items():
        f = leaf(b.forecast(history, asked, labels))
        total, n = metrics.qlike(asked['target'], f, asked['valid'], 0, power=2, floor=1e-6)
        score[name] = (total / n)[0]
    assert score['har'] < 0.8 * score['constant'] and score['garch'] < 0.8 * score['constant']


@pytest.mark.parametrize(
    'baseline,reason',
    [
        (Persistence(column='nothing'), "no column 'nothing', only close"),
        (Vix(column='empty'), 'no value'),
        (Garch(min_steps=5000), '5000'),
        (LastValue(column='open'), "'open'"),
    ],
)
def test_what_is_absent_is_said(baseline, reason, market):
    history, rows = market
    with pytest.raises(Unavailable, match=reason):
        baseline.forecast(history | {'empty': np.full(M, np.nan)}, *split(rows))


def test_targets_that_are_no_volatility(market):
    history, rows = market
    returns = rows | {'target': rows['target'] - 0.1}
    for baseline in (Persistence(), Har(), Vix(), Garch()):
        with pytest.raises(Unavailable, match='not positive'):
            baseline.forecast(history, *split(returns))


def test_rows_without_label_ends(market):
    history, rows = market
    asked, labels = ({k: v for k, v in t.items() if k != 'label_end'} for t in split(rows))
    with pytest.raises(Unavailable, match='label_end'):
        Constant(fit='expanding').forecast(history, asked, labels)
    with pytest.raises(Unavailable, match='steps'):
        Persistence().forecast(history, asked, labels)
    assert np.isfinite(Har().forecast(history, asked, labels).value).all()


@pytest.mark.parametrize(
    'baseline',
    [
        Constant(fit='all'),
        Har(correction='some'),
        Har(log=False, extra=('vix',)),
        Har(quarticity='daily_rq'),
        Persistence(kind='log'),
        Persistence(steps=(1.0,)),
        Ewma(decay=1.0),
        Garch(dist='cauchy'),
        Garch(kind='volatility'),
        Garch(stride=0),
    ],
)
def test_unknown_choices(baseline, market):
    history, rows = market
    with pytest.raises(InputError):
        baseline.forecast(history, *split(rows))


def test_bad_tables(market):
    history, rows = market
    asked, labels = split(rows)
    with pytest.raises(InputError, match='order'):
        Constant().forecast(select(history, slice(None, None, -1)), asked, labels)
    with pytest.raises(InputError, match="'vix'"):
        Constant().forecast(history | {'vix': history['vix'][:-1]}, asked, labels)
    with pytest.raises(InputError, match='shapes'):
        Constant().forecast(history, asked, labels | {'target': labels['target'][:-1]})
    bad = history | {'vix': np.where(np.arange(M) == 17, 0, history['vix'])}
    with pytest.raises(InputError, match='row 17'):
        Vix().forecast(bad, asked, labels)


def test_rows_within_a_day_do_not_see_its_close(market):
    """At noon the figure of the same date is not known yet; at its own date, the end of the day, it is."""
    history, rows = market
    asked, labels = split(rows)
    noon = {'time': asked['time'].astype('datetime64[m]') + np.timedelta64(12, 'h')}
    at_noon = LastValue().forecast(history, noon, labels).value[:, 0]
    np.testing.assert_array_equal(at_noon, history['close'][419:-1])
    mean = Constant(fit='expanding').forecast(history, noon, rows).value
    evening = Constant(fit='expanding').forecast(history, asked, rows).value
    np.testing.assert_allclose(mean[1:], evening[:-1])


def test_integer_bars(market):
    history, rows = market
    bars = history | {'time': np.arange(M)}
    ends = np.arange(M)[:, None] + np.array(HORIZONS)
    by_bar = rows | {'time': np.arange(M), 'label_end': ends}
    for baseline in (Har(fit='expanding', embargo=2), Persistence(), EmpiricalQuantiles(fit='expanding', embargo=2)):
        one = leaf(baseline.forecast(bars, *split(by_bar)))
        np.testing.assert_array_equal(one, leaf(baseline.forecast(history, *split(rows))))


@pytest.mark.parametrize('baseline', [Har(), EmpiricalQuantiles(fit='expanding')])
def test_several_series_are_forecast_apart(baseline, market):
    history, rows = market
    asked, labels = split(rows)
    doubled = [
        {k: np.concatenate([v, v * 3 if k in ('daily_rv', 'target') else v]) for k, v in table.items()}
        | {'id': np.repeat(['b', 'a'], len(table['time']))}
        for table in (history, asked, labels)
    ]
    shuffle = np.random.Generator(np.random.Philox(0)).permutation(2 * len(asked['time']))
    doubled[1] = select(doubled[1], shuffle)
    single = leaf(baseline.forecast(history, asked, labels))
    both = leaf(baseline.forecast(*doubled))
    np.testing.assert_allclose(both, np.concatenate([single, 3 * single])[shuffle], rtol=1e-7)
