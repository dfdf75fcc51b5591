"""How well are the next tokens known, beside Markov chains; and whole paths of returns, by the energy score."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fjq import compare
from fjq.baselines.markov import Chain, fit_chains
from fjq.data.candles.files import Candles
from fjq.errors import InputError
from fjq.feed import make_gather, read_batches
from fjq.forecast import Samples
from fjq.studies import Chart, Study, say_interval

BIT = np.log(2)
CHUNK = 4_000_000  # numbers of an intermediate array
SAVED = ('saved', 'low', 'high', 'DM', 'p', 'p (NW)')  # p: see `fjq.compare.diebold_mariano`
HELD_OUT = 0.2  # of the training tokens, where the chains can not be tuned on validation


@dataclasses.dataclass(kw_only=True)
class TokenScores:
    """Bits a token, perplexity, accuracy and top-5 with intervals, of the model and of the chains of
    `fjq.baselines.markov`, all together and by asset; the likelihood of candles, which other tokenizers' can be
    compared with; and the energy score (Gneiting and Raftery 2007) of the forecasters that have paths.

    A token is scored once: where rows overlap, by the row that it follows most closely. Intervals resample blocks of
    moments, with all assets of a moment, as their returns move together; so does the Diebold-Mariano test. The task
    has to have `log_probabilities(params, extra, batch) -> [B, L, V]`, of `batch['tokens'][:, 1:]`.
    """

    name: str = 'tokens'
    block: int = 21  # moments (of a daily market: days) in a bootstrap block
    draws: int = 1000
    states: int = 8  # of the chains of the volatility and of the scale

    def run(self, trained, dataset, split, judged, rows, mask) -> Study:
        series = read_series(dataset)
        model, asked = score_model(trained, dataset, split, rows, series)
        vocabulary = dataset.fingerprint()['vocabulary']
        train, held_out = spans(dataset, split, series)
        returns = first_batch(dataset, split)['token_return'][0]
        tokens, scales = (
            tuple([getattr(s, k) for s in part] for part in (train, held_out)) for k in ('token', 'scale')
        )
        chains = fit_chains(*tokens, vocabulary, np.asarray(returns, np.float64), scales, states=self.states)
        scores = {judged[0].name: model} | {c.name: score_chain(c, series, asked) for c in chains}
        density = np.array([series[asset].density[p] for asset, p in zip(asked.asset, asked.place, strict=True)])
        bits = {name: s.nats / BIT for name, s in scores.items()}
        ours, *others = scores
        best = min(others, key=lambda name: bits[name].mean())
        tables = {
            f'{len(density)} tokens of {len(set(asked.asset))} assets': [
                self._line(name, s, density, asked.time) for name, s in scores.items()
            ],
            f'Bits a token that {ours} saves': [
                {'against': name} | self._saved(bits[name] - bits[ours], asked.time) for name in others
            ],
            f'Bits a token by asset, beside {best}': [
                {'asset': str(a), 'tokens': int(of.sum()), ours: bits[ours][of].mean(), best: bits[best][of].mean()}
                | self._saved((bits[best] - bits[ours])[of], asked.time[of])
                for a in sorted(set(asked.asset))
                for of in [asked.asset == a]
            ],
        }
        whole = self._saved(bits[best] - bits[ours], asked.time)
        sentences = [
            f'{len(density)} tokens cost {ours} {bits[ours].mean():.4f} bits each, and the best Markov chain ({best}, '
            f'picked on the same tokens) {bits[best].mean():.4f}: {_verdict(ours, whole)}'
        ]
        if dataset.tokenizer.looks_ahead:
            name = dataset.tokenizer.name
            sentences.append(f'The tokenizer {name} looks at the candle after each: no score on its tokens is honest.')
        paths = self._paths(judged, rows, mask)
        if paths:
            tables['Energy score of paths over all horizons, smaller is better'] = paths
        moments, place = np.unique(asked.time, return_inverse=True)
        chart = Chart(
            title=f'Bits that {ours} has saved since the start of {split}',
            x=moments,
            lines={
                name: np.cumsum(np.bincount(place, bits[name] - bits[ours])) for name in others if name != 'uniform'
            },
            ylabel='bits, all assets together',
        )
        return Study(tables, sentences, [chart])

    def _line(self, name: str, score: 'Score', density: np.ndarray, time: np.ndarray) -> dict:
        bits = score.nats / BIT
        low, high = self._interval(compare.block_bootstrap, bits, time, statistic=compare.positive_mean)
        line = {'forecaster': name, 'bits': bits.mean(), 'low': low, 'high': high}
        line['perplexity'] = float(np.exp(score.nats.mean()))
        for what, count in (('accuracy', 1), ('top-5', 5)):
            hit = score.hits(count)
            low, high = self._interval(compare.share_interval, hit, time)
            line |= {what: hit.mean(), f'{what} low': low, f'{what} high': high}
        return line | {'log likelihood a candle': (density - score.nats).mean()}

    def _saved(self, difference: np.ndarray, time: np.ndarray, span: int = 1) -> dict:
        """Of the other minus of the model [K], at moments [K]: the mean with its interval, and the Diebold-Mariano test
        of it, moment by moment, with either variance. span: moments that one of them looks ahead."""
        low, high = self._interval(compare.block_bootstrap, difference, time)
        moments = compare.mean_by_moments(difference, time)
        none = np.zeros_like(moments)
        test, classical = (
            compare.diebold_mariano(moments, none, horizon=span, variance=v) for v in ('cosine', 'newey-west')
        )
        word = 'better' if low > 0 else 'worse' if high < 0 else 'not told apart'
        figures = difference.mean(), low, high, test.statistic, test.p, classical.p
        return dict(zip(SAVED, figures, strict=True)) | {'the model is': word}

    def _interval(self, of, values: np.ndarray, time: np.ndarray, **more) -> compare.Interval:
        """By the function `of` of `fjq.compare`, for values [K] that happen at moments [K]."""
        return of(values, block=self.block, draws=self.draws, seed=0, time=time, **more)

    def _paths(self, judged: list, rows: dict, mask: np.ndarray) -> list[dict]:
        whole, lines, ours = mask.all(1), [], None
        if not isinstance(judged[0].law, Samples) or not whole.any():
            return []
        count, span = judged[0].law.values.shape[-1], compare.count_span(rows)[-1]
        for j in judged:
            paths = j.law if isinstance(j.law, Samples) else j.paths and j.paths(count=count)
            if paths:
                score = energy_score(np.asarray(paths.values, np.float64)[whole], rows['target'][whole])
                line = {'forecaster': j.name, 'rows': int(whole.sum()), 'energy score': score.mean()}
                if ours is None:
                    ours = score
                    lines.append(line | dict.fromkeys(SAVED, np.nan) | {'the model is': ''})
                else:
                    lines.append(line | self._saved(score - ours, rows['time'][whole], span))
        return lines


class Series(NamedTuple):
    """An asset's candles: time, token, density (log p(candle | token)) and scale, all [N]; the scale is the tokenizer's
    before each candle, in units of its median on the asset's training candles."""

    time: np.ndarray
    token: np.ndarray
    density: np.ndarray
    scale: np.ndarray

    def part(self, where) -> 'Series':
        return Series(*(column[where] for column in self))


