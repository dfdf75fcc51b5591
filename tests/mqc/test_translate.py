"""mqc only translates: every command and flag of the original, in every spelling, to the launch that it means."""

import pytest

from fjq.config import to_json
from fjq.errors import InputError
from fjq.launch import load_config
from fjq.mqc import command as console
from fjq.mqc import quickstart
from fjq.mqc.command import main
from fjq.mqc.flags import ALIASES, COMMANDS, parse
from fjq.mqc.translate import STAGES, find_config, translate


def translated(*argv: str) -> list[list[str]]:
    name = ALIASES.get(argv[0], argv[0])
    return translate(name, *parse(name, list(argv[1:])))


def only(*argv: str) -> list[str]:
    (words,) = translated(*argv)
    return words


def fields(words: list[str]) -> dict[str, str]:
    pairs = (word.removeprefix('--config.').partition('=') for word in words if word.startswith('--config.'))
    return {name: value for name, _, value in pairs}


ORIGINAL = {  # flags of the original, with a value and the field it sets
    'pretrain': {
        '--batch': ('32', 'data.batch_rows'),
        '--batch_size': ('32', 'data.batch_rows'),
        '--lr': ('5e-4', 'optim.learning_rate'),
        '--learning_rate': ('5e-4', 'optim.learning_rate'),
        '--data': ('x', 'data.path'),
        '--data_file': ('x', 'data.path'),
        '--seq-len': ('256', 'data.length'),
        '--vocab': ('512', 'task.gpt.vocabulary'),
        '--layers': ('4', 'task.gpt.layers'),
        '--heads': ('4', 'task.gpt.heads'),
        '--kv-heads': ('2', 'task.gpt.kv_heads'),
        '--embd': ('256', 'task.gpt.width'),
    },
    'midtrain': {
        '--in': ('runs/a', 'init_from'),
        '--batch': ('8', 'data.batch_rows'),
        '--seq-len': ('128', 'data.length'),
    },
    'sft': {'--context-len': ('128', 'data.context'), '--lr': ('5e-6', 'optim.learning_rate')},
    'rl': {
        '--steps': ('200', 'train.steps'),
        '--batch-episodes': ('8', 'data.batch_rows'),
        '--reward': ('proximity', 'task.reward'),
        '--context-len': ('64', 'data.context'),
        '--lr': ('1e-5', 'optim.learning_rate'),
    },
    'generate': {
        '--num': ('50', 'data.generate.horizon'),
        '--num_generate': ('50', 'data.generate.horizon'),
        '--temp': ('0.8', 'data.generate.temperature'),
        '--temperature': ('0.8', 'data.generate.temperature'),
        '--top-k': ('50', 'data.generate.top_k'),
        '--top_k': ('50', 'data.generate.top_k'),
        '--samples': ('3', 'data.generate.paths'),
        '--num_samples': ('3', 'data.generate.paths'),
    },
    'evaluate': {'--data': ('x', 'data.path'), '--data_file': ('x', 'data.path'), '--seq_len': ('64', 'data.context')},
    'analyze': {'--tokens_file': ('x', 'data.path')},
    'tokenize': {
        '--num_codes': ('512', 'task.codes'),
        '--emb_dim': ('32', 'task.dim'),
        '--hidden_dim': ('64', 'task.hidden'),
        '--seq_len': ('256', 'data.window'),
        '--batch_size': ('32', 'data.batch_rows'),
        '--lr': ('1e-3', 'optim.learning_rate'),
    },
}
CASES = [(command, flag, *want) for command, flags in ORIGINAL.items() for flag, want in flags.items()]


@pytest.mark.parametrize(('command', 'flag', 'value', 'field'), CASES)
def test_a_flag_of_the_original_sets_its_field(command, flag, value, field):
    first = translated(command, flag, value)[0]
    assert fields(first)[field] == value
    assert translated(command, f'{flag}={value}')[0] == first


