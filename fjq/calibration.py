"""Calibration: intervals that cover what they promise, learnt on rows that the model was not trained on.

A method is a config dataclass of `Evaluate.calibration` with

    fit(law, rows) -> facts                what it learnt on the valid split, ready for JSON
    apply(facts, law, rows) -> Law         the law of further rows
    hear(facts, law, rows) -> facts        where labels go on to be followed: the facts after those of further rows

A point forecast has no intervals and gets them from `PastErrors`, whatever the config says. The conformal methods work
on pairs of levels (p, 1 - p), each horizon apart, and leave the median alone. The score of a row is how far its target
lies outside its interval, negative inside (CQR: Romano, Patterson and Candes 2019), as a share of the width (Sesia and
Candes 2020), so that an interval is stretched, not shifted, and keeps following volatility.
"""

import bisect
import collections
import copy
import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fjq.atomic import write_atomic
from fjq.compare import count_overlap
from fjq.config import LEVELS, from_dict, to_dict
from fjq.errors import InputError
from fjq.forecast import Atoms, Law, Point, Quantiles, dress
from fjq.log import say
from fjq.scores import all_positive

FILE = 'calibration.json'
MOST_ERRORS = 400  # that a point forecast is dressed with; of more, so many quantiles


@dataclasses.dataclass(kw_only=True)
class SplitConformal:
    """Every interval stretched by one factor a horizon and pair of levels, that which the valid split asked for."""

    levels: tuple[float, ...] = LEVELS  # symmetric about 0.5

    def fit(self, law: Law, rows: dict[str, np.ndarray]) -> dict[str, Any]:
        """The stretch of each pair and horizon: the score at the rank ceil((n + 1) (1 - 2 p)) of n."""
        quantiles, out = read_quantiles(law, self.levels), []
        for low, high in pairs(self.levels):
            scores = score_pair(quantiles, low, high, rows['target'])
            alpha = 1 - self.levels[high] + self.levels[low]
            out.append([_at_rank(np.sort(_kept(scores, rows, h)), alpha) for h in range(scores.shape[1])])
        return {'stretch_PxH': out}

    def apply(self, facts: dict[str, Any], law: Law, rows: dict[str, np.ndarray]) -> Quantiles:
        quantiles = read_quantiles(law, self.levels)
        stretch = [np.broadcast_to(s, quantiles.shape[:2]) for s in facts['stretch_PxH']]
        return stretch_pairs(quantiles, self.levels, stretch)


