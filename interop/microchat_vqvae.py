"""Our candle tokenizer on the golden values of the original: features, vectors, ids, candles again, and one update."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from fjq.models.candle_autoencoder import AutoencoderTask, CandleAutoencoder
from fjq.models.candle_files import from_model_state_dict
from fjq.nn import quantize
from fjq.tokenizers.features import candle_features
from interop.check import Check, compare
from interop.files import read_npz, read_state

_SHALLOW = 1e-5


def check(stem: str | Path) -> list[Check]:
    """Compares every array of the stem: those of evaluation, of one training forward, and of the codebook after it."""
    task, params, extra = load(stem)
    golden = read_npz(f'{stem}_io.npz')
    features = jnp.asarray(golden['features'])[None]
    counts = jnp.ones(features.shape[:2], bool)
    batch = {'features': features, 'counts': counts, 'mask': jnp.ones(1, bool)}

    @jax.jit
    def run(params, extra):
        z = task.vectors(params, extra, features, counts)
        ids = task.encode_ids(params, extra, features, counts)
        step = task.prepare(params, extra, batch, jax.random.key(0))
        loss = task.loss(params, extra, step, None)
        after = task.current(loss.extra, True, False)['book_0']
        used = jnp.bincount(ids.reshape(-1), length=task.config.codes) / ids.size
        mean = lambda name: loss.metrics[name][0] / loss.metrics[name][1]
        return {
            'latent': z[None],
            'ids': ids,
            'decoded': task.decode_ids(params, extra, ids),
            'codebook_before': extra['book_0']['embedding'],
            'codebook_after_one_ema_step': after['embedding'],
            'ema_cluster_size_after': after['count'],
            'train.x_recon': task.predict_all(params, extra, batch),
            'train.token_ids': ids,
            'train.loss_total': loss.total / loss.weight,
            'train.loss_recon': mean('mse'),
            'train.vq_commit_loss': task.config.beta * mean('commit'),
            'train.vq_perplexity': jnp.exp(-(used * jnp.log(used + 1e-10)).sum()),
        }

    with jax.default_matmul_precision('highest'):
        ours = jax.tree.map(np.asarray, run(params, extra))
    ours['features'] = candle_features(golden['ohlc'])
    checks = [compare(name, value, golden[name], _SHALLOW) for name, value in ours.items()]
    absent = sorted(set(golden) - set(ours) - {'ohlc'})
    return checks + [Check(f'{name} is not among ours', np.inf, np.inf, _SHALLOW, False) for name in absent]


def load(stem: str | Path) -> tuple[AutoencoderTask, dict, dict]:
    """The task with the stem's sizes, its parameters and its state."""
    config = json.loads(Path(f'{stem}_config.json').read_text())
    task = CandleAutoencoder(
        codes=config['num_codes'],
        dim=config['emb_dim'],
        hidden=config['hidden_dim'],
        layers=config['num_layers'],
        beta=config['beta'],
        ema=config['ema_decay'],
        clip=0.0,
        compat=config['use_context'],
        revive=0.0,
    ).build()
    shapes = jax.eval_shape(task.init, jax.random.key(0))
    params, extra = jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), shapes)
    state = read_state(f'{stem}.safetensors')
    params, extra = from_model_state_dict(state, params, extra, file=f'{stem}.safetensors')
    fresh = quantize.make_codebook(extra['book_0']['embedding'])['spare_draw']
    extra['book_0']['spare_draw'] = np.asarray(fresh)
    return task, *jax.tree.map(jnp.asarray, (params, extra))
