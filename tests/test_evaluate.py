"""The harness against figures worked out by hand, and what it says of a model that loses."""

import dataclasses
import json

import grain
import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy import stats

from fjq import compare
from fjq import evaluate as harness
from fjq.baselines import Unavailable
from fjq.calibration import AdaptiveConformal, Calibration, SplitConformal
from fjq.config import Evaluate, Experiment
from fjq.errors import InputError
from fjq.evaluate import conclude, dress_with_errors, evaluate, is_known, write
from fjq.forecast import Point, Quantiles, Samples
from fjq.studies import Chart, Study

HORIZONS = (30, 5)  # not in order of size
SIZES = {'train': 50, 'valid': 40, 'test': 60}


def rng(*key):
    return np.random.Generator(np.random.Philox(list(key)))


@dataclasses.dataclass
class Fixed:
    """A dataset whose batches hold the forecasts: two batch rows a row, whose mean is the forecast.

    guesses: split -> [N, H].
    """

    guesses: dict
    targets: dict
    valid: dict

    def rows(self, split):
        start = list(SIZES).index(split) * 100
        n = SIZES[split]
        return {
            'id': np.full(n, 'X'),
            'time': np.datetime64('2022-01-03') + np.arange(start, start + n),
            'target': self.targets[split],
            'valid': self.valid[split],
            'horizon': np.array(HORIZONS),
        }

    def history(self):
        return {}

    def batches(self, split, shard):
        n, guess = SIZES[split], self.guesses[split]
        away = rng(5).uniform(-0.1, 0.1, guess.shape)
        batches = []
        for first in range(0, n, 8):
            row = np.arange(first, first + 8)
            mask = np.tile(row < n, 2)
            index = np.minimum(row, n - 1)
            value = np.concatenate([guess[index] - away[index], guess[index] + away[index]])
            value[~mask] = 1e6  # padding
            batches.append({'mask': mask, 'row': np.where(mask, np.tile(row, 2), -1), 'guess': np.float32(value)})
        return grain.MapDataset.source(batches)


class Reader:
    """In place of a trained model: the forecasts are in the batch."""

    step, calibration = 3, None

    def predict(self, batch):
        return Point(batch['guess'])


@dataclasses.dataclass(kw_only=True)
class Known:
    """A baseline with these forecasts [split rows, H], told by the number of rows."""

    name: str
    forecasts: dict

    def forecast(self, history, rows, labels):
        assert (
            labels['train'].sum() == SIZES['train']
        )  # what may be fitted once; refitting may know the split in between
        assert len(labels['time']) in (SIZES['train'], SIZES['train'] + SIZES['valid'])
        split = next(s for s, n in SIZES.items() if n == len(rows['time']))
        if split not in self.forecasts:
            raise Unavailable('it has nothing to stand on')
        return Point(self.forecasts[split])


def make_data(spread=0.1, seed=0, holes=True):
    """Targets around 0.5, forecasts of the model off by `spread` in logs."""
    targets = {s: 0.5 * np.exp(0.3 * rng(seed, 1, n).standard_normal((n, 2))) for s, n in SIZES.items()}
    guesses = {s: t * np.exp(spread * rng(seed, 2, len(t)).standard_normal(t.shape)) for s, t in targets.items()}
    valid = {s: np.ones((n, 2), bool) for s, n in SIZES.items()}
    if holes:
        valid['test'][[3, 17], 1] = False
        targets['test'][[3, 17], 1] = 77.0  # not a label: nothing may look at it
    return Fixed(guesses, targets, valid)


def off_by(data, spread, seed=9):
    """Forecasts of all splits that are off by `spread` in logs."""
    return {
        s: np.minimum(np.abs(t), 2) * np.exp(spread * rng(seed, len(t)).standard_normal(t.shape))
        for s, t in data.targets.items()
    }


def judge(data, *baselines, reader=None, **settings):
    settings = {'loss': 'qlike', 'overlap': 1, 'block': 4, 'draws': 200} | settings
    config = Experiment(name='model', task=None, data=None, evaluate=Evaluate(baselines=baselines, **settings))
    return evaluate(config, reader or Reader(), data)


