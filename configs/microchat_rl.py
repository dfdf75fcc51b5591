"""The micro quant chat, last of four stages: sampled futures are rewarded against others of the same context.

    python -m fjq.launch --config=configs/microchat_rl.py          minutes on two cores, after stage 3
    python -m fjq.launch --config=configs/microchat_rl.py:tiny     seconds, no data needed

Starts from the best weights of runs/microchat_sft, which it is held to by their KL divergence: it stops at 0.1 nats a
token (--config.train.budget_above). Name another run by --config.init_from, another reward by --config.task.reward:
crps (default), token_acc, proximity, return_mse, direction, pnl, sharpe. Cross-entropy, which the stages before
minimise, is a proper score already, and most of these rewards are best served by a forecast without spread: compare
coverage and PIT in the report with those of stage 3.
Variants, joined by commas: as in configs/microchat_pretrain.py; give the same to every stage.
Data: $FJQ_DATA/daily_ten; --config.data.assets names the assets (BTC-USD). Rewards are of the training span only.
Score: as in stage 1; validation gives the mean reward and CRPS of sampled paths.
"""

import os

from fjq.config import Evaluate, Experiment, Optim, Train
from fjq.data.tokens.data import TokenData
from fjq.data.windows import Split
from fjq.models.microchat import Microchat
from fjq.models.microchat_variants import BASELINES, STUDIES, apply_variants


def get_config(variant: str = '') -> Experiment:
    config = Experiment(
        name='microchat_rl',
        task=Microchat(stage='rl'),
        data=TokenData(
            path=os.path.join(os.environ.get('FJQ_DATA', 'data'), 'daily_ten'),
            assets=('BTC-USD',),
            split=Split(train_end='2022-12-31', valid_end='2023-12-31', purge_days=0, embargo_days=190),
            layout='forecast',
            stride=4,
            eval_stride=2,
            batch_rows=16,
        ),
        optim=Optim(learning_rate=2e-5, warmup_steps=10, betas=(0.9, 0.95)),
        train=Train(
            steps=100,
            eval_every=20,
            save_every=20,
            metric='reward',
            mode='max',
            patience=3,
            budget='kl',
            budget_above=0.1,
        ),
        evaluate=Evaluate(baselines=BASELINES, studies=STUDIES, loss='crps', overlap=0, block=0),
        init_from='runs/microchat_sft',
    )
    return apply_variants(config, variant)
