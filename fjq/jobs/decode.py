"""turns the tokens of tokens.npz back into candles: decoded/ASSET.csv with the path of prices that they tell."""

import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv

from fjq.atomic import write_atomic
from fjq.config import Experiment
from fjq.errors import InputError
from fjq.jobs.tokenize import open_tokenizer
from fjq.log import say, track


def run(config: Experiment, workdir: Path) -> None:
    """One CSV an asset: Date, Open, High, Low, Close, Token. Each path starts at the asset's first open and follows
    its tokens alone, so its distance from the true closes, which is printed, is what all codes together lose.

    Raises:
      InputError: tokens.npz is absent or damaged, of another tokenizer, or holds an id outside of the vocabulary.
    """
    file = workdir / 'tokens.npz'
    try:
        with np.load(file) as tokens:
            ids, asset, date = tokens['ids'], tokens['asset_id'], tokens['date']
            made_by = str(tokens['tokenizer_hash'])
    except (OSError, KeyError, ValueError, RuntimeError, zipfile.BadZipFile) as e:
        raise InputError(f'it can not be read ({e})', file=file, remedy='run --job=tokenize first') from e
    tokenizer, candles = open_tokenizer(config, workdir)
    if made_by != tokenizer.hash:
        raise InputError(
            f'the tokens were made by the tokenizer {made_by}, the config has {tokenizer.hash}',
            file=file,
            remedy='run --job=tokenize again',
        )
    known = {c.id: c for c in candles}
    for name in track(np.unique(asset).tolist(), total=len(np.unique(asset)), what='decode, assets'):
        rows = asset == name
        if name not in known or not np.array_equal(known[name].time, date[rows]):
            raise InputError(f'the candles of {name} are others than its tokens', file=file, remedy='tokenize again')
        truth = known[name]
        path = tokenizer.decode(ids[rows], truth.open[0], tokenizer.scale(truth)[0])
        day = np.datetime_as_string(date[rows], 'auto')
        columns = dict(zip(('Open', 'High', 'Low', 'Close'), truth.unit * path.T, strict=True))
        out = pa.BufferOutputStream()
        pacsv.write_csv(pa.table({'Date': day} | columns | {'Token': ids[rows]}), out)
        target = workdir / 'decoded' / f'{name}.csv'
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(target, out.getvalue().to_pybytes())
        error = np.diff(np.log(path[:, 3])) - np.diff(np.log(truth.close))
        drift = np.log(path[-1, 3] / truth.close[-1])
        say(f'{name}: RMSE of a log return {np.sqrt((error**2).mean()):.5f}, {drift:+.3f} in log price at the end')
    say(f'candles are in {workdir / "decoded"}')
