"""The files that PyTorch users of the TCN know: `tcn_{stream}_encoder.pt` and the full checkpoints beside it.

Parameters come in as the nested dict of `fjq.models.tcn` and go out under the names, order and layout of the PyTorch
modules (`interop.tcn_modules` has ones that load them). The frame encoder occurs twice in a full state dict and both
state dicts of the encoder file hold it: every occurrence is the same array object, which `fjq.torch_file` stores once.
"""

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from fjq.errors import InputError
from fjq.torch_names import from_state_dict, to_state_dict

_HEAD = ('0', '1', '4', '5', '8')  # the gaps are GELU and dropout, which have no parameters


def model_state_dict(params: Mapping[str, Any]) -> 'OrderedDict[str, np.ndarray]':
    """All 210 keys (212 with tickers): `frame_encoder.*`, `chunked_encoder.*` with the duplicate, `rv_head.*`."""
    frame = frame_encoder_state_dict(params)
    state = _prefixed('frame_encoder', frame)
    state |= _prefixed('chunked_encoder', _chunked(params, frame))
    return state | _prefixed('rv_head', rv_head_state_dict(params))


def frame_encoder_state_dict(params: Mapping[str, Any]) -> 'OrderedDict[str, np.ndarray]':
    """98 keys (99 with tickers) of a 12-block encoder."""
    encoder = params['frame_encoder']['encoder']
    order = ['encoder.ticker_embed.weight'] if 'ticker_embed' in encoder else []
    for i in sorted(encoder['layers'], key=int):
        parts = ['conv1', 'conv2', 'norm1', 'norm2', 'downsample']  # the order of construction, not of use
        order += _weight_and_bias(f'encoder.layers.{i}.{part}' for part in parts if part in encoder['layers'][i])
    return to_state_dict(params['frame_encoder'], order)


def chunked_encoder_state_dict(params: Mapping[str, Any]) -> 'OrderedDict[str, np.ndarray]':
    """102 keys (103 with tickers): the frame encoder's under `frame_encoder.`, then `out_proj.{0,1}`."""
    return _chunked(params, frame_encoder_state_dict(params))


def rv_head_state_dict(params: Mapping[str, Any]) -> 'OrderedDict[str, np.ndarray]':
    """10 keys: `mlp.{0,1,4,5,8}`."""
    return to_state_dict(params['rv_head'], _weight_and_bias(f'mlp.{i}' for i in _HEAD))


def encoder_file(stream: str, params: Mapping[str, Any]) -> dict[str, Any]:
    """The content of `tcn_{stream}_encoder.pt`: what a downstream model loads. `config` holds the dimensions."""
    frame = frame_encoder_state_dict(params)
    return {
        'stream': stream,
        'frame_encoder_state_dict': frame,
        'chunked_encoder_state_dict': _chunked(params, frame),
        'config': dimensions(params),
    }


def checkpoint_file(
    stream: str,
    params: Mapping[str, Any],
    *,
    epoch: int,
    optimizer: Mapping[str, Any] | None,
    scheduler: Mapping[str, Any] | None,
    metrics: Mapping[str, float],
) -> dict[str, Any]:
    """The content of `tcn_{stream}_best.pt` and `_latest.pt`.

    Args:
      optimizer: from `optimizer_state_dict`, or None.
      scheduler: plain values for a PyTorch scheduler, or None.
      metrics: holds `train_loss` and `val_loss`.
    """
    return {
        'epoch': int(epoch),
        'stream': stream,
        'model_state_dict': model_state_dict(params),
        'optimizer_state_dict': None if optimizer is None else dict(optimizer),
        'scheduler_state_dict': None if scheduler is None else dict(scheduler),
        'metrics': {name: float(value) for name, value in metrics.items()},
        'config': dimensions(params),
    }


