"""The card of a tokenizer: what it uses, what it keeps, what it makes up, and whether past ids stay what they are."""

from typing import Any

import numpy as np

from fjq.data.candles.files import Candles
from fjq.tokenizers.features import FREE, NAMES, rebuild
from fjq.tokenizers.tokenizer import Tokenizer

GROUPS = 32  # of ids that decode to like candles, equally used: bigrams of single ids would need millions of candles
NOISE_PATHS, NOISE_LENGTH = 64, 1024
NOISE_SCALE = 0.01  # a candle's standard deviation
SHUFFLES = 20
ORDERS = {'return': lambda f: f[:, 0], '|return|': lambda f: np.abs(f[:, 0]), 'range': lambda f: f[:, 4]}
MADE_UP = 4.0  # deviations, of the largest of three
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
        'stable': measure_stability(tokenizer, candles),
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


def measure_noise(tokenizer: Tokenizer, inputs_Nx5: np.ndarray, seed: int) -> dict[str, Any]:
    """Information between neighbouring tokens of candles that are drawn independently of one another, in nats.

    The candles are training ones, each drawn at random at one volatility, so what is found the tokenizer makes up:
    `encoder`, with that volatility known, by looking at neighbours; `whole`, as it encodes, also by the volatility that
    it estimates from the candles before: a wild candle makes the next ones look small for a while. Tokens are grouped
    by each of `ORDERS`, as the return averages away what is there by the range, and the largest z is kept. The mean
    and deviation of the same figure of shuffled tokens correct it and judge it.
    """
    rng = np.random.Generator(np.random.Philox(seed))
    drawn = inputs_Nx5[rng.integers(0, len(inputs_Nx5), (NOISE_PATHS, NOISE_LENGTH))]
    scale = np.full(NOISE_PATHS, NOISE_SCALE if tokenizer.decay < 1 else 1.0)  # 1.0: inputs are in their own units
    ohlc = rebuild(drawn[..., :FREE], np.full(NOISE_PATHS, 100.0), scale, 1.0)
    time = np.datetime64('2000-01-01', 'ns') + np.arange(NOISE_LENGTH) * np.timedelta64(1, 'D')
    ids = {
        'encoder': [tokenizer.encode_inputs(path) for path in drawn],
        'whole': [tokenizer.encode(Candles('noise', time, *path.T, np.ones(NOISE_LENGTH))) for path in ohlc],
    }
    decoded = tokenizer.features(np.arange(tokenizer.vocabulary))
    out: dict[str, Any] = {'candles': NOISE_PATHS * (NOISE_LENGTH - NOISE_LENGTH // 4)}
    for name, paths in ids.items():
        settled = np.array(paths)[:, NOISE_LENGTH // 4 :]  # the volatility has found its level
        found = [{'by': by} | _judge(_group(settled, key(decoded)), rng) for by, key in ORDERS.items()]
        out[name] = max(found, key=lambda figures: figures['z'])
    return out


def _judge(groups_PxN: np.ndarray, rng: np.random.Generator) -> dict[str, float]:
    found = _information(groups_PxN)
    shuffled = [_information(rng.permuted(groups_PxN.reshape(-1)).reshape(groups_PxN.shape)) for _ in range(SHUFFLES)]
    mean, deviation = float(np.mean(shuffled)), float(np.std(shuffled, ddof=1))
    return {'information': found - mean, 'deviation': deviation, 'z': (found - mean) / max(deviation, 1e-12)}


def measure_stability(tokenizer: Tokenizer, candles: list[Candles]) -> float | None:
    """The share of moments at which no id, the newest included, changes when later candles arrive; CUTS of each asset.
    None where no asset has two candles to compare."""
    same = []
    for c in candles:
        ids = tokenizer.encode(c)
        ends = np.unique(np.linspace(1, len(c), CUTS + 1).astype(int))[:-1] if len(c) > 1 else []
        same += [np.array_equal(tokenizer.encode(c.part(slice(0, int(n)))), ids[:n]) for n in ends]
    return float(np.mean(same)) if same else None


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
        *describe_noise(noise),
        f'{_share(card["stable"])} of moments all ids stay the same when candles arrive; '
        f'{card["valid_candles"]:.1%} of decoded candles are candles.',
        '',
    ]
    return '\n'.join(lines)


def describe_noise(noise: dict[str, Any]) -> list[str]:
    """What `measure_noise` found, in sentences."""
    lines = []
    for what, found in (('their volatility known', noise['encoder']), ('as it encodes', noise['whole'])):
        verdict = 'makes up order out of noise' if found['z'] > MADE_UP else 'makes up no order'
        lines.append(
            f'Of {noise["candles"]:,} independent candles, {what}, it {verdict}: {found["information"]:.5f} nats '
            f'between neighbouring tokens by {found["by"]}, {found["z"]:.1f} deviations of shuffled ones.'
        )
    if noise['whole']['z'] > MADE_UP >= noise['encoder']['z']:
        lines.append(
            'That order is of the scale, which follows the candles before: a model saves bits by knowing it, and has '
            'found nothing of a market.'
        )
    return lines


def _share(stable: float | None) -> str:
    return 'Nothing was compared to say at which' if stable is None else f'At {stable:.0%}'


def _group(ids_PxN: np.ndarray, key_V: np.ndarray) -> np.ndarray:
    """Ids as numbers below GROUPS, each for a run of ids in order of `key` that is used as often as the others."""
    order = np.argsort(key_V, kind='stable')
    counts = np.bincount(ids_PxN.reshape(-1), minlength=len(key_V))[order]
    middle = np.cumsum(counts) - counts / 2
    group = np.empty(len(key_V), int)
    group[order] = np.minimum((middle * GROUPS / counts.sum()).astype(int), GROUPS - 1)
    return group[ids_PxN]


def _information(groups_PxN: np.ndarray) -> float:
    """Plug-in mutual information of neighbours, in nats."""
    pairs = groups_PxN[:, :-1].reshape(-1) * GROUPS + groups_PxN[:, 1:].reshape(-1)
    joint = np.bincount(pairs, minlength=GROUPS**2).reshape(GROUPS, GROUPS) / len(pairs)
    independent = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
    there = joint > 0
    return float((joint[there] * np.log(joint[there] / independent[there])).sum())
