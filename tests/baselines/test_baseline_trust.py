"""No baseline reads the future, and every one says what it lacks."""

import dataclasses

import numpy as np
import pytest
from simulated_market import HORIZONS, M, leaf, select, split

from fjq.baselines import Constant, EmpiricalQuantiles, Ewma, Garch, Har, Persistence, Unavailable, Vix
from fjq.config import from_dict, to_dict
from fjq.errors import InputError

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
    'rolling quantiles': EmpiricalQuantiles(fit='expanding', window=60, stride=7),
}
ALL = {
    f'{n} {fit}': dataclasses.replace(b, fit=fit) for n, b in BOTH.items() for fit in ('train', 'expanding')
} | NO_FIT
each_baseline = pytest.mark.parametrize('baseline', ALL.values(), ids=ALL.keys())


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


@pytest.mark.parametrize(
    'baseline,reason',
    [
        (Persistence(column='nothing'), "no column 'nothing', only close"),
        (Vix(column='empty'), 'no value'),
        (Garch(min_steps=5000), '5000'),
        (Persistence(column='open'), "'open'"),
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
    at_noon = Persistence(window=1, steps=(1, 1)).forecast(history, noon, labels).value[:, 0]
    np.testing.assert_allclose(at_noon, history['daily_rv'][419:-1])
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
