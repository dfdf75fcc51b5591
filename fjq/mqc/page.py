"""One page of the micro quant chat: all stages beside the chains and baselines, the data, the tokenizer, the curves,
the paths, and how long each of them took. It is put together from the files of the runs, and of the candles."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from fjq.data.candles.files import digest
from fjq.data.tokens.data import TokenData
from fjq.errors import InputError
from fjq.jobs.tokenize import name_parts
from fjq.lineage import Link, find_address, find_cards, find_line
from fjq.log import say
from fjq.mqc.times import describe_times
from fjq.report import Block, Figure, Heading, Links, Table, Text, describe_training, find_plots, write_blocks
from fjq.run import cache_folder, read_config

PAGE = 'stages'
PARTS = ('train', 'valid', 'test')
_SHOWN = {'CRPS': 'crps', '80 % covers': 'coverage_80'}  # of each horizon


def write_page(workdir: Path, folder: Path | None = None) -> tuple[Path, Path]:
    """Writes stages.md and stages.html of the line of runs that `workdir` is of to `folder`; None = `workdir`.

    Raises:
      InputError: the folder holds no run.
    """
    folder = Path(folder or workdir).resolve()
    return write_blocks(list(collect(Path(workdir).resolve(), folder)), folder / PAGE)


def report_stages(run: Path) -> None:
    """Writes the page where the run is a stage, and says where it is."""
    if isinstance(read_config(run).data, TokenData):
        for page in write_page(run):
            say(page)


def collect(workdir: Path, folder: Path) -> Iterator[Block]:
    """The blocks of the page; addresses are relative to `folder`."""
    read_config(workdir)  # says so where there is no run
    stages, cards, plots = list(find_line(workdir)), find_cards(workdir)[:1], find_plots()
    of_tokenizer = [run for card in cards if ((run := card.parent.parent) / 'manifest.json').is_file()]
    runs = list(dict.fromkeys([*of_tokenizer, *stages]))
    evaluated = {run.name: _read(run / 'evaluation.json') for run in stages if (run / 'evaluation.json').is_file()}
    yield Heading(f'{", ".join(_read_assets(workdir))}: the stages of a micro quant chat')
    if evaluated:
        yield from compare_stages(evaluated)
    else:
        yield Text('No stage is evaluated yet: run mqc evaluate.')
    yield Heading('Data')
    yield from describe_data(workdir)
    yield Heading('Tokenizer')
    for card in cards:
        yield from read_markdown(card.read_text())
    if not cards:
        yield Text('It has no card yet: run mqc tokenize.')
    for run in runs:
        if training := list(describe_training(run, plots)):
            yield from [Heading(f'Training: {run.name}'), *training]
    for run in reversed(stages):
        if fans := sorted((run / 'generated').glob('*.png')):
            yield Heading(f'Paths of {run.name}')
            yield from (Figure(f'{fan.stem}, as {run.name} goes on', fan.read_bytes()) for fan in fans)
            break
    yield Heading('Wall time')
    yield Table(('run', 'job', 'wall time', 'in updates'), [line for run in runs for line in describe_times(run)])
    yield Heading('Environment')
    yield Table(('run', 'device', 'commit', 'seed', 'versions'), [describe_environment(run) for run in runs])
    yield Heading('Pages beside this one')
    pages = [(f'{run.name}: its own page', run / 'report.html') for run in stages]
    pages += [(f'{run.name}: paths and their quantiles as tables', run / 'generated') for run in stages]
    pages += [('the card of the tokenizer', card) for card in cards]
    yield Links([Link(name, find_address(page, folder)) for name, page in pages if page.exists()])


def compare_stages(runs: dict[str, dict[str, Any]]) -> Iterator[Block]:
    """The stages, Markov chains and baselines in one table; each stage beside the best of them; and what it shows.

    runs: the findings of each stage. Those of the last one have the chains and baselines.
    """
    last = list(runs.values())[-1]
    horizons = last['horizons']
    yield Text(f'The {last["split"]} span, {last["first"]} to {last["last"]}.')
    other = [n for n, f in runs.items() if any(f[k] != last[k] for k in ('split', 'first', 'last', 'rows'))]
    if other:
        yield Text(f'**Not on the same rows: {", ".join(other)}. Their figures can not be compared with the others.**')
    lines = [_line(name, next(iter(_token_lines(f)), None), f['scores'][f['name']], f) for name, f in runs.items()]
    lines += [_line(chain['forecaster'], chain, None, last) for chain in _token_lines(last)[1:]]
    lines += [_line(name, None, s, last) for name, s in last['scores'].items() if name != last['name']]
    figures = [(name, k, h) for name, k in _SHOWN.items() for h in horizons]
    head = ('', 'bits a token', 'low', 'high', *(f'{name} {h}' for name, _, h in figures))
    yield Table(head, [[*start, *(cells.get((k, h), '') for _, k, h in figures)] for start, cells in lines])
    yield Text('Of the other minus of the stage, so that above 0 the stage is better; who is best is picked here.')
    yield Table(
        ('stage', 'of', 'beside', 'difference', 'low', 'high', 'p (Diebold-Mariano)', 'the stage is'),
        [line for name, findings in runs.items() for line in _beside_the_best(name, findings)],
    )
    for name, findings in runs.items():
        sentences = [s for study in findings.get('studies', {}).values() for s in study['sentences']]
        if sentences:
            yield Text(f'{name}: {" ".join(sentences)}')


def _line(name: str, tokens: dict | None, scores: dict | None, findings: dict) -> tuple[list[str], dict]:
    """(name and bits with their interval; the cell of each figure and horizon)."""
    bits = [_number(tokens[k]) if tokens else '' for k in ('bits', 'low', 'high')]
    keys = _SHOWN.values() if scores else ()
    cells = {(k, h): _number(v) for k in keys for h, v in zip(findings['horizons'], scores[k], strict=True)}
    return [name, *bits], cells


def _beside_the_best(stage: str, findings: dict) -> Iterator[list[str]]:
    """A stage beside the best Markov chain of the next token, and the best baseline of each horizon."""
    if chains := [d for table in _token_tables(findings) for d in table if 'against' in d]:
        best = min(chains, key=lambda d: d['saved'])
        yield _difference(stage, 'bits a token', best['against'], best, best['saved'], best['the model is'])
    for h, horizon in enumerate(findings['horizons']):
        known = {n: d[h] for n, d in findings['differences'].items() if d[h]['mean'] is not None}
        if known:
            name = min(known, key=lambda n: known[n]['mean'])
            d = known[name]
            yield _difference(stage, f'{findings["loss"]} {horizon}', name, d, d['mean'], d['model'])


def _difference(stage: str, of: str, name: str, d: dict, mean: float, verdict: str) -> list[str]:
    figures = ['' if v is None else f'{v:.4g}' for v in (mean, d['low'], d['high'], d.get('p'))]
    return [stage, of, name, *figures, verdict]


def _token_tables(findings: dict) -> list[list[dict]]:
    return list(findings.get('studies', {}).get('tokens', {}).get('tables', {}).values())


def _token_lines(findings: dict) -> list[dict]:
    """A line each of the model and the Markov chains."""
    return next(iter(_token_tables(findings)), [])


def describe_data(workdir: Path) -> Iterator[Block]:
    """The assets, what was found in their files, and the cut by time, from the candles as they are now."""
    config = read_config(workdir)
    data = config.data.locate(cache_folder(config, workdir), config.parallel)
    try:
        candles = data.candle_files().read(config.parallel)
        parts = name_parts(config, candles)
    except InputError as e:
        yield Text(f'The candles can not be read now: {e}')
        return
    day = lambda time: str(time.astype('datetime64[D]'))
    yield Table(
        ('asset', 'candles', 'first', 'last', *PARTS, f'faults ({data.quality})'),
        [
            (
                c.id,
                f'{len(c)}',
                day(c.time[0]),
                day(c.time[-1]),
                *(f'{(p == n).sum()}' for n in PARTS),
                c.describe_faults(),
            )
            for c, p in zip(candles, parts, strict=True)
        ],
    )
    time, part, split = np.concatenate([c.time for c in candles]), np.concatenate(parts), data.split
    spans = [f'{n} {day(time[part == n].min())} to {day(time[part == n].max())}' for n in PARTS if (part == n).any()]
    between = f'purged by {split.purge_days:g} days, with an embargo of {split.embargo_days:g}'
    yield Text(f'One cut for all assets: {", ".join(spans)}; {between}.')
    trained = _read(workdir / 'manifest.json')['data']
    if trained['candles'] != digest([c for c in candles if c.id in trained['assets']]):
        yield Text(f'**These are not the candles that {workdir.name} was trained with: the files have changed since.**')


def read_markdown(text: str) -> Iterator[Block]:
    """The tables and paragraphs of a page such as `fjq.tokenizers.card` writes; its title as a paragraph."""
    for part in text.strip().split('\n\n'):
        lines = part.split('\n')
        if lines[0].startswith('|'):
            head, _, *rows = ([cell.strip() for cell in line.strip('|').split('|')] for line in lines)
            yield Table(head, rows)
        else:
            yield Text(' '.join(lines).lstrip('# ').replace('`', ''))


def describe_environment(run: Path) -> tuple[str, str, str, str, str]:
    m = _read(run / 'manifest.json')
    versions = {'python': m['python']} | m['versions']
    return run.name, m['device'], m['commit'], str(m['seed']), ', '.join(f'{k} {v}' for k, v in versions.items())


def _read_assets(workdir: Path) -> list[str]:
    return _read(workdir / 'manifest.json')['data'].get('assets', [workdir.name])


def _read(path: Path) -> Any:
    return json.loads(path.read_text())


def _number(value: float | None) -> str:
    return '' if value is None else f'{value:.4f}'
