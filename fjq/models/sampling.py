"""Continuations of prompts by a GPT: each is run once, then one compiled loop draws every path a token at a time.

Path p of a row draws from numbers of its own (the row's key folded with p), by inversion of the distribution: the same
key gives the same path in any batch, beside any number of others.
"""

import jax
import jax.numpy as jnp

from fjq.data.tokens.options import Sampling
from fjq.errors import InputError
from fjq.models.gpt import Model


def generate(model: Model, prompt_RxC, keys_R, *, horizon: int, paths: int, sampling: Sampling):
    """P continuations of every prompt -> ids int32 [R, P, horizon].

    Args:
      keys_R: a random key a prompt.

    Raises:
      InputError: no tokens or paths are asked for, the prompt is empty, or prompt and horizon do not fit the model.
    """
    sampling.check()
    for name, value in (('horizon', horizon), ('number of paths', paths), ('context', prompt_RxC.shape[1])):
        if value < 1:
            raise InputError(f'the {name} is {value}', remedy='make it 1 or more')
    rows, context = prompt_RxC.shape
    if context + horizon - 1 > model.config.length:
        raise InputError(
            f'a context of {context} and a horizon of {horizon} are longer than the model, {model.config.length}',
            column='context',
            remedy='shorten the context or the horizon',
        )
    u_RxPxT = draw_uniforms(keys_R, paths, horizon)
    vocabulary = model.config.vocabulary
    x_RxTxD, prompt = model.hidden(prompt_RxC)
    logits_RxV = model.head(x_RxTxD[:, -1])[..., :vocabulary]
    logits_RxPxV = jnp.broadcast_to(logits_RxV[:, None], (rows, paths, vocabulary))
    first_RxP = choose(logits_RxPxV, u_RxPxT[..., 0], sampling)
    if horizon == 1:
        return first_RxP[..., None]

    def body(carry, turn):
        token, own = carry
        at, u_RxP = turn
        x, own = model.step(token, prompt, own, at)
        token = choose(model.head(x)[..., :vocabulary], u_RxP, sampling)
        return (token, own), token

    turns = jnp.arange(horizon - 1), jnp.moveaxis(u_RxPxT[..., 1:], 2, 0)
    start = first_RxP, model.make_caches(rows, paths, horizon - 1)
    _, rest_TxRxP = jax.lax.scan(body, start, turns)
    return jnp.concatenate([first_RxP[..., None], jnp.moveaxis(rest_TxRxP, 0, 2)], axis=-1)


def draw_uniforms(keys_R, paths: int, horizon: int):
    """Numbers in [0, 1) for every token of every path -> [R, P, horizon]."""
    one = lambda key, path: jax.random.uniform(jax.random.fold_in(key, path), (horizon,))
    return jax.vmap(lambda key: jax.vmap(lambda path: one(key, path))(jnp.arange(paths)))(keys_R)


def choose(logits, u, sampling: Sampling):
    """The token whose share of the distribution function holds u: logits [..., V], u [...] -> int32 [...]."""
    if sampling.temperature == 0:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    logits, ids = logits / sampling.temperature, None
    if sampling.top_k or sampling.top_p < 1:
        logits, ids = jax.lax.top_k(logits, min(sampling.top_k or logits.shape[-1], logits.shape[-1]))
    p = jax.nn.softmax(logits, axis=-1)
    if sampling.top_p < 1:  # the token that crosses the mass is the last one kept
        p = jnp.where(jnp.cumsum(p, -1) - p < sampling.top_p, p, 0)
    mass = jnp.cumsum(p, -1)
    place = (mass <= u[..., None] * mass[..., -1:]).sum(-1)
    last = p.shape[-1] - 1 - jnp.argmax(p[..., ::-1] > 0, axis=-1)  # rounding must not pass the last possible token
    place = jnp.minimum(place, last)
    chosen = place if ids is None else jnp.take_along_axis(ids, place[..., None], -1)[..., 0]
    return chosen.astype(jnp.int32)


def score(model: Model, prompt_RxC, ids_RxPxT):
    """What the model says of given continuations: log-probability and entropy of each token, in nats, [R, P, T] each.

    The prompt is run once for all its continuations, forward and backward.
    """
    x_RxCxD, prompt = model.hidden(prompt_RxC)
    rows, paths, _ = ids_RxPxT.shape
    first = jnp.broadcast_to(x_RxCxD[:, None, -1:], (rows, paths, 1, x_RxCxD.shape[-1]))
    x = jnp.concatenate([first, model.branch(ids_RxPxT[..., :-1], prompt)], axis=2)
    log_p = jax.nn.log_softmax(model.head(x)[..., : model.config.vocabulary], axis=-1)
    chosen = jnp.take_along_axis(log_p, ids_RxPxT[..., None], -1)[..., 0]
    return chosen, -(jnp.exp(log_p) * log_p).sum(-1)
