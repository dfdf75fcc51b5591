"""Tests and intervals against statsmodels and scipy, and their size on simulated overlapping targets."""

import numpy as np
import pytest
import scipy.stats as st
import statsmodels.api as sm

from fjq import compare, metrics
from fjq.errors import InputError
from fjq.forecast import Atoms, Mixture, Point, Quantiles, Samples


def rng(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(seed))


def overlapping(n: int, h: int, reps: int, seed: int) -> np.ndarray:
    """[reps, n] sums of h independent steps in a window that slides by one: what h-day targets do to losses."""
    steps = np.cumsum(rng(seed).standard_normal((reps, n + h)), 1)
    return steps[:, h:] - steps[:, :-h]


def test_newey_west_against_statsmodels():
    x = overlapping(200, 5, 1, 0)[0]
    for lag in (0, 4, 12):
        fit = sm.OLS(x, np.ones_like(x)).fit(cov_type='HAC', cov_kwds={'maxlags': lag})
        np.testing.assert_allclose(compare.newey_west(x, lag) / len(x), fit.cov_params()[0, 0], rtol=1e-10)


def test_diebold_mariano_classical():
    """Of independent losses with horizon 1 and no lag it is the paired t test; else the corrected formula."""
    a, b = rng(1).standard_normal((2, 60)) + np.array([[0.3], [0.0]])
    d = a - b
    lag = 3  # 4 (60 / 100)^(2/9)
    plain = d.mean() / np.sqrt(compare.newey_west(d, lag) / 60)
    test = compare.diebold_mariano(a, b, horizon=1, variance='newey-west')
    np.testing.assert_allclose(test.statistic, plain * np.sqrt(59 / 60))
    np.testing.assert_allclose(test.p, 2 * st.t.sf(abs(test.statistic), 59))
    wide = compare.diebold_mariano(a, b, horizon=7, variance='newey-west')
    expected = np.sqrt((60 + 1 - 14 + 42 / 60) / 60) * d.mean() / np.sqrt(compare.newey_west(d, 6) / 60)
    np.testing.assert_allclose(wide.statistic, expected)


def test_diebold_mariano_sign_and_symmetry():
    worse, better = rng(2).standard_normal((2, 300)) + np.array([[1.0], [0.0]])
    test = compare.diebold_mariano(worse, better, horizon=3)
    assert test.statistic > 3 and test.p < 1e-3
    other = compare.diebold_mariano(better, worse, horizon=3)
    np.testing.assert_allclose((other.statistic, other.p), (-test.statistic, test.p))
    scaled = compare.diebold_mariano(100 * worse + 7, 100 * better + 7, horizon=3)
    np.testing.assert_allclose(scaled, test, rtol=1e-6)


def test_diebold_mariano_of_independent_losses_is_close_to_the_t_test():
    a, b = rng(3).standard_normal((2, 4000)) + np.array([[0.04], [0.0]])
    ours, theirs = compare.diebold_mariano(a, b, horizon=1), st.ttest_rel(a, b)
    assert abs(ours.statistic / theirs.statistic - 1) < 0.25


@pytest.mark.parametrize('n,h', [(116, 21), (500, 21), (100, 5), (300, 1)])
def test_size_under_overlap(n, h):
    """Of 1,500 pairs without a difference, at most 8 % are told apart at 5 %."""
    losses = overlapping(n, h, 1500, seed=n + h)
    zero = np.zeros(n)
    p = np.array([compare.diebold_mariano(d, zero, horizon=h).p for d in losses])
    assert 0.03 < (p < 0.05).mean() < 0.08
    if h == 21:  # what the classical test does with the same losses
        classic = np.array([compare.diebold_mariano(d, zero, horizon=h, variance='newey-west').p for d in losses[:500]])
        assert (classic < 0.05).mean() > 0.09


def test_diebold_mariano_edges():
    x = rng(4).standard_normal(50)
    assert compare.diebold_mariano(x, x, horizon=2) == (0, 1)
    assert compare.diebold_mariano(x + 1, x + 0, horizon=2).p < 1e-6
    assert np.isnan(compare.diebold_mariano(x, -x, horizon=30)).all()
    for bad in (dict(horizon=0), dict(horizon=1, variance='iid')):
        with pytest.raises(InputError):
            compare.diebold_mariano(x, -x, **bad)
    with pytest.raises(InputError, match='shapes'):
        compare.diebold_mariano(x, x[1:], horizon=1)
    with pytest.raises(InputError, match='row 7'):
        compare.diebold_mariano(x, np.where(np.arange(50) == 7, np.nan, 0), horizon=1)