def optimizer_state_dict(
    mean: Mapping[str, Any],
    square: Mapping[str, Any],
    *,
    step: int,
    learning_rate: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
) -> dict[str, Any]:
    """Adam's moments as `torch.optim.AdamW(model.parameters()).state_dict()` holds them.

    Parameters are numbered as `model.parameters()` meets them, each once: frame encoder, out_proj, head. There is one
    group, so one decay for all: the decay rules of a config that spares biases and norms have no place in this file.

    Args:
      mean, square: trees like the parameters, the first and second moment.
      step: updates made so far.
    """
    first, second = (list(_each_once(tree).values()) for tree in (mean, square))
    state = {
        # A fresh `step` each: PyTorch counts in place, and one shared array would count once a parameter.
        i: {'step': np.array(step, np.float32), 'exp_avg': m, 'exp_avg_sq': v}
        for i, (m, v) in enumerate(zip(first, second, strict=True))
    }
    group = {
        'lr': float(learning_rate),
        'betas': tuple(float(b) for b in betas),
        'eps': float(eps),
        'weight_decay': float(weight_decay),
        'amsgrad': False,
        'maximize': False,
        'foreach': None,
        'capturable': False,
        'differentiable': False,
        'fused': None,
        'decoupled_weight_decay': True,
        'params': list(state),
    }
    return {'state': state, 'param_groups': [group]}


def dimensions(params: Mapping[str, Any]) -> dict[str, int]:
    """Every dimension that a reader needs to build the modules; the first three names are the original's."""
    encoder = params['frame_encoder']['encoder']
    _, channels, hidden = encoder['layers']['0']['conv1']['kernel'].shape
    joined, d_model = params['chunked_encoder']['out_proj']['0']['kernel'].shape
    mlp = params['rv_head']['mlp']
    tickers, ticker_dim = encoder['ticker_embed']['embedding'].shape if 'ticker_embed' in encoder else (0, 0)
    return {
        'tcn_hidden_dim': hidden,
        'tcn_num_layers': len(encoder['layers']),
        'tcn_dim_in': channels - ticker_dim,
        'num_tickers': tickers,
        'ticker_embed_dim': ticker_dim,
        'd_model': d_model,
        'num_scalars': joined - hidden,
        'head_hidden_dim': mlp['0']['kernel'].shape[1],
        'head_outputs': mlp['8']['kernel'].shape[1],
    }


def from_model_state_dict(state: Mapping[str, Any], template: Mapping[str, Any], *, file: Any = None) -> dict[str, Any]:
    """The inverse of `model_state_dict`: the copy of the frame encoder must be there and hold the same values.

    Raises:
      InputError: keys are missing, extra, of another shape, or the two copies of the frame encoder differ.
    """
    duplicate = 'chunked_encoder.frame_encoder.'
    inner = {n.removeprefix(duplicate): v for n, v in state.items() if n.startswith(duplicate)}
    once = {n: v for n, v in state.items() if not n.startswith(duplicate)}
    params = from_state_dict(once, template, file=file)
    outer = {n.removeprefix('frame_encoder.'): v for n, v in once.items() if n.startswith('frame_encoder.')}
    for name in [*outer, *(n for n in inner if n not in outer)]:
        if (
            name not in inner
            or name not in outer
            or not np.array_equal(np.asarray(inner[name]), np.asarray(outer[name]))
        ):
            raise InputError(f'{duplicate}{name} is not the same as frame_encoder.{name}', file=file)
    return params


def _each_once(params: Mapping[str, Any]) -> 'OrderedDict[str, np.ndarray]':
    state = model_state_dict(params)
    return OrderedDict((n, v) for n, v in state.items() if not n.startswith('chunked_encoder.frame_encoder.'))


def _chunked(params: Mapping[str, Any], frame: Mapping[str, np.ndarray]) -> 'OrderedDict[str, np.ndarray]':
    own = to_state_dict(params['chunked_encoder'], _weight_and_bias(f'out_proj.{i}' for i in (0, 1)))
    return _prefixed('frame_encoder', frame) | own


def _prefixed(prefix: str, state: Mapping[str, np.ndarray]) -> 'OrderedDict[str, np.ndarray]':
    return OrderedDict((f'{prefix}.{name}', value) for name, value in state.items())


def _weight_and_bias(parts: Iterable[str]) -> list[str]:
    return [f'{part}.{leaf}' for part in parts for leaf in ('weight', 'bias')]
