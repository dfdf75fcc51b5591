"""generate and chat on fresh weights of every stage: prompts, dates, files; no training is needed for these."""

import io

import jax
import numpy as np
import pyarrow.parquet as pq
import pytest

from fjq.errors import InputError
from fjq.jobs import chat, generate
from fjq.keys import make_key
from fjq.launch import load_config
from fjq.models.microchat import STAGES
from fjq.trained import Trained


def make_run(stage, folder, **data):
    """The tiny variant as a saved model that has learned nothing."""
    config = load_config(f'configs/microchat_{stage}.py', 'tiny')
    for name, value in data.items():
        setattr(config.data, name, value)
    config.parallel.workers = 1
    params, extra = jax.jit(config.task.build().init)(make_key(0, 'init'))
    Trained(config, params, extra).save(folder)
    return config


@pytest.mark.parametrize('stage', STAGES)
def test_every_tiny_stage_generates(stage, tmp_path):
    config = make_run(stage, tmp_path)
    generate.run(config, tmp_path)
    paths = pq.read_table(tmp_path / 'generated/paths.parquet')
    assert paths.num_rows == 3 * 16 * 8 and len(set(paths['id'].to_pylist())) == 3
    quantiles = pq.read_table(tmp_path / 'generated/quantiles.parquet').to_pydict()
    for after, step, time in zip(quantiles['after'], quantiles['step'], quantiles['time'], strict=True):
        day = np.datetime64(after, 'D')
        assert np.datetime64(time, 'D') == np.busday_offset(day, step, roll='backward')


def test_prompts_begin_with_the_mark_of_their_asset(tmp_path):
    config = load_config('configs/microchat_pretrain.py', 'tiny')
    config.parallel.workers, config.data.marks = 1, ('', 'MSFT')
    dataset = config.data.open(tmp_path, config.parallel)
    V = dataset.tokenizer.vocabulary
    for prompt in generate.find_prompts(dataset, config.data.generate):
        (asset,) = (a for a in dataset.assets if a.candles.id == prompt.id)
        assert prompt.tokens[0] == V + (prompt.id == 'MSFT')
        np.testing.assert_array_equal(prompt.tokens[1:], asset.id[1 - dataset.context :])


def test_prompts_are_of_any_asset_at_the_path_and_each_once(tmp_path, monkeypatch, capsys):
    config = make_run('pretrain', tmp_path, assets=('AAPL',))
    (tmp_path / 'generated').mkdir()
    (tmp_path / 'generated/OLD.png').write_bytes(b'')
    config.data.generate.assets = ('MSFT', 'MSFT')
    generate.run(config, tmp_path)
    paths = pq.read_table(tmp_path / 'generated/paths.parquet')
    assert set(paths['id'].to_pylist()) == {'MSFT'} and paths.num_rows == 16 * 8
    assert [p.name for p in (tmp_path / 'generated').glob('*.png')] == ['MSFT.png']
    config.data.generate.assets = ('MSTF',)
    with pytest.raises(InputError, match="no asset 'MSTF'. Did you mean 'MSFT'"):
        generate.run(config, tmp_path)
    config.data.generate.assets = ()
    monkeypatch.setattr('sys.stdin', io.StringIO('msft\nassets\n\n'))
    capsys.readouterr()
    chat.run(config, tmp_path)
    out = capsys.readouterr().out
    assert 'such as AAPL 20' in out and 'MSFT: ' in out and '8 candles later (about 20' in out
    assert 'AAPL MSFT' in out


def test_what_the_model_can_not_reach_is_refused_before_its_dates_are_made(tmp_path):
    config = make_run('pretrain', tmp_path, assets=('AAPL',))
    config.data.generate.horizon = 10**14
    with pytest.raises(InputError, match='a context of 12 and a horizon of 100000000000000 are longer than the model'):
        generate.run(config, tmp_path)


@pytest.mark.parametrize('seed', [(99999999999, 3), (3, 10**30), (2**63, -1)])
def test_seed_tokens_of_any_size_are_refused(seed, tmp_path):
    config = load_config('configs/microchat_pretrain.py', 'tiny')
    config.parallel.workers, config.data.generate.seed_tokens = 1, seed
    with pytest.raises(InputError, match='is not of the 32'):
        generate.find_prompts(config.data.open(tmp_path, config.parallel), config.data.generate)


class Keyboard(io.StringIO):
    """Lines, and then Ctrl-C."""

    def readline(self):
        return super().readline() or self._interrupt()

    def _interrupt(self):
        raise KeyboardInterrupt


def test_nothing_that_is_typed_ends_a_chat_but_ctrl_c_does_quietly(tmp_path, monkeypatch, capsys):
    config = make_run('pretrain', tmp_path)
    monkeypatch.setattr('sys.stdin', Keyboard(f'AAPL ²\nAAPL 100000000000000\nAAPL {"9" * 5000}\nAAPL 0\nAAPL 3\n'))
    chat.run(config, tmp_path)
    out = capsys.readouterr().out
    assert out.count('is not understood') == 3 and 'a horizon of 100000000000000 are longer' in out
    assert '3 candles later' in out


def test_a_seed_has_no_dates(tmp_path):
    config = make_run('pretrain', tmp_path)
    config.data.generate.seed_tokens = (3, 1, 2)
    generate.run(config, tmp_path)
    quantiles = pq.read_table(tmp_path / 'generated/quantiles.parquet')
    assert set(quantiles['time'].to_pylist()) == {None} and quantiles.num_rows == 8
