"""The stages: losses by hand, the gradient of rl, forecasts, files and what is refused."""

import dataclasses
from types import SimpleNamespace

import grain
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiled import build
from token_batch import make_batch, small

from fjq.errors import InputError
from fjq.models.microchat import Microchat

HORIZONS = (1, 4)


def make(stage, **changes):
    gpt = changes.pop('gpt', small())
    task = build(Microchat(stage=stage, gpt=gpt, horizons=HORIZONS, paths=6, valid_paths=4, group=4, **changes))
    task.log_probabilities = jax.jit(task.log_probabilities)

    def start(key):
        params, extra = task.init(key)
        params['lm_head']['kernel'] = 0.3 * jax.random.normal(jax.random.key(1), params['lm_head']['kernel'].shape)
        return task.begin(params, extra, None)

    return task, *jax.jit(start)(jax.random.key(0))


def log_law(task, params, batch):
    return np.asarray(task.log_probabilities(params, {}, batch), np.float64)


@pytest.mark.parametrize(('stage', 'loss_on'), [('pretrain', 'horizon'), ('sft', 'horizon'), ('sft', 'full')])
def test_the_loss_is_the_cross_entropy_of_what_counts(stage, loss_on):
    task, params, extra = make(stage, loss_on=loss_on)
    batch = make_batch()
    batch['counts'] = batch['segment'][:, 1:] > 0
    counts = batch['counts'].copy()
    if (stage, loss_on) == ('sft', 'horizon'):
        counts[:, :7] = False
    loss = jax.jit(task.loss)(params, extra, batch, jax.random.key(0))
    every, target = log_law(task, params, batch), batch['tokens'][:, 1:]
    nats = -np.take_along_axis(every, target[..., None], -1)[..., 0]
    rank = (every > -nats[..., None]).sum(-1)
    assert float(loss.weight) == counts.sum()
    np.testing.assert_allclose(loss.total, nats[counts].sum(), rtol=1e-5)
    np.testing.assert_allclose(loss.metrics['bits'][0], nats[counts].sum() / np.log(2), rtol=1e-5)
    assert float(loss.metrics['accuracy'][0]) == (rank == 0)[counts].sum()
    assert float(loss.metrics['top5'][0]) == (rank < 5)[counts].sum()


def test_an_untrained_model_ranks_by_number():
    task = build(Microchat(gpt=small(), horizons=HORIZONS))
    params, extra = task.init(jax.random.key(0))
    batch = make_batch()
    loss = jax.jit(task.loss)(params, extra, batch, None)
    np.testing.assert_allclose(loss.total / loss.weight, np.log(20), rtol=1e-6)
    counted = batch['tokens'][:, 1:][batch['counts']]
    assert (
        float(loss.metrics['top5'][0]) == (counted < 5).sum()
        and float(loss.metrics['accuracy'][0]) == (counted == 0).sum()
    )


def test_the_loss_of_rl_by_hand():
    task, params, extra = make('rl', reward='proximity', kl_weight=0.3, entropy_weight=0.2)
    batch = jax.jit(task.prepare)(params, extra, make_batch(), jax.random.key(4))
    ids, reward = np.asarray(batch['rollouts']), np.asarray(batch['reward'])
    move = lambda x: x + 0.02 * jax.random.normal(jax.random.key(9), x.shape)
    moved = jax.jit(lambda params: jax.tree.map(move, params))(params)
    loss = jax.jit(task.loss)(moved, extra, batch, jax.random.key(5))
    total, kl, entropy, weight = 0.0, 0.0, 0.0, 0
    for b in range(5):
        for p in range(4):
            row = np.concatenate([batch['tokens'][b, :8], ids[b, p]])[None]
            like = {'tokens': row, 'target': 0}
            new, old = (log_law(task, w, like)[0, 7:] for w in (moved, params))
            for t in range(4):
                if not batch['returns_mask'][b, t]:
                    continue
                a = ids[b, p, t]
                gap = old[t, a] - new[t, a]
                h = -(np.exp(new[t]) * new[t]).sum()
                total -= (reward[b, p] - reward[b].mean()) * new[t, a] + 0.2 * h - 0.3 * (np.exp(gap) - 1 - gap)
                kl, entropy, weight = kl + np.exp(gap) - 1 - gap, entropy + h, weight + 1
    assert float(loss.weight) == weight == 56 and kl > 1e-3
    np.testing.assert_allclose(loss.total, total, rtol=1e-4)
    np.testing.assert_allclose(loss.metrics['kl'][0], kl, rtol=1e-3)
    np.testing.assert_allclose(loss.metrics['entropy'][0], entropy, rtol=1e-5)
    np.testing.assert_allclose(loss.metrics['reward'][0], reward[:4].mean(1).sum(), rtol=1e-5)


