"""Our TCN on the golden values of the original: chunk and frame vectors, predictions, loss and gradients."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fjq.log import say
from fjq.models.tcn import Model, Tcn, TcnTask
from fjq.models.tcn_files import (
    chunked_encoder_state_dict,
    from_model_state_dict,
    model_state_dict,
    rv_head_state_dict,
)
from interop.check import Check, compare
from interop.files import read_npz, read_state

_PARTS = ('frame_encoder', 'chunked_encoder', 'rv_head')
_SHALLOW, _DEEP = 1e-5, 1e-4  # after few layers; after the whole stack or its backward pass
_FLAT = 1e-8  # a gradient below it is compared as it is, not relative to its own size


def check(stem: str | Path) -> list[Check]:
    """Compares chunk_embedding, frame_vectors, prediction, huber_loss and every grad.* of the stem."""
    task, params = load(stem)
    golden = read_npz(f'{stem}_io.npz')
    batch = batch_of_samples(golden)

    @jax.jit
    def run(params):
        chunks, weights = batch['chunks'][0], batch['weights'][0]
        tickers = batch['tickers'][0] if 'tickers' in batch else None
        apply = lambda fn, *args: task.pure.apply(params, {}, fn, *args)[0]
        return {
            'chunk_embedding': apply(Model.encode_chunks, chunks, weights, tickers),
            'frame_vectors': apply(Model.encode_frames, jax.tree.map(lambda x: x[:1], batch))[0],
            'prediction': apply(Model.__call__, batch)[:, 0],
        }

    @jax.jit
    def loss(params):
        sums = task.loss(params, {}, batch, None)
        return sums.total / sums.weight

    ours = run(params)
    ours['huber_loss'], gradients = jax.value_and_grad(loss)(params)
    checks = [compare(name, value, golden[name], _SHALLOW) for name, value in ours.items() if name in golden]
    named = model_state_dict(gradients) | chunked_encoder_state_dict(gradients) | rv_head_state_dict(gradients)
    for name, expected in golden.items():
        if name.startswith('grad.'):
            checks.append(compare(name, named[name.removeprefix('grad.')], expected, _DEEP, floor=_FLAT))
    return checks


def load(stem: str | Path) -> tuple[TcnTask, dict[str, Any]]:
    """The task and the parameters of a stem; every dimension comes from its config and state dicts.

    Raises:
      InputError: a file that is no safetensors file, or weights that do not fit the config.
    """
    config = json.loads(Path(f'{stem}_config.json').read_text())
    state = {}
    for part in _PARTS:
        state |= {f'{part}.{name}': value for name, value in read_state(f'{stem}_{part}.safetensors').items()}
    tickers = state.get('frame_encoder.encoder.ticker_embed.weight', np.zeros((0, 16)))
    task = Tcn(
        in_features=config['in_features'],
        hidden=config['hidden_dim'],
        layers=config['num_layers'],
        d_model=config['d_model'],
        num_scalars=config['num_scalars'],
        head_hidden=config['head_hidden'],
        horizons=len(state['rv_head.mlp.8.bias']),
        num_tickers=tickers.shape[0],
        ticker_dim=tickers.shape[1],
    ).build()
    template, _ = jax.eval_shape(task.init, jax.random.key(0))
    params = from_model_state_dict(state, template, file=f'{stem}_*.safetensors')
    return task, jax.tree.map(jnp.asarray, params)


def to_torch(config: Any, params: dict, extra: dict) -> dict[str, np.ndarray]:
    """The state dict of `interop.tcn_modules.TcnModel`."""
    return model_state_dict(params)


def from_torch(state: dict[str, np.ndarray], params: dict, extra: dict, *, file: Any) -> tuple[dict, dict]:
    """The inverse. A file of the encoders alone leaves the head as it is in `params`."""
    if not any(name.startswith('rv_head.') for name in state):
        say(f'{file}: no head is in it; rv_head keeps its fresh random values')
        state = state | {f'rv_head.{name}': value for name, value in rv_head_state_dict(params).items()}
    return from_model_state_dict(state, params, file=file), extra


def batch_of_samples(golden: dict[str, np.ndarray]) -> dict[str, jax.Array]:
    """One row a sample. Every row holds all chunks and frames; its mask says which frames are its own."""
    bounds = golden['sample_bounds']
    count, frames = len(bounds), np.arange(len(golden['frame_scalars']))
    rows = lambda x: jnp.asarray(np.repeat(x[None], count, axis=0))
    batch = {
        'chunks': rows(golden['chunks']),
        'weights': rows(golden['weights']),
        'frame': rows(golden['frame_id'].astype(np.int32)),
        'scalars': rows(golden['frame_scalars']),
        'frame_mask': jnp.asarray((bounds[:, :1] <= frames) & (frames < bounds[:, 1:])),
        'target': jnp.asarray(np.expm1(golden['target'].astype(np.float64)).astype(np.float32))[:, None],
        'target_mask': jnp.ones((count, 1), bool),
        'mask': jnp.ones(count, bool),
    }
    if 'ticker_ids' in golden:
        batch['tickers'] = rows(golden['ticker_ids'].astype(np.int32))
    return batch
