"""Conformal calibration: the ranks it takes, what it covers, what it may know, and how it is kept."""

import dataclasses

import numpy as np
import pytest
from scipy import stats

from fjq.calibration import AdaptiveConformal, Calibration, SplitConformal, pairs, score_pair
from fjq.errors import InputError
from fjq.forecast import Mixture, Quantiles

LEVELS = (0.05, 0.1, 0.5, 0.9, 0.95)
HORIZON = np.array([1, 4])  # rows that a target is said to span


def rng(*key):
    return np.random.Generator(np.random.Philox(list(key)))


def make(n, width=0.6, seed=0, start=0, drift=0.0):
    """(quantiles of a standard normal times `width`, rows of normal targets whose size grows by `drift` a row)."""
    size = 1 + drift * np.arange(n)
    target = rng(seed, n).standard_normal((n, 2)) * size[:, None]
    time = np.arange(start, start + n)
    rows = {
        'time': time,
        'target': target,
        'valid': np.ones((n, 2), bool),
        'label_end': time[:, None] + HORIZON,
        'horizon': HORIZON,
    }
    values = np.broadcast_to(width * stats.norm.ppf(LEVELS), (n, 2, len(LEVELS))).copy()
    return Quantiles(LEVELS, values), rows


def cover(law, rows, place, skip=0):
    values = np.asarray(law.values)
    inside = (rows['target'] >= values[..., place]) & (rows['target'] <= values[..., -1 - place])
    return inside[skip:].mean(0)


def test_the_stretch_is_the_score_at_the_right_rank():
    law, rows = make(57)
    rows['valid'][:9, 1] = False
    facts = SplitConformal(levels=LEVELS).fit(law, rows)
    for p, (low, high) in enumerate([(0, 4), (1, 3)]):
        lo, hi = 0.6 * stats.norm.ppf([LEVELS[low], LEVELS[high]])
        for h, first in enumerate((0, 9)):
            y = rows['target'][first:, h]
            scores = np.sort(np.maximum(lo - y, y - hi) / (hi - lo))
            rank = int(np.ceil((len(y) + 1) * (LEVELS[high] - LEVELS[low])))
            assert facts['stretch_PxH'][p][h] == pytest.approx(scores[rank - 1], rel=1e-5)


@pytest.mark.parametrize('width', [0.3, 1.0, 2.0])
@pytest.mark.parametrize('method', [SplitConformal(levels=LEVELS), AdaptiveConformal(levels=LEVELS)])
def test_what_is_promised_is_covered(method, width):
    law, rows = make(4000, width, seed=1)
    facts = method.fit(law, rows)
    later, new = make(4000, width, seed=2, start=5000)
    calibrated = method.apply(facts, later, new)
    assert np.abs(cover(calibrated, new, 0) - 0.9).max() < 0.02 and np.abs(cover(calibrated, new, 1) - 0.8).max() < 0.02
    assert (np.diff(calibrated.values, axis=-1) >= 0).all()
    np.testing.assert_allclose(calibrated.values[..., 2], 0, atol=1e-6)  # the median stays


def test_any_law_is_calibrated_at_the_levels():
    _, rows = make(500)
    ones = np.ones((500, 2, 1))
    law = Mixture(ones, 0 * ones, 0.5 * ones)
    method = SplitConformal(levels=LEVELS)
    calibrated = method.apply(method.fit(law, rows), law, rows)
    assert calibrated.levels == LEVELS and np.abs(cover(calibrated, rows, 0) - 0.9).max() < 0.01


def test_a_change_of_regime_is_followed_by_the_adaptive_method_alone():
    law, rows = make(2000, seed=3)
    later, new = make(6000, seed=4, start=3000, drift=3e-4)
    split, adaptive = SplitConformal(levels=LEVELS), AdaptiveConformal(levels=LEVELS, rate=0.05, window=200)
    fixed, moving = (m.apply(m.fit(law, rows), later, new) for m in (split, adaptive))
    assert (cover(fixed, new, 1, 2000) < 0.65).all()
    assert np.abs(cover(moving, new, 1, 2000) - 0.8).max() < 0.02


