"""Quantile bins of the scaled log return and, within each, of the range: the simplest tokenizer.

Ids are ordered: a higher bin is a higher return; within a bin a higher id is a wider candle.
"""

import dataclasses
from typing import Any

import numpy as np

from fjq.data.candles.files import Candles
from fjq.errors import InputError
from fjq.tokenizers.tokenizer import Tokenizer, first_scale, fit_spread, last_time, training_inputs


@dataclasses.dataclass(kw_only=True)
class Bins:
    """Settings; `open` fits."""

    returns: int = 32  # bins of the log return
    ranges: int = 4  # bins of the range within each; 1 = none. The vocabulary is the product
    decay: float = 0.94  # of the volatility that scales the inputs; 1 = not scaled

    def open(self, candles: list[Candles], train: list[np.ndarray]) -> 'BinsTokenizer':
        """Fits on the rows where `train` (bool [N] an asset) is True.

        Raises:
          InputError: settings that make no sense, or too few training rows.
        """
        if self.returns < 2 or self.ranges < 1:
            raise InputError(f'{self.returns} x {self.ranges} bins', column='tokenizer', remedy='use 2 x 1 or more')
        check_decay(self.decay)
        first = 1.0 if self.decay == 1 else first_scale(candles, train)
        inputs = training_inputs(candles, train, self.decay, first)
        count = self.returns * self.ranges
        if len(inputs) < count:
            raise InputError(f'{len(inputs)} training candles for {count} bins', remedy='use fewer bins or more data')
        edges = np.quantile(inputs[:, 0], np.arange(1, self.returns) / self.returns)
        which = np.searchsorted(edges, inputs[:, 0], side='right')
        shares = np.arange(1, self.ranges) / self.ranges
        overall = np.quantile(inputs[:, 4], shares)
        widths = np.stack(
            [np.quantile(inputs[which == k, 4], shares) if (which == k).any() else overall for k in range(self.returns)]
        )
        ids = _place(inputs, edges, widths)
        sums = np.stack([np.bincount(ids, x, minlength=count) for x in inputs.T], -1)
        rows = np.bincount(ids, minlength=count)[:, None]
        table = np.where(rows > 0, sums / np.maximum(rows, 1), inputs.mean(0))
        middles = np.concatenate([edges[:1], (edges[1:] + edges[:-1]) / 2, edges[-1:]])  # of bins that ties left empty
        table[:, 0] = np.where(rows[:, 0] > 0, table[:, 0], np.repeat(middles, self.ranges))
        tokenizer = BinsTokenizer(self.decay, first, edges, widths, table, fit_spread(inputs, ids, table))
        tokenizer.fitted_until = last_time(candles, train)
        return tokenizer


class BinsTokenizer(Tokenizer):
    """See `fjq.tokenizers`."""

    kind = 'bins'

    def __init__(self, decay, first, edges, widths, table, spread):
        """edges: [R - 1] of returns; widths: [R, G - 1] edges of the range in each bin; table [R * G, 5]."""
        super().__init__(f'bins {len(edges) + 1}x{widths.shape[1] + 1}', decay, first, table, spread)
        self.edges, self.widths = edges, widths

    def encode_inputs(self, inputs_Nx5: np.ndarray) -> np.ndarray:
        return _place(inputs_Nx5, self.edges, self.widths)

    def settings(self) -> dict[str, Any]:
        return {'decay': self.decay, 'first_scale': self.first_scale}

    def arrays(self) -> dict[str, np.ndarray]:
        return {'edges': self.edges, 'widths': self.widths, 'table': self.table, 'spread': self.spread}

    @classmethod
    def load(cls, settings: dict[str, Any], arrays: dict[str, np.ndarray]) -> 'BinsTokenizer':
        return cls(settings['decay'], settings['first_scale'], **arrays)


def check_decay(decay: float) -> None:
    if not 0 < decay <= 1:
        raise InputError(f'a decay of {decay}', column='tokenizer.decay', remedy='use 0.94, or 1 for no scaling')


def _place(inputs_Nx5: np.ndarray, edges: np.ndarray, widths: np.ndarray) -> np.ndarray:
    """int32 [N]; a value on an edge belongs above it."""
    bin_N = np.searchsorted(edges, inputs_Nx5[:, 0], side='right')
    level_N = (inputs_Nx5[:, 4:5] >= widths[bin_N]).sum(1)
    return (bin_N * (widths.shape[1] + 1) + level_N).astype(np.int32)
