"""The tokenizer of the micro quant chat: an autoencoder of daily candles with 512 codes.

    python -m fjq.launch --config=configs/microchat_tokenizer.py          minutes on two cores
    python -m fjq.launch --config=configs/microchat_tokenizer.py:tiny     seconds, no data needed
    python -m fjq.launch --config=configs/microchat_tokenizer.py --job=tokenize     tokens, candles again, and a card

Variants, joined by commas: fsq, rvq, bsq (other codes, 512 too), compat (the original's), simulated, tiny.
Data: $FJQ_DATA/daily_ten, a CSV an asset; name another file or folder by --config.data.path.
Score: R2 of each feature after its code on the test span, beside the mean of training (fjq.models.candle_autoencoder).
"""

import os

from fjq.baselines import Constant
from fjq.config import Evaluate, Experiment, Optim, Train
from fjq.data.candles.windows import CandleWindowData
from fjq.data.windows import Split
from fjq.models.candle_autoencoder import CandleAutoencoder
from fjq.models.candle_variants import apply_variants


def get_config(variant: str = '') -> Experiment:
    config = Experiment(
        name='microchat_tokenizer',
        task=CandleAutoencoder(),
        data=CandleWindowData(
            path=os.path.join(os.environ.get('FJQ_DATA', 'data'), 'daily_ten'),
            split=Split(train_end='2022-12-31', valid_end='2023-12-31', purge_days=0, embargo_days=0),
        ),
        optim=Optim(learning_rate=1e-3, warmup_steps=100, weight_decay=0.01),
        train=Train(steps=3000, eval_every=250, save_every=250, log_every=50, metric='mse', patience=4),
        evaluate=Evaluate(baselines=(Constant(),), loss='mse', overlap=1, block=20),
    )
    return apply_variants(config, variant)
