"""What a model of tokens must beat: chains that remember one token, two, or how volatile the last ones were.

    for chain in fit_chains(train, held_out, vocabulary, returns, scales):
        chain.name, chain.log_probabilities(ids, at, scale)

`train`, `held_out`: a list of int arrays, the tokens of one asset each; no chain runs across two assets. What smooths
a chain (alpha, weights) is what makes `held_out` likeliest, as a model's checkpoint is picked by validation.
`log_probabilities(ids, at)`: float64 [K, V], the law of the tokens at the places `at` [K] of one asset's `ids`, of
those before it alone; `ids[at]` themselves are not read. Natural logarithms; all laws are above zero everywhere.

`scale` [N], or in `scales` a list of them an asset for `train` and for `held_out`: the volatility known before each
candle, that the tokenizer divides by. It makes order of its own, even of noise: after a wild candle the scale is high
and the next tokens are small. The chain 'scale' knows it, so that what a model saves beside it is not that.
"""

import dataclasses
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from scipy import sparse
from scipy.signal import lfilter

from fjq.errors import InputError

ALPHAS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128)  # times that a context was seen, from which on its own weights hold
LEAST_HELD_OUT = 50  # tokens of a bucket for weights of its own
STEPS = 1000  # of expectation maximisation at most
CONVERGED = 1e-6  # the change of a weight in a step that ends it
Ids = Sequence[np.ndarray]


class Chain(Protocol):
    """A fitted law of the next token."""

    name: str

    def log_probabilities(self, ids: np.ndarray, at: np.ndarray, scale: np.ndarray | None = None) -> np.ndarray:
        """float64 [K, V] of the tokens at `at`, given those before; `scale` is read by the chain 'scale' alone."""


@dataclasses.dataclass(frozen=True)
class Uniform:
    """Every token alike: log2 V bits."""

    vocabulary: int
    name: str = 'uniform'

    def log_probabilities(self, ids: np.ndarray, at: np.ndarray, scale: np.ndarray | None = None) -> np.ndarray:
        return np.full((len(at), self.vocabulary), -np.log(self.vocabulary))


@dataclasses.dataclass(frozen=True)
class Table:
    """One law a state: add-alpha over the counts of a state, drawn to the shares of all states together.

    log_law: [S + 1, V]; the last row is for tokens without a state, such as an asset's first.
    """

    name: str
    log_law: np.ndarray
    states: 'States'

    def log_probabilities(self, ids: np.ndarray, at: np.ndarray, scale: np.ndarray | None = None) -> np.ndarray:
        return self.log_law[self.states(ids, scale)[at]]


class States(Protocol):
    """Numbers the state before each token: int [N], -1 = none. `count` of them."""

    count: int

    def __call__(self, ids: np.ndarray, scale: np.ndarray | None) -> np.ndarray: ...


@dataclasses.dataclass(frozen=True)
class NoState:
    count: int = 1

    def __call__(self, ids: np.ndarray, scale: np.ndarray | None) -> np.ndarray:
        return np.zeros(len(ids), np.int64)


@dataclasses.dataclass(frozen=True)
class LastToken:
    count: int

    def __call__(self, ids: np.ndarray, scale: np.ndarray | None) -> np.ndarray:
        return np.concatenate([[-1], ids[:-1]]).astype(np.int64)[: len(ids)]


@dataclasses.dataclass(frozen=True)
class Volatility:
    """Which range the EWMA of squared decoded returns before a token lies in. edges: [S - 1]; returns: [V]."""

    returns: np.ndarray
    edges: np.ndarray
    decay: float

    @property
    def count(self) -> int:
        return len(self.edges) + 1

    def __call__(self, ids: np.ndarray, scale: np.ndarray | None) -> np.ndarray:
        state = np.searchsorted(self.edges, variance_before(ids, self.returns, self.decay))
        return np.where(np.arange(len(ids)) == 0, -1, state)


