"""Candles to tokens and back. A config opens as a tokenizer on candles, of which `train` says what may be fitted:

    tokenizer = config.open(candles: list[Candles], train: list[bool [N]])

    Bins(returns=32, ranges=4)         quantile bins of the log return and the range, fitted in a moment
    Learned(run='runs/...')            the autoencoder of a run of configs/microchat_tokenizer.py
    Saved(path='...')                  what a tokenizer's `save` or --job=tokenize wrote

A tokenizer has `name`, `vocabulary`, `hash`, `decay`, `fitted_until`, `looks_ahead`, and

    encode(candles) -> int32 [N]                       scale(candles) -> float64 [N + 1]
    features(ids) -> float64 [..., 5]                  decode(ids [..., T], close, scale) -> OHLC [..., T, 4]
    log_density(candles, ids) -> float64 [N]           save(folder); load(folder) is its inverse

The id of a candle depends on nothing that came after it (but with `looks_ahead`, as the original's does), and, but
through the volatility that scales its features, on nothing that came before. Ids are ordered by the
return that they decode to.
"""

import dataclasses
from pathlib import Path

import numpy as np

from fjq.data.candles.files import Candles
from fjq.errors import InputError
from fjq.log import say
from fjq.tokenizers.bins import Bins, BinsTokenizer
from fjq.tokenizers.learned import Learned, LearnedTokenizer
from fjq.tokenizers.tokenizer import REMEDY, SETTINGS, Tokenizer, read_saved

__all__ = ['Bins', 'Learned', 'Saved', 'Tokenizer', 'load']

KINDS = {'bins': BinsTokenizer.load, 'learned': LearnedTokenizer.load}


@dataclasses.dataclass(kw_only=True)
class Saved:
    """A tokenizer that was saved; nothing is fitted, and no candles are needed to open it."""

    path: str = 'runs/microchat_tokenizer/tokenizer'  # a folder

    def open(self, candles: list[Candles] = (), train: list[np.ndarray] = ()) -> Tokenizer:
        return load(self.path)


def load(folder: str | Path) -> Tokenizer:
    """Reads a saved tokenizer.

    Raises:
      InputError: it is absent, damaged, or of an unknown kind.
    """
    settings, arrays = read_saved(Path(folder))
    if settings.get('kind') not in KINDS:
        raise InputError(f'a tokenizer of the kind {settings.get("kind")!r} is unknown', file=folder)
    try:
        tokenizer = KINDS[settings['kind']](settings, arrays)
    except (KeyError, TypeError) as e:
        raise InputError(f'it lacks {e}', file=folder, remedy=REMEDY) from e
    if tokenizer.hash != settings.get('hash'):
        raise InputError('the tokenizer is not what was saved', file=folder, remedy=REMEDY)
    if 'fitted_until' not in settings:
        say(
            f'{Path(folder) / SETTINGS} does not say until when it was fitted: none is refused, so check that it knows '
            'no candle after the end of training'
        )
    tokenizer.fitted_until = np.datetime64(settings.get('fitted_until', 'NaT'), 'ns')
    return tokenizer
