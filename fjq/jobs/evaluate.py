"""scores the best weights on the test split beside the baselines, with intervals for every difference."""

from pathlib import Path

from fjq.adopt import adopt_task
from fjq.config import Experiment
from fjq.evaluate import check_evaluate, conclude, evaluate, is_known, write
from fjq.fit import open_data
from fjq.log import say
from fjq.run import changes_since_training
from fjq.trained import Trained


def run(config: Experiment, workdir: Path) -> None:
    """Writes evaluation.json, forecasts/SPLIT.parquet and a fitted calibration.json, and prints the table."""
    config = adopt_task(config, workdir)
    check_evaluate(config.evaluate)
    dataset = open_data(config, workdir)
    trained = Trained.load(workdir, config.task)
    findings, table = evaluate(config, trained, dataset)
    findings['changed'] = changes_since_training(workdir, dataset.fingerprint())
    write(findings, table, workdir)
    if trained.calibration is not None:
        trained.calibration.write(workdir)
    say(format_scores(findings))
    for line in conclude(findings):
        say(line)


def format_scores(findings: dict) -> str:
    """A table a horizon, one line a forecaster."""
    names = ('qlike', 'huber_log1p', 'mae', 'rmse', 'r2', 'crps', 'coverage_80')
    width = max(24, *(len(name) + 1 for name in [*findings['scores'], *findings['unavailable']]))
    shown, lines = [n for n in names if is_known(findings, n)], []
    for h, horizon in enumerate(findings['horizons']):
        period = f'{findings["split"]} {findings["first"]} to {findings["last"]}'
        lines.append(f'horizon {horizon}, {period}, {findings["rows"][h]} rows')
        lines.append(f'{"":<{width}}' + ''.join(f'{name:>13}' for name in shown))
        for name, figures in findings['scores'].items():
            lines.append(f'{name:<{width}}' + ''.join(f'{figures[s][h]:>13.5f}' for s in shown))
    lines += [f'{name:<{width}} not available: {reason}' for name, reason in findings['unavailable'].items()]
    return '\n'.join(lines)
