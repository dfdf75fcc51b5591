"""A signal that is there is found: twenty simulated years, about seven minutes on two cores."""

import runpy
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).resolve().parent.parent / 'launch' / 'benchmarks' / 'planted_signal.py'


@pytest.mark.slow
def test_the_encoder_beats_persistence_and_har_with_intervals_above_zero(tmp_path):
    benchmark = runpy.run_path(str(BENCHMARK))
    findings = benchmark['measure'](tmp_path)
    for baseline in benchmark['BEATEN']:
        ahead = findings['differences'][baseline][-1]
        assert findings['horizons'][-1] == '30' and ahead['low'] > 0, ahead
