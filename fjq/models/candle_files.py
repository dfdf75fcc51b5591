"""The candle tokenizer as PyTorch knows it: the names and the checkpoint `tokenizer_model.pt` of the original."""

from typing import Any

import numpy as np

from fjq.errors import InputError
from fjq.log import say
from fjq.nn.quantize import make_codebook
from fjq.torch_names import from_state_dict, to_state_dict

FILE = 'tokenizer_model.pt'
_BUFFERS = ('quantizer.codebook.weight', 'quantizer.ema_cluster_size', 'quantizer.ema_embed_sum')
_SCALER = ('feature_mean', 'feature_std')
_FIRST = 'first_scale'  # ours alone, of features in units of a volatility


def model_state_dict(params: dict, extra: dict) -> dict[str, np.ndarray]:
    """Weights, codebook with its averages, mean and deviation of the features. A model without a codebook, or with
    several, has its state under `extra.`: the original has no such model."""
    if 'book_0' not in extra or 'book_1' in extra:
        return to_state_dict(params | {'extra': extra})
    book = extra['book_0']
    values = (book['embedding'], book['count'], book['sum'], extra['mean'], extra['std'])
    arrays = {name: np.asarray(v, order='C') for name, v in zip((*_BUFFERS, *_SCALER), values, strict=True)}
    first = {_FIRST: np.asarray(extra['first_scale'])} if float(extra['first_scale']) != 1 else {}
    return {**to_state_dict(params), **arrays, **first}


def checkpoint_file(params: dict, extra: dict, *, hidden: int) -> dict[str, Any]:
    """What the original's loader reads: the state dict with its sizes and the scaler once more."""
    state = model_state_dict(params, extra)
    codes, width = state[_BUFFERS[0]].shape
    sizes = {'num_codes': codes, 'emb_dim': width, 'hidden_dim': hidden, 'input_dim': len(state['feature_mean'])}
    scaler = {'mean': state['feature_mean'].tolist(), 'std': state['feature_std'].tolist()}
    return {'state_dict': state, 'config': {'type': 'ohlc_candle', **sizes}, 'normalization': scaler}


def from_model_state_dict(state: dict[str, np.ndarray], params: dict, extra: dict, *, file: Any) -> tuple[dict, dict]:
    """The inverse of `model_state_dict`. Sums of the update under way start empty, hits are those of the codebook.

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
    weights = {n: v for n, v in state.items() if n not in (*_BUFFERS, *_SCALER, _FIRST)}
    params = from_state_dict(weights, params, file=file)
    if (std == 1).all() and (mean == 0).all():
        say(f'{file}: no scaler is in it; features are read as they are')
    book = {n: np.asarray(v) for n, v in make_codebook(embedding).items()} | {'count': count, 'sum': sums}
    first = np.asarray(state.get(_FIRST, 1.0), np.float32)
    return params, extra | {'mean': mean, 'std': std, 'hits': count, 'first_scale': first, 'book_0': book}
