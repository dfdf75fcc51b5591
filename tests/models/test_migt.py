"""MIGT-TVDT: sizes, its start, units, what is kept for the backward pass, and bad settings."""

import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiled import build
from migt_batch import SMALL, make_batch, with_live_heads
from scipy import stats

from fjq.config import Experiment, settle
from fjq.data.bars.migt import MigtData
from fjq.data.bars.scale import COUNT, BarScale
from fjq.errors import InputError
from fjq.launch import load_config
from fjq.models.migt import Migt, Model


@pytest.mark.parametrize(('variables', 'count'), [(24, 6_866_984), (25, 6_933_034)])
def test_full_size_has_the_published_number_of_parameters(variables, count):
    params, extra = jax.eval_shape(build(Migt(variables=variables, compat=True)).init, jax.random.key(0))
    assert sum(x.size for x in jax.tree.leaves(params)) == count and extra == {}


SCALE = BarScale(np.log(np.linspace([1, 3], [2, 9], 48)), np.linspace([0, 0.4], [0.3, 0.1], COUNT))


def unit_of(batch):
    """Volatility of every row and horizon by hand."""
    place = batch['bar_in_day'][np.arange(len(batch['length'])), batch['length'] - 1]
    return np.sqrt(np.exp(SCALE.offset[place]) * np.exp(batch['log_variance'] @ SCALE.weight))


def data_of(batch, quantiles, features=('a', 'b', 'c')):
    """As much of a dataset as `begin` and `check` read; its batches hold no tables to gather from."""
    return SimpleNamespace(
        features=features,
        horizons=SMALL.horizons,
        bars_per_day=SMALL.bars_per_day,
        train=lambda seed, shard: [dict(batch, features=batch['features'] * (1 + i)) for i in range(20)],
        standard_quantiles=lambda levels: quantiles,
        scale=SCALE,
    )


QUANTILES = np.stack([stats.t.ppf(SMALL.levels, 4), stats.norm.ppf(SMALL.levels, 0.1, 1.2)])


def test_it_starts_as_the_scaled_quantiles_of_the_training_targets():
    task, batch = build(SMALL), make_batch(rows=9)
    params, extra = task.begin(*jax.device_get(task.init(jax.random.key(0))), data_of(batch, QUANTILES))
    law = task.predict(params, extra, batch)
    unit = unit_of(batch)
    np.testing.assert_allclose(law.values, QUANTILES[None] * unit[..., None], rtol=1e-5, atol=1e-8)
    loss = task.loss(params, extra, batch, None)
    error = batch['target'][..., None] / unit[..., None] - QUANTILES
    levels = np.array(SMALL.levels)
    pinball = 2 * np.maximum(levels * error, (levels - 1) * error)
    edges = np.concatenate([[0], (levels[1:] + levels[:-1]) / 2, [1]])
    np.testing.assert_allclose(loss.total / loss.weight, (pinball @ np.diff(edges)).mean(), rtol=1e-5)
    inside = (error[..., 1] >= 0) & (error[..., -2] <= 0)
    coverage = loss.metrics['coverage_80']
    np.testing.assert_allclose(coverage[0] / coverage[1], inside.mean(), rtol=1e-6)


def test_its_window_scales_are_those_of_training_windows():
    task, batch = build(SMALL), make_batch(rows=9)
    params, extra = task.begin(*jax.device_get(task.init(jax.random.key(0))), data_of(batch, QUANTILES))
    spreads = [batch['features'][i, : batch['length'][i]].std(0) for i in range(9)]
    logs = np.log(np.concatenate([np.stack(spreads) * k for k in range(1, 9)]))
    np.testing.assert_allclose(extra['window_scale']['centre'][:, 0], logs.mean(0), atol=1e-4)
    np.testing.assert_allclose(extra['window_scale']['spread'][:, 0], logs.std(0), rtol=1e-3)
    np.testing.assert_allclose(extra['window_scale']['centre'][:, 1], batch['log_variance'][:, 0].mean() / 2, atol=1e-5)


def test_weights_that_were_trained_keep_their_start():
    task, batch = build(SMALL), make_batch()
    params, extra = jax.device_get(task.init(jax.random.key(0)))
    params = with_live_heads(params)
    again, measured = task.begin(params, extra, data_of(batch, QUANTILES))
    assert again is params
    np.testing.assert_array_equal(measured['volatility']['offset'], np.float32(SCALE.offset))


def test_a_window_that_is_twice_as_wide_is_seen():
    """Normalisation takes the size of a window's moves out; the model is told of it."""
    live = lambda task: (with_live_heads(jax.device_get(task.init(jax.random.key(0)))[0]), task)
    batch = make_batch()
    wide = dict(batch, features=batch['features'] * 2)
    for config, same in ((SMALL, False), (dataclasses.replace(SMALL, window_scale=False), True)):
        params, task = live(build(config))
        extra = task.init(jax.random.key(0))[1]
        a, b = (np.asarray(jax.jit(task.predict)(params, extra, x).values) for x in (batch, wide))
        assert np.allclose(a, b, rtol=1e-4) == same


