"""The TCN: sizes, padding, pooling, options, memory."""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiled import build
from jax import export as jax_export

from fjq.data.ticks.tcn import TcnData
from fjq.errors import InputError
from fjq.fit import check_fit
from fjq.launch import load_config
from fjq.metrics import qlike
from fjq.models import tcn
from fjq.models.tcn import Model, Tcn

TINY = Tcn(hidden=8, layers=9, d_model=6, head_hidden=8)


def make_batch(rows=4, chunks=6, frames=3, length=256, seed=0, horizons=1):
    """Rows whose last chunk is cut short, as the last of a frame is."""
    rng = np.random.Generator(np.random.Philox(seed))
    weights = np.full((rows, chunks), float(length), np.float32)
    weights[:, -1] = length // 3
    x = rng.standard_normal((rows, chunks, length, 3)).astype(np.float32)
    x[np.arange(length)[None, None] >= weights[..., None]] = 0
    return {
        'chunks': x,
        'weights': weights,
        'frame': np.tile(np.sort(rng.integers(0, frames, chunks)), (rows, 1)).astype(np.int32),
        'scalars': rng.uniform(1, 1e6, (rows, frames, 3)).astype(np.float32),
        'frame_mask': np.ones((rows, frames), bool),
        'target': rng.uniform(0.1, 1, (rows, horizons)).astype(np.float32),
        'target_mask': np.ones((rows, horizons), bool),
        'mask': np.ones(rows, bool),
        'row': np.arange(rows, dtype=np.int32),
    }


def forward(task, params, batch, key=None):
    return jax.jit(lambda p, b: task.pure.apply(p, {}, Model.__call__, b, key)[0])(params, batch)


@pytest.mark.parametrize(
    ('changes', 'count'),
    [({'d_model': 512}, 18_595_073), ({'d_model': 512, 'num_tickers': 100, 'stream': 'stocks'}, 18_629_441)],
)
def test_full_size_has_the_published_number_of_parameters(changes, count):
    params, _ = jax.eval_shape(build(Tcn(**changes)).init, jax.random.key(0))
    assert sum(x.size for x in jax.tree.leaves(params)) == count


def test_parts_have_the_published_numbers_of_parameters():
    params, _ = jax.eval_shape(build(Tcn(d_model=512)).init, jax.random.key(0))
    size = lambda tree: sum(x.size for x in jax.tree.leaves(tree))
    assert [size(params[k]) for k in ('frame_encoder', 'chunked_encoder', 'rv_head')] == [18_131_456, 265_216, 198_401]


def test_padding_chunks_frames_and_rows_change_nothing():
    task = build(TINY)
    params, _ = task.init(jax.random.key(0))
    batch = make_batch()
    wide = dict(batch)
    pad = lambda x, axis, n: np.concatenate([x, np.zeros_like(np.take(x, range(n), axis))], axis)
    for name in ('chunks', 'weights', 'frame'):
        wide[name] = pad(batch[name], 1, 2)
    for name in ('scalars', 'frame_mask'):
        wide[name] = pad(batch[name], 1, 1)
    wide = {k: pad(v, 0, 2) for k, v in wide.items()}
    np.testing.assert_allclose(forward(task, params, wide)[:4], forward(task, params, batch), atol=2e-6)
    a, b = (task.loss(params, {}, x, None) for x in (batch, wide))
    np.testing.assert_allclose(a.total, b.total, rtol=1e-5)
    assert float(a.weight) == float(b.weight) == 4
    np.testing.assert_allclose(a.metrics['qlike'], b.metrics['qlike'], rtol=1e-4)


@pytest.mark.parametrize('loss', ['huber', 'mse', 'l1', 'qlike'])
def test_gradient_is_finite_with_padded_rows_and_unknown_targets(loss):
    batch = make_batch()
    batch['target'][1], batch['target_mask'][1], batch['mask'][2] = 0, False, False
    task = dataclasses.replace(TINY, layers=2, loss=loss).build()

    def see(params):
        loss = task.loss(params, {}, batch, None)
        return loss.total, loss.weight

    (total, weight), grads = jax.jit(jax.value_and_grad(see, has_aux=True))(task.init(jax.random.key(0))[0])
    assert np.isfinite(total) and all(np.isfinite(g).all() for g in jax.tree.leaves(grads))
    assert float(weight) == 2


def test_masked_model_does_not_see_what_lies_in_the_padding():
    batch = make_batch()
    other = dict(batch, chunks=batch['chunks'].copy())
    other['chunks'][np.arange(256)[None, None] >= batch['weights'][..., None]] = 9.0
    for masked, same in ((True, True), (False, False)):
        task = build(dataclasses.replace(TINY, masked=masked))
        params, _ = task.init(jax.random.key(0))
        assert np.allclose(forward(task, params, batch), forward(task, params, other), atol=1e-6) == same


