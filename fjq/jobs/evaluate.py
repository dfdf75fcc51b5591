"""scores the best weights on the test split beside the baselines, with intervals for every difference."""

from pathlib import Path

from fjq.config import Experiment
from fjq.evaluate import conclude, evaluate, write
from fjq.log import say
from fjq.run import adopt_task, cache_folder
from fjq.trained import Trained


def run(config: Experiment, workdir: Path) -> None:
    """Writes evaluation.json and forecasts/SPLIT.parquet and prints the table."""
    config = adopt_task(config, workdir)
    dataset = config.data.open(cache_folder(config, workdir), config.parallel)
    findings, table = evaluate(config, Trained.load(workdir), dataset)
    write(findings, table, workdir)
    say(format_scores(findings))
    for line in conclude(findings):
        say(line)


def format_scores(findings: dict) -> str:
    """One line a forecaster: the figures of the first horizon."""
    shown = ('qlike', 'huber_log1p', 'mae', 'rmse', 'r2', 'crps', 'coverage_80')
    lines = [f'{findings["split"]} {findings["first"]} to {findings["last"]}, {findings["rows"][0]} rows']
    lines += [f'{"":<24}' + ''.join(f'{name:>13}' for name in shown)]
    for name, figures in findings['scores'].items():
        lines.append(f'{name:<24}' + ''.join(f'{figures[s][0]:>13.5f}' for s in shown))
    lines += [f'{name:<24} not available: {reason}' for name, reason in findings['unavailable'].items()]
    return '\n'.join(lines)