def test_scores_are_those_worked_out_by_hand():
    data = make_data()
    findings, _ = judge(data, Known(name='other', forecasts=off_by(data, 0.3)))
    train_mean = data.targets['train'].mean(0)
    for name, guesses in (('model', data.guesses), ('other', off_by(data, 0.3))):
        got = findings['scores'][name]
        for h in range(2):
            keep = data.valid['test'][:, h]
            y, f = data.targets['test'][keep, h], guesses['test'][keep, h]
            x, e = (y / f) ** 2, np.abs(np.log1p(y) - np.log1p(f))
            errors = np.log(data.targets['valid'][:, h] / guesses['valid'][:, h])
            atoms = f[:, None] * np.exp(errors)
            expected = {
                'qlike': (x - np.log(x) - 1).mean(),
                'mae': np.abs(y - f).mean(),
                'mse': ((y - f) ** 2).mean(),
                'rmse': np.sqrt(((y - f) ** 2).mean()),
                'huber_log1p': np.where(e < 0.1, e**2 / 2, 0.1 * (e - 0.05)).mean(),
                'r2': 1 - ((y - f) ** 2).sum() / ((y - train_mean[h]) ** 2).sum(),
                'spearman': stats.spearmanr(y, f).statistic,
                'crps': (
                    np.abs(y[:, None] - atoms).mean(1) - np.abs(atoms[:, :, None] - atoms[:, None]).mean((1, 2)) / 2
                ).mean(),
            }
            for figure, value in expected.items():
                assert got[figure][h] == pytest.approx(value, rel=2e-4), (name, figure, h)
            inside = (y >= np.quantile(atoms, 0.1, 1, method='inverted_cdf')) & (
                y <= np.quantile(atoms, 0.9, 1, method='inverted_cdf')
            )
            assert got['coverage_80'][h] == pytest.approx(inside.mean(), abs=0.02)
    assert findings['rows'] == [60, 58] and findings['horizons'] == ['30', '5']
    assert (findings['first'], findings['last']) == ('2022-07-22', '2022-09-19')


def test_differences_are_of_the_rows_that_all_answer():
    data = make_data()
    gappy = off_by(data, 0.3)
    gappy['test'][[5, 6], 0] = np.nan  # under a tenth of the targets
    others = Known(name='gappy', forecasts=gappy), Known(name='whole', forecasts=off_by(data, 0.2))
    findings, _ = judge(data, *others, overlap=3)
    assert findings['rows'] == [58, 58]
    for name, forecasts in (('gappy', gappy), ('whole', off_by(data, 0.2))):
        for h in range(2):
            keep = data.valid['test'][:, h] & np.isfinite(gappy['test'][:, h])
            loss = [
                (x := (data.targets['test'][keep, h] / f['test'][keep, h]) ** 2) - np.log(x) - 1
                for f in (data.guesses, forecasts)
            ]
            difference = findings['differences'][name][h]
            assert difference['mean'] == pytest.approx((loss[1] - loss[0]).mean(), rel=1e-4)
            assert findings['scores'][name]['qlike'][h] == pytest.approx(loss[1].mean(), rel=1e-4)
            # independent rows in blocks of four: an interval about as wide as that of a mean
            wide = 2 * 1.96 * (loss[1] - loss[0]).std() / np.sqrt(keep.sum())
            assert 0.7 * wide < difference['high'] - difference['low'] < 1.8 * wide
            assert difference['low'] < difference['mean'] < difference['high']
            for name_of_p, variance in (('p', 'cosine'), ('p_newey_west', 'newey-west')):
                test = compare.diebold_mariano(loss[1], loss[0], horizon=3, variance=variance)
                assert difference[name_of_p] == pytest.approx(test.p, rel=1e-2)


def test_a_baseline_that_can_not_answer_is_named_and_costs_nobody_rows():
    data = make_data()
    few = off_by(data, 0.3)
    few['test'][:20] = np.nan
    none = {s: f for s, f in off_by(data, 0.3).items() if s == 'train'}
    findings, table = judge(data, Known(name='few', forecasts=few), Known(name='none', forecasts=none))
    assert findings['unavailable'] == {
        'few': 'it forecasts only 68% of the targets',
        'none': 'it has nothing to stand on',
    }
    assert findings['rows'] == [60, 58] and list(findings['scores']) == ['model']
    assert set(table['model'].to_pylist()) == {'model'}
    assert 'model has no baseline to be compared with.' in conclude(findings)[0]