def test_causal_blocks_do_not_read_the_future():
    config = dataclasses.replace(TINY, causal=True, layers=3)
    task = build(config)
    params, _ = task.init(jax.random.key(0))

    def conv_only(x):  # one-group norms mix all positions, so the first convolution alone is causal
        return task.pure.apply(params, {}, lambda m, x: m.frame_encoder['encoder'].layers[1].conv1(x), x)[0]

    jacobian = jax.jacobian(lambda x: conv_only(x)[0, :, 0].sum(where=jnp.arange(16) < 8))(jnp.ones((1, 16, 8)))
    assert np.abs(jacobian[0, 8:]).max() == 0 < np.abs(jacobian[0, :8]).max()


def test_a_frame_is_the_mean_of_its_chunks_weighted_by_ticks():
    task = build(TINY)
    params, _ = task.init(jax.random.key(0))
    batch = make_batch(rows=1)
    e = np.asarray(task.encode_chunks(params, batch['chunks'][0], batch['weights'][0]))
    out = np.asarray(task.embed(params, {}, batch))[0]
    p = params['chunked_encoder']['out_proj']
    for t in range(3):
        mine = batch['frame'][0] == t
        w = batch['weights'][0][mine]
        mean = (w[:, None] * e[mine]).sum(0) / (w.sum() + 1e-8)
        z = np.concatenate([mean, np.log1p(batch['scalars'][0, t])]) @ p['0']['kernel'] + p['0']['bias']
        z = (z - z.mean()) / np.sqrt(z.var() + 1e-5)
        np.testing.assert_allclose(out[t], jax.nn.gelu(z, approximate=False), atol=3e-5)


def test_ticker_embedding_is_a_vector_a_tick_and_zero_for_none():
    config = dataclasses.replace(TINY, num_tickers=5, stream='stocks')
    task = build(config)
    params, _ = task.init(jax.random.key(0))
    batch = make_batch()
    batch['tickers'] = np.full(batch['chunks'].shape[:3], -1, np.int32)
    none = forward(task, params, batch)
    zeroed = jax.tree.map(jnp.copy, params)
    zeroed['frame_encoder']['encoder']['ticker_embed']['embedding'] *= 0
    batch['tickers'][:] = 3
    some = forward(task, params, batch)
    np.testing.assert_allclose(forward(task, zeroed, batch), none, atol=1e-6)
    assert np.abs(some - none).max() > 1e-4


def test_dropout_is_driven_by_the_key_alone():
    task = build(dataclasses.replace(TINY, dropout=0.3))
    params, _ = task.init(jax.random.key(0))
    batch = make_batch()
    a, b, c = (task.loss(params, {}, batch, k).total for k in (jax.random.key(1), jax.random.key(1), jax.random.key(2)))
    assert a == b != c
    assert task.loss(params, {}, batch, None).total == task.loss(params, {}, batch, None).total


def test_slices_of_chunks_give_the_same_gradient_in_less_memory():
    """The compiled program's own account; a slice of 3 does not divide the 8 chunks."""
    batch = make_batch(rows=2, chunks=4)
    grads, memory = [], []
    for size in (0, 3):
        task = build(Tcn(hidden=64, d_model=16, head_hidden=16, dropout=0.0, remat_chunks=size))
        params, _ = task.init(jax.random.key(0))
        step = jax.jit(jax.grad(lambda p, task=task: task.loss(p, {}, batch, None).total))
        compiled = step.lower(params).compile()
        grads.append(compiled(params))
        memory.append(compiled.memory_analysis().temp_size_in_bytes)
    assert memory[1] < 0.6 * memory[0]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), *grads)


@pytest.mark.parametrize('size', [4, 50])
def test_slices_of_chunks_export_for_any_number_of_rows(size):
    """One row has more chunks than a slice, or it is open whether the rows have."""
    task = build(dataclasses.replace(TINY, layers=2, remat_chunks=size))
    params, _ = task.init(jax.random.key(0))
    predict = jax.jit(lambda batch: task.predict(params, {}, batch).mean())
    (rows,) = jax_export.symbolic_shape('rows')
    free = jax.tree.map(lambda x: jax.ShapeDtypeStruct((rows, *x.shape[1:]), x.dtype), make_batch(length=32))
    program = jax_export.export(predict)(free)
    for count in (1, 9):
        batch = make_batch(rows=count, length=32)
        np.testing.assert_allclose(program.call(batch), predict(batch), atol=1e-6)


def test_bfloat16_stays_close_and_keeps_the_parameters_in_float32():
    batch = make_batch()
    half = build(dataclasses.replace(TINY, dtype='bfloat16'))
    params, _ = half.init(jax.random.key(0))
    assert {x.dtype for x in jax.tree.leaves(params)} == {jnp.dtype('float32')}
    out = forward(half, params, batch)
    assert out.dtype == jnp.float32
    np.testing.assert_allclose(out, forward(build(TINY), params, batch), atol=0.05)


def test_horizons_widen_the_head_and_are_masked_one_by_one():
    task = build(dataclasses.replace(TINY, horizons=3))
    params, _ = task.init(jax.random.key(0))
    batch = make_batch(horizons=3)
    batch['target_mask'][:, 1] = False
    assert task.predict(params, {}, batch).mean().shape == (4, 3)
    assert float(task.loss(params, {}, batch, None).weight) == 8