class Asked(NamedTuple):
    """The tokens that are scored, by time: the asset, its place in the asset's series, its time [K]."""

    asset: np.ndarray
    place: np.ndarray
    time: np.ndarray


class Score(NamedTuple):
    """nats [K]: -log p of the token that came; above [K]: how many tokens were likelier; level [K]: how many were as
    likely, itself among them."""

    nats: np.ndarray
    above: np.ndarray
    level: np.ndarray

    def hits(self, count: int) -> np.ndarray:
        """Whether the token is among the `count` likeliest [K]; of tokens alike, the share that chance would pick."""
        return np.clip((count - self.above) / self.level, 0.0, 1.0)


def read_series(dataset) -> dict[str, Series]:
    """The assets of a dataset's history."""
    history, tokenizer, end = dataset.history(), dataset.tokenizer, _train_end(dataset)
    out = {}
    for name in np.unique(history['id']):
        mine = history['id'] == name
        columns = {k: history[k][mine] for k in ('time', 'open', 'high', 'low', 'close', 'volume')}
        scale = tokenizer.scale(Candles(str(name), **columns))[:-1]
        seen = scale[columns['time'] <= end]
        level = np.median(seen) if len(seen) else tokenizer.first_scale
        out[str(name)] = Series(columns['time'], history['token'][mine], history['log_density'][mine], scale / level)
    return out


def spans(dataset, split: str, series: dict[str, Series]) -> tuple[list[Series], list[Series]]:
    """What chains are fitted to, and what tunes them: training and validation; where validation is scored, training
    alone."""
    train = [s.part(s.time <= _train_end(dataset)) for s in series.values()]
    if split == 'valid':
        cuts = [int(len(s.time) * (1 - HELD_OUT)) for s in train]
        pairs = [(s.part(slice(cut)), s.part(slice(cut, None))) for s, cut in zip(train, cuts, strict=True)]
        return [a for a, _ in pairs], [b for _, b in pairs]
    valid = dataset.rows('valid')
    start, stop = valid['time'].min(), np.nanmax(valid['label_end'])
    return train, [s.part((s.time > start) & (s.time <= stop)) for s in series.values()]


