"""Coverage against counting."""

import numpy as np
import pytest
from scipy import stats
from study_rows import LEVELS, make_judged, make_rows

from fjq import compare
from fjq.forecast import Quantiles
from fjq.scores import Judged
from fjq.studies.coverage import Coverage, qice
from fjq.studies.thinning import thin, thin_moments


def test_every_figure_is_a_count():
    bars, rows, volatility = make_rows()
    mask = rows['valid'].copy()
    mask[100:110, 1] = False
    judged = [make_judged('model', volatility), make_judged('narrow', volatility, 0.5)]
    study = Coverage().run(None, bars, 'test', judged, rows, mask)
    lines = {(x['horizon'], x['forecaster']): x for x in study.tables['Central intervals']}
    for j in judged:
        values = np.asarray(j.law.values)
        for h, horizon in enumerate((1, 4)):
            line, keep = lines[str(horizon), j.name], mask[:, h]
            y, q = rows['target'][keep, h], values[keep, h]
            inside = (y >= q[:, 1]) & (y <= q[:, 5])
            assert line['rows'] == keep.sum() and line['coverage 80%'] == pytest.approx(inside.mean())
            assert line['width 80%'] == pytest.approx((q[:, 5] - q[:, 1]).mean(), rel=1e-5)
            edges = np.concatenate([np.full((len(y), 1), -9), q, np.full((len(y), 1), 9)], 1)
            shares = [((y > edges[:, i]) & (y <= edges[:, i + 1])).mean() for i in range(8)]
            assert line['QICE'] == pytest.approx(np.mean(np.abs(shares - np.diff([0, *LEVELS, 1]))), abs=1e-9)
            free = thin_moments(rows, mask, h)
            assert free.tolist() == thin(rows, mask, h).tolist() and line['low'] < inside.mean() < line['high']
            whole = (rows['target'][:, h] >= values[:, h, 1]) & (rows['target'][:, h] <= values[:, h, 5])
            assert line['independent'] == len(free)
            assert line['p Kupiec'] == pytest.approx(float(compare.kupiec(whole[free], 0.8).p))
            assert line['p Christoffersen'] == pytest.approx(float(compare.christoffersen(whole[free], 0.8).p))
    assert lines['1', 'model']['p Kupiec'] > 0.01 > 1e-4 > lines['1', 'narrow']['p Kupiec']
    assert lines['1', 'model']['p PIT'] > 0.01 > 1e-4 > lines['1', 'narrow']['p PIT']
    levels = study.tables['Share of targets at or below the quantiles of model']
    assert [line['level'] for line in levels] == list(LEVELS)
    for h, horizon in enumerate((1, 4)):
        below = rows['target'][mask[:, h], h, None] <= np.asarray(judged[0].law.values)[mask[:, h], h]
        observed = [line[f'horizon {horizon}'] for line in levels]
        assert observed == pytest.approx(below.mean(0)) and observed == pytest.approx(LEVELS, abs=0.05)
    assert study.sentences == [
        'The 80% interval of model is off by more than 2.0%: it covers 82.5% at horizon 4 '
        '(78.8% to 85.8%, as chance may have it, 198 independent moments).'
    ]
    wide = Coverage(tolerance=0.05).run(None, bars, 'test', judged, rows, mask)
    assert wide.sentences == ['The 80% interval of model covers within 5.0% of that at every horizon.']


def test_parts_are_counted_apart():
    bars, rows, volatility = make_rows()
    study = Coverage().run(None, bars, 'test', [make_judged('model', volatility)], rows, rows['valid'])
    hours = study.tables['80% intervals of model by hour']
    assert [x['hour'] for x in hours] == list(range(24)) and sum(x['rows'] for x in hours) == 800
    here = rows['hour'] == 3
    values = np.asarray(make_judged('model', volatility).law.values)
    inside = (rows['target'] >= values[..., 1]) & (rows['target'] <= values[..., 5])
    assert hours[3]['coverage 4'] == pytest.approx(inside[here, 1].mean())
    terciles = study.tables['80% intervals by volatility']
    assert [x['volatility'] for x in terciles] == ['calm', 'middle', 'wild']
    assert terciles[0]['width 1'] < terciles[1]['width 1'] < terciles[2]['width 1']
    order = np.argsort(volatility)
    assert terciles[2]['width 1'] == pytest.approx(2 * stats.norm.ppf(0.9) * volatility[order][-267:].mean(), rel=0.02)
    assert {c.title for c in study.charts} == {'Reliability', 'Width by hour'}
    without = {k: v for k, v in rows.items() if k not in ('hour', 'scale')}
    again = Coverage().run(None, bars, 'test', [make_judged('model', volatility)], without, rows['valid'])
    assert {c.title for c in again.charts} == {'Reliability'}
    assert again.tables['80% intervals by volatility'][2]['width 1'] == pytest.approx(terciles[2]['width 1'], rel=0.01)


def test_a_collapsed_model_is_named():
    bars, rows, volatility = make_rows()
    study = Coverage().run(None, bars, 'test', [make_judged('model', volatility, 1e-3)], rows, rows['valid'])
    assert 'off by more than 2.0%: it covers 0.' in study.sentences[0] and 'horizon 4' in study.sentences[0]


