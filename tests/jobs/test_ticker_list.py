"""A vector of an embedding of tickers is that of the ticker in its place, so the list goes with the weights."""

import pytest
from test_bad_input import DAYS, ticks

import fjq
from fjq.errors import InputError


def test_weights_keep_their_list_and_refuse_another(launch_ticks, tmp_path, capsys):
    run, names = tmp_path / 'run', tmp_path / 'names.txt'
    names.write_text('SPX\nVIX\nRUT\n')
    flags = f'--config.data.tickers={names}', '--config.data.num_tickers=3', '--config.task.num_tickers=3'
    launch_ticks('train', run, *flags)
    launch_ticks('export', run)
    names.write_text('RUT\nSPX\nVIX\n')
    with pytest.raises(AssertionError):
        launch_ticks('evaluate', run, *flags)
    assert 'the weights were trained with the tickers' in capsys.readouterr().err
    forecast = fjq.load(run).predict_df(ticks(DAYS[0]))['mean']
    names.unlink()
    for folder in (run, run / 'export'):
        assert fjq.load(folder).predict_df(ticks(DAYS[0]))['mean'].equals(forecast)
    (run / 'fitted' / 'tickers.txt').write_text('RUT\nSPX\nVIX\n')
    with pytest.raises(InputError, match='trained with the tickers'):
        fjq.load(run).predict_df(ticks(DAYS[0]))
