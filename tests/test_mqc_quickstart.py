"""The plan of a quickstart: one folder, each stage from the one before, one cut by time, and its table."""

import json

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


def test_the_table_holds_every_stage_chain_and_baseline(tmp_path):
    scores = lambda x: {'crps': [x, 2 * x], 'coverage_80': [0.8, 0.7]}
    lines = lambda bits: [
        {'forecaster': n, 'bits': b, 'low': b - 1, 'high': b + 1} for n, b in (('m', bits), ('bigram', 5.0))
    ]
    saved = lambda name, mean: {
        'against': name,
        'saved': mean,
        'low': -0.5,
        'high': 2.5,
        'the model is': 'not told apart',
    }
    gain = lambda mean: {'mean': mean, 'low': None, 'high': None, 'p': 0.03, 'model': 'worse'}
    for i, stage in enumerate(mqc.STAGES):
        (tmp_path / stage).mkdir()
        findings = {
            'loss': 'crps',
            'differences': {'walk': [gain(-0.25), gain(None)], 'constant': [gain(-0.5), gain(0.125)]},
            'name': 'm',
            'horizons': ['1', '5'],
            'scores': {'m': scores(0.1 * i), 'walk': scores(9.0)},
            'studies': {
                'tokens': {
                    'tables': {'t': lines(i + 0.25), 'saves': [saved('uniform', 2.0), saved('bigram', i + 0.5)]},
                    'sentences': [f'said {i}'],
                },
                'coverage': {'tables': {}, 'sentences': [f'covers {i}']},
            },
        }
        (tmp_path / stage / 'evaluation.json').write_text(json.dumps(findings))
    page = mqc_quickstart.summarise(tmp_path, 'A')
    assert '| sft | 2.2500 | 1.2500 | 3.2500 | 0.2000 | 0.4000 | 0.8000 | 0.7000 |' in page
    assert '| bigram | 5.0000 | 4.0000 | 6.0000 |  |  |  |  |' in page and '| walk |  |  |  | 9.0000' in page
    assert all(f'[{stage}]({stage}/report.html): said {i} covers {i}' in page for i, stage in enumerate(mqc.STAGES))
    assert '| pretrain | bits a token | bigram | 0.5 | -0.5 | 2.5 |  | not told apart |' in page
    assert '| rl | bits a token | uniform | 2 | ' in page  # the best of this stage's own evaluation
    assert '| sft | crps 1 | constant | -0.5 |  |  | 0.03 | worse |' in page
    assert '| sft | crps 5 | constant | 0.125 |  |  | 0.03 | worse |' in page
    assert 'card of the tokenizer' not in page
    (tmp_path / 'tokenizer' / 'tokenizer').mkdir(parents=True)
    (tmp_path / 'tokenizer' / 'tokenizer' / 'card.md').write_text('')
    assert '[The card of the tokenizer](tokenizer/tokenizer/card.md)' in mqc_quickstart.summarise(tmp_path, 'A')
    for stage in mqc.STAGES:
        path = tmp_path / stage / 'evaluation.json'
        path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != 'studies'}))
    assert '| rl |  |  |  | 0.3000' in mqc_quickstart.summarise(tmp_path, 'A')


@pytest.mark.slow
def test_a_quickstart_from_nothing_to_the_table_of_stages(tmp_path, monkeypatch):
    for name, steps in (('DAYS', 700), ('ASSETS', 2), ('STEPS', dict.fromkeys(mqc_quickstart.STEPS, 10))):
        monkeypatch.setattr(mqc_quickstart, name, steps)
    assert mqc.main(['quickstart', '--out', str(tmp_path)]) == 0
    for stage in mqc.STAGES:
        assert (tmp_path / stage / 'report.html').stat().st_size > 10_000
        page = (tmp_path / stage / 'report.md').read_text()
        others = [other for other in mqc.STAGES if other != stage]
        assert all(f'microchat_{other}: {other}](../{other}' in page for other in others)
        assert '[the card of the tokenizer](../tokenizer/tokenizer/card.md)' in page
    table = (tmp_path / 'stages.md').read_text().split('\n\n')[1].splitlines()[2:]
    assert [line.split(' | ')[0] for line in table[:4]] == [f'| {stage}' for stage in mqc.STAGES]
    assert all(len(line.split('|')) == len(table[0].split('|')) for line in table) and len(table) > 6
    assert any((tmp_path / 'rl' / 'generated').iterdir())
    assert mqc.main(['report', '--run', str(tmp_path / 'sft')]) == 0, 'by its own config.json'
