"""What holds for every config of configs/, trained at its :tiny size. Nothing here names a model or its data.

A config is trained by the real command, in processes of their own; the other tests share its weights, its data and
one compiled update.
"""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import command
import jax
import numpy as np
import pyarrow.parquet as pq
import pytest
from other_future import with_other_future
from toy_run import Runner

import fjq
from fjq.baselines import Constant, Unavailable
from fjq.checkpoint import read_params
from fjq.config import from_json, to_json
from fjq.evaluate import evaluate
from fjq.export import LEVELS
from fjq.feed import make_gather
from fjq.forecast import Point
from fjq.keys import make_key
from fjq.launch import load_config
from fjq.optim import make_optimizer
from fjq.start import begin
from fjq.step import init_state, make_train_step
from fjq.task import Dataset, Shard, Task
from fjq.trained import Trained, predict_rows

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = sorted((ROOT / 'configs').glob('*.py'))
ALL = Shard()
TIMES = ('step_s', 'data_wait', 'compiles')  # of the machine, not of the run
FIRST = 20  # updates in which four devices agree with one to the last bits but two
LEARNED = 5  # the least factor by which the loss of one batch falls in the updates of the tiny run


class Gathered:
    """A dataset whose batches are as the model reads them, also where they are made on the device."""

    def __init__(self, data: Dataset):
        self.dataset, self._gather = data, make_gather(data)

    def __getattr__(self, name: str):
        if name in ('tables', 'gather'):
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def train(self, seed: int, shard: Shard):
        return self.dataset.train(seed, shard).map(lambda batch: jax.device_get(self._gather(batch)))

    def batches(self, split: str, shard: Shard):
        return self.dataset.batches(split, shard).map(lambda batch: jax.device_get(self._gather(batch)))


class Tiny:
    """A config at its tiny size: its data, its runs, and one update compiled for all tests."""

    def __init__(self, file: Path, folder: Path, runner: Runner):
        self.file, self.folder, self.runner = file, folder, runner
        self.config = load_config(file, 'tiny')
        self.config.cache = str(folder / 'cache')
        self.data = Gathered(self.config.data.open(self.config.cache, self.config.parallel))
        self.task = self.config.task.build()
        self.runs = {'whole': self.start('whole'), 'four devices': self.start('four devices', devices=4)}
        c = self.config
        params, _ = jax.eval_shape(self.task.init, make_key(c.seed, 'init'))
        self.optimizer = make_optimizer(c.optim, c.train.steps, params)
        self.micro_batches = 2 * c.train.micro_batches
        self.step = jax.jit(
            make_train_step(self.task, self.optimizer, micro_batches=self.micro_batches, ema=c.train.ema, seed=c.seed)
        )
        self.figures = jax.jit(
            lambda p, e, b: (self.task.loss(p, e, b, None), self.task.predict(p, e, b, make_key(0, 'p')))
        )

    def start(self, name: str, **options) -> int:
        flags = f'--config={self.file}:tiny', f'--config.cache={self.config.cache}', f'--workdir={self.folder / name}'
        return self.runner.command(*flags, log=self.folder / f'{name}.log', **options)

    def run(self, name: str) -> Path:
        """The folder of a run that has ended well."""
        if name in self.runs:
            code = self.runner.wait(self.runs.pop(name))
            assert code == 0, (self.folder / f'{name}.log').read_text()
        return self.folder / name

    def job(self, job: str) -> int:
        """One of the other jobs on the whole run, by the same command."""
        flags = f'--config={self.file}:tiny', f'--config.cache={self.config.cache}', f'--job={job}'
        return command.run(*flags, f'--workdir={self.run("whole")}')

    def fresh(self):
        """The state before the first update."""
        c = self.config
        init = jax.jit(lambda key: init_state(self.task, self.optimizer, c.train.ema, key))
        return begin(self.task, init(make_key(c.seed, 'init')), self.data)

    def trained(self) -> Trained:
        return fjq.load(self.run('whole'))


@pytest.fixture(scope='module')
def runner():
    with Runner() as runner:
        yield runner


@pytest.fixture(scope='module', params=CONFIGS, ids=lambda file: file.stem)
def tiny(request, runner, tmp_path_factory):
    return Tiny(request.param, tmp_path_factory.mktemp(request.param.stem), runner)


def lines(run: Path) -> list[dict]:
    """The metrics of a run, without what tells of its speed."""
    whole = [json.loads(line) for line in (run / 'metrics.jsonl').read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in TIMES} for line in whole]


