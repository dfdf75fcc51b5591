"""A trained model in a script: the same forecasts whatever the kind of frame, and the same bits from disk."""

import dataclasses
import sys

import grain
import jax
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import toy

import fjq
from fjq.calibration import Calibration, PastErrors, SplitConformal
from fjq.config import Experiment
from fjq.data.ticks.tcn import TcnData
from fjq.data.windows import Split
from fjq.errors import InputError
from fjq.forecast import Mixture, Point, Quantiles
from fjq.models.tcn import Tcn
from fjq.train import train
from fjq.trained import WEIGHTS, Trained, forecast_table, predict_rows, to_table


def make_trained(**changes) -> Trained:
    """A small encoder of index ticks, with random weights."""
    split = Split(train_end='2022-02-28', valid_end='2022-03-31', purge_days=5, embargo_days=0)
    data = TcnData(split=split, frame='60s', chunk_len=8, batch_rows=4, chunk_buckets=(6,), frame_buckets=(6,))
    task = Tcn(hidden=8, layers=3, d_model=4, head_hidden=4, **changes)
    config = Experiment(name='small', task=task, data=data)
    return Trained(config, *task.build().init(jax.random.key(1)))


def make_ticks(days=3, seed=0) -> pa.Table:
    rng = np.random.Generator(np.random.Philox(seed))
    parts = []
    for day in range(days):
        count = 200 + 10 * day
        start = np.datetime64('2022-02-01T09:30', 'us') + np.timedelta64(day, 'D')
        parts.append(
            pa.table(
                {
                    'ticker': rng.choice(['SPX', 'VIX', 'RUT'], count),
                    'timestamp': start + np.sort(rng.integers(0, 1500, count)) * np.timedelta64(1, 's'),
                    'price': 100 + rng.random(count),
                }
            )
        )
    return pa.concat_tables(parts)


@pytest.fixture(scope='module')
def trained():
    return make_trained()


@pytest.fixture(scope='module')
def by_hand(trained):
    """Mean forecast of each day: of its rows, each predicted alone from its own ticks."""
    data = trained.config.data.from_table(make_ticks())
    means, predict = {}, jax.jit(trained.task.predict)
    for i in range(len(data.batches('all', fjq.task.Shard()))):
        batch = data.batches('all', fjq.task.Shard())[i]
        for r in np.flatnonzero(batch['mask']):
            row = {k: v[r : r + 1] for k, v in batch.items()}
            value = np.asarray(predict(trained.params, trained.extra, row).mean())[0, 0]
            means.setdefault(int(batch['row'][r]), []).append(value)
    assert max(len(m) for m in means.values()) > 1
    return [np.mean(means[i]) for i in range(3)]


def as_dict(table):
    return {n: table[n].to_numpy(zero_copy_only=False) for n in table.column_names}


FRAMES = {
    'pandas': (pa.Table.to_pandas, pd.DataFrame),
    'polars': (pl.from_arrow, pl.DataFrame),
    'pyarrow': (lambda t: t, pa.Table),
    'dict': (as_dict, dict),
}


@pytest.mark.parametrize('kind', FRAMES)
def test_frames_of_every_kind(trained, by_hand, kind, monkeypatch):
    make, wanted = FRAMES[kind]
    errors = {'scale': 'level', 'errors_HxE': [[-0.5, 0.0, 0.5]], 'weight_HxE': [[1.0] * 3]}
    monkeypatch.setattr(trained, 'calibration', Calibration(PastErrors(), errors, None))
    out = trained.predict_df(make(make_ticks()), levels=(0.1, 0.5))
    assert isinstance(out, wanted)
    names = out if kind == 'dict' else out.column_names if kind == 'pyarrow' else out.columns
    columns = {n: np.asarray(out[n]) for n in names}
    assert list(columns) == ['id', 'time', 'horizon', 'mean', 'q10', 'q50', 'target']
    assert [str(d)[:10] for d in columns['time'].astype('datetime64[D]')] == ['2022-02-01', '2022-02-02', '2022-02-03']
    assert set(columns['id']) == {'SPY'} and columns['horizon'].tolist() == [30, 30, 30]
    np.testing.assert_allclose(columns['mean'].astype(float), by_hand, rtol=1e-5)
    np.testing.assert_allclose(columns['q50'].astype(float), by_hand, rtol=1e-5)
    np.testing.assert_allclose(columns['q10'].astype(float), np.array(by_hand) - 0.5, rtol=1e-5)
    assert np.isnan(columns['target'].astype(float)).all()  # nothing is known of the future


