"""The backtest against trading bar by bar."""

from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from study_rows import Bars, make_judged, make_rows

from fjq.errors import InputError
from fjq.launch import load_config
from fjq.studies.backtest import LONG, Backtest, deflated_sharpe, sharpe

YEAR = 365.25 * 86400


def lines_of(study):
    return {(x['horizon'], x['positions']): x for x in study.tables['After costs, in log returns']}


def test_bar_by_bar():
    """Orders are given at closes, filled at the next opens, and every change of the position is paid."""
    bars, rows, volatility = make_rows(200)
    shift = np.random.Generator(np.random.Philox(9)).standard_normal(200)
    mask = rows['valid'].copy()
    mask[50:61, 1] = False  # the position is closed in between
    model = make_judged('model', volatility, shift=shift)
    rule = Backtest(tick=0.5, slippage=1.0, commission=0.1, fee=1e-4, leverage=1.5)
    study = rule.run(None, bars, 'test', [model], rows, mask)
    history = bars.history()
    for h, steps in enumerate((1, 4)):
        median, width = (
            np.asarray(v)[:, h] for v in (model.law.values[..., 3], model.law.values[..., 5] - model.law.values[..., 1])
        )
        held, paid, earned, widths, ends = 0.0, 0.0, 0.0, [], -1
        count = 0
        for t in range(len(history['close']) - 1):
            order = held
            if t >= ends:
                order = 0.0
                if t < 200 and mask[t, h]:
                    widths.append(width[t])
                    order = np.sign(median[t]) * min(np.mean(widths) / width[t], 1.5)
                    ends, count = t + steps, count + 1
            fill = history['open'][t + 1]
            paid += abs(order - held) * ((0.5 * 1.0 + 0.1) / fill + 1e-4)
            held = order
            following = history['open'][t + 2] if t + 2 < len(history['open']) else history['close'][-1]
            earned += held * np.log(following / fill)
        if held:
            paid += abs(held) * ((0.5 * 1.0 + 0.1) / history['close'][-1] + 1e-4)
        line = lines_of(study)[str(steps), 'model']
        first = rows['time'][0] + np.timedelta64(5, 'm')
        last = history['time'][min(ends + 1, len(history['time']) - 1)]
        years = (last - first) / np.timedelta64(1, 's') / YEAR
        assert line['gross a year'] == pytest.approx(earned / years, rel=1e-6)
        assert line['costs a year'] == pytest.approx(paid / years, rel=1e-6)
        assert line['net a year'] == pytest.approx((earned - paid) / years, rel=1e-6)
        assert line['positions a year'] == pytest.approx(count / years, rel=1e-6)


def test_the_future_changes_no_position():
    _, rows, volatility = make_rows(100)
    rule = Backtest()
    median, width = np.random.Generator(np.random.Philox(1)).standard_normal((2, 100))
    width = np.exp(width)
    before = rule.size(rows['id'], median, width)
    after = rule.size(rows['id'], median, np.where(np.arange(100) > 60, 5 * width, width))
    np.testing.assert_array_equal(after[:61], before[:61])
    assert (after[61:] != before[61:]).any()
    held_back = Backtest(least=10.0).size(rows['id'], median, width)
    assert (held_back == 0).sum() > 90


def test_foresight_is_an_edge_and_a_coin_is_none():
    bars, rows, volatility = make_rows(800)
    # The close after next: the first open that can be had comes after the next close has been seen here.
    known = make_judged('model', volatility, shift=np.sign(rows['target'][:, 1]))
    rule = Backtest(tick=0.0, draws=200)
    assert rule.run(None, bars, 'test', [known], rows, rows['valid']).sentences[1].startswith('Horizon 4: an edge')
    claims = 0
    for seed in range(40):
        sides = np.random.Generator(np.random.Philox(seed)).choice([-1.0, 1.0], 800)
        lines = rule.run(None, bars, 'test', [make_judged('m', volatility, shift=sides)], rows, rows['valid']).sentences
        assert all('edge after costs' in line and 'always long earns' in line for line in lines)
        claims += lines[0].startswith('Horizon 1: an edge')
    assert claims <= 5
    costly = Backtest(tick=1.0, slippage=2.0).run(None, bars, 'test', [known], rows, rows['valid'])
    assert 'no edge after costs' in costly.sentences[1]


