"""What a sampled path earns: one number for each path of a row [R, P], 0 for rows whose future is not known.

    token_acc    the share of candles whose token came
    proximity    1 - |id - id that came| / V, the mean over candles: for tokens ordered by return
    return_mse   minus the mean squared error of each candle's return, in squares of the row's unit
    crps         by how much the group's CRPS would be worse without the path, less that CRPS; at the horizons, in units
    direction    the share of horizons at which the path has the sign that came
    pnl          what a trader who follows the path earns after costs, in units a candle
    sharpe       the same over its own deviation, not annualised

Tokens were drawn without any of what they are compared with. The first four are scores of forecasts; `token_acc`
and `direction` are best served by a forecast without spread, so look at the calibration before and after.
"""

from collections.abc import Callable

import jax.numpy as jnp

from fjq.models.rollouts import Rollouts

LEAST_SPREAD = 0.1  # units: a path that hardly earns or loses is not worth infinitely much


def token_acc(r: Rollouts, vocabulary: int, cost: float):
    return _mean(r.ids == r.token[:, None], r.known)


def proximity(r: Rollouts, vocabulary: int, cost: float):
    return _mean(1 - jnp.abs(r.ids - r.token[:, None]) / vocabulary, r.known)


def return_mse(r: Rollouts, vocabulary: int, cost: float):
    error = (r.returns - r.actual[:, None]) / r.unit[:, None, None]
    return -_mean(jnp.square(error), r.known)


def crps(r: Rollouts, vocabulary: int, cost: float):
    """CRPS of the other paths less twice that of all, in the fair form (Ferro 2014): what the path adds to the group,
    and for its level, which an advantage does not see, minus the group's CRPS."""
    x = jnp.moveaxis(r.ahead / r.unit[:, None, None], 1, 2)  # [R, H, P]
    paths = x.shape[-1]
    miss = jnp.abs(x - (r.target / r.unit[:, None])[..., None])
    gaps = jnp.abs(x[..., :, None] - x[..., None, :]).sum(-1)
    sums = miss.sum(-1, keepdims=True), gaps.sum(-1, keepdims=True)
    fair = lambda miss, gaps, n: miss / n - gaps / (2 * n * (n - 1))
    gain = fair(sums[0] - miss, sums[1] - 2 * gaps, paths - 1) - fair(*sums, paths)
    return _mean(jnp.moveaxis(gain - fair(*sums, paths), 1, 2), r.target_known)


def direction(r: Rollouts, vocabulary: int, cost: float):
    return _mean(jnp.sign(r.ahead) == jnp.sign(r.target)[:, None], r.target_known)


def pnl(r: Rollouts, vocabulary: int, cost: float):
    return _mean(_earn(r, cost), r.known)


def sharpe(r: Rollouts, vocabulary: int, cost: float):
    earned = _earn(r, cost)
    mean = _mean(earned, r.known)
    spread = jnp.sqrt(_mean(jnp.square(earned - mean[..., None]), r.known))
    return mean / jnp.maximum(spread, LEAST_SPREAD)


def _earn(r: Rollouts, cost: float):
    """Units earned a candle: the position tanh(the path's return / unit) was taken at the close before; `cost` is paid
    on what changes of it, as a share of the price."""
    unit = r.unit[:, None, None]
    position = jnp.tanh(r.returns / unit)
    change = jnp.abs(jnp.diff(position, axis=-1, prepend=0))
    return (position * r.actual[:, None] - cost * change) / unit


def _mean(value_RxPxT, known_RxT):
    """The mean over what is known [R, P]."""
    known = known_RxT[:, None]
    total = jnp.where(known, value_RxPxT.astype(jnp.float32), 0).sum(-1)
    return total / jnp.maximum(known.sum(-1), 1)


REWARDS: dict[str, Callable] = {
    'token_acc': token_acc,
    'proximity': proximity,
    'return_mse': return_mse,
    'crps': crps,
    'direction': direction,
    'pnl': pnl,
    'sharpe': sharpe,
}
LEAST_PATHS = {'crps': 3}  # in a group; two for all others
