"""Each bad input ends the command with code 2 and one line that says what, where and what to do."""

import gzip
import re
import shutil
from pathlib import Path

import command
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

CONFIG = Path(__file__).resolve().parent / 'ticks_config.py'
DAYS = [d for d in np.arange('2022-02-01', '2022-03-01', dtype='datetime64[D]') if np.is_busday(d)]
BAD = '2022-02-09.parquet'  # a day in the middle of the training span


def ticks(date, **changes) -> pa.Table:
    """Twelve minutes of three indices."""
    minute = np.repeat(np.arange(12), 3)
    rng = np.random.Generator(np.random.Philox(int(str(date)[-2:])))
    columns = {
        'ticker': np.tile(['SPX', 'VIX', 'RUT'], 12),
        'timestamp': np.datetime64(f'{date}T09:30', 'us') + minute * np.timedelta64(1, 'm'),
        'price': 100 + rng.random(36),
    }
    return pa.table(columns | changes)


def targets(dates=DAYS, **changes) -> pa.Table:
    rv = np.random.Generator(np.random.Philox(1)).uniform(0.1, 0.3, len(dates))
    columns = {'date': np.array(dates, 'datetime64[ms]'), 'daily_rv': rv, 'rv_1d_forward': rv[::-1].copy()}
    return pa.table({k: v for k, v in (columns | changes).items() if v is not None})


@pytest.fixture(scope='module')
def good(tmp_path_factory):
    folder = tmp_path_factory.mktemp('good')
    (folder / 'ticks').mkdir()
    for date in DAYS:
        pq.write_table(ticks(date), folder / 'ticks' / f'{date}.parquet')
    pq.write_table(targets(), folder / 'rv.parquet')
    return folder


@pytest.fixture
def files(good, tmp_path):
    """A copy of good input, to be spoilt."""
    return Path(shutil.copytree(good, tmp_path / 'input'))


@pytest.fixture
def train(files, tmp_path, capsys):
    """Runs the command on `files`; gives (exit code, lines of stderr, stdout)."""

    def run(*flags, job='train'):
        capsys.readouterr()
        given = f'--config.data.root={files / "ticks"}', f'--config.data.targets={files / "rv.parquet"}'
        code = command.run(f'--config={CONFIG}', f'--workdir={tmp_path / "run"}', f'--job={job}', *given, *flags)
        said = capsys.readouterr()
        return code, said.err.splitlines(), said.out

    return run


def assert_refused(result, *words):
    """Code 2, and one line with all the words in their order."""
    code, err, _ = result
    assert code == 2 and len(err) == 1, err
    assert err[0].startswith('fjq: ') and re.search('.*'.join(map(re.escape, words)), err[0]), err[0]


def left(tmp_path) -> set[str]:
    """What lies in the run folder, apart from whole days of the bank."""
    names = {p.relative_to(tmp_path / 'run').as_posix() for p in (tmp_path / 'run').rglob('*')}
    whole = re.compile(r'cache(/ticks-\w+(/\d{4}-\d\d-\d\d-\w+(/(\w+\.npy|day\.json))?)?)?|\.lock')
    return {n for n in names if not whole.fullmatch(n)}


def test_good_input_trains(train, tmp_path):
    code, err, out = train()
    assert code == 0 and 'the run is in' in out and not err
    assert (tmp_path / 'run' / 'manifest.json').is_file()


