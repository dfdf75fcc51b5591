"""Our MIGT-TVDT on the golden values of the original (its mask error corrected): every stage, loss and gradients."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fjq.models import migt_files
from fjq.models.migt import Migt, Model
from fjq.models.migt_task import MigtTask
from fjq.nn.transformer import run_layers
from interop.check import Check, compare
from interop.files import read_npz, read_state

_DEEP = 1e-4
_FLAT = 1e-8  # a gradient below it is compared as it is, not relative to its own size
LEVELS = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)  # of the original
HORIZONS = (3, 6, 12, 24, 48)


def check(stem: str | Path) -> list[Check]:
    """Compares embedded, temporal_0, temporal_last, pooled, variable_last, readout, quantiles, pinball_loss and every
    grad.* of the stem."""
    task, params = load(stem)
    golden = read_npz(f'{stem}_io.npz')
    batch = read_batch(golden)
    stages, apply = jax.jit(lambda params: _stages(task, params, batch)), task.pure.apply

    @jax.jit
    def loss(params):
        quantiles, _ = apply(params, {}, Model.__call__, batch)
        levels, error = jnp.asarray(task.config.levels)[None, None], batch['target'][..., None] - quantiles
        return jnp.maximum(levels * error, (levels - 1) * error).mean()

    ours = stages(params)
    ours['pinball_loss'], gradients = jax.value_and_grad(loss)(params)
    checks = [compare(name, value, golden[name], _DEEP) for name, value in ours.items() if name in golden]
    named = migt_files.to_state_dict(jax.device_get(gradients), {})
    for name, expected in golden.items():
        if name.startswith('grad.'):
            floor = _FLAT
            if name.endswith('.k_proj.bias'):  # softmax ignores it: the gradient is rounding, of the weight's scale
                floor = float(np.abs(golden[name.replace('bias', 'weight')]).max())
            checks.append(compare(name, named[name.removeprefix('grad.')], expected, _DEEP, floor=floor))
    return checks


def _stages(task: MigtTask, params: dict, batch: dict) -> dict[str, jax.Array]:
    """What the original gives after each of its stages, in its layout."""
    rows, slots, variables = batch['features'].shape

    def run(model: Model) -> dict[str, jax.Array]:
        z_NxTxD = model.embed(model.normalize(batch)[0], model.read_clock(batch))
        lengths = jnp.repeat(batch['length'], variables)
        as_theirs = lambda z: z.reshape(rows, variables, slots, -1).swapaxes(1, 2)
        out = {'embedded': as_theirs(z_NxTxD)}
        for i in range(task.config.temporal_layers):
            z_NxTxD = run_layers(_only(model.temporal_layers, i), z_NxTxD, lengths, None, remat='none')
            out[f'temporal_{i}'] = out['temporal_last'] = as_theirs(z_NxTxD)
        out['pooled'] = model.pool(z_NxTxD, jnp.arange(slots)[None] < lengths[:, None]).reshape(rows, variables, -1)
        out['variable_last'] = model.mix_variables(out['pooled'])
        out['readout'] = model.read_out(out['variable_last'])
        return out | {'quantiles': model(batch)}

    return task.pure.apply(params, {}, run)[0]


def _only(layers: Any, index: int) -> Any:
    """One of stacked layers, still stacked."""
    from flax import nnx

    graph, state = nnx.split(layers)
    return nnx.merge(graph, jax.tree.map(lambda leaf: leaf[index : index + 1], state))


def load(stem: str | Path) -> tuple[MigtTask, dict[str, Any]]:
    """The task and the parameters of a stem; every dimension comes from its config and state dict.

    Raises:
      InputError: a file that is no safetensors file, or weights that do not fit the config.
    """
    config = json.loads(Path(f'{stem}_config.json').read_text())
    file = f'{stem}.safetensors'
    state = read_state(file)
    count = config['n_quantiles']
    parts = [
        config['positional_encoding'][n]['dim'] for n in ('time_of_day', 'day_of_week', 'day_of_month', 'day_of_year')
    ]
    task = Migt(
        compat=True,
        variables=config['n_variables'],
        horizons=HORIZONS if config['n_horizons'] == len(HORIZONS) else tuple(range(1, config['n_horizons'] + 1)),
        levels=LEVELS if count == len(LEVELS) else tuple(np.linspace(0, 1, count + 2)[1:-1].tolist()),
        width=config['d_model'],
        heads=config['n_heads'],
        hidden=config['d_ff'],
        temporal_layers=config['n_temporal_layers'],
        variable_layers=config['n_variable_layers'],
        head_hidden=state['quantile_head.heads.0.mlp.0.weight'].shape[0],
        clock_dims=tuple(parts),
        dropout=config['dropout'],
    ).build()
    fresh = jax.tree.map(np.asarray, task.init(jax.random.key(0)))
    params, _ = migt_files.from_state_dict(state, *fresh, file=file)
    return task, jax.tree.map(jnp.asarray, params)


def read_batch(golden: dict[str, np.ndarray]) -> dict[str, jax.Array]:
    """The original's windows, whose padding comes first, as ours, whose padding comes last."""
    mask_BxT = golden['attention_mask']
    order_BxT = np.argsort(~mask_BxT, axis=1, kind='stable')
    shift = lambda x: np.take_along_axis(x, order_BxT.reshape(*order_BxT.shape, *[1] * (x.ndim - 2)), axis=1)
    rows = len(mask_BxT)
    batch = {
        'features': shift(golden['features']).astype(np.float32),
        'bar_in_day': shift(golden['bar_in_day']).astype(np.int32),
        'length': mask_BxT.sum(1).astype(np.int32),
        **{n: golden[n].astype(np.int32) for n in ('day_of_week', 'day_of_month', 'day_of_year')},
        'target': golden['target'],
        'target_mask': np.ones(golden['target'].shape, bool),
        'mask': np.ones(rows, bool),
    }
    return jax.tree.map(jnp.asarray, batch)


def sizes(config: Migt) -> dict[str, tuple[str, Any]]:
    """What no shape shows: the levels, which the original's files state with their training, and the heads, which
    others state as the original's page of the model does."""
    heads = 'task.heads', config.heads
    return {'quantile_regression.quantiles': ('task.levels', config.levels), 'model.n_heads': heads, 'n_heads': heads}


def to_torch(config: Any, params: dict, extra: dict) -> dict[str, np.ndarray]:
    """The state dict of `interop.migt_modules.MigtTvdt`; with `compat` the original's."""
    return migt_files.to_state_dict(params, extra)


def from_torch(state: dict[str, np.ndarray], params: dict, extra: dict, *, file: Any) -> tuple[dict, dict]:
    """The inverse."""
    return migt_files.from_state_dict(state, params, extra, file=file)
