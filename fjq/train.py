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
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from fjq import log
from fjq.checkpoint import Checkpoints, read_params, write_atomic
from fjq.config import Experiment, to_dict
from fjq.errors import InputError
from fjq.feed import prefetch, read_batches
from fjq.keys import make_key
from fjq.mesh import check_batch, make_mesh, put_batch, shard_state, this_shard
from fjq.optim import make_optimizer, make_schedule
from fjq.paths import flatten
from fjq.run import Interrupted, cache_folder, catch_signals, read_config, write_facts
from fjq.step import best_params, init_state, make_eval_step, make_train_step
from fjq.task import Batch, Dataset, Task


def train(config: Experiment, workdir: Path) -> dict[str, float]:
    """Trains to `config.train.steps`, resuming what the workdir holds.

    Returns:
      The last validation figures.

    Raises:
      InputError: the data, the config or a checkpoint does not fit; or the loss stayed non-finite.
      Interrupted: SIGTERM or Ctrl-C; everything is saved.
    """
    task: Task = config.task.build()
    dataset: Dataset = config.data.open(cache_folder(config, workdir), config.parallel)
    return _Loop(config, Path(workdir), task, dataset).run()


class _Loop:
    def __init__(self, config: Experiment, workdir: Path, task: Task, dataset: Dataset):
        self.config, self.workdir, self.task, self.dataset = config, workdir, task, dataset
        t = config.train
        self.mesh = make_mesh(config.mesh)
        key = make_key(config.seed, 'init')
        params, _ = jax.eval_shape(task.init, key)
        optimizer = make_optimizer(config.optim, t.steps, params)
        self.schedule = make_schedule(config.optim, t.steps)
        init = functools.partial(init_state, task, optimizer, t.ema)
        shapes = jax.eval_shape(init, key)
        shardings = shard_state(self.mesh, config.mesh, shapes)
        self.train_step = jax.jit(
            make_train_step(task, optimizer, micro_batches=t.micro_batches, ema=t.ema, seed=config.seed),
            donate_argnums=0,
            out_shardings=(shardings, None),
        )
        self.eval_step = jax.jit(make_eval_step(task))
        self.fingerprint = dataset.fingerprint()
        write_facts(config, workdir, self.fingerprint)
        self.checkpoints = Checkpoints(workdir / 'checkpoints', mode=t.mode, keep_best=t.keep_best)
        self.iterator = iter(prefetch(dataset.train(config.seed, this_shard())))
        self.best, self.since_best, self.validation, self.train_loss = math.nan, 0, {}, math.nan
        like = jax.tree.map(lambda s, sh: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=sh), shapes, shardings)
        if restored := self.checkpoints.restore(like):
            self.step, self.state, facts = restored
            self._resume(facts)
        else:
            self.step, self.state = 0, jax.jit(init, out_shardings=shardings)(key)
            if config.init_from:
                self.state = _load_initial(self.state, Path(config.init_from), like)
        self.writer = log.Writer(workdir)
        self.writer.truncate(self.step)
        self.compiles, self.clock = count_compiles(), _Clock()
        count = sum(x.size for x in jax.tree.leaves(params))
        log.say(f'{config.name}: {count:,} parameters, {self.mesh.shape["data"]} x {self.mesh.shape["model"]} devices')

    def run(self) -> dict[str, float]:
        left, pending = self.config.train.steps - self.step, None
        with catch_signals() as signals:
            for _ in log.track(range(left), total=left, what=self.config.name):
                if self._out_of_patience():
                    break
                self.state, metrics = self.train_step(self.state, self._next_batch())
                self.step += 1
                if pending is not None:
                    self._read(*pending)
                pending = (self.step, metrics)
                stop = self._must_stop(signals)
                if stop or self._is_mark():
                    self._read(*pending)
                    pending = None
                    self._save(self._validate() if self._is_evaluation() else None)
                    self.clock.restart()
                if stop:
                    self.close()
                    raise Interrupted(signals[0] if signals else signal.SIGTERM)
        self.close()
        return self.validation

    def close(self) -> None:
        self.writer.close()
        self.checkpoints.close()

    def _next_batch(self) -> Batch:
        with self.clock.waiting():
            batch = next(self.iterator)
        check_batch(self.mesh, len(batch['mask']) * jax.process_count(), self.config.train.micro_batches)
        return put_batch(self.mesh, batch)

    def _is_evaluation(self) -> bool:
        return self.step == self.config.train.steps or self.step % self.config.train.eval_every == 0

    def _is_mark(self) -> bool:
        return self._is_evaluation() or self.step % self.config.train.save_every == 0

    def _validate(self) -> float:
        figures = validate(self.eval_step, best_params(self.state), self.state['extra'], self.dataset, self.mesh)
        self.validation = figures
        t = self.config.train
        if t.metric not in figures:
            raise InputError(
                f'train.metric is {t.metric!r}, which validation does not give',
                remedy='choose one of ' + ', '.join(figures),
            )
        metric = figures[t.metric]
        better = metric < self.best if t.mode == 'min' else metric > self.best
        if math.isfinite(metric) and (math.isnan(self.best) or better):
            self.best, self.since_best = metric, 0
        else:
            self.since_best += 1
        self.writer.write(self.step, {f'valid/{k}': v for k, v in figures.items()})
        log.say(f'step {self.step}: valid ' + ', '.join(f'{k} {v:.6g}' for k, v in figures.items()))
        return metric

    def _save(self, metric: float | None) -> None:
        facts = {
            'data': self.iterator.get_state(),
            'fingerprint': self.fingerprint,
            'best': None if math.isnan(self.best) else self.best,
            'since_best': self.since_best,
            'validation': self.validation,
            'train_loss': self.train_loss,
            'config': to_dict(self.config),
        }
        self.checkpoints.save(self.step, self.state, facts, metric)

    def _resume(self, facts: dict[str, Any]) -> None:
        stored, now = (json.dumps(f, sort_keys=True, default=str) for f in (facts['fingerprint'], self.fingerprint))
        if stored != now:
            raise InputError(
                f'the data changed since checkpoint {self.step} was written',
                file=self.workdir,
                remedy='restore the data and its settings, choose another --workdir, or start over with --fresh',
            )
        self.iterator.set_state(facts['data'])
        self.best = math.nan if facts['best'] is None else facts['best']
        self.since_best, self.validation, self.train_loss = (
            facts['since_best'],
            facts['validation'],
            facts['train_loss'],
        )
        log.say(f'resuming from step {self.step}')

    def _read(self, step: int, metrics: dict[str, jax.Array]) -> None:
        """Reads the metrics of a step that is done, writes them, and watches for non-finite updates."""
        values = {k: float(v) for k, v in metrics.items()}
        self.clock.stepped()
        self.train_loss = values['loss']
        t = self.config.train
        if values['bad']:
            log.say(f'step {step}: the loss or gradient is not finite; update skipped ({values["skipped"]:.0f} so far)')
        if step % t.log_every == 0 or values['bad'] or step == t.steps:
            values |= {
                'learning_rate': float(self.schedule(step - 1)),
                'compiles': self.compiles(),
            } | self.clock.rates()
            self.writer.write(step, values)
        if values['bad'] >= t.max_bad_steps:
            self._give_up(step, values)

    def _give_up(self, step: int, values: dict[str, float]) -> None:
        self._save(None)  # skipped updates changed nothing: this is the last good state
        self.close()
        failure = {
            'step': step,
            'last good step': step - int(values['bad']),
            'metrics': {k: repr(v) for k, v in values.items()},
        }
        write_atomic(self.workdir / 'failure.json', (json.dumps(failure, indent=1) + '\n').encode())
        raise InputError(
            f'the loss or gradient was not finite {int(values["bad"])} updates in a row, up to step {step}',
            file=self.workdir / 'failure.json',
            remedy='lower optim.learning_rate or look at the data; the last good state is saved',
        )

    def _must_stop(self, signals: list[int]) -> bool:
        if jax.process_count() == 1:
            return bool(signals)
        from jax.experimental import multihost_utils

        return bool(multihost_utils.process_allgather(np.int32(bool(signals))).any())

    def _out_of_patience(self) -> bool:
        patience = self.config.train.patience
        if patience and self.since_best >= patience:
            log.say(
                f'step {self.step}: {self.config.train.metric} has not improved in {patience} evaluations; stopping'
            )
            return True
        return False