def test_always_long_is_the_market():
    bars, rows, volatility = make_rows(800, drift=0.05)
    line = lines_of(Backtest(tick=0.0).run(None, bars, 'test', [make_judged('m', volatility)], rows, rows['valid']))[
        '1', LONG
    ]
    history = bars.history()
    total = np.log(history['open'][801] / history['open'][1])
    years = 800 * 300 / YEAR
    assert line['net a year'] == pytest.approx(total / years, rel=1e-6) and line['long'] == 1
    steps = np.diff(np.log(history['open'][1:802]))
    # 288 bars a day, 365.25 days: the calendar says how many positions make a year
    assert line['Sharpe'] == pytest.approx(steps.mean() / steps.std(ddof=1) * np.sqrt(288 * 365.25), rel=1e-6)
    equity = np.cumsum(steps)
    assert line['max drawdown'] == pytest.approx(
        max(1 - np.exp(equity[j] - max(0, *equity[: j + 1])) for j in range(800)), rel=1e-6
    )
    assert line['profit factor'] == pytest.approx(steps[steps > 0].sum() / -steps[steps < 0].sum(), rel=1e-6)


def test_several_series_share_the_capital():
    bars, rows, volatility = make_rows(100)
    one = bars.history()
    other = {'time': one['time'], 'open': 1 / one['open'], 'close': 1 / one['close']}
    both = {k: np.concatenate([one[k], other[k]]) for k in one} | {'id': np.repeat(['a', 'b'], len(one['time']))}
    double = {k: v if k == 'horizon' else np.concatenate([v, v]) for k, v in rows.items()}
    double['id'] = np.repeat(['a', 'b'], 100)
    judged = [make_judged('model', np.concatenate([volatility, volatility]))]
    study = Backtest(tick=0.0).run(None, Bars(**both), 'test', judged, double, double['valid'])
    assert lines_of(study)['1', LONG]['net a year'] == pytest.approx(0, abs=1e-9)


