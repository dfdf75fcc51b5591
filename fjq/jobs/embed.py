"""writes each day's frame vectors [frames, d_model] for downstream models to embeddings/STEP/DAY.npz."""

import io
from pathlib import Path

import numpy as np

from fjq.checkpoint import write_atomic
from fjq.config import Experiment
from fjq.errors import InputError
from fjq.log import say, track
from fjq.run import adopt_task, open_data
from fjq.trained import Trained


def run(config: Experiment, workdir: Path) -> None:
    """One file a day: float32 [frames, d_model] under the task's `embedding` name (`e_stk`, `e_opt`, `e_idx` of a TCN)
    and `time` int64 [frames], ns since 1970 UTC.

    STEP is the checkpoint's. Days that are there already are kept, so a killed job goes on.
    """
    config = adopt_task(config, workdir)
    trained = Trained.load(workdir)
    if not hasattr(trained.task, 'embed'):
        raise InputError(f'{config.name} makes no embeddings')
    dataset = open_data(config, workdir)
    folder = workdir / 'embeddings' / str(trained.step)
    folder.mkdir(parents=True, exist_ok=True)
    days = len(dataset.rows('all')['time'])
    for day in track(dataset.day_batches(), total=days, what='embed, days'):
        path = folder / f'{day.date}.npz'
        if not path.exists():
            vectors = [np.asarray(trained.embed(b))[b['frame_mask']] for b in day.batches]
            content = io.BytesIO()
            np.savez(content, **{trained.task.embedding: np.concatenate(vectors)}, time=day.time)
            write_atomic(path, content.getvalue())
    say(f'{days} days are in {folder}')
