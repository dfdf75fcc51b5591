"""Sale conditions of trades: which trades are no price of the market at their time."""

import os
from collections.abc import Collection

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fjq.errors import InputError

# After the sale-condition tables of CTA, UTP and OPRA, in the numbering of Polygon. Odd lots (37), extended hours (12)
# and auctions (8, 17, 19, 25) stay.
DROPPED = (
    2,  # average price
    5,  # bunched sold: reported late
    7,  # cash sale: settles the same day
    10,  # derivatively priced
    13,  # extended hours, out of sequence
    15,  # official close: repeats the closing print
    16,  # official open: repeats the opening print
    20,  # settles the next day
    21,  # price variation
    22,  # prior reference price
    29,  # seller's settlement
    32,  # sold, out of sequence
    33,  # sold, out of sequence (CTA's number)
    38,  # corrected consolidated close
    44,  # cancelled
    46,  # correction
    47,  # as of an earlier day
    48,  # as-of correction
    49,  # as-of cancel
    52,  # contingent
    53,  # qualified contingent
    54,  # errored
    201,  # options from here: cancelled
    202,  # late and out of sequence
    203,  # last and cancelled
    204,  # late
    205,  # opening trade and cancelled
    206,  # opening trade, late and out of sequence
    207,  # only trade and cancelled
    208,  # opening trade and late
)


def has_condition(values: pa.ChunkedArray, codes: Collection[int], path: str | os.PathLike) -> np.ndarray:
    """Whether a row has one of the codes, bool [N].

    Args:
      values: comma lists of codes as text (empty or null = none), lists of integers, or single integers.

    Raises:
      InputError: something else.
    """
    t, codes = values.type, sorted(codes)
    try:
        if pa.types.is_list(t) or pa.types.is_large_list(t):
            flat = values.combine_chunks()
            hit = np.isin(pc.list_flatten(flat).cast(pa.int64()).fill_null(-1).to_numpy(False), codes)
            out = np.zeros(len(values), bool)
            out[pc.list_parent_indices(flat).to_numpy(False)[hit]] = True
            return out
        if pa.types.is_integer(t):
            return np.isin(values.cast(pa.int64()).fill_null(-1).to_numpy(), codes)
        coded = values if pa.types.is_dictionary(t) else values.cast(pa.string()).dictionary_encode()
        coded = coded.unify_dictionaries()
        texts = coded.chunk(0).dictionary.to_pylist() if coded.num_chunks else []  # a few hundred distinct ones
        sets = [{int(code) for code in (text or '').split(',') if code.strip()} for text in texts]
    except (pa.ArrowException, ValueError) as e:
        raise InputError(
            f'these are no condition codes ({e})',
            file=path,
            column='conditions',
            remedy='write comma lists of integers',
        ) from e
    hit = np.array([not s.isdisjoint(codes) for s in sets] + [False])  # the last is for null
    return np.concatenate(
        [np.zeros(0, bool), *(hit[c.indices.fill_null(len(sets)).to_numpy(False)] for c in coded.chunks)]
    )
