"""What the analysis of tokens says: transitions in words, the absence of patterns, moves in prices."""

import types

import numpy as np

from fjq.data.tokens.options import Analyze
from fjq.jobs.analyze import analyze, to_lines

RETURNS = np.array([-2.0, -0.5, 0.5, 2.0])


class Tokenizer:
    """Four tokens, by their return."""

    name, hash, vocabulary = 'four', 'f' * 16, 4

    def features(self, ids):
        return np.stack([RETURNS[ids]] * 5, -1)


def make_dataset(ids: np.ndarray, scale: np.ndarray) -> types.SimpleNamespace:
    time = np.datetime64('2020-01-01', 'ns') + np.arange(len(ids)) * np.timedelta64(1, 'D')
    candles = types.SimpleNamespace(id='A', time=time)
    asset = types.SimpleNamespace(candles=candles, id=ids, scale=scale, in_train=np.ones(len(ids), bool))
    return types.SimpleNamespace(tokenizer=Tokenizer(), assets=[asset])


def test_the_largest_true_move_is_the_first_outlier():
    """The outer token is worth what the volatility before it was: ten calm ones are no outliers, the wild one is."""
    ids = np.random.Generator(np.random.Philox(0)).integers(1, 3, 400)
    ids[20::40] = 3
    scale = np.full(401, 0.01)
    scale[300] = 0.1
    outliers = analyze(make_dataset(ids, scale), Analyze(sigmas=5.0))['outliers']
    (first,) = outliers['first']
    assert outliers['count'] == 1 and first['time'].startswith('2020-10-27') and first['token'] == 3
    assert first['log return'] == 0.2


def test_transitions_and_the_absence_of_patterns_are_said():
    lines = to_lines(analyze(make_dataset(np.tile([0, 1, 2], 40), np.ones(121)), Analyze(pattern=3, least=41)))
    assert 'after 0: 1 (100.0%)' in lines and 'after 2: 0 (100.0%)' in lines
    assert 'no pattern of 3 tokens was seen 41 times' in lines
