"""What a trained model leaves as: the same numbers from every file, or an error."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import toy
from jax import export as jax_export
from safetensors.numpy import load_file
from scipy import stats

from fjq import export as exits
from fjq.checkpoint import Weights
from fjq.errors import InputError
from fjq.forecast import Mixture
from fjq.task import Shard
from fjq.trained import Trained


class Task(toy.ToyTask):
    """The toy with a law of its own, a PyTorch file and an extra state."""

    def predict(self, params, extra, batch, key=None):
        mean = self._forward(params, batch)[..., None]
        return Mixture(jnp.ones_like(mean), mean + extra['shift'], jnp.full_like(mean, 2.0), None)

    def torch_files(self, config, weights):
        return {'toy.pt': {'kernel': weights.params['linear']['kernel'], 'name': config.name}}


@dataclasses.dataclass(kw_only=True)
class Lawful(toy.Toy):
    def build(self):
        return Task(self)


@pytest.fixture
def trained(monkeypatch):
    config = toy.experiment()
    config.task = Lawful()
    params, _ = config.task.build().init(jax.random.key(4))
    trained = Trained(config, params, {'shift': np.float32(0.5)})
    monkeypatch.setattr(Trained, 'load', lambda folder: read_back(trained, folder))  # types of tests are not read back
    return trained


def read_back(trained, folder):
    arrays = load_file(folder / 'model.safetensors')
    params = {'linear': {n: arrays[f'params/linear/{n}'] for n in ('kernel', 'bias')}}
    return Trained(trained.config, params, {'shift': arrays['extra/shift']})


def batch(rows=16):
    data = toy.ToyData(batch=rows).open(None, None)
    return data.batches('test', Shard())[0]


def weights(trained):
    return Weights(7, jax.device_get(trained.params), {}, {}, {})


def run(trained, folder):
    (folder / 'checkpoints').mkdir(exist_ok=True)
    return exits.export(trained, weights(trained), batch(), folder)


def test_every_file_is_there_and_named(trained, tmp_path, capsys):
    files = run(trained, tmp_path)
    assert [f.relative_to(tmp_path).as_posix() for f in files] == [
        'export/config.json',
        'export/model.safetensors',
        'checkpoints/toy.pt',
        'export/predict.stablehlo',
        'export/predict.json',
    ]
    assert all(f.is_file() for f in files)
    out = capsys.readouterr().out
    assert 'the same bits when read back' in out and 'max abs difference 0.00e+00' in out and 'toy.pt' in out
    stored = torch.load(tmp_path / 'checkpoints' / 'toy.pt', weights_only=True)
    np.testing.assert_array_equal(stored['kernel'], trained.params['linear']['kernel'])
    assert stored['name'] == 'toy'


@pytest.mark.parametrize('rows', [1, 16, 37])
def test_the_program_serves_any_number_of_rows(trained, tmp_path, rows):
    run(trained, tmp_path)
    program = jax_export.deserialize((tmp_path / 'export' / 'predict.stablehlo').read_bytes())
    assert set(program.platforms) == {'cpu', 'cuda'}
    inputs = batch(rows)
    out = program.call(trained.params, trained.extra, inputs)
    law = trained.predict(inputs)
    assert out['mean'].shape == (rows, 1) and out['quantiles'].shape == (rows, 1, len(exits.LEVELS))
    np.testing.assert_allclose(out['mean'], law.mean(), atol=1e-6)
    # Gaussian of spread 2 around the mean: the quantiles are known
    expected = np.asarray(law.mean())[..., None] + stats.norm.ppf(exits.LEVELS, scale=2)
    np.testing.assert_allclose(out['quantiles'], expected, atol=1e-4)


def test_the_card_tells_what_the_program_wants(trained, tmp_path):
    run(trained, tmp_path)
    card = json.loads((tmp_path / 'export' / 'predict.json').read_text())
    assert card['batch']['x'] == ['float32', ['rows', 8]] and card['batch']['mask'] == ['bool', ['rows']]
    assert card['quantiles'] == list(exits.LEVELS)
    names = set(load_file(tmp_path / 'export' / 'model.safetensors'))
    assert names == {'params/linear/kernel', 'params/linear/bias', 'extra/shift'}


@pytest.mark.parametrize(('by', 'words'), [(1e-3, '1.0'), (np.nan, 'nan')])
@pytest.mark.parametrize('name', ['mean', 'quantiles'])
def test_a_program_that_differs_is_refused(trained, tmp_path, monkeypatch, name, by, words):
    real = jax_export.deserialize

    def damaged(content):
        program = real(content)
        other = dataclasses.replace(program)
        object.__setattr__(other, 'call', lambda *a: (out := program.call(*a)) | {name: out[name] + by})
        return other

    monkeypatch.setattr(exits.jax_export, 'deserialize', damaged)
    with pytest.raises(InputError, match=f'predict.stablehlo: the exported program differs from the model by {words}'):
        run(trained, tmp_path)
    assert (tmp_path / 'checkpoints' / 'toy.pt').is_file()


def test_a_torch_file_that_can_not_be_made_leaves_the_program(trained, tmp_path, monkeypatch):
    def refuse(*_):
        raise InputError('another function')

    monkeypatch.setattr(Task, 'torch_files', refuse)
    with pytest.raises(InputError, match='another function'):
        run(trained, tmp_path)
    assert (tmp_path / 'export' / 'predict.json').is_file()


@pytest.mark.parametrize('value', [np.nan, 3.0])
def test_weights_that_do_not_come_back_are_refused(trained, tmp_path, monkeypatch, value):
    real = Trained.load

    def damaged(folder):
        again = real(folder)
        again.params['linear']['bias'] = again.params['linear']['bias'].at[0].set(value)
        return again

    monkeypatch.setattr(Trained, 'load', damaged)
    with pytest.raises(RuntimeError, match='does not come back to the same bits'):
        run(trained, tmp_path)


def test_weights_that_are_nan_come_back_as_they_are_and_the_program_is_refused(trained, tmp_path):
    trained.params['linear']['bias'] = jnp.array([jnp.nan])
    with pytest.raises(InputError, match='by nan'):
        run(trained, tmp_path)


def test_a_task_without_torch_files_exports_the_rest(tmp_path, monkeypatch):
    config = toy.experiment()
    plain = Trained(config, *config.task.build().init(jax.random.key(0)))
    arrays = lambda folder: load_file(folder / 'model.safetensors')
    monkeypatch.setattr(
        Trained,
        'load',
        lambda f: Trained(
            config,
            {'linear': {n: arrays(f)[f'params/linear/{n}'] for n in ('kernel', 'bias')}},
            {'seen': arrays(f)['extra/seen']},
        ),
    )
    files = exits.export(plain, weights(plain), batch(), tmp_path)
    assert len(files) == 4 and not (tmp_path / 'checkpoints').exists()