SPOILT_DAYS = {
    'a column is missing': (
        lambda p: pq.write_table(ticks('2022-02-09').drop_columns(['price']), p),
        ["column 'price'", 'no such column', 'The columns are ticker, timestamp'],
    ),
    'a price of the wrong type': (
        lambda p: pq.write_table(ticks('2022-02-09', price=np.ones(36, bool)), p),
        ["column 'price'", 'the type is bool, not number', 'number column'],
    ),
    'a time of the wrong type': (
        lambda p: pq.write_table(ticks('2022-02-09', timestamp=['09:30'] * 36), p),
        ["column 'timestamp'", 'the type is string, not time', 'time column'],
    ),
    'text in a number': (
        lambda p: pq.write_table(ticks('2022-02-09', price=['1.5'] * 20 + ['n/a'] + ['2'] * 15), p),
        ["column 'price'", 'row 20', "'n/a' is no number"],
    ),
    'an empty file': (lambda p: p.write_bytes(b''), ['the file is empty', 'fetch it again']),
    'no rows': (lambda p: pq.write_table(ticks('2022-02-09').slice(0, 0), p), ['no rows', 'fetch it again']),
    'a truncated parquet': (
        lambda p: p.write_bytes(p.read_bytes()[:-200]),
        ['not a parquet file, or a truncated one', 'again'],
    ),
    'a hole in the middle': (
        lambda p: p.write_bytes(p.read_bytes()[:60] + b'\x00' * 200 + p.read_bytes()[260:]),
        ['damaged', 'again'],
    ),
    'not parquet': (lambda p: p.write_text('ticker,timestamp,price\n'), ['not a parquet file', 'again']),
    'a null price': (
        lambda p: pq.write_table(ticks('2022-02-09', price=pa.array([1.0] * 7 + [None] * 29)), p),
        ["column 'price'", 'row 7', 'the cell is empty', 'Correct or remove the row'],
    ),
    'a negative price': (
        lambda p: pq.write_table(ticks('2022-02-09', price=[1.0] * 11 + [-2.5] + [1.0] * 24), p),
        ["column 'price'", 'row 11', '-2.5 is negative or not finite', 'Correct or remove the row'],
    ),
    'an infinite price': (
        lambda p: pq.write_table(ticks('2022-02-09', price=[np.inf] * 36), p),
        ["column 'price'", 'row 0', 'inf is negative or not finite'],
    ),
    'a null ticker': (
        lambda p: pq.write_table(ticks('2022-02-09', ticker=pa.array(['A'] * 35 + [None])), p),
        ["column 'ticker'", 'row 35', 'the cell is empty'],
    ),
    'times of another day': (
        lambda p: pq.write_table(
            ticks(
                '2022-02-09',
                timestamp=[np.datetime64('2022-02-09T10', 'us')] * 30 + [np.datetime64('2022-02-10T10', 'us')] * 6,
            ),
            p,
        ),
        ["column 'timestamp'", 'row 30', 'not of 2022-02-09 in New York', 'Name the file by its day'],
    ),
    'seconds taken for nanoseconds': (
        lambda p: pq.write_table(ticks('2022-02-09', timestamp=np.arange(36) + 1_644_400_000), p),
        ["column 'timestamp'", 'row 0', '1970-01-01', 'ns since 1970 UTC'],
    ),
}


@pytest.mark.parametrize('case', SPOILT_DAYS)
def test_a_bad_day_is_named_and_nothing_is_half_written(files, train, tmp_path, case):
    spoil, words = SPOILT_DAYS[case]
    spoil(files / 'ticks' / BAD)
    assert_refused(train(), BAD, *words, 'on_bad_file to skip')
    assert not left(tmp_path)
    whole = {p.name[:10] for p in (tmp_path / 'run').glob('cache/ticks-*/2*')}
    assert whole == {str(d) for d in DAYS} - {'2022-02-09'}  # what could be read is kept


@pytest.mark.parametrize('case', SPOILT_DAYS)
def test_validate_refuses_it_too(files, train, case):
    spoil, words = SPOILT_DAYS[case]
    spoil(files / 'ticks' / BAD)
    assert_refused(train(job='validate'), BAD, *words)


def test_a_bad_day_can_be_left_out_and_is_counted(files, train, tmp_path):
    for name in (BAD, '2022-02-10.parquet'):
        (files / 'ticks' / name).write_bytes(b'')
    assert_refused(train(), BAD, 'the file is empty (2 of 20 files are bad)', 'on_bad_file to skip')
    code, err, out = train('--config.data.on_bad_file=skip')
    assert code == 0 and not err
    assert '18 days' in out and '2 files skipped' in out and BAD in out and '2022-02-10.parquet' in out
    assert (tmp_path / 'run' / 'checkpoints').is_dir()


