"""Runs out to PyTorch and back: strict, to the same bits, and never outside the run folder."""

import json
import shlex
import subprocess
import sys
from pathlib import Path
from unittest import mock

import jax
import numpy as np
import pytest
from absl.testing import flagsaver

from fjq import config as configs
from fjq import torch_file
from fjq.checkpoint import Weights
from fjq.errors import InputError
from fjq.launch import load_config
from fjq.models import microchat_files, tcn_files
from fjq.models.gpt import Gpt
from fjq.models.microchat import Microchat
from fjq.models.migt import Migt
from fjq.models.tcn import Tcn
from fjq.run import read_config
from fjq.trained import Trained

torch = pytest.importorskip('torch')
from interop import convert, tcn_modules  # noqa: E402
from interop.export import export  # noqa: E402
from interop.export import main as export_main  # noqa: E402
from interop.files import read_state  # noqa: E402
from interop.load import load  # noqa: E402
from interop.load import main as load_main  # noqa: E402

SIZES = 'hidden=8, layers=3, d_model=6, head_hidden=10, num_tickers=4, ticker_dim=2'
CONFIG = f"""
from fjq.config import Experiment, Mesh
from fjq.models.tcn import Tcn

def get_config(variant=''):
    return Experiment(name='small', task=Tcn({SIZES}), data=Mesh())
"""


def small(**task) -> configs.Experiment:
    sizes = dict(pair.split('=') for pair in SIZES.split(', '))
    return configs.Experiment(
        name='small', task=Tcn(**({k: int(v) for k, v in sizes.items()} | task)), data=configs.Mesh()
    )


def random_params(config, seed=5):
    shapes, _ = jax.eval_shape(config.task.build().init, jax.random.key(0))
    rng = np.random.Generator(np.random.Philox(seed))
    return jax.tree.map(lambda s: rng.normal(size=s.shape).astype(np.float32), shapes)


def equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize(('ending', 'ema'), [('.pt', 0.9), ('.safetensors', 0.0)])
def test_out_and_back_to_the_same_bits(tmp_path, ending, ema):
    config = small()
    config.train.ema = ema
    params = random_params(config)
    torch_file.write(tmp_path / 'x.pt', tcn_files.model_state_dict(params))
    load(config, tmp_path / 'x.pt', tmp_path / 'run')
    equal(Trained.load(tmp_path / 'run').params, params)
    assert configs.to_dict(read_config(tmp_path / 'run')) == configs.to_dict(config)

    out = tmp_path / f'deep/er/out{ending}'
    export(tmp_path / 'run', out)
    load(config, out, tmp_path / 'again')
    equal(Trained.load(tmp_path / 'again').params, params)


def test_the_exported_file_is_the_same_model_in_torch(tmp_path):
    config = small(dropout=0.0, head_dropout=0.0)
    params = random_params(config)
    torch.save({n: torch.tensor(v) for n, v in tcn_files.model_state_dict(params).items()}, tmp_path / 'x.pt')
    load(config, tmp_path / 'x.pt', tmp_path / 'run')
    export(tmp_path / 'run', tmp_path / 'out.pt')
    model = tcn_modules.TcnModel(3, 8, 3, 6, 3, 10, num_tickers=4, ticker_embed_dim=2).eval()
    model.load_state_dict(torch.load(tmp_path / 'out.pt', weights_only=True), strict=True)

    rng = np.random.Generator(np.random.Philox(0))
    K, L, T = 5, 64, 3
    batch = {
        'chunks': rng.normal(size=(1, K, L, 3)).astype(np.float32),
        'weights': rng.integers(1, L, (1, K)).astype(np.float32),
        'frame': np.array([[0, 0, 1, 2, 2]], np.int32),
        'scalars': rng.random((1, T, 3)).astype(np.float32) * 100,
        'frame_mask': np.ones((1, T), bool),
        'tickers': rng.integers(-1, 4, (1, K, L)).astype(np.int32),
    }
    ours = np.asarray(Trained.load(tmp_path / 'run').embed(batch))[0]
    args = (torch.tensor(batch[k][0]) for k in ('chunks', 'weights', 'frame', 'scalars', 'tickers'))
    with torch.no_grad():
        theirs = model.chunked_encoder(*args).numpy()
    np.testing.assert_allclose(ours, theirs, atol=1e-5 * np.abs(theirs).max())


