"""writes the best weights as safetensors, StableHLO and PyTorch files, each read back and compared."""

import dataclasses
from pathlib import Path

from fjq.adopt import adopt_task
from fjq.calibration import Calibration
from fjq.checkpoint import read_params
from fjq.config import Experiment
from fjq.errors import InputError
from fjq.export import export
from fjq.feed import make_gather, read_batches
from fjq.fit import open_data
from fjq.log import say
from fjq.run import read_config
from fjq.task import Dataset
from fjq.trained import Trained


def run(config: Experiment, workdir: Path) -> None:
    """Exports the run in `workdir` with the settings that it was trained with, also where the command does not repeat
    them; the files and how far each is from the model are printed."""
    settings = adopt_task(dataclasses.replace(read_config(workdir), task=config.task), workdir)
    weights = read_params(workdir)
    dataset = _open(settings, config, workdir)
    batch = make_gather(dataset)(next(iter(read_batches(dataset, 'valid'))))
    calibration = Calibration.read(workdir, weights.step)
    trained = Trained(settings, weights.params, weights.extra, weights.step, calibration, workdir)
    export(trained, weights, batch, workdir)


def _open(settings: Experiment, config: Experiment, workdir: Path) -> Dataset:
    """The data of the training; where they can no longer be read, as after a move, those that the command names."""
    here = dataclasses.replace(settings, cache=config.cache or settings.cache, parallel=config.parallel)
    try:
        return open_data(here, workdir)
    except InputError as e:
        if config.data == settings.data:
            raise
        say(f'the data of the training can not be read, so those of the command show the shapes of a batch: {e}')
        return open_data(dataclasses.replace(here, data=config.data), workdir)
