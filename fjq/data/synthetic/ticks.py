"""Ticks inside minutes: how many, when, and at what efficient price; whole blocks of assets at once, without a sort."""

from typing import NamedTuple

import numpy as np

from fjq.data.synthetic.minutes import Day, Paths, print_clock

BURST = 0.35  # share of the waits between prints that are 10,000 times shorter than the others
CLUSTER = 4.0  # shape of the gamma noise of the rate by asset and minute; smaller is burstier


class Ticks(NamedTuple):
    """N ticks of K assets, grouped by asset, in order of time inside each."""

    asset: np.ndarray  # [N] int32
    minute: np.ndarray  # [N] int32, from 04:00
    share: np.ndarray  # [N] float64 in [0, 1): how much of the minute is gone
    price: np.ndarray  # [N] float64 efficient price


def tick_counts(rng: np.random.Generator, day: Day, mean: np.ndarray) -> np.ndarray:
    """[K, M] ticks a minute of assets with `mean` [K] ticks a day.

    More come when the market's variance is above its clock, and they come in clusters.
    """
    heat = np.empty(len(day.clock))
    for at in day.parts.values():
        heat[at] = np.sqrt(day.spot[at] / (day.clock[at] * day.spot[at].sum()))
    rate = mean[:, None] * (print_clock(day.date) * heat)
    return rng.poisson(rate * rng.standard_gamma(CLUSTER, rate.shape) / CLUSTER)


def fill(rng: np.random.Generator, counts: np.ndarray, paths: Paths) -> Ticks:
    """The ticks of every cell (asset, minute): sorted times, and a Brownian bridge between the minute's two prices.

    n sorted uniforms are the partial sums of n + 1 exponential waits over their total; the bridge is a Brownian
    motion on the same times less its end times the share gone. Both are one cumulative sum over all cells.

    Args:
      counts: [K, M] ticks of each cell.
      paths: log prices and variance of the same cells.
    """
    n = counts.ravel()
    cells = np.flatnonzero(n)
    n = n[cells]
    waits = n + 1
    last = np.cumsum(waits) - 1  # the wait that ends each cell
    wait = rng.standard_exponential(last[-1] + 1 if len(last) else 0, np.float32)
    wait[rng.integers(0, 256, len(wait), np.uint8) < int(BURST * 256)] *= 1e-4
    gone = np.cumsum(wait, dtype=np.float64)
    begin = np.concatenate([[0.0], gone[last[:-1]]]) if len(last) else gone
    length = gone[last] - begin
    inside = np.ones(len(wait), bool)
    inside[last] = False

    sd = np.repeat(np.sqrt(paths.variance.ravel()[cells] / length), waits)
    motion = np.cumsum(sd * np.sqrt(wait) * rng.standard_normal(len(wait), np.float32), dtype=np.float64)
    motion_begin = np.concatenate([[0.0], motion[last[:-1]]]) if len(last) else motion
    end_of_motion = motion[last] - motion_begin

    share = (gone[inside] - np.repeat(begin, n)) / np.repeat(length, n)
    slope = paths.end.ravel()[cells] - paths.start.ravel()[cells] - end_of_motion
    log_price = np.repeat(paths.start.ravel()[cells] - motion_begin, n) + motion[inside] + np.repeat(slope, n) * share
    asset, minute = np.divmod(cells, counts.shape[1])
    share = np.minimum(share, np.nextafter(1.0, 0.0))
    return Ticks(np.repeat(asset.astype(np.int32), n), np.repeat(minute.astype(np.int32), n), share, np.exp(log_price))
