"""trains the toy regression of tests/toy.py."""

from fjq.errors import InputError


def get_config(variant=''):
    import toy  # tests/ is on the path

    if variant not in ('', 'tiny'):
        raise InputError(f'there is no variant {variant!r}', remedy="choose 'tiny'")
    return toy.experiment(task__dropout=0.2)