def test_an_encoder_file_keeps_a_fresh_head_and_says_so(tmp_path, capsys):
    config = small()
    params = random_params(config)
    torch_file.write(tmp_path / 'tcn_index_encoder.pt', tcn_files.encoder_file('index', params))
    load(config, tmp_path / 'tcn_index_encoder.pt', tmp_path / 'run')
    got = Trained.load(tmp_path / 'run').params
    equal(
        {k: got[k] for k in ('frame_encoder', 'chunked_encoder')}, {k: v for k, v in params.items() if k != 'rv_head'}
    )
    assert np.std(got['rv_head']['mlp']['4']['kernel']) > 0
    assert 'no head is in it' in capsys.readouterr().out


def test_a_checkpoint_file_gives_its_model(tmp_path):
    config = small()
    params = random_params(config)
    optimizer = tcn_files.optimizer_state_dict(
        params, params, step=3, learning_rate=1e-4, betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-5
    )
    content = tcn_files.checkpoint_file('index', params, epoch=1, optimizer=optimizer, scheduler=None, metrics={})
    torch_file.write(tmp_path / 'tcn_index_best.pt', content)
    load(config, tmp_path / 'tcn_index_best.pt', tmp_path / 'run')
    equal(Trained.load(tmp_path / 'run').params, params)


def test_what_does_not_fit_leaves_no_run_behind(tmp_path):
    config = small()
    state = tcn_files.model_state_dict(random_params(config))
    run = tmp_path / 'run'
    torch_file.write(tmp_path / 'x.pt', state)
    with pytest.raises(InputError, match=r'rv_head\.mlp\.0\.weight is float32\[10, 6\], expected float32\[11, 6\]'):
        load(small(head_hidden=11), tmp_path / 'x.pt', run)
    with pytest.raises(InputError, match='lacks'):
        load(small(layers=4), tmp_path / 'x.pt', run)
    with pytest.raises(InputError, match='more than the'):
        load(config, tmp_path / 'x.pt', run, max_bytes=100)
    assert not run.exists()
    load(config, tmp_path / 'x.pt', run)
    with pytest.raises(InputError, match='there is a run here already'):
        load(config, tmp_path / 'x.pt', run)


@pytest.mark.parametrize('name', ['../../escaped', '/tmp/escaped', 'frame_encoder/../../escaped', 'C:\\escaped'])
def test_names_in_a_file_cannot_become_paths(tmp_path, name):
    config = small()
    state = tcn_files.model_state_dict(random_params(config))
    torch_file.write(tmp_path / 'in/x.pt', state | {name: np.ones(1, np.float32)})
    before = sorted(tmp_path.rglob('*'))
    with pytest.raises(InputError, match='has unknown keys'):
        load(config, tmp_path / 'in/x.pt', tmp_path / 'in/run')
    assert sorted(tmp_path.rglob('*')) == before


@pytest.mark.parametrize('name', ['../x.pt', '/tmp/x.pt', 'a/b.pt', '..', '', 'a\\b.pt', '.hidden.pt', 'x\0.pt'])
def test_exported_names_stay_in_their_folder(tmp_path, name):
    with pytest.raises(InputError, match='is no plain file name'):
        torch_file.write_all(tmp_path / 'run', {'ok.pt': {'a': 1}, name: {'a': 1}})
    assert not list(tmp_path.iterdir())


def test_an_unknown_ending_and_an_empty_folder(tmp_path):
    with pytest.raises(InputError, match='no run here'):
        export(tmp_path, tmp_path / 'x.pt')
    with pytest.raises(InputError, match="ending '.onnx'"):
        export(tmp_path, tmp_path / 'x.onnx')


def test_models_without_a_family_file_go_by_the_table():
    params = {'mlp': {'0': {'kernel': np.ones((2, 3), np.float32)}}}
    extra = {'codes': {'embedding': np.arange(4, dtype=np.float32).reshape(2, 2)}}
    state = convert.to_torch(configs.Mesh(), params, extra)
    assert {n: v.shape for n, v in state.items()} == {'mlp.0.weight': (3, 2), 'extra.codes.weight': (2, 2)}
    zeros = jax.tree.map(np.zeros_like, (params, extra))
    equal(convert.from_torch(configs.Mesh(), state, *zeros, file='x'), (params, extra))


