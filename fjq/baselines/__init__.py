"""What every model must beat. All baselines are called alike:

    law = baseline.forecast(history, rows, labels)

`history`: what was known when, sorted by time: `time` [M] and columns [M] such as `daily_rv`, `close`, `vix`, NaN
where a moment has no value; `id` [M] where it holds several series. A value stamped `time` is known from then on;
a date means the end of that day.

`rows`: the forecasts that are asked for: `time` [N], `id` [N] with several series, and the fields of `labels`.

`labels`: the rows that may be fitted, as `Dataset.rows` gives them: `time` [K], `target` [K, H], `valid` [K, H],
`label_end` [K, H], `id` [K]; with `train` [K] bool where some of them are later than the training span, and `steps`
[K, H] where a volatility is not the root of all squared steps that it spans (1 = annualised: of their mean).

The answer is a law, most often `Point` or `Quantiles`, with leading axes [N, H], in units of the target and NaN where
too little was known to forecast; no forecast reads anything that was not known at its row's time.

How labels are fitted:

    fit='train'      once, on `labels` (those with `train` True)
    fit='expanding'  anew at every row, on the labels of `labels` and `rows` that had ended `embargo` days (bars, where
                     times are integers) before it

A baseline whose column, labels or package is absent raises `Unavailable`; reports list it with the reason.
A volatility is the square root of a sum of squared steps: targets of the volatility baselines are volatilities. Those
of `RandomWalk`, `Bootstrap`, `GarchT` and `BoostedQuantiles` are log returns; quantiles of past targets suit both.
"""

from fjq.baselines.boosted import BoostedQuantiles
from fjq.baselines.constant import Constant, Zero
from fjq.baselines.ewma import Ewma
from fjq.baselines.garch import Garch, GarchT
from fjq.baselines.har import Har, HarQuantiles
from fjq.baselines.persistence import Persistence
from fjq.baselines.quantiles import EmpiricalQuantiles, ScaledQuantiles
from fjq.baselines.random_walk import Bootstrap, RandomWalk
from fjq.baselines.seasonal import SeasonalQuantiles
from fjq.baselines.series import Baseline, PathBaseline, Unavailable
from fjq.baselines.vix import Vix

__all__ = [
    'Baseline',
    'BoostedQuantiles',
    'Bootstrap',
    'Constant',
    'EmpiricalQuantiles',
    'Ewma',
    'Garch',
    'GarchT',
    'Har',
    'HarQuantiles',
    'PathBaseline',
    'Persistence',
    'RandomWalk',
    'ScaledQuantiles',
    'SeasonalQuantiles',
    'Unavailable',
    'Vix',
    'Zero',
]
