"""The exits of a trained model: safetensors, StableHLO and PyTorch files, each read back and compared."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export as jax_export

from fjq import torch_file
from fjq.atomic import write_atomic
from fjq.checkpoint import Weights
from fjq.errors import InputError
from fjq.forecast import Point
from fjq.log import say
from fjq.trained import WEIGHTS, Trained

PROGRAM = 'predict.stablehlo'
CARD = 'predict.json'
LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)
TOLERANCE = 1e-6  # of the forecast's scale; safetensors must come back to the same bits


def export(trained: Trained, weights: Weights, batch: dict[str, Any], workdir: Path) -> list[Path]:
    """Writes every form of the model and checks each against the model in memory.

    Args:
      weights: the checkpoint that `trained` came from; PyTorch files carry its optimiser too.
      batch: one batch of real rows: it fixes all shapes but the number of rows, and the check runs on it.

    Returns:
      the files: export/config.json, model.safetensors, checkpoints/*.pt, export/predict.stablehlo, predict.json.

    Raises:
      InputError: PyTorch has no such model, or the program gives other numbers; what can be written is.
    """
    folder = workdir / 'export'
    trained.save(folder)
    again = Trained.load(folder)
    bits = lambda t: [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves((t.params, t.extra))]
    if bits(trained) != bits(again):
        raise RuntimeError(f'{folder / WEIGHTS} does not come back to the same bits')
    say(f'{folder / WEIGHTS}: the same bits when read back')
    try:
        torch = _write_torch(trained, weights, workdir / 'checkpoints')
    finally:  # a form that can not be made costs none of the others
        _write_program(trained, batch, folder)
    return [folder / 'config.json', folder / WEIGHTS, *torch, folder / PROGRAM, folder / CARD]


def serve(trained: Trained):
    """(params, extra, batch) -> {'mean': [B, ...], 'quantiles': [B, ..., Q] at `LEVELS`}, plain arrays.

    A point forecast carries the errors of the valid split that an evaluation kept, and has no quantiles without. A
    conformal calibration depends on labels that the program does not see: it stays with calibration.json.
    """

    def run(params, extra, batch):
        law = trained.task.predict(params, extra, batch, jax.random.key(0))
        if isinstance(law, Point):
            if trained.calibration is None:
                return {'mean': law.mean()}
            law = trained.calibration.apply(law, {})
        return {'mean': law.mean(), 'quantiles': law.quantile(np.asarray(LEVELS, np.float32))}

    return run


def _write_torch(trained: Trained, weights: Weights, folder: Path) -> list[Path]:
    if not hasattr(trained.task, 'torch_files'):
        return []
    files = torch_file.write_all(folder, trained.task.torch_files(trained.config, weights))
    for path in files:
        say(f'{path}: {path.stat().st_size / 1e6:.1f} MB, for PyTorch')
    return files


def _write_program(trained: Trained, batch: dict[str, Any], folder: Path) -> None:
    """Writes the program and its card; says how far the program read back is from the model."""
    program = jax.jit(serve(trained))
    (rows,) = jax_export.symbolic_shape('rows')
    shape = lambda x: jax.ShapeDtypeStruct(jnp.shape(x), jnp.asarray(x).dtype)
    free = lambda x: jax.ShapeDtypeStruct((rows, *jnp.shape(x)[1:]), jnp.asarray(x).dtype)
    weights = jax.tree.map(shape, (trained.params, trained.extra))
    exported = jax_export.export(program, platforms=('cpu', 'cuda'))(*weights, jax.tree.map(free, batch))
    write_atomic(folder / PROGRAM, bytes(exported.serialize()))
    read_back = jax_export.deserialize((folder / PROGRAM).read_bytes())
    ours, theirs = (f(trained.params, trained.extra, batch) for f in (program, read_back.call))
    card = {
        'call': f"jax.export.deserialize(open('{PROGRAM}', 'rb').read()).call(params, extra, batch)",
        'weights': f"{WEIGHTS}, whose names are the paths in params and extra, joined by '/'",
        'batch': {k: [str(jnp.asarray(v).dtype), ['rows', *jnp.shape(v)[1:]]] for k, v in batch.items()},
        'quantiles': LEVELS if 'quantiles' in ours else (),
        'jax': jax.__version__,
    }
    write_atomic(folder / CARD, (json.dumps(card, indent=1) + '\n').encode())
    difference = float(np.max([jnp.abs(ours[k] - theirs[k]).max() for k in ours]))  # the max of Python may drop a NaN
    scale = max(1.0, float(jnp.abs(ours['mean']).max()))
    if not difference <= TOLERANCE * scale:
        raise InputError(f'the exported program differs from the model by {difference:.2e}', file=folder / PROGRAM)
    say(f'{folder / PROGRAM}: max abs difference {difference:.2e} when read back')
    if 'quantiles' not in ours:
        say(f'{folder / PROGRAM} has no quantiles: --job=evaluate finds the errors that intervals are made of')