def test_a_point_without_known_errors_has_no_interval(trained):
    assert trained.predict_df(make_ticks()).column_names == ['id', 'time', 'horizon', 'mean', 'target']


def test_the_order_of_rows_and_further_columns_do_not_matter(trained, by_hand):
    table = make_ticks().append_column('note', pa.array(['x'] * make_ticks().num_rows))
    shuffled = table.take(np.random.Generator(np.random.Philox(2)).permutation(table.num_rows))
    out = trained.predict_df(shuffled.to_pandas().set_index('note'))
    assert out['mean'].notna().all() and len(out) == 3
    # ticks of one ticker and second may change places, others not
    np.testing.assert_allclose(out['mean'], by_hand, rtol=0.05)


@pytest.mark.parametrize(
    ('frame', 'words'),
    [
        (7, 'a int is no table. Give a pandas, polars or pyarrow table or a dict'),
        ({'ticker': ['A'], 'price': [1.0]}, "the table, column 'timestamp': no such column"),
        ({'ticker': ['A'], 'timestamp': [pd.Timestamp('2022-02-01 10:00')], 'price': ['x']}, "'x' is no number"),
        ({'ticker': ['A', 'B'], 'price': [1.0]}, 'is no table'),
    ],
)
def test_a_frame_that_can_not_be_read_is_named(trained, frame, words):
    with pytest.raises(InputError, match=words):
        trained.predict_df(frame)


def test_tables_keep_their_columns():
    table = make_ticks(1)
    for make, _ in FRAMES.values():
        assert to_table(make(table)).column_names == table.column_names
    assert to_table(pd.DataFrame({'a': [1]}, index=[5])).column_names == ['a']
    assert to_table(pl.DataFrame({'a': [1]})).num_rows == 1


@dataclasses.dataclass
class Rows:
    """Three rows of two horizons from batches in any order: row 1 twice, padding everywhere."""

    order: tuple

    def rows(self, split):
        target = np.arange(6.0).reshape(3, 2)
        return {'id': np.array(list('abc')), 'time': np.arange(3), 'target': target, 'valid': target != 3}

    def batches(self, split, shard):
        row = np.array([*self.order, -1])
        value = np.where(row[:, None] < 0, 1e9, row[:, None] * 10.0 + [[0, 1]])
        value[len(self.order) - 1] += 4
        half = len(row) // 2
        parts = [{'mask': (row >= 0)[s], 'row': row[s], 'value': value[s]} for s in (slice(half), slice(half, None))]
        return grain.MapDataset.source(parts)


def test_rows_of_a_batch_that_share_a_row_are_averaged():
    law, rows = predict_rows(lambda b: Point(b['value']), Rows((2, 0, 1, 1)), 'all')
    np.testing.assert_allclose(law.mean(), [[0, 1], [12, 13], [20, 21]])
    assert rows['time'].tolist() == [0, 1, 2]
    mixture, _ = predict_rows(
        lambda b: Mixture(np.ones((*b['value'].shape, 1)), b['value'][..., None], 0 * b['value'][..., None] + 2, None),
        Rows((2, 0, 1, 1)),
        'all',
    )
    np.testing.assert_allclose(mixture.mean(), [[0, 1], [12, 13], [20, 21]], atol=1e-4)
    np.testing.assert_allclose(mixture.std(), np.full((3, 2), 2.0), rtol=0.05)