def test_intervals_come_from_the_earlier_split_alone():
    data = make_data()
    findings, table = judge(data)
    assert findings['dressed_with'] == 'valid'
    worse = make_data()
    worse.targets['test'] = data.targets['test'] * 3  # the future is not looked at
    _, same = judge(worse)
    worse.targets['valid'] = data.targets['valid'] * np.exp(rng(3).standard_normal((40, 2)))
    _, wider = judge(worse)
    for q in ('q10', 'q90'):
        assert table[q].equals(same[q]) and not table[q].equals(wider[q])
    gap = [(t['q90'].to_numpy() - t['q10'].to_numpy()).mean() for t in (table, wider)]
    assert gap[1] > 2 * gap[0]
    assert judge(data, split='valid')[0]['dressed_with'] == 'train'


def test_the_errors_of_the_valid_split_are_kept_and_no_others(tmp_path):
    data, reader = make_data(), Reader()
    _, table = judge(data, reader=reader)
    reader.calibration.write(tmp_path)
    kept = Calibration.read(tmp_path, 3)
    law = kept.apply(Point(data.guesses['test']), {})
    np.testing.assert_allclose(np.asarray(law.quantile(0.9)).reshape(-1), table['q90'].to_numpy(), rtol=1e-5)
    reader = Reader()
    judge(data, split='valid', reader=reader)
    assert reader.calibration is None
    with pytest.raises(InputError, match=r"'evaluate.split': the split 'train' is not evaluated.*Use test, or valid"):
        judge(data, split='train')


def test_a_forecast_that_is_no_volatility_leaves_no_error():
    data = make_data()
    data.guesses['valid'][7] = -0.1
    law, rows = Point(np.full((3, 2), 0.5)), data.rows('valid')
    dressed = dress_with_errors(law, Point(data.guesses['valid']), rows)
    keep = np.arange(40) != 7
    errors = np.log(rows['target'][keep] / data.guesses['valid'][keep])
    np.testing.assert_allclose(dressed.mean(), np.tile(0.5 * np.exp(errors).mean(0), (3, 1)), rtol=1e-5)


def test_a_law_keeps_its_own_intervals():
    law = Quantiles(np.array([0.1, 0.5, 0.9]), np.ones((4, 1, 3)))
    assert dress_with_errors(law, law, {}) is law


def test_a_past_bias_is_corrected_in_the_law_and_not_in_the_point():
    data = make_data()
    biased = {s: g * 1.5 for s, g in data.guesses.items()}
    findings, table = judge(dataclasses.replace(data, guesses=biased))
    plain, _ = judge(data)
    assert findings['scores']['model']['mae'][0] > 2 * plain['scores']['model']['mae'][0]
    assert findings['scores']['model']['crps'][0] == pytest.approx(plain['scores']['model']['crps'][0], rel=1e-3)
    ratio = table['q50'].to_numpy() / np.repeat(1, table.num_rows)
    assert np.median(ratio) == pytest.approx(np.median(judge(data)[1]['q50'].to_numpy()), rel=1e-3)


def test_returns_may_be_negative():
    data = make_data(holes=False)
    for split, target in data.targets.items():
        data.targets[split] = target - 0.5
        data.guesses[split] = data.targets[split] + 0.05 * rng(4, len(target)).standard_normal(target.shape)
    findings, table = judge(data, loss='mse')
    scores = findings['scores']['model']
    assert np.isnan(scores['qlike']).all() and np.isfinite(scores['mse']).all() and scores['r2'][0] > 0.8
    assert 0.6 < scores['coverage_80'][0] < 0.95
    errors = (data.targets['valid'] - data.guesses['valid'])[:, 0]
    expected = data.guesses['test'][0, 0] + np.quantile(errors, 0.9)
    assert table['q90'][0].as_py() == pytest.approx(expected, abs=0.01)
    with pytest.raises(InputError, match="'qlike' and some targets are not positive. Choose one of crps, mae, mse"):
        judge(data, loss='qlike')


