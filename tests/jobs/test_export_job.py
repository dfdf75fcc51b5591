"""What --job=export writes is the run's, whatever else the command line says, and every form that can be had."""

import numpy as np
import pyarrow.parquet as pq
import torch
from test_bad_input import DAYS, ticks

import fjq
from fjq.launch import load_config
from fjq.optim import make_schedule

OTHER = (  # than tests/ticks_config.py
    '--config.data.frame=120s',
    '--config.optim.learning_rate=3e-3',
    '--config.optim.final_learning_rate=2e-3',
    '--config.train.steps=4',
)
NAMES = {f'tcn_index_{kind}.pt' for kind in ('best', 'encoder')}


def read_torch(run, kind):
    return torch.load(run / 'checkpoints' / f'tcn_index_{kind}.pt', weights_only=True)


def test_an_export_is_of_the_run_whose_flags_are_not_repeated(launch_ticks, tmp_path):
    run = tmp_path / 'run'
    launch_ticks('train', run, *OTHER)
    launch_ticks('export', run)
    assert (run / 'export' / 'config.json').read_bytes() == (run / 'config.json').read_bytes()
    config = load_config(run / 'config.json')
    best = read_torch(run, 'best')
    (group,) = best['optimizer_state_dict']['param_groups']
    assert group['lr'] == float(make_schedule(config.optim, config.train.steps)(best['epoch'])) >= 2e-3
    (of_run, of_export) = (fjq.load(folder).predict_df(ticks(DAYS[0]))['mean'] for folder in (run, run / 'export'))
    assert of_run.equals(of_export)


def test_data_that_have_moved_are_found_by_the_flags(launch_ticks, tmp_path, capsys):
    """The batch that shapes are taken from may be of files elsewhere; the config that is exported stays the run's."""
    run, there = tmp_path / 'run', tmp_path / 'there'
    there.mkdir()
    for date in DAYS:
        pq.write_table(ticks(date), there / f'{date}.parquet')
    launch_ticks('train', run, f'--config.data.root={there}')
    there.rename(tmp_path / 'elsewhere')
    launch_ticks('export', run)
    assert f'can not be read, so those of the command show the shapes of a batch: {there}' in capsys.readouterr().out
    assert (run / 'export' / 'config.json').read_bytes() == (run / 'config.json').read_bytes()


def test_a_run_that_saved_memory_by_slices_of_chunks_is_exported(launch_ticks, tmp_path):
    run = tmp_path / 'run'
    launch_ticks('train', run, '--config.task.remat_chunks=20')
    launch_ticks('export', run)
    assert (run / 'export' / 'predict.stablehlo').is_file()
    assert {p.name for p in (run / 'checkpoints').glob('*.pt')} == NAMES


def test_a_run_by_muon_is_exported_without_moments(launch_ticks, tmp_path, capsys):
    run = tmp_path / 'run'
    launch_ticks('train', run, "--config.optim.muon_rules=('layers.*kernel$=1','.*=0')")
    launch_ticks('export', run)
    best, encoder = (read_torch(run, kind) for kind in ('best', 'encoder'))
    assert best['optimizer_state_dict'] is None
    assert 'tcn_index_best.pt has no optimizer_state_dict' in capsys.readouterr().out
    for name, value in encoder['chunked_encoder_state_dict'].items():
        np.testing.assert_array_equal(value, best['model_state_dict'][f'chunked_encoder.{name}'])