def test_adaptive_by_brute_force():
    """alpha moves by rate (nominal - miss) with every label that has ended, and is read at the row."""
    method = AdaptiveConformal(levels=LEVELS, rate=0.05, window=40)
    law, rows = make(300, seed=5)
    facts = method.fit(law, rows)
    later, new = make(80, seed=6, start=400, drift=0.02)
    new['valid'][10:13, 1] = False
    got = method.apply(facts, later, new)
    for p, (low, high) in enumerate(pairs(LEVELS)):
        nominal = 1 - LEVELS[high] + LEVELS[low]
        lo, hi = 0.6 * stats.norm.ppf([LEVELS[low], LEVELS[high]])
        for h in range(2):
            y, stretch = new['target'][:, h], []
            for i in range(80):
                ended = np.flatnonzero(new['valid'][:, h] & (new['label_end'][:, h] <= new['time'][i]))
                ended = ended[np.argsort(new['label_end'][ended, h], kind='stable')]
                alpha, scores = nominal, list(facts['scores_PxHxN'][p][h])
                for j in ended:
                    edges = lo - stretch[j] * (hi - lo), hi + stretch[j] * (hi - lo)
                    alpha = np.clip(alpha + 0.05 / HORIZON[h] * (nominal - (not edges[0] <= y[j] <= edges[1])), 0, 1)
                    scores.append(max(lo - y[j], y[j] - hi) / (hi - lo))
                scores = np.sort(scores[-40 * HORIZON[h] :])
                stretch.append(
                    scores[int(np.clip(np.ceil((len(scores) + 1) * (1 - alpha) - 1e-9), 1, len(scores))) - 1]
                )
            edge = hi + np.array(stretch) * (hi - lo)
            if p == 0:  # never narrower than the interval inside
                edge = np.maximum(edge, got.values[:, h, 3])
            np.testing.assert_allclose(got.values[:, h, high], edge, rtol=1e-5)


@pytest.mark.parametrize('moment', [430, 460])
def test_the_future_changes_no_bit(moment):
    method = AdaptiveConformal(levels=LEVELS, rate=0.05)
    facts = method.fit(*make(300, seed=5))
    law, rows = make(100, seed=6, start=400)
    before = method.apply(facts, law, rows).values
    unknown = rows['label_end'] > moment
    after = method.apply(facts, law, rows | {'target': np.where(unknown, 9.0, rows['target'])}).values
    past = rows['time'] <= moment
    np.testing.assert_array_equal(after[past], before[past])
    assert (after[~past] != before[~past]).any()


def test_earlier_rows_change_nothing():
    """A forecast of all rows, those in the gap before the test split among them, gives the test rows what the test
    split alone gives."""
    parts = make(300, seed=5), make(100, seed=7, start=300, drift=0.05), make(100, seed=6, start=400)
    fitted = Calibration.of(AdaptiveConformal(levels=LEVELS, rate=0.05), *parts[0], step=1)
    law = Quantiles(LEVELS, np.concatenate([part.values for part, _ in parts]))
    rows = {k: np.concatenate([r[k] for _, r in parts]) for k in ('time', 'target', 'valid', 'label_end')}
    alone, kept = fitted.apply(*parts[2]).values, fitted.hear(*parts[2])
    np.testing.assert_array_equal(kept.apply(law, rows).values[400:], alone)
    np.testing.assert_array_equal(kept.apply(*cut(law, rows, slice(350, 500))).values[50:], alone)
    np.testing.assert_array_equal(kept.apply(*parts[2]).values, alone)
    assert kept.hear(law, rows).facts == kept.facts
    assert np.abs(fitted.apply(law, rows).values[400:] - alone).max() > 0.1  # what the labels in the gap would do


def cut(law, rows, part):
    return Quantiles(LEVELS, law.values[part]), {k: v if k == 'horizon' else v[part] for k, v in rows.items()}


@pytest.mark.parametrize('heard', [40, 60, 100])
def test_a_table_of_the_last_rows_goes_on_where_the_calibration_was(heard, tmp_path):
    """What was heard of the first rows is kept with it, and that of those whose labels were still to come."""
    method = AdaptiveConformal(levels=LEVELS, rate=0.05, window=50)
    fitted = Calibration.of(method, *make(300, seed=5), step=1)
    law, rows = make(100, seed=6, start=400, drift=0.02)
    rows['valid'][-4:, 1] = False  # not ended yet
    whole = fitted.apply(law, rows).values
    fitted.hear(*cut(law, rows, slice(0, heard))).write(tmp_path)
    kept = Calibration.read(tmp_path, 1)
    part = slice(heard - 20, 100)
    np.testing.assert_array_equal(kept.apply(*cut(law, rows, part)).values[19:], whole[heard - 1 :])
    again = kept.hear(*cut(law, rows, part))
    assert again.facts == fitted.hear(law, rows).facts  # in two parts as in one
    assert np.abs(fitted.apply(*cut(law, rows, part)).values[19:] - whole[heard - 1 :]).max() > 1e-3