@dataclasses.dataclass(frozen=True)
class Scale:
    """Which range the tokenizer's scale before a token lies in. edges: [S - 1]."""

    edges: np.ndarray

    @property
    def count(self) -> int:
        return len(self.edges) + 1

    def __call__(self, ids: np.ndarray, scale: np.ndarray | None) -> np.ndarray:
        return np.searchsorted(self.edges, scale)


def variance_before(ids: np.ndarray, returns: np.ndarray, decay: float) -> np.ndarray:
    """The exponentially weighted mean of squared decoded returns before each token [N]; the first is 0."""
    square = returns[ids] ** 2
    if not len(square):
        return square
    weights = -np.expm1(np.arange(1, len(square)) * np.log(decay))
    return np.concatenate([[0.0], lfilter([1 - decay], [1, -decay], square[:-1]) / weights])


@dataclasses.dataclass(frozen=True)
class Trigram:
    """Shares after two tokens, after one, of all and uniform, mixed by weights that depend on how often the two were
    seen, fitted to held-out tokens (Jelinek and Mercer 1980).

    pairs: counts [V * V, V]; singles: shares [V + 1, V] (the last row is unused: 0); weights: [buckets, 4] from the
    longest context to the uniform law. A law whose context was never seen is left out.
    """

    name: str
    pairs: sparse.csr_array
    singles: np.ndarray
    shares: np.ndarray
    weights: np.ndarray

    def log_probabilities(self, ids: np.ndarray, at: np.ndarray, scale: np.ndarray | None = None) -> np.ndarray:
        laws_JxKxV, bucket = self.components(ids, at)
        weights_KxJ = self.weights[bucket] * (laws_JxKxV.sum(-1) > 0).T
        weights_KxJ /= weights_KxJ.sum(1, keepdims=True)
        return np.log(np.einsum('kj,jkv->kv', weights_KxJ, laws_JxKxV))

    def components(self, ids: np.ndarray, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The four laws [4, K, V], all zeros where their context was never seen, and the bucket [K]."""
        V = len(self.shares)
        one, two = (np.where(at >= k, ids[np.maximum(at - k, 0)], -1) for k in (1, 2))
        context = np.where(two >= 0, two * V + one, 0)
        counts = self.pairs[context].toarray() * (two >= 0)[:, None]
        seen = counts.sum(1, keepdims=True)
        after_two = counts / np.maximum(seen, 1)
        shape = after_two.shape
        laws = after_two, self.singles[one], np.broadcast_to(self.shares, shape), np.full(shape, 1 / V)
        return np.stack(laws), np.searchsorted(BUCKETS, seen[:, 0], side='right')


def fit_chains(
    train: Ids,
    held_out: Ids,
    vocabulary: int,
    returns: np.ndarray,
    scales: tuple[Ids, Ids] | None = None,
    *,
    states: int = 8,
    decay: float = 0.94,
) -> list[Chain]:
    """All chains: uniform, unigram, bigram, trigram, volatility state, and with scales that vary the scale.

    Args:
      returns: [V] decoded log return of each token, in any unit.
      scales: of the training and of the held-out tokens, in a unit that assets share; None = the tokens have none.
      states: of the chains of the volatility and of the scale; decay: of the volatility.

    Raises:
      InputError: no training or no held-out tokens, or one outside the vocabulary.
    """
    for name, runs in (('training', train), ('held-out', held_out)):
        if not sum(len(ids) for ids in runs):
            raise InputError(f'there are no {name} tokens', remedy='check the split dates')
        if (worst := max(int(ids.max(initial=0)) for ids in runs)) >= vocabulary:
            raise InputError(f'a {name} token is {worst} in a vocabulary of {vocabulary}')
    before = np.concatenate([variance_before(ids, returns, decay)[1:] for ids in train])
    edges = np.quantile(before, np.arange(1, states) / states) if len(before) else np.zeros(0)
    chains = [
        Uniform(vocabulary),
        fit_table('unigram', NoState(), train, held_out, vocabulary),
        fit_table('bigram', LastToken(vocabulary), train, held_out, vocabulary),
        fit_trigram(train, held_out, vocabulary),
        fit_table('volatility state', Volatility(returns, edges, decay), train, held_out, vocabulary),
    ]
    if scales is None or not np.ptp(known := np.concatenate(scales[0])):
        return chains
    by_scale = Scale(np.quantile(known, np.arange(1, states) / states))
    return [*chains, fit_table('scale', by_scale, train, held_out, vocabulary, scales)]


def fit_table(
    name: str, states: States, train: Ids, held_out: Ids, vocabulary: int, scales: tuple[Ids, Ids] | None = None
) -> Table:
    """log of (n(s, v) + alpha V share(v)) / (n(s) + alpha V), share the add-one unigram, alpha by the held-out tokens.

    A state that was never seen, or none, has the unigram law: with alpha V share in place of alpha, add-alpha falls
    back to what is likely anyway, which is no worse a baseline.
    """
    of_train, of_held_out = scales or ([None] * len(train), [None] * len(held_out))
    counts = count_states(states, train, vocabulary, of_train)
    share = (counts.sum(0) + 1) / (counts.sum() + vocabulary)
    asked = [(states(ids, scale), ids) for ids, scale in zip(held_out, of_held_out, strict=True)]
    state, token = (np.concatenate([a[i] for a in asked]) for i in (0, 1))
    best, best_score = None, -np.inf
    for alpha in ALPHAS:
        prior = alpha * vocabulary * share
        law = np.log((counts + prior) / (counts.sum(1, keepdims=True) + prior.sum()))
        law[-1] = np.log(share)
        if (score := law[state, token].mean()) > best_score:
            best, best_score = law, score
    return Table(name, best, states)


def count_states(states: States, runs: Ids, vocabulary: int, scales: Sequence) -> np.ndarray:
    """How often each token followed each state: float64 [S + 1, V], the last row for no state."""
    out = np.zeros((states.count + 1, vocabulary))
    for ids, scale in zip(runs, scales, strict=True):
        np.add.at(out, (states(ids, scale), ids), 1)
    return out


def fit_trigram(train: Ids, held_out: Ids, vocabulary: int) -> Trigram:
    """Counts of `train`, weights by expectation maximisation on `held_out`."""
    V = vocabulary
    context = np.concatenate([ids[:-2].astype(np.int64) * V + ids[1:-1] for ids in train])
    after = np.concatenate([ids[2:] for ids in train])
    pairs = sparse.csr_array((np.ones(len(after)), (context, after)), shape=(V * V, V))
    after_one = count_states(LastToken(V), train, V, [None] * len(train))
    after_one[-1] = 0
    singles = after_one / np.maximum(after_one.sum(1, keepdims=True), 1)
    count = np.bincount(np.concatenate(train), minlength=V)
    chain = Trigram('trigram', pairs, singles, count / count.sum(), np.zeros((0, 4)))
    given, buckets = [], []
    for ids in held_out:
        for at in np.array_split(np.arange(len(ids)), max(1, len(ids) * V // 2_000_000)):
            laws, bucket = chain.components(ids, at)
            given.append(laws[:, np.arange(len(at)), ids[at]])
            buckets.append(bucket)
    given, bucket = np.concatenate(given, 1), np.concatenate(buckets)
    pooled = mix(given)
    own = [given[:, bucket == b] for b in range(len(BUCKETS) + 1)]
    weights = np.stack([mix(g) if g.shape[1] >= LEAST_HELD_OUT else pooled for g in own])
    return dataclasses.replace(chain, weights=weights)


def mix(given: np.ndarray) -> np.ndarray:
    """The weights [J], summing to 1, of J laws under which tokens of probabilities `given` [J, N] are likeliest."""
    weights = np.full(len(given), 1 / len(given))
    for _ in range(STEPS):
        joint = weights[:, None] * given
        before, weights = weights, (joint / joint.sum(0)).mean(1)
        if np.abs(weights - before).max() < CONVERGED:
            break
    floor = 1e-4  # so that a token that held-out data never show keeps a probability
    return (weights + floor) / (1 + floor * len(weights))
