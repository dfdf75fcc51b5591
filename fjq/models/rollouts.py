"""Sampled futures of tokens as returns, and what a group of them says beside what came.

Letters: R = rows, P = paths of a row, T = future candles, H = horizons, V = tokens.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from fjq.task import Batch


class Rollouts(NamedTuple):
    """Paths of each row and its true future, which only rewards may read.

    ids int32, returns float32 [R, P, T]: tokens and the log returns that they decode to.
    ahead [R, P, H]: cumulative returns at the horizons. token, actual [R, T]: the true future; known bool [R, T].
    target [R, H], target_known bool [R, H]: cumulative returns that came.
    unit [R]: the size of a return, the root mean square of those that tokens decode to.
    """

    ids: jax.Array
    returns: jax.Array
    ahead: jax.Array
    token: jax.Array
    actual: jax.Array
    known: jax.Array
    target: jax.Array
    target_known: jax.Array
    unit: jax.Array


def read_paths(batch: Batch, ids_RxPxT, horizons: tuple[int, ...]) -> Rollouts:
    """Paths beside the future in a batch that forecasts (`fjq.data.tokens.windows`)."""
    returns = path_returns(ids_RxPxT, batch['token_return'], batch['scale'], batch['scale_decay'])
    there = batch['mask'][:, None]
    return Rollouts(
        ids=ids_RxPxT,
        returns=returns,
        ahead=add_up(returns, horizons),
        token=batch['tokens'][:, -ids_RxPxT.shape[-1] :],
        actual=batch['returns'],
        known=batch['returns_mask'] & there,
        target=batch['target'],
        target_known=batch['target_mask'] & there,
        unit=batch['scale'] * jnp.sqrt(jnp.square(batch['token_return']).mean(-1)),
    )


def path_returns(ids_RxPxT, token_return_RxV, scale_R, decay_R):
    """Log returns of each candle of each path [R, P, T].

    r_t = s_t token_return[id_t] with s_1 = scale and s_{t+1}^2 = decay s_t^2 + (1 - decay) r_t^2.
    """
    unit = jax.vmap(lambda table, ids: table[ids])(token_return_RxV, ids_RxPxT)
    decay = decay_R[:, None]

    def step(variance, z):
        r = jnp.sqrt(variance) * z
        return decay * variance + (1 - decay) * r * r, r

    start = jnp.broadcast_to(jnp.square(scale_R)[:, None], unit.shape[:2])
    return jnp.moveaxis(jax.lax.scan(step, start, jnp.moveaxis(unit, 2, 0))[1], 0, 2)


def add_up(returns, horizons: tuple[int, ...]):
    """[..., T] -> cumulative returns after each of H horizons [..., H]."""
    return jnp.cumsum(returns, axis=-1)[..., jnp.array(horizons) - 1]


def compare_with_group(reward_RxP, *, standardised: bool):
    """What each path did better than its group: reward less the group's mean, over its deviation if asked.

    Groups that all did the same teach nothing, and get 0 rather than magnified rounding.
    """
    centred = reward_RxP - reward_RxP.mean(-1, keepdims=True)
    if not standardised:
        return centred
    spread = jnp.sqrt(jnp.square(centred).mean(-1, keepdims=True))
    least = 1e-5 * (1 + jnp.abs(reward_RxP).max(-1, keepdims=True))
    return jnp.where(spread > least, centred / jnp.maximum(spread, least), 0)
