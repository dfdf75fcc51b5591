"""Our PyTorch modules against the golden values, and their options against themselves."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

torch = pytest.importorskip('torch')
from interop import tcn_modules  # noqa: E402


@pytest.fixture(scope='module')
def golden(golden_dir):
    stem = golden_dir / 'tcn_tiny'
    config = json.loads(stem.with_name('tcn_tiny_config.json').read_text())
    model = tcn_modules.TcnModel(
        config['in_features'], config['hidden_dim'], config['num_layers'], config['d_model'], config['num_scalars'],
        config['head_hidden'],
    )  # fmt: skip
    for part in ('frame_encoder', 'chunked_encoder', 'rv_head'):
        state = load_file(f'{stem}_{part}.safetensors')
        getattr(model, part).load_state_dict({k: torch.tensor(v) for k, v in state.items()}, strict=True)
    with np.load(f'{stem}_io.npz') as io:
        return model.eval(), {k: torch.tensor(io[k]) for k in io.files}


def close(ours, golden, tolerance):
    scale = max(1.0, float(golden.abs().max()))
    assert float((ours - golden).detach().abs().max()) <= tolerance * scale


def forward(model, io):
    return model(io['chunks'], io['weights'], io['frame_id'], io['frame_scalars'], io['sample_bounds'])


def test_outputs_and_gradients_are_the_goldens(golden):
    model, io = golden
    close(model.frame_encoder(io['chunks']), io['chunk_embedding'], 1e-5)
    frames = model.chunked_encoder(io['chunks'], io['weights'], io['frame_id'], io['frame_scalars'])
    close(frames, io['frame_vectors'], 1e-5)
    prediction = forward(model, io)
    close(prediction, io['prediction'], 1e-5)
    loss = tcn_modules.huber_loss(prediction, io['target'])
    close(loss, io['huber_loss'], 1e-5)
    model.zero_grad()
    loss.backward()
    gradients = dict(model.chunked_encoder.named_parameters())
    compared = [k for k in io if k.startswith('grad.')]
    assert len(compared) > 10
    for key in compared:
        close(gradients[key.removeprefix('grad.')].grad, io[key], 1e-5)


def test_slicing_the_chunks_changes_nothing(golden):
    model, io = golden
    args = io['chunks'], io['weights'], io['frame_id'], io['frame_scalars']
    whole = model.chunked_encoder(*args)
    sliced = tcn_modules.ChunkedFrameEncoder(model.frame_encoder, 12, 3, stream_chunks=True, stream_chunk_size=3)
    sliced.load_state_dict(model.chunked_encoder.state_dict())
    torch.testing.assert_close(sliced(*args), whole)


def saved_bytes(module, *args):
    """Bytes of activations that one forward pass keeps for the backward pass."""
    storages = {}

    def pack(tensor):
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        output = module(*args)
    return sum(storages.values()), output


def test_checkpointing_keeps_the_gradients_and_saves_memory():
    x = torch.randn(6, 64, 3)
    plain = tcn_modules.FrameEncoder('tcn', 3, 16, 6, dropout=0.2)
    thrifty = tcn_modules.FrameEncoder('tcn', 3, 16, 6, dropout=0.2, checkpoint_every=2)
    thrifty.load_state_dict(plain.state_dict())
    sizes = []
    for encoder in (plain, thrifty):
        torch.manual_seed(3)
        size, output = saved_bytes(encoder, x)
        sizes.append(size)
        output.square().sum().backward()
    for (name, a), (_, b) in zip(plain.named_parameters(), thrifty.named_parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, msg=name)
    assert sizes[1] < 0.3 * sizes[0]


def test_tickers_are_embedded_tick_by_tick():
    encoder = tcn_modules.FrameEncoder('tcn', 3, 8, 3, num_tickers=5, ticker_embed_dim=4).eval()
    x = torch.randn(2, 32, 3)
    ids = torch.randint(1, 5, (2, 32))
    out = encoder(x, ids)
    changed = ids.clone()
    changed[0, 7] = ids[0, 7] % 4 + 1
    moved = encoder(x, changed)
    assert not torch.equal(moved[0], out[0]) and torch.equal(moved[1], out[1])
    real = torch.arange(32) < 30
    padded = encoder(x, torch.where(real, ids, -1))
    encoder.encoder.ticker_embed.weight.data[0] = 0
    torch.testing.assert_close(padded, encoder(x, torch.where(real, ids, 0)))
    with pytest.raises(ValueError, match='pass ticker_ids'):
        encoder(x)
    with pytest.raises(ValueError, match='num_tickers is 0'):
        tcn_modules.FrameEncoder('tcn', 3, 8, 3)(x, ids)


def test_the_originals_interface():
    encoder = tcn_modules.FrameEncoder('tcn', 3, 16, 2)
    assert encoder.out_dim == 16 and isinstance(encoder.encoder, torch.nn.Module)
    chunked = tcn_modules.ChunkedFrameEncoder(encoder, 8)
    assert chunked.frame_encoder is encoder and chunked.out_proj[0].in_features == 19
    with pytest.raises(ValueError, match="kind is 'lstm'"):
        tcn_modules.FrameEncoder('lstm', 3)
