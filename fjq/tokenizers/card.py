"""The card of a tokenizer: what it uses, what it keeps, what it makes up, and whether past ids stay what they are."""

from typing import Any

import numpy as np

from fjq.data.candles import Candles
from fjq.tokenizers.features import FREE, NAMES, rebuild
from fjq.tokenizers.tokenizer import Tokenizer

GROUPS = 32  # of neighbouring ids, equally used: bigrams of single ids would need millions of candles
NOISE_PATHS, NOISE_LENGTH = 64, 1024
NOISE_SCALE = 0.01  # a candle's standard deviation
SHUFFLES = 20
CUTS = 32  # moments at which past ids are compared


def make_card(tokenizer: Tokenizer, candles: list[Candles], ids: list[np.ndarray], parts: list[np.ndarray]) -> dict:
    """Every figure, JSON ready.

    Args:
      ids: int32 [N] an asset.
      parts: 'train', 'valid', 'test' or '' of each candle, [N] an asset.
    """
    whole, part = np.concatenate(ids), np.concatenate(parts)
    inputs = np.concatenate([tokenizer.inputs(c) for c in candles])
    seen = part == 'train'
    return {
        'name': tokenizer.name,
        'hash': tokenizer.hash,
        'vocabulary': tokenizer.vocabulary,
        'candles': len(whole),
        'use': {name: measure_use(whole[part == name], tokenizer.vocabulary) for name in ('train', 'valid', 'test')},
        'assets': {c.id: measure_use(i, tokenizer.vocabulary) for c, i in zip(candles, ids, strict=True)},
        'reconstruction': {
            name: measure_reconstruction(tokenizer, inputs[part == name], whole[part == name], inputs[seen].mean(0))
            for name in ('train', 'valid', 'test')
            if (part == name).any()
        },
        'noise': measure_noise(tokenizer, inputs[seen], seed=0),
        'stable': measure_stability(tokenizer, candles[0]),
        'valid_candles': measure_validity(tokenizer, candles, ids),
    }


def measure_use(ids_N: np.ndarray, vocabulary: int) -> dict[str, float]:
    """Distinct ids, perplexity exp(entropy) and the share of the ten most frequent."""
    counts = np.bincount(ids_N, minlength=vocabulary)
    p = counts[counts > 0] / max(len(ids_N), 1)
    return {
        'candles': len(ids_N),
        'used': int((counts > 0).sum()),
        'perplexity': float(np.exp(-(p * np.log(p)).sum())) if len(p) else 0.0,
        'top_ten': float(np.sort(counts)[-10:].sum() / max(len(ids_N), 1)),
    }


def measure_reconstruction(
    tokenizer: Tokenizer, inputs_Nx5: np.ndarray, ids_N: np.ndarray, mean_5: np.ndarray
) -> dict[str, dict[str, float]]:
    """RMSE in units of the scale, and R2 beside the mean of training, of each feature of each id alone."""
    squared = ((inputs_Nx5 - tokenizer.features(ids_N)) ** 2).mean(0)
    reference = ((inputs_Nx5 - mean_5[None]) ** 2).mean(0)
    r2 = 1 - squared / np.where(reference > 0, reference, np.nan)
    return {n: {'rmse': float(np.sqrt(s)), 'r2': float(r)} for n, s, r in zip(NAMES, squared, r2, strict=True)}


