"""What a tokenizer sees of a candle: five log ratios, in units of the volatility known before it."""

import numpy as np

NAMES = ('log_return', 'body', 'upper_wick', 'lower_wick', 'range')
FREE = 4  # features that are free: range = upper_wick + |body| + lower_wick
LEAST = 1e-3  # the volatility never falls below this share of the first one
FARTHEST = 100.0  # log move of a decoded path: far enough for any market, and e^100 is a number


def candle_features(ohlc_Nx4: np.ndarray) -> np.ndarray:
    """float64 [N, 5], each row of its candle and the close before it alone; the first return starts at its open."""
    o, h, lo, c = np.asarray(ohlc_Nx4, np.float64).T
    before = np.concatenate([o[:1], c[:-1]])
    top, bottom = np.maximum(o, c), np.minimum(o, c)
    return np.stack([np.log(c / before), np.log(c / o), np.log(h / top), np.log(bottom / lo), np.log(h / lo)], -1)


def ewma_scale(log_return_N: np.ndarray, decay: float, first: float) -> np.ndarray:
    """[N + 1] volatility known before each candle: s_0 = first, s_{t+1}^2 = decay s_t^2 + (1 - decay) r_t^2.

    The last entry is that of the next candle, unseen yet.
    """
    if decay == 1.0:
        return np.full(len(log_return_N) + 1, first)
    from scipy.signal import lfilter

    later, _ = lfilter([1 - decay], [1, -decay], log_return_N**2, zi=[decay * first**2])
    return np.maximum(np.sqrt(np.concatenate([[first**2], later])), LEAST * first)


def rebuild(moves_xTx4: np.ndarray, close_x: np.ndarray, scale_x: np.ndarray, decay: float) -> np.ndarray:
    """Candles [..., T, 4] after a close, from log_return, body and wicks in units of a volatility that follows them.

    C_t = C_{t-1} exp(r), O = C exp(-body), H = max(O, C) exp(upper), L = min(O, C) exp(-lower); wicks below zero count
    as none, so low <= open, close <= high always holds.
    """
    close_x, variance_x = np.asarray(close_x, np.float64), np.asarray(scale_x, np.float64) ** 2
    level_x, out = np.zeros(np.broadcast_shapes(moves_xTx4.shape[:-2], close_x.shape)), []
    for t in range(moves_xTx4.shape[-2]):
        r, body, upper, lower = np.moveaxis(moves_xTx4[..., t, :], -1, 0)
        s = np.sqrt(variance_x)
        new_x = np.clip(level_x + r * s, -FARTHEST, FARTHEST)
        c = close_x * np.exp(new_x)
        o = c * np.exp(np.clip(-body * s, -FARTHEST, FARTHEST))
        h = np.maximum(o, c) * np.exp(np.clip(upper * s, 0, FARTHEST))
        lo = np.minimum(o, c) * np.exp(-np.clip(lower * s, 0, FARTHEST))
        out.append(np.stack([o, h, lo, c], -1))
        variance_x = np.minimum(decay * variance_x + (1 - decay) * (r * s) ** 2, FARTHEST**2)
        level_x = new_x
    return np.stack(out, -2) if out else np.zeros((*level_x.shape, 0, 4))