def validate(eval_step, params, extra, dataset: Dataset, mesh, split: str = 'valid') -> dict[str, float]:
    """The mean loss and metrics of a split: sums over every row, divided once.

    Raises:
      InputError: nothing in the split takes part.
    """
    sums = [eval_step(params, extra, put_batch(mesh, b)) for b in read_batches(dataset, split)]
    total = {}
    for loss in jax.device_get(sums):
        for name, (s, w) in {'loss': (loss.total, loss.weight), **loss.metrics}.items():
            a, b = total.get(name, (0.0, 0.0))
            total[name] = (a + float(s), b + float(w))
    if not total or total['loss'][1] == 0:
        raise InputError(f'no row of the {split} split takes part', remedy='check the split dates and the targets')
    return {name: s / w if w else math.nan for name, (s, w) in total.items()}


def _load_initial(state: dict, source: Path, like: Any) -> dict:
    """The best parameters of another run, wherever path and shape agree."""
    config = read_config(source)
    old = flatten(read_params(source, config.train.mode).params)
    taken = []

    def pick(path, leaf, target):
        name = '/'.join(str(p.key) for p in path)
        if name in old and old[name].shape == leaf.shape:
            taken.append(name)
            return jax.device_put(old[name].astype(leaf.dtype), target.sharding)
        return leaf

    params = jax.tree_util.tree_map_with_path(pick, state['params'], like['params'])
    if not taken:
        raise InputError('none of its parameters fits this model', file=source, remedy='check init_from')
    log.say(f'took {len(taken)} of {len(jax.tree.leaves(params))} parameters from {source}')
    ema = jax.tree.map(lambda x: x.copy(), params) if state['ema'] else {}
    return state | {'params': params, 'ema': ema}


def count_compiles():
    """A function that tells how many programs XLA has compiled since this call."""
    seen = []

    def listen(event: str, duration: float, **_):
        if event.endswith('backend_compile_duration'):
            seen.append(duration)

    jax.monitoring.register_event_duration_secs_listener(listen)
    return lambda: len(seen)


class _Clock:
    """Seconds a step and the share of them spent waiting for data, since the last reading."""

    def __init__(self):
        self.restart()

    def restart(self) -> None:
        self._start, self._wait, self._steps = time.perf_counter(), 0.0, 0

    @contextlib.contextmanager
    def waiting(self):
        start = time.perf_counter()
        yield
        self._wait += time.perf_counter() - start

    def stepped(self) -> None:
        self._steps += 1

    def rates(self) -> dict[str, float]:
        elapsed = max(time.perf_counter() - self._start, 1e-9)
        figures = {'step_s': elapsed / max(self._steps, 1), 'data_wait': self._wait / elapsed}
        self.restart()
        return figures
