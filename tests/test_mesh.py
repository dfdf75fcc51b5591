"""Eight simulated devices against one, on a network wide enough to be cut."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from fjq import mesh as meshes
from fjq.config import Mesh, Optim
from fjq.errors import InputError
from fjq.mesh import Vote, connect, count_micro_batches, make_mesh, put_batch, shard_params, shard_state, this_shard
from fjq.optim import make_optimizer
from fjq.paths import flatten
from fjq.step import init_state, make_train_step
from fjq.task import Loss, Shard

PLAIN, CUT = (), (('fsdp', True),)
RULES = ('up/kernel=-,model', 'down/kernel=model,-', 'up/bias=model')
RULED = (('model', 2), ('rules', RULES))


class Network:
    """Two layers: x [B, 8] -> 16 -> 8."""

    def init(self, key):
        one, two = jax.random.split(key)
        up = {'kernel': jax.random.normal(one, (8, 16)) / 3, 'bias': jnp.zeros(16)}
        down = {'kernel': jax.random.normal(two, (16, 8)) / 4, 'bias': jnp.zeros(8)}
        return {'up': up, 'down': down}, {'rows': jnp.zeros(())}

    def loss(self, params, extra, batch, key):
        h = jnp.tanh(batch['x'] @ params['up']['kernel'] + params['up']['bias'][None])
        if key is not None:
            h = h * jax.random.bernoulli(key, 0.9, h.shape)
        out = h @ params['down']['kernel'] + params['down']['bias'][None]
        error = jnp.where(batch['mask'][:, None], out - batch['x'] ** 2, 0)
        weight = batch['mask'].sum().astype(jnp.float32)
        return Loss(jnp.square(error).sum(), weight, {}, {'rows': extra['rows'] + weight})


TASK = Network()
CONFIG = Optim(learning_rate=0.03, weight_decay=0.1)


def batches(count=5, rows=32):
    rng = np.random.default_rng(0)
    made = [{'x': rng.standard_normal((rows, 8)).astype(np.float32), 'mask': np.ones(rows, bool)} for _ in range(count)]
    made[-1]['mask'][3:20] = False  # whole devices without a row
    return made


def parts(config, micro_batches):
    params = jax.eval_shape(TASK.init, jax.random.key(0))[0]
    optimizer = make_optimizer(CONFIG, 20, params)
    init = lambda key: init_state(TASK, optimizer, 0.9, key)
    return init, make_train_step(TASK, optimizer, micro_batches=micro_batches, ema=0.9, seed=0)


@functools.cache
def run_once(settings, micro_batches):
    return run(Mesh(**dict(settings)), micro_batches)


def run(config=None, micro_batches=1):
    """Five updates on the mesh (or on one device): the losses and the final state."""
    init, step = parts(config, micro_batches)
    put, shardings = (lambda b: jax.device_put(b, jax.devices()[0])), None
    if config is not None:
        mesh = make_mesh(config)
        shardings = shard_state(mesh, config, jax.eval_shape(init, jax.random.key(0)))
        put = lambda b: put_batch(mesh, b)
    state = jax.jit(init, out_shardings=shardings)(jax.random.key(0))
    jitted = jax.jit(step, donate_argnums=0, out_shardings=None if shardings is None else (shardings, None))
    figures = []
    for batch in batches():
        state, metrics = jitted(state, put(batch))
        figures.append([float(metrics[k]) for k in ('loss', 'grad_norm', 'weight')])
    return figures, state


@pytest.fixture(scope='module')
def single():
    return {micro: run(micro_batches=micro) for micro in (1, 2)}


@pytest.mark.parametrize(
    ('config', 'micro'),
    [
        (PLAIN, 1),
        (PLAIN, 2),
        (CUT, 1),
        (RULED, 1),
        ((('model', 2), ('fsdp', True), ('rules', RULES[:2])), 2),
    ],
)
def test_eight_devices_equal_one(single, config, micro):
    figures, state = run_once(config, micro)
    wanted, one = single[micro]
    np.testing.assert_allclose(figures, wanted, rtol=1e-6, atol=1e-6)
    for name in ('params', 'ema', 'extra'):
        for a, b in zip(jax.tree.leaves(state[name]), jax.tree.leaves(one[name]), strict=True):
            assert len(a.sharding.device_set) == 8 and len(b.sharding.device_set) == 1
            np.testing.assert_allclose(a, b, atol=1e-6)
    for a, b in zip(jax.tree.leaves(state['opt']), jax.tree.leaves(one['opt']), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def layout(state):
    """Path -> (shape, shape on each device)."""
    return {path: (x.shape, x.addressable_shards[0].data.shape) for path, x in flatten(state).items()}


def test_fsdp_cuts_parameters_moments_and_averages():
    held = layout(run_once(CUT, 1)[1])
    cut = {'up/kernel': (8, 2), 'up/bias': (2,), 'down/kernel': (2, 8), 'down/bias': (1,)}
    for path, shape in cut.items():
        for place in ('params', 'ema', 'opt/1/mu', 'opt/1/nu'):
            assert held[f'{place}/{path}'][1] == shape, (place, path)
    assert held['step'] == ((), ())


def test_moments_lie_like_their_parameters_under_rules():
    held = layout(run_once(RULED, 1)[1])
    cut = {'up/kernel': (8, 8), 'up/bias': (8,), 'down/kernel': (8, 8), 'down/bias': (8,)}
    for path, shape in cut.items():
        for place in ('params', 'ema', 'opt/1/mu', 'opt/1/nu'):
            assert held[f'{place}/{path}'][1] == shape, (place, path)


def test_data_parallel_keeps_parameters_whole_and_cuts_the_batch():
    assert all(whole == here for whole, here in layout(run_once(PLAIN, 1)[1]).values())
    batch = put_batch(make_mesh(Mesh()), batches(1)[0])
    assert {k: v.addressable_shards[0].data.shape for k, v in batch.items()} == {'x': (4, 8), 'mask': (4,)}


def test_the_update_runs_on_every_device_not_on_copies_of_the_batch():
    """Two devices that share a 'model' axis hold the same rows, the four data groups different ones."""
    batch = put_batch(make_mesh(Mesh(model=2)), {'row': np.arange(32)})
    held = {tuple(np.asarray(s.data).tolist()) for s in batch['row'].addressable_shards}
    assert held == {tuple(range(i * 8, i * 8 + 8)) for i in range(4)}


def test_the_first_rule_counts_and_fsdp_takes_the_rest():
    params = {'a': {'kernel': jnp.ones((8, 6))}, 'b': {'kernel': jnp.ones((3, 8))}, 'c': jnp.ones((3, 5))}
    mesh = make_mesh(Mesh(model=2))
    specs = lambda **c: jax.tree.map(lambda s: s.spec, shard_params(mesh, Mesh(model=2, **c), params))
    assert specs() == {'a': {'kernel': P()}, 'b': {'kernel': P()}, 'c': P()}
    assert specs(fsdp=True) == {'a': {'kernel': P('data', None)}, 'b': {'kernel': P(None, 'data')}, 'c': P()}
    rules = ('a=-,model', 'kernel=-', '.*=-,-')
    assert specs(fsdp=True, rules=rules)['a']['kernel'] == P(None, 'model')
    assert all(axis is None for axis in specs(fsdp=True, rules=rules)['b']['kernel'])


@pytest.mark.parametrize(
    ('rule', 'words'),
    [
        ('up/kernel=modle', "mesh.rules.*'modle'.*'data', 'model'"),
        ('up/bias=-,model', r"'-,model' does not cut a parameter of shape \(16,\)"),
        ('bias', 'pattern=value'),
    ],
)
def test_a_rule_that_does_not_fit_is_named(rule, words):
    params = jax.eval_shape(TASK.init, jax.random.key(0))[0]
    with pytest.raises(InputError, match=words):
        shard_params(make_mesh(Mesh(model=2)), Mesh(model=2, rules=(rule,)), params)
    with pytest.raises(InputError, match=r'does not cut a parameter of shape \(8, 16\)'):
        shard_params(make_mesh(Mesh()), Mesh(rules=('up/kernel=data,data,data',)), params)


@pytest.mark.parametrize('model', [0, 3, 16])
def test_devices_that_do_not_divide_are_named(model):
    with pytest.raises(InputError, match=f'mesh.model is {model} on 8 devices'):
        make_mesh(Mesh(model=model))


@pytest.mark.parametrize(
    ('rows', 'asked', 'devices', 'count'),
    [(16, 4, 1, 4), (16, 4, 2, 2), (16, 4, 8, 1), (16, 1, 8, 1), (20, 3, 1, 4), (24, 12, 8, 3), (56, 14, 8, 7)],
)
def test_devices_share_the_micro_batches(rows, asked, devices, count):
    assert count_micro_batches(rows, asked, devices) == count
    assert rows % (count * devices) == 0 and rows // count // devices <= rows / asked


def test_a_batch_that_does_not_divide_is_named():
    with pytest.raises(InputError, match=r"'data.batch_rows': a batch of 20 rows does not divide among 8 devices"):
        count_micro_batches(20, 1, 8)
    with pytest.raises(InputError, match=r"'train.micro_batches': 17 micro-batches of a batch of 16 rows"):
        count_micro_batches(16, 17)


def grid(*rows):
    """A mesh of which only the owners of the devices are known."""
    devices = np.array([[types.SimpleNamespace(process_index=p) for p in row] for row in rows])
    return types.SimpleNamespace(devices=devices, shape={'data': len(rows), 'model': len(rows[0])})


@pytest.mark.parametrize(
    ('mesh', 'process', 'shard'),
    [
        (grid([0], [0], [0]), 0, Shard(0, 1)),
        (grid([0], [1]), 1, Shard(1, 2)),
        (grid([0], [0], [1], [1]), 0, Shard(0, 2)),
        (grid([0], [0], [1], [1]), 1, Shard(1, 2)),
        (grid([0, 0], [1, 1], [2, 2]), 2, Shard(2, 3)),
        (grid([0, 1]), 1, Shard(0, 1)),  # one row of data over two processes: both read all of it
        (grid([0, 1], [2, 3]), 3, Shard(1, 2)),
    ],
)
def test_a_process_reads_what_its_devices_hold(monkeypatch, mesh, process, shard):
    monkeypatch.setattr(jax, 'process_index', lambda: process)
    assert this_shard(mesh) == shard


def test_a_vote_passes_when_any_says_yes():
    mesh = make_mesh(Mesh(model=2))
    assert this_shard(mesh) == Shard(0, 1)
    assert bool(Vote(mesh).cast(True)) and not bool(Vote(mesh).cast(False))


@pytest.fixture
def started(monkeypatch):
    """What `connect` would have started, in an environment without SLURM."""
    calls = []
    monkeypatch.setattr(jax.distributed, 'initialize', lambda *a, **k: calls.append((a, k)))
    monkeypatch.setattr(meshes.signal, 'signal', lambda *a: None)
    for name in ('SLURM_NTASKS', 'SLURM_STEP_NODELIST'):
        monkeypatch.delenv(name, raising=False)
    return calls


def test_a_lone_process_connects_to_nothing(started, monkeypatch):
    connect('', 0, -1)
    connect('host:1234', 1, 0)
    monkeypatch.setenv('SLURM_NTASKS', '1')
    monkeypatch.setenv('SLURM_STEP_NODELIST', 'node1')
    connect('', 0, -1)
    monkeypatch.setenv('SLURM_NTASKS', '4')
    monkeypatch.delenv('SLURM_STEP_NODELIST')  # in an allocation, but not started by srun
    connect('', 0, -1)
    assert started == []


def test_addresses_come_from_the_flags_before_slurm(started, monkeypatch):
    monkeypatch.setenv('SLURM_NTASKS', '4')
    monkeypatch.setenv('SLURM_STEP_NODELIST', 'node[1-2]')
    connect('host:1234', 2, 1)
    connect('', 0, -1)
    assert started == [(('host:1234',), {'num_processes': 2, 'process_id': 1}), ((), {})]


@pytest.mark.parametrize(('processes', 'process'), [(0, 0), (2, 2), (2, -1)])
def test_a_number_outside_the_processes_is_named(started, processes, process):
    with pytest.raises(InputError, match=f'--processes={processes} --process={process}'):
        connect('host:1234', processes, process)


def test_slurm_is_read_as_jax_reads_it(monkeypatch):
    """JAX's own detection finds what srun sets: the first node, the number of tasks, this task."""
    from jax._src.clusters.slurm_cluster import SlurmCluster

    settings = {'JOB_ID': '77', 'STEP_NODELIST': 'gpu[003-004],x', 'NTASKS': '8', 'PROCID': '5', 'LOCALID': '1'}
    for name, value in settings.items():
        monkeypatch.setenv(f'SLURM_{name}', value)
    assert SlurmCluster.is_env_present()
    assert SlurmCluster.get_coordinator_address(None, None).startswith('gpu003:')
    assert (SlurmCluster.get_process_count(), SlurmCluster.get_process_id()) == (8, 5)
