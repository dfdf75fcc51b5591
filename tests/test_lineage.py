"""A run is shown beside the runs of its line: those it came from, and those that came of it."""

import json

import pytest

from fjq import report
from fjq.lineage import Link, find_line, find_pages
from fjq.report import Heading, Links, to_html, to_markdown


def make_run(folder, name, start='', tokenizer=None):
    folder.mkdir(parents=True)
    config = {'name': name, 'init_from': str(start), 'data': {'tokenizer': tokenizer} if tokenizer else None}
    (folder / 'config.json').write_text(json.dumps(config))
    (folder / 'manifest.json').write_text('{}')
    return folder


@pytest.fixture
def runs(tmp_path):
    """a -> b -> c, another of b, and one of its own; c's start was written down where it no longer is."""
    a = make_run(tmp_path / 'z & first', 'pretrain')
    b = make_run(tmp_path / 'b', 'sft', a)
    make_run(tmp_path / 'a last', 'rl', '/somewhere/else/b')
    make_run(tmp_path / 'b2', 'rl', b)
    make_run(tmp_path / 'alone', 'pretrain')
    (b / 'report.html').write_text('')
    for name, config in ('no run', '[]'), ('cut off', '{"na'), ('killed at its start', None):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        (folder / 'manifest.json').write_text('{}')
        if config:
            (folder / 'config.json').write_text(config)
    return tmp_path


@pytest.mark.parametrize('name', ['z & first', 'b', 'a last'])
def test_the_line_is_that_of_every_member(runs, name):
    line = find_line(runs / name)
    assert list(line) == [runs / n for n in ('z & first', 'b', 'a last', 'b2')]
    assert list(line.values()) == ['pretrain', 'sft', 'rl', 'rl']


def test_runs_that_start_from_each_other_end(tmp_path):
    make_run(tmp_path / 'a', 'x', tmp_path / 'b')
    make_run(tmp_path / 'b', 'y', tmp_path / 'a')
    assert set(find_line(tmp_path / 'a').values()) == {'x', 'y'}


def test_links_lead_to_reports_cards_and_paths(runs):
    assert find_pages(runs / 'a last') == [
        Link('pretrain: z & first', '../z%20%26%20first'),  # no report yet: the folder
        Link('sft: b', '../b/report.html'),
        Link('rl: b2', '../b2'),
    ]
    assert find_pages(runs / 'alone') == []
    (runs / 'codes').mkdir()
    (runs / 'codes' / 'card.md').write_text('')
    run = make_run(runs / 'with', 'pretrain', tokenizer={'path': str(runs / 'codes')})
    (run / 'generated').mkdir()
    assert [link.address for link in find_pages(run)] == ['../codes/card.md', 'generated']


def test_the_card_is_that_of_the_tokenizer_that_the_run_was_trained_with(tmp_path):
    run = make_run(tmp_path / 'run', 'pretrain', tokenizer={'path': str(tmp_path / 'codes')})
    for folder, name in ((tmp_path / 'codes', 'new'), (run / 'tokenizer', 'old')):
        folder.mkdir()
        (folder / 'card.md').write_text('')
        (folder / 'card.json').write_text(json.dumps({'hash': name}))
    for used, cards in (('new', ['../codes/card.md']), ('old', ['tokenizer/card.md']), ('gone', [])):
        (run / 'manifest.json').write_text(json.dumps({'data': {'tokenizer': used}}))
        assert [link.address for link in find_pages(run)] == cards


def test_a_page_shows_its_links(runs):
    blocks = list(report.collect(runs / 'b'))
    assert Heading('Pages beside this one') in blocks
    assert '- [pretrain: z & first](../z%20%26%20first)\n- [rl: a last](../a%20last)' in to_markdown(blocks)
    assert '<li><a href="../z%20%26%20first">pretrain: z &amp; first</a></li>' in to_html(blocks)
    assert not any(isinstance(b, Links) for b in report.collect(runs / 'alone'))
