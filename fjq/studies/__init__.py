"""Further questions that an evaluation answers, beyond scores and differences. One file a question.

A study is a config dataclass of `Evaluate.studies` with a `name` and

    run(trained, dataset, split, judged, rows, mask) -> Study

`trained`, `dataset`: the model and the data that were evaluated; `split`: the name of the part.
`judged`: the forecasters, `fjq.evaluate.Judged(name, point, law)`, the model first, each with leading axes [N, H].
`rows`: `dataset.rows(split)`; `mask` [N, H]: the targets that every forecaster answers, and the only ones to score.

What it finds goes to evaluation.json under `studies`, from where the report shows it; so it holds plain numbers,
strings, lists and NumPy arrays only, and a figure is a `Chart`, drawn by the report.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np


class Chart(NamedTuple):
    """A figure of lines over x, as data.

    x: numbers, or times of numpy (which JSON holds as text).
    lines: label -> values, None or NaN where there is none.
    bands: pairs of labels of `lines`, the area between which is shaded instead of its two lines, widest first.
    diagonal: also draws x = y, where a calibrated forecast lies.
    """

    title: str
    x: Sequence[Any]
    lines: dict[str, Sequence[float]]
    xlabel: str = ''
    ylabel: str = ''
    bands: Sequence[tuple[str, str]] = ()
    diagonal: bool = False


class Study(NamedTuple):
    """What a study found.

    tables: title -> lines, each column -> a number or a word; the columns are those of the first line.
    sentences: what the figures say, also when that is nothing.
    """

    tables: dict[str, list[dict[str, Any]]]
    sentences: list[str]
    charts: Sequence[Chart] = ()


class Question(Protocol):
    """A config dataclass that `Evaluate.studies` may hold."""

    name: str

    def run(self, trained, dataset, split: str, judged: list, rows: dict[str, np.ndarray], mask: np.ndarray) -> Study:
        """Reads forecasts and targets, writes nothing."""


def say_interval(low: float, high: float, form: str) -> str:
    """Both ends in words, in a format such as '.1%'; what has no interval says why."""
    if not np.isfinite([low, high]).all():
        return 'too few rows for an interval'
    return f'{low:{form}} to {high:{form}}'
