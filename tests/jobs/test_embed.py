"""Embeddings are those of the weights and the data that a run folder holds now."""

import json

import command
import numpy as np
import pyarrow.parquet as pq
import pytest
from test_bad_input import CONFIG, DAYS, targets, ticks

from fjq.run import start_over


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp('market')
    (folder / 'ticks').mkdir()
    for date in DAYS:
        pq.write_table(ticks(date), folder / 'ticks' / f'{date}.parquet')
    pq.write_table(targets(), folder / 'rv.parquet')
    return folder


def vectors(run) -> dict[str, np.ndarray]:
    """Day -> its vectors, of the only checkpoint."""
    return {p.stem: np.load(p)['e_idx'] for p in run.glob('embeddings/1/*.npz')}


def test_other_weights_and_other_data_are_embedded_again(files, tmp_path, capsys):
    run = tmp_path / 'run'

    def launch(job, *flags):
        given = f'--config.data.root={files / "ticks"}', f'--config.data.targets={files / "rv.parquet"}'
        assert command.run(f'--config={CONFIG}', f'--workdir={run}', f'--job={job}', *given, *flags) == 0

    launch('train')
    launch('embed')
    first, written = vectors(run), {p: p.stat().st_mtime_ns for p in run.glob('embeddings/1/*')}
    assert len(first) == len(DAYS) and set(json.loads((run / 'embeddings/1/made_of.json').read_text())) == {
        'weights',
        'data',
    }
    launch('embed')
    assert {p: p.stat().st_mtime_ns for p in run.glob('embeddings/1/*')} == written  # nothing is done twice
    launch('embed', '--config.data.frame=120s')
    assert all(2 * len(v) == len(first[day]) for day, v in vectors(run).items())
    kept = (run / 'embeddings').rename(tmp_path / 'kept')
    launch('train', '--fresh', '--config.seed=7')
    kept.rename(run / 'embeddings')  # as if the folder had outlived its weights
    launch('embed')
    assert vectors(run).keys() == first.keys()
    assert all(v.shape == first[d].shape and not np.allclose(v, first[d]) for d, v in vectors(run).items())


def test_fresh_leaves_nothing_that_was_made_of_the_old_weights(tmp_path):
    for folder in ('embeddings/3', 'report', 'forecasts', 'cache'):
        (tmp_path / folder).mkdir(parents=True)
    start_over(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {'cache', '.lock'}
