"""Blocks, their stacks and the pooling against plain loops and PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from fjq.bridge import Pure
from fjq.errors import InputError
from fjq.nn import transformer
from fjq.nn.attention_pool import AttentionPool
from fjq.nn.gates import GatedNorm
from fjq.nn.transformer import Block, attend_by_groups, run_layers, stack_layers
from fjq.torch_names import to_state_dict

LENGTHS = np.array([5, 1, 7, 0, 3, 7], np.int32)


def inputs(width=8, slots=7, seed=0):
    return np.random.Generator(np.random.Philox(seed)).standard_normal((6, slots, width)).astype(np.float32)


def test_a_block_is_pytorchs_encoder_layer():
    pure = Pure(lambda rngs: Block(8, 2, 16, 0.0, dtype=jnp.float32, rngs=rngs))
    params, _ = pure.init(jax.random.key(0))
    state = {k: torch.tensor(v) for k, v in to_state_dict(jax.device_get(params)).items()}
    layer = torch.nn.TransformerEncoderLayer(8, 2, 16, 0.0, 'gelu', batch_first=True, norm_first=True)
    qkv = lambda leaf: torch.cat([state[f'{p}_proj.{leaf}'] for p in 'qkv'])
    theirs = {'self_attn.in_proj_weight': qkv('weight'), 'self_attn.in_proj_bias': qkv('bias')}
    for leaf in ('weight', 'bias'):
        theirs |= {f'self_attn.out_proj.{leaf}': state[f'out_proj.{leaf}'], f'linear1.{leaf}': state[f'ff.0.{leaf}']}
        theirs |= {f'linear2.{leaf}': state[f'ff.3.{leaf}']}
        theirs |= {f'norm{i}.{leaf}': state[f'norm{i}.{leaf}'] for i in (1, 2)}
    layer.load_state_dict(theirs, strict=True)
    x, some = inputs(), LENGTHS > 0
    ours = np.asarray(jax.jit(lambda p: pure.apply(p, {}, lambda m: m(x, LENGTHS, None))[0])(params))
    ignored = torch.arange(7)[None] >= torch.tensor(LENGTHS)[:, None]  # PyTorch's layer: True = left out
    with torch.no_grad():
        expected = layer.train()(torch.tensor(x), src_key_padding_mask=ignored).numpy()
    valid = ~ignored.numpy() & some[:, None]
    np.testing.assert_allclose(ours[valid], expected[valid], atol=1e-5)


def test_a_stack_is_its_blocks_one_after_the_other():
    def make(rngs):
        return stack_layers(3, lambda: Block(8, 2, 16, 0.0, dtype=jnp.float32, rngs=rngs))

    pure = Pure(make)
    params, _ = pure.init(jax.random.key(0))
    x = inputs()
    whole = jax.jit(lambda p: pure.apply(p, {}, lambda m: run_layers(m, x, LENGTHS, None, remat='block'))[0])(params)
    single, y = Pure(lambda rngs: Block(8, 2, 16, 0.0, dtype=jnp.float32, rngs=rngs)), x
    block = jax.jit(lambda p, y: single.apply(p, {}, lambda m: m(y, LENGTHS, None))[0])
    for i in range(3):
        y = block(jax.tree.map(lambda leaf, i=i: np.asarray(leaf)[i], params), y)
    np.testing.assert_allclose(whole, y, atol=1e-5)
    assert np.ptp(np.asarray(params['q_proj']['kernel']), axis=0).min() > 0  # layers differ from the start
    with pytest.raises(InputError, match='rematerialisation'):
        pure.apply(params, {}, lambda m: run_layers(m, x, LENGTHS, None, remat='all'))


def in_groups(monkeypatch, function, *arguments):
    """What a function gives without and with groups of three sequences of 7 slots and two heads, in two chains."""
    fresh = lambda: jax.jit(lambda *arguments: function(*arguments))  # traced anew, under the sizes of the moment
    whole = fresh()(*arguments)
    monkeypatch.setattr(transformer, 'GROUP_BYTES', 2 * 4 * 2 * 7 * 7)
    lowered = []
    for devices in (jax.device_count(), 1):
        monkeypatch.setattr(jax, 'device_count', lambda devices=devices: devices)
        lowered.append(fresh().lower(*arguments))
    one, two = (program.as_text().count('dot_general') for program in lowered)
    assert two > one  # several devices keep one chain
    compiled = lowered[-1].compile()
    assert 'while' in compiled.as_text()
    return jax.tree.leaves(whole), jax.tree.leaves(compiled(*arguments))


@pytest.mark.parametrize('lengths', [LENGTHS, None])
def test_attention_by_groups_is_attention(monkeypatch, lengths):
    """The same values and gradients as all sequences at once."""
    qkv = np.concatenate([inputs(seed=s) for s in range(3)], axis=-1)
    run = jax.value_and_grad(lambda qkv: jnp.sin(attend_by_groups(qkv, 2, lengths)).sum())
    for a, b in zip(*in_groups(monkeypatch, run, qkv), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_layers_by_groups_are_the_layers(monkeypatch):
    pure = Pure(lambda rngs: stack_layers(3, lambda: Block(8, 2, 16, 0.0, dtype=jnp.float32, rngs=rngs)))
    params, _ = pure.init(jax.random.key(0))
    run = lambda p, x: pure.apply(p, {}, lambda m: run_layers(m, x, LENGTHS, None, remat='block'))[0]
    for a, b in zip(*in_groups(monkeypatch, run, params, inputs()), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_pooling_is_attention_of_one_query():
    """Not folded, as the original computes it; an empty sequence is zero and has no gradient."""
    pure = Pure(lambda rngs: AttentionPool(8, rngs=rngs))
    params, _ = pure.init(jax.random.key(0))
    params = params | {'query': params['query'] * 100}
    z, valid = inputs(), np.arange(7)[None] < LENGTHS[:, None]
    run = lambda params, z: pure.apply(params, {}, lambda m: m(z, valid))[0]
    k, v = (z @ np.asarray(params[n]['kernel']) + np.asarray(params[n]['bias']) for n in ('k_proj', 'v_proj'))
    score = np.where(valid, k @ np.asarray(params['query']) / np.sqrt(8), -np.inf)
    with np.errstate(invalid='ignore'):
        weight = np.exp(score - score.max(1, keepdims=True))
        expected = ((weight / weight.sum(1, keepdims=True))[..., None] * v).sum(1)
    expected[LENGTHS == 0] = 0
    np.testing.assert_allclose(jax.jit(run)(params, z), expected, atol=2e-5)
    gradient = np.asarray(jax.jit(jax.grad(lambda z: jnp.sin(run(params, z)).sum()))(z))
    assert (gradient[~valid] == 0).all() and (np.abs(gradient[valid]).max(-1) > 0).all()


def test_the_gate_mixes_input_and_output():
    pure = Pure(lambda rngs: GatedNorm(8, rngs=rngs))
    params, _ = pure.init(jax.random.key(0))
    x, u = inputs(), inputs(seed=1)
    gate = 1 / (1 + np.exp(-(x @ np.asarray(params['gate']['kernel']) + np.asarray(params['gate']['bias']))))
    norm = (u - u.mean(-1, keepdims=True)) / np.sqrt(u.var(-1, keepdims=True) + 1e-5)
    expected = (1 - gate) * x + gate * norm
    ours = jax.jit(lambda x, u: pure.apply(params, {}, lambda m: m(x, u))[0])(x, u)
    np.testing.assert_allclose(ours, expected, atol=1e-5)