@pytest.mark.parametrize('command', COMMANDS)
def test_every_field_that_a_flag_sets_is_one(command):
    stage = {'tokenize': 'tokenizer', 'decode': 'tokenizer'}.get(command, command if command in STAGES else 'pretrain')
    config = load_config(find_config(stage))
    for flag in COMMANDS[command]:
        holder = config
        for part in flag.field.split('.') if flag.field else ():
            assert hasattr(holder, part), f'{flag.names[0]} sets {flag.field}'
            holder = getattr(holder, part)


@pytest.mark.parametrize(
    ('word', 'config', 'job'),
    [
        *((w, 'microchat_pretrain.py', None) for w in ('train', 'stage1', 'pretrain')),
        *((w, 'microchat_midtrain.py', None) for w in ('stage2', 'midtrain')),
        *((w, 'microchat_sft.py', None) for w in ('stage3', 'sft')),
        *((w, 'microchat_rl.py', None) for w in ('stage4', 'rl')),
        *((w, 'microchat_pretrain.py', 'evaluate') for w in ('eval', 'evaluate', 'baseline')),
        *((w, 'microchat_pretrain.py', 'generate') for w in ('gen', 'generate')),
        *((w, 'microchat_pretrain.py', 'analyze') for w in ('analysis', 'analyze')),
        ('predict', 'microchat_pretrain.py', 'forecast'),
        ('report', 'microchat_pretrain.py', 'report'),
        ('chat', 'microchat_pretrain.py', 'chat'),
        ('decode', 'microchat_tokenizer.py', 'decode'),
    ],
)
def test_commands_and_aliases(word, config, job):
    words = only(word)
    assert words[0].endswith(f'configs/{config}')
    assert [w for w in words if w.startswith('--job=')] == ([f'--job={job}'] if job else [])


def test_tokenize_trains_and_then_writes():
    train, write = translated('tokenize', '--steps', '9', '--num_codes', '64', '--out', 'runs/t')
    assert fields(train) == {'train.steps': '9', 'task.codes': '64', 'optim.warmup_steps': '0'} and fields(write) == {
        'task.codes': '64'
    }
    assert '--job=tokenize' in write and '--workdir=runs/t' in write
    assert '--job=tokenize' in only('tokenize', '--bins')


def test_what_one_flag_means_for_several_fields(tmp_path):
    assert fields(only('train', '--seq-len', '512')) == {'data.length': '512', 'task.gpt.length': '512'}
    assert fields(only('train', '--vocab', '64')) == {
        'task.gpt.vocabulary': '64',
        'data.tokenizer.returns': '16',
        'data.tokenizer.ranges': '4',
    }
    assert fields(only('train', '--vocab', '512', '--preset', 'compat')) == {'task.gpt.vocabulary': '512'}
    assert fields(only('train', '--vocab', '64', '--preset', 'readme'))['data.tokenizer.returns'] == '16', 'of bins'
    assert fields(only('train', '--vocab', '64', '--preset', 'readme,learned')) == {'task.gpt.vocabulary': '64'}
    assert fields(only('sft', '--horizon', '16'))['data.horizons'] == '(1, 8, 16)'
    assert fields(only('gen', '--seed', '80 81 83'))['data.generate.seed_tokens'] == '(80, 81, 83)'
    assert fields(only('gen', '--asset', 'A,B'))['data.generate.assets'] == "('A', 'B')"
    assert fields(only('rl', '--asset', 'A'))['data.assets'] == "('A',)"
    csv = tmp_path / 'BTC-USD_2014-09-17_2025-12-31_1d.csv'
    csv.write_text('Date,Open,High,Low,Close,Volume\n2020-01-01,1,2,1,2,5\n2020-01-02,2,3,2,3,5\n')
    for flag in ('--csv', '--asset-csv', '--btc-csv'):
        assert fields(only('midtrain', flag, str(csv))) == {'data.path': str(tmp_path), 'data.assets': "('BTC-USD',)"}


def test_checkpoint_files_of_the_original_are_run_folders(tmp_path):
    words = only('stage2', '--in', 'checkpoints/best_model.pt', '--out', 'checkpoints/midtrain_btc.pt')
    assert '--config.init_from=checkpoints/best_model' in words and '--workdir=checkpoints/midtrain_btc' in words
    (tmp_path / 'a.pt').write_text('')
    with pytest.raises(InputError, match='file of PyTorch'):
        only('stage2', '--in', str(tmp_path / 'a.pt'))