def test_rl_starts_at_its_reference():
    task, params, extra = make('rl')
    batch = jax.jit(task.prepare)(params, extra, make_batch(), jax.random.key(4))
    assert float(jax.jit(task.loss)(params, extra, batch, None).metrics['kl'][0]) == 0


def test_rl_tells_the_calibration_before_and_after():
    task, params, _ = make('rl')
    batch = make_batch()
    rows = {'target': batch['target'][:4].astype(np.float64), 'valid': batch['target_mask'][:4], 'time': np.arange(4)}
    data = SimpleNamespace(rows=lambda split: rows, batches=lambda *_: grain.MapDataset.source([batch]))
    before, after = task.conclude(params, {'reference': params}, data)
    assert before.removeprefix('calibration before') == after.removeprefix('calibration after')
    law = jax.jit(task.predict)(params, {}, batch)
    low, high = (np.asarray(end)[:4] for end in law.interval(0.8))
    share = [((rows['target'] >= low) & (rows['target'] <= high))[v, h].mean() for h, v in enumerate(rows['valid'].T)]
    assert f'80% intervals cover {share[0]:.1%}, {share[1]:.1%};' in before and '90% intervals' in before
    narrow = jax.tree.map(lambda x: 1e3 * np.asarray(x), params)  # it is sure of every token
    before, after = task.conclude(narrow, {'reference': params}, data)
    assert before.removeprefix('calibration before') != after.removeprefix('calibration after')
    assert not hasattr(make('sft')[0], 'conclude')


def test_forecasts_are_of_the_row_and_the_key():
    task, params, extra = make('pretrain')
    predict = jax.jit(task.predict)
    batch = make_batch()
    law = np.asarray(predict(params, extra, batch, jax.random.key(0)).values)
    assert law.shape == (5, 2, 6) and (law[:, 1] != law[:, 0]).any()
    np.testing.assert_array_equal(law, predict(params, extra, batch, None).values)
    turned = {k: v[::-1] for k, v in batch.items()}
    np.testing.assert_array_equal(law, predict(params, extra, turned, None).values[::-1])
    blind = batch | {k: np.zeros_like(batch[k]) for k in ('target', 'target_mask', 'returns', 'returns_mask', 'counts')}
    blind['tokens'] = batch['tokens'].copy()
    blind['tokens'][:, 8:] = 0
    np.testing.assert_array_equal(law, predict(params, extra, blind, None).values)


def test_validation_of_sft_samples_paths():
    task, params, extra = make('sft')
    metrics = jax.jit(task.loss)(params, extra, make_batch(), None).metrics
    assert {'bits', 'accuracy', 'top5', 'free_accuracy', 'crps'} == set(metrics)
    assert float(metrics['free_accuracy'][1]) == 14 * 4 and float(metrics['crps'][1]) == 7


def test_a_torch_file_says_what_it_is():
    task, params, _ = make('sft', gpt=small(padded_logits=True))
    weights = SimpleNamespace(params=params, step=7, facts={'train_loss': 1.5, 'validation': {'loss': 2.5}})
    (content,) = task.torch_files(None, weights).values()
    assert content['config'] == {
        'sequence_len': 16, 'vocab_size': 20, 'n_layer': 1, 'n_head': 4, 'n_kv_head': 2, 'n_embd': 32, 'dropout': 0.0,
    }  # fmt: skip
    assert list(content['model_state_dict'])[:2] == ['h.0.attn.c_k.weight', 'h.0.attn.c_proj.weight']
    assert (content['epoch'], content['train_loss'], content['val_loss']) == (7, 1.5, 2.5)
    old, _, _ = make('sft', gpt=small(softcap=15.0, embedding_norm=True, vocabulary=64))
    (content,) = old.torch_files(None, weights).values()
    names = list(content['model_state_dict'])
    assert 'lm_head.weight' in names and all(n.startswith('transformer.') for n in names if n != 'lm_head.weight')


