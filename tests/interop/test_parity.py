"""`python -m interop.parity`: right on the golden values, wrong on changed ones, and clear about bad input."""

import json
import shutil

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from interop import check as checks
from interop import parity, tcn
from interop.parity import main

FILES = ('config.json', 'io.npz', 'frame_encoder.safetensors', 'chunked_encoder.safetensors', 'rv_head.safetensors')


@pytest.fixture
def stem(golden_dir, tmp_path):
    """A copy of the smallest stem that a test may change."""
    for end in FILES:
        shutil.copy(golden_dir / f'tcn_tiny_{end}', tmp_path / f'tcn_tiny_{end}')
    return tmp_path / 'tcn_tiny'


def change_io(stem, name, change):
    with np.load(f'{stem}_io.npz') as io:
        arrays = {k: io[k] for k in io.files}
    arrays[name] = change(arrays[name])
    np.savez(f'{stem}_io.npz', **arrays)


def test_the_tcn_is_the_original(golden_dir, capsys):
    assert main([str(golden_dir / 'tcn_tiny')]) == 0
    out = capsys.readouterr().out
    names = {line.split()[0] for line in out.splitlines() if line.endswith(' ok')}
    with np.load(golden_dir / 'tcn_tiny_io.npz') as io:
        compared = {k for k in io.files if k.startswith('grad.')}
    assert names >= compared | {'chunk_embedding', 'frame_vectors', 'prediction', 'huber_loss'}


def test_changed_values_fail_their_rows_and_the_command(stem, capsys):
    def change(x):
        x = np.array(x)
        x.flat[0] += 1e-3 * max(1e-9, np.abs(x).max())
        return x

    changed = ['chunk_embedding', 'prediction', 'huber_loss', 'grad.out_proj.0.weight']
    for name in changed:
        change_io(stem, name, change)
    assert main([str(stem)]) == 1
    out = capsys.readouterr().out
    assert [line.split()[0] for line in out.splitlines() if line.endswith('FAILED')] == changed
    assert '16 of 20 ok' in out


def test_other_sizes_are_read_from_the_files(tmp_path, capsys):
    """Golden values of another size, made by our PyTorch modules, stand in for the ones that lie elsewhere."""
    torch = pytest.importorskip('torch')
    from interop import tcn_modules

    torch.manual_seed(0)
    sizes = {'in_features': 2, 'hidden_dim': 6, 'num_layers': 4, 'd_model': 5, 'num_scalars': 4, 'head_hidden': 7}
    model = tcn_modules.TcnModel(2, 6, 4, 5, 4, 7, dropout=0.0, num_tickers=3, ticker_embed_dim=2)
    io = {
        'chunks': torch.randn(5, 40, 2),
        'weights': torch.tensor([40.0, 3, 40, 11, 40]),
        'frame_id': torch.tensor([0, 0, 1, 2, 2]),
        'frame_scalars': torch.rand(3, 4) * 100,
        'sample_bounds': torch.tensor([[0, 1], [1, 3]]),
        'ticker_ids': torch.randint(-1, 3, (5, 40)),
    }
    frames = model.chunked_encoder(*(io[k] for k in ('chunks', 'weights', 'frame_id', 'frame_scalars', 'ticker_ids')))
    prediction = model.rv_head(torch.stack([frames[0], frames[1:].mean(0)]))
    target = torch.tensor([0.3, 0.8])
    loss = tcn_modules.huber_loss(prediction, target)
    loss.backward()
    grads = {f'grad.{n}': p.grad for n, p in model.chunked_encoder.named_parameters()}
    grads |= {f'grad.{n}': p.grad for n, p in model.rv_head.named_parameters()}
    outputs = {'frame_vectors': frames, 'prediction': prediction, 'target': target, 'huber_loss': loss}
    np.savez(tmp_path / 'tcn_odd_io.npz', **{k: v.detach().numpy() for k, v in (io | outputs | grads).items()})
    (tmp_path / 'tcn_odd_config.json').write_text(json.dumps(sizes))
    for part in ('frame_encoder', 'chunked_encoder', 'rv_head'):
        state = {k: v.numpy() for k, v in getattr(model, part).state_dict().items()}
        save_file(state, tmp_path / f'tcn_odd_{part}.safetensors')
    assert main([str(tmp_path / 'tcn_odd')]) == 0
    assert 'grad.mlp.8.weight' in capsys.readouterr().out