def test_fields_of_the_config_pass_through():
    assert only('train', '--config.train.patience=3', '--fresh')[-2:] == ['--config.train.patience=3', '--fresh']


def test_fresh_goes_to_the_trainings(monkeypatch):
    for name in ('train', 'stage2', 'stage3', 'stage4', 'tokenize', 'examples'):
        for words in translated(name, '--fresh'):
            assert ('--fresh' in words) == (
                not any(word.startswith('--job=') for word in words) or '--job=train' in words
            )
    assert '--fresh' not in only('train')


def test_no_example_writes_before_the_one_that_starts_over():
    jobs = [word.removeprefix('--job=') for words in translated('examples') for word in words if word[:5] == '--job']
    assert set(jobs[: jobs.index('train')]) <= {'validate'} and 'analyze' in jobs


def test_every_example_has_the_fields_of_the_config_that_they_share():
    for words in translated('examples', '--config.task.paths=8'):
        assert fields(words[1:]) == {'task.paths': '8'}


@pytest.mark.parametrize(
    'command',
    [c for c in COMMANDS if c not in (*STAGES, 'tokenize', 'quickstart', 'examples')] + ['tokenize --bins'],
)
def test_what_trains_nothing_deletes_nothing(command, monkeypatch, capsys):
    monkeypatch.setattr(console, 'launch', lambda commands: pytest.fail(f'it would have run {commands}'))
    assert main([*command.split(), '--fresh']) == 2
    err = capsys.readouterr().err
    assert '--fresh' in err and 'tokenize' in err and err.count('\n') == 1


def test_quickstart_takes_no_fields(monkeypatch, capsys):
    monkeypatch.setattr(quickstart, 'quickstart', lambda *given: pytest.fail(f'it would have run with {given}'))
    assert main(['quickstart', '--fresh', '--config.no.such.field=1', '--config.task.reward=pnl']) == 2
    err = capsys.readouterr().err
    assert '--config.no.such.field=1' in err and err.count('\n') == 1


STAGE_LENGTHS = {  # of the original on BTC-USD, of stage 1 on its 20 assets: peak rate, updates, rows
    'pretrain': (5e-4, 240, 32),
    'midtrain': (1e-5, 18, 4),
    'sft': (5e-6, 120, 16),
    'rl': (1e-5, 200, 8),
}


@pytest.mark.parametrize('stage', STAGES)
def test_compat_is_the_original_in_size_rate_and_length(stage):
    c = load_config(find_config(stage), 'compat')
    assert (c.optim.learning_rate, c.train.steps, c.data.batch_rows) == STAGE_LENGTHS[stage]
    assert (c.data.length, c.data.context, max(c.data.horizons), c.task.gpt.length) == (256, 128, 32, 256)
    assert c.train.patience == 0 and c.optim.warmup_steps == 0, 'the whole schedule, from its peak'
    assert c.optim.final_learning_rate == (1e-5 if stage == 'rl' else 0)


def test_a_run_is_described_by_its_own_config(tmp_path):
    config = load_config(find_config('sft'), 'tiny')
    config.name, config.data.eval_stride, config.data.assets = 'of_a_user', 7, ('MSFT',)
    (tmp_path / 'config.json').write_text(to_json(config))
    words = only('generate', '--run', str(tmp_path), '--num', '3')
    assert words[0] == f'--config={tmp_path}/config.json' and fields(words[1:]) == {'data.generate.horizon': '3'}
    words = only('eval', '--run', str(tmp_path), '--asset', 'SPY', '--config.data.assets=("AAPL",)')
    assert [w for w in words if 'assets' in w] == ['--config.data.assets=("AAPL",)']
    with pytest.raises(InputError, match="own config, of which 'simulated' is no preset"):
        only('eval', '--run', str(tmp_path), '--preset', 'simulated')
    assert 'data.eval_stride' not in fields(only('report', '--run', str(tmp_path)))


