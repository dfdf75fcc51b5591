"""The page of a run: a losing model is said to lose, figures are inside, and what is missing is named."""

import base64
import json
import re
import struct
import zlib

import numpy as np
import pyarrow as pa
import pytest

from fjq import plots, report
from fjq.config import Experiment, to_json
from fjq.errors import InputError
from fjq.evaluate import conclude, write
from fjq.report import Figure, Heading, Table, Text, to_html, to_markdown, write_report

NAMES = ('model <1>', 'log|har')


def findings(verdict='worse', low=-0.5, high=-0.1, horizons=('30', '5')):
    count = len(horizons)
    figures = {n: [0.25 + i / 100] * count for i, n in enumerate(report.SHOWN)}
    difference = {'mean': -0.3, 'low': low, 'high': high, 'dm': -2.0, 'p': 0.01, 'p_newey_west': 0.02, 'model': verdict}
    return {
        'name': NAMES[0],
        'split': 'test',
        'dressed_with': 'valid',
        'first': '2023-01-02',
        'last': '2023-03-31',
        'horizons': list(horizons),
        'rows': [60] * count,
        'independent': [20.0] * count,
        'scores': {n: figures for n in NAMES},
        'unavailable': {'garch': 'it has too few returns'},
        'loss': 'qlike',
        'differences': {NAMES[1]: [difference] * count},
        'calibration': {n: {'pit': [0.1] * 10} for n in NAMES},
    }


def forecasts(horizons=(30, 5), days=12):
    time = np.datetime64('2023-01-02') + np.arange(days)
    parts = []
    for n, name in enumerate(NAMES):
        size = len(horizons) * days
        parts.append(
            pa.table(
                {
                    'model': [name] * size,
                    'id': ['X'] * size,
                    'time': np.repeat(time, len(horizons)),
                    'horizon': np.tile(horizons, days),
                    'mean': np.zeros(size),
                    'point': np.tile(horizons, days) + n / 10,
                    'q10': np.zeros(size),
                    'q90': np.ones(size),
                    'target': np.tile(horizons, days) * 100.0,
                }
            )
        )
    return pa.concat_tables(parts)


@pytest.fixture
def run(tmp_path):
    (tmp_path / 'config.json').write_text(to_json(Experiment(name='a <b> run', task=None, data=None)))
    (tmp_path / 'manifest.json').write_text(json.dumps({'commit': 'abc1234', 'versions': {'jax': '0.0'}}))
    lines = [{'step': i, 'loss': 1 / i, 'learning_rate': 0.1, 'step_s': 0.25, 'data_wait': 0.004} for i in range(1, 9)]
    lines = [line | {'compiles': 2, 'skipped': 3} for line in lines] + [{'step': 8, 'valid/loss': None, 'loss': None}]
    (tmp_path / 'metrics.jsonl').write_text(''.join(json.dumps(line) + '\n' for line in lines))
    return tmp_path


@pytest.fixture
def evaluated(run):
    write(findings(), forecasts(), run)
    return run


def png_size(png):
    """Width and height; every chunk's checksum is right."""
    assert png[:8] == b'\x89PNG\r\n\x1a\n'
    place = 8
    while place < len(png):
        (length,) = struct.unpack('>I', png[place : place + 4])
        body = png[place + 4 : place + 8 + length]
        assert zlib.crc32(body) == struct.unpack('>I', png[place + 8 + length : place + 12 + length])[0]
        place += 12 + length
    return struct.unpack('>II', png[16:24])


def test_a_model_that_loses_is_said_to_lose(evaluated):
    markdown, page = (p.read_text() for p in write_report(evaluated))
    sentence = conclude(findings())[0]
    assert 'loses to log|har' in sentence
    assert markdown.split('\n\n')[1].startswith(sentence)  # the first thing under the title
    assert 'by qlike, model &lt;1&gt; loses to log|har' in page
    assert '| log\\|har | -0.3000 | -0.5000 | -0.1000 | 0.0100 | 0.0200 | worse |' in markdown
    assert 'beats' not in markdown


