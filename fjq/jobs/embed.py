"""writes each day's frame vectors [frames, d_model] for downstream models to embeddings/STEP/DAY.npz."""

import hashlib
import io
import json
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np

from fjq.adopt import adopt_task
from fjq.atomic import write_atomic
from fjq.config import Experiment, to_dict
from fjq.errors import InputError
from fjq.fit import open_data
from fjq.log import say, track
from fjq.run import changes_since_training
from fjq.trained import Trained


def run(config: Experiment, workdir: Path) -> None:
    """One file a day: float32 [frames, d_model] under the task's `embedding` name (`e_stk`, `e_opt`, `e_idx` of a TCN)
    and `time` int64 [frames], ns since 1970 UTC.

    STEP is the checkpoint's. Days that are there already are kept, so a killed job goes on, unless made_of.json says
    that they were made by other weights, in another precision, or of other data: then all are made again.
    """
    config = adopt_task(config, workdir)
    trained = Trained.load(workdir, config.task)
    if not hasattr(trained.task, 'embed'):
        raise InputError(f'{config.name} makes no embeddings')
    dataset = open_data(config, workdir)
    if changed := changes_since_training(workdir, dataset.fingerprint()):
        say(f'the data are not those of the training: {", ".join(changed)} differ')
    folder = workdir / 'embeddings' / str(trained.step)
    weights = _checksum((trained.params, trained.extra))
    made_of = {'weights': weights, 'task': to_dict(config.task), 'data': dataset.fingerprint()}
    _keep_if_made_of(folder, json.loads(json.dumps(made_of, default=str)))
    days = len(dataset.rows('all')['time'])
    for day in track(dataset.day_batches(), total=days, what='embed, days'):
        path = folder / f'{day.date}.npz'
        if not path.exists():
            vectors = [np.asarray(trained.embed(b))[b['frame_mask']] for b in day.batches]
            content = io.BytesIO()
            np.savez(content, **{trained.task.embedding: np.concatenate(vectors)}, time=day.time)
            write_atomic(path, content.getvalue())
    say(f'{days} days are in {folder}')


def _checksum(weights: Any) -> str:
    sums = hashlib.sha256()
    for leaf in jax.tree.leaves(jax.device_get(weights)):
        sums.update(leaf.tobytes())
    return sums.hexdigest()


def _keep_if_made_of(folder: Path, made_of: dict[str, Any]) -> None:
    """Leaves the folder as it is if its days were made of the same, else empty but for the note of what it is now."""
    note = folder / 'made_of.json'
    if note.is_file() and json.loads(note.read_text()) == made_of:
        return
    if any(folder.glob('*.npz')):
        say(f'{folder} was made by other weights, otherwise, or of other data; all days are embedded again')
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    write_atomic(note, (json.dumps(made_of, indent=1) + '\n').encode())
