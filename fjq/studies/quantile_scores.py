"""How good are the quantiles: scores of whole laws, of single levels, and of the direction."""

import dataclasses
from typing import Any

import numpy as np
from scipy import stats

from fjq import compare, metrics
from fjq.config import LEVELS
from fjq.errors import InputError
from fjq.scores import format_time
from fjq.studies import Chart, Study, say_interval


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
            *given, median = np.moveaxis(np.asarray(j.law.quantile(np.array([*self.levels, 0.5])), np.float64), -1, 0)
            of_levels = zip(given, self.levels, strict=True)
            losses = [metrics.pinball(rows['target'], q, axis=(), level=p)[0] for q, p in of_levels]
            wis = np.asarray(metrics.wis(rows['target'], j.law, mask, (), levels=self.intervals)[0], np.float64)
            for h, horizon in enumerate(rows['horizon']):
                keep, line = mask[:, h], {'horizon': str(horizon), 'forecaster': j.name}
                if not keep.any():
                    continue
                figures = (float(x[keep, h].mean()) for x in losses)
                pinball.append(line | {f'q{100 * p:g}': x for p, x in zip(self.levels, figures, strict=True)})
                line |= {'crps': float(crps[j.name][keep, h].mean()), 'wis': float(wis[keep, h].mean())}
                settings = {'block': blocks[h], 'draws': self.draws, 'seed': 0, 'time': rows['time'][keep]}
                if reference:
                    both = np.stack([crps[j.name][keep, h], crps[reference][keep, h]], 1)
                    interval = compare.block_bootstrap(both, statistic=compare.relative_skill, **settings)
                    line |= _name('skill', compare.relative_skill(both.mean(0)), interval)
                scores.append(line | _judge_direction(rows['target'][keep, h], median[keep, h], settings))
        for lines in (scores, pinball):
            lines.sort(key=lambda line: [str(h) for h in rows['horizon']].index(line['horizon']))
        tables = {f'Scores{f", skill against {reference}" if reference else ""}': scores, 'Pinball loss': pinball}
        sentences = self._say(scores, names[0], reference) if reference else []
        return Study(tables, sentences, [self._fan(judged[0], rows)])

    def _say(self, scores: list[dict[str, Any]], model: str, reference: str) -> list[str]:
        out = []
        for line in scores:
            if line['forecaster'] != model:
                continue
            if not np.isfinite(line['skill']):
                out.append(f'Horizon {line["horizon"]}: {reference} has no CRPS to measure skill by.')
                continue
            low, high = line['skill low'], line['skill high']
            verdict = 'skill' if low > 0 else 'a loss' if high < 0 else 'no skill that can be told from none'
            direction = 'the median does not vary'
            if np.isfinite(line['ic']):
                ends = say_interval(line['ic low'], line['ic high'], '.3f')
                direction = f'the median has a rank correlation of {line["ic"]:.3f} ({ends}) with the target'
            out.append(
                f'Horizon {line["horizon"]}: {verdict} against {reference}, {line["skill"]:.2%} of its CRPS '
                f'({say_interval(low, high, ".2%")}); {direction}.'
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


def _judge_direction(target: np.ndarray, median: np.ndarray, settings: dict[str, Any]) -> dict[str, float]:
    """Rank correlation of the median with the target, and the share of its signs that are right. settings: of the
    bootstrap."""
    middle = (len(target) + 1) / 2
    ranks = (stats.rankdata(a) for a in (target, median))
    moments = np.stack(metrics.comoments(*ranks, axis=(), centre=(middle, middle)), -1)
    interval = compare.block_bootstrap(moments, statistic=compare.correlation, **settings)
    out = _name('ic', compare.correlation(moments.mean(0)), interval)
    signed = (target != 0) & (median != 0)
    share, interval = np.nan, (np.nan, np.nan)
    if signed.any():
        hits = (np.sign(target) == np.sign(median))[signed]
        share = hits.mean()
        interval = compare.share_interval(hits, **settings | {'time': settings['time'][signed]})
    out |= _name('right sign', share, interval)
    return out | {'targets up': float((target > 0).mean()), 'medians up': float((median > 0).mean())}


def _name(name: str, figure: float, interval: tuple[float, float]) -> dict[str, float]:
    return dict(zip((name, f'{name} low', f'{name} high'), map(float, (figure, *interval)), strict=True))
