"""Progress without and with a terminal, and the metrics file."""

import io
import json
import math

import numpy as np
import pytest

from fjq import log


def test_plain_lines_are_rare_and_the_last_says_how_many(monkeypatch, capsys):
    """12 items of 1 s: a line when 5 s have passed since the one before, and the end."""
    clock = iter(np.arange(0.0, 100.0))  # the start, then one call an item
    monkeypatch.setattr(log.time, 'monotonic', lambda: float(next(clock)))
    assert list(log.track('abcdefghijkl', total=12, what='letters')) == list('abcdefghijkl')
    assert capsys.readouterr().out.splitlines() == [
        'letters: 5/12 (42%), 1/s, 7.0 s left',
        'letters: 10/12 (83%), 1/s, 2.0 s left',
        'letters: 12 in 13.0 s, 0.923/s',
    ]


def test_an_interrupted_track_does_not_claim_its_end(capsys):
    with pytest.raises(KeyError):
        for item in log.track(range(5), total=5, what='items'):
            if item == 2:
                raise KeyError
    assert capsys.readouterr().out == ''


def test_nothing_to_do_is_said(capsys):
    assert list(log.track([], total=0, what='items')) == []
    assert capsys.readouterr().out == 'items: 0 in 0.0 s\n'


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_one_bar_that_says_lines_above_it(monkeypatch):
    screen = _Terminal()
    monkeypatch.setenv('TERM', 'xterm')
    monkeypatch.setenv('COLUMNS', '100')
    monkeypatch.setattr(log.sys, 'stdout', screen)
    for item in log.track(range(7), total=7, what='days'):
        if item == 3:
            log.say('half way')
    text = screen.getvalue()
    assert 'days' in text and '7/7' in text and 'half way' in text
    assert '\x1b[?25h' in text  # the cursor is shown again


@pytest.fixture
def folder(tmp_path):
    return tmp_path / 'run'


def _lines(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / 'metrics.jsonl').read_text().splitlines()]


def test_metrics_are_one_object_a_line_and_non_finite_is_null(folder):
    import jax.numpy as jnp

    with log.Writer(folder) as writer:
        writer.write(1, {'loss': np.float32(0.5), 'rows': 3})
        writer.write(2, {'loss': jnp.float32(math.nan), 'rate': -math.inf})
    assert _lines(folder) == [{'step': 1, 'loss': 0.5, 'rows': 3}, {'step': 2, 'loss': None, 'rate': None}]


def test_a_second_writer_appends(folder):
    for step in (1, 2):
        with log.Writer(folder) as writer:
            writer.write(step, {'loss': step / 2})
    assert [line['step'] for line in _lines(folder)] == [1, 2]


def test_truncate_removes_later_steps_and_a_half_written_line(folder):
    writer = log.Writer(folder)
    for step in (10, 20, 30):
        writer.write(step, {'loss': 1.0})
    with open(folder / 'metrics.jsonl', 'a') as f:
        f.write('{"step": 15, "lo')
    writer.truncate(20)
    writer.write(21, {'loss': 2.0})
    writer.close()
    assert [line['step'] for line in _lines(folder)] == [10, 20, 21]


def test_truncate_removes_a_line_with_a_flipped_bit(folder):
    with log.Writer(folder) as writer:
        for step in (1, 2, 3):
            writer.write(step, {'loss': 1.0})
        writer.close()
        whole = bytearray((folder / 'metrics.jsonl').read_bytes())
        whole[whole.index(b'loss', whole.index(b'2'))] ^= 128
        (folder / 'metrics.jsonl').write_bytes(whole)
        writer.truncate(3)
    assert [line['step'] for line in _lines(folder)] == [1, 3]


def test_truncate_before_the_first_line_is_nothing(folder):
    log.Writer(folder).truncate(5)
    assert not (folder / 'metrics.jsonl').exists()


def test_tensorboard_events_hold_the_finite_scalars(folder):
    pytest.importorskip('tensorboardX')
    from tensorboardX.proto.event_pb2 import Event

    with log.Writer(folder) as writer:
        writer.write(7, {'loss': 0.25, 'bad': math.nan})
    (path,) = folder.glob('events.out.tfevents.*')
    data, at, found = path.read_bytes(), 0, []
    while at < len(data):
        size = int.from_bytes(data[at : at + 8], 'little')
        event = Event.FromString(data[at + 12 : at + 12 + size])
        found += [(event.step, v.tag, v.simple_value) for v in event.summary.value]
        at += 16 + size
    assert found == [(7, 'loss', 0.25)]


def test_without_tensorboard_only_the_lines_are_written(folder, monkeypatch):
    monkeypatch.setattr(log.importlib.util, 'find_spec', lambda name: None)
    with log.Writer(folder) as writer:
        writer.write(1, {'loss': 1.0})
    assert [p.name for p in folder.iterdir()] == ['metrics.jsonl']
