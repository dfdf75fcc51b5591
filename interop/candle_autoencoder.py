"""The candle tokenizer as the original's state dict: the file `tokenizer_model.pt` of its MLP era, both ways."""

from typing import Any

import numpy as np

from fjq.errors import InputError
from fjq.log import say
from fjq.nn.quantize import make_codebook
from fjq.torch_names import from_state_dict, to_state_dict

_BUFFERS = ('quantizer.codebook.weight', 'quantizer.ema_cluster_size', 'quantizer.ema_embed_sum')
_SCALER = ('feature_mean', 'feature_std')


def to_torch(params: dict, extra: dict) -> dict[str, np.ndarray]:
    """Weights, codebook with its averages, mean and deviation of the features. A model without a codebook, or with
    several, has its state under `extra.`: the original has no such model."""
    if 'book_0' not in extra or 'book_1' in extra:
        return to_state_dict(params | {'extra': extra})
    book = extra['book_0']
    values = (book['embedding'], book['count'], book['sum'], extra['mean'], extra['std'])
    arrays = {name: np.asarray(v, order='C') for name, v in zip((*_BUFFERS, *_SCALER), values, strict=True)}
    return {**to_state_dict(params), **arrays}


def from_torch(state: dict[str, np.ndarray], params: dict, extra: dict, *, file: Any) -> tuple[dict, dict]:
    """The inverse. Sums of the update under way start empty, hits are those of the codebook.

    Raises:
      InputError: the state dict is of another model; of the original's older era in particular.
    """
    if any(name.startswith('encoder.net.') for name in state):
        raise InputError(
            'a tokenizer of patches of returns, which has other inputs than candles',
            file=file,
            remedy='use a file of the era of five features, with 512 codes',
        )
    if not any(name.startswith('quantizer.') for name in state):
        whole = from_state_dict(state, params | {'extra': extra}, file=file)
        return {name: whole[name] for name in params}, whole['extra']
    absent = [name for name in (*_BUFFERS, *_SCALER) if name not in state]
    if absent:
        raise InputError(f'the state dict lacks {", ".join(absent)}', file=file)
    embedding, count, sums, mean, std = (np.asarray(state[name]) for name in (*_BUFFERS, *_SCALER))
    if 'book_0' not in extra or embedding.shape != np.shape(extra['book_0']['embedding']):
        raise InputError(
            f'the file has {embedding.shape[0]} codes of {embedding.shape[1]} numbers, the config other ones',
            file=file,
            remedy='set task.codes and task.dim',
        )
    weights = {n: v for n, v in state.items() if n not in (*_BUFFERS, *_SCALER)}
    params = from_state_dict(weights, params, file=file)
    if (std == 1).all() and (mean == 0).all():
        say(f'{file}: no scaler is in it; features are read as they are')
    book = {n: np.asarray(v) for n, v in make_codebook(embedding).items()} | {'count': count, 'sum': sums}
    return params, extra | {'mean': mean, 'std': std, 'hits': count, 'book_0': book}
