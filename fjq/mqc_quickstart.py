"""The whole micro quant chat in one folder: a learned tokenizer, four stages, evaluation, paths, reports, one table."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from fjq import mqc
from fjq.config import nearest
from fjq.data.candles import CandleFiles, Candles
from fjq.data.synthetic import scaled, simulate
from fjq.errors import InputError
from fjq.log import say
from fjq.parallel import Parallel

DAYS, ASSETS = 1500, 6  # of the simulated market
TRAINED, VALIDATED = 0.7, 0.85  # shares of the time up to the ends of train and valid
CODES, CONTEXT, HORIZONS = 64, 64, (1, 5, 20)
STEPS = {'tokenizer': 1500, 'pretrain': 800, 'midtrain': 150, 'sft': 150, 'rl': 40}
STAGE_FIELDS = {
    'task.gpt.vocabulary': CODES,
    'task.gpt.layers': 2,
    'task.gpt.width': 64,
    'task.gpt.length': 128,
    'task.horizons': HORIZONS,
    'task.paths': 64,
    'data.length': 128,
    'data.context': CONTEXT,
    'data.horizons': HORIZONS,
    'data.eval_stride': 5,
    'data.batch_rows': 16,
    'data.generate.horizon': 20,
}


def quickstart(csv: str, asset: str, out: str, seed: str) -> int:
    """Runs everything. The same command goes on from where it was interrupted.

    Args:
      csv: a folder of candles; '' = a market is simulated.
      asset: whose market stages 2 to 4 are about; '' = the first.
    """
    root = Path(out or 'runs/mqc')
    folder = Path(csv) if csv else make_market(root)
    candles = CandleFiles(path=str(folder), quality='repair').read(Parallel())
    asset = pick_asset(asset, [c.id for c in candles])
    say(f'stages 2 to 4 are about {asset}; all stages are judged on it')
    code = mqc.launch(plan(root, folder, asset, split_times(candles), seed))
    if code == 0:
        page = summarise(root, asset)
        (root / 'stages.md').write_text(page)
        say(page)
        say(f'all assets together: mqc evaluate --run {root / "pretrain"}')
        say(f'each stage has its report.html; paths and fan charts are in {root / "rl" / "generated"}')
    return code


def make_market(root: Path) -> Path:
    """The folder of simulated candles."""
    market = scaled('tiny', what=('daily',), days=DAYS, start='2019-01-02', stocks=ASSETS, daily_symbols=ASSETS)
    return simulate(root / 'market', market, Parallel())['daily']


def pick_asset(name: str, known: list[str]) -> str:
    if not name:
        return known[0]
    if name not in known:
        raise InputError(f'there is no asset {name!r}', file='--asset', remedy=nearest(name, known))
    return name


def split_times(candles: list[Candles]) -> dict[str, Any]:
    """Fields of the split: one cut for all assets, at shares of the time that the data span. The embargo is a context
    where the data are long enough to spare it."""
    first, last = min(c.time[0] for c in candles), max(c.time[-1] for c in candles)
    ends = [str((first + (last - first) * share).astype('datetime64[D]')) for share in (TRAINED, VALIDATED)]
    day = np.timedelta64(1, 'D')
    context = CONTEXT * max(float(np.ptp(c.time) / day) / max(len(c) - 1, 1) for c in candles)
    spared = round(context) if (last - first) / day > 20 * context else 0
    return dict(zip(('data.split.train_end', 'data.split.valid_end'), ends, strict=True)) | {
        'data.split.embargo_days': spared
    }


def plan(root: Path, folder: Path, asset: str, split: dict[str, Any], seed: str) -> list[list[str]]:
    """The arguments of every `fjq.launch`, in order."""
    data = {'data.path': folder, 'data.quality': 'repair', 'seed': seed, 'cache': root / 'cache', **split}
    tokenizer = {'task.codes': CODES, **length('tokenizer'), **data}
    base = [f'--config={mqc.find_config("tokenizer")}', f'--workdir={root / "tokenizer"}']
    out = [[*base, *flags(tokenizer)], [*base, '--job=tokenize', *flags(tokenizer)]]
    shared = STAGE_FIELDS | {'data.tokenizer.path': root / 'tokenizer' / 'tokenizer'} | data
    reports, before = [], None
    for stage in mqc.STAGES:
        base = [f'--config={mqc.find_config(stage, "learned")}', f'--workdir={root / stage}']
        one = shared | {'data.assets': (asset,)}
        trains = (shared if stage == 'pretrain' else one) | length(stage)
        if before:
            trains['init_from'] = root / before
        out += [[*base, *flags(trains)], [*base, '--job=evaluate', *flags(one)]]
        reports.append([*base, '--job=report'])
        before = stage
    return [*out, [*base, '--job=generate', *flags(one)], *reports]


def length(run: str) -> dict[str, int]:
    """Updates of a run, a tenth of them to warm up."""
    return {'train.steps': STEPS[run], 'optim.warmup_steps': STEPS[run] // 10}


def flags(fields: dict[str, Any]) -> list[str]:
    return [
        f'--config.{name}={value!r}' if isinstance(value, tuple) else f'--config.{name}={value}'
        for name, value in fields.items()
    ]


def summarise(root: Path, asset: str) -> str:
    """A table of the stages beside the Markov chains and baselines, all on the same tokens and rows."""
    runs = {stage: json.loads((root / stage / 'evaluation.json').read_text()) for stage in mqc.STAGES}
    lines = [f'# {asset}, test span', '']
    horizons = runs['rl']['horizons']
    head = [
        '',
        'bits a token',
        'low',
        'high',
        *(f'CRPS {h}' for h in horizons),
        *(f'80 % covers {h}' for h in horizons),
    ]
    lines += ['| ' + ' | '.join(head) + ' |', '|' + ' --- |' * len(head)]
    for stage, findings in runs.items():
        lines.append(_row(stage, _token_line(findings, 0), findings['scores'][findings['name']]))
    last = runs['rl']
    for i in range(1, len(_token_lines(last))):
        line = _token_line(last, i)
        lines.append(_row(line['forecaster'], line, None, len(horizons)))
    lines += [_row(name, None, s) for name, s in last['scores'].items() if name != last['name']]
    lines += ['', *_beside_the_best(runs)]
    for stage, findings in runs.items():
        sentences = [s for study in findings.get('studies', {}).values() for s in study['sentences']]
        lines += ['', f'[{stage}]({stage}/report.html): {" ".join(sentences)}'.strip()]
    if (root / 'tokenizer' / 'tokenizer' / 'card.md').is_file():
        lines += ['', '[The card of the tokenizer](tokenizer/tokenizer/card.md)']
    return '\n'.join(lines) + '\n'


def _beside_the_best(runs: dict[str, dict]) -> list[str]:
    """A table: each stage beside the best Markov chain of the next token, and the best baseline of each horizon."""
    loss = runs['rl']['loss']
    head = 'stage', 'of', 'beside', 'difference', 'low', 'high', 'p (Diebold-Mariano)', 'the stage is'
    lines = ['| ' + ' | '.join(head) + ' |', '|' + ' --- |' * len(head)]
    for stage, findings in runs.items():
        if chains := [d for table in _token_tables(findings) for d in table if 'against' in d]:
            best = min(chains, key=lambda d: d['saved'])
            lines.append(_difference(stage, 'bits a token', best['against'], best, best['saved'], best['the model is']))
        for h, horizon in enumerate(findings['horizons']):
            known = {n: d[h] for n, d in findings['differences'].items() if d[h]['mean'] is not None}
            if known:
                name = min(known, key=lambda n: known[n]['mean'])
                d = known[name]
                lines.append(_difference(stage, f'{loss} {horizon}', name, d, d['mean'], d['model']))
    return [
        'Of the other minus of the stage, so that above 0 the stage is better; who is best is picked here.',
        '',
        *lines,
    ]


def _difference(stage: str, of: str, name: str, d: dict, mean: float, verdict: str) -> str:
    figures = ['' if v is None else f'{v:.4g}' for v in (mean, d['low'], d['high'], d.get('p'))]
    return '| ' + ' | '.join((stage, of, name, *figures, verdict)) + ' |'


def _token_tables(findings: dict) -> list[list[dict]]:
    return list(findings.get('studies', {}).get('tokens', {}).get('tables', {}).values())


def _token_lines(findings: dict) -> list[dict]:
    """A line each of the model and the Markov chains."""
    return next(iter(_token_tables(findings)), [])


def _token_line(findings: dict, place: int) -> dict | None:
    lines = _token_lines(findings)
    return lines[place] if place < len(lines) else None


def _row(name: str, tokens: dict | None, scores: dict | None, horizons: int = 0) -> str:
    bits = [tokens[k] for k in ('bits', 'low', 'high')] if tokens else [None] * 3
    rest = [*scores['crps'], *scores['coverage_80']] if scores else [None] * 2 * horizons
    return f'| {name} | ' + ' | '.join('' if v is None else f'{v:.4f}' for v in (*bits, *rest)) + ' |'
