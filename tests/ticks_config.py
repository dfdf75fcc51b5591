"""trains a small encoder on daily index files that a test wrote: one day ahead, one update."""

from fjq.config import Evaluate, Experiment, Optim, Train
from fjq.data.ticks.tcn import TcnData
from fjq.data.windows import Split
from fjq.models.tcn import Tcn
from fjq.parallel import Parallel


def get_config(variant=''):
    return Experiment(
        name='ticks',
        task=Tcn(hidden=4, layers=1, d_model=4, head_hidden=4),
        data=TcnData(
            split=Split(train_end='2022-02-11', valid_end='2022-02-18', purge_days=1, embargo_days=0),
            horizons=(1,),
            frame='60s',
            chunk_len=8,
            batch_rows=8,
            chunk_buckets=(16,),
            frame_buckets=(16,),
        ),
        optim=Optim(learning_rate=1e-3),
        train=Train(steps=1),
        evaluate=Evaluate(),
        parallel=Parallel(workers=1),
    )