def updates(run: Path) -> list[dict]:
    return [line for line in lines(run) if 'loss' in line]


def assert_same_bits(a, b, what=''):
    assert jax.tree.structure(a) == jax.tree.structure(b), what
    for (path, x), y in zip(jax.tree_util.tree_leaves_with_path(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y), err_msg=f'{what} {jax.tree_util.keystr(path)}')


def pick(tree, rows: np.ndarray):
    """The given rows of every leaf."""
    return jax.tree.map(lambda leaf: np.asarray(leaf)[rows], tree)


def read_all(data: Dataset, split: str) -> list[dict]:
    batches = data.batches(split, ALL)
    return [batches[i] for i in range(len(batches))]


def test_task_and_data_keep_the_contract(tiny):
    # Since Python 3.12 isinstance does not ask __getattr__ for the members of a protocol, hence the dataset itself.
    assert isinstance(tiny.task, Task) and isinstance(tiny.data.dataset, Dataset)
    batch = tiny.data.train(0, ALL)[0]
    assert {batch['mask'].dtype, batch['row'].dtype} == {np.dtype(bool), np.dtype(np.int32)}
    assert len({len(leaf) for leaf in batch.values()}) == 1  # every leaf has the rows of the batch
    for split in ('train', 'valid', 'test'):
        rows = tiny.data.rows(split)
        assert (np.diff(rows['time'].astype(np.int64)) >= 0).all() and len(rows['id']) == len(rows['time']) > 0
        assert rows['target'].shape == rows['valid'].shape and rows['valid'].any()
        seen = [b['row'][b['mask']] for b in read_all(tiny.data, split)]
        assert set(np.concatenate(seen)) == set(range(len(rows['time'])))


def test_one_batch_is_learned(tiny):
    """Its loss falls; of a model that is judged by a reward, that one rises."""
    state, batch, t = tiny.fresh(), tiny.data.train(tiny.config.seed, ALL)[0], tiny.config.train
    name, figures = 'loss' if t.mode == 'min' else t.metric, []
    for _ in range(t.steps):
        state, metrics = tiny.step(state, batch)
        figures.append(float(metrics[name]))
    if t.mode == 'min':
        assert figures[-1] < figures[0] / LEARNED, figures
    else:
        first, last = np.array_split(figures, 2)
        assert last.mean() - first.mean() > 3 * np.sqrt(first.var() / len(first) + last.var() / len(last)), figures


def test_micro_batches_give_the_losses_and_gradients_of_whole_ones(tiny):
    state, batches = tiny.fresh(), tiny.data.train(tiny.config.seed, ALL)
    for line in updates(tiny.run('whole'))[:3]:
        state, metrics = tiny.step(state, batches[line['step'] - 1])
        for name, value in metrics.items():
            np.testing.assert_allclose(float(value), line[name], rtol=1e-5, err_msg=f'{name} of update {line["step"]}')


def test_four_devices_give_the_losses_of_one(tiny):
    """Of the first updates: what rounding makes of other sums grows with every further one."""
    one, four = (updates(tiny.run(name))[:FIRST] for name in ('whole', 'four devices'))
    assert [line['step'] for line in one] == [line['step'] for line in four]
    manifest = json.loads((tiny.run('four devices') / 'manifest.json').read_text())
    assert manifest['device'].endswith('x 4')
    for a, b in zip(one, four, strict=True):
        assert b['loss'] == pytest.approx(a['loss'], rel=1e-6, abs=1e-6), a['step']


def test_rows_that_take_no_part_change_nothing(tiny):
    """A masked row with another one's content, or a third's, gives the same bits: loss, metrics and update."""
    state, batch = tiny.fresh(), tiny.data.train(tiny.config.seed, ALL)[0]
    mask = np.arange(len(batch['mask'])) < len(batch['mask']) // 2
    results = []
    for shift in (1, 2):
        filled = {k: np.where(mask.reshape(-1, *[1] * (v.ndim - 1)), v, np.roll(v, shift, 0)) for k, v in batch.items()}
        assert any((filled[k] != v).any() for k, v in batch.items())
        results.append(tiny.step(state, filled | {'mask': mask}))
    assert_same_bits(*results)
    assert (results[0][1]['weight'] > 0) and results[0][1]['bad'] == 0