@pytest.mark.parametrize(
    ('changes', 'field'),
    [
        ({'rope_base': 500.0}, 'rope_base'),
        ({'tied': True}, 'tied'),
        ({'marks': 2}, 'marks'),
        ({'softcap': 15.0}, 'softcap'),
        ({'softcap': 30.0, 'embedding_norm': True}, 'softcap'),
        ({'embedding_norm': True}, 'softcap'),
        ({'vocabulary': 20}, 'padded_logits'),
        ({'vocabulary': 20, 'softcap': 15.0, 'embedding_norm': True, 'padded_logits': True}, 'padded_logits'),
    ],
)
def test_no_torch_file_of_what_the_original_does_not_compute(changes, field):
    task = build(Microchat(stage='sft', gpt=small(**{'vocabulary': 64} | changes)))
    weights = SimpleNamespace(params={}, step=7, facts={'train_loss': 1.5, 'validation': {'loss': 2.5}})
    with pytest.raises(InputError, match=f'task.gpt.{field}.*another function'):
        task.torch_files(None, weights)


FACTS = {'vocabulary': 20, 'horizons': [1, 4], 'layout': 'packed', 'length': 16}


@pytest.mark.parametrize(
    ('stage', 'facts', 'context', 'message'),
    [
        ('pretrain', {'vocabulary': 64}, 8, 'the tokenizer has 64 tokens and the model 20'),
        ('pretrain', {'horizons': [1, 2]}, 8, r'the data forecast \(1, 2\) candles ahead and the model \(1, 4\)'),
        ('pretrain', {'marks': ['', 'A']}, 8, 'the data have 2 marks and the model 0'),
        ('pretrain', {'length': 17}, 8, 'rows of 17 tokens are longer than the model, 16'),
        ('pretrain', {}, 14, 'rows of 17 tokens are longer than the model, 16'),
        ('rl', {}, 8, 'the stage rl trains on rows that forecast'),
    ],
)
def test_data_of_another_model_are_refused(stage, facts, context, message):
    task = build(Microchat(stage=stage, gpt=small(), horizons=HORIZONS))
    with pytest.raises(InputError, match=message):
        task.check(SimpleNamespace(fingerprint=lambda: FACTS | facts, context=context))
    task.check(SimpleNamespace(fingerprint=lambda: FACTS | {'layout': 'forecast'}, context=13))


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'stage': 'stage5'}, 'choose one of pretrain, midtrain, sft, rl'),
        ({'reward': 'luck'}, "task.reward is 'luck'"),
        ({'horizons': (0, 4)}, 'task.horizons'),
        ({'horizons': ()}, 'task.horizons'),
        ({'group': 2}, 'task.group is 2. Make it 3 or more'),
        ({'kl_weight': -1.0}, 'task.kl_weight is -1'),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes, message):
    with pytest.raises(InputError, match=f'(?i){message}'):
        build(dataclasses.replace(Microchat(), **changes))


def test_a_mark_is_read_and_never_written():
    task, params, extra = make('pretrain', gpt=small(vocabulary=64, marks=2))
    assert params['wte']['embedding'].shape[0] == 128 and small(vocabulary=20, marks=2).padded == 64
    batch = make_batch(vocabulary=64)
    marked = [batch | {'tokens': np.concatenate([np.full((5, 1), m), batch['tokens'][:, 1:]], 1)} for m in (64, 65)]
    laws = [log_law(task, params, b) for b in marked]
    assert laws[0].shape[-1] == 64 and (np.abs(laws[0] - laws[1]).max(-1) > 1e-4).all()
    np.testing.assert_allclose(np.exp(laws[0]).sum(-1), 1, rtol=1e-5)
    keys = jax.random.split(jax.random.key(0), 1)
    with pytest.raises(InputError, match='the token 66 is out of the vocabulary'):
        task.generate(params, np.full((1, 2), 66), keys, horizon=2, paths=1, sampling=task.config.sampling)
    joined = batch | {'tokens': batch['tokens'].copy()}
    joined['tokens'][:, 5], joined['counts'] = 65, batch['counts'].copy()
    with jax.debug_nans(True):
        loss, gradient = jax.jit(jax.value_and_grad(lambda p: task.loss(p, extra, joined, None).total))(params)
    assert np.isfinite(loss) and np.abs(gradient['wte']['embedding'][65]).max() > 0
    assert not np.abs(gradient['lm_head']['kernel'][:, 64:]).any()
    with pytest.raises(InputError, match='task.gpt.marks is 1'):
        small(marks=1, padded_logits=True).check()


def test_a_token_out_of_the_vocabulary_is_refused():
    task, params, _ = make('pretrain')
    with pytest.raises(InputError, match='the token 20 is out of the vocabulary, 0 to 19'):
        task.generate(
            params,
            jnp.array([[3, 20]]),
            jax.random.split(jax.random.key(0), 1),
            horizon=2,
            paths=1,
            sampling=task.config.sampling,
        )