def _train_end(dataset) -> np.datetime64:
    return np.nanmax(dataset.rows('train')['label_end'])


def score_model(trained, dataset, split: str, rows: dict, series: dict[str, Series]) -> tuple[Score, Asked]:
    """The model's score of every token of a split that some row's future holds, each once."""
    if not hasattr(trained.task, 'log_probabilities'):
        raise InputError(
            f'{trained.config.name} has no law of tokens', column='evaluate.studies', remedy='leave it out'
        )

    @jax.jit
    def score(params, extra, batch):
        horizon = batch['returns'].shape[1]
        law_BxHxV = trained.task.log_probabilities(params, extra, batch)[:, -horizon:]
        own = jnp.take_along_axis(law_BxHxV, batch['tokens'][:, -horizon:, None], -1)
        return -own[..., 0], (law_BxHxV > own).sum(-1), (law_BxHxV == own).sum(-1)

    gather = make_gather(dataset)
    parts = []
    for host in read_batches(dataset, split):
        batch = gather(host)
        figures = jax.device_get(score(trained.params, trained.extra, batch))
        there = np.asarray(batch['returns_mask']) & np.asarray(batch['mask'])[:, None]
        row, step = np.nonzero(there)
        parts.append((np.asarray(batch['row'])[row], step, *(f[there] for f in figures)))
    row, step, nats, above, level = (np.concatenate(p) for p in zip(*parts, strict=True))
    starts = np.array([np.searchsorted(series[str(a)].time, t) for a, t in zip(rows['id'], rows['time'], strict=True)])
    asset, place = rows['id'][row].astype(str), starts[row] + 1 + step
    time = np.array([series[a].time[p] for a, p in zip(asset, place, strict=True)])
    order = np.lexsort((step, asset, time))
    new = np.ones(len(order), bool)
    new[1:] = (asset[order][1:] != asset[order][:-1]) | (place[order][1:] != place[order][:-1])
    kept = order[new]
    score = Score(nats[kept].astype(np.float64), above[kept], level[kept])
    return score, Asked(asset[kept], place[kept], time[kept])


def score_chain(chain: Chain, series: dict[str, Series], asked: Asked) -> Score:
    """A chain's score of the same tokens."""
    nats, above, level = np.empty((3, len(asked.place)))
    for name in np.unique(asked.asset):
        mine = np.flatnonzero(asked.asset == name)
        ids, scale = series[str(name)].token, series[str(name)].scale
        vocabulary = chain.log_probabilities(ids, asked.place[mine[:1]], scale).shape[1]
        for part in np.array_split(mine, max(1, len(mine) * vocabulary // CHUNK)):
            law = chain.log_probabilities(ids, asked.place[part], scale)
            own = law[np.arange(len(part)), ids[asked.place[part]]]
            own = own[:, None]
            nats[part], above[part], level[part] = -own[:, 0], (law > own).sum(1), (law == own).sum(1)
    return Score(nats, above, level)


def energy_score(values: np.ndarray, target: np.ndarray) -> np.ndarray:
    """[N]: mean |X - y| - mean |X - X'| / 2 over paths X, X' [N, H, S], |.| over the H horizons, in the form that is
    unbiased for the law that the paths are drawn from."""
    count = values.shape[2]
    out = np.empty(len(values))
    for part in np.array_split(np.arange(len(values)), max(1, values.size * count // CHUNK)):
        x = values[part]
        near = np.sqrt(((x - target[part][..., None]) ** 2).sum(1)).mean(-1)
        apart = np.sqrt(((x[..., None] - x[:, :, None]) ** 2).sum(1)).sum((-1, -2))
        out[part] = near - apart / (2 * count * max(count - 1, 1))
    return out


def first_batch(dataset, split: str) -> dict:
    return make_gather(dataset)(next(iter(read_batches(dataset, split))))


def _verdict(ours: str, line: dict) -> str:
    span = f'{line["saved"]:+.4f} bits a token, {say_interval(line["low"], line["high"], "+.4f")}'
    if np.isfinite(line['p']):
        span += f', Diebold-Mariano p {line["p"]:.2g}'
    word = {
        'better': f'{ours} is better ({span}).',
        'worse': f'{ours} is worse ({span}): it has not learned what counting knows.',
    }
    return word.get(line['the model is'], f'{ours} does not win, the two are not told apart ({span}).')