def test_a_bad_day_that_was_corrected_goes_on(files, train):
    whole = (files / 'ticks' / BAD).read_bytes()
    (files / 'ticks' / BAD).write_bytes(whole[:-9])
    assert train()[0] == 2
    (files / 'ticks' / BAD).write_bytes(whole)
    code, err, out = train()
    assert code == 0 and 'frames of days: 1 in' in out  # the other days were kept


def test_rows_out_of_order_are_put_in_order(files, train, good):
    """Within a day an order can be restored: the run is the same as that of the good file."""
    metrics = []
    for mixed in (False, True):
        if mixed:
            table = pq.read_table(good / 'ticks' / BAD)
            pq.write_table(table.take(np.arange(36)[::-1]), files / 'ticks' / BAD)
        assert train('--fresh')[0] == 0
        metrics.append(
            re.sub(r'"(step_s|data_wait|compiles)": [^,}]+', '', (files.parent / 'run' / 'metrics.jsonl').read_text())
        )
    assert metrics[0] == metrics[1]


SPOILT_TARGETS = {
    'no file': (lambda p: p.unlink(), ['no such file']),
    'not parquet': (lambda p: p.write_text('date,daily_rv\n'), ['not a parquet file']),
    'no volatility': (
        lambda p: pq.write_table(targets(daily_rv=None), p),
        ["column 'daily_rv'", 'no such column', 'The columns are date, rv_1d_forward'],
    ),
    'no dates': (lambda p: pq.write_table(targets(date=None), p), ["column 'date'", 'no such column']),
    'an empty horizon': (
        lambda p: pq.write_table(targets(rv_1d_forward=pa.nulls(20, pa.float64())), p),
        ['no day has a label 1 days ahead', 'Give a longer file or a shorter horizon'],
    ),
    'a date twice': (
        lambda p: pq.write_table(targets([*DAYS[:5], DAYS[4], *DAYS[6:]]), p),
        ["column 'date'", 'row 5', '2022-02-07 is there twice', 'one row a date'],
    ),
    'dates that go back': (
        lambda p: pq.write_table(targets(DAYS[::-1]), p),
        ["column 'date'", 'row 1', '2022-02-25 comes after 2022-02-28', 'Sort the rows'],
    ),
    'dates as numbers': (
        lambda p: pq.write_table(targets(date=np.arange(20) + 20220201), p),
        ["column 'date'", 'the type int64 holds no dates', 'date or timestamp'],
    ),
    'a null volatility': (
        lambda p: pq.write_table(targets(daily_rv=pa.array([0.1] * 3 + [None] + [0.1] * 16)), p),
        ["column 'daily_rv'", 'row 3', 'a missing value'],
    ),
    'a negative volatility': (
        lambda p: pq.write_table(targets(daily_rv=[0.1] * 9 + [-0.1] * 11), p),
        ["column 'daily_rv'", 'row 9', '-0.1 is no volatility', 'positive'],
    ),
    'a label of zero': (
        lambda p: pq.write_table(targets(rv_1d_forward=[0.1] * 19 + [0.0]), p),
        ["column 'rv_1d_forward'", 'row 19', '0.0 is no volatility'],
    ),
}


@pytest.mark.parametrize('case', SPOILT_TARGETS)
def test_a_bad_target_file_is_named(files, train, tmp_path, case):
    spoil, words = SPOILT_TARGETS[case]
    spoil(files / 'rv.parquet')
    assert_refused(train(), 'rv.parquet', *words)
    assert not left(tmp_path)


