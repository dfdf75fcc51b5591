"""The plan of a quickstart: one folder, each stage from the one before, one cut by time, and its page."""

import numpy as np
import pytest

from fjq import mqc, mqc_quickstart
from fjq.data.candles import Candles
from fjq.errors import InputError
from fjq.launch import load_config


def candles(name: str, first: str, days: int) -> Candles:
    price = np.ones(days)
    return Candles(name, np.datetime64(first, 'ns') + np.arange(days) * np.timedelta64(1, 'D'), *[price] * 5)


def test_one_cut_for_all_assets_and_an_embargo_that_the_data_can_spare():
    split = mqc_quickstart.split_times([candles('A', '2000-01-01', 4001), candles('B', '2005-01-01', 100)])
    days = np.datetime64('2000-01-01') + np.arange(3401) * np.timedelta64(1, 'D')
    ends = split['data.split.train_end'], split['data.split.valid_end']
    assert ends == (str(days[2800]), str(days[3400])) and split['data.split.embargo_days'] == mqc_quickstart.CONTEXT
    assert mqc_quickstart.split_times([candles('A', '2000-01-01', 500)])['data.split.embargo_days'] == 0


def test_every_stage_starts_from_the_one_before_and_is_judged_on_the_same_asset(tmp_path):
    split = mqc_quickstart.split_times([candles('A', '2000-01-01', 900)])
    commands = mqc_quickstart.plan(tmp_path, tmp_path / 'csv', 'A', split, '3')
    by_stage = {}
    for words in commands:
        flags = dict(w.removeprefix('--').partition('=')[::2] for w in words)
        file, _, variant = flags['config'].partition(':')
        config = load_config(file, variant)
        for name in flags:
            holder = config
            for part in name.removeprefix('config.').split('.') if name.startswith('config.') else ():
                assert hasattr(holder, part), name
                holder = getattr(holder, part)
        by_stage.setdefault(flags['workdir'].rpartition('/')[2], []).append(flags)
    assert list(by_stage) == ['tokenizer', *mqc.STAGES]
    for before, stage in zip(mqc.STAGES, mqc.STAGES[1:], strict=False):
        assert by_stage[stage][0]['config.init_from'] == str(tmp_path / before)
    assert 'config.data.assets' not in by_stage['pretrain'][0]
    judged = [next(f for f in by_stage[s] if f.get('job') == 'evaluate') for s in mqc.STAGES]
    assert len({f['config.data.assets'] for f in judged}) == len({f['config.data.eval_stride'] for f in judged}) == 1


def test_an_unknown_asset_is_named():
    assert mqc_quickstart.pick_asset('', ['A', 'B']) == 'A'
    with pytest.raises(InputError, match="no asset 'BCT'. Did you mean 'BTC'"):
        mqc_quickstart.pick_asset('BCT', ['BTC', 'ETH'])


@pytest.mark.slow
def test_a_quickstart_from_nothing_to_the_page_of_stages(tmp_path, monkeypatch):
    for name, steps in (('DAYS', 700), ('ASSETS', 2), ('STEPS', dict.fromkeys(mqc_quickstart.STEPS, 10))):
        monkeypatch.setattr(mqc_quickstart, name, steps)
    assert mqc.main(['quickstart', '--out', str(tmp_path)]) == 0
    for stage in mqc.STAGES:
        assert (tmp_path / stage / 'report.html').stat().st_size > 10_000
        page = (tmp_path / stage / 'report.md').read_text()
        others = [other for other in mqc.STAGES if other != stage]
        assert all(f'microchat_{other}: {other}](../{other}' in page for other in others)
        assert '[the card of the tokenizer](../tokenizer/tokenizer/card.md)' in page
    page = (tmp_path / 'stages.md').read_text()
    assert 'Not on the same rows' not in page and 'files have changed' not in page
    table = page.split('\n\n')[2].splitlines()[2:]
    assert [line.split(' | ')[0] for line in table[:4]] == [f'| {stage}' for stage in mqc.STAGES]
    assert all(len(line.split('|')) == len(table[0].split('|')) for line in table) and len(table) > 6
    runs = ['tokenizer', *mqc.STAGES]
    assert all(f'## Training: {run}\n' in page and f'| {run} | train | 0:' in page for run in runs)
    assert '| rl | generate | 0:' in page and '## Paths of rl' in page and '## Data' in page
    assert any((tmp_path / 'rl' / 'generated').iterdir())
    assert mqc.main(['report', '--run', str(tmp_path / 'sft')]) == 0, 'by its own config.json'
    assert (tmp_path / 'sft' / 'stages.html').stat().st_size > 10_000
