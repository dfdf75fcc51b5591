"""One page a run: what was trained, how it did beside its baselines, and what that shows. Markdown and HTML."""

import base64
import html
import importlib.util
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq

from fjq.atomic import write_atomic
from fjq.errors import InputError
from fjq.evaluate import conclude, is_known
from fjq.lineage import Link, find_pages
from fjq.run import read_manifest
from fjq.scores import LEVELS_OF_COVERAGE
from fjq.studies import Chart

SHOWN = ('qlike', 'huber_log1p', 'mae', 'rmse', 'r2', 'spearman', 'crps', 'coverage_50', 'coverage_80', 'coverage_90')
MOST_DRAWN = 500  # rows of a figure of forecasts, the last ones

_DIFFERENCES = (
    '{loss} of each baseline minus that of the model; above 0 the model is better. Intervals: 95 %, block bootstrap. '
    'p: Diebold-Mariano with the equal-weighted cosine variance, which holds its size when targets overlap; '
    'p (NW): with Newey-West, which then rejects too often. R2: 1 - MSE / MSE of the baseline; r2 above, of the mean '
    'of training.'
)


class Heading(NamedTuple):
    text: str


class Text(NamedTuple):
    text: str


class Table(NamedTuple):
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


class Figure(NamedTuple):
    title: str
    png: bytes


class Links(NamedTuple):
    links: Sequence[Link]


Block = Heading | Text | Table | Figure | Links


def write_report(workdir: Path) -> tuple[Path, Path]:
    """Writes report.md (figures beside it in report/) and report.html (figures inside).

    Raises:
      InputError: the folder holds no run.
    """
    workdir = Path(workdir)
    if not (workdir / 'manifest.json').is_file():
        raise InputError('there is no run here (manifest.json is absent)', file=workdir, remedy='train first')
    return write_blocks(list(collect(workdir)), workdir / 'report')


def write_blocks(blocks: Sequence[Block], stem: Path) -> tuple[Path, Path]:
    """Writes STEM.md (figures beside it in STEM/) and STEM.html (figures inside)."""
    stem.mkdir(exist_ok=True)
    markdown, page = stem.with_name(f'{stem.name}.md'), stem.with_name(f'{stem.name}.html')
    for i, figure in enumerate(b for b in blocks if isinstance(b, Figure)):
        write_atomic(stem / f'{i}.png', figure.png)
    write_atomic(markdown, to_markdown(blocks, stem.name).encode())
    write_atomic(page, to_html(blocks).encode())
    return markdown, page


def collect(workdir: Path) -> Iterator[Block]:
    """The blocks of the page, from the files of the run folder."""
    manifest = read_manifest(workdir)
    config = json.loads((workdir / 'config.json').read_text())
    yield Heading(config['name'])
    failure = workdir / 'failure.json'
    if failure.is_file():
        facts = json.loads(failure.read_text())
        yield Text(f'**The run ended at step {facts["step"]}: {facts["why"]}.** See failure.json.')
    plots = find_plots()
    evaluation = workdir / 'evaluation.json'
    if evaluation.is_file():
        yield from _evaluation(_with_nan(json.loads(evaluation.read_text())), workdir, plots)
    else:
        yield Text('Not evaluated yet: run --job=evaluate.')
    if training := list(describe_training(workdir, plots)):
        yield from [Heading('Training'), *training]
    if links := find_pages(workdir):
        yield Heading('Pages beside this one')
        yield Links(links)
    yield Heading('How to make these numbers again')
    yield Table(('what', 'value'), [(k, _plain(v)) for k, v in manifest.items()])


def _evaluation(findings: dict[str, Any], workdir: Path, plots) -> Iterator[Block]:
    studies = findings.get('studies', {})
    yield Text(' '.join(conclude(findings | {'studies': {}})))
    period = f'{findings["first"]} to {findings["last"]}'
    columns = _read_forecasts(findings, workdir) if plots else {}
    shown = [name for name in SHOWN if is_known(findings, name)]
    for h, horizon in enumerate(findings['horizons']):
        yield Heading(f'Horizon {horizon}: {findings["split"]}, {period}, {findings["rows"][h]} rows')
        yield Table(
            ('forecaster', *shown),
            [(name, *(_number(s[k][h]) for k in shown)) for name, s in findings['scores'].items()],
        )
        if findings['unavailable']:
            lines = '; '.join(f'{name} ({reason})' for name, reason in findings['unavailable'].items())
            yield Text(f'Not available: {lines}.')
        differences = {name: d[h] for name, d in findings['differences'].items()}
        if differences:
            yield Text(_DIFFERENCES.format(loss=findings['loss']))
            yield Table(
                ('baseline', 'difference', 'low', 'high', 'p', 'p (NW)', 'the model is', 'R2', 'low', 'high'),
                [
                    (
                        n,
                        *(_number(d[k]) for k in ('mean', 'low', 'high', 'p', 'p_newey_west')),
                        d['model'],
                        *(_number(d.get(k, np.nan)) for k in ('r2', 'r2_low', 'r2_high')),
                    )
                    for n, d in differences.items()
                ],
            )
            if any(np.isnan(d['low']) for d in differences.values()):
                yield Text('The rows are too few for an interval, so nothing is told apart.')
        if plots:
            if differences:
                yield Figure('Differences to the baselines', plots.plot_differences(differences, findings['loss']))
            yield Figure('Forecast against truth', _forecast_figure(findings, columns, h, plots))
    mean = lambda scores, level: float(np.mean(scores[f'coverage_{level * 100:.0f}']))
    coverage = {n: {lv: mean(s, lv) for lv in LEVELS_OF_COVERAGE} for n, s in findings['scores'].items()}
    yield Heading('Calibration')
    yield Text(
        f'Point forecasts carry the errors that they made on the {findings["dressed_with"]} split. '
        'Flat bars and points on the diagonal are calibrated.'
    )
    if plots:
        yield Figure('Calibration', plots.plot_calibration(findings['calibration'], coverage))
    for name, study in studies.items():
        yield from _study(name, study, plots)


