"""Features of bars: causal functions with a name, a window and a formula, and named sets of them.

A feature at bar t is a function of the bars up to t; nothing is fitted and nothing is normalised: the model
standardises every window by its own bars. Log prices are levels, from which the model takes the last one of the
window. Sets:

  core24    the 24 of the original, by name: raw prices, variances and differences in points
  core25    and the signal line of the MACD
  seed25    Bollinger bands, session VWAP and proxies of order flow and spread from open, high, low, close and volume
  scaled24  core24 in units that do not grow with the price, logs of whatever is a variance (the default)
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy import special
from scipy.signal import lfilter

from fjq.config import nearest
from fjq.data.bars.series import Bars
from fjq.data.clock import DAY, MINUTE, after_break, find_zone, to_wall
from fjq.data.ewma import ewma
from fjq.errors import InputError

TINY = 1e-10  # added to denominators, as the original does
LEAST_VARIANCE = 1e-10  # added under logs: the square of a thousandth of a per cent
LEAST_MOVE = 1e-5  # its root
BREAK = 30 * MINUTE  # without bars ends a session
EVENING = 17 * 60 * MINUTE  # of the exchange: trade that begins again from then on is that of its next day
VWAP_BARS = 288  # a day of five minutes


class Feature(NamedTuple):
    """window: bars up to and including t that the value needs before it means what its formula says."""

    name: str
    window: int
    formula: str
    compute: Callable[[Bars], np.ndarray]


def compute_features(bars: Bars, names: tuple[str, ...]) -> np.ndarray:
    """float32 [N, V]; the first `warm_up(names)` bars hold values of too few bars."""
    out = np.empty((len(bars), len(names)), np.float32)
    for v, name in enumerate(names):
        out[:, v] = find_feature(name).compute(bars)
    return out


def warm_up(names: tuple[str, ...]) -> int:
    """Bars before the first whose features all have their windows."""
    return max(find_feature(name).window for name in names) - 1


def find_features(names: tuple[str, ...]) -> tuple[str, ...]:
    """The features that one name of a set, or a list of features and sets, means.

    Raises:
      InputError: an unknown name, or one that comes twice.
    """
    out = [f for name in names for f in SETS.get(name, (name,))]
    for name in out:
        find_feature(name)
    if len(set(out)) < len(out) or not out:
        raise InputError(f'{names} are no features, each once', column='features', remedy='name a set such as scaled24')
    return tuple(out)


def find_feature(name: str) -> Feature:
    if name not in REGISTRY:
        raise InputError(f'no feature is called {name!r}', column='features', remedy=nearest(name, [*REGISTRY, *SETS]))
    return REGISTRY[name]


def log_returns(bars: Bars) -> np.ndarray:
    """ln(C_t / C_{t-1}), the first bar's from its open [N]."""
    before = np.concatenate([bars.open[:1], bars.close[:-1]])
    return np.log(bars.close / before)


def opens_session(bars: Bars) -> np.ndarray:
    """Which bars [N] are the first, or come more than half an hour after the end of the one before."""
    return after_break(bars.time, bars.length + BREAK)


def opens_day(bars: Bars) -> np.ndarray:
    """Which bars [N] open a trading day: the first, and those after a break over midnight or 17:00 of the exchange. So
    18:00 in New York does for futures, and the end of lunch does not for shares; a market that never closes has none.
    """
    wall = to_wall(bars.time, find_zone(bars.zone))
    turns = wall // DAY + (wall - EVENING) // DAY
    return opens_session(bars) & (np.diff(turns, prepend=turns[:1] - 1) > 0)


def bar_returns(bars: Bars) -> np.ndarray:
    """Log returns of single bars [N]: the first of a session counts from its own open, so no night is among them."""
    return np.where(opens_session(bars), np.log(bars.close / bars.open), log_returns(bars))


def ewma_volatility(returns: np.ndarray, decay: float) -> np.ndarray:
    """sqrt of variance_t = decay variance_{t-1} + (1 - decay) r_t^2 with weights that sum to 1 from the start [N]."""
    return np.sqrt(ewma(returns**2, decay))