@pytest.mark.parametrize('n,h', [(116, 21), (500, 21), (250, 1)])
def test_coverage_of_the_bootstrap(n, h):
    """95 % intervals of the mean hold the true one at least 91 % of the time, with blocks of twice the overlap."""
    hits = 0
    for i, d in enumerate(overlapping(n, h, 400, seed=n)):
        low, high = compare.block_bootstrap(d, block=2 * h if h > 1 else 1, draws=400, seed=i)
        hits += low <= 0 <= high
    assert 0.91 <= hits / 400 <= 0.995


def test_bootstrap_of_independent_values_is_the_t_interval():
    x = rng(5).standard_normal(400)
    ours = compare.block_bootstrap(x, block=1, draws=20_000, seed=0)
    theirs = st.t.interval(0.95, 399, x.mean(), st.sem(x))
    np.testing.assert_allclose(ours, theirs, atol=0.005)


def test_bootstrap_columns_and_statistics():
    x = overlapping(300, 5, 2, seed=6).T + 3
    both = compare.block_bootstrap(x, block=10, draws=500, seed=1)
    assert both.low.shape == (2,) and (both.low < x.mean(0)).all() and (x.mean(0) < both.high).all()
    np.testing.assert_array_equal(compare.block_bootstrap(x, block=10, draws=500, seed=1), both)
    assert (compare.block_bootstrap(x, block=10, draws=500, seed=2).low != both.low).all()
    losses = np.stack([0.8 * x[:, 0], x[:, 0]], 1)  # a fifth better in every row: the ratio has no spread
    skill = compare.block_bootstrap(losses, block=10, draws=200, seed=1, statistic=compare.relative_skill)
    np.testing.assert_allclose(skill, (0.2, 0.2), rtol=1e-9)


def test_bootstrap_resamples_whole_blocks():
    """Means of resamples of a repeating series of the block's length are all equal."""
    x = np.tile([1.0, 5.0, 9.0], 20)
    np.testing.assert_allclose(compare.block_bootstrap(x, block=3, draws=100, seed=0), (5, 5))
    low, high = compare.block_bootstrap(x, block=2, draws=100, seed=0)
    assert low < 4.9 and high > 5.1
    same = np.full(61, 5.0)  # blocks that do not divide the rows still make resamples of all of them
    np.testing.assert_allclose(compare.block_bootstrap(same, block=7, draws=100, seed=0), (5, 5))
    assert compare.block_bootstrap(x, block=40, draws=10, seed=0) == (-np.inf, np.inf)
    for bad in (dict(block=0, draws=1), dict(block=1, draws=0), dict(block=1, draws=1, level=1.0)):
        with pytest.raises(InputError):
            compare.block_bootstrap(x, seed=0, **bad)


@pytest.mark.parametrize('n,h', [(400, 20), (100, 1), (60, 21)])
def test_effective_size(n, h):
    means = overlapping(n, h, 4000, seed=8).mean(1)
    assert abs(h / means.var() / compare.effective_size(n, h) - 1) < 0.1
    assert abs(compare.effective_size(100_000, 21) - 100_000 / 21) < 20


def test_rows_of_one_moment_are_resampled_together():
    """Three assets of correlation 0.6, as the losses of assets that move together have: 95 % intervals of the mean miss
    a true 0 about as often as they say; taken for independent rows they miss it in one of eight."""
    time, missed = np.repeat(np.arange(150), 3), np.zeros(2)
    for i in range(400):
        common, own = rng(20 + i).standard_normal((2, 150, 3))
        d = (np.sqrt(0.6) * common[:, :1] + np.sqrt(0.4) * own).reshape(-1)
        for k, moments in enumerate((time, None)):
            low, high = compare.block_bootstrap(d, block=2, draws=300, seed=i, time=moments)
            missed[k] += not low <= 0 <= high
    assert missed[0] / 400 < 0.08 and missed[1] / 400 > 0.1


def test_moments_of_a_bootstrap():
    x, time = rng(21).standard_normal((60, 2)), np.repeat(np.arange(20), 3)
    got = compare.block_bootstrap(x, block=3, draws=200, seed=0, time=time)
    means = x.reshape(20, 3, 2).mean(1)
    np.testing.assert_allclose(got, compare.block_bootstrap(means, block=3, draws=200, seed=0))
    mixed = rng(22).permutation(60)  # moments come in any order
    again = compare.block_bootstrap(x[mixed], block=3, draws=200, seed=0, time=time[mixed])
    np.testing.assert_allclose(again, got)
    ragged = compare.block_bootstrap(x[:-2, 0], block=3, draws=200, seed=0, time=time[:-2])
    assert ragged.low < x[:-2, 0].mean() < ragged.high
    sums, count = compare.sum_moments(x[:-2], time[:-2])
    np.testing.assert_allclose(sums[:19], 3 * means[:19])
    assert count.tolist() == [3] * 19 + [1]


