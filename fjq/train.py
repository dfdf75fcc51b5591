"""The only training loop: restore, iterate, step, log, validate, save. It knows no model.

The host never waits for the device to log: the metrics of step n are read after step n + 1 is on its way.
Batch n is a function of (data fingerprint, seed, n) and random keys are folded from (seed, name, n), so a
run that is killed anywhere and started again gives the same bits as one that never stopped.
"""

import contextlib
import functools
import json
import math
import signal
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from fjq import log
from fjq.adopt import check_resumed
from fjq.atomic import write_atomic
from fjq.checkpoint import Checkpoints
from fjq.clock import Clock, count_compiles
from fjq.config import Experiment, to_dict
from fjq.errors import InputError
from fjq.feed import make_gather, prefetch, read_batches
from fjq.fit import check_figure, check_fit, check_settings
from fjq.keys import make_key
from fjq.mesh import Vote, count_micro_batches, make_mesh, put_batch, shard_state, this_shard, wait_for_all
from fjq.optim import make_optimizer, make_schedule
from fjq.run import FITTED, cache_folder, lock, write_facts
from fjq.signals import Interrupted, catch_signals
from fjq.start import begin, load_initial
from fjq.step import best_params, init_state, make_eval_step, make_train_step
from fjq.task import Batch, Dataset, Shard, Task

_copy = jax.jit(functools.partial(jax.tree.map, jnp.copy))  # all leaves by one program


def train(config: Experiment, workdir: Path) -> dict[str, float]:
    """Trains to `config.train.steps`, resuming what the workdir holds.

    Returns:
      The last validation figures.

    Raises:
      InputError: the data, the config or a checkpoint does not fit; or the loss stayed non-finite.
      Interrupted: SIGTERM or Ctrl-C; everything is saved.
    """
    workdir = Path(workdir)
    with contextlib.ExitStack() as stack:
        stack.enter_context(lock(workdir))
        return _Loop(config, workdir, *open_training(config, workdir), stack).run()


def open_training(config: Experiment, workdir: Path) -> tuple[Task, Dataset]:
    """The model and the data of a training, which fit each other and the weights that it starts from.

    Raises:
      InputError: what would stop the training before its first update.
    """
    task = config.task.build()
    check_settings(config, task)
    dataset = _open_data(config, workdir)
    check_fit(task, dataset, *([Path(config.init_from)] if config.init_from else []))
    return task, dataset


