"""TCN on minute values of 900 indices, VIX and SPX among them: SPY's realised volatility over the next 30 days.

    python -m fjq.launch --config=configs/tcn_index.py:h100     24,000 chunks an update
    python -m fjq.launch --config=configs/tcn_index.py:tiny     seconds on two cores, no data needed

Variants, joined by commas: a device (rtx5080 rtx5090 h100 a100 h200 amd cpu), compat512, seven, simulated, tiny,
sample.
Data: $FJQ_DATA/tcn/index_data (a file a day) and $FJQ_DATA/tcn/spy_daily_rv.parquet (--job=compute_rv makes one).
Score to beat: the persistence of realised volatility, which beats the original's published loss (see README).
"""

import os

from fjq.config import Evaluate, Experiment, Optim, Train
from fjq.data.ticks.tcn import TcnData
from fjq.data.windows import Split
from fjq.models.tcn import Tcn
from fjq.models.tcn_variants import BASELINES, apply_variants
from fjq.studies.label_windows import LabelWindows

DATA = os.path.join(os.environ.get('FJQ_DATA', 'data'), 'tcn')


def get_config(variant: str = '') -> Experiment:
    config = Experiment(
        name='tcn_index',
        task=Tcn(stream='index'),
        data=TcnData(
            stream='index',
            root=os.path.join(DATA, 'index_data'),
            targets=os.path.join(DATA, 'spy_daily_rv.parquet'),
            split=Split(train_end='2022-12-31', valid_end='2023-06-30', purge_days=30, embargo_days=0),
            horizons=(30,),
        ),
        optim=Optim(learning_rate=3e-4, final_learning_rate=1e-6, warmup_steps=100, weight_decay=1e-5),
        train=Train(steps=2000, eval_every=100, save_every=100, metric='qlike', patience=10),
        evaluate=Evaluate(baselines=BASELINES, studies=(LabelWindows(),), loss='qlike', overlap=0, block=0),
    )
    return apply_variants(config, variant)
