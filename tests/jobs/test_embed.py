"""Embeddings are those of the weights and the data that a run folder holds now."""

import json

import command
import numpy as np
from test_bad_input import DAYS

from fjq.clear import clear


def vectors(run) -> dict[str, np.ndarray]:
    """Day -> its vectors, of the only checkpoint."""
    return {p.stem: np.load(p)['e_idx'] for p in run.glob('embeddings/1/*.npz')}


def test_other_weights_and_other_data_are_embedded_again(launch_ticks, tmp_path, capsys):
    run = tmp_path / 'run'
    launch_ticks('train', run)
    launch_ticks('embed', run)
    first, written = vectors(run), {p: p.stat().st_mtime_ns for p in run.glob('embeddings/1/*')}
    assert len(first) == len(DAYS)
    assert set(json.loads((run / 'embeddings/1/made_of.json').read_text())) == {'weights', 'task', 'data'}
    launch_ticks('embed', run)
    assert {p: p.stat().st_mtime_ns for p in run.glob('embeddings/1/*')} == written  # nothing is done twice
    launch_ticks('embed', run, '--config.task.dtype=bfloat16')
    assert all(not np.array_equal(v, first[day]) for day, v in vectors(run).items())
    (tmp_path / 'few.txt').write_text('SPX\n')
    capsys.readouterr()
    launch_ticks('embed', run, f'--config.data.tickers={tmp_path / "few.txt"}')
    assert 'the data are not those of the training: chunks differ' in capsys.readouterr().out
    assert all(not np.allclose(v, first[day]) for day, v in vectors(run).items())
    kept = (run / 'embeddings').rename(tmp_path / 'kept')
    launch_ticks('train', run, '--fresh', '--config.seed=7')
    kept.rename(run / 'embeddings')  # as if the folder had outlived its weights
    launch_ticks('embed', run)
    assert vectors(run).keys() == first.keys()
    assert all(v.shape == first[d].shape and not np.allclose(v, first[d]) for d, v in vectors(run).items())


def test_weights_do_not_embed_other_frames_than_those_that_they_were_trained_on(launch_ticks, tmp_path, capsys):
    run = tmp_path / 'run'
    launch_ticks('train', run)
    assert command.run(f'--config={run / "config.json"}', '--job=embed', '--config.data.frame=120s') == 2
    assert 'trained with the frame 60s, the data have 120s' in capsys.readouterr().err
    assert not (run / 'embeddings').exists()
    assert command.run(f'--config={run / "config.json"}', '--job=embed', '--config.data.frame=1min') == 0


def test_fresh_leaves_nothing_that_was_made_of_the_old_weights(tmp_path):
    for folder in ('embeddings/3', 'report', 'forecasts', 'cache'):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / 'manifest.json').write_text('{"seed": 0, "data": {}}')
    clear(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {'cache', '.lock'}
