"""Golden values of the family `microchat_gpt`: logits, cross-entropy, gradients and the greedy continuation."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from fjq.bridge import Pure
from fjq.models.gpt import Gpt, Model
from fjq.models.sampling import Sampling, generate
from fjq.torch_names import to_state_dict
from interop.check import Check, compare
from interop.files import read_npz, read_state
from interop.microchat import read_params

_DEEP = 1e-4
_FLAT = 1e-8  # a gradient below it is compared as it is, not relative to its own size


def load(stem: str | Path) -> tuple[Pure, dict, Gpt]:
    """The model and the parameters of a stem."""
    c = json.loads(Path(f'{stem}_config.json').read_text())
    config = Gpt(
        vocabulary=c['vocab_size'],
        length=c['sequence_len'],
        layers=c['n_layer'],
        heads=c['n_head'],
        kv_heads=c['n_kv_head'],
        width=c['n_embd'],
        dropout=c['dropout'],
        rope_rounded=True,
        padded_logits=True,
    )
    pure = Pure(lambda rngs: Model(config, rngs=rngs))
    template, _ = jax.eval_shape(pure.init, jax.random.key(0))
    file = f'{stem}.safetensors'
    return pure, jax.tree.map(jnp.asarray, read_params(read_state(file), template, file=file)), config


def check(stem: str | Path) -> list[Check]:
    """Compares everything in the stem's npz."""
    pure, params, config = load(stem)
    golden = read_npz(f'{stem}_io.npz')
    ids = jnp.asarray(golden['ids'], jnp.int32)

    @jax.jit
    def run(params):
        logits, _ = pure.apply(params, {}, Model.__call__, ids[:, :-1])
        log_p = jnp.take_along_axis(jax.nn.log_softmax(logits), ids[:, 1:, None], -1)
        return -log_p.mean(), logits

    (loss, logits), gradients = jax.value_and_grad(run, has_aux=True)(params)
    checks = [compare('logits', logits, golden['logits'], _DEEP)]
    checks.append(compare('cross_entropy', loss, golden['cross_entropy'], _DEEP))
    checks.append(compare('greedy', _greedy(pure, params, config, ids, golden['greedy']), golden['greedy'], 0.0))
    named = to_state_dict(gradients)
    for name, expected in golden.items():
        if name.startswith('grad.'):
            checks.append(compare(name, named[name.removeprefix('grad.')], expected, _DEEP, floor=_FLAT))
    return checks


def _greedy(pure: Pure, params: dict, config: Gpt, ids, golden: np.ndarray) -> np.ndarray:
    """The golden row is a prompt and its continuation; the prompt is the part that equals the first row of ids."""
    same = golden[0][: ids.shape[1]] == np.asarray(ids[0])[: golden.shape[1]]
    context = int(np.argmin(same)) if not same.all() else len(same)
    horizon = golden.shape[1] - context
    greedy = Sampling(temperature=0.0)
    run = lambda model, prompt: generate(
        model, prompt, jax.random.split(jax.random.key(0), 1), horizon=horizon, paths=1, sampling=greedy
    )
    prompt = jnp.asarray(golden[:, :context], jnp.int32)
    tokens, _ = jax.jit(lambda params, prompt: pure.apply(params, {}, run, prompt))(params, prompt)
    return np.concatenate([golden[:, :context], np.asarray(tokens)[:, 0]], axis=1)
