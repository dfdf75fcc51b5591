"""MIGT-TVDT beside PyTorch: the original's values, our export loaded strictly, and both functions of the model."""

import dataclasses

import jax
import numpy as np
import pytest
from migt_batch import SMALL, make_batch, with_live_heads
from safetensors.numpy import load_file

from fjq.data.bars.scale import COUNT
from fjq.errors import InputError
from fjq.models import migt_files
from interop import migt
from interop.parity import main


def test_the_model_is_the_original(golden_dir, capsys):
    assert main([str(golden_dir / 'migt_tiny')]) == 0
    out = capsys.readouterr().out
    names = {line.split()[0] for line in out.splitlines() if line.endswith(' ok')}
    with np.load(golden_dir / 'migt_tiny_io.npz') as io:
        compared = {k for k in io.files if k.startswith('grad.')}
    stages = {'embedded', 'temporal_0', 'temporal_last', 'pooled', 'variable_last', 'readout', 'quantiles'}
    assert names >= compared | stages | {'pinball_loss'}


@pytest.fixture(scope='module')
def loaded(golden_dir):
    """The parameters of the original."""
    return jax.device_get(migt.load(golden_dir / 'migt_tiny')[1])


def test_the_state_dict_comes_back_to_the_same_bits(golden_dir, loaded):
    state = load_file(golden_dir / 'migt_tiny.safetensors')
    ours = migt_files.to_state_dict(loaded, {})
    assert set(ours) == set(state)
    for name, value in state.items():
        np.testing.assert_array_equal(ours[name], value, err_msg=name)


@pytest.mark.parametrize(
    ('change', 'said'),
    [
        (lambda s: s.pop('revin.gamma'), 'lacks revin.gamma'),
        (lambda s: s.update({'temporal_layers.9.norm1.bias': np.zeros(32, np.float32)}), 'unknown keys temporal_lay'),
        (lambda s: s.update({migt_files._FREQUENCIES: s[migt_files._FREQUENCIES] * 2}), 'other harmonics'),
    ],
)
def test_another_state_dict_is_refused(golden_dir, loaded, change, said):
    state = load_file(golden_dir / 'migt_tiny.safetensors')
    change(state)
    with pytest.raises(InputError, match=said):
        migt_files.from_state_dict(state, loaded, {})


def twin(config, params, extra):
    """The PyTorch model of a config with our weights, loaded strictly; it has our order of names."""
    torch = pytest.importorskip('torch')
    from interop.migt_modules import MigtTvdt

    c, state = config, migt.to_torch(config, params, extra)
    model = MigtTvdt(
        c.variables,
        c.width,
        c.heads,
        c.hidden,
        c.temporal_layers,
        c.variable_layers,
        len(c.horizons),
        len(c.levels),
        c.head_hidden,
        c.clock_dims,
        0 if c.compat else c.age_dim,
        c.bars_per_day,
        c.dropout,
        c.compat,
        c.window_scale,
    )
    assert list(model.state_dict()) == list(state)
    model.load_state_dict({n: torch.tensor(v) for n, v in state.items()}, strict=True)
    return model.eval()


@pytest.mark.parametrize('compat', [False, True])
def test_pytorch_computes_the_same(compat):
    torch = pytest.importorskip('torch')
    config = dataclasses.replace(SMALL, compat=compat)
    task = config.build()
    params, extra = jax.device_get(task.init(jax.random.key(2)))
    batch = make_batch(lengths=[12] * 5 if compat else [6, 12, 9, 1, 11])  # RevIN of the original sees padding
    if not compat:
        params = with_live_heads(params)
        rng = np.random.Generator(np.random.Philox(4))
        scale = {'centre': rng.standard_normal((3, 2)), 'spread': rng.uniform(0.5, 2, (3, 2))}
        volatility = {'offset': rng.standard_normal((48, 2)), 'weight': rng.uniform(0, 0.3, (COUNT, 2))}
        extra = jax.tree.map(np.float32, {'volatility': volatility, 'window_scale': scale})
    see = lambda model, batch: (model(batch), model.find_unit(batch))
    ours, unit = jax.jit(lambda p, b: task.pure.apply(p, extra, see, b)[0])(params, batch)
    mask = np.arange(12)[None] < batch['length'][:, None]
    clock = [torch.tensor(batch[n]) for n in ('bar_in_day', 'day_of_week', 'day_of_month', 'day_of_year')]
    model = twin(config, params, extra)
    mask, variance = torch.tensor(mask), torch.tensor(batch['log_variance'])
    with torch.no_grad():
        theirs = model(torch.tensor(batch['features']), mask, *clock, log_variance_BxK=variance)
        if not compat:
            np.testing.assert_allclose(unit, model.find_unit(mask, clock[0], variance).numpy(), rtol=1e-5)
    np.testing.assert_allclose(ours, theirs.numpy(), atol=2e-5)
    assert np.ptp(theirs.numpy(), axis=0).min() > 1e-3
    again, more = migt.from_torch(migt.to_torch(config, params, extra), params, extra, file='x')
    for a, b in zip(jax.tree.leaves((again, more)), jax.tree.leaves((params, extra)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_published_tensors():
    """213 parameters and one buffer at full size."""
    from fjq.models.migt import Migt

    shapes = jax.eval_shape(Migt(compat=True).build().init, jax.random.key(0))[0]
    state = migt_files.to_state_dict(jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), shapes), {})
    assert len(state) == 214 and sum(v.size for v in state.values()) == 6_866_984 + 16
