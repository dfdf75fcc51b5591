"""Paths of parameters and the rules over them, against `re` on plain strings."""

import re
from typing import NamedTuple

import jax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fjq.errors import InputError
from fjq.paths import flatten, match_rules, path_of

TREE = {'encoder': {'layers': {'0': {'kernel': 1, 'bias': 2}, '1': {'kernel': 3, 'bias': 4}}}, 'head': {'kernel': 5}}


def test_flatten_names_every_leaf_once():
    flat = flatten(TREE)
    assert sorted(flat.values()) == [1, 2, 3, 4, 5]
    for path, leaf in flat.items():
        node = TREE
        for part in path.split('/'):
            node = node[part]
        assert node == leaf


def test_path_of_lists_and_named_tuples():
    class Pair(NamedTuple):
        left: int
        right: int

    paths = [path_of(p) for p, _ in jax.tree_util.tree_leaves_with_path({'a': [Pair(1, 2)]})]
    assert paths == ['a/0/left', 'a/0/right']


@given(st.lists(st.sampled_from(['kernel', 'bias$', '^head', 'layers/1', 'x', r'\d/k', 'head|bias']), max_size=4))
def test_the_first_rule_that_matches_counts(patterns):
    rules = [f'{p}={i}' for i, p in enumerate(patterns)] + ['.*=rest']
    got = flatten(match_rules(rules, TREE, 'field'))
    for path, value in got.items():
        hits = [str(i) for i, p in enumerate(patterns) if re.search(p, path)]
        assert value == (hits or ['rest'])[0]


def test_a_pattern_may_hold_an_equals_sign():
    assert match_rules(['(?=head)=1', '.*=2'], {'head': 0}, 'field') == {'head': '1'}


@pytest.mark.parametrize(
    ('rules', 'words'),
    [
        (['kernel'], ['field', "'kernel'", 'pattern=value']),
        (['(=1'], ['field', "'(=1'", 'bad pattern']),
        (['kernel=1'], ['field', "'encoder/layers/0/bias'", '.*=']),
    ],
)
def test_a_bad_rule_is_named(rules, words):
    with pytest.raises(InputError) as e:
        match_rules(rules, TREE, 'field')
    assert all(w in str(e.value) for w in words)
