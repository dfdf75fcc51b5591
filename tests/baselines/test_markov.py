"""Chains against counting by hand, over all tokens: they are laws, look back only, and find what was planted."""

import numpy as np
import pytest

from fjq.baselines import markov
from fjq.errors import InputError
from fjq.tokenizers.features import ewma_scale

V = 4
RETURNS = np.array([-2.0, -0.5, 0.5, 2.0])


def runs(seed: int, count: int = 3, size: int = 60, vocabulary: int = V) -> list[np.ndarray]:
    rng = np.random.Generator(np.random.Philox(seed))
    return [rng.integers(0, vocabulary, size) ** 2 % vocabulary for _ in range(count)]


@pytest.fixture(scope='module')
def chains() -> dict[str, markov.Chain]:
    fitted = markov.fit_chains(runs(0), runs(1), V, RETURNS, states=3)
    return {c.name: c for c in fitted}


def test_their_names(chains):
    assert list(chains) == ['uniform', 'unigram', 'bigram', 'trigram', 'volatility state']


def test_every_answer_is_a_law_of_what_came_before(chains):
    ids = runs(2)[0]
    other = ids.copy()
    other[30:] = (other[30:] + 1) % V
    at = np.arange(len(ids))
    for chain in chains.values():
        law = chain.log_probabilities(ids, at)
        assert law.shape == (60, V) and np.isfinite(law).all()
        np.testing.assert_allclose(np.exp(law).sum(1), 1, rtol=1e-12)
        np.testing.assert_array_equal(law[:31], chain.log_probabilities(other, at[:31]))
        np.testing.assert_array_equal(law[[5, 17]], chain.log_probabilities(ids, np.array([5, 17])))


def best_alpha(score) -> float:
    return max(markov.ALPHAS, key=score)


def count(train, context, token) -> int:
    """Times that `token` followed the tokens of `context` within a run."""
    n = len(context)
    return sum(tuple(r[t - n : t]) == tuple(context) and r[t] == token for r in train for t in range(n, len(r)))


def test_bigram_and_unigram_by_counting(chains):
    train, held_out = runs(0), runs(1)
    share = [(count(train, (), v) + 1) / (180 + V) for v in range(V)]

    def law(alpha, a, v):
        n = sum(count(train, (a,), w) for w in range(V))
        return (count(train, (a,), v) + alpha * V * share[v]) / (n + alpha * V)

    tables = {a: np.array([[law(a, s, v) for v in range(V)] for s in range(V)]) for a in markov.ALPHAS}
    first = sum(np.log(share[r[0]]) for r in held_out)
    alpha = best_alpha(lambda a: first + sum(np.log(tables[a][r[:-1], r[1:]]).sum() for r in held_out))
    ids = runs(3)[0]
    got = np.exp(chains['bigram'].log_probabilities(ids, np.arange(60)))
    np.testing.assert_allclose(got[0], share)
    np.testing.assert_allclose(got[1:], tables[alpha][ids[:-1]])


def test_trigram_mixes_its_laws_by_counting(chains):
    train, chain, ids = runs(0), chains['trigram'], runs(4)[0]
    got = np.exp(chain.log_probabilities(ids, np.arange(60)))
    for t in (0, 1, 2, 17, 40):
        laws, seen = np.zeros((4, V)), 0
        for j, n in enumerate((2, 1, 0)):
            if t >= n:
                counts = np.array([count(train, ids[t - n : t], v) for v in range(V)], float)
                seen = int(counts.sum()) if n == 2 else seen
                laws[j] = counts / max(counts.sum(), 1)
        laws[3] = 1 / V
        weights = chain.weights[np.searchsorted(markov.BUCKETS, seen, side='right')] * (laws.sum(1) > 0)
        np.testing.assert_allclose(got[t], weights @ laws / weights.sum(), rtol=1e-12)


def test_the_weights_are_the_likeliest():
    given = np.random.Generator(np.random.Philox(5)).uniform(0.01, 1, (3, 400)) * np.array([[1.0], [0.6], [0.9]])
    score = lambda w: np.log(w @ given).sum()
    found = markov.mix(given)
    grid = [np.array([a, b, 1 - a - b]) for a in np.linspace(0, 1, 41) for b in np.linspace(0, 1 - a, 41)]
    assert found.sum() == pytest.approx(1) and score(found) > max(score(w) for w in grid) - 0.5


