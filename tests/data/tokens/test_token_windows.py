"""Packed windows never mix assets and miss no token; forecasting rows against a loop over candles."""

import numpy as np
import pytest

from fjq.data.order import InOrder
from fjq.data.tokens.windows import ForecastSource, Line, PackedSource, Runs, count_windows
from fjq.errors import InputError
from fjq.task import Shard

WHOLE = Shard()
SIZES = (40, 1, 7, 23)


@pytest.fixture
def runs() -> Runs:
    """Tokens that say whose they are and where: 1000 asset + place."""
    token = np.concatenate([1000 * a + np.arange(n) for a, n in enumerate(SIZES)]).astype(np.int32)
    return Runs(token, np.arange(len(SIZES)), np.array(SIZES))


def epoch(source: PackedSource, number: int) -> list[dict]:
    """The rows of an epoch, one a batch."""
    return [source[number * source.windows + i] for i in range(source.windows)]


@pytest.mark.parametrize('length', [4, 16, 100])
def test_every_token_but_the_first_of_an_asset_is_a_target_once_an_epoch(runs, length):
    source = PackedSource(runs, length, rows=1, seed=3, shard=WHOLE)
    expected = sorted(t for t in runs.token if t % 1000)
    for number in range(3):
        batches = epoch(source, number)
        targets = np.concatenate([b['tokens'][:, 1:][b['counts']] for b in batches])
        assert sorted(targets) == expected
        rows = [b['row'][0] for b in batches]
        assert sorted(r for r in rows if r >= 0) == sorted(set(rows) - {-1})
        assert all((b['row'] >= 0) == b['mask'] for b in batches)