def test_the_size_of_a_batch_does_not_matter(tiny):
    """Each row alone, or among others of which some take no part: the same sums and forecasts."""
    params, extra = (tiny.fresh()[name] for name in ('params', 'extra'))
    batch = read_all(tiny.data, 'test')[0]
    take = np.flatnonzero(batch['mask'])[:3]
    loss, law = jax.device_get(
        tiny.figures(params, extra, batch | {'mask': np.isin(np.arange(len(batch['mask'])), take)})
    )
    rows = [{k: v[i : i + 1] for k, v in batch.items()} for i in take]
    alone = [jax.device_get(tiny.figures(params, extra, row)) for row in rows]
    total = jax.tree.map(lambda *parts: sum(parts), *[(a.total, a.weight, a.metrics) for a, _ in alone])
    for a, b in zip(jax.tree.leaves((loss.total, loss.weight, loss.metrics)), jax.tree.leaves(total), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)
    for i, (_, single) in zip(take, alone, strict=True):
        for a, b in zip(jax.tree.leaves(law), jax.tree.leaves(single), strict=True):
            np.testing.assert_allclose(a[i], b[0], rtol=1e-5, atol=1e-6)


def test_what_comes_later_changes_nothing(tiny, tmp_path):
    """Everything in the input files after the middle of the test split is changed."""
    time = np.quantile(tiny.data.rows('test')['time'].astype(np.int64), 0.5, method='lower')
    time = time.astype(tiny.data.rows('test')['time'].dtype)
    data, cells = with_other_future(tiny.config.data, Path(tiny.config.cache), tmp_path, time, tiny.config.parallel)
    assert cells > 1000
    other = Gathered(data.open(tmp_path / 'cache', tiny.config.parallel))
    for split in ('train', 'valid'):  # over before `time`, labels included
        assert_same_bits(tiny.data.rows(split), other.rows(split), split)
        for a, b in zip(read_all(tiny.data, split), read_all(other, split), strict=True):
            assert_same_bits(a, b, split)
    assert_same_bits(tiny.data.train(5, ALL)[3], other.train(5, ALL)[3], 'train')

    trained, earlier = tiny.trained(), tiny.data.rows('all')['time'] <= time
    known = _ended(tiny.data.rows('all'), time)  # rows may carry their future too, which the model may not read
    assert_same_bits(*({k: d.rows('all')[k] for k in ('id', 'time')} for d in (tiny.data, other)))
    see = [trained.predict, *([trained.embed] if hasattr(tiny.task, 'embed') else [])]
    changed = set()
    for a, b in zip(read_all(tiny.data, 'all'), read_all(other, 'all'), strict=True):
        inputs = [{k: v for k, v in x.items() if not k.startswith('target')} for x in (a, b)]
        for i, (x, y) in enumerate([inputs, *((f(a), f(b)) for f in see)]):
            same = a['mask'] & (earlier if i else known)[a['row']]
            assert_same_bits(pick(x, same), pick(y, same), 'rows up to the moment')
            later = [jax.tree.leaves(pick(z, a['mask'] & ~same)) for z in (x, y)]
            changed |= {i} if any((p != q).any() for p, q in zip(*later, strict=True)) else set()
    assert len(changed) == 1 + len(see)
    for baseline in tiny.config.evaluate.baselines:
        try:
            laws = [baseline.forecast(d.history(), d.rows('test'), d.rows('train')) for d in (tiny.data, other)]
        except Unavailable:
            continue
        same = tiny.data.rows('test')['time'] <= time
        assert_same_bits(*(pick(law, same) for law in laws), baseline.name)


def _ended(rows: dict, time: np.datetime64) -> np.ndarray:
    """Which rows have labels that end by a moment."""
    end = np.where(rows['valid'], rows['label_end'], np.datetime64('NaT', 'D')).max(1)
    return rows['valid'].all(1) & (end <= time)


