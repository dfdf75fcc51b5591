"""writes the tokens of every candle, the tokenizer and its card to tokens.npz, all_tokens.txt and tokenizer/."""

import io
import json
from pathlib import Path

import numpy as np

from fjq.adopt import adopt_task
from fjq.atomic import write_atomic
from fjq.config import Experiment
from fjq.data.candles.files import Candles
from fjq.data.candles.windows import CandleWindowData, CandleWindows
from fjq.data.tokens.data import TokenDataset
from fjq.errors import InputError
from fjq.fit import open_data
from fjq.log import say
from fjq.run import cache_folder
from fjq.tokenizers import Tokenizer
from fjq.tokenizers.card import make_card, write_card
from fjq.tokenizers.learned import make_tokenizer
from fjq.trained import Trained


def run(config: Experiment, workdir: Path) -> None:
    """Of a run of the tokenizer's autoencoder, or of any data made of tokens (fitting its bins where it has them).

    tokens.npz holds, for every candle, ids int32, asset_id (text), date datetime64[ns], split ('train', 'valid',
    'test' or '', where a gap between them took it) and tokenizer_hash; all_tokens.txt the ids alone, asset by asset.
    tokenizer/ is what `fjq.tokenizers.Saved` reads, with card.md and card.json.
    """
    tokenizer, candles = open_tokenizer(config, workdir)
    ids = [tokenizer.encode(c) for c in candles]
    parts = name_parts(config, candles)
    content = io.BytesIO()
    np.savez(
        content,
        ids=np.concatenate(ids),
        asset_id=np.repeat([c.id for c in candles], [len(c) for c in candles]),
        date=np.concatenate([c.time for c in candles]),
        split=np.concatenate(parts),
        tokenizer_hash=np.array(tokenizer.hash),
    )
    workdir.mkdir(parents=True, exist_ok=True)
    write_atomic(workdir / 'tokens.npz', content.getvalue())
    text = ''.join(f'{i} ' for i in np.concatenate(ids).tolist())  # the original's form, with its last space
    write_atomic(workdir / 'all_tokens.txt', text.encode())
    tokenizer.save(workdir / 'tokenizer')
    card = make_card(tokenizer, candles, ids, parts)
    write_atomic(workdir / 'tokenizer' / 'card.json', (json.dumps(card, indent=1) + '\n').encode())
    page = write_card(card)
    write_atomic(workdir / 'tokenizer' / 'card.md', page.encode())
    say(page)
    say(f'{sum(map(len, ids)):,} tokens of {len(candles)} assets are in {workdir / "tokens.npz"}')


def open_tokenizer(config: Experiment, workdir: Path) -> tuple[Tokenizer, list[Candles]]:
    """The tokenizer that a config means, and the candles of its data.

    Raises:
      InputError: its data are not candles, or the autoencoder is not trained.
    """
    if hasattr(config.data, 'tokenizer'):
        dataset: TokenDataset = config.data.open(cache_folder(config, workdir), config.parallel)
        return dataset.tokenizer, [a.candles for a in dataset.assets]
    if not isinstance(config.data, CandleWindowData):
        raise InputError(f'{config.name} has no tokens', column='data', remedy='use a config of the micro quant chat')
    config = adopt_task(config, workdir)
    windows: CandleWindows = open_data(config, workdir)
    return make_tokenizer(Trained.load(workdir, config.task), windows.candles, windows.in_train), windows.candles


def name_parts(config: Experiment, candles: list[Candles]) -> list[np.ndarray]:
    """The part of the split that each candle is of, [N] an asset."""
    time = np.concatenate([c.time for c in candles])
    parts = config.data.split.parts(time, time)
    named = np.select([parts.train, parts.valid, parts.test], ['train', 'valid', 'test'], '')
    return np.split(named, np.cumsum([len(c) for c in candles])[:-1])