def _study(name: str, study: dict[str, Any], plots) -> Iterator[Block]:
    yield Heading(name[:1].upper() + name[1:])
    if study['sentences']:
        yield Text(' '.join(study['sentences']))
    for title, lines in study['tables'].items():
        yield Text(f'{title}:')
        head = list(lines[0]) if lines else []
        yield Table(head, [[_cell(line[k]) for k in head] for line in lines])
    if plots:
        for chart in study['charts']:
            yield Figure(chart['title'], plots.plot_chart(Chart(**chart)))


def _forecast_figure(findings: dict[str, Any], columns: dict[str, np.ndarray], h: int, plots) -> bytes:
    """The last rows of a horizon. columns: those of the table of forecasts."""
    here = columns['horizon'] == findings['horizons'][h]
    forecasts = {}
    for name in findings['scores']:
        mine = np.flatnonzero(here & (columns['model'] == name))[-MOST_DRAWN:]
        forecasts[name] = {n: columns[n][mine] for n in ('time', 'point', 'q10', 'q90', 'target') if n in columns}
    first = next(iter(forecasts.values()))
    return plots.plot_forecast(first['time'], first['target'], forecasts)


def _read_forecasts(findings: dict[str, Any], workdir: Path) -> dict[str, np.ndarray]:
    table = pq.read_table(workdir / 'forecasts' / f'{findings["split"]}.parquet')
    columns = {n: table[n].to_numpy() for n in table.column_names}
    return columns | {n: columns[n].astype(str) for n in ('horizon', 'model')}


def describe_training(workdir: Path, plots) -> Iterator[Block]:
    """What metrics.jsonl holds: speed, and curves where there is matplotlib. Nothing of a run without one."""
    path = workdir / 'metrics.jsonl'
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    if not lines:
        return
    steps = [line for line in lines if 'step_s' in line]
    if steps:
        yield Text(
            f'{steps[-1]["step"]} updates, {np.median([s["step_s"] for s in steps]):.3g} s each (median), '
            f'{np.median([s["data_wait"] for s in steps]):.2%} of it waiting for data, '
            f'{steps[-1]["compiles"]} programs compiled, {steps[-1]["skipped"]:.0f} updates skipped.'
        )
    if plots:
        yield Figure('Training', plots.plot_training(lines))


def to_markdown(blocks: Sequence[Block], folder: str = 'report') -> str:
    """folder: of the figures."""
    out, level, figures = [], '#', 0
    for block in blocks:
        match block:
            case Heading(text):
                out.append(f'{level} {text}')
                level = '##'
            case Text(text):
                out.append(text)
            case Table(head, rows):
                lines = [head, ['---'] * len(head), *rows]
                out.append('\n'.join('| ' + ' | '.join(c.replace('|', '\\|') for c in line) + ' |' for line in lines))
            case Figure(title, _):
                out.append(f'![{title}]({folder}/{figures}.png)')
                figures += 1
            case Links(links):
                out.append('\n'.join(f'- [{link.text}]({link.address})' for link in links))
    return '\n\n'.join(out) + '\n'


def to_html(blocks: Sequence[Block]) -> str:
    out, level = [], 1
    for block in blocks:
        match block:
            case Heading(text):
                out.append(f'<h{level}>{html.escape(text)}</h{level}>')
                level = 2
            case Text(text):
                out.append(f'<p>{html.escape(text).replace("**", "")}</p>')
            case Table(head, rows):
                row = lambda cells, tag: ''.join(f'<{tag}>{html.escape(c)}</{tag}>' for c in cells)
                body = ''.join(f'<tr>{row(r, "td")}</tr>' for r in rows)
                out.append(f'<table><tr>{row(head, "th")}</tr>{body}</table>')
            case Figure(title, png):
                data = base64.b64encode(png).decode()
                out.append(f'<img alt="{html.escape(title)}" src="data:image/png;base64,{data}">')
            case Links(links):
                items = (f'<li><a href="{html.escape(a)}">{html.escape(t)}</a></li>' for t, a in links)
                out.append(f'<ul>{"".join(items)}</ul>')
    return _PAGE.format(title=html.escape(blocks[0].text), body='\n'.join(out))


_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #202020 }}
table {{ border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums }}
table {{ display: block; overflow-x: auto }}
th, td {{ padding: .25rem .6rem; border-bottom: 1px solid #ddd; text-align: left }}
img {{ max-width: 100% }}
</style>
{body}
</html>
"""


def find_plots():
    """The plotting module, or None without matplotlib."""
    if importlib.util.find_spec('matplotlib') is None:
        return None
    from fjq import plots

    return plots


def _with_nan(value: Any) -> Any:
    """What JSON can not hold is null there and NaN here."""
    if isinstance(value, dict):
        return {k: _with_nan(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_with_nan(v) for v in value]
    return np.nan if value is None else value


def _number(value: float) -> str:
    """Four decimals, or four figures of what is smaller: returns of a bar are of the order of 1e-4."""
    if np.isnan(value):
        return '–'
    return f'{value:.4f}' if value == 0 or abs(value) >= 0.01 else f'{value:.3e}'


def _cell(value: Any) -> str:
    return _number(value) if isinstance(value, float) else _plain(value)


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)