class OtherLabels:
    """A dataset whose labels are shuffled over the rows of all splits: inputs can tell nothing of them."""

    def __init__(self, data: Dataset, seed: int):
        self.data, self._rows = data, {}
        parts = {split: data.rows(split) for split in ('train', 'valid', 'test')}
        ends = np.cumsum([len(p['time']) for p in parts.values()])
        order = np.random.Generator(np.random.Philox(seed)).permutation(ends[-1])
        for name in ('target', 'valid'):
            mixed = np.split(np.concatenate([p[name] for p in parts.values()])[order], ends[:-1])
            for split, values in zip(parts, mixed, strict=True):
                self._rows[split] = self._rows.get(split, parts[split]) | {name: values}

    def __getattr__(self, name: str):
        return getattr(self.data, name)

    def rows(self, split: str):
        return self._rows[split]

    def train(self, seed: int, shard: Shard):
        return self.data.train(seed, shard).map(lambda batch: self._relabel(batch, 'train'))

    def batches(self, split: str, shard: Shard):
        return self.data.batches(split, shard).map(lambda batch: self._relabel(batch, split))

    def _relabel(self, batch: dict, split: str) -> dict:
        if 'target' not in batch:
            return batch
        rows, known = self._rows[split], batch['mask'][:, None] & self._rows[split]['valid'][batch['row']]
        target = np.where(known, rows['target'][batch['row']], 0).astype(batch['target'].dtype)
        return batch | {'target': target, 'target_mask': known}


def test_shuffled_labels_can_not_be_forecast(tiny):
    data, state = OtherLabels(tiny.data, seed=1), tiny.fresh()
    batches = data.train(tiny.config.seed, ALL)
    for step in range(tiny.config.train.steps):
        state, _ = tiny.step(state, batches[step])
    settings = dataclasses.replace(tiny.config.evaluate, baselines=(Constant(),), overlap=1, block=2)
    config = dataclasses.replace(tiny.config, evaluate=settings)
    findings, _ = evaluate(config, Trained(config, state['ema'] or state['params'], state['extra']), data)
    for difference in findings['differences']['constant']:
        assert difference['model'] != 'better' and difference['low'] <= 0


def test_a_killed_run_ends_in_the_same_bits(tiny):
    """Killed while the checkpoint after those of the start and of `save_every` updates was sealed, and started
    again; up to there it repeats the whole run."""
    whole = tiny.run('whole')
    assert tiny.runner.wait(tiny.start('killed', kill=3)) == -9
    before = updates(tiny.folder / 'killed')
    assert 0 < len(before) < tiny.config.train.steps and before == updates(whole)[: len(before)]
    tiny.runs['killed'] = tiny.start('killed')
    killed = tiny.run('killed')
    assert f'resuming from step {tiny.config.train.save_every}\n' in (tiny.folder / 'killed.log').read_text()
    assert lines(killed) == lines(whole)
    states = [read_params(run, tiny.config.train.steps).state for run in (whole, killed)]
    assert_same_bits(*states)


def test_evaluate(tiny, capsys):
    assert tiny.job('evaluate') == 0
    findings = json.loads((tiny.run('whole') / 'evaluation.json').read_text(), parse_constant=pytest.fail)
    names = {b.name for b in tiny.config.evaluate.baselines}
    models = {tiny.config.name, *([f'{tiny.config.name}, raw'] if tiny.config.evaluate.calibration else [])}
    assert models | names == {*findings['scores'], *findings['unavailable']}
    assert {s.name for s in tiny.config.evaluate.studies} == set(findings.get('studies', {}))
    rows = tiny.data.rows(tiny.config.evaluate.split)
    table = pq.read_table(tiny.run('whole') / 'forecasts' / f'{findings["split"]}.parquet')
    assert table.num_rows == len(findings['scores']) * rows['target'].size
    out = capsys.readouterr().out
    assert all(name in out for name in names) and f'by {findings["loss"]}, {tiny.config.name} ' in out
    assert findings['changed'] == [] and 'not those of the training' not in out


def test_forecast(tiny):
    assert tiny.job('forecast') == 0
    law, rows = predict_rows(tiny.trained().predict, tiny.data, 'all')
    table = pq.read_table(tiny.run('whole') / 'forecasts' / 'all.parquet')
    splits = np.asarray(table['split'])
    for name in ('valid', 'test'):
        assert (splits == name).sum() == tiny.data.rows(name)['target'].size
    assert 0 < (splits == 'train').sum() <= tiny.data.rows('train')['target'].size
    assert table.num_rows == np.asarray(law.mean()).size
    assert table['time'].to_numpy()[-1] == rows['time'][-1]
    latest = pq.read_table(tiny.run('whole') / 'forecasts' / 'latest.parquet')
    newest = np.sort(len(rows['id']) - 1 - np.unique(rows['id'][::-1], return_index=True)[1])
    size = table.num_rows // len(rows['id'])
    kept = table.take((newest[:, None] * size + np.arange(size)).reshape(-1))
    assert latest.select(('id', 'time', 'horizon', 'split')).equals(kept.select(('id', 'time', 'horizon', 'split')))
    means = (np.asarray(t['mean']) for t in (latest, kept))  # of batches with other companions: last bits differ
    np.testing.assert_allclose(*means, atol=1e-5 * np.abs(np.asarray(kept['mean'])).max())
    late = table.filter(splits == 'test')
    quantiles = np.stack([late[n].to_numpy() for n in late.column_names if n[0] == 'q' and n[1:].isdigit()])
    assert np.isfinite(quantiles).all() and (np.diff(quantiles, axis=0) >= 0).all() and np.ptp(quantiles) > 0