@pytest.mark.parametrize(
    ('name', 'said'),
    [
        ('tcm_tiny', "there is no family 'tcm'. Did you mean 'tcn'"),
        ('check_tiny', "there is no family 'check'"),
        ('tcn', "'tcn' is no FAMILY_SIZE"),
        ('../../tcn_', 'is no FAMILY_SIZE'),
        ('tcn_absent', 'tcn_absent_config.json is absent'),
    ],
)
def test_a_bad_stem_is_one_line_and_exit_code_2(tmp_path, name, said, capsys):
    assert main([str(tmp_path / name)]) == 2
    err = capsys.readouterr().err
    assert said in err and err.count('\n') == 1


def test_no_stem(capsys):
    assert main([]) == 2
    assert capsys.readouterr().err.startswith('usage')


def test_damaged_and_foreign_weights_are_input_errors(stem, capsys):
    path = stem.with_name('tcn_tiny_rv_head.safetensors')
    state = load_file(path)
    save_file({k: v for k, v in state.items() if k != 'mlp.4.bias'}, path)
    assert main([str(stem)]) == 2
    assert 'lacks rv_head.mlp.4.bias' in capsys.readouterr().err
    path.write_bytes(path.read_bytes()[:50])
    assert main([str(stem)]) == 2
    assert 'tcn_tiny_rv_head.safetensors: the file cannot be read' in capsys.readouterr().err


def test_no_checks_are_no_success(stem, monkeypatch, capsys):
    monkeypatch.setattr(tcn, 'check', lambda stem: [])
    assert main([str(stem)]) == 1
    capsys.readouterr()


def test_the_table_has_columns():
    rows = [checks.Check('a', 1e-7, 1e-8, 1e-5, True), checks.Check('longer', 2.0, np.nan, 1e-4, False)]
    lines = parity.format_table('title', rows).splitlines()
    assert lines[0] == 'title' and lines[-1] == '1 of 2 ok'
    ends = [lines[1].index('max rel') + 7, lines[2].index('1.00e-08') + 8, lines[3].index('nan') + 3]
    assert len(set(ends)) == 1
    assert lines[2].endswith('ok') and lines[3].endswith('FAILED')


def test_every_family_can_be_imported():
    import importlib

    assert 'tcn' in parity.families()
    for name in parity.families():
        assert callable(importlib.import_module(f'interop.{name}').check)


def test_jax_and_torch_agree_at_the_real_width_of_the_index_stream():
    """Hidden 512 and twelve blocks, a few chunks: the same weights give the same vectors to 1e-4."""
    torch = pytest.importorskip('torch')
    from fjq.models.tcn import Tcn
    from interop import tcn_modules

    task = Tcn().build()
    params, _ = task.init(jax.random.key(0))
    model = tcn_modules.TcnModel().eval()
    model.load_state_dict({n: torch.tensor(v) for n, v in tcn.to_torch(None, params, {}).items()})
    rng = np.random.Generator(np.random.Philox(1))
    chunks = rng.normal(size=(3, 256, 3)).astype(np.float32)
    with torch.no_grad():
        theirs = model.frame_encoder(torch.tensor(chunks)).numpy()
    ours = np.asarray(jax.jit(task.encode_chunks)(params, chunks, np.full(3, 256, np.float32)))
    assert np.abs(ours - theirs).max() <= 1e-4 * max(1, np.abs(theirs).max())