def test_positions_of_one_moment_are_no_sample():
    """Three series that are left at one time have one return, of which there is no Sharpe ratio."""
    bars, rows, volatility = make_rows(50)
    many = lambda columns: {k: v if k == 'horizon' else np.concatenate([v] * 3) for k, v in columns.items()}
    name = lambda columns: columns | {'id': np.repeat(['a', 'b', 'c'], len(columns['time']) // 3)}
    bars, rows = Bars(**name(many(bars.history()))), name(many(rows))
    model = [make_judged('model', np.tile(volatility, 3), shift=1.0)]
    for moments, words in ((2, 'Horizon 1 has too few positions'), (3, 'Horizon 1: no edge after costs')):
        mask = (np.arange(150) % 50 < moments)[:, None] & [True, False]
        study = Backtest(draws=50).run(None, bars, 'test', model, rows, mask)
        assert study.sentences[0].startswith(words) and 'nan' not in study.sentences[0]


def test_deflated_sharpe_by_the_paper():
    """The worked example of Bailey and Lopez de Prado (2014): the expected best of many worthless tries."""
    returns = np.random.Generator(np.random.Philox(2)).standard_normal(250) * 0.01 + 0.001
    ratio, n = returns.mean() / returns.std(ddof=1), 250
    assert sharpe(returns) == pytest.approx(ratio)
    spread = np.sqrt(1 - stats.skew(returns) * ratio + (stats.kurtosis(returns) + 2) / 4 * ratio**2)
    assert deflated_sharpe(returns, 1) == pytest.approx(stats.norm.cdf(ratio * np.sqrt(n - 1) / spread))
    tries = np.random.Generator(np.random.Philox(4)).standard_normal((4000, 100)).max(1).mean() / np.sqrt(n - 1)
    expected = stats.norm.cdf((ratio - tries) * np.sqrt(n - 1) / spread)
    assert deflated_sharpe(returns, 100) == pytest.approx(expected, abs=0.02)
    assert deflated_sharpe(returns, 100) < deflated_sharpe(returns, 10) < deflated_sharpe(returns, 1)
    assert np.isnan(deflated_sharpe(np.zeros(9), 1))
    bars, rows, volatility = make_rows(50)
    with pytest.raises(InputError, match='0 trials'):
        Backtest(trials=0).run(None, bars, 'test', [make_judged('model', volatility)], rows, rows['valid'])


def test_every_horizon_of_every_model_is_a_try():
    """The best of several horizons is found by looking at them all."""
    bars, rows, volatility = make_rows(800)
    model = make_judged('model', volatility, shift=1.0)
    one = rows['valid'] & [True, False]
    results = [
        Backtest(trials=t).run(None, bars, 'test', [model], rows, m)
        for t, m in ((1, one), (1, one | True), (3, one | True))
    ]
    figures = [lines_of(study)['1', 'model']['deflated Sharpe'] for study in results]
    assert figures[0] > figures[1] > figures[2]
    for study, words in zip(results, ('the best of 1 try', 'the best of 2 tries', 'the best of 6 tries'), strict=True):
        assert words in study.sentences[0]


def test_always_long_is_drawn_once_where_it_is_always_long():
    """Rows further apart than a horizon leave it out of the market in between."""
    bars, rows, volatility = make_rows(200)
    names = []
    for mask in (rows['valid'], rows['valid'] & (np.arange(200) % 3 == 0)[:, None]):
        study = Backtest().run(None, bars, 'test', [make_judged('model', volatility, shift=1.0)], rows, mask)
        names.append([name for name in study.charts[0].lines if name.startswith(LONG)])
    assert names == [[LONG], [f'{LONG}, horizon 1', f'{LONG}, horizon 4']]


def test_returns_of_a_year_are_said_to_be_log_returns():
    bars, rows, volatility = make_rows(200, drift=0.05)
    study = Backtest().run(None, bars, 'test', [make_judged('model', volatility, shift=1.0)], rows, rows['valid'])
    line = lines_of(study)['1', 'model']
    assert f'(a log return of {line["net a year"]:.2%} a year, ' in study.sentences[0]


@pytest.mark.parametrize(
    ('variant', 'price', 'least', 'most'),
    [
        ('', 20_000, 0.0625 / 20_000, 2e-5),  # $1.25 a side at $20 a point, and half a tick of 0.25
        ('nq', 20_000, 0.0625 / 20_000, 2e-5),
        ('cn', 11.27, 5e-4, 1.2e-3),  # half of the stamp duty of a sale, commission, and half a tick of 0.01
    ],
)
def test_costs_are_those_of_the_instrument(variant, price, least, most):
    config = load_config(Path(__file__).parents[2] / 'configs' / 'migt_tvdt.py', variant)
    (rule,) = (study for study in config.evaluate.studies if isinstance(study, Backtest))
    assert rule.commission > 0 or rule.fee > 0
    assert least < rule.find_rate(price) < most


def test_what_can_not_be_traded_is_named():
    bars, rows, volatility = make_rows(50)
    judged = [make_judged('model', volatility)]
    history = {k: v for k, v in bars.history().items() if k != 'open'}
    with pytest.raises(InputError, match="'open'"):
        Backtest().run(None, Bars(**history), 'test', judged, rows, rows['valid'])
    few = np.zeros((50, 2), bool)
    few[:2] = True
    study = Backtest().run(None, bars, 'test', judged, rows, few)
    assert study.sentences[0] == 'Horizon 1 has too few positions that do not overlap for a backtest.'
    whole = Backtest().run(None, bars, 'test', judged, rows, rows['valid'])
    assert whole.sentences[0] == 'Horizon 1: no position was taken, so no edge after costs.'