def test_embed(tiny):
    if not hasattr(tiny.task, 'embed'):
        pytest.skip('it makes no embeddings')
    assert tiny.job('embed') == 0
    files = sorted((tiny.run('whole') / 'embeddings').rglob('*.npz'))
    assert len(files) == len(tiny.data.rows('all')['time'])
    shapes, name = set(), tiny.task.embedding
    for file in files:
        with np.load(file) as day:
            assert len(day[name]) == len(day['time']) > 0 and np.isfinite(day[name]).all()
            shapes.add(day[name].shape[1:])
    assert len(shapes) == 1


SERVE = """
import sys
import numpy as np
from jax import export
from safetensors.numpy import load_file

folder, batch, out = sys.argv[1:]
weights = {'params': {}, 'extra': {}}
for name, value in load_file(folder + '/model.safetensors').items():
    *parents, leaf = name.split('/')
    place = weights
    for parent in parents:
        place = place.setdefault(parent, {})
    place[leaf] = value
program = export.deserialize(bytearray(open(folder + '/predict.stablehlo', 'rb').read()))
np.savez(out, **program.call(weights['params'], weights['extra'], dict(np.load(batch))))
assert not [name for name in sys.modules if name.split('.')[0] in ('fjq', 'flax', 'torch')]
"""


def test_export(tiny, tmp_path):
    """The run, its export and the program without fjq forecast the same."""
    if tiny.trained().calibration is None:  # what a point forecast is dressed with
        assert tiny.job('forecast') == 0
    assert tiny.job('export') == 0
    folder = tiny.run('whole') / 'export'
    trained, again = tiny.trained(), fjq.load(folder)
    batch = read_all(tiny.data, 'test')[0]
    assert_same_bits(*(jax.device_get(t.predict(batch)) for t in (trained, again)))
    few = {k: v[:3] for k, v in batch.items()}  # a number of rows that was not exported
    np.savez(tmp_path / 'batch.npz', **few)
    env = os.environ | {'JAX_COMPILATION_CACHE_DIR': str(ROOT / '.jax_cache'), 'XLA_FLAGS': ''}
    words = [sys.executable, '-c', SERVE, folder, tmp_path / 'batch.npz', tmp_path / 'out.npz']
    subprocess.run([str(w) for w in words], check=True, env=env, cwd=tmp_path)
    law = trained.predict(few)
    if isinstance(law, Point):
        law = trained.calibration.apply(law, {})
    with np.load(tmp_path / 'out.npz') as out:
        np.testing.assert_allclose(out['mean'], law.mean(), atol=1e-6)
        np.testing.assert_allclose(out['quantiles'], law.quantile(np.float32(LEVELS)), atol=1e-6)


def test_report(tiny):
    assert tiny.job('report') == 0
    page = (tiny.run('whole') / 'report.html').read_text()
    assert page.count('data:image/png;base64,') >= 1 and tiny.config.name in page
    assert (tiny.run('whole') / 'report.md').read_text().startswith(f'# {tiny.config.name}')


def test_validate(tiny, capsys):
    assert tiny.job('validate') == 0
    out = capsys.readouterr().out
    assert 'memory of a step' in out and 'ready' in out


@pytest.mark.parametrize('file', CONFIGS, ids=lambda file: file.stem)
def test_full_size(file):
    """Built by shapes alone, and through JSON and back."""
    config = load_config(file)
    params, _ = jax.eval_shape(config.task.build().init, make_key(config.seed, 'init'))
    small, _ = jax.eval_shape(load_config(file, 'tiny').task.build().init, make_key(config.seed, 'init'))
    size = lambda tree: sum(leaf.size for leaf in jax.tree.leaves(tree))
    assert size(params) > 10 * size(small)
    for c in (config, load_config(file, 'tiny')):
        assert from_json(to_json(c)) == c