class _Loop:
    """One run. `stack` closes what it opens, however the run ends."""

    def __init__(self, config: Experiment, workdir: Path, task: Task, dataset: Dataset, stack: contextlib.ExitStack):
        self.config, self.workdir, self.dataset = config, workdir, dataset
        t = config.train
        self.mesh = make_mesh(config.mesh)
        self.shard, self.vote, self.asked = this_shard(self.mesh), Vote(self.mesh), None
        self.gather = make_gather(dataset, self.mesh)
        key = make_key(config.seed, 'init')
        params, extra = jax.eval_shape(task.init, key)
        optimizer, schedule = make_optimizer(config.optim, t.steps, params), make_schedule(config.optim, t.steps)
        init = functools.partial(init_state, task, optimizer, t.ema)
        shapes = jax.eval_shape(init, key)
        shardings = shard_state(self.mesh, config.mesh, shapes)
        rows = len(dataset.train(config.seed, Shard())[0]['mask'])  # of all processes
        cuts = count_micro_batches(rows, t.micro_batches, self.mesh.shape['data'])
        if cuts != t.micro_batches:
            log.say(
                f'{cuts} micro-batches of {rows // cuts} rows; train.micro_batches is {t.micro_batches} on one device'
            )
        step = make_train_step(task, optimizer, micro_batches=cuts, ema=t.ema, seed=config.seed)
        self.train_step = jax.jit(_with_rate(step, schedule), donate_argnums=0, out_shardings=(shardings, None))
        self.eval_step = jax.jit(make_eval_step(task))
        self._check_metrics(shapes)
        self.fingerprint = json.loads(json.dumps({'seed': config.seed, **dataset.fingerprint()}, default=str))
        self.checkpoints = Checkpoints(workdir / 'checkpoints', mode=t.mode, keep_best=t.keep_best)
        stack.callback(self.checkpoints.close)
        self.iterator = iter(prefetch(dataset.train(config.seed, self.shard)))
        stack.callback(self.iterator.close)
        self.best, self.since_best, self.validation, self.train_loss = math.nan, 0, {}, math.nan
        self.spent = False  # whether an update began from a state beyond the budget
        like = jax.tree.map(lambda s, sh: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=sh), shapes, shardings)
        restored = self.checkpoints.restore(like)
        self.starts = restored is None
        if restored:
            self.step, self.state, facts = restored
            self._resume(facts)
        else:
            self.step, self.state = 0, jax.jit(init, out_shardings=shardings)(key)
            if config.init_from:
                self.state = load_initial(self.state, Path(config.init_from), like)
            self.state = jax.device_put(begin(task, self.state, dataset), shardings)
        self.writer = log.Writer(workdir)
        stack.callback(self.writer.close)
        self.failure: dict[str, Any] = {}
        if jax.process_index() == 0:
            self.writer.truncate(-1 if self.starts else self.step)
            (workdir / 'failure.json').unlink(missing_ok=True)
            write_facts(config, workdir, dataset.fingerprint())
            if hasattr(dataset, 'save_fitted'):
                dataset.save_fitted(workdir / FITTED)
        self.compiles, self.clock = count_compiles(), Clock()
        count = sum(x.size for x in jax.tree.leaves(params))
        log.say(f'{config.name}: {count:,} parameters, {self.mesh.shape["data"]} x {self.mesh.shape["model"]} devices')

    def run(self) -> dict[str, float]:
        left, pending = max(self.config.train.steps - self.step, 0), None
        with catch_signals() as signals:
            if self.starts:  # an update that only makes things worse may not take the place of what it began from
                self._save(self._validate())
                self.clock.restart()
            for _ in log.track(range(left), total=left, what=self.config.name):
                if self._out_of_patience() or self.spent:
                    break
                self.state, metrics = self.train_step(self.state, self._next_batch())
                self.step += 1
                if pending is not None:
                    self._read(*pending)
                pending = (self.step, metrics)
                stop = self._must_stop(signals)
                if stop or self.failure or self._is_mark():
                    self._read(*pending)
                    pending = None
                    self._save(self._validate() if self._is_evaluation() and not self.failure else None)
                    if self.failure:
                        self._give_up()
                    self.clock.restart()
                if stop and self.step < self.config.train.steps:
                    self.checkpoints.wait()
                    raise Interrupted(signals[0] if signals else signal.SIGTERM)
        return self.validation

    def _next_batch(self) -> Batch:
        with self.clock.waiting():
            batch = next(self.iterator)
        return self.gather(put_batch(self.mesh, batch))

    def _is_evaluation(self) -> bool:
        return self.step == self.config.train.steps or self.step % self.config.train.eval_every == 0 or self.spent

    def _is_mark(self) -> bool:
        return self._is_evaluation() or self.step % self.config.train.save_every == 0

    def _check_metrics(self, state: Any) -> None:
        """A misspelt metric is told before the first step, not after the first evaluation."""
        batch = next(iter(read_batches(self.dataset, 'valid', self.shard)), None)
        if batch is None:
            raise InputError('the valid split is empty', remedy='check the split dates')
        batch = self.gather(put_batch(self.mesh, batch))
        valid = {'loss', *jax.eval_shape(self.eval_step, state['params'], state['extra'], batch).metrics}
        for field, who, known in (
            ('metric', 'validation', valid),
            ('alarm', 'validation', valid),
            ('budget', 'training', self._training_metrics(state)),
        ):
            check_figure(self.config.train, field, who, known)

    def _training_metrics(self, state: Any) -> set[str]:
        if not self.config.train.budget:
            return set()
        batch = self.gather(put_batch(self.mesh, self.dataset.train(self.config.seed, self.shard)[0]))
        return set(jax.eval_shape(self.train_step, state, batch)[1])

    def _validate(self) -> float | None:
        """The metric that ranks this state; None where it is beyond the budget."""
        figures = self._validation_figures()
        self.validation = figures
        metric, mode = figures[self.config.train.metric], self.config.train.mode
        better = metric < self.best if mode == 'min' else metric > self.best
        within = self._is_within_budget()
        if within and math.isfinite(metric) and (math.isnan(self.best) or better):
            self.best, self.since_best = metric, 0
        elif self.step:
            self.since_best += 1
        self._write(self.step, {f'valid/{k}': v for k, v in figures.items()})
        text = ', '.join(f'{k} {v:.6g}' for k, v in figures.items())
        log.say(f'step {self.step}: valid {text}' + ('' if within else ', beyond the budget'))
        t = self.config.train
        if t.alarm and self.step and not figures[least := _find_least(figures, t.alarm)] >= t.alarm_below:
            self.failure = {
                'step': self.step,
                'why': f'{least} of the valid split is {figures[least]:.4g}, below {t.alarm_below}: it collapsed',
                'remedy': 'lower optim.learning_rate or look at the targets; the checkpoints up to here are kept',
                'metrics': figures,
            }
        return metric if within else None

    def _is_within_budget(self) -> bool:
        """Whether this state may be the best. Its figure is measured by the update that follows it, which is tried here
        on a copy: the very one that is made next, if any is. The start has spent nothing."""
        t = self.config.train
        if not t.budget or self.step == 0:
            return True
        if self.spent:
            return False
        batch = self.dataset.train(self.config.seed, self.shard)[self.step]
        batch = self.gather(put_batch(self.mesh, batch))
        _, metrics = self.train_step(_copy(self.state), batch)
        return jax.device_get(metrics[t.budget]).item() <= t.budget_above

    def _validation_figures(self) -> dict[str, float]:
        params, extra = best_params(self.state), self.state['extra']
        return validate(self.eval_step, params, extra, self.dataset, self.mesh, gather=self.gather)

    def _save(self, metric: float | None) -> None:
        facts = {
            'data': self.iterator.get_state(),
            'fingerprint': self.fingerprint,
            'best': None if math.isnan(self.best) else self.best,
            'since_best': self.since_best,
            'spent': self.spent,
            'validation': self.validation,
            'train_loss': self.train_loss,
            'config': to_dict(self.config),
        }
        self.checkpoints.save(self.step, self.state, facts, metric)

    def _resume(self, facts: dict[str, Any]) -> None:
        check_resumed(facts['config'], to_dict(self.config), self.workdir)
        stored, now = facts['fingerprint'], self.fingerprint
        if changed := [k for k in {**stored, **now} if stored.get(k) != now.get(k)]:
            was, is_ = (json.dumps(f.get(changed[0]))[:60] for f in (stored, now))
            raise InputError(
                f'the data changed since checkpoint {self.step} was written ({changed[0]}: {was}, now {is_})',
                file=self.workdir,
                remedy='restore the data and its settings, choose another --workdir, or start over with --fresh',
            )
        self.iterator.set_state(facts['data'])
        self.best = math.nan if facts['best'] is None else facts['best']
        self.since_best, self.spent = facts['since_best'], facts['spent']
        self.validation, self.train_loss = facts['validation'], facts['train_loss']
        log.say(f'resuming from step {self.step}')

    def _read(self, step: int, metrics: dict[str, jax.Array]) -> None:
        """Reads the metrics of a step that is done, writes them, and watches for skipped updates."""
        values = {k: v.item() for k, v in jax.device_get(metrics).items()}
        self.clock.stepped()
        self.train_loss = values['loss']
        t = self.config.train
        if values['bad']:
            why = 'the loss or gradient is not finite' if values['weight'] else 'no row of the batch takes part'
            log.say(f'step {step}: {why}; update skipped ({values["skipped"]} so far)')
        if step % t.log_every == 0 or values['bad'] or step == t.steps:
            self._write(step, values | {'compiles': self.compiles()} | self.clock.rates())
        if values['bad'] >= t.max_bad_steps and not self.failure:
            self.failure = {
                'step': step,
                'why': f'{why}, in {t.max_bad_steps} updates in a row up to step {step}',
                'remedy': 'look at the data or lower optim.learning_rate; the last good state is saved',
                'last good step': step - values['bad'],
                'metrics': values,
            }
        if t.budget and values[t.budget] > t.budget_above and not self.spent:
            self.spent = True
            log.say(f'step {step}: {t.budget} is {values[t.budget]:.4g}, its budget {t.budget_above}; stopping')

    def _write(self, step: int, values: dict[str, Any]) -> None:
        if jax.process_index() == 0:
            self.writer.write(step, values)

    def _give_up(self) -> None:
        self.checkpoints.wait()  # what is saved there is the last good state: skipped updates changed nothing
        if jax.process_index() == 0:
            facts = self.failure | {
                'checkpoint': self.step,
                'metrics': {k: repr(v) for k, v in self.failure['metrics'].items()},
            }
            write_atomic(self.workdir / 'failure.json', (json.dumps(facts, indent=1) + '\n').encode())
        why, remedy = self.failure['why'], self.failure['remedy']
        raise InputError(why, file=self.workdir / 'failure.json', remedy=remedy)

    def _must_stop(self, signals: list[int]) -> bool:
        """Whether a signal has come, here or in another process; there the answer is a step old in all of them."""
        if jax.process_count() == 1:
            return bool(signals)
        asked, self.asked = self.asked, self.vote.cast(bool(signals))
        return asked is not None and bool(asked)

    def _out_of_patience(self) -> bool:
        t = self.config.train
        if t.patience and self.since_best >= t.patience:
            log.say(f'step {self.step}: {t.metric} has not improved in {t.patience} evaluations; stopping')
            return True
        return False


