"""The plan of a quickstart: one folder, each stage from the one before, one cut by time, and its page."""

import numpy as np
import pytest

from fjq.data.candles.files import Candles
from fjq.errors import InputError
from fjq.launch import load_config
from fjq.mqc import quickstart
from fjq.mqc.command import main
from fjq.mqc.translate import STAGES, find_config


def candles(name: str, first: str, days: int) -> Candles:
    price = np.ones(days)
    return Candles(name, np.datetime64(first, 'ns') + np.arange(days) * np.timedelta64(1, 'D'), *[price] * 5)


def write_csv(folder, candles: Candles) -> None:
    price = 10 + np.arange(len(candles)) % 7
    rows = zip(candles.time.astype('M8[D]'), price, price + 1, price - 1, price, strict=True)
    lines = ['Date,Open,High,Low,Close', *(','.join(map(str, row)) for row in rows)]
    (folder / f'{candles.id}.csv').write_text('\n'.join(lines) + '\n')


@pytest.fixture
def csv(tmp_path):
    """A long history, and a short one at its end."""
    folder = tmp_path / 'csv'
    folder.mkdir()
    for asset in (
        candles('OLD', '2000-01-01', 4000),
        candles('NEW', '2010-01-01', 350),
        candles('BABY', '2010-10-01', 78),
    ):
        write_csv(folder, asset)
    return folder


@pytest.fixture
def launched(monkeypatch) -> list[list[str]]:
    """What a quickstart would have run."""
    commands = []
    monkeypatch.setattr(quickstart, 'launch', lambda words: commands.extend(words) or 1)
    return commands


def test_one_cut_for_all_assets_and_an_embargo_that_the_data_can_spare():
    a, b = candles('A', '2000-01-01', 4001), candles('B', '2005-01-01', 1001)
    split = quickstart.split_times(a, [a, b])
    days = np.datetime64('2000-01-01') + np.arange(3401) * np.timedelta64(1, 'D')
    ends = split['data.split.train_end'], split['data.split.valid_end']
    assert ends == (str(days[2800]), str(days[3400])) and split['data.split.embargo_days'] == quickstart.CONTEXT
    assert quickstart.split_times(b, [a, b])['data.split.train_end'] == '2006-12-02', 'of its own span'
    short = candles('A', '2000-01-01', 500)
    assert quickstart.split_times(short, [short])['data.split.embargo_days'] == 0


def test_an_asset_that_is_younger_than_the_others_has_rows_to_train_on(csv, launched, tmp_path, capsys):
    assert main(['quickstart', '--csv', str(csv), '--asset', 'NEW', '--out', str(tmp_path / 'out')]) == 1
    assert '--config.data.split.train_end=2010-09-02' in launched[0] and len(launched) == 15
    assert '1 assets, 128 tokens, 245 to train on' in capsys.readouterr().out, 'counted before the first command'


def test_an_asset_that_is_too_young_is_told_before_anything_is_trained(csv, launched, tmp_path, capsys):
    assert main(['quickstart', '--csv', str(csv), '--asset', 'BABY', '--out', str(tmp_path / 'out')]) == 2
    err = capsys.readouterr().err
    assert not launched and 'BABY' in err and '--asset' in err and err.count('\n') == 1


def test_a_tokenizer_has_windows_where_a_stage_has_rows():
    """The rows of a stage are looked at before the start, those of the tokenizer are not."""
    assert load_config(find_config('tokenizer')).data.window <= quickstart.CONTEXT


def test_fresh_starts_the_trainings_over(csv, launched, tmp_path):
    assert main(['quickstart', '--csv', str(csv), '--asset', 'OLD', '--out', str(tmp_path / 'out'), '--fresh']) == 1
    trains = [words for words in launched if not any(word.startswith('--job=') for word in words)]
    assert len(trains) == 5 and [words for words in launched if '--fresh' in words] == trains


def test_every_stage_starts_from_the_one_before_and_is_judged_on_the_same_asset(tmp_path):
    asset = candles('A', '2000-01-01', 900)
    data = {'data.path': tmp_path / 'csv', **quickstart.split_times(asset, [asset])}
    commands = quickstart.plan(tmp_path, 'A', data, '3')
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
    assert list(by_stage) == ['tokenizer', *STAGES]
    for before, stage in zip(STAGES, STAGES[1:], strict=False):
        assert by_stage[stage][0]['config.init_from'] == str(tmp_path / before)
    assert 'config.data.assets' not in by_stage['pretrain'][0]
    judged = [next(f for f in by_stage[s] if f.get('job') == 'evaluate') for s in STAGES]
    assert len({f['config.data.assets'] for f in judged}) == len({f['config.data.eval_stride'] for f in judged}) == 1


def test_an_unknown_asset_is_named():
    assert quickstart.pick_asset('', ['A', 'B']) == 'A'
    with pytest.raises(InputError, match="no asset 'BCT'. Did you mean 'BTC'"):
        quickstart.pick_asset('BCT', ['BTC', 'ETH'])


@pytest.mark.slow
def test_a_quickstart_from_nothing_to_the_page_of_stages(tmp_path, monkeypatch):
    for name, steps in (('DAYS', 700), ('ASSETS', 2), ('STEPS', dict.fromkeys(quickstart.STEPS, 10))):
        monkeypatch.setattr(quickstart, name, steps)
    assert main(['quickstart', '--out', str(tmp_path)]) == 0
    for stage in STAGES:
        assert (tmp_path / stage / 'report.html').stat().st_size > 10_000
        page = (tmp_path / stage / 'report.md').read_text()
        others = [other for other in STAGES if other != stage]
        assert all(f'microchat_{other}: {other}](../{other}' in page for other in others)
        assert '[the card of the tokenizer](../tokenizer/tokenizer/card.md)' in page
    page = (tmp_path / 'stages.md').read_text()
    assert 'Not on the same rows' not in page and 'files have changed' not in page
    table = page.split('\n\n')[2].splitlines()[2:]
    assert [line.split(' | ')[0] for line in table[:4]] == [f'| {stage}' for stage in STAGES]
    assert all(len(line.split('|')) == len(table[0].split('|')) for line in table) and len(table) > 6
    runs = ['tokenizer', *STAGES]
    assert all(f'## Training: {run}\n' in page and f'| {run} | train | 0:' in page for run in runs)
    assert '| rl | generate | 0:' in page and '## Paths of rl' in page and '## Data' in page
    assert any((tmp_path / 'rl' / 'generated').iterdir())
    assert main(['report', '--run', str(tmp_path / 'sft')]) == 0, 'by its own config.json'
    assert (tmp_path / 'sft' / 'stages.html').stat().st_size > 10_000
