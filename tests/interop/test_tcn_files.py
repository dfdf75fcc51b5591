"""The exported TCN files: names, order, shapes, sizes, aliasing, and strict loading into PyTorch modules."""

import functools
import json

import jax
import numpy as np
import pytest

from fjq import torch_file
from fjq.errors import InputError
from fjq.models import tcn_files
from fjq.models.tcn import Tcn

torch = pytest.importorskip('torch')
from interop import tcn_modules  # noqa: E402

STREAMS = {'stocks': {'num_tickers': 100}, 'options': {}, 'index': {}}


def values_like(shapes, seed=0):
    """Distinct values for every leaf, cheap enough for 18 million parameters."""
    rng = np.random.Generator(np.random.Philox(seed))
    return jax.tree.map(lambda s: rng.random(s.shape, np.float32) - np.float32(0.5), shapes)


def zeros_like(shapes):
    return jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), shapes)


def shapes_of(config: Tcn):
    return jax.eval_shape(config.build().init, jax.random.key(0))[0]


@functools.cache
def shapes_at_full_size(stream, d_model):
    return shapes_of(Tcn(stream=stream, d_model=d_model, **STREAMS[stream]))


def small(**changes):
    return Tcn(**({'hidden': 8, 'layers': 3, 'd_model': 6, 'head_hidden': 10} | changes))


@pytest.mark.parametrize('d_model', [128, 512])
@pytest.mark.parametrize('stream', STREAMS)
def test_key_order_and_shapes_are_the_originals(golden_dir, stream, d_model):
    golden = json.loads((golden_dir / 'tcn_state_dict_shapes.json').read_text())[f'{stream}-{d_model}']
    params = zeros_like(shapes_at_full_size(stream, d_model))
    parts = {
        'frame_encoder': tcn_files.frame_encoder_state_dict(params),
        'chunked_encoder': tcn_files.chunked_encoder_state_dict(params),
        'rv_head': tcn_files.rv_head_state_dict(params),
    }
    for part in ('frame_encoder', 'chunked_encoder'):
        assert [(n, list(v.shape)) for n, v in parts[part].items()] == list(golden[part].items())
    head = {'0': (256, d_model), '1': (256,), '4': (256, 256), '5': (256,), '8': (1, 256)}
    expected = {f'mlp.{i}.{k}': s if k == 'weight' else s[:1] for i, s in head.items() for k in ('weight', 'bias')}
    assert {n: v.shape for n, v in parts['rv_head'].items()} == expected
    assert list(parts['rv_head']) == list(expected)
    model = tcn_files.model_state_dict(params)
    assert list(model) == [f'{part}.{name}' for part, state in parts.items() for name in state]
    assert len(model) == (212 if stream == 'stocks' else 210)
    assert all(v.dtype == np.float32 for v in model.values())


@pytest.mark.parametrize('d_model', [128, 512])
@pytest.mark.parametrize('stream', STREAMS)
def test_the_encoder_file_loads_strictly_with_shared_storage(tmp_path, stream, d_model):
    params = zeros_like(shapes_at_full_size(stream, d_model))
    path = tmp_path / f'tcn_{stream}_encoder.pt'
    torch_file.write(path, tcn_files.encoder_file(stream, params))
    numbers = sum(x.size for x in jax.tree.leaves({k: params[k] for k in ('frame_encoder', 'chunked_encoder')}))
    assert 4 * numbers < path.stat().st_size < 4 * numbers + 100_000  # 73.6 MB at full size, not 147

    content = torch.load(path, weights_only=True)
    assert content['stream'] == stream
    frame, chunked = content['frame_encoder_state_dict'], content['chunked_encoder_state_dict']
    for name, tensor in frame.items():
        assert tensor.data_ptr() == chunked[f'frame_encoder.{name}'].data_ptr()
    with torch.device('meta'):  # strictness is of names and shapes; the values are looked at in the small model
        encoder = tcn_modules.FrameEncoder('tcn', 3, 512, 12, num_tickers=STREAMS[stream].get('num_tickers', 0))
        both = tcn_modules.ChunkedFrameEncoder(encoder, d_model)
    encoder.load_state_dict(frame, strict=True, assign=True)
    both.load_state_dict(chunked, strict=True, assign=True)
    without = {n: v for n, v in chunked.items() if not n.startswith('frame_encoder.')}
    with pytest.raises(RuntimeError, match='Missing key'):
        both.load_state_dict(without, strict=True)


@pytest.mark.parametrize('tickers', [0, 5])
def test_the_config_builds_the_model_that_the_weights_fit(tmp_path, tickers):
    params = values_like(shapes_of(small(num_tickers=tickers, ticker_dim=4, horizons=2, num_scalars=4, in_features=2)))
    torch_file.write(tmp_path / 'x.pt', tcn_files.encoder_file('index', params))
    config = torch.load(tmp_path / 'x.pt', weights_only=True)['config']
    assert (config['tcn_hidden_dim'], config['tcn_num_layers'], config['tcn_dim_in']) == (8, 3, 2)
    model = tcn_modules.model_from_dimensions(config)
    state = tcn_files.model_state_dict(params)
    assert list(model.state_dict()) == list(state)
    model.load_state_dict({n: torch.tensor(v) for n, v in state.items()}, strict=True)
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), state[name])