@pytest.mark.parametrize(
    ('ours', 'theirs', 'verdict', 'words'),
    [(0.05, 0.5, 'better', 'beats'), (0.5, 0.05, 'worse', 'loses to'), (0.2, 0.2, 'not told apart', 'can not be told')],
)
def test_the_verdict_is_said_also_when_the_model_loses(ours, theirs, verdict, words):
    data = make_data(spread=ours)
    findings, _ = judge(data, Known(name='other', forecasts=off_by(data, theirs)))
    for h, difference in enumerate(findings['differences']['other']):
        assert difference['model'] == verdict
        if verdict != 'not told apart':
            assert np.sign(difference['low']) == np.sign(difference['high']) == np.sign(difference['dm'])
            assert difference['p'] < 0.05
        line = conclude(findings)[h]
        assert words in line and f'horizon {HORIZONS[h]}, {findings["rows"][h]} rows' in line


def test_one_line_names_all_that_won_and_lost():
    data = make_data(spread=0.2)
    others = [Known(name=f'off {s}', forecasts=off_by(data, s)) for s in (0.01, 0.02, 0.2, 0.8)]
    findings, _ = judge(data, *others)
    for h, (line, horizon, n) in enumerate(zip(conclude(findings), HORIZONS, (60, 58), strict=True)):
        assert line.startswith(
            f'horizon {horizon}, {n} rows (about {n} independent): by qlike, model beats off 0.8; '
            'loses to off 0.01, off 0.02; can not be told apart from off 0.2. '
        )
        d = findings['differences']['off 0.01'][h]
        assert line.endswith(
            f' The best baseline on these rows is off 0.01: its qlike minus that of the model is {d["mean"]:.3g} '
            f'({d["low"]:.3g} to {d["high"]:.3g}), Diebold-Mariano p {d["p"]:.2g}.'
        )
    findings['differences'] = {'model, raw': findings['differences']['off 0.8']}  # no baseline
    findings['scores']['model, raw'] = findings['scores']['off 0.8']
    assert 'The best baseline' not in conclude(findings)[0]


def test_other_data_than_those_of_the_training_are_said():
    findings, _ = judge(make_data())
    assert conclude(findings | {'changed': []}) == conclude(findings)
    line, *rest = conclude(findings | {'changed': ['horizons', 'frame']})
    assert line == 'The data are not those of the training: horizons, frame differ.' and rest == conclude(findings)


def test_few_independent_rows_are_said():
    data = make_data(spread=0.05)
    findings, _ = judge(data, Known(name='other', forecasts=off_by(data, 0.5)), overlap=21, block=42)
    assert findings['independent'][0] == pytest.approx(60 / 21, rel=0.3)
    lines = conclude(findings)
    assert 'shows that the pieces work, not skill' in lines[1]
    # not even two blocks: nothing can be said, whatever the mean
    assert findings['differences']['other'][0]['model'] == 'not told apart'


def test_the_loss_of_the_config_is_the_one_that_is_tested():
    data = make_data()
    other = Known(name='other', forecasts=off_by(data, 0.3))
    for loss in harness.LOSSES:
        findings, _ = judge(data, other, loss=loss)
        scores, h = findings['scores'], 0
        both = [s[loss][h] for s in (scores['other'], scores['model'])]
        assert findings['differences']['other'][h]['mean'] == pytest.approx(both[0] - both[1], rel=1e-3)
    with pytest.raises(InputError, match="evaluate.loss is 'qlik'. Choose one of qlike, crps"):
        judge(data, loss='qlik')


def test_no_common_row_is_an_error():
    data = make_data()
    parts = [off_by(data, 0.1) for _ in range(12)]
    for i, forecasts in enumerate(parts):
        forecasts['test'][5 * i : 5 * i + 5] = np.nan  # each lacks a twelfth
    with pytest.raises(InputError, match='no target is forecast by every forecaster'):
        judge(data, *(Known(name=str(i), forecasts=f) for i, f in enumerate(parts)))


