"""writes the best weights as safetensors, StableHLO and PyTorch files, each read back and compared."""

from pathlib import Path

from fjq.calibration import Calibration
from fjq.checkpoint import read_params
from fjq.config import Experiment
from fjq.export import export
from fjq.feed import make_gather, read_batches
from fjq.run import adopt_task, open_data
from fjq.trained import Trained


def run(config: Experiment, workdir: Path) -> None:
    """Exports the run in `workdir`; the files and how far each is from the model are printed."""
    config = adopt_task(config, workdir)
    weights = read_params(workdir)
    dataset = open_data(config, workdir)
    batch = make_gather(dataset)(next(iter(read_batches(dataset, 'valid'))))
    calibration = Calibration.read(workdir, weights.step)
    export(Trained(config, weights.params, weights.extra, weights.step, calibration), weights, batch, workdir)