def _rolling(values: np.ndarray, window: int, reduce=np.sum) -> np.ndarray:
    """A reduction of the last `window` values [N]; the value before the first counts as the first."""
    padded = np.concatenate([np.repeat(values[:1], window - 1), values])
    return reduce(np.lib.stride_tricks.sliding_window_view(padded, window), axis=-1)


def _ema(values: np.ndarray, alpha: float) -> np.ndarray:
    """e_t = alpha x_t + (1 - alpha) e_{t-1}, e_0 = x_0 [N]. Distances from x_0 are filtered, so that no digits of a
    price level are lost."""
    return values[0] + lfilter([alpha], [1, alpha - 1], values - values[0])


def _span(n: int) -> float:
    return 2 / (n + 1)


def _before(values: np.ndarray, n: int = 1) -> np.ndarray:
    """The value n bars ago [N], the first one where there is none."""
    return np.concatenate([np.repeat(values[:1], min(n, len(values))), values[:-n]])[: len(values)]


def _gk(b: Bars) -> np.ndarray:
    return 0.5 * np.log(b.high / b.low) ** 2 - (2 * np.log(2) - 1) * np.log(b.close / b.open) ** 2


def _rv(b: Bars, n: int) -> np.ndarray:
    return np.sqrt(_rolling(log_returns(b) ** 2, n))


def _rsi(b: Bars, n: int = 14) -> np.ndarray:
    step = np.diff(b.close, prepend=b.close[0])
    gain, loss = (_ema(np.maximum(s, 0), 1 / n) for s in (step, -step))
    return 100 - 100 / (1 + gain / (loss + TINY))


def _macd(b: Bars) -> np.ndarray:
    return _ema(b.close, _span(12)) - _ema(b.close, _span(26))


def _roc(b: Bars, n: int) -> np.ndarray:
    return b.close / _before(b.close, n) - 1


def _slope(b: Bars, n: int) -> np.ndarray:
    return np.diff(_ema(b.close, _span(n)), prepend=b.close[0])


def _deviation(b: Bars, n: int) -> np.ndarray:
    mean = _ema(b.close, _span(n))
    return (b.close - mean) / (mean + TINY)


def _atr(b: Bars, n: int = 14) -> np.ndarray:
    before = _before(b.close)
    true_range = np.maximum(b.high - b.low, np.maximum(np.abs(b.high - before), np.abs(b.low - before)))
    return _rolling(true_range, n, np.mean)


def _bollinger(b: Bars, n: int = 20) -> tuple[np.ndarray, np.ndarray]:
    return _rolling(b.close, n, np.mean), _rolling(b.close, n, np.std)


def _bollinger_position(b: Bars) -> np.ndarray:
    mean, deviation = _bollinger(b)
    return (b.close - mean) / (2 * deviation + TINY * mean)


def _bollinger_width(b: Bars) -> np.ndarray:
    mean, deviation = _bollinger(b)
    return 4 * deviation / mean


def _vwap_deviation(b: Bars) -> np.ndarray:
    """From the mean typical price, weighted by volume, of the trading day so far, and of no more than the last 24 hours
    and `VWAP_BARS`: so long is the day of a market that never closes. Without volume from the typical price itself."""
    here = np.arange(len(b))
    start = np.maximum.accumulate(np.where(opens_day(b), here, 0))
    start = np.maximum(start, np.searchsorted(b.time, b.time - DAY, side='right'))
    spans = np.stack([np.maximum(start, here - VWAP_BARS + 1), here + 1], axis=1).ravel()
    sums = lambda values: np.add.reduceat(np.append(values, 0.0), spans)[::2]  # each of its own bars alone
    typical, volume = (b.high + b.low + b.close) / 3, sums(b.volume)
    vwap = np.divide(sums(b.volume * typical), volume, out=typical.copy(), where=volume > 0)
    return b.close / vwap - 1