def test_a_calibrated_model_has_a_flat_histogram():
    data = make_data(holes=False)
    right, _ = judge(data)
    data.targets['test'] = data.guesses['test'] * np.exp(0.5 * rng(8).standard_normal((60, 2)))
    wrong, _ = judge(data)
    flat, u_shaped = (np.array(f['calibration']['model']['pit']) for f in (right, wrong))
    assert flat.sum() == pytest.approx(1) and stats.chisquare(120 * flat).pvalue > 0.05
    assert right['scores']['model']['coverage_80'][0] == pytest.approx(0.8, abs=0.1)
    assert u_shaped[0] > 0.25 and u_shaped[-1] > 0.25 and wrong['scores']['model']['coverage_80'][0] < 0.4


def test_what_is_written_is_strict_json_and_one_line_a_forecast(tmp_path):
    data = make_data()
    constant = {s: np.full((n, 2), 0.5) for s, n in SIZES.items()}  # no rank correlation
    findings, table = judge(data, Known(name='flat', forecasts=constant), overlap=21, block=42)  # no interval
    write(findings, table, tmp_path)
    read = json.loads((tmp_path / 'evaluation.json').read_text(), parse_constant=pytest.fail)
    assert read['differences']['flat'][0]['low'] is None and read['scores']['flat']['spearman'] == [None, None]
    assert read['scores']['model']['mae'] == findings['scores']['model']['mae']
    forecasts = pq.read_table(tmp_path / 'forecasts' / 'test.parquet').to_pylist()
    assert len(forecasts) == 2 * 60 * 2
    line = next(f for f in forecasts if (f['model'], f['horizon'], str(f['time'])) == ('model', 5, '2022-07-25'))
    assert line['mean'] == pytest.approx(
        data.guesses['test'][3, 1] * np.exp(np.log(data.targets['valid'] / data.guesses['valid'])[:, 1]).mean(),
        rel=1e-3,
    )
    assert line['point'] == pytest.approx(data.guesses['test'][3, 1], rel=1e-6)  # as scored
    assert np.isnan(line['target']) and line['id'] == 'X' and line['q10'] < line['q50'] < line['q90']
    assert sorted(p.name for p in tmp_path.rglob('*') if p.is_file()) == ['evaluation.json', 'test.parquet']


@dataclasses.dataclass(kw_only=True)
class Wide(Fixed):
    """The same with label ends, two rows a target."""

    def rows(self, split):
        rows = super().rows(split)
        return rows | {'label_end': rows['time'][:, None] + np.array([2, 2])}


class QuantileReader:
    """In place of a trained model with intervals half as wide as they should be."""

    step, calibration = 7, None

    def predict(self, batch):
        z = stats.norm.ppf(LEVELS)
        return Quantiles(LEVELS, np.float32(batch['guess'][..., None] * np.exp(0.5 * 0.1 * z)))


LEVELS = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)


def judge_quantiles(data, *baselines, **settings):
    settings = {'loss': 'crps', 'overlap': 0, 'block': 0, 'draws': 200} | settings
    config = Experiment(name='model', task=None, data=None, evaluate=Evaluate(baselines=baselines, **settings))
    reader = QuantileReader()
    return *evaluate(config, reader, data), reader


def test_overlaps_may_be_counted():
    data = make_data()
    other = Known(name='other', forecasts=off_by(data, 0.3))
    counted, _, _ = judge_quantiles(Wide(data.guesses, data.targets, data.valid), other)
    given, _, _ = judge_quantiles(data, other, overlap=2, block=4)
    assert counted == given
    with pytest.raises(InputError, match='no label_end'):
        judge_quantiles(data)


