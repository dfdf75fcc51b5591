"""The loop against the step fed by hand, and what ends a run."""

import dataclasses
import json
import math
import shutil

import jax
import numpy as np
import pytest
import toy
from toy import experiment

from fjq import run
from fjq import train as loop
from fjq.adopt import check_resumed
from fjq.checkpoint import best_step, read_params
from fjq.clear import clear
from fjq.data.windows import Split
from fjq.errors import InputError
from fjq.jobs import validate as validate_job
from fjq.keys import make_key
from fjq.optim import make_optimizer
from fjq.paths import flatten
from fjq.step import init_state, make_train_step
from fjq.task import Shard
from fjq.train import train


@pytest.fixture(autouse=True, scope='module')
def keep_every_program():
    """The toy compiles in less than what the cache keeps by default, and the same programs come again and again."""
    before = jax.config.jax_persistent_cache_min_compile_time_secs
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.0)
    yield
    jax.config.update('jax_persistent_cache_min_compile_time_secs', before)


def lines(workdir):
    return [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]


def train_lines(workdir):
    return [line for line in lines(workdir) if 'loss' in line]


def valid_lines(workdir):
    return [line for line in lines(workdir) if 'valid/loss' in line]


def by_hand(config, steps):
    """The states and metrics of the first steps, from the step alone: no loop, one device, everything read at once."""
    task, data = config.task.build(), config.data.open(None, None)
    params, _ = jax.eval_shape(task.init, jax.random.key(0))
    optimizer = make_optimizer(config.optim, config.train.steps, params)
    state = jax.jit(lambda key: init_state(task, optimizer, config.train.ema, key))(make_key(config.seed, 'init'))
    step = jax.jit(make_train_step(task, optimizer, micro_batches=1, ema=config.train.ema, seed=config.seed))
    batches, history = data.train(config.seed, Shard()), []
    for i in range(steps):
        state, metrics = step(state, batches[i])
        history.append((jax.device_get(state), {k: float(v) for k, v in metrics.items()}))
    return history


def mean_square(config, params):
    """The validation loss in NumPy, over every row once."""
    data, n = config.data.open(None, None), config.data.rows
    x, y = data.x[n:].astype(np.float64), data.y[n:].astype(np.float64)
    error = x @ np.float64(params['linear']['kernel'])[:, 0] + np.float64(params['linear']['bias'])[0] - y
    return (error**2).mean(), np.abs(error).mean()


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
    """A run with averaged weights and dropout, its folder and what it returned."""
    workdir = tmp_path_factory.mktemp('run')
    config = experiment(train__ema=0.8, task__dropout=0.2)
    return config, workdir, train(config, workdir)


def test_overfits(tmp_path):
    options = {'train__steps': 60, 'train__eval_every': 60, 'train__save_every': 60, 'optim__learning_rate': 0.2}
    figures = train(experiment(data__noise=0.0, data__batch=48, **options), tmp_path)
    assert figures['loss'] < 2e-3 and figures['mae'] < 0.05  # an untrained model has 15 and 3


def test_metrics_read_late_are_those_of_their_step(finished):
    config, workdir, _ = finished
    logged = train_lines(workdir)
    assert [line['step'] for line in logged] == list(range(1, 21))
    for line, (_, metrics) in zip(logged, by_hand(config, 20), strict=True):
        for name in metrics:
            assert line[name] == pytest.approx(metrics[name], rel=1e-5), (line['step'], name)


def test_the_rate_is_that_of_the_update(finished):
    config, workdir, _ = finished
    schedule = loop.make_schedule(config.optim, 20)
    for line in train_lines(workdir):
        assert line['learning_rate'] == pytest.approx(float(schedule(line['step'] - 1)), abs=1e-8)


def test_the_averaged_weights_are_validated_and_read(finished):
    config, workdir, figures = finished
    history = by_hand(config, 20)
    for line in valid_lines(workdir)[1:]:
        state = history[line['step'] - 1][0]
        assert line['valid/loss'] == pytest.approx(mean_square(config, state['ema'])[0], rel=1e-5)
        assert line['valid/loss'] != pytest.approx(mean_square(config, state['params'])[0], rel=1e-2)
    assert [line['step'] for line in valid_lines(workdir)] == [0, 5, 10, 15, 20]
    assert figures['mae'] == pytest.approx(mean_square(config, history[-1][0]['ema'])[1], rel=1e-5)
    weights = read_params(workdir, 20)
    np.testing.assert_allclose(weights.params['linear']['kernel'], history[-1][0]['ema']['linear']['kernel'], atol=1e-6)


