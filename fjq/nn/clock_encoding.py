"""Where a bar stands in its day, week, month and year, as a vector added to every variable."""

import math

import jax
import jax.numpy as jnp
from flax import nnx

from fjq.nn.dense import Dense

DAYS_OF_MONTH, DAYS_OF_YEAR = 31, 366
LONGEST = 1000.0  # bars a radian, of the slowest wave of an age


def harmonics(place, period: int, width: int):
    """Integers [...] on a cycle of `period` -> [..., width]: sin and cos of 1, 2, ..., width / 2 turns, in turn.

    The phase is reduced in integers, so that the last place of a cycle is as exact as the first.
    """
    turns = jnp.arange(1, width // 2 + 1)
    phase = (place[..., None] * turns.reshape((1,) * place.ndim + (-1,)) % period) * (2 * math.pi / period)
    return jnp.stack([jnp.sin(phase), jnp.cos(phase)], axis=-1).reshape(*place.shape, width)


def waves(age, width: int):
    """Integers [...] -> [..., width]: sin and cos of rates from 1 to 1 / LONGEST, geometric (Vaswani et al. 2017)."""
    rates = LONGEST ** -jnp.linspace(0, 1, width // 2)
    phase = age[..., None].astype(jnp.float32) * rates.reshape((1,) * age.ndim + (-1,))
    return jnp.stack([jnp.sin(phase), jnp.cos(phase)], axis=-1).reshape(*age.shape, width)


class Time2Vec(nnx.Module):
    """One straight line and sines of learned frequency (Kazemi et al. 2019) of value / 366, as the original scales
    both the day of the month and of the year: at its initial frequencies it is all but constant."""

    def __init__(self, width: int, *, rngs: nnx.Rngs):
        draw = lambda n, scale: nnx.Param(scale * jax.random.normal(rngs.params(), (n,)))
        self.linear_weight, self.linear_bias = draw(1, 0.01), nnx.Param(jnp.zeros(1))
        self.periodic_weights, self.periodic_biases = draw(width - 1, 0.1), nnx.Param(jnp.zeros(width - 1))

    def __call__(self, place_B):
        tau_Bx1 = (place_B / DAYS_OF_YEAR).astype(jnp.float32)[:, None]
        line = tau_Bx1 * self.linear_weight[...][None] + self.linear_bias[...][None]
        waves = jnp.sin(tau_Bx1 * self.periodic_weights[...][None] + self.periodic_biases[...][None])
        return jnp.concatenate([line, waves], axis=-1)


class ClockEncoding(nnx.Module):
    """Time of day by bar; weekday, day of the month and of the year by the window's last bar; and the age.

    Args:
      bars_per_day: bars from midnight to midnight, of which `bar_in_day` counts.
      age_dim: width of how many bars before the last one a bar stands; 0 = not told. A window of a day holds every time
        of day once: without its age no bar can be known for the last, for attention sees no order.
      learned: Time2Vec for month and year as in the original; otherwise harmonics, like the time of day.
    """

    def __init__(
        self, width: int, *, bars_per_day: int, dims: tuple[int, ...], age_dim: int, learned: bool, rngs: nnx.Rngs
    ):
        day, week, month, year = dims
        self.dims, self.age_dim, self.bars_per_day = dims, age_dim, bars_per_day
        self.day_of_week = nnx.Dict(embedding=nnx.Param(jax.random.normal(rngs.params(), (7, week))))
        self.day_of_month = Time2Vec(month, rngs=rngs) if learned else None
        self.day_of_year = Time2Vec(year, rngs=rngs) if learned else None
        self.projection = Dense(day + week + month + year + age_dim, width, rngs=rngs)

    def __call__(self, bar_BxT, weekday_B, month_B, year_B, length_B):
        """bar_in_day [B, T] from 0, day_of_week 0..6, day_of_month 1..31, day_of_year 1..366, bars [B] -> [B, T, D]."""
        day, _, month, year = self.dims
        if self.day_of_month is None:
            month_BxM = harmonics(month_B - 1, DAYS_OF_MONTH, month)
            year_BxY = harmonics(year_B - 1, DAYS_OF_YEAR, year)
        else:
            month_BxM, year_BxY = self.day_of_month(month_B), self.day_of_year(year_B)
        date_BxE = jnp.concatenate([self.day_of_week['embedding'][...][weekday_B], month_BxM, year_BxY], axis=-1)
        date_BxTxE = jnp.broadcast_to(date_BxE[:, None], (*bar_BxT.shape, date_BxE.shape[-1]))
        parts = [harmonics(bar_BxT, self.bars_per_day, day), date_BxTxE]
        if self.age_dim:
            parts.append(waves(length_B[:, None] - 1 - jnp.arange(bar_BxT.shape[1])[None], self.age_dim))
        return self.projection(jnp.concatenate(parts, axis=-1))