def test_the_page_holds_its_figures(evaluated):
    markdown, page = (p.read_text() for p in write_report(evaluated))
    images = re.findall(r'<img alt="([^"]+)" src="data:image/png;base64,([^"]+)">', page)
    names = [name for name, _ in images]
    one = ['Differences to the baselines', 'Forecast against truth']
    assert names == [*one, *one, 'Calibration', 'Training']
    for i, (name, data) in enumerate(images):
        png = base64.b64decode(data, validate=True)
        width, height = png_size(png)
        assert width > 500 and height > 100
        assert (evaluated / 'report' / f'{i}.png').read_bytes() == png
        assert f'![{name}](report/{i}.png)' in markdown
    assert 'src="http' not in page and '<script' not in page


def test_each_horizon_shows_its_own_forecasts(evaluated, monkeypatch):
    seen = []
    monkeypatch.setattr(plots, 'plot_forecast', lambda time, target, f: seen.append((time, target, f)) or b'')
    list(report.collect(evaluated))
    for horizon, (time, target, f) in zip((30, 5), seen, strict=True):
        assert len(time) == 12 and (target == 100 * horizon).all() and list(f) == list(NAMES)
        assert (f[NAMES[0]]['point'] == horizon).all() and (f[NAMES[1]]['point'] == horizon + 0.1).all()


def test_what_was_not_available_and_how_it_was_made_are_there(evaluated):
    markdown, page = (p.read_text() for p in write_report(evaluated))
    assert 'Not available: garch (it has too few returns).' in markdown
    assert 'errors that they made on the valid split' in markdown
    assert '8 updates, 0.25 s each (median), 0.40% of it waiting for data, 2 programs compiled' in markdown
    assert '3 updates skipped' in markdown
    assert '| commit | abc1234 |' in markdown and '<td>abc1234</td>' in page
    assert '<title>a &lt;b&gt; run</title>' in page and '<1>' not in page


def test_an_interval_without_ends_is_no_number(run):
    write(findings('not told apart', -np.inf, np.inf), forecasts(), run)
    markdown, _ = (p.read_text() for p in write_report(run))
    assert '| log\\|har | -0.3000 | – | – | 0.0100 |' in markdown
    assert 'too few for an interval' in markdown and 'nan' not in markdown.lower() and 'inf ' not in markdown


def test_a_run_that_was_not_evaluated_says_so(run):
    markdown, page = (p.read_text() for p in write_report(run))
    assert 'Not evaluated yet: run --job=evaluate.' in markdown
    assert page.count('<img') == 1


def test_a_run_that_failed_says_so(run):
    (run / 'failure.json').write_text(json.dumps({'step': 7, 'why': 'coverage_80 fell'}))
    markdown, page = (p.read_text() for p in write_report(run))
    assert '**The run ended at step 7: coverage_80 fell.**' in markdown
    assert '<p>The run ended at step 7' in page


def test_without_matplotlib_the_tables_remain(evaluated, monkeypatch):
    monkeypatch.setattr(report, 'find_plots', lambda: None)
    markdown, page = (p.read_text() for p in write_report(evaluated))
    assert '<img' not in page and '![' not in markdown and page.count('<table>') == 5


def test_no_run_is_named(tmp_path):
    with pytest.raises(InputError, match='no run here'):
        write_report(tmp_path)


def test_blocks_in_both_forms():
    blocks = [Heading('A'), Text('x < y'), Heading('B'), Table(('a', 'b'), [('1|2', '<')]), Figure('F', b'png')]
    assert (
        to_markdown(blocks) == '# A\n\nx < y\n\n## B\n\n| a | b |\n| --- | --- |\n| 1\\|2 | < |\n\n![F](report/0.png)\n'
    )
    page = to_html(blocks)
    for part in (
        '<h1>A</h1>',
        '<p>x &lt; y</p>',
        '<h2>B</h2>',
        '<table><tr><th>a</th><th>b</th></tr><tr><td>1|2</td><td>&lt;</td></tr></table>',
        f'src="data:image/png;base64,{base64.b64encode(b"png").decode()}"',
    ):
        assert part in page