def test_a_tokenizer_is_decoded_by_its_own_config(tmp_path):
    config = load_config(find_config('tokenizer'), 'tiny')
    (tmp_path / 'config.json').write_text(to_json(config))
    assert only('decode', '--run', str(tmp_path))[0] == f'--config={tmp_path}/config.json'


def test_a_run_of_another_family_is_refused(tmp_path):
    other = load_config(find_config('sft').replace('microchat_sft', 'tcn_index'), 'tiny')
    (tmp_path / 'config.json').write_text(to_json(other))
    with pytest.raises(InputError, match='run of tcn_index'):
        only('generate', '--run', str(tmp_path))


def test_epochs_are_counted_in_the_windows_of_the_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = load_config(find_config('pretrain'), 'tiny')
    data = config.data.open('runs/cache', config.parallel)
    updates = -(-data.training_windows() // 4)
    words = only('train', '--preset', 'tiny', '--epochs', '3', '--batch', '4', '--out', 'runs')
    assert fields(words[1:])['train.steps'] == str(3 * updates) and updates > 1
    again = only('train', '--preset', 'tiny', '--epochs', '3', '--config.data.batch_rows=4', '--out', 'runs', '--fresh')
    assert fields(again[1:])['train.steps'] == str(3 * updates)


@pytest.mark.parametrize(
    ('argv', 'message'),
    [
        (['trian'], "no command 'trian'. Did you mean 'train'"),
        (['generate', '--temprature', '1'], "no flag '--temprature'. Did you mean '--temperature'"),
        (['generate', '--temp'], 'expected one argument'),
        (['generate', '--seed', '80 x'], 'are no tokens'),
        (['generate', '--seed', '3 ²'], 'are no tokens'),
        (['generate', '--seed', '3 -2'], 'are no tokens'),
        (['evaluate', '--layers', '3'], "no flag '--layers'. It is one of mqc pretrain, midtrain, sft, rl, validate"),
        (['train', '--data', 'data/all_tokens.txt'], 'no dates'),
        (['analyze', '--tokens_file', 'data/all_tokens.txt'], 'no dates'),
        (['train', '--seq-len', '0'], 'no number'),
        (['train', '--seq-len', '²'], 'no number'),
        (['sft', '--seq-len', '128'], 'Give --context-len and --horizon'),
        (['rl', '--seq_len', '128'], 'Give --context-len and --horizon'),
        (['sft', '--horizon', '0'], 'no number'),
        (['train', '--preset', 'tiny', '--epochs', '1', '--lr', 'abc'], "optim.learning_rate: 'abc' is not like 0.01"),
        (['train', '--preset', 'tiny', '--epochs', '1', '--layers', 'x'], "task.gpt.layers: 'x' is not like 2"),
        (['train', '--preset', 'tiny', '--epochs', '1', '--config.data.bath_rows=2'], "no field 'bath_rows'"),
        (['midtrain', '--csv', 'nowhere.csv'], 'no such file'),
        (['download', 'BTC-USD'], 'nothing is downloaded'),
    ],
)
def test_wrong_input_is_one_line(argv, message, monkeypatch, capsys):
    monkeypatch.setattr(console, 'launch', lambda commands: pytest.fail(f'it would have run {commands}'))
    assert main(argv) == 2
    err = capsys.readouterr().err
    assert message in err and err.count('\n') == 1


def test_a_text_file_of_candles_is_no_list_of_ids(tmp_path):
    file = tmp_path / 'NQ.txt'
    file.write_text('20220912 000100;4000;4001;3999;4000;12\n')
    assert fields(only('validate', '--data', str(file)))['data.path'] == str(file)
    file.write_text('80 81\n83\n')
    with pytest.raises(InputError, match='no dates'):
        only('validate', '--data', str(file))


@pytest.mark.parametrize('argv', [[], ['help'], ['--help'], ['-h']])
def test_help_names_every_command(argv, capsys):
    assert main(argv) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in COMMANDS) and all(name in text for name in ALIASES if name[0] != '-')