def test_forecasts_are_in_units_of_volatility():
    task, batch = build(SMALL), make_batch()
    task = build(dataclasses.replace(SMALL, window_scale=False))
    params, extra = task.init(jax.random.key(0))
    params = with_live_heads(params)
    louder = dict(batch, log_variance=batch['log_variance'] + np.log(4).astype(np.float32))
    once, twice = (task.predict(params, extra, x).values for x in (batch, louder))
    np.testing.assert_allclose(twice, 2 * once, rtol=1e-5)
    assert (np.diff(once, axis=-1) > 0).all()


def test_without_data_the_unit_is_the_ewma_volatility_times_the_root_of_the_horizon():
    task, batch = build(SMALL), make_batch()
    unit, _ = task.pure.apply(*task.init(jax.random.key(0)), Model.find_unit, batch)
    np.testing.assert_allclose(unit, np.exp(batch['log_variance'][:, :1] / 2) * np.sqrt([1, 4]), rtol=1e-5)


def test_coverage_is_that_of_each_horizon_too():
    task, batch = build(SMALL), make_batch(rows=6)
    params, extra = task.init(jax.random.key(0))
    batch['target'][:, 1] = 1.0  # far out
    batch['target_mask'][0, 1] = False
    figures = {k: tuple(map(float, v)) for k, v in task.loss(params, extra, batch, None).metrics.items()}
    assert set(figures) == set(task.figures)
    assert figures['coverage_80/4'] == (0, 5) and figures['coverage_80/1'][1] == 6
    assert figures['coverage_80'] == (figures['coverage_80/1'][0], 11) and figures['coverage_80'][0] > 0


def test_horizons_can_weigh_more():
    batch, weights = make_batch(), (1.0, 3.0)
    parts = []
    for config in (SMALL, dataclasses.replace(SMALL, horizon_weights=weights)):
        task = build(config)
        params, extra = task.init(jax.random.key(0))
        for h in range(2):
            one = dict(batch, target_mask=np.arange(2)[None] == np.full((5, 1), h))
            parts.append(task.loss(params, extra, one, None))
        parts.append(task.loss(params, extra, batch, None))
    np.testing.assert_allclose(parts[2].total, parts[0].total + parts[1].total, rtol=1e-6)
    np.testing.assert_allclose(parts[5].total, parts[0].total + 3 * parts[1].total, rtol=1e-6)
    assert [float(p.weight) for p in parts] == [5, 5, 10, 5, 15, 20]


def _encode(config):
    """A figure of the vectors of all variables, as a function of (parameters, batch)."""
    task = build(config)

    def run(model, batch):
        return model.encode(model.normalize(batch)[0], model.read_clock(batch), batch['length'])

    return lambda params, extra, batch: jnp.sin(task.pure.apply(params, extra, run, batch)[0]).sum()


def test_what_is_kept_changes_no_value_and_no_gradient():
    """13 windows in chunks of 4: the last chunk is padded."""
    config = dataclasses.replace(SMALL, chunk_rows=4)
    arguments = *build(config).init(jax.random.key(0)), make_batch(rows=13)
    value, gradient = None, None
    for remat in ('none', 'dots', 'block', 'chunked'):
        got = jax.jit(jax.value_and_grad(_encode(dataclasses.replace(config, remat=remat))))(*arguments)
        if value is None:
            value, gradient = got
            layers = gradient['temporal_layers']
            assert all(np.abs(leaf).max() > 0 for name, leaf in _named(layers) if name != 'k_proj/bias')
        np.testing.assert_allclose(got[0], value, rtol=1e-6)
        for (name, a), (_, b) in zip(_named(got[1]), _named(gradient), strict=True):
            np.testing.assert_allclose(a, b, atol=2e-5, err_msg=f'{remat} {name}')


