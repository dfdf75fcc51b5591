"""The GPT as PyTorch knows it: the names and the checkpoints `microchat_{stage}.pt` of the original's two eras.

Both have the same weights and other logits: the first era normalises the embedding, caps the logits at 15 and leaves
ids that only pad the vocabulary out of the softmax; the later one does none of it. Files of the first have
`transformer.` before every name but the head's, and nothing else that tells them.
"""

from typing import Any

import numpy as np

from fjq.checkpoint import Weights
from fjq.errors import InputError
from fjq.models.gpt import Gpt
from fjq.torch_names import to_state_dict

FIRST_ERA = 'transformer.'
_CAP = 15.0
_HEAD = 'lm_head.'


def prefix(gpt: Gpt) -> str:
    """What stands before every name but the head's."""
    return FIRST_ERA if gpt.softcap and gpt.embedding_norm else ''


def model_state_dict(gpt: Gpt, params: dict) -> dict[str, np.ndarray]:
    """The weights by their names."""
    before = prefix(gpt)
    return {n if n.startswith(_HEAD) else before + n: v for n, v in to_state_dict(params).items()}


def checkpoint_file(gpt: Gpt, weights: Weights) -> dict[str, Any]:
    """What the original's loader reads; the optimiser's state stays behind.

    Raises:
      InputError: options that neither era of the original has.
    """
    _refuse_other(gpt)
    return {
        'epoch': int(weights.step),
        'model_state_dict': model_state_dict(gpt, weights.params),
        'config': {
            'sequence_len': gpt.length,
            'vocab_size': gpt.vocabulary,
            'n_layer': gpt.layers,
            'n_head': gpt.heads,
            'n_kv_head': gpt.kv_heads or gpt.heads,
            'n_embd': gpt.width,
            'dropout': gpt.dropout,
        },
        'train_loss': float(weights.facts['train_loss']),
        'val_loss': float(weights.facts['validation'].get('loss', np.nan)),
    }


def _refuse_other(gpt: Gpt) -> None:
    first = bool(prefix(gpt))
    pads = gpt.padded != gpt.vocabulary
    for name, other, wanted in (
        ('tied', gpt.tied, 'False'),
        ('marks', gpt.marks > 0, '0'),
        ('rope_base', gpt.rope_base != Gpt().rope_base, f'{Gpt().rope_base:g}'),
        ('softcap', gpt.softcap != (_CAP if first else 0), f'{_CAP:g} with embedding_norm, or 0 without'),
        ('softcap', gpt.embedding_norm != first, f'{_CAP:g} with embedding_norm, or 0 without'),
        ('padded_logits', pads and gpt.padded_logits == first, f'{not first}, or a vocabulary of a multiple of 64'),
    ):
        if other:
            raise InputError(
                'the original computes another function',
                column=f'task.gpt.{name}',
                remedy='use the safetensors or StableHLO file in export/, which are written, or train with ' + wanted,
            )