def test_a_calibrated_model_stands_beside_its_raw_self():
    data = make_data()
    data = Wide(data.guesses, data.targets, data.valid)
    findings, table, reader = judge_quantiles(data, calibration=SplitConformal())
    assert list(findings['scores']) == ['model', 'model, raw'] and list(findings['differences']) == ['model, raw']
    raw, ours = (findings['scores'][n]['coverage_80'] for n in ('model, raw', 'model'))
    assert (np.abs(np.array(ours) - 0.8) < 0.15).all() and (np.array(raw) < 0.7).all()
    assert reader.calibration.step == 7
    law = Quantiles(LEVELS, np.array([[np.linspace(0.4, 0.6, 7)] * 2]))
    one = {k: v if k == 'horizon' else v[:1] for k, v in data.rows('test').items()}
    mine = table.filter(np.asarray(table['model']) == 'model')
    gap = (mine['q90'].to_numpy() - mine['q10'].to_numpy()).mean()
    beside = table.filter(np.asarray(table['model']) == 'model, raw')
    assert gap > 1.5 * (beside['q90'].to_numpy() - beside['q10'].to_numpy()).mean()
    assert np.ptp(reader.calibration.apply(law, one).values) > 0.2
    changed = Wide(data.guesses, data.targets | {'test': data.targets['test'] * 2}, data.valid)
    assert judge_quantiles(changed, calibration=SplitConformal())[2].calibration == reader.calibration
    with pytest.raises(InputError, match=r'evaluate.split.*Use test'):
        judge_quantiles(data, calibration=SplitConformal(), split='valid')


def test_an_adaptive_calibration_goes_on_after_the_rows_that_were_evaluated():
    data = make_data()
    data = Wide(data.guesses, data.targets, data.valid)
    reader = judge_quantiles(data, calibration=AdaptiveConformal())[2]
    assert reader.calibration.facts['state']['until'] == str(data.rows('test')['time'].max())


@dataclasses.dataclass(kw_only=True)
class Counting:
    name: str = 'counting'

    def run(self, trained, dataset, split, judged, rows, mask):
        count = {'forecasters': len(judged), 'rows': np.int64(mask.sum()), 'split': split, 'unknown': np.nan}
        return Study(
            {'Counts': [count]}, [f'{mask.sum()} targets.'], [Chart('Rows', rows['time'], {'x': mask[:, 0] * 1.0})]
        )


def test_studies_are_run_said_and_written(tmp_path):
    data = make_data()
    findings, table = judge(data, Known(name='other', forecasts=off_by(data, 0.3)), studies=(Counting(),))
    assert conclude(findings)[-1] == '118 targets.' and 'studies' not in judge(data)[0]
    write(findings, table, tmp_path)
    study = json.loads((tmp_path / 'evaluation.json').read_text(), parse_constant=pytest.fail)['studies']['counting']
    assert study['tables'] == {'Counts': [{'forecasters': 2, 'rows': 118, 'split': 'test', 'unknown': None}]}
    assert study['charts'][0]['x'][0] == '2022-07-22' and study['charts'][0]['lines'] == {'x': [1.0] * 60}


def test_figures_that_nobody_has_are_known_as_such():
    data = make_data(holes=False)
    assert is_known(judge(data)[0], 'qlike')
    for split, target in data.targets.items():
        data.targets[split] = target - 0.5
    findings, _ = judge(data, loss='mse')
    assert not is_known(findings, 'qlike') and is_known(findings, 'mse')


def test_equal_forecasts_are_equally_good_whatever_their_terms():
    """A whole law beside a few quantiles: the CRPS of both is that of the quantiles."""
    data = make_data()

    @dataclasses.dataclass(kw_only=True)
    class Whole:
        name: str = 'whole'

        def forecast(self, history, rows, labels):
            split = next(s for s, n in SIZES.items() if n == len(rows['time']))
            levels = (np.arange(1000) + 0.5) / 1000
            spread = np.exp(0.05 * stats.norm.ppf(levels))
            return Samples(data.guesses[split][..., None] * spread)

    findings, table, _ = judge_quantiles(data, Whole(), overlap=1, block=2)
    ours, theirs = (findings['scores'][n]['crps'] for n in ('model', 'whole'))
    np.testing.assert_allclose(ours, theirs, rtol=2e-3)
    exact = Whole().forecast(None, data.rows('test'), None).crps(data.targets['test'])
    # The few quantiles score otherwise than the law that they come from, by more than many a true difference.
    assert abs(theirs[0] / float(np.asarray(exact)[:, 0].mean()) - 1) > 5e-3
    assert {'q05', 'q95'} <= set(table.column_names)