def test_the_host_reads_a_step_when_the_next_is_on_its_way(tmp_path, monkeypatch):
    events = []
    read, batch = loop._Loop._read, loop._Loop._next_batch
    monkeypatch.setattr(loop._Loop, '_read', lambda self, step, m: (events.append(('read', step)), read(self, step, m)))
    monkeypatch.setattr(
        loop._Loop, '_next_batch', lambda self: (events.append(('start', self.step + 1)), batch(self))[1]
    )
    train(experiment(train__steps=8, train__eval_every=4, train__save_every=4), tmp_path)
    assert [step for kind, step in events if kind == 'read'] == list(range(1, 9))
    late = [step for step in range(1, 9) if events.index(('read', step)) > events.index(('start', min(step + 1, 8)))]
    assert late == [1, 2, 3, 5, 6, 7, 8]  # only a mark is read before the next step starts


def test_nothing_crosses_between_host_and_device_unasked(tmp_path, monkeypatch):
    """Batches are put and metrics got by name; anything else would be a copy that nobody sees, or a wait."""
    run_ = loop._Loop.run

    def guarded(self):
        with jax.transfer_guard('disallow'):
            return run_(self)

    monkeypatch.setattr(loop._Loop, 'run', guarded)
    train(experiment(), tmp_path / 'run')
    monkeypatch.setattr(loop, 'put_batch', lambda mesh, batch: batch)
    with pytest.raises(Exception, match='[Dd]isallowed'):
        train(experiment(), tmp_path / 'unasked')


def test_lines_come_every_log_every(tmp_path):
    train(experiment(train__log_every=7), tmp_path)
    assert [line['step'] for line in train_lines(tmp_path)] == [7, 14, 20]


def test_validation_counts_every_row_once_whatever_the_batch(finished):
    """100 rows in batches of 16 leave four and a padded rest; in batches of 8 another."""
    config, workdir, _ = finished
    weights = read_params(workdir, 20)
    mesh = loop.make_mesh(config.mesh)
    eval_step = jax.jit(loop.make_eval_step(config.task.build()))
    for batch in (8, 16, 104):
        data = dataclasses.replace(config.data, batch=batch).open(None, None)
        figures = loop.validate(eval_step, weights.params, weights.extra, data, mesh)
        assert (figures['loss'], figures['mae']) == pytest.approx(mean_square(config, weights.params), rel=1e-5)


def test_micro_batches_give_the_same_run(tmp_path):
    results = []
    for count in (1, 2, 4):
        config = experiment(data__batch=32, train__micro_batches=count, train__steps=10, train__eval_every=10)
        train(config, tmp_path / str(count))
        results.append(read_params(tmp_path / str(count)).params['linear'])
    for other in results[1:]:
        for name in ('kernel', 'bias'):
            np.testing.assert_allclose(other[name], results[0][name], atol=1e-6)


def test_a_finished_run_is_left_alone(finished):
    config, workdir, figures = finished
    before = (workdir / 'metrics.jsonl').read_text()
    assert train(config, workdir) == figures
    assert (workdir / 'metrics.jsonl').read_text() == before


def test_a_longer_run_goes_on(tmp_path):
    train(experiment(train__steps=10), tmp_path)
    train(experiment(train__steps=20), tmp_path)
    assert [line['step'] for line in train_lines(tmp_path)] == list(range(1, 21))


def frozen(**changes):
    """A run whose metric never changes: the start stays the best."""
    return experiment(optim__rate_rules=('.*=0',), train__patience=2, **changes)


def test_patience_ends_a_run_and_is_resumed(tmp_path):
    train(frozen(train__steps=100), tmp_path / 'whole')
    assert valid_lines(tmp_path / 'whole')[-1]['step'] == 10
    train(frozen(train__steps=5), tmp_path / 'cut')  # one evaluation without a better metric
    train(frozen(train__steps=100), tmp_path / 'cut')
    assert valid_lines(tmp_path / 'cut')[-1]['step'] == 10
    before = lines(tmp_path / 'cut')
    train(frozen(train__steps=100), tmp_path / 'cut')  # the same command stays stopped
    assert lines(tmp_path / 'cut') == before


