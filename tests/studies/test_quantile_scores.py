"""Scores of quantiles against scipy and counting."""

import numpy as np
import pytest
from scipy import stats
from study_rows import LEVELS, make_judged, make_rows

from fjq import compare
from fjq.errors import InputError
from fjq.forecast import Quantiles
from fjq.scores import Judged
from fjq.studies.quantile_scores import QuantileScores

TITLE = 'Scores, skill against wide'


@pytest.fixture(scope='module')
def found():
    bars, rows, volatility = make_rows()
    shift = (
        np.random.Generator(np.random.Philox(5)).standard_normal(800) * 0.3 + 0.3 * rows['target'][:, 0] / volatility
    )
    judged = [
        make_judged('model', volatility, 0.9, shift),
        make_judged('model, raw', volatility),
        make_judged('wide', volatility, 2),
    ]
    return rows, judged, QuantileScores(draws=400).run(None, bars, 'test', judged, rows, rows['valid'])


def test_scores_by_hand(found):
    rows, judged, study = found
    lines = {(x['horizon'], x['forecaster']): x for x in study.tables[TITLE]}
    losses = {(x['horizon'], x['forecaster']): x for x in study.tables['Pinball loss']}
    for j in judged:
        q = np.asarray(j.law.values)
        for h, horizon in enumerate('14'):
            y = rows['target'][:, h]
            error = y[:, None] - q[:, h]
            pinball = np.maximum(np.array(LEVELS) * error, (np.array(LEVELS) - 1) * error).mean(0)
            got = [losses[horizon, j.name][f'q{100 * p:g}'] for p in LEVELS]
            np.testing.assert_allclose(got, pinball, rtol=1e-4)
            line = lines[horizon, j.name]
            assert line['wis'] == pytest.approx(2 * pinball.mean(), rel=1e-4)  # Bracher et al., equation 3
            assert line['targets up'] == pytest.approx((y > 0).mean())
    line = lines['1', 'model']
    y, median = rows['target'][:, 0], np.asarray(judged[0].law.values)[:, 0, 3]
    assert line['ic'] == pytest.approx(stats.spearmanr(y, median).statistic, abs=1e-6)
    assert line['right sign'] == pytest.approx((np.sign(y) == np.sign(median)).mean())
    # independent rows: intervals as wide as the textbook's
    wide = 2 * 1.96 * (1 - line['ic'] ** 2) * np.sqrt((1 + line['ic'] ** 2 / 2) / 800)  # Bonett and Wright 2000
    assert line['ic high'] - line['ic low'] == pytest.approx(wide, rel=0.25)
    wide = 2 * 1.96 * np.sqrt(line['right sign'] * (1 - line['right sign']) / 800)
    assert line['right sign high'] - line['right sign low'] == pytest.approx(wide, rel=0.25)


def test_skill_is_that_of_the_mean_crps(found):
    rows, judged, study = found
    lines = {(x['horizon'], x['forecaster']): x for x in study.tables[TITLE]}
    assert lines['4', 'model']['skill'] == pytest.approx(1 - lines['4', 'model']['crps'] / lines['4', 'wide']['crps'])
    values = np.stack([np.asarray(j.law.crps(rows['target']), np.float64)[:, 1] for j in (judged[0], judged[2])], 1)
    low, high = compare.block_bootstrap(values, block=8, draws=400, seed=0, statistic=compare.relative_skill)
    assert (lines['4', 'model']['skill low'], lines['4', 'model']['skill high']) == pytest.approx((low, high), rel=1e-3)
    assert lines['4', 'wide']['skill'] == 0
    assert study.sentences[0].startswith('Horizon 1: skill against wide, ')


def test_a_model_without_skill_is_said_to_have_none():
    bars, rows, volatility = make_rows()
    even = [make_judged('model', volatility, 1.001), make_judged('same', volatility)]
    worse = [make_judged('model', volatility, 3), make_judged('better', volatility)]
    run = lambda judged, **more: QuantileScores(draws=200, **more).run(None, bars, 'test', judged, rows, rows['valid'])
    assert 'a loss against better' in run(worse).sentences[0]
    line = run(even).sentences[0]
    assert 'skill' in line and 'does not vary' in line
    few = run(even, block=500).sentences[0]
    assert few.startswith('Horizon 1: no skill that can be told from none against same, ')
    assert few.endswith('of its CRPS (too few rows for an interval); the median does not vary.')
    with pytest.raises(InputError, match="'nobody'.*Choose one of model, same"):
        run(even, reference='nobody')
    assert run(even[:1]).sentences == []


@pytest.mark.parametrize('n', [3, 4, 5, 6, 8])
def test_few_rows_have_intervals_that_can_be_or_none(n):
    bars, rows, volatility = make_rows(n)
    ends = {'skill': (-np.inf, 1), 'ic': (-1, 1), 'right sign': (0, 1)}
    for seed in range(8):
        shift = np.random.Generator(np.random.Philox(seed)).standard_normal(n)
        judged = [make_judged('model', volatility, 0.9, shift), make_judged('wide', volatility, 2, 0.1)]
        study = QuantileScores(draws=200).run(None, bars, 'test', judged, rows, rows['valid'])
        for line in study.tables[TITLE]:
            for name, (least, most) in ends.items():
                low, high = line[f'{name} low'], line[f'{name} high']
                if (low, high) != (-np.inf, np.inf) and (name, line['forecaster']) != ('skill', 'wide'):
                    assert least <= low <= line[name] <= high <= most and low < high
        assert not any(word in line for line in study.sentences for word in ('nan', 'inf '))


def test_ranks_that_agree_in_few_rows_are_not_certain():
    bars, rows, volatility = make_rows(4)
    judged = [
        make_judged('model', volatility, 1, rows['target'][:, 0] / volatility),
        make_judged('wide', volatility, 2),
    ]
    line = QuantileScores().run(None, bars, 'test', judged, rows, rows['valid']).sentences[0]
    assert line.endswith('a rank correlation of 1.000 (too few rows for an interval) with the target.')


def test_a_reference_without_loss_is_named():
    bars, rows, volatility = make_rows(50)
    known = Quantiles(LEVELS, np.repeat(rows['target'][..., None].astype(np.float32), 7, -1))
    known, rows = Judged('known', known, known), rows | {'target': rows['target'].astype(np.float32)}
    study = QuantileScores().run(None, bars, 'test', [make_judged('model', volatility), known], rows, rows['valid'])
    assert study.sentences[0] == 'Horizon 1: known has no CRPS to measure skill by.'


def test_the_fan_is_the_last_forecast(found):
    rows, judged, study = found
    (chart,) = study.charts
    assert chart.title == 'Forecast of NQ at 2023-01-04T18:40' and list(chart.x) == [1, 4]
    np.testing.assert_allclose(chart.lines['q90'], np.asarray(judged[0].law.values)[-1, :, 5], rtol=1e-6)
    assert chart.bands == [('q5', 'q95'), ('q10', 'q90'), ('q25', 'q75')]
