"""Do intervals cover what they promise: overall, by hour of the day, and when markets are calm or wild?"""

import dataclasses
from typing import Any

import numpy as np
from scipy import stats

from fjq import compare, metrics
from fjq.config import LEVELS
from fjq.studies import Chart, Study, say_interval
from fjq.studies.thinning import thin_moments

PARTS = ('calm', 'middle', 'wild')
DRAWS = 1000  # of the bootstrap


@dataclasses.dataclass(kw_only=True)
class Coverage:
    """Coverage with its interval, the tests of Kupiec (1995) and Christoffersen (1998), PIT, QICE, widths, reliability.

    The tests and the Kolmogorov-Smirnov test of the PIT take rows whose targets do not overlap, one a moment, all else
    every row; the interval (`fjq.compare.share_interval`) resamples blocks of moments with all their rows.
    Hours are those of `rows['hour']`; terciles are of `rows['scale']`, or without it of the model's own widths.
    """

    name: str = 'coverage'
    level: float = 0.8  # of the interval that is tested, and split by hour and volatility
    levels: tuple[float, ...] = LEVELS  # of reliability and QICE
    tolerance: float = 0.02  # the distance from the level that is called right

    def run(self, trained, dataset, split, judged, rows, mask) -> Study:
        target, model = rows['target'], judged[0]
        inside, width, tables = {}, {}, {}
        overall = tables['Central intervals'] = []
        blocks = [2 * span for span in compare.count_span(rows)] if 'label_end' in rows else [0] * mask.shape[1]
        for j in judged:
            inside[j.name], width[j.name] = (
                np.asarray(figure(target, j.law, axis=(), level=self.level)[0], np.float64)
                for figure in (metrics.coverage, metrics.width)
            )
            quantiles = np.asarray(j.law.quantile(np.asarray(self.levels)), np.float64)
            pit = np.full(mask.shape, np.nan)
            pit[mask] = compare.pit(j.law, target, mask, seed=0)
            for h, horizon in enumerate(rows['horizon']):
                line = {'horizon': str(horizon), 'forecaster': j.name, 'rows': int(mask[:, h].sum())}
                overall.append(
                    line
                    | {
                        f'coverage {self.level:.0%}': _mean(inside[j.name], mask, h),
                        **_ends(inside[j.name], rows['time'], mask, h, blocks[h]),
                        f'width {self.level:.0%}': _mean(width[j.name], mask, h),
                        'QICE': qice(quantiles[mask[:, h], h], target[mask[:, h], h], self.levels),
                    }
                    | self._test(pit[:, h], inside[j.name][:, h], thin_moments(rows, mask, h))
                )
        overall.sort(key=lambda line: [str(h) for h in rows['horizon']].index(line['horizon']))
        volatility = rows.get('scale', width[model.name][:, 0])
        edges = np.nanquantile(volatility[mask.any(1)], [1 / 3, 2 / 3])
        terciles = {
            name: (np.digitize(volatility, edges) == i) & np.isfinite(volatility) for i, name in enumerate(PARTS)
        }
        tables[f'{self.level:.0%} intervals by volatility'] = [
            {'forecaster': j.name} | line
            for j in judged
            for line in _by_part(terciles, 'volatility', inside[j.name], width[j.name], rows, mask)
        ]
        reliability = self._reliability(model.law, rows, mask)
        tables[f'Share of targets at or below the quantiles of {model.name}'] = reliability
        lines = {f'horizon {h}': [line[f'horizon {h}'] for line in reliability] for h in rows['horizon']}
        charts = [Chart('Reliability', self.levels, lines, 'level', 'share at or below', diagonal=True)]
        if 'hour' in rows:
            hours = {int(hour): rows['hour'] == hour for hour in np.unique(rows['hour'])}
            by_hour = _by_part(hours, 'hour', inside[model.name], width[model.name], rows, mask)
            tables[f'{self.level:.0%} intervals of {model.name} by hour'] = by_hour
            lines = {f'horizon {h}': [line[f'width {h}'] for line in by_hour] for h in rows['horizon']}
            charts.append(
                Chart('Width by hour', list(hours), lines, 'hour', f'mean width of the {self.level:.0%} interval')
            )
        return Study(tables, self._say(overall, model.name), charts)

    def _test(self, pit: np.ndarray, inside: np.ndarray, kept: np.ndarray) -> dict[str, float]:
        """The p-values of one horizon on the rows `kept`. pit, inside: [N]."""
        if len(kept) < 3:
            return {'independent': len(kept), 'p Kupiec': np.nan, 'p Christoffersen': np.nan, 'p PIT': np.nan}
        return {
            'independent': len(kept),
            'p Kupiec': float(compare.kupiec(inside[kept], self.level).p),
            'p Christoffersen': float(compare.christoffersen(inside[kept], self.level).p),
            'p PIT': float(stats.kstest(pit[kept], 'uniform').pvalue),
        }

    def _reliability(self, law, rows: dict, mask: np.ndarray) -> list[dict[str, float]]:
        quantiles = np.asarray(law.quantile(np.asarray(self.levels)), np.float64)
        below = rows['target'][..., None] <= quantiles
        return [
            {'level': p} | {f'horizon {name}': _mean(below[..., i], mask, h) for h, name in enumerate(rows['horizon'])}
            for i, p in enumerate(self.levels)
        ]

    def _say(self, overall: list[dict[str, Any]], model: str) -> list[str]:
        promise = f'The {self.level:.0%} interval of {model}'
        wrong = []
        for line in overall:
            share = line[f'coverage {self.level:.0%}']
            if line['forecaster'] != model or not line['rows'] or abs(share - self.level) <= self.tolerance:
                continue
            ends, count = say_interval(line['low'], line['high'], '.1%'), line['independent']
            chance = ', as chance may have it' if line['low'] <= self.level <= line['high'] else ''
            moments = f'{count} independent moment{"" if count == 1 else "s"}'
            wrong.append(f'{share:.1%} at horizon {line["horizon"]} ({ends}{chance}, {moments})')
        if not wrong:
            return [f'{promise} covers within {self.tolerance:.1%} of that at every horizon.']
        return [f'{promise} is off by more than {self.tolerance:.1%}: it covers {", ".join(wrong)}.']


