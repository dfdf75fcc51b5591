"""Rows of launch/results/*.csv, and what they say of the machine."""

import csv
from pathlib import Path

RESULTS = Path(__file__).resolve().parents[1] / 'results'


def append(name: str, *rows: dict) -> None:
    """Adds rows to launch/results/NAME.csv under the header, which is written with the first ones."""
    path = RESULTS / f'{name}.csv'
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.exists()
    with open(path, 'a', newline='') as file:
        writer = csv.DictWriter(file, list(rows[0]))
        if new:
            writer.writeheader()
        writer.writerows(rows)


def cpu_name() -> str:
    """The processor's name as Linux gives it."""
    path = Path('/proc/cpuinfo')
    lines = path.read_text().splitlines() if path.exists() else []
    return next((line.partition(':')[2].strip() for line in lines if line.startswith('model name')), 'unknown CPU')