def test_a_target_follows_a_token_of_its_own_asset(runs):
    source = PackedSource(runs, 16, rows=8, seed=0, shard=WHOLE)
    for step in range(6):
        b = source[step]
        there = b['segment'] > 0
        assert (b['tokens'][there] // 1000 == b['segment'][there] - 1).all()
        assert (b['tokens'][~there] == 0).all()
        before, target = b['tokens'][:, :-1][b['counts']], b['tokens'][:, 1:][b['counts']]
        assert (target == before + 1).all() and len(target) > 50


@pytest.mark.parametrize('length', [4, 16])
def test_a_mark_takes_the_place_of_the_first_token_of_each_segment_and_of_no_target(runs, length):
    marked = PackedSource(runs._replace(mark=9000 + np.arange(len(SIZES))), length, rows=8, seed=0, shard=WHOLE)
    plain = PackedSource(runs, length, rows=8, seed=0, shard=WHOLE)
    for step in range(20):
        a, b = plain[step], marked[step]
        for row, segments, tokens in zip(b['tokens'], a['segment'], a['tokens'], strict=True):
            for i, (segment, token) in enumerate(zip(segments, tokens, strict=True)):
                first = segment > 0 and (i == 0 or segments[i - 1] != segment)
                assert row[i] == (9000 + segment - 1 if first else token)
        np.testing.assert_array_equal(a['tokens'][:, 1:][a['counts']], b['tokens'][:, 1:][b['counts']])
        for name in set(a) - {'tokens'}:
            np.testing.assert_array_equal(a[name], b[name])


def test_epochs_differ_in_order_and_phase_and_are_made_again_from_the_seed(runs):
    make = lambda seed: PackedSource(runs, 8, rows=4, seed=seed, shard=WHOLE)
    starts = {tuple(sorted(b['tokens'][0, 0] for b in epoch(PackedSource(runs, 8, 1, 0, WHOLE), e))) for e in range(6)}
    assert len(starts) > 1
    assert all((make(1)[7][k] == make(1)[7][k]).all() for k in make(1)[7])
    assert (make(1)[7]['tokens'] != make(2)[7]['tokens']).any()


def test_shards_are_parts_of_the_whole_batch(runs):
    whole = PackedSource(runs, 8, rows=6, seed=0, shard=WHOLE)[2]
    parts = [PackedSource(runs, 8, rows=6, seed=0, shard=Shard(i, 3))[2] for i in range(3)]
    for name, values in whole.items():
        np.testing.assert_array_equal(np.concatenate([p[name] for p in parts]), values)
    with pytest.raises(InputError, match='6 rows do not divide by 4'):
        PackedSource(runs, 8, rows=6, seed=0, shard=Shard(0, 4))[0]


@pytest.mark.parametrize(('tokens', 'length'), [(1, 1), (2, 5), (71, 8), (64, 8), (65, 8)])
def test_windows_hold_every_phase(tokens, length):
    needed = [-(-(tokens - 1 + lead) // length) for lead in range(length)]
    assert count_windows(tokens, length) == max(needed)


CONTEXT, HORIZONS = 3, (1, 4)


@pytest.fixture
def line() -> Line:
    """Two assets of 10 and 8 candles."""
    rng = np.random.Generator(np.random.Philox(0))
    left = np.concatenate([np.arange(10)[::-1], np.arange(8)[::-1]])
    return Line(
        token=rng.integers(1, 9, 18).astype(np.int32),
        close=rng.uniform(1, 2, 18),
        scale=rng.uniform(0.01, 0.02, 18),
        left=left,
        returns=rng.normal(size=9),
        decay=0.9,
    )


def forecasts(line: Line, scored: str, rows: int = 4) -> dict:
    at = np.array([2, 9, 12, 15, 17])
    source = ForecastSource(line, at, InOrder(np.arange(5), rows), WHOLE, CONTEXT, HORIZONS, scored)
    batches = [source[i] for i in range(len(source))]
    return {k: np.concatenate([b[k] for b in batches]) for k in batches[0]}, at


@pytest.mark.parametrize('scored', ['all', 'future', 'none'])
def test_a_forecasting_row_against_a_loop(line, scored):
    batch, at = forecasts(line, scored)
    horizon = HORIZONS[-1]
    assert batch['mask'].tolist() == [True] * 5 + [False] * 3
    assert batch['row'].tolist() == [0, 1, 2, 3, 4, -1, -1, -1]
    assert not batch['tokens'][5:].any() and not batch['segment'][5:].any() and not batch['counts'][5:].any()
    for i, place in enumerate(at):
        end = 10 if place < 10 else 18
        np.testing.assert_array_equal(batch['tokens'][i, :CONTEXT], line.token[place - 2 : place + 1])
        assert (batch['segment'][i] == 1).all()
        for k in range(1, horizon + 1):
            there = place + k < end and scored != 'none'
            assert batch['tokens'][i, CONTEXT + k - 1] == (line.token[place + k] if there else 0)
            assert batch['counts'][i, CONTEXT + k - 2] == there
            assert batch['returns_mask'][i, k - 1] == there
            expected = np.log(line.close[place + k] / line.close[place + k - 1]) if there else 0
            np.testing.assert_allclose(batch['returns'][i, k - 1], expected, rtol=1e-5, atol=1e-7)
        assert (batch['counts'][i, : CONTEXT - 1] == (scored == 'all')).all()
        for h, ahead in enumerate(HORIZONS):
            there = place + ahead < end and scored != 'none'
            expected = np.log(line.close[place + ahead] / line.close[place]) if there else 0
            assert batch['target_mask'][i, h] == there
            np.testing.assert_allclose(batch['target'][i, h], expected, rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(batch['scale'][i], line.scale[place], rtol=1e-6)
        np.testing.assert_allclose(batch['close'][i], line.close[place], rtol=1e-6)
    np.testing.assert_allclose(batch['token_return'], np.repeat(line.returns[None], 8, 0), rtol=1e-6)
    np.testing.assert_allclose(batch['scale_decay'], 0.9, rtol=1e-6)


def test_a_prompt_begins_with_the_mark_of_its_asset(line):
    plain, at = forecasts(line, 'all')
    marked, _ = forecasts(line._replace(mark=np.repeat([90, 91], [10, 8]).astype(np.int32)), 'all')
    assert marked['tokens'][:, 0].tolist() == [90, 90, 91, 91, 91, 0, 0, 0]
    np.testing.assert_array_equal(marked['tokens'][:, 1:], plain['tokens'][:, 1:])
    assert all((marked[k] == plain[k]).all() for k in plain if k != 'tokens')


def test_a_hidden_future_leaves_no_trace(line):
    shown, _ = forecasts(line, 'none')
    changed = line._replace(token=line.token.copy(), close=line.close.copy())
    changed.token[10 + 3 :] = 1  # after the context of the row at 12
    changed.close[10 + 3 :] *= 2
    hidden, _ = forecasts(changed, 'none')
    for name in shown:
        np.testing.assert_array_equal(shown[name][:3], hidden[name][:3], err_msg=name)