def test_the_same_run_gives_the_same_page(evaluated):
    first = [p.read_bytes() for p in write_report(evaluated)]
    assert [p.read_bytes() for p in write_report(evaluated)] == first


def test_the_interval_of_a_losing_model_is_drawn_left_of_zero_in_red(monkeypatch):
    drawn = []
    real = plots._png
    monkeypatch.setattr(plots, '_png', lambda figure: drawn.append(figure) or real(figure))
    better = {'mean': 0.3, 'low': 0.1, 'high': 0.5}
    unknown = {'mean': 0.3, 'low': np.nan, 'high': np.nan}
    worse = {'mean': -0.3, 'low': -0.5, 'high': -0.1}
    plots.plot_differences({'a': better, 'b': worse, 'c': unknown}, 'qlike')
    lines = [line for line in drawn[0].axes[0].lines if len(line.get_xdata()) == 2]
    colors = {tuple(line.get_xdata()): line.get_color() for line in lines}
    assert colors[0.1, 0.5] == plots.MODEL and colors[-0.5, -0.1] not in (plots.MODEL, plots.BASELINE)
    assert [t.get_text() for t in drawn[0].axes[0].get_yticklabels()] == ['a', 'b', 'c']


def test_an_interval_that_no_level_gives_is_left_out(evaluated):
    write(findings(), forecasts().drop_columns(['q90']), evaluated)
    assert write_report(evaluated)[1].read_text().count('<img') == 6


@pytest.mark.parametrize(('loss', 'scale'), [(0.5, 'log'), (-0.5, 'linear')])
def test_a_loss_below_zero_has_a_scale_too(loss, scale, monkeypatch):
    drawn = []
    monkeypatch.setattr(plots, '_png', drawn.append)
    plots.plot_training([{'step': 1, 'loss': 2.0}, {'step': 2, 'loss': loss, 'valid/loss': 1.0}])
    assert drawn[0].axes[0].get_yscale() == scale


def test_studies_are_shown(run):
    chart = {'title': 'Reliability', 'x': [0.1, 0.9], 'lines': {'a': [0.2, 0.8], 'b': [None, 1.0], 'c': [0.1, 0.1]}}
    chart |= {'xlabel': 'level', 'ylabel': 'share', 'bands': [['a', 'b']], 'diagonal': True}
    times = {'title': 'Equity', 'x': ['2023-01-02', '2023-01-03'], 'lines': {'up': [0.0, 1.0]}}
    times |= {'xlabel': '', 'ylabel': '', 'bands': [], 'diagonal': False}
    lines = [{'forecaster': 'x|y', 'rows': 12, 'share': 0.25, 'small': 1.5e-4, 'absent': np.nan}]
    study = {'tables': {'By hour': lines}, 'sentences': ['No edge after costs.'], 'charts': [chart, times]}
    write(findings() | {'studies': {'backtest': study}}, forecasts(), run)
    markdown, page = (p.read_text() for p in write_report(run))
    assert '## Backtest\n\nNo edge after costs.\n\nBy hour:\n\n' in markdown
    assert r'| x\|y | 12 | 0.2500 | 1.500e-04 | – |' in markdown
    assert markdown.count('No edge after costs.') == 1
    assert '![Reliability](report/' in markdown and 'alt="Equity"' in page


def test_columns_that_nobody_has_are_left_out(run):
    found = findings()
    for scores in found['scores'].values():
        scores['qlike'] = [np.nan] * 2
    write(found, forecasts(), run)
    markdown, _ = (p.read_text() for p in write_report(run))
    assert 'qlike |' not in markdown and '| forecaster | huber_log1p |' in markdown


def test_a_chart_shades_its_bands(monkeypatch):
    from fjq.studies import Chart

    kept = []
    monkeypatch.setattr(plots, '_png', lambda figure: kept.append(figure) or b'')
    plots.plot_chart(Chart('t', [1, 2], {'q10': [0, 1], 'q50': [1, 2], 'q90': [2, 3]}, bands=[('q10', 'q90')]))
    (axis,) = kept[0].axes
    assert [line.get_label() for line in axis.lines] == ['q50'] and len(axis.collections) == 1
