"""The whole micro quant chat in one folder: a learned tokenizer, four stages, evaluation, paths, reports, one page."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from fjq.config import nearest
from fjq.data.candles.files import CandleFiles, Candles
from fjq.data.synthetic import scaled, simulate
from fjq.errors import InputError
from fjq.log import say
from fjq.mqc.launches import launch
from fjq.mqc.page import compare_stages, write_page
from fjq.mqc.translate import STAGES, find_config, open_data
from fjq.parallel import Parallel
from fjq.report import to_markdown

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


def quickstart(csv: str, asset: str, out: str, seed: str, fresh: bool = False) -> int:
    """Runs everything. The same command goes on from where it was interrupted.

    Args:
      csv: a folder of candles; '' = a market is simulated.
      asset: whose market stages 2 to 4 are about; '' = the first.
      fresh: train anew instead of going on.
    """
    root = Path(out or 'runs/mqc')
    folder = Path(csv) if csv else make_market(root)
    candles = CandleFiles(path=str(folder), quality='repair').read(Parallel())
    by_name = {c.id: c for c in candles}
    asset = pick_asset(asset, list(by_name))
    say(f'stages 2 to 4 are about {asset}; all stages are judged on it')
    data = {'data.path': folder, 'data.quality': 'repair', **split_times(by_name[asset], candles)}
    check_rows(root, asset, data)
    code = launch(plan(root, asset, data, seed, fresh))
    if code == 0:
        findings = {stage: json.loads((root / stage / 'evaluation.json').read_text()) for stage in STAGES}
        say(to_markdown(list(compare_stages(findings))))
        for page in write_page(root / STAGES[-1], root):
            say(page)
        say(f'all assets together: mqc evaluate --run {root / "pretrain"}')
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


def split_times(asset: Candles, candles: list[Candles]) -> dict[str, Any]:
    """Fields of the split: one cut for all assets, at shares of the time that the asset spans: the others' may end
    before its first candle. The embargo is a context where the asset is long enough to spare it."""
    first, last = asset.time[0], asset.time[-1]
    ends = [str((first + (last - first) * share).astype('datetime64[D]')) for share in (TRAINED, VALIDATED)]
    day = np.timedelta64(1, 'D')
    context = CONTEXT * max(float(np.ptp(c.time) / day) / max(len(c) - 1, 1) for c in candles)
    spared = round(context) if (last - first) / day > 20 * context else 0
    return dict(zip(('data.split.train_end', 'data.split.valid_end'), ends, strict=True)) | {
        'data.split.embargo_days': spared
    }


def check_rows(root: Path, asset: str, data: dict[str, Any]) -> None:
    """Opens the stage with the fewest rows: each says where it has none, but only once those before it are trained.
    Quantile bins stand for the codes, which are not there yet.

    Raises:
      InputError: the asset is too short.
    """
    try:
        open_data(find_config('sft'), flags(STAGE_FIELDS | data | {'data.assets': (asset,)}), str(root))
    except InputError as e:
        remedy = 'name an asset with more candles by --asset, or give longer files'
        raise InputError(f'{asset} can not be trained on: {e.what}', file=data['data.path'], remedy=remedy) from e


def plan(root: Path, asset: str, data: dict[str, Any], seed: str, fresh: bool = False) -> list[list[str]]:
    """The arguments of every `fjq.launch`, in order. data: the fields that the tokenizer and all stages share."""
    data, anew = data | {'seed': seed, 'cache': root / 'cache'}, ['--fresh'] if fresh else []
    tokenizer = {'task.codes': CODES, **length('tokenizer'), **data}
    base = [f'--config={find_config("tokenizer")}', f'--workdir={root / "tokenizer"}']
    out = [[*base, *flags(tokenizer), *anew], [*base, '--job=tokenize', *flags(tokenizer)]]
    shared = STAGE_FIELDS | {'data.tokenizer.path': root / 'tokenizer' / 'tokenizer'} | data
    reports, before = [], None
    for stage in STAGES:
        base = [f'--config={find_config(stage, "learned")}', f'--workdir={root / stage}']
        one = shared | {'data.assets': (asset,)}
        trains = (shared if stage == 'pretrain' else one) | length(stage)
        if before:
            trains['init_from'] = root / before
        out += [[*base, *flags(trains), *anew], [*base, '--job=evaluate', *flags(one)]]
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
