"""Variants of a config apply in the order of their table, whatever order they are given in."""

import itertools
import runpy
from pathlib import Path

import pytest

from fjq.config import to_json
from fjq.errors import InputError
from fjq.launch import load_config

CONFIGS = sorted((Path(__file__).resolve().parent.parent / 'configs').glob('*.py'))


def read(file: Path, variant: str) -> str:
    try:
        return to_json(load_config(file, variant))
    except InputError as e:
        return str(e)


@pytest.mark.parametrize('file', CONFIGS, ids=lambda file: file.stem)
def test_their_order_does_not_count(file):
    variants = runpy.run_path(str(file))['apply_variants'].__globals__['_VARIANTS']
    for a, b in itertools.combinations(variants, 2):
        assert read(file, f'{a},{b}') == read(file, f'{b},{a}'), (a, b)
