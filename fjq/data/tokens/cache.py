"""The tokens of candles, made once for a tokenizer and the candles' content."""

import hashlib
from pathlib import Path

import numpy as np

from fjq.atomic import atomic
from fjq.data.candles.files import Candles, digest
from fjq.errors import InputError
from fjq.log import say


def encode(tokenizer, candles: Candles) -> tuple[np.ndarray, np.ndarray]:
    """ids int32 [N] and scale float64 [N + 1]."""
    ids, scale = np.asarray(tokenizer.encode(candles), np.int32), np.asarray(tokenizer.scale(candles), np.float64)
    if len(ids) and not 0 <= ids.min() <= ids.max() < tokenizer.vocabulary:
        raise InputError(
            f'a token of {candles.id} lies outside 0..{tokenizer.vocabulary - 1}', remedy='fit the tokenizer'
        )
    return ids, scale


def encode_cached(cache: Path, tokenizer, candles: list[Candles]) -> list[tuple[np.ndarray, np.ndarray]]:
    """The tokens of every asset, kept in the cache under the tokenizer's hash and the candles' content."""
    key = hashlib.sha256(f'{tokenizer.hash} {digest(candles)}'.encode()).hexdigest()[:16]
    path = cache / 'tokens' / f'{key}.npz'
    sizes = [len(c) for c in candles]
    if path.is_file():
        try:
            with np.load(path) as kept:
                ids, scale = kept['id'], kept['scale']
            if len(ids) == sum(sizes) and len(scale) == sum(sizes) + len(sizes):
                ends = np.cumsum(sizes)[:-1]
                return list(zip(np.split(ids, ends), np.split(scale, ends + np.arange(1, len(sizes))), strict=True))
        except (OSError, ValueError, KeyError):
            pass
        say(f'{path}: damaged, written again')
    encoded = [encode(tokenizer, c) for c in candles]
    with atomic(path) as part, open(part, 'wb') as file:
        np.savez(file, id=np.concatenate([e[0] for e in encoded]), scale=np.concatenate([e[1] for e in encoded]))
    return encoded