@dataclasses.dataclass(kw_only=True)
class AdaptiveConformal:
    """Adaptive conformal inference (Gibbs and Candes 2021): the stretch follows the misses so far.

    The stretch of a row is the (1 - alpha) quantile of the last scores that were known at it, those of the valid split
    first. alpha starts at the nominal rate of misses and moves by rate (nominal - miss) with every label that has ended
    by then, over all series, within 0 to 1. Targets overlap: where each spans k rows, k labels move alpha as much as
    one that stands alone, and k times as many scores are remembered. Only labels of rows later than the valid split
    count; once some were heard, none of rows before those. So rows between the splits change nothing, and a forecast
    of all rows gives those of the test split what was scored. `hear` keeps how far labels were followed: a table that
    begins later goes on from there, one that holds the first row that was heard is followed anew.
    """

    levels: tuple[float, ...] = LEVELS  # symmetric about 0.5
    rate: float = 0.01  # of adaptation, a label that overlaps no other
    window: int = 500  # scores that are remembered, in labels that overlap no other

    def fit(self, law: Law, rows: dict[str, np.ndarray]) -> dict[str, Any]:
        """The state at the end of the valid split (`hear`), and the time of its last row."""
        quantiles, out, overlaps = read_quantiles(law, self.levels), [], count_overlap(rows)
        for low, high in pairs(self.levels):
            scores = score_pair(quantiles, low, high, rows['target'])
            out.append([_kept(scores, rows, h)[-self.window * k :].tolist() for h, k in enumerate(overlaps)])
        last, alpha = str(rows['time'].max()), [[self._nominal(pair)] * len(overlaps) for pair in pairs(self.levels)]
        return {'scores_PxHxN': out, 'alpha_PxH': alpha, 'until': last, 'overlap_H': overlaps, 'last': last}

    def apply(self, facts: dict[str, Any], law: Law, rows: dict[str, np.ndarray]) -> Quantiles:
        quantiles, state = read_quantiles(law, self.levels), _state_for(facts, rows['time'])
        until = _moment(state['until'], rows['time'])
        if state is not facts and rows['time'].min() > until:
            gap = f'those of rows from then to {rows["time"].min()} are not in this table'
            say(f'the calibration has followed labels up to {until}; {gap}')
        return stretch_pairs(quantiles, self.levels, list(self._replay(facts, state, quantiles, rows)[0]))

    def hear(self, facts: dict[str, Any], law: Law, rows: dict[str, np.ndarray]) -> dict[str, Any]:
        """The facts with the state at the last of the rows: the last scores and alpha of each pair and horizon, and the
        stretches of the rows whose labels may still be to come."""
        time, state = rows['time'], _state_for(facts, rows['time'])
        if 'target' not in rows or not rows['valid'].any() or time.max() <= _moment(state['until'], time):
            return facts
        stretch, alpha, scores = self._replay(facts, state, read_quantiles(law, self.levels), rows)
        moments, ends = np.unique(time), rows['label_end'].astype(time.dtype)
        ahead = np.searchsorted(moments, ends) - np.searchsorted(moments, time)[:, None]  # a weekend counts for none
        least, counted = max(len(moments) - 1 - int(ahead[rows['valid']].max()), 0), _is_counted(facts, time)
        open_ = np.flatnonzero((time > moments[least]) & counted)
        rest = {'id': _names(rows)[open_].tolist(), 'time': [str(t) for t in time[open_]]}
        rest['stretch_PxNxH'] = stretch[:, open_].tolist()
        new = {'scores_PxHxN': scores, 'alpha_PxH': alpha, 'until': str(time.max()), 'open': rest}
        return {'since': str(time[counted].min())} | facts | {'state': new}

    def _replay(self, facts: dict[str, Any], state: dict[str, Any], quantiles: np.ndarray, rows: dict[str, np.ndarray]):
        """(the stretch of every row [P, N, H], alpha_PxH, scores_PxHxN), from a state on."""
        time, stretch = rows['time'], _stretches(state, rows, len(self.levels) // 2)
        counted = _is_counted(facts, time)
        alphas, remembered = copy.deepcopy(state['alpha_PxH']), copy.deepcopy(state['scores_PxHxN'])
        for p, (low, high) in enumerate(pairs(self.levels)):
            scores, heard = np.zeros(quantiles.shape[:2]), np.zeros(quantiles.shape[:2], bool)
            ends = np.broadcast_to(time[:, None], scores.shape)
            if 'target' in rows:
                scores, ends = score_pair(quantiles, low, high, rows['target']), rows['label_end'].astype(time.dtype)
                heard = rows['valid'] & np.isfinite(scores) & counted[:, None] & (ends > _moment(state['until'], time))
            for h, overlap in enumerate(facts['overlap_H']):
                columns = ends[:, h], heard[:, h], scores[:, h], stretch[p, :, h]
                start = alphas[p][h], remembered[p][h]
                found = self.follow(time, *columns, *start, self._nominal((low, high)), overlap)
                stretch[p, :, h], alphas[p][h], remembered[p][h] = found
        return stretch, alphas, remembered

    def follow(
        self, time, label_end, heard, scores, known, alpha: float, start: list[float], nominal: float, overlap: int
    ):
        """(the stretch of every row [N], alpha, scores) from alpha and scores on. Arrays [N]; `heard` marks the labels
        that count once they have ended, `known` is the stretch of a row that has one already, else NaN."""
        labels = np.flatnonzero(heard)
        labels = labels[np.argsort(label_end[labels], kind='stable')]
        ended = np.searchsorted(label_end[labels], time, side='right').tolist()
        labels, scores = labels.tolist(), scores.tolist()
        recent, ordered = collections.deque(start), sorted(start)
        rate, most = self.rate / overlap, self.window * overlap
        stretch, given, read = known.tolist(), np.isfinite(known).tolist(), 0
        for row in np.argsort(time, kind='stable').tolist():
            for label in labels[read : ended[row]]:
                alpha = min(max(alpha + rate * (nominal - (scores[label] > stretch[label])), 0.0), 1.0)
                recent.append(scores[label])
                bisect.insort(ordered, scores[label])
                if len(recent) > most:
                    del ordered[bisect.bisect_left(ordered, recent.popleft())]
            read = max(read, ended[row])
            if not given[row]:
                stretch[row] = _at_rank(ordered, alpha)
        return np.array(stretch), alpha, list(recent)

    def _nominal(self, pair: tuple[int, int]) -> float:
        low, high = pair
        return 1 - self.levels[high] + self.levels[low]


@dataclasses.dataclass(kw_only=True)
class PastErrors:
    """A point forecast with the errors that its kind made before, in logs where targets are positive; a past bias goes
    with them. The facts are those errors, or of many their quantiles: a law that takes little room and is as good."""

    def fit(self, law: Law, rows: dict[str, np.ndarray]) -> dict[str, Any]:
        """The scale and errors and weights [H, E]; a weight of 0 is an error that is not known."""
        point, target = np.asarray(law.mean(), np.float64), rows['target']
        known, scale = rows['valid'] & np.isfinite(point), 'log' if all_positive(rows) else 'level'
        if scale == 'log':
            known = known & (point > 0)
            errors = np.log(np.where(known, target, 1)) - np.log(np.where(known, point, 1))
        else:
            errors = np.where(known, target - point, 0)
        errors, weight = _few(errors.T, known.T)
        return {'scale': scale, 'errors_HxE': errors.tolist(), 'weight_HxE': weight.tolist()}

    def apply(self, facts: dict[str, Any], law: Point, rows: dict[str, np.ndarray]) -> Atoms:
        return dress(law, np.array(facts['errors_HxE']), facts['scale'], np.array(facts['weight_HxE'], np.float32))


def choose_method(configured: Any, law: Law) -> Any:
    """The method that a law is calibrated by: the config's; else a point forecast has none but its past errors."""
    return PastErrors() if configured is None and isinstance(law, Point) else configured


@dataclasses.dataclass(frozen=True)
class Calibration:
    """A fitted method, as it is saved beside the weights that it was fitted for.

    step: the checkpoint of those weights.
    """

    method: Any
    facts: dict[str, Any]
    step: int | None

    @classmethod
    def of(cls, method: Any, law: Law, rows: dict[str, np.ndarray], step: int | None) -> 'Calibration':
        """Fits a method on the forecasts of the valid split."""
        return cls(method, method.fit(law, rows), step)

    def apply(self, law: Law, rows: dict[str, np.ndarray]) -> Law:
        """The calibrated law of rows. Labels among the rows are read only where they have ended before a row."""
        return self.method.apply(self.facts, law, rows)

    def hear(self, law: Law, rows: dict[str, np.ndarray]) -> 'Calibration':
        """The calibration that has followed the labels among rows, where its method follows them."""
        if not hasattr(self.method, 'hear'):
            return self
        return dataclasses.replace(self, facts=self.method.hear(self.facts, law, rows))

    @property
    def followed(self) -> list[str]:
        """When the rows were whose labels it follows: the last one, and those whose labels may still have been to come
        at it. [] where its method follows none."""
        if not hasattr(self.method, 'hear'):
            return []
        state = self.facts.get('state', self.facts)
        return [state['until'], *state.get('open', {}).get('time', ())]

    def write(self, folder: Path) -> None:
        """Writes calibration.json."""
        text = json.dumps({'step': self.step, 'method': to_dict(self.method), 'facts': self.facts}, allow_nan=False)
        write_atomic(Path(folder) / FILE, (text + '\n').encode())

    @classmethod
    def read(cls, folder: Path, step: int | None) -> 'Calibration | None':
        """What `write` wrote in a folder; None where there is none, or one of other weights than those of `step`."""
        path = Path(folder) / FILE
        if not path.is_file():
            return None
        try:
            found = json.loads(path.read_text())
            method, facts, fitted = from_dict(found['method']), found['facts'], found['step']
        except (ValueError, KeyError, TypeError) as e:
            raise InputError(
                f'the calibration is damaged ({e})', file=path, remedy='remove it, then evaluate the run'
            ) from e
        return cls(method, facts, fitted) if step is None or fitted == step else None


def _few(errors: np.ndarray, known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Errors [H, E] and their weights: the known ones, or of many their quantiles."""
    if errors.shape[1] <= MOST_ERRORS:
        return errors, known.astype(np.float32)
    levels = (np.arange(MOST_ERRORS) + 0.5) / MOST_ERRORS
    rows = [np.quantile(e[k], levels) if k.any() else np.zeros(MOST_ERRORS) for e, k in zip(errors, known, strict=True)]
    return np.stack(rows), np.repeat(known.any(1, keepdims=True), MOST_ERRORS, 1).astype(np.float32)


def pairs(levels: tuple[float, ...]) -> list[tuple[int, int]]:
    """Places of the levels that form central intervals, widest first.

    Raises:
      InputError: the levels are not symmetric about 0.5, or form no interval.
    """
    if len(levels) < 2 or not np.allclose(np.add(levels, levels[::-1]), 1):
        raise InputError(
            f'the levels {tuple(levels)} form no central intervals', remedy='make them symmetric, as 0.1, 0.9'
        )
    return [(i, len(levels) - 1 - i) for i in range(len(levels) // 2)]


def read_quantiles(law: Law, levels: tuple[float, ...]) -> np.ndarray:
    """The quantiles of a law in order of size, float64 [N, H, Q]."""
    return np.sort(np.asarray(law.quantile(np.asarray(levels)), np.float64), axis=-1)


def score_pair(quantiles: np.ndarray, low: int, high: int, target: np.ndarray) -> np.ndarray:
    """How far each target [N, H] lies outside its interval, as a share of the width."""
    lo, hi = quantiles[..., low], quantiles[..., high]
    if (hi - lo <= 0).any():
        raise InputError(
            'an interval has no width, so nothing can stretch it',
            row=int((hi - lo <= 0).any(1).argmax()),
            remedy='calibrate a model that forecasts intervals, trained until they have not collapsed',
        )
    return np.maximum(lo - target, target - hi) / (hi - lo)


def stretch_pairs(quantiles: np.ndarray, levels: tuple[float, ...], stretch: list[np.ndarray]) -> Quantiles:
    """Each interval widened by its width times the stretch [N, H] on both sides, at least to the median on each, and
    no narrower than the interval inside it."""
    out = quantiles.copy()
    middle = np.asarray(quantiles[..., len(levels) // 2] if len(levels) % 2 else quantiles.mean(-1))
    inner_lo = inner_hi = middle
    for (low, high), factor in reversed(list(zip(pairs(levels), stretch, strict=True))):
        width = factor * (quantiles[..., high] - quantiles[..., low])
        inner_lo = out[..., low] = np.minimum(quantiles[..., low] - width, inner_lo)
        inner_hi = out[..., high] = np.maximum(quantiles[..., high] + width, inner_hi)
    return Quantiles(levels, out)


def _state_for(facts: dict[str, Any], time: np.ndarray) -> dict[str, Any]:
    """What a table of rows at `time` [N] goes on from: where labels were followed to, or the end of the valid split."""
    first = _moment(facts.get('since', facts['last']), time)
    return facts['state'] if 'state' in facts and time.min() > first else facts


def _is_counted(facts: dict[str, Any], time: np.ndarray) -> np.ndarray:
    """Whether labels of rows at `time` [N] count: from the first row on that was heard, if any was."""
    return time >= _moment(facts['since'], time) if 'since' in facts else time > _moment(facts['last'], time)


def _moment(text: str | list[str], time: np.ndarray) -> np.ndarray:
    """Times that were kept, in the unit of others."""
    return np.asarray(text).astype(time.dtype)


def _names(rows: dict[str, np.ndarray]) -> np.ndarray:
    return np.asarray(rows['id']).astype(str) if 'id' in rows else np.full(len(rows['time']), '')


def _stretches(state: dict[str, Any], rows: dict[str, np.ndarray], count: int) -> np.ndarray:
    """The stretches that a state knows of rows [count, N, H]; NaN of the others."""
    time, overlaps = rows['time'], len(state['alpha_PxH'][0])
    out = np.full((count, len(time), overlaps), np.nan)
    if 'open' in state:
        kept, until = state['open'], _moment(state['until'], time)
        places = {(name, t): m for m, (name, t) in enumerate(zip(kept['id'], _moment(kept['time'], time), strict=True))}
        values, names = np.array(kept['stretch_PxNxH']), _names(rows)
        for row in np.flatnonzero(time <= until).tolist():
            if (place := places.get((names[row], time[row]))) is not None:
                out[:, row] = values[:, place]
    return out


def _kept(scores: np.ndarray, rows: dict[str, np.ndarray], h: int) -> np.ndarray:
    kept = scores[rows['valid'][:, h] & np.isfinite(scores[:, h]), h]
    if not len(kept):
        raise InputError('the valid split has no label to calibrate by', column=f'horizon {rows["horizon"][h]}')
    return kept


def _at_rank(ordered: Sequence[float], alpha: float) -> float:
    """The (1 - alpha) quantile with the rank that covers in finite samples, of scores in order of size."""
    rank = math.ceil((len(ordered) + 1) * (1 - alpha) - 1e-9)
    return float(ordered[min(max(rank, 1), len(ordered)) - 1])