def test_the_volatility_before_a_token_by_a_loop():
    ids = runs(6)[0]
    got = markov.variance_before(ids, RETURNS, 0.9)
    for t in (1, 2, 10, 59):
        weights = 0.9 ** np.arange(t)[::-1]
        assert got[t] == pytest.approx(np.average(RETURNS[ids[:t]] ** 2, weights=weights))
    assert got[0] == 0 and len(markov.variance_before(ids[:0], RETURNS, 0.9)) == 0


def test_the_volatility_chain_finds_clusters():
    rng = np.random.Generator(np.random.Philox(7))

    def clustered() -> np.ndarray:
        wild = np.repeat(rng.random(40) < 0.5, 50)
        return np.where(wild, rng.choice([0, 3], 2000), rng.choice([1, 2], 2000))

    chains = {c.name: c for c in markov.fit_chains([clustered()], [clustered()], V, RETURNS, states=4)}
    ids = clustered()
    at = np.arange(len(ids))
    bits = {n: -c.log_probabilities(ids, at)[at, ids].mean() / np.log(2) for n, c in chains.items()}
    assert bits['volatility state'] < 1.6 < 1.9 < bits['unigram']


def test_the_trigram_finds_what_only_two_tokens_tell():
    rng = np.random.Generator(np.random.Philox(8))

    def planted(size: int) -> np.ndarray:
        x = [0, 1]
        for e in np.where(rng.random(size) < 0.2, rng.integers(1, V, size), 0):
            x.append((x[-1] + x[-2] + e) % V)
        return np.array(x)

    chains = {c.name: c for c in markov.fit_chains([planted(6000)], [planted(2000)], V, RETURNS)}
    ids = planted(3000)
    at = np.arange(2, len(ids))
    bits = {n: -c.log_probabilities(ids, at)[np.arange(len(at)), ids[at]].mean() / np.log(2) for n, c in chains.items()}
    known = np.where((ids[2:] - ids[1:-1] - ids[:-2]) % V == 0, 0.8, 0.2 / 3)  # the law that it was drawn from
    assert bits['trigram'] < -np.log2(known).mean() + 0.02 and bits['bigram'] > 1.98


def test_the_scale_makes_order_of_noise_and_its_chain_knows_it():
    """Independent heavy-tailed returns divided by the EWMA volatility before each: no chain of tokens alone finds what
    the scale tells of the next one."""
    rng, runs, scales = np.random.Generator(np.random.Philox(9)), [], []
    for _ in range(3):
        r = rng.standard_t(4, 12_000)
        scale = ewma_scale(r, 0.94, 1.0)[:-1]
        runs.append(np.searchsorted(np.quantile(r, np.arange(1, 16) / 16), r / scale))
        scales.append(scale)
    middle = np.linspace(-2, 2, 16)
    chains = markov.fit_chains(runs[:1], runs[1:2], 16, middle, (scales[:1], scales[1:2]))
    ids, at = runs[2], np.arange(12_000)
    bits = {c.name: -c.log_probabilities(ids, at, scales[2])[at, ids].mean() / np.log(2) for c in chains}
    without = min(value for name, value in bits.items() if name != 'scale')
    assert list(bits)[-1] == 'scale' and bits['scale'] < without - 0.02
    later = np.where(at > 600, 9.0, scales[2])  # of the scale before a token alone
    got, other = (chains[-1].log_probabilities(ids, at[:600], s) for s in (scales[2], later))
    np.testing.assert_array_equal(got, other)
    constant = [np.ones(12_000)]
    assert [c.name for c in markov.fit_chains(runs[:1], runs[1:2], 16, middle, (constant, constant))][-1] != 'scale'


@pytest.mark.parametrize(
    ('train', 'held_out', 'message'),
    [
        ([], [np.array([1])], 'no training'),
        ([np.array([1])], [], 'no held-out'),
        ([np.array([9])], [np.array([1])], 'is 9'),
    ],
)
def test_bad_tokens_are_named(train, held_out, message):
    with pytest.raises(InputError, match=message):
        markov.fit_chains(train, held_out, V, RETURNS)