def _tick_rule(b: Bars) -> np.ndarray:
    """+1 after a rise of the close, -1 after a fall, what it was before where it stays (Lee and Ready 1991)."""
    sign = np.sign(np.diff(b.close, prepend=b.close[0]))
    last = np.maximum.accumulate(np.where(sign != 0, np.arange(len(sign)), 0))
    return sign[last]


def _imbalance(b: Bars, n: int = 20) -> np.ndarray:
    """2 Phi(r / sd) - 1: the share of volume that was bought less that sold (Easley, Lopez de Prado, O'Hara 2012)."""
    returns = log_returns(b)
    deviation = np.sqrt(_rolling(returns**2, n, np.mean))
    return special.erf(returns / (np.sqrt(2) * deviation + TINY))


def _spread(b: Bars) -> np.ndarray:
    """Corwin and Schultz (2012) from the high and low of two bars, negative estimates as zero."""
    high, low = np.maximum(b.high, _before(b.high)), np.minimum(b.low, _before(b.low))
    beta = np.log(b.high / b.low) ** 2 + np.log(_before(b.high) / _before(b.low)) ** 2
    k = 3 - 2 * np.sqrt(2)
    alpha = (np.sqrt(2 * beta) - np.sqrt(beta)) / k - np.sqrt(np.log(high / low) ** 2 / k)
    return np.maximum(2 * np.expm1(alpha) / (1 + np.exp(alpha)), 0)


def _amihud(b: Bars) -> np.ndarray:
    return np.abs(log_returns(b)) / (b.close * b.volume + TINY)


def _log_amihud(b: Bars) -> np.ndarray:
    return np.log((np.abs(log_returns(b)) + LEAST_MOVE) / (b.close * b.volume + 1))


def _log_volume_ratio(b: Bars) -> np.ndarray:
    return np.log((b.volume + 1) / (_rolling(b.volume, 20, np.mean) + 1))


def _list_features():
    """Every feature, one by one."""
    for name in ('open', 'high', 'low', 'close'):
        yield Feature(name, 1, name[0].upper(), lambda b, n=name: getattr(b, n))
        yield Feature(f'log_{name}', 1, f'ln({name[0].upper()})', lambda b, n=name: np.log(getattr(b, n)))
    yield Feature('log_return', 2, 'ln(C_t / C_{t-1})', log_returns)
    yield Feature('log_volume', 1, 'ln(Vol + 1)', lambda b: np.log1p(b.volume))
    yield Feature('dollar_volume', 1, 'ln(C Vol + 1)', lambda b: np.log1p(b.close * b.volume))
    yield Feature('gk_volatility', 1, '0.5 ln(H/L)^2 - (2 ln 2 - 1) ln(C/O)^2', _gk)
    yield Feature(
        'log_gk', 1, 'ln(gk_volatility + 1e-10), not below', lambda b: np.log(np.maximum(_gk(b), 0) + LEAST_VARIANCE)
    )
    for n in (12, 36, 72):
        yield Feature(f'rv_{n}', n + 1, f'sqrt(sum of {n} r^2)', lambda b, n=n: _rv(b, n))
        yield Feature(f'log_rv_{n}', n + 1, f'ln(rv_{n} + 1e-5)', lambda b, n=n: np.log(_rv(b, n) + LEAST_MOVE))
    yield Feature('amihud_illiq', 2, '|r| / (C Vol + 1e-10)', _amihud)
    yield Feature('log_amihud', 2, 'ln((|r| + 1e-5) / (C Vol + 1))', _log_amihud)
    yield Feature('rsi_14', 15, '100 - 100 / (1 + G / (L + 1e-10)), EWM of 1/14', _rsi)
    yield Feature('macd', 26, 'EMA12(C) - EMA26(C)', _macd)
    yield Feature('macd_rel', 26, '(EMA12(C) - EMA26(C)) / C', lambda b: _macd(b) / b.close)
    yield Feature('macd_signal', 34, 'EMA9(macd)', lambda b: _ema(_macd(b), _span(9)))
    for n in (5, 10, 20):
        yield Feature(f'roc_{n}', n + 1, f'C_t / C_{{t-{n}}} - 1', lambda b, n=n: _roc(b, n))
    for n in (9, 21, 50):
        yield Feature(f'ema_slope_{n}', n + 1, 'EMA_t - EMA_{t-1}', lambda b, n=n: _slope(b, n))
        yield Feature(f'ema_slope_rel_{n}', n + 1, '(EMA_t - EMA_{t-1}) / C', lambda b, n=n: _slope(b, n) / b.close)
        yield Feature(f'ema_dev_{n}', n, '(C - EMA) / (EMA + 1e-10)', lambda b, n=n: _deviation(b, n))
    yield Feature('atr_14', 15, 'mean of 14 true ranges', _atr)
    yield Feature('log_atr_14', 15, 'ln(atr_14 / C + 1e-5)', lambda b: np.log(_atr(b) / b.close + LEAST_MOVE))
    yield Feature(
        'volume_ma_ratio',
        20,
        'Vol / (SMA20(Vol) + 1e-10)',
        lambda b: b.volume / (_rolling(b.volume, 20, np.mean) + TINY),
    )
    yield Feature('log_volume_ratio', 20, 'ln((Vol + 1) / (SMA20(Vol) + 1))', _log_volume_ratio)
    yield Feature('bollinger_position', 20, '(C - SMA20) / (2 sd20)', _bollinger_position)
    yield Feature('bollinger_width', 20, '4 sd20 / SMA20', _bollinger_width)
    yield Feature('vwap_deviation', VWAP_BARS, 'C / VWAP of the day so far, 288 bars at most - 1', _vwap_deviation)
    yield Feature('tick_rule', 2, 'sign of the last change of C', _tick_rule)
    yield Feature('order_imbalance', 21, '2 Phi(r / sd20) - 1', _imbalance)
    yield Feature('high_low_spread', 2, 'Corwin-Schultz of two bars', _spread)
    yield Feature(
        'volume_median_ratio',
        20,
        'ln((Vol + 1) / (median20(Vol) + 1))',
        lambda b: np.log((b.volume + 1) / (_rolling(b.volume, 20, np.median) + 1)),
    )


