"""mqc: the micro quant chat by short commands. Each is translated to `python -m fjq.launch ...`, printed, and run.

    mqc quickstart [--csv FOLDER] [--asset A]     tokenizer, four stages, evaluation, paths and a report in one folder
    mqc tokenize [--bins]                         tokens and their card: learned codes, or quantile bins
    mqc train | stage1 | pretrain                 stage 1 on all assets
    mqc midtrain | stage2, sft | stage3, rl | stage4     the later stages, each from the one before
    mqc evaluate | eval | baseline                the test span beside Markov chains and other baselines
    mqc generate | gen                            paths of candles after an asset's last ones, or after seed tokens
    mqc report                                    the page of a run, and one page of all stages, stages.html
    mqc predict, decode, validate                 forecasts of every row; tokens back to candles; a look at the data
    mqc chat                                      type an asset and a horizon, get a table of prices
    mqc analyze | analysis                        use, entropy, patterns, transitions and outliers of tokens
    mqc examples, download, help

`mqc COMMAND --help` lists the flags of a command. Any field of a config is set by --config.FIELD=VALUE, but
not in quickstart, which has five configs. --fresh trains anew. A run is a folder: where the original had
checkpoints/sft.pt it is checkpoints/sft.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from fjq.config import nearest
from fjq.errors import InputError
from fjq.mqc.flags import ALIASES, COMMANDS, parse
from fjq.mqc.launches import launch
from fjq.mqc.translate import DEFAULT_RUN, find_folder, translate

DOWNLOAD = (
    'nothing is downloaded: put one CSV an asset into a folder (Date, Open, High, Low, Close, Volume, as Yahoo Finance '
    'and others export it; the name of the file is the asset) and give the folder by --data'
)


def main(argv: Sequence[str]) -> int:
    """Runs a command. Returns the exit code: 0 done, 2 wrong input."""
    try:
        return _run(list(argv))
    except InputError as e:
        print(f'mqc: {e}', file=sys.stderr)
        return 2


def _run(argv: list[str]) -> int:
    name = ALIASES.get(argv[0], argv[0]) if argv else 'help'
    if name == 'help':
        print(__doc__.strip())
        return 0
    if name == 'download':
        raise InputError(DOWNLOAD)
    if name not in COMMANDS:
        raise InputError(f'there is no command {argv[0]!r}', remedy=nearest(argv[0], [*COMMANDS, *ALIASES, 'download']))
    asked, rest = parse(name, argv[1:])
    if asked.get('device') not in (None, 'auto'):
        os.environ['JAX_PLATFORMS'] = asked['device']
    if name == 'quickstart':
        from fjq.mqc.quickstart import quickstart

        if rest:
            raise InputError(
                'quickstart trains five models, each with a config of its own',
                file=rest[0],
                remedy='give it to one of the commands that quickstart prints',
            )
        given = (asked.get(key, '') for key in ('csv', 'asset', 'out'))
        return quickstart(*given, asked.get('rng_seed', '0'), fresh='fresh' in asked)
    code = launch(translate(name, asked, rest))
    if name == 'report' and code == 0:
        from fjq.mqc.page import report_stages

        report_stages(Path(find_folder(asked.get('run', DEFAULT_RUN))))
    return code


def entry() -> None:
    sys.exit(main(sys.argv[1:]))
