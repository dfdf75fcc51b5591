"""The figures of a report as PNG bytes. matplotlib is only imported here."""

import io
from collections.abc import Mapping, Sequence

import numpy as np

from fjq.studies import Chart

MODEL, BASELINE, TRUTH = '#1f5fa8', '#b0b0b0', '#202020'


def plot_training(lines: Sequence[Mapping]) -> bytes:
    """Loss, validation loss and learning rate by step. lines: the objects of metrics.jsonl."""
    figure, (left, right) = _figure(2)
    lowest = np.inf
    for key, label in (('loss', 'training'), ('valid/loss', 'validation')):
        points = [(line['step'], line[key]) for line in lines if line.get(key) is not None]
        if points:
            left.plot(*zip(*points, strict=True), label=label, marker='o' if key.startswith('valid') else None, ms=3)
            lowest = min(lowest, *(loss for _, loss in points))
    left.set(xlabel='update', ylabel='loss', yscale='log' if lowest > 0 else 'linear')  # likelihoods may be negative
    left.legend(frameon=False)
    rates = [(line['step'], line['learning_rate']) for line in lines if line.get('learning_rate') is not None]
    if rates:
        right.plot(*zip(*rates, strict=True), color=MODEL)
    right.set(xlabel='update', ylabel='learning rate')
    return _png(figure)


def plot_forecast(time: np.ndarray, target: np.ndarray, forecasts: Mapping[str, Mapping[str, np.ndarray]]) -> bytes:
    """Truth, the first forecaster with its 80 % interval, and the other forecasts, one point a row."""
    figure, (axis,) = _figure(1)
    for i, (name, columns) in enumerate(forecasts.items()):
        if i:
            axis.plot(time, columns['point'], lw=1, alpha=0.7, label=name)
            continue
        if {'q10', 'q90'} <= set(columns):  # among config.evaluate.levels
            axis.fill_between(time, columns['q10'], columns['q90'], color=MODEL, alpha=0.2, lw=0, label='80 % interval')
        axis.plot(time, columns['point'], color=MODEL, lw=1.8, label=name)
    axis.plot(time, target, color=TRUTH, lw=1.2, label='realised')
    axis.legend(frameon=False, fontsize=8, ncols=3)
    axis.tick_params(axis='x', rotation=30)
    return _png(figure)


def plot_calibration(calibration: Mapping[str, Mapping], coverage: Mapping[str, Mapping[float, float]]) -> bytes:
    """PIT histogram of the first forecaster, and coverage against level for all."""
    figure, (left, right) = _figure(2)
    name = next(iter(calibration))
    pit = np.asarray(calibration[name]['pit'])
    left.bar(np.arange(len(pit)) / len(pit), pit, width=1 / len(pit), align='edge', color=MODEL, edgecolor='white')
    left.axhline(1 / len(pit), color=TRUTH, lw=1, ls='--')
    left.set(xlabel=f'probability integral transform, {name}', ylabel='share of rows', xlim=(0, 1))
    right.plot([0, 1], [0, 1], color=TRUTH, lw=1, ls='--')
    for i, (label, shares) in enumerate(coverage.items()):
        style = {'color': BASELINE, 'lw': 1} if i else {'color': MODEL, 'lw': 1.8, 'zorder': 3}
        right.plot(list(shares), list(shares.values()), marker='o', ms=3, label=label if i == 0 else None, **style)
    right.set(xlabel='central interval', ylabel='share of targets inside', xlim=(0, 1), ylim=(0, 1))
    right.legend(frameon=False)
    return _png(figure)


def plot_differences(differences: Mapping[str, Mapping[str, float]], loss: str) -> bytes:
    """Loss of each baseline minus loss of the model with its 95 % interval; right of zero the model is better."""
    figure, (axis,) = _figure(1, height=0.7 + 0.35 * len(differences))
    for i, d in enumerate(differences.values()):
        color = MODEL if d['low'] > 0 else '#a83232' if d['high'] < 0 else BASELINE
        axis.plot([d['low'], d['high']], [i, i], color=color, lw=2)
        axis.plot(d['mean'], i, 'o', color=color)
    axis.axvline(0, color=TRUTH, lw=1)
    axis.set_yticks(range(len(differences)), list(differences))
    axis.set_ylim(len(differences) - 0.5, -0.5)
    axis.set_xlabel(f'{loss} of the baseline minus {loss} of the model')
    return _png(figure)


def plot_chart(chart: Chart) -> bytes:
    """A chart of a study: the first line in the colour of models."""
    figure, (axis,) = _figure(1)
    x = np.asarray(chart.x)
    if x.dtype.kind == 'U':
        x = x.astype('datetime64[s]')
    shaded = {label for band in chart.bands for label in band}
    for low, high in chart.bands:
        ends = (np.asarray(chart.lines[label], np.float64) for label in (low, high))
        axis.fill_between(x, *ends, color=MODEL, alpha=0.18, lw=0, label=f'{low} to {high}')
    if chart.diagonal:
        axis.plot([x.min(), x.max()], [x.min(), x.max()], color=TRUTH, lw=1, ls='--')
    lines = {label: np.asarray(y, np.float64) for label, y in chart.lines.items() if label not in shaded}
    for i, (label, y) in enumerate(lines.items()):
        style = {'color': MODEL, 'lw': 1.8, 'zorder': 3} if i == 0 else {'lw': 1}
        axis.plot(x, y, label=label, marker='o' if len(x) <= 30 else None, ms=3, **style)
    axis.set(xlabel=chart.xlabel, ylabel=chart.ylabel)
    axis.legend(frameon=False, fontsize=8, ncols=3)
    if x.dtype.kind == 'M':
        axis.tick_params(axis='x', rotation=30)
    return _png(figure)


def _figure(columns: int, height: float = 3.2):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, height), layout='constrained')
    axes = figure.subplots(1, columns, squeeze=False)[0]
    for axis in axes:
        axis.spines[['top', 'right']].set_visible(False)
        axis.grid(alpha=0.25)
    return figure, axes


def _png(figure) -> bytes:
    out = io.BytesIO()
    figure.savefig(out, format='png', dpi=110, metadata={'Software': None})
    return out.getvalue()
