"""Makes a run folder of a PyTorch checkpoint.

  python -m interop.load --file=x.pt --config=configs/tcn_index.py[:variant] --workdir=DIR [--config.any.field=value]

The file is a `.safetensors` or `.pt` file that fits the config's model; a TCN encoder file fits too, and then the head
starts from its random values. Sizes that a `.pt` file states, in an entry `config`, must be those of the config. The
folder can be evaluated, forecast from and exported like any other; to train on, start a new run with
`--config.init_from=DIR`.
"""

import hashlib
import math
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from fjq import launch
from fjq.checkpoint import Checkpoints
from fjq.config import Experiment, check_elements, settle, to_dict
from fjq.errors import InputError
from fjq.keys import make_key
from fjq.log import say
from fjq.optim import make_optimizer
from fjq.run import write_facts
from fjq.step import init_state
from interop.convert import from_torch
from interop.files import MAX_BYTES, read_model_file

FILE = flags.DEFINE_string('file', None, 'the PyTorch checkpoint to read, .pt or .safetensors.')
MAX_GIB = flags.DEFINE_float('max_gib', MAX_BYTES / 2**30, 'the largest file that is read, in GiB.')


def load(config: Experiment, file: Path, workdir: Path, *, max_bytes: int = MAX_BYTES) -> list[str]:
    """Writes config.json, manifest.json and checkpoint 0 of a new run folder.

    Returns:
      the names that were read.

    Raises:
      InputError: the folder holds a run already, or the file is unsafe or of another model.
    """
    if (workdir / 'config.json').exists() or any((workdir / 'checkpoints').glob('*')):
        raise InputError('there is a run here already', file=workdir, remedy='name a new --workdir')
    values, stated = read_model_file(file, max_bytes=max_bytes)
    task = config.task.build()
    key = make_key(config.seed, 'init')
    optimizer = make_optimizer(config.optim, config.train.steps, jax.eval_shape(task.init, key)[0])
    state = jax.jit(lambda key: init_state(task, optimizer, config.train.ema, key))(key)
    fresh = state['params'], state['extra']
    read = from_torch(config.task, values, *jax.tree.map(np.asarray, fresh), file=file, stated=stated)
    state['params'], state['extra'] = jax.tree.map(lambda like, v: jnp.asarray(v, like.dtype), fresh, read)
    if config.train.ema:
        state['ema'] = jax.tree.map(jnp.copy, state['params'])
    with open(file, 'rb') as f:
        source = {'file': file.name, 'sha256': hashlib.file_digest(f, 'sha256').hexdigest()}
    write_facts(config, workdir, {'loaded from': source})
    facts = {
        'data': None,
        'fingerprint': {'loaded from': source},  # no data set has this one, so no run goes on from here by accident
        'best': None,
        'since_best': 0,
        'validation': {},
        'train_loss': math.nan,
        'config': to_dict(config),
    }
    checkpoints = Checkpoints(workdir / 'checkpoints', mode=config.train.mode)
    checkpoints.save(0, state, facts, None)
    checkpoints.close()
    for name in getattr(task, 'bound_to', ()):
        say(f'{file} does not say which {name} its weights are of: none is refused, so check the one of data.{name}')
    return list(values)


def main(argv: list[str]) -> int:
    """Returns the exit code: 0 done, 2 wrong input."""
    try:
        launch.check_arguments(argv)
        rest = flags.FLAGS(argv)
        if len(rest) > 1 or not FILE.value or not launch.WORKDIR.value:
            raise InputError('usage: python -m interop.load --file=FILE --config=configs/NAME.py --workdir=DIR')
        file, workdir = Path(FILE.value), Path(launch.WORKDIR.value)
        check_elements(launch.CONFIG.value)
        names = load(settle(launch.CONFIG.value), file, workdir, max_bytes=int(MAX_GIB.value * 2**30))
    except (InputError, flags.Error) as e:
        print(f'interop.load: {" ".join(str(e).split())}', file=sys.stderr)
        return 2
    print(f'{workdir}: {len(names)} tensors from {file}')
    return 0


if __name__ == '__main__':
    sys.exit(main(sys.argv))