def test_masked_rows_take_no_part_whatever_their_index():
    class Padded(Rows):
        def batches(self, split, shard):
            return super().batches(split, shard).map(lambda b: b | {'row': np.maximum(b['row'], 0)})

    law, _ = predict_rows(lambda b: Point(b['value']), Padded((2, 0, 1, 1)), 'all')
    np.testing.assert_allclose(law.mean(), [[0, 1], [12, 13], [20, 21]])


def test_a_table_has_one_line_a_row_and_horizon():
    levels = np.array([0.1, 0.5, 0.9])
    values = np.arange(18.0).reshape(3, 2, 3)
    rows = Rows((0, 1, 2)).rows('all')
    table = forecast_table(Quantiles(levels, values), rows, (0.1, 0.9)).to_pylist()
    assert [(t['id'], t['time'], t['horizon']) for t in table] == [
        (i, n, h) for n, i in enumerate('abc') for h in (1, 2)
    ]
    assert [t['q10'] for t in table] == values[..., 0].reshape(-1).tolist()
    assert [t['q90'] for t in table] == values[..., 2].reshape(-1).tolist()
    assert [t['target'] for t in table[:3]] == [0, 1, 2] and np.isnan(table[3]['target'])
    named = forecast_table(Quantiles(levels, values), rows | {'horizon': np.array([5, 30])}, (0.5,))
    assert named['horizon'].to_pylist() == [5, 30] * 3