def test_a_table_from_the_valid_split_on_is_followed_anew():
    method = AdaptiveConformal(levels=LEVELS, rate=0.05)
    valid = make(300, seed=5)
    fitted = Calibration.of(method, *valid, step=1)
    law, rows = make(100, seed=6, start=300)
    both = Quantiles(LEVELS, np.concatenate([valid[0].values, law.values]))
    stack = {k: v if k == 'horizon' else np.concatenate([valid[1][k], v]) for k, v in rows.items()}
    np.testing.assert_array_equal(fitted.hear(law, rows).apply(both, stack).values, fitted.apply(both, stack).values)
    assert (
        SplitConformal(levels=LEVELS) == Calibration.of(SplitConformal(levels=LEVELS), *valid, 1).hear(law, rows).method
    )


def test_labels_that_were_never_heard_are_said(capsys):
    law, rows = make(200, seed=6, start=400)
    kept = Calibration.of(AdaptiveConformal(levels=LEVELS), *make(300, seed=5), step=1)
    kept = kept.hear(*cut(law, rows, slice(0, 50)))
    kept.apply(*cut(law, rows, slice(40, 200)))
    assert not capsys.readouterr().out
    kept.apply(*cut(law, rows, slice(90, 200)))
    assert capsys.readouterr().out == (
        'the calibration has followed labels up to 449; those of rows from then to 490 are not in this table\n'
    )


def test_rows_without_labels_take_the_nominal_rate():
    method = AdaptiveConformal(levels=LEVELS)
    facts = method.fit(*make(300, seed=5))
    law, rows = make(20, start=400)
    live = method.apply(facts, law, {'time': rows['time']}).values
    none = method.apply(facts, law, rows | {'valid': np.zeros((20, 2), bool)}).values
    np.testing.assert_array_equal(live, none)
    assert np.ptp(live, axis=0).max() == 0


def test_it_is_kept_with_its_weights(tmp_path):
    law, rows = make(300)
    for method in (SplitConformal(levels=LEVELS), AdaptiveConformal(levels=LEVELS)):
        fitted = Calibration.of(method, law, rows, 40)
        fitted.write(tmp_path)
        assert Calibration.read(tmp_path, 40) == fitted == Calibration.read(tmp_path, None)
        assert Calibration.read(tmp_path, 50) is None and Calibration.read(tmp_path / 'else', 40) is None
        np.testing.assert_array_equal(
            Calibration.read(tmp_path, 40).apply(law, rows).values,
            method.apply(method.fit(law, rows), law, rows).values,
        )
    (tmp_path / 'calibration.json').write_text('{"step": 40}')
    with pytest.raises(InputError, match='damaged'):
        Calibration.read(tmp_path, 40)


def test_intervals_that_can_not_be_calibrated_are_named():
    law, rows = make(30)
    with pytest.raises(InputError, match='symmetric'):
        SplitConformal(levels=(0.1, 0.5, 0.95)).fit(law, rows)
    values = np.array(law.values)
    values[7] = 0.0
    with pytest.raises(InputError, match=r'row 7.*no width'):
        SplitConformal(levels=LEVELS).fit(Quantiles(LEVELS, values), rows)
    with pytest.raises(InputError, match='horizon 4.*no label'):
        SplitConformal(levels=LEVELS).fit(law, rows | {'valid': rows['valid'] & [True, False]})


def test_scores_are_negative_inside():
    quantiles = np.array([[[-1.0, 0.0, 3.0]]])
    scores = [float(score_pair(quantiles, 0, 2, np.array([[y]]))[0, 0]) for y in (1.0, 3.0, 5.0, -3.0)]
    assert scores == [-0.5, 0.0, 0.5, 0.5]
    assert dataclasses.is_dataclass(SplitConformal)
