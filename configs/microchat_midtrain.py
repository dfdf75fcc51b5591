"""The micro quant chat, second of four stages: the GPT goes on with the candles of one asset, or of a few.

    python -m fjq.launch --config=configs/microchat_midtrain.py          a minute on two cores, after stage 1
    python -m fjq.launch --config=configs/microchat_midtrain.py:tiny     seconds, no data needed

Starts from the best weights of runs/microchat_pretrain; name another run by --config.init_from.
Variants, joined by commas: as in configs/microchat_pretrain.py; give the same to every stage.
Data: $FJQ_DATA/daily_ten; --config.data.assets names the assets (BTC-USD).
Score: as in stage 1, on these assets.
"""

import os

from fjq.config import Evaluate, Experiment, Optim, Train
from fjq.data.tokens.data import TokenData
from fjq.data.windows import Split
from fjq.models.microchat import Microchat
from fjq.models.microchat_variants import BASELINES, STUDIES, apply_variants


def get_config(variant: str = '') -> Experiment:
    config = Experiment(
        name='microchat_midtrain',
        task=Microchat(stage='midtrain'),
        data=TokenData(
            path=os.path.join(os.environ.get('FJQ_DATA', 'data'), 'daily_ten'),
            assets=('BTC-USD',),
            split=Split(train_end='2022-12-31', valid_end='2023-12-31', purge_days=0, embargo_days=190),
            length=128,
            eval_stride=2,
            batch_rows=8,
        ),
        optim=Optim(learning_rate=1e-4, warmup_steps=10, betas=(0.9, 0.95), weight_decay=0.1),
        train=Train(steps=100, eval_every=10, save_every=10, patience=4),
        evaluate=Evaluate(baselines=BASELINES, studies=STUDIES, loss='crps', overlap=0, block=0),
        init_from='runs/microchat_pretrain',
    )
    return apply_variants(config, variant)