def qice(quantiles: np.ndarray, target: np.ndarray, levels: tuple[float, ...]) -> float:
    """Quantile interval coverage error (Han, Zheng and Zhou 2022): the mean distance of the shares of targets between
    neighbouring quantiles, and beyond the outer ones, from what the levels say. quantiles: [N, Q], target: [N]."""
    place = (target[:, None] > np.sort(quantiles, -1)).sum(-1)
    shares = np.bincount(place, minlength=len(levels) + 1) / max(len(target), 1)
    return float(np.abs(shares - np.diff([0, *levels, 1])).mean())


def _by_part(parts: dict, what: str, inside, width, rows: dict, mask: np.ndarray) -> list[dict[str, Any]]:
    """One line a part: coverage and mean width of every horizon."""
    out = []
    for name, part in parts.items():
        taken = mask & part[:, None]
        line = {what: name, 'rows': int(taken.any(1).sum())}
        line |= {f'coverage {n}': _mean(inside, taken, h) for h, n in enumerate(rows['horizon'])}
        out.append(line | {f'width {n}': _mean(width, taken, h) for h, n in enumerate(rows['horizon'])})
    return out


def _ends(inside: np.ndarray, time: np.ndarray, mask: np.ndarray, h: int, block: int) -> dict[str, float]:
    """The 95 % interval of the coverage; from -inf to inf where it is not known."""
    keep, interval = mask[:, h], (-np.inf, np.inf)
    if block and keep.any():
        interval = compare.share_interval(inside[keep, h], block=block, draws=DRAWS, seed=0, time=time[keep])
    return dict(zip(('low', 'high'), interval, strict=True))


def _mean(values: np.ndarray, mask: np.ndarray, h: int) -> float:
    return float(values[mask[:, h], h].mean()) if mask[:, h].any() else np.nan
