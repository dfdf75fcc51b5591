"""Embeddings are those of the weights and the data that a run folder holds now."""

import json

import numpy as np
from test_bad_input import DAYS

from fjq.run import start_over


def vectors(run) -> dict[str, np.ndarray]:
    """Day -> its vectors, of the only checkpoint."""
    return {p.stem: np.load(p)['e_idx'] for p in run.glob('embeddings/1/*.npz')}


def test_other_weights_and_other_data_are_embedded_again(launch_ticks, tmp_path):
    run = tmp_path / 'run'
    launch_ticks('train', run)
    launch_ticks('embed', run)
    first, written = vectors(run), {p: p.stat().st_mtime_ns for p in run.glob('embeddings/1/*')}
    assert len(first) == len(DAYS)
    assert set(json.loads((run / 'embeddings/1/made_of.json').read_text())) == {'weights', 'data'}
    launch_ticks('embed', run)
    assert {p: p.stat().st_mtime_ns for p in run.glob('embeddings/1/*')} == written  # nothing is done twice
    launch_ticks('embed', run, '--config.data.frame=120s')
    assert all(2 * len(v) == len(first[day]) for day, v in vectors(run).items())
    kept = (run / 'embeddings').rename(tmp_path / 'kept')
    launch_ticks('train', run, '--fresh', '--config.seed=7')
    kept.rename(run / 'embeddings')  # as if the folder had outlived its weights
    launch_ticks('embed', run)
    assert vectors(run).keys() == first.keys()
    assert all(v.shape == first[d].shape and not np.allclose(v, first[d]) for d, v in vectors(run).items())


def test_fresh_leaves_nothing_that_was_made_of_the_old_weights(tmp_path):
    for folder in ('embeddings/3', 'report', 'forecasts', 'cache'):
        (tmp_path / folder).mkdir(parents=True)
    start_over(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {'cache', '.lock'}
