"""trains the config's model, resuming what the workdir holds."""

from pathlib import Path

import jax

from fjq.checkpoint import best_step
from fjq.clear import check_clear, clear
from fjq.config import Experiment
from fjq.fit import open_data
from fjq.log import say
from fjq.train import open_training, train
from fjq.trained import Trained


def run(config: Experiment, workdir: Path) -> None:
    """Trains and says where the run lies and what comes next."""
    figures = train(config, workdir)
    if best_step(workdir / 'checkpoints') == 0:
        within = ', of what kept to the budget' if config.train.budget else ''
        say(f'{config.train.metric} of the valid split was best at the start{within}: no update is in the weights')
    task = config.task.build()
    if hasattr(task, 'conclude') and jax.process_count() == 1:
        trained = Trained.load(workdir)
        for line in task.conclude(trained.params, trained.extra, open_data(config, workdir)):
            say(line)
    if figures:
        say('validation: ' + ', '.join(f'{k} {v:.6g}' for k, v in figures.items()))
    say(f'the run is in {workdir}; --job=evaluate scores it beside its baselines, --job=export writes its weights')


def start_over(config: Experiment, workdir: Path) -> None:
    """Empties the run folder, once it is known that it may be and that training can begin."""
    check_clear(workdir, config)  # before the data are read, which may take hours
    open_training(config, workdir)
    if jax.process_index() == 0:
        clear(workdir, config)