def test_weights_say_what_they_are_bound_to_and_the_file_does_not_tell(tmp_path, capsys):
    gpt = load_config(Path(__file__).resolve().parents[2] / 'configs' / 'microchat_pretrain.py', 'tiny')
    for config, bound in ((small(), 'features'), (gpt, 'tokenizer')):
        values = jax.tree.map(np.asarray, config.task.build().init(jax.random.key(0)))
        file = tmp_path / f'{bound}.pt'
        torch_file.write(file, convert.to_torch(config.task, *values))
        load(config, file, tmp_path / bound)
        assert f'{file} does not say which {bound} its weights are of: none is refused' in capsys.readouterr().out


def gpt_file(path, stated=None):
    """A config of a small GPT and the original's checkpoint of its weights, whose own config may say other sizes."""
    gpt = Gpt(vocabulary=50, length=16, layers=1, heads=4, kv_heads=2, width=32, padded_logits=True)
    config = configs.Experiment(name='gpt', task=Microchat(gpt=gpt, horizons=(1,)), data=configs.Mesh())
    values = jax.tree.map(np.asarray, config.task.build().init(jax.random.key(0)))
    weights = Weights(3, *values, {}, {'train_loss': 1.0, 'validation': {}})
    content = microchat_files.checkpoint_file(gpt, weights)
    content['config'] |= stated or {}
    torch_file.write(path, content)
    return config


SIZES_OF_A_GPT = {
    'n_layer': ('layers', 2),
    'n_head': ('heads', 2),
    'n_kv_head': ('kv_heads', 4),
    'n_embd': ('width', 64),
    'vocab_size': ('vocabulary', 49),
    'sequence_len': ('length', 17),
}


@pytest.mark.parametrize('name', SIZES_OF_A_GPT)
def test_sizes_that_a_file_states_are_those_of_the_config(tmp_path, name):
    """Weights show neither heads nor length, and the vocabulary up to a multiple of 64 only."""
    field, theirs = SIZES_OF_A_GPT[name]
    config = gpt_file(tmp_path / 'x.pt', {name: theirs})
    ours = getattr(config.task.gpt, field)
    with pytest.raises(InputError) as error:
        load(config, tmp_path / 'x.pt', tmp_path / 'run')
    for part in (f'{tmp_path}/x.pt: ', f'{name} {theirs}', f'task.gpt.{field} is {ours}'):
        assert part in str(error.value)
    assert f'--config.task.gpt.{field}={theirs}' in str(error.value) and not (tmp_path / 'run').exists()


def test_heads_with_the_same_shapes_are_refused_and_a_file_that_states_none_is_not(tmp_path):
    config = gpt_file(tmp_path / 'x.pt')
    load(config, tmp_path / 'x.pt', tmp_path / 'run')
    config.task.gpt.heads, config.task.gpt.kv_heads = 2, 1  # half as many, twice as wide
    with pytest.raises(InputError, match=r'n_head 4 and task.gpt.heads is 2, n_kv_head 2 and task.gpt.kv_heads is 1'):
        load(config, tmp_path / 'x.pt', tmp_path / 'other')
    torch_file.write(tmp_path / 'plain.pt', read_state(tmp_path / 'x.pt'))
    load(config, tmp_path / 'plain.pt', tmp_path / 'other')
    config.task.gpt.heads, config.task.gpt.kv_heads = 4, 0  # as many as heads
    gpt_file(tmp_path / 'all.pt', {'n_kv_head': 4})
    with pytest.raises(InputError, match='c_k.weight'):  # the sizes agree, the weights do not
        load(config, tmp_path / 'all.pt', tmp_path / 'third')