def test_an_empty_split_is_named():
    with pytest.raises(InputError, match='the valid split is empty'):
        predict_rows(
            lambda b: b, type('Empty', (Rows,), {'batches': lambda *_: grain.MapDataset.range(0)})(()), 'valid'
        )


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    """A run of the toy, which is a part of fjq as long as this lasts: no other types are read back."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, 'fjq.toy', toy)
        for kind in (toy.Toy, toy.ToyData):
            patch.setattr(kind, '__module__', 'fjq.toy')
        folder = tmp_path_factory.mktemp('run')
        train(toy.experiment(), folder)
        yield folder


def toy_batch():
    return toy.ToyData().open(None, None).batches('test', fjq.task.Shard())[0]


def test_a_run_and_what_it_saves_are_the_same(run, tmp_path):
    trained = fjq.load(run)
    trained.save(tmp_path / 'deep' / 'folder')
    again = fjq.load(tmp_path / 'deep' / 'folder')
    assert trained.step == 20 and again.step is None and again.config == trained.config
    for a, b in zip(
        jax.tree.leaves((trained.params, trained.extra)), jax.tree.leaves((again.params, again.extra)), strict=True
    ):
        assert a.dtype == b.dtype and np.array_equal(a, b)
    np.testing.assert_array_equal(trained.predict(toy_batch()).mean(), again.predict(toy_batch()).mean())
    assert float(again.extra['seen']) == 20 * 16


def test_a_calibration_of_other_weights_does_not_stay(run, tmp_path):
    trained = fjq.load(run)
    trained.calibration = Calibration(
        PastErrors(), {'scale': 'level', 'errors_HxE': [[0.0]], 'weight_HxE': [[1.0]]}, 20
    )
    trained.save(tmp_path)
    assert fjq.load(tmp_path).calibration == trained.calibration
    fjq.load(run).save(tmp_path)
    assert fjq.load(tmp_path).calibration is None


def test_the_best_weights_are_read_and_predict_is_compiled_once(run, caplog):
    trained = fjq.load(run)
    assert not caplog.records  # a script is told nothing that it need not know
    x, y = toy_batch()['x'], toy_batch()['target']
    linear = jax.device_get(trained.params['linear'])
    np.testing.assert_allclose(trained.predict(toy_batch()).mean(), x @ linear['kernel'] + linear['bias'], rtol=1e-5)
    assert np.corrcoef(np.asarray(trained.predict(toy_batch()).mean())[:, 0], y)[0, 1] > 0.9
    trained.predict(toy_batch()), trained.predict(toy_batch())
    assert trained._predict._cache_size() == 1


def test_what_is_not_there_or_does_not_fit_is_named(run, tmp_path):
    with pytest.raises(InputError, match=r'no run here.*[Tt]rain first'):
        fjq.load(tmp_path)
    trained = fjq.load(run)
    with pytest.raises(InputError, match='toy makes no embeddings'):
        trained.embed(toy_batch())
    trained.save(tmp_path / 'a')
    config = (tmp_path / 'a' / 'config.json').read_text()
    (tmp_path / 'a' / 'config.json').write_text(config.replace('"width": 8', '"width": 4'))
    with pytest.raises(
        InputError, match=r"model.safetensors: 'params/linear/kernel' has shape \(8, 1\), the model \(4, 1\)"
    ):
        fjq.load(tmp_path / 'a')
    trained.extra = {**trained.extra, 'further': np.zeros(1, np.float32)}
    trained.save(tmp_path / 'b')
    with pytest.raises(InputError, match="'extra/further' is in only one of the file and the model"):
        fjq.load(tmp_path / 'b')
    trained.extra = {}
    trained.save(tmp_path / 'b')
    with pytest.raises(InputError, match="'extra/seen' is in only one of the file and the model"):
        fjq.load(tmp_path / 'b')
    (tmp_path / 'b' / 'config.json').unlink()
    with pytest.raises(InputError, match='config.json is absent'):
        fjq.load(tmp_path / 'b')


def test_the_layout_of_an_array_does_not_matter(trained, tmp_path):
    turned = Trained(trained.config, trained.params, trained.extra)
    turned.params = jax.tree.map(lambda x: np.asfortranarray(x), trained.params)
    turned.save(tmp_path)
    for a, b in zip(jax.tree.leaves(trained.params), jax.tree.leaves(fjq.load(tmp_path).params), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize('damage', [b'', b'nonsense', None])
def test_damaged_weights_are_named(run, tmp_path, damage):
    fjq.load(run).save(tmp_path)
    whole = (tmp_path / WEIGHTS).read_bytes()
    (tmp_path / WEIGHTS).write_bytes(whole[:-5] if damage is None else damage)
    with pytest.raises(InputError, match=r'model.safetensors: not a safetensors file, or a damaged one'):
        fjq.load(tmp_path)


def test_embeddings_are_those_of_the_task(trained):
    data = trained.config.data.from_table(make_ticks())
    batch = data.batches('all', fjq.task.Shard())[0]
    vectors = trained.embed(batch)
    assert vectors.shape == (4, 6, 4)
    np.testing.assert_allclose(vectors, jax.jit(trained.task.embed)(trained.params, trained.extra, batch), atol=1e-6)


def test_a_calibration_goes_with_its_weights(run, tmp_path):
    trained = fjq.load(run)
    assert trained.calibration is None
    method = SplitConformal(levels=(0.1, 0.9))
    Calibration(method, {'stretch_PxH': [[0.5]]}, 5).write(run)
    assert fjq.load(run).calibration is None  # of weights that are no longer the best
    fitted = Calibration(method, {'stretch_PxH': [[0.5]]}, 20)
    fitted.write(run)
    loaded = fjq.load(run)
    (run / 'calibration.json').unlink()
    assert loaded.calibration == fitted
    loaded.save(tmp_path)
    assert fjq.load(tmp_path).calibration == fitted


def test_frames_are_calibrated(trained, by_hand, monkeypatch):
    class Shifted:
        def apply(self, law, rows):
            return Quantiles((0.05, 0.95), np.asarray(law.mean())[..., None] + np.array([-7.0, 7.0]))

    monkeypatch.setattr(trained, 'calibration', Shifted())
    table = trained.predict_df(make_ticks(), levels=(0.05, 0.95))
    monkeypatch.undo()
    plain = trained.predict_df(make_ticks(), levels=(0.05, 0.95))
    np.testing.assert_allclose(table['q95'].to_numpy(), plain['mean'].to_numpy() + 7, rtol=1e-5)
