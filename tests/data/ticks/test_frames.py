"""Frames against the formulas of the specification, written out tick by tick."""

import datetime
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fjq.data.source import list_days
from fjq.data.ticks import frames as frames_module
from fjq.data.ticks.files import TickFiles, Ticks, read_day
from fjq.data.ticks.frames import Frames, frame_day, parse_frame
from fjq.errors import InputError

DATE = datetime.date(2022, 2, 1)
OPEN = 1643725800 * 10**9  # 09:30 in New York
MS = 10**6


def make_ticks(rows, *, sized: bool) -> Ticks:
    """rows of (ticker, milliseconds after the open, price, size) -> unsorted ticks."""
    names = tuple(sorted({r[0] for r in rows}))
    ticker = np.array([names.index(r[0]) for r in rows], np.int32)
    time = np.array([OPEN + int(r[1] * MS) for r in rows], np.int64)
    price = np.array([r[2] for r in rows], np.float64)
    size = np.array([r[3] for r in rows], np.float64) if sized else None
    return Ticks(DATE, names, ticker, time, price, size)


def reference(ticks: Ticks, features: str, seconds: int = 10, chunk_len: int = 256):
    """Lists of (chunk rows, weight, frame), scalars and times, tick by tick."""
    order = sorted(range(len(ticks.time)), key=lambda i: (ticks.time[i], ticks.ticker[i], i))
    frames: dict[int, list[int]] = {}
    for i in order:
        frames.setdefault(int(ticks.time[i]) // (seconds * 10**9), []).append(i)
    last: dict[int, float] = {}
    previous_time = None
    chunks, weights, ids, scalars, times = [], [], [], [], []
    for index, (bucket, members) in enumerate(sorted(frames.items())):
        t = [int(ticks.time[i]) for i in members]
        rows = []
        if features == 'compat':
            p = [float(np.float32(ticks.price[i])) for i in members]
            if ticks.size is None:
                s = [0.0] + [abs(b - a) for a, b in zip(p, p[1:], strict=False)]
                mean = sum(p) / len(p)
                scalar = (len(p), sum((x - mean) ** 2 for x in p), sum(s))
            else:
                s = [float(ticks.size[i]) for i in members]
                scalar = (len(p), sum(a * b for a, b in zip(p, s, strict=True)), sum(s))
            logs = [math.log1p(x) for x in s]
            mean = sum(logs) / len(logs)
            std = math.sqrt(sum((x - mean) ** 2 for x in logs) / len(logs)) if len(set(logs)) > 1 else 0.0
            elapsed = [(x - t[0]) / 1e9 for x in t]
            positive = [x for x in elapsed if x > 0]
            median = float(np.median(positive)) if positive else 1e-3
            for a, b, c in zip(p, logs, elapsed, strict=True):
                price = math.log(a / p[0]) if p[0] > 0 and a > 0 else 0.0
                rows.append([price, (b - mean) / std if std else b, math.log1p(c / median)])
        else:
            returns, signed, waits = [], [], []
            for i, now in zip(members, t, strict=True):
                code, price = int(ticks.ticker[i]), float(ticks.price[i])
                before = last.get(code, 0.0)
                r = math.log(price / before) if before > 0 and price > 0 else 0.0
                size = (abs(price - before) if r else 0.0) if ticks.size is None else float(ticks.size[i])
                returns.append(1000 * r)
                signed.append((r > 0) * math.log1p(size) - (r < 0) * math.log1p(size))
                waits.append(math.log1p((now - previous_time) / 1e6) if previous_time is not None else 0.0)
                last[code], previous_time = price, now
            rms = math.sqrt(sum(x * x for x in signed) / len(signed))
            rows = [[a, b / rms if rms else b, c] for a, b, c in zip(returns, signed, waits, strict=True)]
            if ticks.size is None:
                scalar = (len(rows), sum(r * r for r in returns), sum(abs(r) for r in returns))
            else:
                scalar = (len(rows), sum(ticks.price[i] * ticks.size[i] for i in members), sum(ticks.size[members]))
        scalars.append(scalar)
        times.append(bucket * seconds * 10**9)
        for j in range(0, len(rows), chunk_len):
            part = rows[j : j + chunk_len]
            chunks.append(part + [[0.0] * 3] * (chunk_len - len(part)))
            weights.append(len(part))
            ids.append(index)
    return np.array(chunks), np.array(weights), np.array(ids), np.array(scalars), np.array(times)


def assert_equals_reference(frames: Frames, ticks: Ticks, features: str, rtol: float = 2e-5, **settings_) -> None:
    chunks, weights, ids, scalars, times = reference(ticks, features, **settings_)
    assert frames.chunks.dtype == frames.weights.dtype == frames.scalars.dtype == np.float32
    assert frames.frame.dtype == np.int32 and frames.time.dtype == np.int64
    np.testing.assert_allclose(frames.chunks, chunks, rtol=rtol, atol=2e-5)
    np.testing.assert_array_equal(frames.weights, weights)
    np.testing.assert_array_equal(frames.frame, ids)
    np.testing.assert_allclose(frames.scalars, scalars, rtol=rtol, atol=1e-4)
    np.testing.assert_array_equal(frames.time, times)


MIXED = [
    ('B', 0, 10.0, 100.0),
    ('A', 0, 20.0, 200.0),  # same time as B, but before it
    ('A', 1500, 0.0, 1.0),  # no print
    ('B', 700, 10.5, 0.001),
    ('A', 9999, 21.0, 300.0),
    ('C', 10000, 5.0, 50.0),  # single tick of its frame
    ('A', 47000, 0.0, 10.0),  # the frame's first price is 0
    ('B', 47000, 11.0, 10.0),  # constant size
    ('B', 47001, 11.0, 10.0),
    ('B', 46999, 12.0, 10.0),
    ('A', 61000, 21.0, 10.0),
]


@pytest.mark.parametrize('features', ['compat', 'v2'])
@pytest.mark.parametrize('sized', [True, False])
def test_hand_made_ticks_follow_the_formulas(features, sized):
    ticks = make_ticks(MIXED, sized=sized)
    assert_equals_reference(frame_day(ticks, features=features), ticks, features)
    assert_equals_reference(frame_day(ticks, features=features, chunk_len=2), ticks, features, chunk_len=2)
    assert_equals_reference(frame_day(ticks, features=features, frame='5s'), ticks, features, seconds=5)


@pytest.mark.parametrize('features', ['compat', 'v2'])
@pytest.mark.parametrize('sized', [True, False])
def test_blocks_that_are_worked_on_at_a_time_do_not_show(monkeypatch, features, sized):
    ticks = make_ticks(MIXED, sized=sized)
    monkeypatch.setattr(frames_module, 'BLOCK_TICKS', 3)
    assert_equals_reference(frame_day(ticks, features=features, chunk_len=2), ticks, features, chunk_len=2)


def test_compat_values_worked_out_by_hand():
    rows = [('A', 0, 100.0, 1.0), ('A', 1000, 110.0, 3.0), ('A', 3000, 0.0, 1.0), ('A', 4000, 90.0, 3.0)]
    frames = frame_day(make_ticks(rows, sized=True))
    chunk = frames.chunks[0]
    np.testing.assert_allclose(chunk[:4, 0], [0, np.log(1.1), 0, np.log(0.9)], rtol=1e-6)
    np.testing.assert_allclose(chunk[:4, 1], [-1, 1, -1, 1], rtol=1e-6)
    np.testing.assert_allclose(chunk[:4, 2], np.log1p([0, 1 / 3, 1, 4 / 3]), rtol=1e-6)  # median of 1, 3, 4 s is 3
    assert not chunk[4:].any()
    np.testing.assert_allclose(frames.scalars, [[4, 100 + 330 + 0 + 270, 8]])
    assert frames.time.tolist() == [OPEN] and frames.weights.tolist() == [4]


def test_constant_size_is_not_scaled_and_a_first_price_of_zero_empties_the_channel():
    rows = [('A', 0, 0.0, 7.3), ('B', 5, 3.0, 7.3), ('C', 9, 4.0, 7.3)]
    chunk = frame_day(make_ticks(rows, sized=True)).chunks[0]
    assert not chunk[:3, 0].any()
    np.testing.assert_allclose(chunk[:3, 1], np.log1p(7.3), rtol=1e-6)


def test_v2_values_worked_out_by_hand():
    rows = [('A', 0, 100.0, 1.0), ('B', 250, 10.0, 1.0), ('A', 9000, 101.0, 1.0), ('B', 12000, 9.0, 3.0)]
    frames = frame_day(make_ticks(rows, sized=True), features='v2')
    np.testing.assert_allclose(frames.chunks[0, :3, 0], [0, 0, 1000 * np.log(1.01)], rtol=1e-5)
    np.testing.assert_allclose(frames.chunks[1, 0], [1000 * np.log(0.9), -1, np.log1p(3000)], rtol=1e-5)
    np.testing.assert_allclose(frames.chunks[0, :3, 2], np.log1p([0, 250, 8750]), rtol=1e-6)


tick = st.tuples(
    st.sampled_from('ABCD'),
    st.integers(0, 40_000),
    st.sampled_from([0.0, 1.0, 1.5, 20.25, 48_000.0]),
    st.sampled_from([0.0, 0.5, 100.0, 1e6]),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(tick, min_size=1, max_size=40), st.booleans(), st.sampled_from(['compat', 'v2']))
def test_any_ticks_follow_the_formulas(rows, sized, features):
    ticks = make_ticks(rows, sized=sized)
    assert_equals_reference(frame_day(ticks, features=features, chunk_len=8), ticks, features, chunk_len=8)


@settings(max_examples=40, deadline=None)
@given(st.lists(tick, min_size=2, max_size=40), st.booleans(), st.sampled_from(['compat', 'v2']), st.data())
def test_a_frame_does_not_see_later_ticks(rows, sized, features, data):
    cut = data.draw(st.integers(1, 40_000)) // 10_000 * 10_000
    changed = [(r[0], r[1], r[2] * 3 + 1, r[3] + 5) if r[1] >= cut else r for r in rows]
    before, after = (frame_day(make_ticks(r, sized=sized), features=features, chunk_len=8) for r in (rows, changed))
    t = int(np.sum(before.time < OPEN + cut * MS))
    k = int(np.sum(before.frame < t))
    np.testing.assert_array_equal(before.chunks[:k], after.chunks[:k])
    np.testing.assert_array_equal(before.scalars[:t], after.scalars[:t])


def test_order_of_the_rows_does_not_matter():
    ticks = make_ticks(MIXED, sized=True)
    turn = np.random.Generator(np.random.Philox(1)).permutation(len(MIXED))
    turned = make_ticks([MIXED[i] for i in turn], sized=True)
    for a, b in zip(frame_day(ticks)[:5], frame_day(turned)[:5], strict=True):
        np.testing.assert_array_equal(a, b)


def test_places_of_tickers_follow_the_vocabulary():
    frames = frame_day(make_ticks(MIXED, sized=True), vocabulary=('B', 'Z', 'A'), chunk_len=4)
    assert frames.tickers.shape == (5, 4) and frames.tickers.dtype == np.int32
    # (time, ticker): A0 B0 B700 A1500 | A9999 ; C ; B46999 A B | B47001 is the fourth of its frame
    assert frames.tickers.tolist() == [[2, 0, 0, 2], [2, -1, -1, -1], [-1] * 4, [0, 2, 0, 0], [2, -1, -1, -1]]
    assert frame_day(make_ticks(MIXED, sized=True)).tickers is None


def test_no_ticks_make_no_frames():
    frames = frame_day(make_ticks([], sized=False))
    assert frames.chunks.shape == (0, 256, 3) and frames.scalars.shape == (0, 3) and frames.time.shape == (0,)


@pytest.mark.parametrize('features', ['compat', 'v2'])
def test_a_slice_of_a_real_day_follows_the_formulas(data_dir, features):
    day = next(d for d in list_days(data_dir / 'tcn' / 'index_data') if d.date == DATE)
    ticks, _ = read_day(day, TickFiles())
    part = slice(0, 12 * 887)
    ticks = ticks._replace(ticker=ticks.ticker[part], time=ticks.time[part], price=ticks.price[part])
    assert_equals_reference(frame_day(ticks, features=features), ticks, features, rtol=2e-4)


def test_a_real_day_has_the_counts_of_the_specification(data_dir):
    day = next(d for d in list_days(data_dir / 'tcn' / 'index_data') if d.date == DATE)
    ticks, report = read_day(day, TickFiles())
    frames = frame_day(ticks)
    assert report.rows == 346_817 and len(frames.time) == 391 and len(frames.chunks) == 1564
    assert frames.weights.sum() == 346_817
    assert not frames.chunks[..., 2].any()  # every tick of a minute has the same time
    scale = np.log1p(frames.scalars).mean(0)
    np.testing.assert_allclose(scale, [6.8, 23.3, 14.5], atol=0.8)  # published figures, in another order of tickers


@pytest.mark.parametrize('text', ['', '10', 's', '0s', '1.5s', '-1s', '10sec', '１s'])
def test_a_bad_length_of_a_frame_is_refused(text):
    with pytest.raises(InputError, match='no length of a frame'):
        parse_frame(text)


def test_lengths_of_frames():
    assert [parse_frame(x) for x in ('500ms', '10s', '1min')] == [500 * MS, 10_000 * MS, 60_000 * MS]
    with pytest.raises(InputError, match='choose one of compat, v2|Choose one of compat, v2'):
        frame_day(make_ticks(MIXED, sized=True), features='v3')