def measure_noise(tokenizer: Tokenizer, inputs_Nx5: np.ndarray, seed: int) -> dict[str, float]:
    """Information between neighbouring tokens of candles that are drawn independently of one another, in nats.

    The candles are training ones, each drawn at random at one volatility, so what is found the tokenizer makes up: by
    looking at neighbours, or by the volatility that it estimates. The mean and deviation of the same figure of shuffled
    tokens correct it and judge it.
    """
    rng = np.random.Generator(np.random.Philox(seed))
    drawn = rng.integers(0, len(inputs_Nx5), (NOISE_PATHS, NOISE_LENGTH))
    scale = np.full(NOISE_PATHS, NOISE_SCALE if tokenizer.decay < 1 else 1.0)  # 1.0: inputs are in their own units
    ohlc = rebuild(inputs_Nx5[drawn][..., :FREE], np.full(NOISE_PATHS, 100.0), scale, 1.0)
    time = np.datetime64('2000-01-01', 'ns') + np.arange(NOISE_LENGTH) * np.timedelta64(1, 'D')
    ids = [tokenizer.encode(Candles('noise', time, *path.T, np.ones(NOISE_LENGTH))) for path in ohlc]
    groups = _group(np.array(ids)[:, NOISE_LENGTH // 4 :])  # the volatility has found its level
    found = _information(groups)
    shuffled = [_information(rng.permuted(groups.reshape(-1)).reshape(groups.shape)) for _ in range(SHUFFLES)]
    mean, deviation = float(np.mean(shuffled)), float(np.std(shuffled, ddof=1))
    return {
        'information': found - mean,
        'deviation': deviation,
        'z': (found - mean) / max(deviation, 1e-12),
        'candles': int(groups.size),
    }


def measure_stability(tokenizer: Tokenizer, candles: Candles) -> float:
    """The share of moments at which no id, the newest included, changes when later candles arrive."""
    ids = tokenizer.encode(candles)
    ends = np.unique(np.linspace(1, len(candles), CUTS + 1).astype(int))[:-1]
    same = [np.array_equal(tokenizer.encode(candles.part(slice(0, int(n)))), ids[:n]) for n in ends]
    return float(np.mean(same)) if same else 1.0


def measure_validity(tokenizer: Tokenizer, candles: list[Candles], ids: list[np.ndarray]) -> float:
    """The share of decoded candles, each after the true close before it, with low <= open, close <= high."""
    good, total = 0, 0
    for c, i in zip(candles, ids, strict=True):
        before = np.concatenate([c.open[:1], c.close[:-1]])
        o, h, lo, close = tokenizer.decode(i[:, None], before, tokenizer.scale(c)[:-1])[:, 0].T
        good += int(((lo > 0) & (lo <= np.minimum(o, close)) & (h >= np.maximum(o, close))).sum())
        total += len(i)
    return good / total


def write_card(card: dict[str, Any]) -> str:
    """The card as a page of Markdown."""
    noise, test = card['noise'], card['reconstruction'].get('test', {})
    made_up = 'makes up no order' if noise['z'] < 3 else 'makes up order out of noise'
    lines = [
        f'# Tokenizer {card["name"]}',
        '',
        f'Hash `{card["hash"]}`, {card["vocabulary"]} tokens, {card["candles"]:,} candles.',
        '',
        '| part | candles | tokens used | perplexity | ten most frequent |',
        '|---|---|---|---|---|',
    ]
    rows = [*card['use'].items(), *card['assets'].items()]
    lines += [
        f'| {name} | {u["candles"]:,} | {u["used"]} | {u["perplexity"]:.1f} | {u["top_ten"]:.1%} |' for name, u in rows
    ]
    lines += ['', '| feature, test | RMSE | R2 |', '|---|---|---|']
    lines += [f'| {name} | {f["rmse"]:.3f} | {f["r2"]:.3f} |' for name, f in test.items()]
    lines += [
        '',
        f'Of {noise["candles"]:,} independent candles it {made_up}: {noise["information"]:.5f} nats between '
        f'neighbouring tokens, {noise["z"]:.1f} deviations of shuffled ones.',
        f'At {card["stable"]:.0%} of moments all ids stay the same when candles arrive; '
        f'{card["valid_candles"]:.1%} of decoded candles are candles.',
        '',
    ]
    return '\n'.join(lines)


def _group(ids_PxN: np.ndarray) -> np.ndarray:
    """Ids as numbers below GROUPS, each for a run of neighbouring ids that is used about as often as the others."""
    counts = np.bincount(ids_PxN.reshape(-1))
    middle = np.cumsum(counts) - counts / 2
    return np.minimum((middle * GROUPS / counts.sum()).astype(int), GROUPS - 1)[ids_PxN]


def _information(groups_PxN: np.ndarray) -> float:
    """Plug-in mutual information of neighbours, in nats."""
    pairs = groups_PxN[:, :-1].reshape(-1) * GROUPS + groups_PxN[:, 1:].reshape(-1)
    joint = np.bincount(pairs, minlength=GROUPS**2).reshape(GROUPS, GROUPS) / len(pairs)
    independent = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
    there = joint > 0
    return float((joint[there] * np.log(joint[there] / independent[there])).sum())
