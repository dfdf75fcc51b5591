"""How large a TCN batch is on a device: chunks an update, and chunks that run at once.

The budgets of stocks and options are those of the original program; those of the index are its published 4,000 chunks
at 16 GB and 24,000 at 80 GB, which micro-batches make possible, in between and above by memory. What runs at once is
what the original could hold in bfloat16 without recomputing activations, about 25 to 50 MB a chunk. Rows are so many
that the devices that stand in one machine, two cards for gamers or eight of a data centre, can share them.
"""

from typing import NamedTuple

from fjq.errors import InputError


class Profile(NamedTuple):
    """A device. memory in GB; chunks: stream -> chunks an update; at_once: chunks that one device runs at once;
    devices: how many share a batch, as can every divisor of them."""

    memory: int
    chunks: dict[str, int]
    at_once: int
    devices: int
    filter_stocks: bool = False  # memory asks for a list of tickers for the stream of stocks


class BatchSize(NamedTuple):
    """What goes into a config: `data.batch_rows` and `train.micro_batches`, as on one device."""

    rows: int
    micro_batches: int


PROFILES = {
    'cpu': Profile(0, {'stocks': 400, 'options': 400, 'index': 400}, at_once=200, devices=1, filter_stocks=True),
    'rtx5080': Profile(
        16, {'stocks': 2_000, 'options': 2_800, 'index': 4_000}, at_once=200, devices=2, filter_stocks=True
    ),
    'rtx5090': Profile(32, {'stocks': 4_000, 'options': 5_600, 'index': 8_000}, at_once=400, devices=2),
    'a100': Profile(80, {'stocks': 11_600, 'options': 16_000, 'index': 24_000}, at_once=1_500, devices=8),
    'h100': Profile(80, {'stocks': 11_600, 'options': 16_000, 'index': 24_000}, at_once=1_500, devices=8),
    'h200': Profile(141, {'stocks': 20_000, 'options': 28_000, 'index': 42_000}, at_once=2_600, devices=8),
    'amd': Profile(192, {'stocks': 28_000, 'options': 38_000, 'index': 57_600}, at_once=3_600, devices=8),
}


def find_profile(name: str) -> Profile:
    if name not in PROFILES:
        raise InputError(f'unknown profile {name!r}', column='profile', remedy='choose one of ' + ', '.join(PROFILES))
    return PROFILES[name]


def size_batch(name: str, stream: str, row_chunks: int) -> BatchSize:
    """A profile's budget in rows of `row_chunks` chunks, a multiple of its devices, in micro-batches of equal size.

    Args:
      row_chunks: the last of `data.chunk_buckets`.

    Raises:
      InputError: an unknown profile or stream, or a row that does not run at once.
    """
    profile = find_profile(name)
    if stream not in profile.chunks:
        raise InputError(
            f'unknown stream {stream!r}', column='stream', remedy='choose one of ' + ', '.join(profile.chunks)
        )
    if row_chunks > profile.at_once:
        raise InputError(
            f'a row of {row_chunks} chunks does not run at once on {name}',
            column='chunk_buckets',
            remedy=f'make the last bucket {profile.at_once} or less',
        )
    rows = max(profile.chunks[stream] // row_chunks // profile.devices, 1) * profile.devices
    at_once = profile.at_once // row_chunks
    return BatchSize(rows, next(n for n in range(1, rows + 1) if rows % n == 0 and n * at_once >= rows))
