"""TCN on stock trades: SPY's realised volatility over the next 30 days.

    python -m fjq.launch --config=configs/tcn_stocks.py:h100     11,200 chunks an update
    python -m fjq.launch --config=configs/tcn_stocks.py:tiny     seconds on two cores, no data needed

Variants, joined by commas: a device (rtx5080 rtx5090 h100 a100 h200 amd cpu), compat512, tickers, seven,
simulated, tiny.
Data: $FJQ_DATA/tcn/stocks_data (a file a day) and $FJQ_DATA/tcn/spy_daily_rv.parquet (--job=compute_rv makes one).
The 16 GB devices, cpu, tickers and compat512 read only the tickers that --job=top_stocks, run first with the same
config, lists in runs/tcn_stocks/top_stocks.txt (from training days alone).
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
        name='tcn_stocks',
        task=Tcn(stream='stocks'),
        data=TcnData(
            stream='stocks',
            root=os.path.join(DATA, 'stocks_data'),
            targets=os.path.join(DATA, 'spy_daily_rv.parquet'),
            split=Split(train_end='2022-12-31', valid_end='2023-06-30', purge_days=30, embargo_days=0),
            horizons=(30,),
        ),
        optim=Optim(learning_rate=3e-4, final_learning_rate=1e-6, warmup_steps=100, weight_decay=1e-5),
        train=Train(steps=2000, eval_every=100, save_every=100, metric='qlike', patience=10),
        evaluate=Evaluate(baselines=BASELINES, studies=(LabelWindows(),), loss='qlike', overlap=0, block=0),
    )
    return apply_variants(config, variant)