def test_the_direction_of_the_metric_counts(tmp_path):
    """For a growing metric that should shrink, the start is the best; turned round, the last is."""
    options = {'optim__learning_rate': -0.02, 'train__steps': 20, 'train__keep_best': 1}
    for mode, best in (('min', 0), ('max', 20)):
        train(experiment(train__mode=mode, **options), tmp_path / mode)
        assert [line['valid/loss'] for line in valid_lines(tmp_path / mode)] == sorted(
            line['valid/loss'] for line in valid_lines(tmp_path / mode)
        )
        assert best_step(tmp_path / mode / 'checkpoints') == best


def rising(above, **changes):
    """A run that gets better with every update; its budget is its own rate, 0.01 at first and 0.009 more each time."""
    budget = {'train__budget': 'learning_rate', 'train__budget_above': above}
    return experiment(optim__warmup_steps=10, **budget, **changes)


@pytest.mark.parametrize(
    ('every', 'above', 'best', 'end'),
    [(1, 0.05, 4, 6), (5, 0.05, 0, 7), (5, 0.06, 5, 8), (20, 0.05, 0, 7)],
)
def test_a_state_beyond_the_budget_is_never_the_best(tmp_path, capsys, every, above, best, end):
    """The figure of update k is that of state k - 1, so state 5 is the first whose own, 0.055, is beyond 0.05."""
    train(rising(above, train__eval_every=every, train__save_every=every), tmp_path)
    figure = {line['step'] - 1: line['learning_rate'] for line in train_lines(tmp_path)}
    evaluated = [line['step'] for line in valid_lines(tmp_path)]
    assert evaluated[-1] == max(figure) + 1 == end and max(figure.values()) > above, 'the run ends, and is evaluated'
    assert best == max(step for step in evaluated if figure.get(step, 1) <= above)
    assert best_step(tmp_path / 'checkpoints') == read_params(tmp_path).step == best
    loss = {line['step']: line['valid/loss'] for line in valid_lines(tmp_path)}
    assert min(loss, key=loss.get) > best, 'what came after would have been chosen'
    said = capsys.readouterr().out.splitlines()
    assert all(
        line.endswith(', beyond the budget') == (figure.get(int(line[5]), 1) > above)
        for line in said
        if 'valid' in line
    )


@pytest.mark.parametrize(('above', 'best'), [(0.055, 0), (0.11, 5)])
def test_the_last_state_is_held_to_the_budget_too(tmp_path, above, best):
    """No update follows it that would tell."""
    config = rising(above, train__steps=5, optim__final_learning_rate=0.1, optim__learning_rate=0.05)
    config.optim.warmup_steps = 4
    train(config, tmp_path)
    assert [line['learning_rate'] <= 0.055 for line in train_lines(tmp_path)] == [True] * 5
    assert best_step(tmp_path / 'checkpoints') == best


def test_a_state_made_beyond_the_budget_is_not_the_best_although_its_own_figure_is_within_it(tmp_path):
    config = rising(0.09, train__steps=6, train__eval_every=6)  # rates up to 0.1, and 0 after the end
    config.optim.warmup_steps = 5
    train(config, tmp_path)
    assert [line['learning_rate'] > 0.09 for line in train_lines(tmp_path)] == [False] * 5 + [True]
    assert best_step(tmp_path / 'checkpoints') == 0


def test_the_start_is_within_any_budget(tmp_path):
    train(experiment(train__budget='grad_norm', train__budget_above=0.0), tmp_path)
    assert len(train_lines(tmp_path)) == 2 and best_step(tmp_path / 'checkpoints') == 0


def test_looking_ahead_at_the_budget_changes_no_update(tmp_path):
    train(experiment(task__dropout=0.2), tmp_path / 'free')
    train(experiment(task__dropout=0.2, train__budget='mae', train__budget_above=1e9), tmp_path / 'held')
    states = [read_params(tmp_path / name, 20).state for name in ('free', 'held')]
    jax.tree.map(np.testing.assert_array_equal, *states)