def test_levels_and_heads_that_a_migt_file_states(tmp_path):
    sizes = {'variables': 3, 'width': 16, 'hidden': 32, 'temporal_layers': 1, 'variable_layers': 1, 'head_hidden': 8}
    task = Migt(**sizes, heads=2, clock_dims=(4, 4, 4, 4), compat=True)
    config = configs.Experiment(name='migt', task=task, data=configs.Mesh())
    state = convert.to_torch(task, *jax.tree.map(np.asarray, task.build().init(jax.random.key(0))))
    levels = [0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95]
    other = [0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99]
    for stated, said in (
        ({'model': {'n_heads': 4}}, r'n_heads 4 and task.heads is 2\. Set --config.task.heads=4'),
        ({'n_heads': 4}, r'n_heads 4 and task.heads is 2\. Set --config.task.heads=4'),
        ({'quantile_regression': {'quantiles': other}}, r'--config.task.levels="\(0.01, 0.1, .*, 0.99\)"'),
    ):
        torch_file.write(tmp_path / 'x.pt', {'model_state_dict': state, 'config': {'training': {'seed': 1}} | stated})
        with pytest.raises(InputError, match=said):
            load(config, tmp_path / 'x.pt', tmp_path / 'run')
    stated = {'quantile_regression': {'quantiles': levels}, 'model': {'n_heads': 2}}
    torch_file.write(tmp_path / 'x.pt', {'model_state_dict': state, 'config': stated})
    load(config, tmp_path / 'x.pt', tmp_path / 'run')


def command(main, *arguments):
    argv = ['program', *arguments]
    with flagsaver.flagsaver(), mock.patch.object(sys, 'argv', argv):  # ml_collections looks for overrides in sys.argv
        return main(argv)


def test_the_flags_that_a_message_names_are_those_that_load_the_file(tmp_path, capsys):
    """Of a config that leaves sizes to the data, which a file can not tell either."""
    name = Path(__file__).resolve().parents[2] / 'configs' / 'migt_tvdt.py'
    task = load_config(name, 'tiny').task
    state = convert.to_torch(task, *jax.tree.map(np.asarray, task.build().init(jax.random.key(0))))
    stated = {'n_heads': 2 * task.heads, 'quantile_regression': {'quantiles': [0.01, *task.levels[1:-1], 0.99]}}
    torch_file.write(tmp_path / 'x.pt', {'model_state_dict': state, 'config': stated})
    flags = [f'--file={tmp_path / "x.pt"}', f'--config={name}:tiny', f'--workdir={tmp_path / "run"}']
    assert command(load_main, *flags) == 2
    more = shlex.split(capsys.readouterr().err.strip().rstrip('.').partition('Set ')[2])
    assert len(more) == 2 and command(load_main, *flags, *more) == 0
    read = read_config(tmp_path / 'run').task
    assert (read.heads, read.levels) == (2 * task.heads, (0.01, *task.levels[1:-1], 0.99))


def test_the_commands(tmp_path, capsys):
    (tmp_path / 'small.py').write_text(CONFIG)
    params = random_params(small())
    torch_file.write(tmp_path / 'x.pt', tcn_files.model_state_dict(params))
    flags = [f'--file={tmp_path / "x.pt"}', f'--config={tmp_path / "small.py"}', f'--workdir={tmp_path / "run"}']
    for wrong, said in (
        ([*flags, '--config.task.hidden=9'], 'expected float32[9'),
        ([*flags, '--config.task.hiden=9'], "no field 'hiden'"),
        ([*flags, '--max_gib=1e-9'], 'GiB allowed'),
        ([*flags, 'more'], 'usage'),
        (flags[1:], 'usage'),
    ):
        assert command(load_main, *wrong) == 2
        err = capsys.readouterr().err
        assert said in err and err.count('\n') == 1
    assert command(load_main, *flags) == 0
    assert f'{len(tcn_files.model_state_dict(params))} tensors from' in capsys.readouterr().out
    assert json.loads((tmp_path / 'run/manifest.json').read_text())['data']['loaded from']['file'] == 'x.pt'
    assert command(export_main, f'--workdir={tmp_path / "run"}') == 2
    root = Path(__file__).resolve().parents[2]
    arguments = [f'--workdir={tmp_path / "run"}', f'--out={tmp_path / "y.pt"}']
    done = subprocess.run(
        [sys.executable, '-m', 'interop.export', *arguments], capture_output=True, text=True, cwd=root
    )
    assert done.returncode == 0, done.stderr
    back = torch.load(tmp_path / 'y.pt', weights_only=True)
    assert {n: v.tolist() for n, v in back.items()} == {
        n: v.tolist() for n, v in tcn_files.model_state_dict(params).items()
    }
