"""The page of all stages, put together from the files of runs that are written here."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from fjq.config import to_json
from fjq.data.candles.files import CandleFiles, digest
from fjq.errors import InputError
from fjq.launch import load_config
from fjq.mqc.page import compare_stages, write_page
from fjq.mqc.times import describe_times, record_time
from fjq.mqc.translate import STAGES
from fjq.parallel import Parallel
from fjq.report import to_markdown

PNG = b'\x89PNG not looked into'


def scores(x: float) -> dict:
    return {'crps': [x, 2 * x], 'coverage_80': [0.8, 0.7]}


def gain(mean: float | None) -> dict:
    return {'mean': mean, 'low': None, 'high': None, 'p': 0.03, 'model': 'worse'}


def findings(i: int) -> dict:
    lines = [{'forecaster': n, 'bits': b, 'low': b - 1, 'high': b + 1} for n, b in (('m', i + 0.25), ('bigram', 5.0))]
    saved = [
        {'against': name, 'saved': mean, 'low': -0.5, 'high': 2.5, 'p': 0.125, 'the model is': 'not told apart'}
        for name, mean in (('uniform', 2.0), ('bigram', i + 0.5))
    ]
    return {
        'split': 'test',
        'first': '2024-01-01',
        'last': '2024-05-05',
        'rows': [9, 8],
        'loss': 'crps',
        'differences': {'walk': [gain(-0.25), gain(None)], 'constant': [gain(-0.5), gain(0.125)]},
        'name': 'm',
        'horizons': ['1', '5'],
        'scores': {'m': scores(0.1 * i), 'walk': scores(9.0)},
        'studies': {
            'tokens': {'tables': {'t': lines, 'saves': saved}, 'sentences': [f'said {i}']},
            'coverage': {'tables': {}, 'sentences': [f'covers {i}']},
        },
    }


def test_the_table_holds_every_stage_chain_and_baseline():
    page = to_markdown(list(compare_stages({stage: findings(i) for i, stage in enumerate(STAGES)})))
    assert '| sft | 2.2500 | 1.2500 | 3.2500 | 0.2000 | 0.4000 | 0.8000 | 0.7000 |' in page
    assert '| bigram | 5.0000 | 4.0000 | 6.0000 |  |  |  |  |' in page and '| walk |  |  |  | 9.0000' in page
    assert all(f'{stage}: said {i} covers {i}' in page for i, stage in enumerate(STAGES))
    assert '| pretrain | bits a token | bigram | 0.5 | -0.5 | 2.5 | 0.125 | not told apart |' in page
    assert '| rl | bits a token | uniform | 2 | ' in page  # the best of this stage's own evaluation
    assert '| sft | crps 1 | constant | -0.5 |  |  | 0.03 | worse |' in page
    assert '| sft | crps 5 | constant | 0.125 |  |  | 0.03 | worse |' in page
    assert 'Not on the same rows' not in page


def test_stages_of_other_rows_and_horizons_are_said_to_be():
    other = findings(0) | {'rows': [9, 7], 'horizons': ['1', '8']}
    page = to_markdown(list(compare_stages({'a': other, 'b': findings(1)})))
    assert 'Not on the same rows: a.' in page
    assert '| a | 0.2500 | -0.7500 | 1.2500 | 0.0000 |  | 0.8000 |  |' in page, 'its horizon 8 is no 5'


def test_a_stage_without_a_study_of_tokens():
    plain = {k: v for k, v in findings(3).items() if k != 'studies'}
    assert '| rl |  |  |  | 0.3000' in to_markdown(list(compare_stages({'rl': plain})))


@pytest.fixture
def market(tmp_path):
    """Two assets, one with a price of zero."""
    folder = tmp_path / 'csv'
    folder.mkdir()
    days = np.datetime64('2020-01-01') + np.arange(300)
    for name, fault in (('AAA', 0), ('BBB', 5)):
        price = 10 + np.arange(300) % 7
        open_ = np.where(np.arange(300) == fault, 0, price)
        rows = zip(days, open_, price + 1, price - 1, price, strict=True)
        lines = [','.join(map(str, row)) + ',1' for row in rows]
        (folder / f'{name}.csv').write_text('\n'.join(['Date,Open,High,Low,Close,Volume', *lines]) + '\n')
    return folder


@pytest.fixture
def line(tmp_path, market) -> list[Path]:
    """Two runs, the second from the first, with a tokenizer beside them."""
    candles = CandleFiles(path=str(market), quality='repair').read(Parallel(workers=1))
    runs = [tmp_path / stage for stage in ('pretrain', 'sft')]
    for i, run in enumerate(runs):
        run.mkdir()
        config = load_config('configs/microchat_pretrain.py', 'learned')
        split = dataclasses.replace(config.data.split, train_end='2020-05-01', valid_end='2020-07-01', embargo_days=0)
        changes = {'path': str(market), 'quality': 'repair', 'assets': ('AAA',), 'split': split}
        config.data = dataclasses.replace(config.data, **changes)
        config.data.tokenizer.path = str(tmp_path / 'tokenizer')
        config.parallel = Parallel(workers=1)
        config.init_from = str(runs[0]) if i else ''
        (run / 'config.json').write_text(to_json(config))
        facts = {'device': 'cpu x 1', 'commit': 'abc', 'seed': i, 'python': '3.11', 'versions': {'jax': '0.10'}}
        data = {'candles': digest(candles[:1]), 'assets': ['AAA']}
        (run / 'manifest.json').write_text(json.dumps(facts | {'data': data}))
        steps = [{'step': s, 'loss': 1.0, 'step_s': 2.5, 'data_wait': 0, 'compiles': 1, 'skipped': 0} for s in (20, 40)]
        (run / 'metrics.jsonl').write_text(''.join(json.dumps(s) + '\n' for s in steps))
        (run / 'evaluation.json').write_text(json.dumps(findings(i)))
        (run / 'report.html').write_text('')
    (runs[1] / 'generated').mkdir()
    (runs[1] / 'generated' / 'AAA.png').write_bytes(PNG)
    (tmp_path / 'tokenizer').mkdir()
    (tmp_path / 'tokenizer' / 'card.md').write_text(
        '# Tokenizer vq\n\nHash `1`.\n\n| part | used |\n|---|---|\n| a | 64 |\n'
    )
    record_time(['--config=x', f'--workdir={runs[0]}'], 3700.2)
    record_time(['--config=x', '--job=evaluate', f'--workdir={runs[0]}'], 59.0)
    return runs


@pytest.mark.parametrize('asked', [0, 1])
def test_one_page_holds_everything(line, tmp_path, asked):
    page, html = (p.read_text() for p in write_page(line[asked], tmp_path))
    assert (
        page.startswith('# AAA: the stages of a micro quant chat') and 'The test span, 2024-01-01 to 2024-05-05' in page
    )
    assert '| pretrain | 0.2500 |' in page and '| sft | 1.2500 |' in page
    assert '| AAA | 300 | 2020-01-01 | 2020-10-26 | 122 | ' in page and '1 x price |' in page
    assert '| BBB | 300 |' in page and 'train 2020-01-01 to 2020-05-01' in page and 'files have changed' not in page
    assert 'Tokenizer vq' in page and 'Hash 1.' in page and '| part | used |\n| --- | --- |\n| a | 64 |' in page
    for stage in ('pretrain', 'sft'):
        assert f'## Training: {stage}\n\n40 updates, 2.5 s each' in page
        assert f'[{stage}: its own page]({stage}/report.html)' in page
    images = page.count('![')
    assert f'![AAA, as sft goes on](stages/{images - 1}.png)' in page
    assert (tmp_path / 'stages' / f'{images - 1}.png').read_bytes() == PNG and html.count('<img') == images
    assert '| pretrain | train | 1:01:40 | 0:01:40 |' in page and '| pretrain | evaluate | 0:00:59 |  |' in page
    assert '| sft | train | – | 0:01:40 |' in page
    assert '| sft | cpu x 1 | abc | 1 | python 3.11, jax 0.10 |' in page


def test_candles_that_changed_or_went_are_said_to_have(line, market):
    text = (market / 'AAA.csv').read_text()
    (market / 'AAA.csv').write_text(text + '2020-10-27,10,11,9,10,1\n')
    assert 'not the candles that sft was trained with' in write_page(line[1])[0].read_text()
    for file in market.iterdir():
        file.unlink()
    assert 'The candles can not be read now' in write_page(line[1])[0].read_text()


def test_what_is_not_there_yet_is_said(line, tmp_path):
    for run in line:
        (run / 'evaluation.json').unlink()
    (tmp_path / 'tokenizer' / 'card.md').unlink()
    page = write_page(line[0])[0].read_text()
    assert 'No stage is evaluated yet' in page and 'It has no card yet' in page
    with pytest.raises(InputError, match='no run here'):
        write_page(tmp_path)


def test_times_of_a_job_add_up(tmp_path):
    words = ['--config=x', f'--workdir={tmp_path}']
    for again, seconds in ((words, 2), (words, 3), ([*words, '--job=evaluate'], 4)):
        record_time(again, seconds)
    assert [line[1:3] for line in describe_times(tmp_path)] == [('train', '0:00:05'), ('evaluate', '0:00:04')]
    record_time(['--config=x', f'--workdir={tmp_path / "none"}'], 1)
    assert not (tmp_path / 'none').exists()
