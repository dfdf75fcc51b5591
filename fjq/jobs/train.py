"""trains the config's model, resuming what the workdir holds."""

from pathlib import Path

from fjq.config import Experiment
from fjq.log import say
from fjq.train import train


def run(config: Experiment, workdir: Path) -> None:
    """Trains and says where the run lies and what comes next."""
    figures = train(config, workdir)
    if figures:
        say('validation: ' + ', '.join(f'{k} {v:.6g}' for k, v in figures.items()))
    say(f'the run is in {workdir}; --job=evaluate scores it beside its baselines, --job=export writes its weights')
