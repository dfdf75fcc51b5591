"""Golden values of the family `mamba`: the selective scan and the block of the reference implementation."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import load_file

from fjq.bridge import Pure
from fjq.nn.mamba import MambaBlock
from fjq.nn.ssm import selective_scan
from fjq.torch_names import from_state_dict, to_state_dict
from interop.check import Check, compare

_SHALLOW = 1e-5
_METHODS = ('sequential', 'chunked', 'associative')


def block_of(state: dict[str, np.ndarray]) -> tuple[Pure, dict]:
    """A state dict of the reference block -> (our block of the same sizes, its parameters)."""
    features, inner = state['out_proj.weight'].shape
    make = lambda rngs: MambaBlock(
        features,
        states=state['A_log'].shape[1],
        width=state['conv1d.weight'].shape[-1] if 'conv1d.weight' in state else 0,
        expand=inner / features,
        rank=state['dt_proj.weight'].shape[1],
        rngs=rngs,
    )
    pure = Pure(make)
    template, _ = jax.eval_shape(pure.init, jax.random.key(0))
    return pure, from_state_dict(state, template)


def check(stem: str | Path) -> list[Check]:
    """The scan by every method and the block, values and gradients. `stem` is the path without `_io.npz`."""
    with np.load(f'{stem}_io.npz') as file:
        golden = dict(file)
    state = load_file(f'{stem}_block.safetensors')
    with jax.default_matmul_precision('highest'):
        return [row for method in _METHODS for row in _scan(golden, method)] + _block(golden, state)


def _run(function, cotangent, arguments):
    """function(arguments) -> (y, aux), compiled: y, aux and the gradients of <cotangent, y>."""

    @jax.jit
    def run(cotangent, arguments):
        y, pull, aux = jax.vjp(function, arguments, has_aux=True)
        return y, aux, pull(cotangent)[0]

    return run(cotangent, arguments)


def _scan(golden, method: str) -> list[Check]:
    """The reference puts time last and the state in [B, D, N]."""
    to_ours = lambda a: a.swapaxes(1, 2) if a.ndim == 3 else a
    names = ('u', 'delta', 'A', 'B', 'C', 'D', 'delta_bias')
    arguments = {name: jnp.asarray(to_ours(golden[f'scan_{name}'])) for name in names}
    cotangent = jnp.asarray(to_ours(golden['scan_cotangent']))

    def scan(a):
        series = a['u'], a['delta'], a['A'], a['B'], a['C'], a['D']
        return selective_scan(*series, delta_bias_D=a['delta_bias'], method=method)

    y, last, gradients = _run(scan, cotangent, arguments)
    ours = {'scan_out': y, 'scan_last_state': last} | {f'scan_grad_{name}': gradients[name] for name in names}
    return [
        compare(f'{name} ({method})', to_ours(value), golden[name], _SHALLOW, floor=0) for name, value in ours.items()
    ]


def _block(golden, state) -> list[Check]:
    pure, params = block_of(state)
    block = lambda a: (pure.apply(a['params'], {}, lambda block: block(a['x']))[0], None)
    arguments = {'params': params, 'x': jnp.asarray(golden['block_in'])}
    y, _, gradients = _run(block, jnp.asarray(golden['block_cotangent']), arguments)
    ours = {'block_out': y, 'block_in_grad': gradients['x']}
    ours |= {f'block_grad.{name}': value for name, value in to_state_dict(gradients['params']).items()}
    missing = {name for name in golden if name.startswith('block_grad.')} - set(ours)
    rows = [compare(name, value, golden[name], _SHALLOW, floor=0) for name, value in ours.items()]
    return rows + [Check(f'{name} is not among ours', np.inf, np.inf, _SHALLOW, False) for name in sorted(missing)]
