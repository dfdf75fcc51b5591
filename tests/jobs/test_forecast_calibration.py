"""The forecast job calibrates by what the evaluation fitted, and fits where none did."""

import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy import stats

from fjq.calibration import AdaptiveConformal, Calibration, SplitConformal
from fjq.config import Evaluate, Experiment
from fjq.forecast import Quantiles
from fjq.jobs import forecast

LEVELS = (0.1, 0.5, 0.9)


class Weights:
    step, calibration, predict = 3, None, None


def test_it_is_fitted_once_and_kept(tmp_path, monkeypatch):
    target = np.random.Generator(np.random.Philox(1)).standard_normal((400, 1))
    rows = {'target': target, 'valid': np.ones((400, 1), bool), 'horizon': np.array([1])}
    law = Quantiles(LEVELS, np.tile(0.5 * stats.norm.ppf(LEVELS), (400, 1, 1)))
    asked = []
    monkeypatch.setattr(forecast, 'predict_rows', lambda predict, data, split: asked.append(split) or (law, rows))
    method = SplitConformal(levels=LEVELS)
    config = Experiment(name='m', task=None, data=None, evaluate=Evaluate(calibration=method))
    weights = Weights()
    fitted = forecast.calibrate(config, weights, None, law, tmp_path)
    assert asked == ['valid'] and fitted == Calibration.read(tmp_path, 3) and Calibration.read(tmp_path, 4) is None
    inside = np.abs(target[:, 0]) <= np.asarray(fitted.apply(law, rows).values)[:, 0, 2]
    assert abs(inside.mean() - 0.8) < 0.01
    weights.calibration = fitted
    assert forecast.calibrate(config, weights, None, law, tmp_path) is fitted and asked == ['valid']
    config.evaluate.calibration = SplitConformal(levels=(0.25, 0.75))  # another method: fitted anew
    assert forecast.calibrate(config, weights, None, law, tmp_path).method.levels == (0.25, 0.75) and len(asked) == 2


@pytest.mark.parametrize('hours', [1, 5])
def test_what_it_heard_of_labels_is_kept(tmp_path, monkeypatch, capsys, hours):
    """The next table may begin where this one ended; of labels that span several rows, where they are still to come."""
    time = np.datetime64('2024-01-01', 'ns') + np.arange(600) * np.timedelta64(1, 'h')
    target = np.random.Generator(np.random.Philox(1)).standard_normal((600, 1))
    rows = {'id': np.full(600, 'X'), 'time': time, 'target': target, 'valid': np.ones((600, 1), bool)}
    rows |= {'label_end': time[:, None] + np.timedelta64(hours, 'h'), 'horizon': np.array([hours])}
    law = Quantiles(LEVELS, np.tile(0.5 * stats.norm.ppf(LEVELS), (600, 1, 1)))
    parts = {'train': slice(0, 200), 'valid': slice(200, 380), 'test': slice(400, 600), 'all': slice(0, 600)}

    class Data:
        def rows(self, split):
            return {k: v if k == 'horizon' else v[parts[split]] for k, v in rows.items()}

        def fingerprint(self):
            return {}

    asked = []

    def part(split, first=0):
        asked.append(len(Data().rows(split)['time']) - first)
        found = {k: v if k == 'horizon' else v[first:] for k, v in Data().rows(split).items()}
        return Quantiles(LEVELS, law.values[parts[split]][first:]), found

    monkeypatch.setattr(forecast, 'predict_rows', lambda predict, data, split, first=0: part(split, first))
    monkeypatch.setattr(forecast, 'adopt_task', lambda config, workdir: config)
    monkeypatch.setattr(forecast, 'open_data', lambda config, workdir: Data())
    monkeypatch.setattr(forecast, 'changes_since_training', lambda workdir, fingerprint: [])
    monkeypatch.setattr(forecast.Trained, 'load', lambda workdir, task: Weights())
    method = AdaptiveConformal(levels=LEVELS, rate=0.05)
    config = Experiment(name='m', task=None, data=None, evaluate=Evaluate(calibration=method, levels=LEVELS))
    forecast.run(config, tmp_path)
    kept = Calibration.read(tmp_path, 3)
    assert kept.facts['state']['until'] == str(time[-1])
    fitted = Calibration.of(method, *part('valid'), 3)
    scored, whole = (c.apply(*part('test')).values for c in (fitted, fitted.hear(*part('test'))))
    np.testing.assert_array_equal(whole, scored)
    last = {k: v if k == 'horizon' else v[-50:] for k, v in rows.items()}
    np.testing.assert_array_equal(kept.apply(Quantiles(LEVELS, law.values[-50:]), last).values[-1], whole[-1])

    table = lambda name: pq.read_table(tmp_path / 'forecasts' / f'{name}.parquet')
    np.testing.assert_array_equal(table('all')['q90'].to_numpy()[400:], np.float32(scored[:, 0, 2]))  # as is evaluated
    assert table('latest').equals(table('all').slice(599)) and 'has followed labels' not in capsys.readouterr().out
    parts['all'] = slice(0, 560)  # as it was yesterday, then 40 rows more
    weights = Weights()
    monkeypatch.setattr(forecast.Trained, 'load', lambda workdir, task: weights)
    forecast.run(config, tmp_path)
    parts['all'], weights.calibration = slice(0, 600), Calibration.read(tmp_path, 3)
    written = (tmp_path / 'calibration.json').read_text(), (tmp_path / 'forecasts' / 'all.parquet').read_bytes()
    config.forecast.only_latest, asked[:] = True, []
    forecast.run(config, tmp_path)
    assert asked[0] == 1 and max(asked) == 40 + hours  # rows: what it waits for and the new ones, not the whole
    assert (tmp_path / 'calibration.json').read_text() == written[0]  # the next one goes on from the last whole table
    assert (tmp_path / 'forecasts' / 'all.parquet').read_bytes() == written[1]
    alone, config.forecast.only_latest = table('latest'), False
    forecast.run(config, tmp_path)
    assert table('latest').equals(alone)
    assert table('latest').equals(table('all').slice(599)) and 'has followed labels' not in capsys.readouterr().out


def test_the_newest_row_of_each_id_is_found():
    rows = {'id': np.array(list('ABACBA')), 'time': np.arange(6).astype('datetime64[h]')}
    newest = forecast.find_newest(rows)
    assert newest.tolist() == [3, 4, 5] and forecast.find_first(rows, newest, None) == 3

    def heard(until, *open_):
        state = {'until': until, 'open': {'time': list(open_)}}
        return Calibration(AdaptiveConformal(), {'until': '1970-01-01T00', 'state': state}, 1)

    assert forecast.find_first(rows, newest, heard('1970-01-01T02')) == 2
    assert forecast.find_first(rows, newest, heard('1970-01-01T02', '1970-01-01T02', '1970-01-01T01')) == 1
    assert forecast.find_first(rows, newest, heard('1970-01-01T05')) == 3
    assert forecast.find_first(rows, newest, Calibration(AdaptiveConformal(), {'until': '1970-01-01T02'}, 1)) == 2
    assert forecast.find_first(rows, newest, Calibration(SplitConformal(), {}, 1)) == 3
