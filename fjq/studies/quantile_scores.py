"""How good are the quantiles: scores of whole laws, of single levels, and of the direction."""

import dataclasses
from typing import Any

import numpy as np
from scipy import stats

from fjq import compare, metrics
from fjq.config import LEVELS
from fjq.errors import InputError
from fjq.scores import format_time
from fjq.studies import Chart, Study


@dataclasses.dataclass(kw_only=True)
class QuantileScores:
    """CRPS, WIS (Bracher et al. 2021), pinball by level, rank correlation and direction of the median, each horizon,
    and the skill 1 - CRPS / CRPS of a reference. Intervals: 95 %, block bootstrap of twice the overlap."""

    name: str = 'quantile scores'
    reference: str = ''  # the forecaster that skill is measured against; '' = the first baseline
    levels: tuple[float, ...] = LEVELS
    intervals: tuple[float, ...] = (0.5, 0.8, 0.9)  # of the WIS
    block: int = 0  # moments, with all their rows, in a bootstrap block; 0 = twice the moments that a target spans
    draws: int = 1000  # of the bootstrap

    def run(self, trained, dataset, split, judged, rows, mask) -> Study:
        names = [j.name for j in judged]
        others = [n for n in names[1:] if n != f'{names[0]}, raw']
        if self.reference and self.reference not in names:
            raise InputError(f'no forecaster is called {self.reference!r}', remedy='choose one of ' + ', '.join(names))
        reference = self.reference or next(iter(others), '')
        blocks = [self.block] * mask.shape[1] if self.block else [2 * o for o in compare.count_span(rows)]
        scores, pinball, crps = [], [], {}
        for j in judged:
            crps[j.name] = np.asarray(metrics.crps(rows['target'], j.law, mask, ())[0], np.float64)
        for j in judged:
            quantiles, losses, wis = self._losses(j.law, rows['target'])
            for h, horizon in enumerate(rows['horizon']):
                keep, line = mask[:, h], {'horizon': str(horizon), 'forecaster': j.name}
                if not keep.any():
                    continue
                means = losses[keep, h].mean(0)
                pinball.append(line | {f'q{100 * p:g}': float(x) for p, x in zip(self.levels, means, strict=True)})
                line |= {'crps': float(crps[j.name][keep, h].mean()), 'wis': float(wis[keep, h].mean())}
                if reference:
                    both = np.stack([crps[j.name][keep, h], crps[reference][keep, h]], 1)
                    line |= self._with_interval('skill', both, compare.relative_skill, blocks[h], rows['time'][keep])
                direction = self._direction(rows['target'][keep, h], quantiles[keep, h], blocks[h], rows['time'][keep])
                scores.append(line | direction)
        for lines in (scores, pinball):
            lines.sort(key=lambda line: [str(h) for h in rows['horizon']].index(line['horizon']))
        tables = {f'Scores{f", skill against {reference}" if reference else ""}': scores, 'Pinball loss': pinball}
        sentences = self._say(scores, names[0], reference) if reference else []
        return Study(tables, sentences, [self._fan(judged[0], rows)])

    def _losses(self, law, target: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(median [N, H], pinball losses at the levels [N, H, Q], WIS [N, H]), from one look at the law."""
        ends = [p for level in self.intervals for p in ((1 - level) / 2, (1 + level) / 2)]
        asked = np.array([*self.levels, *ends, 0.5])
        quantiles = np.asarray(law.quantile(asked), np.float64)
        error = target[..., None] - quantiles
        losses = np.maximum(asked * error, (asked - 1) * error)
        count = len(self.levels)
        return quantiles[..., -1], losses[..., :count], 2 * losses[..., count:].mean(-1)  # Bracher et al., equation 3

    def _direction(self, target: np.ndarray, median: np.ndarray, block: int, time: np.ndarray) -> dict[str, float]:
        """Rank correlation of the median with the target, and the share of its signs that are right."""
        x, y = (stats.rankdata(a) / len(a) - 0.5 for a in (target, median))
        out = self._with_interval('ic', np.stack([x, y, x * x, y * y, x * y], 1), _correlation, block, time)
        signed = (target != 0) & (median != 0)
        hits = (np.sign(target) == np.sign(median))[signed].astype(np.float64)
        out |= self._with_interval('right sign', hits[:, None], lambda means: means[..., 0], block, time[signed])
        return out | {'targets up': float((target > 0).mean()), 'medians up': float((median > 0).mean())}

    def _with_interval(self, name: str, values: np.ndarray, statistic, block: int, time) -> dict[str, float]:
        if not len(values):
            return dict.fromkeys((name, f'{name} low', f'{name} high'), np.nan)
        with np.errstate(invalid='ignore', divide='ignore'):
            low, high = compare.block_bootstrap(
                values, block=block, draws=self.draws, seed=0, statistic=statistic, time=time
            )
            return {name: float(statistic(values.mean(0))), f'{name} low': float(low), f'{name} high': float(high)}

    def _say(self, scores: list[dict[str, Any]], model: str, reference: str) -> list[str]:
        out = []
        for line in scores:
            if line['forecaster'] != model:
                continue
            low, high = line['skill low'], line['skill high']
            if not np.isfinite([low, high]).all():
                out.append(f'Horizon {line["horizon"]}: the rows are too few for an interval of the skill.')
                continue
            verdict = 'skill' if low > 0 else 'a loss' if high < 0 else 'no skill that can be told from none'
            direction = 'the median does not vary'
            if np.isfinite(line['ic']):
                ends = f'({line["ic low"]:.3f} to {line["ic high"]:.3f})'
                direction = f'the median has a rank correlation of {line["ic"]:.3f} {ends} with the target'
            out.append(
                f'Horizon {line["horizon"]}: {verdict} against {reference}, {line["skill"]:.2%} of its CRPS '
                f'({low:.2%} to {high:.2%}); {direction}.'
            )
        return out

    def _fan(self, model, rows: dict) -> Chart:
        """The quantiles of the last row that has a forecast, over the horizons in order of size."""
        quantiles = np.asarray(model.law.quantile(np.asarray(self.levels)), np.float64)
        last = int(np.flatnonzero(np.isfinite(quantiles).all((1, 2)))[-1])
        order = np.argsort(rows['horizon'])
        lines = {f'q{100 * p:g}': quantiles[last, order, i] for i, p in enumerate(self.levels)}
        names = list(lines)
        bands = [(names[i], names[-1 - i]) for i in range(len(names) // 2)]
        title = f'Forecast of {rows["id"][last]} at {format_time(rows["time"][last])}'
        return Chart(title, np.asarray(rows['horizon'])[order], lines, 'horizon', 'target', bands)


def _correlation(means: np.ndarray) -> np.ndarray:
    x, y, xx, yy, xy = np.moveaxis(means, -1, 0)
    return (xy - x * y) / np.sqrt((xx - x * x) * (yy - y * y))
