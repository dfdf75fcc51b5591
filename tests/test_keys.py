"""Keys differ wherever the seed, the name or the step does, and nowhere else."""

import itertools

import jax
import numpy as np
import pytest

from fjq.keys import make_key


def bits(key):
    return tuple(np.asarray(jax.random.key_data(key)).tolist())


def test_every_use_has_its_own_key():
    uses = list(itertools.product((0, 1, 7), ('init', 'train', 'brain', 'prepare'), (0, 1, 2, 1000)))
    assert len({bits(make_key(*use)) for use in uses}) == len(uses)


def test_a_traced_step_gives_the_same_key():
    traced = jax.jit(lambda step: jax.random.key_data(make_key(3, 'train', step)))
    for step in (0, 5, 2**31 - 1):
        assert bits(make_key(3, 'train', step)) == tuple(np.asarray(traced(step)).tolist())


def test_steps_and_names_give_independent_numbers():
    streams = [
        jax.random.normal(make_key(0, name, step), (2000,)) for name in ('train', 'prepare') for step in range(4)
    ]
    correlation = np.corrcoef(np.stack(streams)) - np.eye(len(streams))
    assert np.abs(correlation).max() < 5 / np.sqrt(2000)


def test_a_name_is_needed():
    with pytest.raises(TypeError):
        make_key(0)
