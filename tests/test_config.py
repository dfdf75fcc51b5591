"""Configs to JSON and back, and what may not come back."""

import dataclasses
import json
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fjq.config import (
    ABSENT,
    Evaluate,
    Experiment,
    Mesh,
    Optim,
    Train,
    check_elements,
    check_path,
    find_changes,
    from_dict,
    from_json,
    nearest,
    to_dict,
    to_json,
)
from fjq.errors import InputError
from fjq.parallel import Parallel


def experiment(**changes):
    return Experiment(name='x', task=Optim(), data=Mesh(), **changes)


@given(
    st.builds(Train, steps=st.integers(1), ema=st.floats(allow_nan=False), metric=st.text(), mode=st.text()),
    st.builds(Optim, betas=st.tuples(st.floats(0, 1), st.floats(0, 1)), rate_rules=st.lists(st.text()).map(tuple)),
    st.lists(st.builds(Parallel, workers=st.integers()), max_size=3).map(tuple),
    st.integers(),
)
def test_round_trip(train, optim, baselines, seed):
    config = experiment(train=train, optim=optim, seed=seed)
    config.evaluate.baselines = baselines
    assert from_json(to_json(config)) == config
    assert from_dict(to_dict(config)) == config


def test_changed_fields_survive_and_types_are_kept():
    config = experiment()
    config.mesh.fsdp, config.optim.warmup_steps = True, 7
    again = from_json(to_json(config))
    assert again.mesh.fsdp is True and again.optim.warmup_steps == 7 and isinstance(again.optim.betas, tuple)
    assert again != experiment()


@pytest.mark.parametrize(
    'kind',
    [
        'os.system',
        'subprocess.Popen',
        'builtins.eval',
        'fjqx.config.Optim',
        'fjq',
        'config.Optim',
        '',
        None,
        3,
        'fjq.config.nearest',  # a function
        'fjq.config.json',  # a module
        'fjq.config.Nothing',
        'fjq.nothing.Optim',
        'fjq..Optim',
    ],
)
def test_foreign_types_are_refused(kind):
    with pytest.raises(InputError, match='type'):
        from_dict({'type': kind})
    with pytest.raises(InputError, match='type'):
        from_json(json.dumps(to_dict(experiment()) | {'task': {'type': kind, 'x': 1}}))


def test_unknown_and_absent_fields_are_named():
    with pytest.raises(InputError, match="no field 'lerning_rate'. Did you mean 'learning_rate'"):
        from_dict({'type': 'fjq.config.Optim', 'lerning_rate': 1})
    with pytest.raises(InputError, match="lacks the field 'task'"):
        from_dict({'type': 'fjq.config.Experiment', 'name': 'x', 'data': 0})


@pytest.mark.parametrize('value', [{'a': 1}, {1}, object(), len, b'x'])
def test_what_has_no_json_form_is_refused(value):
    with pytest.raises(InputError, match=type(value).__name__):
        to_dict(experiment(cache=value))


@given(st.text(string.ascii_lowercase, max_size=8))
def test_nearest_names_a_choice(word):
    choices = ['learning_rate', 'warmup_steps', 'eps']
    assert any(c in nearest(word, choices) for c in choices)
    assert nearest('warmup_step', choices) == "did you mean 'warmup_steps'"


def test_every_field_of_an_experiment_has_a_path():
    config = experiment()
    for holder in dataclasses.fields(config):
        check_path(config, holder.name)
        value = getattr(config, holder.name)
        for field in dataclasses.fields(value) if dataclasses.is_dataclass(value) else ():
            check_path(config, f'{holder.name}.{field.name}')


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        (
            {'optim': Optim(betas=('fast', 0.9))},
            r"'optim.betas': 'fast' is no float. Give a list, as in --config.optim.betas=",
        ),
        ({'evaluate': Evaluate(levels=(0.1, True))}, "'evaluate.levels': True is no float"),
        ({'mesh': Mesh(rules=(1,))}, "'mesh.rules': 1 is no str"),
        ({'optim': Optim(decay_rules=('.*=1', 2))}, "'optim.decay_rules': 2 is no str"),
    ],
)
def test_elements_of_a_tuple_have_its_type(change, words):
    check_elements(experiment(optim=Optim(betas=(0, 0.9))))
    with pytest.raises(InputError, match=words):
        check_elements(experiment(**change))


def test_changes_are_named_by_path():
    old = to_dict(experiment())
    new = to_dict(experiment(optim=Optim(eps=1.0), train=Train(steps=3))) | {'added': 1}
    assert find_changes(old, old) == {}
    assert find_changes(old, new) == {'optim.eps': (1e-8, 1.0), 'train.steps': (1000, 3), 'added': (ABSENT, 1)}


@pytest.mark.parametrize(
    ('path', 'words'),
    [
        ('optm.eps', "no field 'optm'. Did you mean 'optim'"),
        ('optim.ep', "no field 'ep'. Did you mean 'eps'"),
        ('seed.x', "'seed' has no fields"),
        ('optim.betas.0', "'optim.betas' has no fields"),
    ],
)
def test_a_wrong_path_names_the_nearest(path, words):
    with pytest.raises(InputError, match=words):
        check_path(experiment(), path)
