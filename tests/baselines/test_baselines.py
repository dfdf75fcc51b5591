"""The numbers of every baseline against brute force, statsmodels and arch."""

import numpy as np
import pytest
import statsmodels.api as sm
from arch import arch_model
from simulated_market import HORIZONS, M, leaf, select, split

from fjq import metrics
from fjq.baselines import Constant, EmpiricalQuantiles, Ewma, Garch, Har, Persistence, Vix
from fjq.baselines.garch import fit_garch, span_volatility
from fjq.data.ewma import ewma


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


def test_persistence(market):
    history, rows = market
    asked, labels = split(rows)
    law = Persistence(steps=(5, 20.8)).forecast(history, asked, labels)
    rms = np.sqrt((history['daily_rv'][420 - 21 : 421] ** 2).mean())
    np.testing.assert_allclose(law.value[0], rms * np.sqrt([5, 20.8]))
    counted = Persistence().forecast(history, asked, labels)
    np.testing.assert_allclose(counted.value[0], rms * np.sqrt(HORIZONS))
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
        ended = np.flatnonzero(rows['label_end'][:, 1] + np.timedelta64(3, 'D') <= asked['time'][n])
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
    w, a, b, _ = fit_garch(train, 'normal')
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