def test_unknown_choices_are_refused():
    for field, value in (('loss', 'hubre'), ('dtype', 'float16'), ('stream', '../x')):
        with pytest.raises(InputError, match='hoose'):
            build(dataclasses.replace(TINY, **{field: value}))


def test_qlike_trains_a_head_that_starts_far_below():
    """Everywhere finite with a downhill gradient, and QLIKE itself where the forecast is of the target's size."""
    target, mask = jnp.array([0.7, 0.2, 0.5]), jnp.array([True, True, False])
    for forecast in (-0.3, 0.0, 1e-4, 0.02, 0.15):
        loss = lambda f: tcn._smooth_qlike(target, jnp.full(3, f), mask)[0]  # noqa: B023
        value, slope = jax.value_and_grad(loss)(forecast)
        assert np.isfinite(value) and np.isfinite(slope) and slope < 0, forecast
    ours, theirs = (
        tcn._smooth_qlike(target, jnp.full(3, 0.3), mask),
        qlike(target, jnp.full(3, 0.3), mask, power=2, floor=1e-3),
    )
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_another_function_than_the_original_is_not_exported_as_the_original():
    for field in ('causal', 'masked'):
        with pytest.raises(InputError, match=f'task.{field}'):
            build(dataclasses.replace(TINY, **{field: True})).torch_files(None, None)


@pytest.mark.parametrize(
    'fields',
    [{n: 0} for n in ('hidden', 'layers', 'd_model', 'head_hidden', 'horizons', 'in_features', 'huber_delta')]
    + [{'num_tickers': -1}, {'remat_chunks': -1}, {'huber_delta': -1.0}, {'dropout': 1.0}, {'head_dropout': -0.1}],
)
def test_sizes_that_make_no_model_are_refused(fields):
    with pytest.raises(InputError, match='task.' + next(iter(fields))):
        build(dataclasses.replace(TINY, **fields))


class Facts:
    def __init__(self, **changes):
        self.facts = {'features': 'compat', 'frame': '10s', 'chunk_len': 256, 'horizons': [30]} | changes

    def fingerprint(self):
        return self.facts


@pytest.mark.parametrize(
    ('task', 'data', 'message'),
    [
        ({'stream': 'stocks'}, {}, "column 'task.stream': the data are of the stream index and the model of stocks"),
        ({}, {'horizons': (1, 5)}, "column 'task.horizons': it is 1, not 2: .*Set --config.task.horizons=2"),
        ({}, {'num_tickers': 100}, "column 'task.num_tickers': it is 0, not 100"),
        ({'num_tickers': 2}, {'num_tickers': 8}, "column 'task.num_tickers': it is 2, not 8"),
        ({'num_tickers': 100}, {}, "column 'task.num_tickers': it is 100, not 0"),
        ({'in_features': 4}, {}, "column 'task.in_features': it is 4, not 3"),
        ({'num_scalars': 5}, {}, "column 'task.num_scalars': it is 5, not 3"),
    ],
)
def test_data_of_other_widths_are_refused(task, data, message):
    with pytest.raises(InputError, match=message):
        build(dataclasses.replace(TINY, **task)).check_settings(TcnData(split=None, **data))
    build(TINY).check_settings(TcnData(split=None))


def test_the_figures_of_a_validation_are_known_before_the_data():
    task, batch = build(TINY), make_batch()
    loss = jax.eval_shape(lambda key: task.loss(*task.init(key), batch, None), jax.random.key(0))
    assert set(loss.metrics) == set(task.figures)


@pytest.mark.parametrize(('name', 'value'), [('features', 'v2'), ('frame', '20min'), ('chunk_len', 64)])
def test_weights_are_bound_to_what_a_tick_a_chunk_and_a_frame_are(tmp_path, name, value):
    (tmp_path / 'manifest.json').write_text(json.dumps({'data': Facts().facts}))
    check_fit(build(TINY), Facts(horizons=[5]), tmp_path)
    with pytest.raises(InputError, match=f'trained with the {name} {Facts().facts[name]}, the data have {value}'):
        check_fit(build(TINY), Facts(**{name: value}), tmp_path)


@pytest.mark.parametrize(
    ('name', 'variant', 'count'),
    [
        ('index', 'compat512', 18_595_073),
        ('stocks', 'compat512', 18_629_441),
        ('stocks', 'h100,compat512', 18_629_441),
        ('options', 'compat512', 18_595_073),
    ],
)
def test_compat512_has_the_shapes_of_the_original(name, variant, count):
    config = load_config(Path(__file__).resolve().parents[2] / 'configs' / f'tcn_{name}.py', variant)
    params, _ = jax.eval_shape(build(config.task).init, jax.random.key(0))
    assert sum(x.size for x in jax.tree.leaves(params)) == count
    assert config.data.num_tickers == config.task.num_tickers
    assert bool(config.data.tickers) == (name == 'stocks') and config.data.top.out == config.data.tickers


def test_the_variant_tickers_is_for_trades():
    with pytest.raises(InputError, match='tcn_stocks'):
        load_config(Path(__file__).resolve().parents[2] / 'configs' / 'tcn_index.py', 'tickers')
