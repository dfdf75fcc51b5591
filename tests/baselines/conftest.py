"""The market that the tests of the baselines share."""

import pytest
from simulated_market import make_market


@pytest.fixture(scope='module')
def market() -> tuple[dict, dict]:
    """(history, rows)"""
    return make_market()