def test_a_test_by_moments_is_of_the_mean_of_all_rows():
    """Ten assets on weekdays, one of them at weekends too: what happens there is a tenth of a day."""
    day = np.repeat(np.arange(700), np.where(np.arange(700) % 7 < 5, 10, 1))
    weekend = day % 7 >= 5
    gain = rng(23).standard_normal(len(day)) + np.where(weekend, -1.0, 0.1)
    series = compare.mean_by_moments(gain, day)
    assert series.shape == (700,) and series.mean() == pytest.approx(gain.mean()) and gain.mean() > 0
    sums, count = compare.sum_moments(gain, day)
    assert (sums / count).mean() < 0  # which a test of the moments' means would find
    # against least squares on a constant, its error clustered by day
    error = np.sqrt(((sums - gain.mean() * count) ** 2).sum()) / len(gain)
    assert series.std() / np.sqrt(700) == pytest.approx(error)
    even = rng(24).standard_normal((60, 2))
    np.testing.assert_allclose(compare.mean_by_moments(even, np.arange(60) // 3), even.reshape(20, 3, 2).mean(1))


def correlated(n: int, h: int, seed: int) -> np.ndarray:
    """[n, 2] sums of h steps, of correlation 0.6."""
    x, other = overlapping(n, h, 2, seed)
    return np.stack([x, 0.6 * x + 0.8 * other], 1)


RANKS = 6 / np.pi * np.arcsin(0.3)  # the rank correlation of normal variables of correlation 0.6


@pytest.mark.parametrize('n,h', [(6, 1), (30, 1), (116, 21)])
def test_intervals_stay_where_the_statistic_can_be(n, h):
    """Of few rows too, and they hold the true value as often as they say."""
    missed, reps = np.zeros(2), 400
    for i in range(reps):
        pair = correlated(n, h, 400 * n + i)
        ranks = st.rankdata(pair, axis=0) - (n + 1) / 2
        moments = np.stack(metrics.comoments(*ranks.T, axis=()), -1)
        for k, (values, statistic, most, true) in enumerate(
            [(moments, compare.correlation, 1, RANKS), (pair**2 + 0.01, compare.relative_skill, 1, 0)]
        ):
            low, high = compare.block_bootstrap(values, block=2 * h, draws=400, seed=i, statistic=statistic)
            if np.isfinite(high):
                assert low <= statistic(values.mean(0)) <= high <= most and (k or low >= -1)
                missed[k] += not low <= true <= high
    assert (missed / reps < 0.09).all()


def test_a_statistic_at_its_end_has_no_interval():
    """Four rows whose ranks agree, as one in 24 does by chance, say little; their resamples say that all is known."""
    x = np.arange(4.0) - 1.5
    for y in (x, -x, np.zeros(4)):
        moments = np.stack(metrics.comoments(x, y, axis=()), -1)
        interval = compare.block_bootstrap(moments, block=2, draws=100, seed=0, statistic=compare.correlation)
        assert interval == (-np.inf, np.inf)
    no_loss = np.stack([np.zeros(50), x.repeat(13)[:50] ** 2], 1)
    for losses in (no_loss, no_loss[:, ::-1]):
        both = compare.block_bootstrap(losses, block=2, draws=100, seed=0, statistic=compare.relative_skill)
        assert both == (-np.inf, np.inf)
    small = np.full(50, 1e-3)
    small[7] = 1.0  # a t interval of the mean would reach below 0
    low, high = compare.block_bootstrap(small, block=10, draws=200, seed=0, statistic=compare.positive_mean)
    assert 0 < low < small.mean() < high and compare.block_bootstrap(small, block=10, draws=200, seed=0).low < 0


@pytest.mark.parametrize('n,h,assets', [(6, 1, 1), (20, 1, 1), (116, 21, 1), (60, 4, 3)])
@pytest.mark.parametrize('share', [0.8, 0.95])
def test_the_interval_of_a_share_holds_it(n, h, assets, share):
    """95 % intervals miss the true share in 9 % at most, however few the moments; those of the bootstrap alone miss it
    in up to 75 %, as it finds no spread in hits that are all alike."""
    missed, alone, reps = 0, 0, 400
    time = np.repeat(np.arange(n), assets)
    for i in range(reps):
        market, *own = overlapping(n, h, 1 + assets, 400 * n + i) / np.sqrt(h)
        x = np.stack(own, 1) if assets == 1 else np.sqrt(0.6) * market[:, None] + np.sqrt(0.4) * np.stack(own, 1)
        hits = (np.abs(x) < st.norm.ppf(0.5 + share / 2)).reshape(-1)
        settings = dict(block=2 * h, draws=200, seed=i, time=time)
        low, high = compare.share_interval(hits, **settings)
        assert 0 <= low <= hits.mean() <= high <= 1
        missed += not low <= share <= high
        low, high = compare.block_bootstrap(hits, **settings)
        alone += not low <= share <= high
    assert missed / reps < 0.09 and missed <= alone
    if n == 6:
        assert alone / reps > 0.2


def test_the_interval_of_a_share_by_hand():
    exact = lambda hits, n: st.binomtest(hits, n).proportion_ci(0.95, 'exact')
    hits = rng(30).uniform(size=2000) < 0.7
    ours, theirs = compare.share_interval(hits, block=1, draws=2000, seed=0), exact(int(hits.sum()), 2000)
    np.testing.assert_allclose(ours, theirs, atol=0.002)
    # six moments that are all inside, in blocks of two: three independent hits, of two assets still
    for moments in (np.arange(6), np.arange(6).repeat(2)):
        for hit in (True, False):
            alike = np.full(len(moments), hit)
            ours = compare.share_interval(alike, block=2, draws=100, seed=0, time=moments)
            np.testing.assert_allclose(ours, exact(3 * hit, 3))
    # pairs that are one hit each are half as many
    pairs = compare.share_interval(hits.repeat(2), block=2, draws=2000, seed=0)
    np.testing.assert_allclose(pairs, theirs, atol=0.004)
    assert compare.share_interval(hits[:3], block=2, draws=10, seed=0) == (-np.inf, np.inf)
    # of many alike the share that chance would pick: no spread, and no more than there are
    np.testing.assert_allclose(compare.share_interval(np.full(64, 1 / 8), block=1, draws=50, seed=0), exact(8, 64))
    wider = compare.share_interval(hits, block=1, draws=200, seed=0, level=0.99)
    assert wider.low < theirs.low and theirs.high < wider.high


def calibrated(n: int) -> tuple[Mixture, np.ndarray]:
    loc, scale = rng(10).normal(size=n), rng(11).uniform(0.5, 2, n)
    law = Mixture(*(a[:, None].astype(np.float32) for a in (np.ones(n), loc, scale)))
    return law, loc + scale * rng(12).standard_normal(n)


def test_pit_of_a_calibrated_law_is_uniform():
    law, y = calibrated(3000)
    assert st.kstest(compare.pit(law, y), 'uniform').pvalue > 0.01
    assert st.kstest(compare.pit(law, y + 0.2), 'uniform').pvalue < 1e-6
    mask = np.arange(3000) < 5
    np.testing.assert_allclose(compare.pit(law, np.where(mask, y, np.nan), mask), compare.pit(law, y)[:5], rtol=1e-6)


def test_pit_of_a_discrete_law_is_spread():
    y = rng(13).integers(0, 3, 3000).astype(float)
    law = Atoms(np.broadcast_to(np.float32([0, 1, 2]), (3000, 3)), np.ones((3000, 3), np.float32))
    assert set(np.round(compare.pit(law, y), 4)) == {0.3333, 0.6667, 1.0}
    assert st.kstest(compare.pit(law, y, seed=0), 'uniform').pvalue > 0.01
    assert (compare.pit(Point(np.ones(4)), np.zeros(4), seed=0) == 0).all()


@pytest.mark.parametrize('step', [0.0, 0.5])
def test_pit_of_draws_from_the_law_is_uniform(step):
    """The rank of the target among n draws takes n + 1 values, all as likely; `step` rounds, so that many are equal."""
    x = rng(19).standard_normal((6000, 17)).astype(np.float32)
    x = np.round(x / step) * np.float32(step) if step else x
    law, y = Samples(x[:, 1:]), x[:, 0]
    assert st.kstest(compare.pit(law, y, seed=0), 'uniform').pvalue > 0.01
    assert st.kstest(compare.pit(law, y + 0.2, seed=0), 'uniform').pvalue < 1e-6
    np.testing.assert_array_equal(compare.pit(law, y), (x[:, 1:] <= y[:, None]).mean(1))


def test_kupiec_against_the_binomial():
    hits = rng(14).uniform(size=(400, 3)) < np.array([0.9, 0.8, 1.1])
    test = compare.kupiec(hits, 0.9)
    x = hits.sum(0)
    expected = 2 * (st.binom.logpmf(x, 400, x / 400) - st.binom.logpmf(x, 400, 0.9))
    np.testing.assert_allclose(test.statistic, expected, rtol=1e-7)
    np.testing.assert_allclose(test.p, st.chi2.sf(expected, 1), rtol=1e-6)
    assert test.p[0] > 0.05 > test.p[1] and test.p[2] < 1e-6
    np.testing.assert_allclose(compare.kupiec(hits[:, 0], 0.9), [test.statistic[0], test.p[0]])


def test_sizes_of_the_coverage_tests():
    hits = rng(15).uniform(size=(500, 2000)) < 0.8
    for test in (compare.kupiec(hits, 0.8), compare.christoffersen(hits, 0.8)):
        assert 0.03 < (test.p < 0.05).mean() < 0.07


def test_christoffersen_against_a_brute_force_likelihood():
    hits = rng(16).uniform(size=80) < 0.7
    pairs = np.zeros((2, 2))
    for a, b in zip(hits[:-1], hits[1:], strict=True):
        pairs[int(a), int(b)] += 1
    rates = pairs / pairs.sum(1, keepdims=True)
    pooled = pairs.sum(0) / pairs.sum()
    chain = 2 * (pairs * np.log(rates / pooled)).sum()
    np.testing.assert_allclose(
        compare.christoffersen(hits, 0.7).statistic, compare.kupiec(hits, 0.7).statistic + chain, rtol=1e-9
    )
    clustered = np.repeat(rng(17).uniform(size=100) < 0.8, 5)
    assert compare.christoffersen(clustered, 0.8).p < 1e-6


def test_overlap_is_counted_in_rows_of_all_series():
    time = np.repeat(np.datetime64('2023-01-02') + np.arange(30), 2)  # two series
    ends = time[:, None] + np.array([1, 5])
    rows = {'time': time, 'label_end': ends, 'valid': np.ones((60, 2), bool)}
    assert compare.count_overlap(rows) == [2, 10]
    gap = rows | {'label_end': np.where(np.arange(60)[:, None] < 40, ends, np.datetime64('NaT', 'D'))}
    gap['valid'] = np.isfinite(gap['label_end'])
    assert compare.count_overlap(gap) == [2, 10]
    assert compare.count_span(rows) == compare.count_span(gap) == [1, 5]
    with pytest.raises(InputError, match='no label_end'):
        compare.count_overlap({'time': time, 'valid': rows['valid']})


def test_labels_that_end_beyond_the_last_row_do_not_look_short():
    time = np.datetime64('2023-01-02') + np.arange(12)
    rows = {'time': time, 'label_end': time[:, None] + np.array([1, 9, 20]), 'valid': np.ones((12, 3), bool)}
    assert compare.count_overlap(rows) == compare.count_span(rows) == [1, 9, 12]
    rows['valid'][:, 2] = False
    assert compare.count_span(rows)[2] == 1


def test_rows_that_do_not_overlap():
    time, ends = np.arange(12), np.arange(12) + 3
    assert compare.non_overlapping(time, ends, np.ones(12, bool)).tolist() == [0, 3, 6, 9]
    mask = np.isin(time, [1, 2, 4, 5, 11])
    assert compare.non_overlapping(time, ends, mask).tolist() == [1, 4, 11]
    assert compare.non_overlapping(time, ends, np.zeros(12, bool)).size == 0


def test_pit_beyond_the_outer_quantiles_is_spread():
    n = 4000
    target = np.random.Generator(np.random.Philox(8)).standard_normal(n)
    levels = (0.1, 0.25, 0.5, 0.75, 0.9)
    law = Quantiles(levels, np.broadcast_to(st.norm.ppf(levels), (n, 5)))
    u = compare.pit(law, target, seed=0)
    outside = np.mean(u < 0.1), np.mean(u > 0.9)
    assert outside == pytest.approx((0.1, 0.1), abs=0.015)
    assert st.kstest(u[u < 0.1] * 10, 'uniform').pvalue > 0.01 < st.kstest(u[u > 0.9] * 10 - 9, 'uniform').pvalue