@pytest.mark.parametrize('n', [3, 4, 6, 8])
def test_few_rows_are_said_to_say_little(n):
    bars, rows, volatility = make_rows(n)
    for width in (1.0, 9.0, 1e-3):
        study = Coverage().run(None, bars, 'test', [make_judged('model', volatility, width)], rows, rows['valid'])
        for line in study.tables['Central intervals']:
            low, share, high = (line[name] for name in ('low', 'coverage 80%', 'high'))
            assert (low, high) == (-np.inf, np.inf) or (0 <= low <= share <= high <= 1 and high - low > 0.5)
        assert 'nan' not in study.sentences[0] and 'inf%' not in study.sentences[0]


def test_hits_that_are_all_alike_are_not_certain():
    bars, rows, volatility = make_rows(6)
    judged = [make_judged('model', volatility, 9.0)]
    study = Coverage().run(None, bars, 'test', judged, rows, rows['valid'])
    assert study.sentences == [
        'The 80% interval of model is off by more than 2.0%: it covers '
        '100.0% at horizon 1 (29.2% to 100.0%, as chance may have it, 6 independent moments), '
        '100.0% at horizon 4 (too few rows for an interval, as chance may have it, 2 independent moments).'
    ]
    one = Coverage().run(None, bars, 'test', judged, rows, rows['valid'] & [True, False] & (np.arange(6) < 1)[:, None])
    assert one.sentences[0].endswith(
        'at horizon 1 (too few rows for an interval, as chance may have it, 1 independent moment).'
    )


def test_thinned_rows_follow_one_another():
    _, rows, _ = make_rows(40)
    both = {k: v if k == 'horizon' else np.concatenate([v, v]) for k, v in rows.items()}
    both['id'] = np.repeat(['a', 'b'], 40)
    mask = both['valid'].copy()
    mask[2, 1] = mask[4, 1] = False
    assert thin(both, mask, 1).tolist() == [0, 5, 9, 13, 17, 21, 25, 29, 33, 37, *range(40, 80, 4)]
    assert thin({k: v for k, v in both.items() if k != 'label_end'}, mask, 1).size == 0


ASSETS = 3


def panel(moments: int) -> dict:
    """Rows of assets that have the same moments; the targets of a moment end at the next one."""
    time = np.repeat(np.arange(moments), ASSETS)
    return {
        'id': np.tile([f'A{i}' for i in range(ASSETS)], moments),
        'time': time,
        'label_end': time[:, None] + 1,
        'valid': np.ones((len(time), 1), bool),
        'horizon': np.array([1]),
    }


def test_assets_that_move_together_are_no_independent_rows():
    """Of assets of correlation 0.6 the tests of a calibrated law reject as often as they say, and the interval misses
    about as often; taken for independent rows they reject three times as often."""
    rows, seeds = panel(120), 500
    common, own = np.random.Generator(np.random.Philox(4)).standard_normal((2, seeds, 120, ASSETS))
    target = (np.sqrt(0.6) * common[..., :1] + np.sqrt(0.4) * own).reshape(seeds, -1)
    hits = np.abs(target.T) < stats.norm.ppf(0.9)
    kept = thin_moments(rows, rows['valid'], 0)
    assert len(kept) == 120
    for test in (compare.kupiec, compare.christoffersen):
        assert 0.02 < (test(hits[kept], 0.8).p < 0.05).mean() < 0.08
    assert (compare.kupiec(hits, 0.8).p < 0.05).mean() > 0.1
    law = Quantiles(LEVELS, np.broadcast_to(stats.norm.ppf(LEVELS), (360, 1, 7)))
    rows['target'] = target[0][:, None]
    study = Coverage().run(None, None, 'test', [Judged('model', law, law)], rows, rows['valid'])
    (line,) = study.tables['Central intervals']
    assert line['independent'] == 120 and line['rows'] == 360
    moments = compare.share_interval(hits[:, 0], block=2, draws=1000, seed=0, time=rows['time'])
    np.testing.assert_allclose((line['low'], line['high']), moments)


def test_the_series_of_thinned_moments_take_turns():
    rows = panel(6)
    assert thin_moments(rows, rows['valid'], 0).tolist() == [0, 4, 8, 9, 13, 17]
    rows |= {'label_end': rows['time'][:, None] + 2}
    assert thin_moments(rows, rows['valid'], 0).tolist() == [0, 7, 14]
    mixed = np.random.Generator(np.random.Philox(1)).permutation(18)
    same = {k: v if k == 'horizon' else v[mixed] for k, v in rows.items()}
    assert mixed[thin_moments(same, same['valid'], 0)].tolist() == [0, 7, 14]
    assert thin_moments({k: v for k, v in rows.items() if k != 'label_end'}, rows['valid'], 0).size == 0


def test_qice_of_perfect_quantiles_is_zero():
    target = (np.arange(100) + 0.5) / 100
    assert qice(np.tile(LEVELS, (100, 1)), target, LEVELS) == pytest.approx(0, abs=1e-12)
    # all mass beyond the upper quantile: every share is off
    expected = np.mean([*np.diff([0, *LEVELS]), 0.95])
    assert qice(np.tile(LEVELS, (100, 1)), target + 5, LEVELS) == pytest.approx(expected)