def test_one_bad_batch_is_skipped_and_counted(tmp_path, capsys):
    config = experiment(data__poison_from=6, data__poison_to=7)
    train(config, tmp_path)
    logged = {line['step']: line for line in train_lines(tmp_path)}
    assert (logged[7]['loss'], logged[7]['bad'], logged[7]['skipped']) == (None, 1, 1)
    assert (logged[8]['bad'], logged[20]['skipped']) == (0, 1)
    assert 'step 7: the loss or gradient is not finite; update skipped (1 so far)' in capsys.readouterr().out
    history = by_hand(config, 8)
    for a, b in zip(*(jax.tree.leaves(history[i][0]['params']) for i in (5, 6)), strict=True):
        np.testing.assert_array_equal(a, b)
    assert logged[8]['loss'] == pytest.approx(history[7][1]['loss'], rel=1e-5)
    assert logged[8]['learning_rate'] == logged[7]['learning_rate']  # the schedule steps with the updates
    assert not (tmp_path / 'failure.json').exists()


def test_a_batch_without_rows_is_skipped_and_said(tmp_path, capsys):
    train(experiment(data__masked_from=6, data__masked_to=8), tmp_path)
    logged = {line['step']: line for line in train_lines(tmp_path)}
    assert (logged[8]['loss'], logged[8]['weight'], logged[8]['skipped'], logged[20]['skipped']) == (None, 0, 2, 2)
    assert 'step 7: no row of the batch takes part; update skipped (1 so far)' in capsys.readouterr().out


def test_three_bad_batches_in_a_row_end_the_run(tmp_path):
    config = experiment(data__poison_from=6)
    with pytest.raises(InputError, match=r'not finite, in 3 updates in a row up to step 9.*last good state is saved'):
        train(config, tmp_path)
    failure = json.loads((tmp_path / 'failure.json').read_text())
    assert (failure['step'], failure['last good step']) == (9, 6)
    weights = read_params(tmp_path, failure['checkpoint'])
    good = by_hand(config, 6)[-1][0]['params']
    for path, leaf in flatten(weights.params).items():
        np.testing.assert_allclose(leaf, flatten(good)[path], atol=1e-6)
        assert np.isfinite(leaf).all()
    assert train_lines(tmp_path)[-1]['step'] == failure['checkpoint']  # nothing that was done is missing
    with pytest.raises(InputError, match='not finite'):  # the same command meets the same data
        train(config, tmp_path)
    config.data.poison_to = 9  # the data is put right (this window is no part of the toy's fingerprint)
    assert math.isfinite(train(config, tmp_path)['loss'])
    assert not (tmp_path / 'failure.json').exists()
    assert train_lines(tmp_path)[-1]['step'] == 20


def test_batches_without_rows_in_a_row_end_the_run_too(tmp_path):
    with pytest.raises(InputError, match='no row of the batch takes part, in 2 updates in a row up to step 5'):
        train(experiment(data__masked_from=3, train__max_bad_steps=2), tmp_path)


def test_compiled_programs_are_counted(tmp_path, monkeypatch):
    whole = toy._Steps.__getitem__
    monkeypatch.setattr(
        toy._Steps,
        '__getitem__',
        lambda self, i: {k: v[: 8 if i >= 12 else None] for k, v in whole(self, i).items()},
    )
    train(experiment(train__eval_every=20, train__save_every=20), tmp_path)
    compiles = [line['compiles'] for line in train_lines(tmp_path)]
    assert compiles == [2] * 11 + [3] * 9  # evaluation and step; step 12 is read when 13, of another shape, is compiled


def test_init_from_takes_the_best_parameters_that_fit(finished, tmp_path, monkeypatch, capsys):
    _, source, _ = finished
    old = flatten(read_params(source).params)
    stay = {'optim__rate_rules': ('.*=0',), 'train__steps': 5, 'init_from': str(source)}
    train(experiment(**stay, train__ema=0.5), tmp_path / 'same')
    new = read_params(tmp_path / 'same')
    for path, leaf in flatten(new.params).items():
        np.testing.assert_allclose(leaf, old[path], atol=1e-7)
    assert 'took 2 of 2 parameters' in capsys.readouterr().out
    train(experiment(**stay, task__width=4, data__width=4), tmp_path / 'narrow')
    assert 'took 1 of 2 parameters' in capsys.readouterr().out
    np.testing.assert_array_equal(read_params(tmp_path / 'narrow').params['linear']['bias'], old['linear/bias'])
    init = toy.ToyTask.init
    monkeypatch.setattr(
        toy.ToyTask, 'init', lambda self, key: ({'renamed': init(self, key)[0]['linear']}, {'seen': 0.0})
    )
    forward = toy.ToyTask._forward
    monkeypatch.setattr(toy.ToyTask, '_forward', lambda self, p, batch: forward(self, {'linear': p['renamed']}, batch))
    with pytest.raises(InputError, match='none of its parameters fits'):
        train(experiment(**stay), tmp_path / 'other')


