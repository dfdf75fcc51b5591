"""The micro quant chat, third of four stages: contexts with their future, the loss on the future alone.

    python -m fjq.launch --config=configs/microchat_sft.py          minutes on two cores, after stage 2
    python -m fjq.launch --config=configs/microchat_sft.py:tiny     seconds, no data needed

Starts from the best weights of runs/microchat_midtrain; name another run by --config.init_from.
Variants, joined by commas: as in configs/microchat_pretrain.py; give the same to every stage.
Data: $FJQ_DATA/daily_ten; --config.data.assets names the assets (BTC-USD).
Score: as in stage 1; validation also samples paths and counts tokens that came (free_accuracy) and their CRPS.
"""

import os

from fjq.config import Evaluate, Experiment, Optim, Train
from fjq.data.tokens.data import TokenData
from fjq.data.windows import Split
from fjq.models.microchat import Microchat
from fjq.models.microchat_variants import BASELINES, STUDIES, apply_variants


def get_config(variant: str = '') -> Experiment:
    config = Experiment(
        name='microchat_sft',
        task=Microchat(stage='sft'),
        data=TokenData(
            path=os.path.join(os.environ.get('FJQ_DATA', 'data'), 'daily_ten'),
            assets=('BTC-USD',),
            split=Split(train_end='2022-12-31', valid_end='2023-12-31', purge_days=0, embargo_days=190),
            layout='forecast',
            stride=4,
            eval_stride=2,
            batch_rows=16,
        ),
        optim=Optim(learning_rate=5e-5, warmup_steps=10, betas=(0.9, 0.95), weight_decay=0.1),
        train=Train(steps=200, eval_every=20, save_every=20, patience=4),
        evaluate=Evaluate(baselines=BASELINES, studies=STUDIES, loss='crps', overlap=0, block=0),
        init_from='runs/microchat_midtrain',
    )
    return apply_variants(config, variant)
