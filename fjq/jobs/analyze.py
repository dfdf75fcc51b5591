"""prints and writes what the tokens are like: use, entropy, patterns, transitions, outliers, to analysis.json."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from fjq.atomic import write_atomic
from fjq.config import Experiment
from fjq.data.tokens.data import TokenDataset
from fjq.data.tokens.options import Analyze
from fjq.errors import InputError
from fjq.log import say
from fjq.run import cache_folder


def run(config: Experiment, workdir: Path) -> None:
    """Needs no weights: the tokens are those of the data."""
    options = getattr(config.data, 'analyze', None)
    if not isinstance(options, Analyze):
        raise InputError(f'{config.name} has no tokens', file='--job', remedy='use a config of microchat')
    dataset = config.data.open(cache_folder(config, workdir), config.parallel)
    findings = analyze(dataset, options)
    for line in to_lines(findings):
        say(line)
    path = workdir / 'analysis.json'
    workdir.mkdir(parents=True, exist_ok=True)
    write_atomic(path, (json.dumps(findings, indent=1) + '\n').encode())
    say(f'all of it is in {path}')


def analyze(dataset: TokenDataset, options: Analyze) -> dict[str, Any]:
    """Figures of the tokens of all assets; no pattern and no transition runs across two of them.

    Raises:
      InputError: a setting that makes no sense.
    """
    if options.split not in ('train', 'all'):
        raise InputError(f'{options.split!r} is unknown', column='data.analyze.split', remedy='choose train or all')
    for name in ('top', 'pattern', 'least', 'transitions'):
        if getattr(options, name) < 1:
            raise InputError(
                f'{getattr(options, name)} is too few', column=f'data.analyze.{name}', remedy='make it 1 or more'
            )
    runs = {a.candles.id: a.id[a.in_train] if options.split == 'train' else a.id for a in dataset.assets}
    V = dataset.tokenizer.vocabulary
    count = np.bincount(np.concatenate(list(runs.values())), minlength=V)
    transitions = count_pairs(runs.values(), V)
    nats = entropy(count)
    returns = np.asarray(dataset.tokenizer.features(np.arange(V)))[:, 0]
    return {
        'tokenizer': dataset.tokenizer.name,
        'hash': dataset.tokenizer.hash,
        'tokens': int(count.sum()),
        'vocabulary': V,
        'used': int((count > 0).sum()),
        'coverage of the most frequent': {str(k): coverage(count, k) for k in (1, 5, options.top)},
        'most frequent': [
            {'token': int(t), 'count': int(count[t]), 'return in units of scale': float(returns[t])}
            for t in np.argsort(-count, kind='stable')[: options.top]
            if count[t]
        ],
        'entropy, bits': nats / np.log(2),
        'perplexity': float(np.exp(nats)),
        'entropy of a token after one, bits': (entropy(transitions) - entropy(transitions.sum(1))) / np.log(2),
        'by asset': {
            name: {
                'tokens': len(ids),
                'used': len(np.unique(ids)),
                'entropy, bits': entropy(np.bincount(ids, minlength=V)) / np.log(2),
            }
            for name, ids in runs.items()
        },
        'patterns': find_patterns(runs.values(), options.pattern, options.least, options.top),
        'pattern': {'tokens': options.pattern, 'least': options.least},
        'transitions': top_transitions(transitions, options.transitions),
        'outliers': find_outliers(dataset, runs, returns, options.sigmas, options.top),
    }


def entropy(count: np.ndarray) -> float:
    """Of the shares of counts, in nats; what never happened adds nothing."""
    share = count[count > 0] / count.sum()
    return float(-(share * np.log(share)).sum()) if count.sum() else 0.0


def coverage(count: np.ndarray, top: int) -> float:
    """The share of all tokens that the `top` most frequent ones are."""
    return float(np.sort(count)[::-1][:top].sum() / max(count.sum(), 1))


def count_pairs(runs, vocabulary: int) -> np.ndarray:
    """int64 [V, V]: how often a token (row) was followed by another, within a run."""
    out = np.zeros((vocabulary, vocabulary), np.int64)
    for ids in runs:
        np.add.at(out, (ids[:-1], ids[1:]), 1)
    return out


def find_patterns(runs, size: int, least: int, top: int) -> list[dict[str, Any]]:
    """The most frequent sequences of `size` tokens that were seen at least `least` times."""
    parts = [np.lib.stride_tricks.sliding_window_view(ids, size) for ids in runs if len(ids) >= size]
    if not parts:
        return []
    patterns, count = np.unique(np.concatenate(parts), axis=0, return_counts=True)
    order = np.argsort(-count, kind='stable')[:top]
    return [{'tokens': patterns[i].tolist(), 'count': int(count[i])} for i in order if count[i] >= least]


def top_transitions(pairs: np.ndarray, k: int) -> dict[str, list[dict[str, Any]]]:
    """The k likeliest next tokens of each token that was followed by any."""
    out = {}
    for token in np.flatnonzero(pairs.sum(1)):
        row = pairs[token]
        order = [i for i in np.argsort(-row, kind='stable')[:k] if row[i]]
        out[str(token)] = [{'token': int(i), 'count': int(row[i]), 'share': float(row[i] / row.sum())} for i in order]
    return out


def find_outliers(dataset, runs: dict, returns: np.ndarray, sigmas: float, top: int) -> dict[str, Any]:
    """Candles whose decoded log return, that of the token times the volatility before it, is far from the mean of its
    asset, the farthest first: in units of that volatility the moves of one token are all the same."""
    found, total = [], 0
    for a in dataset.assets:
        ids = runs[a.candles.id]
        if not len(ids):
            continue
        move = returns[ids] * a.scale[: len(ids)]  # training candles are the first ones
        z = (move - move.mean()) / (move.std() or 1)
        total += len(ids)
        found += [
            (abs(z[i]), a.candles.id, str(a.candles.time[i]), int(ids[i]), float(move[i]), float(z[i]))
            for i in np.flatnonzero(abs(z) > sigmas)
        ]
    found.sort(key=lambda f: (-f[0], *f[1:3]))
    names = ('id', 'time', 'token', 'log return', 'sigmas')
    return {
        'count': len(found),
        'share': len(found) / max(total, 1),
        'first': [dict(zip(names, f[1:], strict=True)) for f in found[:top]],
    }


def to_lines(findings: dict[str, Any]) -> list[str]:
    """The findings in words."""
    f = findings
    covered = ', '.join(f'{share:.1%} by {k}' for k, share in f['coverage of the most frequent'].items())
    lines = [
        f'{f["tokenizer"]}: {f["tokens"]:,} tokens, {f["used"]} of {f["vocabulary"]} in use; covered: {covered}',
        f'entropy {f["entropy, bits"]:.3f} bits (perplexity {f["perplexity"]:.1f}), '
        f'{f["entropy of a token after one, bits"]:.3f} after one token, as counted on the same tokens',
    ]
    lines += [
        f'{name}: {a["tokens"]:,} tokens, {a["used"]} in use, {a["entropy, bits"]:.3f} bits'
        for name, a in f['by asset'].items()
    ]
    lines += [f'pattern {" ".join(map(str, p["tokens"]))}: {p["count"]} times' for p in f['patterns']]
    if not f['patterns']:
        lines.append(f'no pattern of {f["pattern"]["tokens"]} tokens was seen {f["pattern"]["least"]} times')
    lines += [
        f'after {token}: ' + ', '.join(f'{n["token"]} ({n["share"]:.1%})' for n in f['transitions'].get(token, []))
        for token in map(str, sorted(m['token'] for m in f['most frequent']))
        if token in f['transitions']
    ]
    lines.append(f'{f["outliers"]["count"]} outliers by decoded return ({f["outliers"]["share"]:.2%})')
    lines += [
        f'outlier {o["id"]} {o["time"][:10]}: token {o["token"]}, {o["log return"]:+.2%}, {o["sigmas"]:+.1f} sigmas'
        for o in f['outliers']['first']
    ]
    return lines
