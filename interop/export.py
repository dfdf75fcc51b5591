"""Writes the weights of a run as a PyTorch state dict: `python -m interop.export --workdir=DIR --out=FILE`.

FILE ends in `.pt` (read it with `torch.load(FILE, weights_only=True)`) or `.safetensors`. The names, the order and the
layout are those of the PyTorch modules, so `load_state_dict(..., strict=True)` takes it. The file is read back and
compared bit by bit before the command ends.
"""

import sys
from pathlib import Path

import numpy as np
from absl import flags
from safetensors.numpy import save

from fjq import torch_file
from fjq.atomic import write_atomic
from fjq.checkpoint import read_params
from fjq.errors import InputError
from fjq.launch import WORKDIR
from fjq.run import read_config
from interop.convert import to_torch
from interop.files import read_state

OUT = flags.DEFINE_string('out', None, 'the file to write, .pt or .safetensors.')


def export(workdir: Path, out: Path) -> dict[str, np.ndarray]:
    """Writes the best weights of a run folder; returns the state dict.

    Raises:
      InputError: no run is there, or the ending of `out` is unknown.
    """
    if out.suffix not in ('.pt', '.safetensors'):
        raise InputError(f'the ending {out.suffix!r} is unknown', file=out, remedy='use .pt or .safetensors')
    config = read_config(workdir)
    weights = read_params(workdir)
    state = to_torch(config.task, weights.params, weights.extra)
    if out.suffix == '.pt':
        torch_file.write(out, state)
    else:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(out, save({name: np.ascontiguousarray(value) for name, value in state.items()}))
    back = read_state(out)
    if set(back) != set(state) or not all(np.array_equal(back[n], v) for n, v in state.items()):
        raise RuntimeError(f'{out} does not come back to the same bits')
    return state


def main(argv: list[str]) -> int:
    """Returns the exit code: 0 done, 2 wrong input."""
    try:
        rest = flags.FLAGS(argv)
        if len(rest) > 1 or not WORKDIR.value or not OUT.value:
            raise InputError('usage: python -m interop.export --workdir=DIR --out=FILE')
        state = export(Path(WORKDIR.value), Path(OUT.value))
    except (InputError, flags.Error) as e:
        print(f'interop.export: {" ".join(str(e).split())}', file=sys.stderr)
        return 2
    print(
        f'{OUT.value}: {len(state)} tensors, {sum(v.size for v in state.values()):,} numbers, the same when read back'
    )
    return 0


if __name__ == '__main__':
    sys.exit(main(sys.argv))