def test_parameter_counts_are_the_originals():
    count = lambda module: sum(p.numel() for p in module.parameters())
    with torch.device('meta'):
        model = tcn_modules.TcnModel(d_model=512)
        assert count(model) == 18_595_073
        assert count(model.frame_encoder) == 18_131_456
        assert count(model.rv_head) == 198_401
        assert count(tcn_modules.TcnModel(d_model=512, num_tickers=100)) == 18_629_441
        assert len(list(model.parameters())) == 112
    assert sum(x.size for x in jax.tree.leaves(shapes_of(Tcn(d_model=512)))) == 18_595_073
    assert sum(x.size for x in jax.tree.leaves(shapes_of(Tcn(d_model=512, num_tickers=100)))) == 18_629_441


def test_a_real_adamw_takes_the_moments_and_goes_on_as_if_it_had_made_them(tmp_path):
    """Two steps in torch equal one step, a round trip through our trees and our file, and one more step."""
    config = small(dropout=0.0)
    shapes = shapes_of(config)
    hyper = {'lr': 1e-3, 'betas': (0.8, 0.95), 'eps': 1e-7, 'weight_decay': 1e-2}
    params = values_like(shapes, seed=1)
    model = tcn_modules.model_from_dimensions(tcn_files.dimensions(params), dropout=0.0)
    model.load_state_dict({n: torch.tensor(v) for n, v in tcn_files.model_state_dict(params).items()})
    optimizer = torch.optim.AdamW(model.parameters(), **hyper)

    def step(model, optimizer, seed):
        torch.manual_seed(seed)
        args = torch.randn(4, 32, 3), torch.tensor([32.0, 9, 32, 32]), torch.tensor([0, 0, 1, 2])
        output = model(*args, torch.rand(3, 3), torch.tensor([[0, 2], [2, 3]]))
        optimizer.zero_grad()
        tcn_modules.huber_loss(output, torch.tensor([0.3, 0.6])).backward()
        optimizer.step()

    step(model, optimizer, 1)
    names = [n for n, _ in model.named_parameters()]
    ours = tcn_files.from_model_state_dict(model.state_dict(), shapes)

    def moment(which):
        by_name = dict(zip(names, (s[which] for s in optimizer.state_dict()['state'].values()), strict=True))
        whole = {
            n: by_name.get(n.replace('chunked_encoder.frame_encoder', 'frame_encoder')) for n in model.state_dict()
        }
        return tcn_files.from_model_state_dict(whole, shapes)

    saved = tcn_files.optimizer_state_dict(
        moment('exp_avg'), moment('exp_avg_sq'), step=1, learning_rate=hyper['lr'], betas=hyper['betas'],
        eps=hyper['eps'], weight_decay=hyper['weight_decay'],
    )  # fmt: skip
    content = tcn_files.checkpoint_file(
        'index',
        ours,
        epoch=3,
        optimizer=saved,
        scheduler=None,
        metrics={'train_loss': 0.5, 'val_loss': np.float32(0.25)},
    )
    torch_file.write(tmp_path / 'tcn_index_best.pt', content)
    step(model, optimizer, 2)

    read = torch.load(tmp_path / 'tcn_index_best.pt', weights_only=True)
    assert set(read) == {
        'epoch', 'stream', 'model_state_dict', 'optimizer_state_dict', 'scheduler_state_dict', 'metrics', 'config',
    }  # fmt: skip
    assert (read['epoch'], read['stream'], read['scheduler_state_dict']) == (3, 'index', None)
    assert read['metrics'] == {'train_loss': 0.5, 'val_loss': 0.25}
    again = tcn_modules.model_from_dimensions(read['config'], dropout=0.0)
    again.load_state_dict(read['model_state_dict'], strict=True)
    resumed = torch.optim.AdamW(again.parameters())
    assert set(read['optimizer_state_dict']['param_groups'][0]) == set(optimizer.state_dict()['param_groups'][0])
    resumed.load_state_dict(read['optimizer_state_dict'])
    step(again, resumed, 2)
    for (name, a), (_, b) in zip(model.named_parameters(), again.named_parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0, msg=name)


def test_two_different_copies_of_the_frame_encoder_are_refused():
    shapes = shapes_of(small())
    state = tcn_files.model_state_dict(values_like(shapes))
    back = tcn_files.from_model_state_dict(state, shapes)
    jax.tree.map(np.testing.assert_array_equal, back, values_like(shapes))
    name = 'chunked_encoder.frame_encoder.encoder.layers.1.conv1.bias'
    changed = state | {name: state[name] + 1}
    with pytest.raises(InputError, match=rf'x.pt: {name} is not the same as frame_encoder'):
        tcn_files.from_model_state_dict(changed, shapes, file='x.pt')
    del changed[name]
    with pytest.raises(InputError, match='is not the same'):
        tcn_files.from_model_state_dict(changed, shapes)
