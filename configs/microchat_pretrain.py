"""The micro quant chat, first of four stages: a GPT learns the next token of the candles of all assets.

    python -m fjq.launch --config=configs/microchat_pretrain.py          minutes on two cores
    python -m fjq.launch --config=configs/microchat_pretrain.py:tiny     seconds, no data needed

Variants, joined by commas: readme, compat (sizes of the original), learned (tokens of configs/microchat_tokenizer.py),
muon, simulated, planted, tiny.
Data: $FJQ_DATA/daily_ten, a CSV an asset; name another file or folder by --config.data.path.
Score: bits a token of the future on the test span beside Markov chains, and CRPS of sampled returns beside baselines.
"""

import os

from fjq.config import Evaluate, Experiment, Optim, Train
from fjq.data.tokens.data import TokenData
from fjq.data.windows import Split
from fjq.models.microchat import Microchat
from fjq.models.microchat_variants import BASELINES, STUDIES, apply_variants


def get_config(variant: str = '') -> Experiment:
    config = Experiment(
        name='microchat_pretrain',
        task=Microchat(stage='pretrain'),
        data=TokenData(
            path=os.path.join(os.environ.get('FJQ_DATA', 'data'), 'daily_ten'),
            split=Split(train_end='2022-12-31', valid_end='2023-12-31', purge_days=0, embargo_days=190),
            length=128,
            eval_stride=8,
        ),
        optim=Optim(learning_rate=1e-3, warmup_steps=50, betas=(0.9, 0.95), weight_decay=0.1),
        train=Train(steps=1000, eval_every=100, save_every=100, patience=4),
        evaluate=Evaluate(baselines=BASELINES, studies=STUDIES, loss='crps', overlap=0, block=0),
    )
    return apply_variants(config, variant)
