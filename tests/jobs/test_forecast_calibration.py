"""The forecast job calibrates by what the evaluation fitted, and fits where none did."""

import numpy as np
from scipy import stats

from fjq.calibration import Calibration, SplitConformal
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