def test_a_horizon_without_its_column_is_made_from_the_daily_values_only_on_demand(files, train):
    words = 'rv.parquet', "column 'rv_3d_forward'", 'the forward columns are: rv_1d_forward', 'data.compute_labels=true'
    assert_refused(train('--config.data.horizons=(3,)'), *words)
    pq.write_table(targets(rv_1d_forward=None), files / 'rv.parquet')
    compute = '--config.data.compute_labels=true'
    code, err, out = train('--config.data.horizons=(3,)', compute)
    assert code == 0 and not err
    far = train('--fresh', '--config.data.horizons=(300,)', compute)
    assert_refused(far, 'rv.parquet', 'no day has a label 300 days ahead')


def test_no_overlap_with_the_target_file(files, train, tmp_path):
    pq.write_table(targets([d + np.timedelta64(400, 'D') for d in DAYS]), files / 'rv.parquet')
    assert_refused(train(), 'rv.parquet', "column 'targets'", 'none of the 20 days with ticks has a label', 'overlap')
    assert not left(tmp_path) - {
        f'cache/{p.parent.name}/manifest.json' for p in (tmp_path / 'run').glob('cache/*/manifest.json')
    }


def test_a_date_twice(files, train):
    with gzip.open(files / 'ticks' / '2022-02-09.csv.gz', 'wt') as f:
        f.write('ticker,timestamp,price\n')
    assert_refused(train(), '2022-02-09.csv.gz', '2022-02-09 is there twice', BAD, 'Keep one of the two')


@pytest.mark.parametrize(
    ('flags', 'words'),
    [
        (['--config.data.root={files}/nowhere'], ['nowhere', 'no such folder', 'Give the folder']),
        (['--config.data.root={files}/empty'], ['empty', 'no daily file', 'YYYY-MM-DD']),
        (
            ['--config.data.tickers={files}/top.txt'],
            ['top.txt', "column 'tickers'", 'no such file', 'one ticker a line'],
        ),
        (['--config.data.tickers={files}/none.txt'], ['none.txt', 'names no ticker']),
        (['--config.data.tickers={files}/twice.txt'], ['twice.txt', "'SPX' is there twice"]),
        (['--config.data.tickers={files}/other.txt'], ['none of the 20 days', 'tick']),
        (
            ['--config.data.split.valid_end=2022-02-11'],
            ["column 'data.split'", 'train ends at', 'train_end before valid_end'],
        ),
        (
            ['--config.data.split.valid_end=2022-02-13'],
            ["column 'split'", 'the valid part has no rows', 'Move train_end'],
        ),
        (['--config.data.split.train_end=2021-02-13'], ["column 'split'", 'the train part has no rows']),
        (['--config.data.split.valid_end=2023-02-13'], ["column 'split'", 'the test part has no rows']),
        (['--config.data.split.train_end=soon'], ["column 'train_end'", "'soon' is no date", '2022-12-31']),
        (['--config.data.split.purge_days=-1'], ["column 'data.split.purge_days'", '-1 days', '0 or more']),
        (['--config.data.split.purge_days=20'], ["column 'split'", 'has no rows, after', 'rows were purged']),
        (['--config.optim.warmup_steps=5', '--config.train.steps=5'], ['optim.warmup_steps is 5 in a run of 5 steps']),
        (
            ['--config.data.batch_rows=6'],
            ["column 'data.batch_rows'", 'a batch of 6 rows does not divide among 8 devices', 'multiple of 8'],
        ),
        (
            ['--config.train.micro_batches=9'],
            ["column 'train.micro_batches'", '9 micro-batches of a batch of 8 rows', '8 or less'],
        ),
        (['--config.data.batch_rows=0'], ["column 'batch_rows'", '0 is too few']),
        (['--config.data.chunk_buckets=(16,8)'], ["column 'chunk_buckets'", '(16, 8) are no buckets', 'ascending']),
        (['--config.data.chunk_buckets=()'], ["column 'chunk_buckets'", '() are no buckets']),
        (
            ['--config.data.chunk_len=1', '--config.data.chunk_buckets=(2,)'],
            ["column 'chunk_buckets'", 'has 3 chunks', '3 or more'],
        ),
        (['--config.data.frame=ten'], ["column 'frame'", "'ten' is no length", '10s']),
        (['--config.data.features=v3'], ["column 'features'", "unknown choice 'v3'", 'compat, v2']),
        (['--config.data.stream=forex'], ["column 'stream'", "unknown choice 'forex'", 'stocks, options, index']),
        (
            ['--config.data.stream=stocks', '--config.task.stream=stocks'],
            ["column 'sip_timestamp'", 'no such column'],
        ),
        (['--config.data.on_bad_file=ignore'], ["column 'on_bad_file'", "'ignore'", 'stop, skip']),
        (['--config.data.zone=Mars/Phobos'], ["column 'zone'", "'Mars/Phobos'"]),
        (['--config.data.horizons=abc'], ["column 'data.horizons'", "'abc' is no int", '(1, 5)']),
        (['--config.data.horizons=()'], ["column 'horizons'", '() are no horizons', 'at least one']),
        (['--config.data.horizon_days=lunar'], ["column 'days'", "'lunar'", 'calendar, trading']),
        (['--config.task.loss=hubre'], ["task.loss is 'hubre'", 'huber']),
        (['--config.train.metric=sharpe'], ["train.metric is 'sharpe'", 'loss, mae, qlike']),
    ],
    ids=lambda v: v[0].partition('=')[0] if isinstance(v, list) and v[0].startswith('--') else '',
)
def test_a_bad_setting_is_named(files, train, tmp_path, flags, words):
    (files / 'empty').mkdir()
    (files / 'none.txt').write_text('\n')
    (files / 'twice.txt').write_text('SPX\nVIX\nSPX\n')
    (files / 'other.txt').write_text('NDX\n')
    assert_refused(train(*(f.format(files=files) for f in flags)), *words)
    assert not (tmp_path / 'run' / 'checkpoints').exists() or not list((tmp_path / 'run' / 'checkpoints').iterdir())
    assert not (tmp_path / 'run' / 'manifest.json').exists() and not (tmp_path / 'run' / 'metrics.jsonl').exists()


