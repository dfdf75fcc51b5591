"""What the direction of the median would have earned after costs, traded as one could have traded it."""

import dataclasses
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from fjq import compare
from fjq.errors import InputError
from fjq.studies import Chart, Study
from fjq.studies.thinning import thin

LONG = 'always long'
LEAST = 3  # moments at which positions are left: series move together, so several at one moment are one


class Trades(NamedTuple):
    """One series' positions, each held from `entry` to `leave`, arrays [K].

    position: in units of capital, its sign the direction; gross: log return of the price over the holding time times
    the position; traded, cost: what was bought or sold to reach the position and, where no other follows, to leave it,
    and what that cost as a share of capital.
    """

    entry: np.ndarray
    leave: np.ndarray
    position: np.ndarray
    gross: np.ndarray
    traded: np.ndarray
    cost: np.ndarray


@dataclasses.dataclass(kw_only=True)
class Backtest:
    """Long or short by the sign of the median, each horizon apart, for targets that are log returns.

    Positions do not overlap: the next one is decided at or after the close at which the last label ends. A decision at
    a close is filled at the next open, on both sides, and trading is netted where one position follows another. Size is
    the mean forecast width so far over the width now, at most `leverage`. A year is measured on the calendar. Costs
    are paid on all that is traded: `slippage` ticks and `commission` (in units of price), and the share `fee` of value.
    Where prices are chained over rolls, a tick is a share of the chained price, not of the one that was traded.
    Returns are log returns times the position, summed. The deflated Sharpe ratio (Bailey and Lopez de Prado 2014) is
    the probability that the true one is above what the best of so many tries without any skill would show: every
    horizon of each of `trials` models is one.
    """

    name: str = 'backtest'
    tick: float = 0.25  # smallest move of the price
    slippage: float = 0.5  # ticks lost on each side
    commission: float = 0.0  # on each side, in units of price
    fee: float = 0.0  # on each side, as a share of what is traded
    leverage: float = 2.0  # most of a position's size
    least: float = 0.0  # of |median| as a share of the width of the 80 % interval for a position; else none is held
    trials: int = 1  # models that were tried, this one among them
    draws: int = 1000  # of the bootstrap

    def run(self, trained, dataset, split, judged, rows, mask) -> Study:
        history = dataset.history()
        if absent := [name for name in ('open', 'close') if name not in history]:
            raise InputError(f'the history has no {absent[0]!r} to trade at', remedy='leave the backtest out')
        median = np.asarray(judged[0].law.quantile(0.5), np.float64)
        lo, hi = (np.asarray(end, np.float64) for end in judged[0].law.interval(0.8))
        lines, sentences, curves = [], [], {}
        if self.trials < 1:
            raise InputError(f'{self.trials} trials', column='trials', remedy='count this one too')
        chosen = [thin(rows, mask, h) for h in range(len(rows['horizon']))]
        moments = [len(np.unique(rows['label_end'][p, h])) if len(p) else 0 for h, p in enumerate(chosen)]
        tries = self.trials * sum(count >= LEAST for count in moments)
        for h, (horizon, places) in enumerate(zip(rows['horizon'], chosen, strict=True)):
            if moments[h] < LEAST:
                sentences.append(f'Horizon {horizon} has too few positions that do not overlap for a backtest.')
                continue
            held = {judged[0].name: self.size(rows['id'][places], median[places, h], (hi - lo)[places, h])}
            held[LONG] = np.ones(len(places))
            results = {}
            for name, position in held.items():
                trades = self.trade(history, rows, places, h, position)
                figures, times, equity = self.judge(trades, tries)
                results[name] = figures
                lines.append({'horizon': str(horizon), 'positions': name} | figures)
                alike = name == LONG and trades.traded.sum() == 2 * len(np.unique(rows['id'][places]))  # never left
                curves.setdefault(LONG if alike else f'{name}, horizon {horizon}', (times, equity))
            sentences.append(_say(str(horizon), results[judged[0].name], results[LONG], tries))
        return Study({'After costs, in log returns': lines}, sentences, _equity_charts(curves))

    def size(self, series: np.ndarray, median: np.ndarray, width: np.ndarray) -> np.ndarray:
        """Positions [K] of decisions in order of series and time; widths of later decisions are not looked at."""
        out = np.zeros(len(median))
        for name in np.unique(series):
            mine = series == name
            mean = np.cumsum(width[mine]) / np.arange(1, mine.sum() + 1)
            amount = np.minimum(mean / np.maximum(width[mine], 1e-12), self.leverage)
            out[mine] = np.where(np.abs(median[mine]) > self.least * width[mine], np.sign(median[mine]) * amount, 0)
        return out

    def trade(self, history: dict, rows: dict, places: np.ndarray, h: int, position: np.ndarray) -> Trades:
        """Fills positions [K] decided at rows `places` [K] and left when their labels end."""
        parts = []
        for name in np.unique(rows['id'][places]):
            mine = rows['id'][places] == name
            bars = np.flatnonzero(history['id'] == name) if 'id' in history else slice(None)
            time, open_, close = (np.asarray(history[k])[bars] for k in ('time', 'open', 'close'))
            at = places[mine]
            entry, leave = (
                np.searchsorted(time, moment.astype(time.dtype), side='right')
                for moment in (rows['time'][at], rows['label_end'][at, h])
            )
            price = np.append(open_, close[-1])  # the position that the data end on is valued at the last close
            size = position[mine]
            follows = np.append(leave[:-1] == entry[1:], False)
            before = np.where(np.append(False, follows[:-1]), np.append(0, size[:-1]), 0)
            into, out_of = np.abs(size - before), np.where(follows, 0, np.abs(size))
            cost = into * self.find_rate(price[entry]) + out_of * self.find_rate(price[leave])
            gross = size * np.log(price[leave] / price[entry])
            stamps = np.append(time, time[-1])
            parts.append(Trades(stamps[entry], stamps[leave], size, gross, into + out_of, cost))
        return Trades(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))

    def judge(self, trades: Trades, tries: int) -> tuple[dict[str, Any], np.ndarray, np.ndarray]:
        """(figures, times, equity in log returns): series that are left at one time share the capital equally. tries:
        how many the best was chosen from."""
        times, place = np.unique(trades.leave, return_inverse=True)
        share = 1 / np.bincount(place)[place]
        gross, cost, traded = (np.bincount(place, share * c) for c in (trades.gross, trades.cost, trades.traded))
        net = gross - cost
        equity = np.cumsum(net)
        years = _years(trades.entry.min(), trades.leave.max())
        a_year = len(net) / years
        low, high = compare.block_bootstrap(net, block=max(len(net) // 50, 1), draws=self.draws, seed=0)
        lost = -net[net < 0].sum()
        figures = {
            'positions a year': a_year,
            'net a year': float(net.mean() * a_year),
            'low': float(low * a_year),
            'high': float(high * a_year),
            'gross a year': float(gross.mean() * a_year),
            'costs a year': float(cost.mean() * a_year),
            'turnover a year': float(traded.mean() * a_year),
            'Sharpe': float(sharpe(net) * np.sqrt(a_year)),
            'deflated Sharpe': deflated_sharpe(net, tries),
            'max drawdown': float(np.abs(np.expm1((equity - np.maximum(np.maximum.accumulate(equity), 0)).min()))),
            'profit factor': float(net[net > 0].sum() / lost) if lost > 0 else np.nan,
            'long': float((trades.position > 0).mean()),
        }
        return figures, times, equity

    def find_rate(self, price: np.ndarray) -> np.ndarray:
        """The cost of a trade as a share of its value."""
        return (self.tick * self.slippage + self.commission) / price + self.fee


def sharpe(returns: np.ndarray) -> float:
    """Mean over standard deviation of returns, a period."""
    spread = returns.std(ddof=1)
    return float(returns.mean() / spread) if spread > 0 else np.nan


def deflated_sharpe(returns: np.ndarray, trials: int) -> float:
    """The probability that the true Sharpe ratio exceeds the best that `trials` worthless tries are expected to show.

    Bailey and Lopez de Prado (2014), equations 1 and 2, with the variance of the estimate without skill, 1 / (n - 1),
    as that between tries; one trial gives their probabilistic Sharpe ratio against 0.
    """
    n, ratio = len(returns), sharpe(returns)
    if not np.isfinite(ratio):
        return np.nan
    best = 0.0
    if trials > 1:
        z = stats.norm.ppf([1 - 1 / trials, 1 - 1 / (trials * np.e)])
        best = ((1 - np.euler_gamma) * z[0] + np.euler_gamma * z[1]) / np.sqrt(n - 1)
    skew, kurtosis = stats.skew(returns), stats.kurtosis(returns, fisher=False)
    spread = np.sqrt(1 - skew * ratio + (kurtosis - 1) / 4 * ratio**2)
    return float(stats.norm.cdf((ratio - best) * np.sqrt(n - 1) / spread))


def _say(horizon: str, ours: dict[str, float], long: dict[str, float], tries: int) -> str:
    if not ours['turnover a year']:
        return f'Horizon {horizon}: no position was taken, so no edge after costs.'
    earned = (
        f'a log return of {ours["net a year"]:.2%} a year, Sharpe {ours["Sharpe"]:.2f}, deflated Sharpe probability '
        f'{ours["deflated Sharpe"]:.2f} as the best of {tries} {"try" if tries == 1 else "tries"}; '
        f'always long earns {long["net a year"]:.2%}, Sharpe {long["Sharpe"]:.2f}'
    )
    edge = ours['low'] > 0 and ours['deflated Sharpe'] > 0.95 and ours['Sharpe'] > long['Sharpe']
    return f'Horizon {horizon}: {"an edge" if edge else "no edge"} after costs ({earned}).'


def _years(first, last) -> float:
    """Calendar years between two times.

    Raises:
      InputError: times are numbers of bars, which no calendar turns into years.
    """
    if np.asarray(first).dtype.kind != 'M':
        raise InputError('times are no dates, so a year can not be measured', column='time', remedy='leave it out')
    return max(float((last - first) / np.timedelta64(1, 's')) / (365.25 * 86400), 1e-9)


def _equity_charts(curves: dict[str, tuple[np.ndarray, np.ndarray]]) -> list[Chart]:
    """One chart of all curves, each carried forward over the union of their times, at most 500 points."""
    if not curves:
        return []
    times = np.unique(np.concatenate([t for t, _ in curves.values()]))
    times = times[np.unique(np.linspace(0, len(times) - 1, 500).astype(int))]
    lines = {}
    for name, (t, equity) in curves.items():
        place = np.searchsorted(t, times, side='right')
        lines[name] = np.append(0, equity)[place]
    return [Chart('Equity after costs', times, lines, 'time', 'sum of log returns')]
