"""MIGT-TVDT on 5-minute bars of E-mini Nasdaq: quantiles of log returns 15 minutes to 4 hours ahead.

    python -m fjq.launch --config=configs/migt_tvdt.py             128 windows an update, a GPU of 16 GB or more
    python -m fjq.launch --config=configs/migt_tvdt.py:tiny        seconds on two cores, no data needed
    python -m fjq.launch --config=configs/migt_tvdt.py:simulated   minutes; bars whose quantiles are known

Variants, joined by commas in any order: compat (the original's function), lowmem, and one of the data simulated, tiny,
nq and cn (public bars).
Data: $FJQ_DATA/bars/NQ.parquet, bars of 1 or 5 minutes of any vendor that fjq.data.bars.files knows.
Score to beat: the empirical quantiles scaled by EWMA volatility, which beat the original's published model. A fresh
model is quantiles in units of a better volatility (fjq.data.bars.scale; data.scale='ewma' for the plain one).
"""

import os

from fjq.calibration import AdaptiveConformal
from fjq.config import Evaluate, Experiment, Optim, Train
from fjq.data.bars.migt import MigtData
from fjq.data.windows import Split
from fjq.models.migt import Migt
from fjq.models.migt_variants import BASELINES, STUDIES, apply_variants

DATA = os.path.join(os.environ.get('FJQ_DATA', 'data'), 'bars')


def get_config(variant: str = '') -> Experiment:
    config = Experiment(
        name='migt_tvdt',
        task=Migt(dtype='bfloat16', variables=0, horizons=(), bars_per_day=0),  # as the data say
        data=MigtData(
            path=os.path.join(DATA, 'NQ.parquet'),
            split=Split(train_end='2021-12-31', valid_end='2023-12-31', purge_days=1, embargo_days=1),
        ),
        optim=Optim(learning_rate=3e-4, final_learning_rate=3e-6, warmup_steps=1000, weight_decay=0.01),
        train=Train(
            steps=20_000, eval_every=1000, save_every=1000, patience=5, ema=0.999, alarm='coverage_80', alarm_below=0.5
        ),
        evaluate=Evaluate(
            baselines=BASELINES, calibration=AdaptiveConformal(), studies=STUDIES, loss='crps', overlap=0, block=0
        ),
    )
    return apply_variants(config, variant)