@pytest.mark.parametrize(
    ('flag', 'words'),
    [
        ('data.horizons=(3,)', ["column 'rv_3d_forward'", 'no such column']),
        ('data.horizons=(1,2)', ["column 'task.horizons'", 'it is 1, not 2', 'task.horizons=2']),
        ('train.metric=sharpe', ["train.metric is 'sharpe'", 'loss, mae, qlike']),
        ('train.alarm=coverage', ["train.alarm is 'coverage'", 'loss, mae, qlike']),
        ('task.stream=stocks', ["column 'task.stream'", 'data are of the stream index']),
        ('task.num_tickers=9', ["column 'task.num_tickers'", 'it is 9, not 0']),
    ],
)
@pytest.mark.parametrize('job', ['train', 'validate'])
def test_a_mistake_in_the_settings_is_told_before_days_are_framed(train, tmp_path, monkeypatch, job, flag, words):
    monkeypatch.setattr('fjq.data.ticks.tcn.build_bank', lambda *_: pytest.fail('days were framed'))
    assert_refused(train(f'--config.{flag}', job=job), *words)
    assert not left(tmp_path)


@pytest.mark.parametrize('job', ['evaluate', 'forecast', 'export', 'embed', 'report'])
def test_a_job_that_needs_a_run_asks_for_one(train, tmp_path, job):
    assert_refused(train(job=job), str(tmp_path / 'run'), 'there is no run here', 'Train first')
    assert not left(tmp_path)


def test_the_stocks_of_a_small_device_need_their_list(tmp_path, capsys, monkeypatch):
    config = CONFIG.parent.parent / 'configs' / 'tcn_stocks.py'
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'stocks').mkdir()
    code = command.run(f'--config={config}:cpu', '--workdir=run', '--config.data.root=stocks', '--config.data.targets=')
    assert_refused(
        (code, capsys.readouterr().err.splitlines(), ''),
        'top_stocks.txt',
        "column 'tickers'",
        'no such file',
        '--job=top_stocks',
    )
