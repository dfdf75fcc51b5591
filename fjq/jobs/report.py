"""writes report.md and report.html: tables, plots and what they show."""

from pathlib import Path

from fjq.config import Experiment
from fjq.log import say
from fjq.report import write_report


def run(config: Experiment, workdir: Path) -> None:
    """Writes the report of the run in `workdir`, from the files that are there."""
    for path in write_report(workdir):
        say(path)
