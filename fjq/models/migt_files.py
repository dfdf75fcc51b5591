"""MIGT-TVDT as a PyTorch state dict: the original's names, order and layout, and back, strictly.

Ours stacks what the original lists: temporal layers, variables and horizon heads are axes of one array each. A model
without `compat` has the same names where it has the same parts, `heads.N.out_proj` for `base_proj` and `delta_proj`,
`volatility` and `window_scale`. `interop.migt_modules` has modules that load both.
"""

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import numpy as np

from fjq import torch_names
from fjq.errors import InputError

_BLOCK = ('q_proj', 'k_proj', 'v_proj', 'out_proj', 'ff', 'norm1', 'norm2')  # the original's order of construction
_FREQUENCIES = 'input_embedding.positional_encoding.time_of_day.frequencies'


def to_state_dict(params: Mapping[str, Any], extra: Mapping[str, Any]) -> 'OrderedDict[str, np.ndarray]':
    """Nested parameters -> PyTorch names, as contiguous arrays; the harmonics 1, 2, ... are a buffer there."""
    state = torch_names.to_state_dict(tree := _spread(params, extra))
    return OrderedDict((name, state[name]) for name in _names(tree))


def from_state_dict(
    state: Mapping[str, Any], params: Mapping[str, Any], extra: Mapping[str, Any], *, file: Any = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The inverse; `params` and `extra` are a fresh model's and give every shape.

    Raises:
      InputError: keys are missing, extra or of another shape, or the harmonics are not 1, 2, ...
    """
    like = _spread(params, extra)
    tree = torch_names.from_state_dict(state, like, file=file)
    if _FREQUENCIES in state and not np.array_equal(state[_FREQUENCIES], _harmonics(params['clock'])):
        raise InputError('the time of day has other harmonics than 1, 2, ...', file=file, column=_FREQUENCIES)
    return _gather(tree, params, extra)


def _spread(params: Mapping[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
    """Our tree -> one named and nested like the PyTorch modules, in their order, still in our layouts."""
    clock, pool, heads = params['clock'], params['pool'], params['heads']
    variables = [np.asarray(params['variable'][n]) for n in ('kernel', 'bias')]
    tree: dict[str, Any] = {'revin': {n: params['revin'][n] for n in ('gamma', 'beta')}} if 'revin' in params else {}
    encoding = {'day_of_week': {'embedding': clock['day_of_week']}}
    if 'day_of_month' in clock:
        fields = ('linear_weight', 'linear_bias', 'periodic_weights', 'periodic_biases')
        dates = {n: {f: clock[n][f] for f in fields} for n in ('day_of_month', 'day_of_year')}
        encoding = {'time_of_day': {'frequencies': _harmonics(clock)}} | encoding | dates
    tree['input_embedding'] = {
        'variable_embed': {
            'projections': {
                str(v): {'kernel': kernel[None], 'bias': bias}
                for v, (kernel, bias) in enumerate(zip(*variables, strict=True))
            }
        },
        'positional_encoding': encoding | {'projection': clock['projection']},
    }
    layers = len(np.asarray(params['temporal_layers']['norm1']['scale']))
    tree['temporal_layers'] = {str(i): _block(_slice(params['temporal_layers'], i)) for i in range(layers)}
    tree['temporal_aggregation'] = {
        'query': np.asarray(pool['query'])[None, None],
        'k_proj': pool['k_proj'],
        'v_proj': pool['v_proj'],
    }
    if 'volatility' in extra:
        tree['volatility'] = {n: extra['volatility'][n] for n in ('offset', 'weight')}
    if 'window_scale' in params:
        tree['window_scale'] = {'weight': params['window_scale']['kernel']}
        tree['window_scale'] |= {n: extra['window_scale'][n] for n in ('centre', 'spread')}
    count = range(len(params['variable_layers']))
    tree['variable_layers'] = {str(i): _block(params['variable_layers'][str(i)]) for i in count}
    gates = [params['gated_norms'][str(i)] for i in count]
    tree['gated_norms'] = {str(i): {'norm': g['norm'], 'gate': {'gate_proj': g['gate']}} for i, g in enumerate(gates)}
    tree['output_pool'] = {'0': params['readout']}
    parts = [n for n in ('mlp', 'base_proj', 'delta_proj', 'out_proj') if n in heads]
    horizons = range(len(np.asarray(heads['horizon']['embedding'])))
    tree['quantile_head'] = {
        'horizon_embedding': heads['horizon'],
        'heads': {str(h): {n: _slice(heads[n], h) for n in parts} for h in horizons},
    }
    return tree


def _gather(tree: dict[str, Any], params: Mapping[str, Any], extra: Mapping[str, Any]):
    """The inverse of `_spread`."""
    embedding, head = tree['input_embedding'], tree['quantile_head']
    encoding = embedding['positional_encoding']
    projections = [embedding['variable_embed']['projections'][str(v)] for v in range(len(params['variable']['bias']))]
    clock = {n: encoding[n] for n in ('day_of_month', 'day_of_year', 'projection') if n in encoding}
    pool = tree['temporal_aggregation']
    out = {
        'variable': {
            'kernel': np.stack([p['kernel'][0] for p in projections]),
            'bias': np.stack([p['bias'] for p in projections]),
        },
        'clock': clock | {'day_of_week': encoding['day_of_week']['embedding']},
        'temporal_layers': _stack([tree['temporal_layers'][str(i)] for i in range(len(tree['temporal_layers']))]),
        'pool': {'query': pool['query'][0, 0], 'k_proj': pool['k_proj'], 'v_proj': pool['v_proj']},
        'variable_layers': tree['variable_layers'],
        'gated_norms': {i: {'norm': g['norm'], 'gate': g['gate']['gate_proj']} for i, g in tree['gated_norms'].items()},
        'readout': tree['output_pool']['0'],
        'heads': {'horizon': head['horizon_embedding']}
        | _stack([head['heads'][str(h)] for h in range(len(head['heads']))]),
    }
    new_extra = dict(extra)
    if 'revin' in tree:
        out['revin'] = tree['revin']
    if 'volatility' in tree:
        new_extra['volatility'] = tree['volatility']
    if 'window_scale' in tree:
        scale = tree['window_scale']
        out['window_scale'] = {'kernel': scale['weight']}
        new_extra['window_scale'] = {n: scale[n] for n in ('centre', 'spread')}
    return out, new_extra


def _block(block: Mapping[str, Any]) -> dict[str, Any]:
    return {name: block[name] for name in _BLOCK}


def _harmonics(clock: Mapping[str, Any]) -> np.ndarray:
    """1, 2, ...: as many as the time of day has sines, which is what the projection takes beside the date."""
    date = clock['day_of_week']['embedding'].shape[1]
    date += sum(1 + np.size(clock[n]['periodic_weights']) for n in ('day_of_month', 'day_of_year'))
    return np.arange(1, (clock['projection']['kernel'].shape[0] - date) // 2 + 1, dtype=np.float32)


def _slice(tree: Any, index: int) -> Any:
    """One layer or horizon of a stacked tree."""
    return {k: _slice(v, index) for k, v in tree.items()} if isinstance(tree, Mapping) else np.asarray(tree)[index]


def _stack(trees: list[Any]) -> Any:
    if isinstance(trees[0], Mapping):
        return {k: _stack([t[k] for t in trees]) for k in trees[0]}
    return np.stack(trees)


def _names(tree: Mapping[str, Any]) -> list[str]:
    """The PyTorch names of a tree in its own order, weight before bias."""
    out = []
    for key, value in tree.items():
        if isinstance(value, Mapping) and 'bias' in value:
            value = {k: value[k] for k in sorted(value, key=lambda k: k == 'bias')}
        if isinstance(value, Mapping):
            out += [f'{key}.{name}' for name in _names(value)]
        else:
            out += list(torch_names.to_state_dict({key: np.zeros((1, 1))}))
    return out