def test_init_from_takes_what_was_learnt_beside_the_parameters(finished, tmp_path):
    _, source, _ = finished
    seen = read_params(source).extra['seen']
    train(experiment(train__steps=3, init_from=str(source)), tmp_path)
    assert seen > 0 and read_params(tmp_path).extra['seen'] == seen + 3 * 16


def test_init_from_only_starts_a_run(finished, tmp_path):
    _, source, _ = finished
    level = {'optim__warmup_steps': 0, 'optim__final_learning_rate': 0.1}  # a rate that the length does not change
    train(experiment(train__steps=5, **level), tmp_path)
    train(experiment(train__steps=10, init_from=str(source), **level), tmp_path)
    train(experiment(train__steps=10, **level), tmp_path / 'plain')
    np.testing.assert_array_equal(
        read_params(tmp_path, 10).params['linear']['kernel'],
        read_params(tmp_path / 'plain', 10).params['linear']['kernel'],
    )


def test_init_from_a_folder_without_a_run_is_named(tmp_path):
    with pytest.raises(InputError, match='no checkpoint here'):
        train(experiment(init_from=str(tmp_path / 'nothing')), tmp_path / 'run')


@pytest.mark.parametrize(
    ('change', 'words'),
    [({'data__noise': 0.5}, r'noise: 0.1, now 0.5'), ({'seed': 1}, 'seed: 0, now 1')],
)
def test_other_data_or_another_seed_is_refused(finished, change, words):
    config, workdir, _ = finished
    before = (workdir / 'config.json').read_text()
    with pytest.raises(InputError, match=words):
        train(experiment(train__ema=0.8, task__dropout=0.2, **change), workdir)
    assert (workdir / 'config.json').read_text() == before  # what the run was trained with still stands there


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        ({'task__dropout': 0.5}, r'other settings \(task.dropout: 0.2, now 0.5\).*--fresh.*--config.init_from='),
        (
            {'train__metric': 'mae', 'train__mode': 'max'},
            'train.metric: "loss", now "mae"; train.mode: "min", now "max"',
        ),
    ],
)
def test_another_loss_or_metric_is_refused(finished, change, words):
    _, workdir, _ = finished
    with pytest.raises(InputError, match=words):
        train(experiment(train__ema=0.8, **{'task__dropout': 0.2} | change), workdir)


def test_what_else_changes_is_said_and_the_run_goes_on(finished, tmp_path, capsys):
    shutil.copytree(finished[1], tmp_path / 'run')
    train(experiment(train__ema=0.8, task__dropout=0.2), tmp_path / 'run')
    assert 'other settings' not in capsys.readouterr().out
    train(experiment(train__ema=0.8, task__dropout=0.2, train__steps=21, optim__learning_rate=0.05), tmp_path / 'run')
    said = capsys.readouterr().out
    assert 'going on with other settings (optim.learning_rate: 0.1, now 0.05; train.steps: 20, now 21)\n' in said


def test_precision_memory_and_how_forecasts_are_drawn_are_no_other_function():
    gpt, drawn = {'remat': 'none', 'width': 4}, {'paths': 4, 'sampling': {'top_k': 0}}
    stored = {'type': 'T', 'task': {'dtype': 'float32', 'gpt': gpt, 'old': 1, **drawn}}
    gpt, drawn = {'remat': 'block', 'width': 4}, {'paths': 8, 'sampling': {'top_k': 5}}
    now = {'type': 'T', 'task': {'dtype': 'bfloat16', 'gpt': gpt, 'new': 1, **drawn}}
    check_resumed(stored, now, 'run')  # fields that only one has are of another version of the code
    now['task']['gpt']['width'] = 8
    with pytest.raises(InputError, match=r'run: .*\(task.gpt.width: 4, now 8\)'):
        check_resumed(stored, now, 'run')


def test_another_model_is_refused(finished):
    _, workdir, _ = finished
    words = r"another model.*'params.linear.kernel' is float32\[8, 1\] in it and float32\[4, 1\].*fresh"
    with pytest.raises(InputError, match=words):
        train(experiment(train__ema=0.8, task__width=4, data__width=4), workdir)


