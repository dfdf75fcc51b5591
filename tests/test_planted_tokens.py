"""What only two tokens together tell is found: a few minutes on two cores."""

import runpy
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).resolve().parent.parent / 'launch' / 'benchmarks' / 'planted_tokens.py'


@pytest.mark.slow
def test_the_model_recovers_what_was_planted(tmp_path):
    benchmark = runpy.run_path(str(BENCHMARK))
    row = benchmark['measure'](tmp_path, False)
    assert float(row['low']) >= benchmark['BAR'], row
    assert abs(float(row['bigram_recovered'])) < 0.02 < float(row['trigram_recovered'])