def _named(tree):
    return [('/'.join(str(p.key) for p in path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)]


def test_keeping_less_takes_less_memory():
    """By the compiler's account, of a step that is large against its parameters."""
    config = dataclasses.replace(SMALL, temporal_layers=3, chunk_rows=4)
    shapes = jax.eval_shape(build(config).init, jax.random.key(0))
    batch = make_batch(rows=32, slots=32)

    def temporary(remat):
        gradient = jax.grad(_encode(dataclasses.replace(config, remat=remat)))
        return jax.jit(gradient).lower(*shapes, batch).compile().memory_analysis().temp_size_in_bytes

    none, block, chunked = (temporary(r) for r in ('none', 'block', 'chunked'))
    assert block < 0.6 * none and chunked < block / 2


def test_dropout_is_random_and_only_with_a_key():
    task, batch = build(dataclasses.replace(SMALL, dropout=0.3)), make_batch()
    params, extra = task.init(jax.random.key(0))
    params = with_live_heads(params)
    fn = jax.jit(lambda key: task.loss(params, extra, batch, key).total)
    totals = [float(fn(jax.random.key(k))) for k in (1, 1, 2)]
    assert totals[0] == totals[1] != totals[2]
    assert float(task.loss(params, extra, batch, None).total) not in totals


def test_bfloat16_is_close():
    batch = make_batch(lengths=[12, 7, 9, 12, 3])
    params, extra = build(SMALL).init(jax.random.key(0))
    params = with_live_heads(params)
    see = lambda dtype: jax.jit(
        lambda p, b: build(dataclasses.replace(SMALL, dtype=dtype)).pure.apply(p, extra, Model.__call__, b)[0]
    )(params, batch)
    exact, rough = see('float32'), see('bfloat16')
    assert rough.dtype == jnp.float32
    np.testing.assert_allclose(rough, exact, atol=0.05)
    assert np.abs(rough - exact).max() > 0


@pytest.mark.parametrize(
    ('change', 'said'),
    [
        ({'features': ('a', 'b')}, 'task.variables=2'),
        ({'horizons': (1, 5)}, r'--config.task.horizons="\(1, 5\)"'),
        ({'bars_per_day': 288}, '--config.task.bars_per_day=288'),
    ],
)
def test_data_of_another_model_is_refused(change, said):
    data = data_of(make_batch(), QUANTILES)
    build(SMALL).check(data)
    for name, value in change.items():
        setattr(data, name, value)
    with pytest.raises(InputError, match=said):
        build(SMALL).check(data)


@pytest.mark.parametrize(
    'fields',
    [
        {'dtype': 'float16'},
        {'remat': 'all'},
        {'levels': (0.05, 0.95)},
        {'levels': (0.05, 0.5, 0.5, 0.6, 0.95)},
        {'levels': (0.05, 0.4, 0.95)},
        {'levels': (0.1, 0.5, 0.9)},
        {'levels': (0.0, 0.5, 1.0)},
        {'horizons': ()},
        {'variables': 0},
        {'bars_per_day': 0},
        {'horizon_weights': (1.0,)},
        {'clock_dims': (8, 4, 4)},
        {'clock_dims': (8, 4, 3, 4)},
        {'heads': 3},
        {'chunk_rows': 0},
    ],
)
def test_fields_that_make_no_sense(fields):
    with pytest.raises(InputError):
        build(dataclasses.replace(SMALL, **fields))


def test_a_batch_of_other_features_is_refused():
    task = build(SMALL)
    params, extra = task.init(jax.random.key(0))
    with pytest.raises(InputError, match='4 features'):
        task.predict(params, extra, make_batch(variables=4))


@pytest.mark.parametrize(('features', 'count'), [(('core25',), 25), (('log_close', 'log_gk'), 2)])
def test_the_model_follows_the_data(features, count):
    data = MigtData(split=None, path='', features=features, minutes=15, horizons=(2, 8))
    follow = lambda **sizes: Migt(**sizes).follow(Experiment(name='m', task=None, data=data)).task
    c = follow(variables=0, horizons=(), bars_per_day=0)
    assert (c.variables, c.horizons, c.bars_per_day) == (count, (2, 8), 96)
    assert follow(variables=7, horizons=(1,), bars_per_day=5).variables == 7  # what is set stays


def test_evaluation_asks_for_the_levels_of_the_model():
    levels = (0.01, 0.05, 0.5, 0.95, 0.99)
    load = lambda: load_config('configs/migt_tvdt.py', 'tiny')
    config = settle(dataclasses.replace(load(), task=dataclasses.replace(load().task, levels=levels)))
    e = config.evaluate
    parts = [p for p in (e, e.calibration, *e.studies, *e.baselines) if hasattr(p, 'levels')]
    assert len(parts) > 6 and all(p.levels == levels for p in parts)
    assert load().evaluate == settle(load()).evaluate
    config.evaluate.levels = (0.001, 0.5, 0.999)
    with pytest.raises(InputError, match='Evaluate.levels'):
        settle(config)


def test_the_order_of_variants_does_not_matter():
    a, b = (load_config('configs/migt_tvdt.py', v) for v in ('compat,lowmem,nq', 'nq,lowmem,compat'))
    assert a == b and a.task.compat and a.task.variables == 24 and a.task.remat == 'chunked'
    assert a.optim.learning_rate == 1e-4 and a.train.alarm == ''
    with pytest.raises(InputError, match='cn and nq'):
        load_config('configs/migt_tvdt.py', 'nq,cn')
    with pytest.raises(InputError, match="no variant 'nqq'"):
        load_config('configs/migt_tvdt.py', 'compat,nqq')
