"""The forecast job calibrates by what the evaluation fitted, and fits where none did."""

import numpy as np
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


def test_what_it_heard_of_labels_is_kept(tmp_path, monkeypatch):
    """The next table may begin where this one ended."""
    time = np.datetime64('2024-01-01', 'ns') + np.arange(600) * np.timedelta64(1, 'h')
    target = np.random.Generator(np.random.Philox(1)).standard_normal((600, 1))
    rows = {'id': np.full(600, 'X'), 'time': time, 'target': target, 'valid': np.ones((600, 1), bool)}
    rows |= {'label_end': time[:, None] + np.timedelta64(1, 'h'), 'horizon': np.array([1])}
    law = Quantiles(LEVELS, np.tile(0.5 * stats.norm.ppf(LEVELS), (600, 1, 1)))
    parts = {'train': slice(0, 200), 'valid': slice(200, 400), 'test': slice(400, 600), 'all': slice(0, 600)}

    class Data:
        def rows(self, split):
            return {k: v if k == 'horizon' else v[parts[split]] for k, v in rows.items()}

        def fingerprint(self):
            return {}

    part = lambda split: (Quantiles(LEVELS, law.values[parts[split]]), Data().rows(split))
    monkeypatch.setattr(forecast, 'predict_rows', lambda predict, data, split: part(split))
    monkeypatch.setattr(forecast, 'adopt_task', lambda config, workdir: config)
    monkeypatch.setattr(forecast, 'open_data', lambda config, workdir: Data())
    monkeypatch.setattr(forecast, 'changes_since_training', lambda workdir, fingerprint: [])
    monkeypatch.setattr(forecast.Trained, 'load', lambda workdir: Weights())
    method = AdaptiveConformal(levels=LEVELS)
    forecast.run(
        Experiment(name='m', task=None, data=None, evaluate=Evaluate(calibration=method, levels=LEVELS)), tmp_path
    )
    kept = Calibration.read(tmp_path, 3)
    assert kept.facts['state']['until'] == str(time[-1])
    whole = Calibration.of(method, *part('valid'), 3).apply(law, rows).values
    last = {k: v if k == 'horizon' else v[-50:] for k, v in rows.items()}
    np.testing.assert_array_equal(kept.apply(Quantiles(LEVELS, law.values[-50:]), last).values[-1], whole[-1])