def test_an_unknown_metric_is_named_before_the_first_step(tmp_path):
    with pytest.raises(InputError, match=r"train.metric is 'qlik'.*loss, mae"):
        train(experiment(train__metric='qlik'), tmp_path)
    assert not (tmp_path / 'metrics.jsonl').exists()


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        ({'train__steps': 0}, 'train.steps is 0'),
        ({'train__micro_batches': 0}, 'train.micro_batches is 0'),
        ({'train__eval_every': 0}, 'train.eval_every is 0'),
        ({'train__save_every': -1}, 'train.save_every is -1'),
        ({'train__log_every': 0}, 'train.log_every is 0'),
        ({'train__max_bad_steps': 0}, 'train.max_bad_steps is 0'),
        ({'train__ema': 1.0}, 'train.ema is 1.0'),
        ({'train__mode': 'least'}, "train.mode is 'least'"),
        ({'optim__betas': (0.9,)}, 'optim.betas is'),
        ({'optim__warmup_steps': 20}, 'optim.warmup_steps is 20 in a run of 20 steps'),
        ({'data__batch': 12}, 'a batch of 12 rows does not divide among 8 devices'),
        ({'train__micro_batches': 17}, '17 micro-batches of a batch of 16 rows'),
    ],
)
def test_a_config_that_cannot_run_is_named(tmp_path, change, words):
    with pytest.raises(InputError, match=words):
        train(experiment(**change), tmp_path)


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        ({'train__mode': 'least'}, 'train.mode'),
        ({'optim__betas': (0.9,)}, 'optim.betas'),
        ({'optim__decay_rules': ('x=1',)}, 'optim.decay_rules'),
        ({'split': {'train_end': '2022-13-01'}}, "'2022-13-01' is no date"),
        ({'split': {'valid_end': '2021-01-01'}}, "'data.split': train ends at 2022-01-31 and valid at 2021-01-01"),
        ({'split': {'purge_days': -1}}, "'data.split.purge_days': -1 days. Give 0 or more"),
    ],
)
@pytest.mark.parametrize('job', [train, validate_job.run])
def test_a_cheap_mistake_is_told_before_the_data_are_opened(tmp_path, monkeypatch, job, change, words):
    config = experiment(**{k: v for k, v in change.items() if k != 'split'})
    dates = {'train_end': '2022-01-31', 'valid_end': '2022-02-28', 'purge_days': 0, 'embargo_days': 0}
    config.data.split = Split(**(dates | change.get('split', {})))
    monkeypatch.setattr(toy.ToyData, 'open', lambda *_: pytest.fail('the data were opened'))
    with pytest.raises(InputError, match=words):
        job(config, tmp_path)


def test_devices_share_the_micro_batches_and_it_is_said(tmp_path, capsys):
    train(experiment(train__steps=3, data__batch=32, train__micro_batches=16), tmp_path)
    assert '2 micro-batches of 16 rows; train.micro_batches is 16 on one device' in capsys.readouterr().out


def test_an_empty_validation_split_is_named(tmp_path, monkeypatch):
    batches = toy.ToyDataset.batches
    monkeypatch.setattr(toy.ToyDataset, 'batches', lambda self, split, shard: batches(self, split, shard)[:0])
    with pytest.raises(InputError, match='the valid split is empty'):
        train(experiment(), tmp_path)


def test_a_split_where_nothing_takes_part_is_named(tmp_path, monkeypatch):
    pick = toy.ToyDataset.pick
    monkeypatch.setattr(
        toy.ToyDataset, 'pick', lambda self, i, mask, row, shard: pick(self, i, mask & False, row, shard)
    )
    with pytest.raises(InputError, match='no row of the valid split takes part'):
        train(experiment(train__eval_every=1), tmp_path)


def test_two_runs_do_not_share_a_folder(tmp_path):
    with run.lock(tmp_path), pytest.raises(InputError, match='another run is at work'):
        train(experiment(), tmp_path)
    with run.lock(tmp_path), pytest.raises(InputError, match='another run is at work'):
        clear(tmp_path)


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(InputError, match='the run folder can not be written'):
        train(experiment(), tmp_path / 'file' / 'run')


def test_the_facts_of_a_run_are_on_disk(finished):
    config, workdir, _ = finished
    manifest = json.loads((workdir / 'manifest.json').read_text())
    assert manifest['seed'] == 0 and manifest['data'] == {'rows': 100, 'noise': 0.1}
    assert manifest['versions']['jax'] == jax.__version__ and '8' in manifest['device']
    assert json.loads((workdir / 'config.json').read_text())['train']['ema'] == 0.8
