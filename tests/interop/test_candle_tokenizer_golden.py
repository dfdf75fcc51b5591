"""The candle tokenizer of the original: its values, its files both ways, what is refused."""

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from fjq import torch_file
from fjq.checkpoint import Weights
from fjq.errors import InputError
from fjq.models.candle_autoencoder import CandleAutoencoder
from interop import microchat_vqvae, parity
from interop.candle_autoencoder import from_torch, to_torch
from interop.files import read_state


def test_golden_values(golden_dir):
    rows = microchat_vqvae.check(golden_dir / 'microchat_vqvae_tiny')
    assert len(rows) == 13 and [row for row in rows if not row.ok] == []
    assert 'microchat_vqvae' in parity.families()


def test_the_files_of_the_original_come_back_bit_by_bit(golden_dir):
    state = load_file(golden_dir / 'microchat_vqvae_tiny.safetensors')
    task, params, extra = microchat_vqvae.load(golden_dir / 'microchat_vqvae_tiny')
    again = to_torch(task.config, *jax.tree.map(np.asarray, (params, extra)))
    assert set(again) == set(state)
    for name, value in state.items():
        np.testing.assert_array_equal(again[name], value, err_msg=name)


def test_the_checkpoint_of_the_original(golden_dir, tmp_path):
    """Written by us, read by PyTorch and by us again."""
    torch = pytest.importorskip('torch')
    task, params, extra = microchat_vqvae.load(golden_dir / 'microchat_vqvae_tiny')
    weights = Weights(0, params, extra, {}, {})
    ((name, content),) = task.torch_files(None, weights).items()
    torch_file.write(tmp_path / name, content)
    file = torch.load(tmp_path / name, weights_only=True)
    assert file['config'] == {'type': 'ohlc_candle', 'num_codes': 32, 'emb_dim': 8, 'hidden_dim': 16, 'input_dim': 5}
    np.testing.assert_allclose(file['normalization']['std'], extra['std'])
    state = load_file(golden_dir / 'microchat_vqvae_tiny.safetensors')
    again = read_state(tmp_path / name)
    for key, value in state.items():
        np.testing.assert_array_equal(again[key], value, err_msg=key)
        np.testing.assert_array_equal(file['state_dict'][key].numpy(), value, err_msg=key)


def fresh(config):
    return jax.device_get(jax.jit(config.build().init)(jax.random.key(0)))


def test_a_model_without_one_codebook_keeps_its_state():
    config = CandleAutoencoder(hidden=8, dim=4, quantizer='rvq', levels=(4, 4))
    params, extra = fresh(config)
    again = from_torch(to_torch(config, params, extra), params, extra, file='x')
    for a, b in zip(jax.tree.leaves((params, extra)), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(a, b)


def test_other_models_are_refused(golden_dir):
    state = load_file(golden_dir / 'microchat_vqvae_tiny.safetensors')
    params, extra = fresh(CandleAutoencoder(compat=True))
    with pytest.raises(InputError, match='32 codes of 8 numbers'):
        from_torch(state, params, extra, file='x')
    with pytest.raises(InputError, match='patches of returns'):
        from_torch({'encoder.net.0.weight': np.zeros((64, 1, 3))}, params, extra, file='x')
    del state['feature_std']
    with pytest.raises(InputError, match='lacks feature_std'):
        from_torch(state, params, extra, file='x')
