"""What padding may do to MIGT-TVDT: nothing. Every check is also run on a model whose masks are inverted, where it must
fail, as it would have on the original."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiled import build
from migt_batch import SMALL, make_batch, with_live_heads

from fjq.models import migt
from fjq.models.migt import Model
from fjq.nn import transformer
from fjq.nn.attention import attend
from fjq.nn.transformer import run_layers


def normalize_and_nudge(model, batch, normalize=Model.normalize):
    """What bars are moved by after normalisation, so that it reaches no other bar by their common statistics."""
    x_BxTxV, scale = normalize(model, batch)
    return x_BxTxV + batch['nudge'], scale


class Subject:
    """A model with live weights and, where asked, with faults that it has while it is traced. Bars may be nudged."""

    def __init__(self, *faults):
        self.faults, self.task = ((Model, 'normalize', normalize_and_nudge), *faults), build(SMALL)
        self.params, self.extra = self.task.init(jax.random.key(1))
        self.params = with_live_heads(self.params)
        apply = lambda fn, p, batch: self.task.pure.apply(p, self.extra, fn, batch)[0]
        total = lambda p, moved, batch: jnp.sin(apply(Model.__call__, p, batch | moved)).sum()
        self._see = jax.jit(lambda p, batch: (apply(Model.__call__, p, batch), apply(_bars, p, batch)))
        self._free = jax.jit(lambda p, batch: apply(lambda m, b: _bars(m, b, masked=False), p, batch))
        moved = lambda batch: {name: batch[name] for name in ('features', 'nudge')}
        self._gradients = jax.jit(lambda p, batch: jax.value_and_grad(total, (0, 1))(p, moved(batch), batch))

    def _run(self, fn, batch):
        with pytest.MonkeyPatch.context() as patch:
            for module, name, value in self.faults:
                patch.setattr(module, name, value)
            return jax.device_get(fn(self.params, {'nudge': np.zeros_like(batch['features'])} | batch))

    def forecast(self, batch):
        return self._run(self._see, batch)[0]

    def bars(self, batch, masked=True):
        """What the temporal blocks give for every slot [B, V, T, D]; `masked` False: told nothing of lengths."""
        return self._run(self._see, batch)[1] if masked else self._run(self._free, batch)

    def gradients(self, batch):
        """(a function of the forecast, its gradients to the parameters, to the features and to nudges)."""
        value, (parameters, moved) = self._run(self._gradients, batch)
        return value, parameters, moved


def _bars(model, batch, masked=True):
    rows, slots, variables = batch['features'].shape
    z = model.embed(model.normalize(batch)[0], model.read_clock(batch))
    lengths = jnp.repeat(batch['length'], variables) if masked else None
    return run_layers(model.temporal_layers, z, lengths, None, remat='block').reshape(rows, variables, slots, -1)


def attend_to_padding(q, k, v, *, kv_lengths_B=None, **options):
    if kv_lengths_B is None:
        return attend(q, k, v, **options)
    mask = (jnp.arange(k.shape[1])[None] >= kv_lengths_B[:, None])[:, None, None]
    return attend(q, k, v, mask=mask, **options)


def is_padding(length, slots):
    return jnp.arange(slots)[None] >= length[:, None]


def padded(batch):
    return np.arange(batch['features'].shape[1])[None] >= batch['length'][:, None]


def check_1_padding_changes_nothing(subject):
    batch, rng = make_batch(), np.random.Generator(np.random.Philox(3))
    pad = padded(batch)
    assert pad.any() and not pad.all()
    other = dict(batch)
    noise = rng.standard_normal(batch['features'].shape).astype(np.float32) * 50
    other['features'] = np.where(pad[..., None], noise, batch['features'])
    other['bar_in_day'] = np.where(pad, rng.integers(0, 48, pad.shape), batch['bar_in_day']).astype(np.int32)
    np.testing.assert_array_equal(subject.forecast(other), subject.forecast(batch))


def nudge(batch, rows, slot):
    """The batch with one bar of some rows moved at random: a shift would be taken out by LayerNorm."""
    moved = np.zeros_like(batch['features'])
    moved[rows, slot] = np.random.Generator(np.random.Philox(5)).standard_normal(moved.shape[2])
    return batch | {'nudge': moved}


def check_2_bars_see_each_other(subject):
    batch = make_batch(lengths=[9] * 5)
    seen = np.abs(subject.bars(nudge(batch, slice(None), 4)) - subject.bars(batch)).max(axis=(1, 3))  # [B, T]
    others = np.arange(12) < 9
    others[4] = False
    assert (seen[:, others] > 1e-5).all()


def check_3_slots_do_not_matter(subject):
    """The same nine bars in 12 and 16 slots, and in nine without any padding."""
    batch = make_batch(lengths=[9] * 5)
    wide = {k: np.pad(v, [(0, 0), (0, 4)] + [(0, 0)] * (v.ndim - 2)) if v.ndim > 1 else v for k, v in batch.items()}
    exact = {k: v[:, :9] if k in ('features', 'bar_in_day') else v for k, v in batch.items()}
    wide |= {k: batch[k] for k in ('target', 'target_mask')}
    for other in (wide, exact):
        np.testing.assert_allclose(subject.forecast(other), subject.forecast(batch), atol=2e-5)


def check_4_all_valid_is_no_mask(subject):
    batch = make_batch(lengths=[12] * 5)
    np.testing.assert_allclose(subject.bars(batch), subject.bars(batch, masked=False), atol=1e-5)


def check_5_gradient_is_zero_at_padding_only(subject):
    batch = make_batch()
    for gradient in subject.gradients(batch)[2].values():
        size = np.abs(gradient).max(-1)
        assert (size[padded(batch)] == 0).all()
        assert (size[~padded(batch)] > 0).all()


def check_6_a_window_without_bars_is_finite(subject):
    batch = make_batch(lengths=[0, 5, 12, 0, 7])
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(subject.gradients(batch)))
    empty = batch['length'] == 0
    other = dict(batch, bar_in_day=batch['bar_in_day'] + np.where(empty, 7, 0)[:, None].astype(np.int32))
    for a, b in zip(*(jax.tree.leaves(subject.gradients(x)) for x in (batch, other)), strict=True):
        np.testing.assert_array_equal(a, b)  # no bar, no time of day: nothing reaches value or gradient
    seen = np.abs(subject.bars(nudge(batch, empty, 4)) - subject.bars(batch)).max(axis=(1, 3))
    assert (seen[empty, 4] > 0).all() and (np.delete(seen, 4, axis=1) == 0).all()  # nor one empty slot another


CHECKS = [v for k, v in globals().items() if k.startswith('check_')]  # those of a subject


@pytest.fixture(scope='module')
def subject():
    return Subject()


@pytest.fixture(scope='module')
def inverted():
    """Slots take part where they should not: in attention, in pooling and in the statistics."""
    return Subject((transformer, 'attend', attend_to_padding), (migt, 'is_valid', is_padding))


@pytest.fixture(scope='module')
def inverted_attention():
    """The fault of the original."""
    return Subject((transformer, 'attend', attend_to_padding))


@pytest.mark.parametrize('check', CHECKS, ids=lambda f: f.__name__)
def test_mask(check, subject):
    check(subject)


@pytest.mark.parametrize('check', CHECKS, ids=lambda f: f.__name__)
def test_the_check_fails_where_masks_are_inverted(check, inverted):
    with pytest.raises(AssertionError):
        check(inverted)


@pytest.mark.parametrize('check', CHECKS, ids=lambda f: f.__name__)
def test_the_check_fails_where_attention_alone_is_inverted(check, inverted_attention):
    with pytest.raises(AssertionError):
        check(inverted_attention)


def check_left_padding_is_the_same_window(golden_dir):
    """The reader of the original's windows moves its padding behind the bars."""
    from interop.files import read_npz
    from interop.migt import load, read_batch

    task, params = load(golden_dir / 'migt_tiny')
    golden = read_npz(golden_dir / 'migt_tiny_io.npz')
    short = {k: v[:, 4:] if k in ('features', 'bar_in_day', 'attention_mask') else v for k, v in golden.items()}
    left = {k: np.pad(v, [(0, 0), (4, 0)] + [(0, 0)] * (v.ndim - 2)) if v.ndim > 1 else v for k, v in short.items()}
    left |= {'target': golden['target']}
    assert not left['attention_mask'][:, :4].any() and left['attention_mask'][:, 4:].all()
    see = jax.jit(lambda batch: task.pure.apply(params, {}, _pooled, batch)[0])
    np.testing.assert_allclose(see(read_batch(left)), see(read_batch(short)), atol=1e-5)


def test_left_padding_is_the_same_window(golden_dir, monkeypatch):
    check_left_padding_is_the_same_window(golden_dir)
    monkeypatch.setattr(transformer, 'attend', attend_to_padding)
    with pytest.raises(AssertionError, match='Not equal to tolerance'):
        check_left_padding_is_the_same_window(golden_dir)


def _pooled(model, batch):
    """Without RevIN of the original, whose statistics hold the padding."""
    return model.encode(batch['features'], model.read_clock(batch), batch['length'])