REGISTRY = {feature.name: feature for feature in _list_features()}
_RV, _ROC = ('rv_12', 'rv_36', 'rv_72'), ('roc_5', 'roc_10', 'roc_20')
_EMA = tuple(f'ema_{kind}_{n}' for n in (9, 21, 50) for kind in ('slope', 'dev'))
_HEAD = ('open', 'high', 'low', 'close', 'log_return', 'log_volume', 'gk_volatility', *_RV, 'amihud_illiq', 'rsi_14')
_TAIL = (*_ROC, *_EMA, 'atr_14', 'volume_ma_ratio')
_SCALED = {
    **{name: f'log_{name}' for name in ('open', 'high', 'low', 'close', 'atr_14', *_RV)},
    **{f'ema_slope_{n}': f'ema_slope_rel_{n}' for n in (9, 21, 50)},
    'gk_volatility': 'log_gk',
    'amihud_illiq': 'log_amihud',
    'macd': 'macd_rel',
    'volume_ma_ratio': 'log_volume_ratio',
}
SETS = {
    'core24': (*_HEAD, 'macd', *_TAIL),
    'core25': (*_HEAD, 'macd', 'macd_signal', *_TAIL),
    'seed25': (
        *('log_open', 'log_high', 'log_low', 'log_close', 'log_return', 'log_volume', 'dollar_volume', 'log_gk'),
        *('log_rv_12', 'log_rv_36', 'log_rv_72', 'log_amihud', 'rsi_14', 'macd_rel', *_ROC, 'log_atr_14'),
        *('bollinger_position', 'bollinger_width', 'vwap_deviation', 'tick_rule', 'order_imbalance'),
        *('high_low_spread', 'volume_median_ratio'),
    ),
    'scaled24': tuple(_SCALED.get(name, name) for name in (*_HEAD, 'macd', *_TAIL)),
}