def validate(
    eval_step, params, extra, dataset: Dataset, mesh, split: str = 'valid', gather=lambda batch: batch
) -> dict[str, float]:
    """The mean loss and metrics of a split: sums over every row, divided once.

    Raises:
      InputError: nothing in the split takes part.
    """
    total: dict[str, tuple[float, float]] = {}

    def add(loss):
        for name, pair in {'loss': (loss.total, loss.weight), **loss.metrics}.items():
            total[name] = tuple(a + float(b) for a, b in zip(total.get(name, (0.0, 0.0)), pair, strict=True))

    before = None
    for batch in read_batches(dataset, split, this_shard(mesh)):
        now = eval_step(params, extra, gather(put_batch(mesh, batch)))
        if before is not None:
            add(jax.device_get(before))  # read one batch late: the device works on, and holds two batches at most
        before = now
    if before is not None:
        add(jax.device_get(before))
    if not total or total['loss'][1] == 0:
        raise InputError(f'no row of the {split} split takes part', remedy='check the split dates and the targets')
    return {name: s / w if w else math.nan for name, (s, w) in total.items()}


def _open_data(config: Experiment, workdir: Path) -> Dataset:
    """Process 0 first: what it caches on a shared disk, the others find."""
    if jax.process_index() > 0:
        wait_for_all('process 0 has opened the data')
    dataset = config.data.open(cache_folder(config, workdir), config.parallel)
    if jax.process_index() == 0:
        wait_for_all('process 0 has opened the data')
    return dataset


def _with_rate(step, schedule):
    """The step, with the rate of its update among its metrics: computed beside it, not by a waiting host."""

    def run(state, batch):
        new, metrics = step(state, batch)
        return new, metrics | {'learning_rate': schedule(state['step'] - state['skipped'])}

    return run


def _find_least(figures: dict[str, float], name: str) -> str:
    """The least of a figure and its parts, by name; a part that no row belongs to is none."""
    parts = [k for k, value in figures.items() if k.startswith(f'{name}/') and not math.isnan(value)]
    return min([name, *parts], key=figures.get)
