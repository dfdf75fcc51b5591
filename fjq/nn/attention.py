"""Scaled dot-product attention: cuDNN's fused kernel where it can serve, XLA elsewhere, one meaning.

Letters: T = queries, S = keys, N = heads of queries, K = heads of keys and values (N a multiple of K), H = head size.
"""

from functools import partial

import jax
import jax.numpy as jnp

from fjq.errors import InputError
from fjq.nn.materialize import materialize

IMPLEMENTATIONS = ('auto', 'xla', 'cudnn')


def attend(
    q_BxTxNxH,
    k_BxSxKxH,
    v_BxSxKxH,
    *,
    mask=None,
    bias=None,
    causal: bool = False,
    window: tuple[int, int] | None = None,
    kv_lengths_B=None,
    scale: float | None = None,
    implementation: str = 'auto',
):
    """softmax(scale q k^T + bias) v over the keys that take part -> [B, T, N, H] in the dtype of q; softmax in float32.

    A key takes part for a query where mask, causal, window and kv_lengths all let it. A query without any such key
    gives zeros, and zero gradients to q, k and v. The last query stands at the last key (query t at position
    t + S - T), so that one new query sees the whole cache.

    Args:
      mask: bool, True = takes part; [T, S], [B, T, S] or [B, N, T, S], axes of size 1 stand for all. Prefer
        `causal` and `kv_lengths`, for which the fused kernel reads no [T, S] array.
      bias: added to the scaled products, broadcastable to [B, N, T, S]; finite (use `mask` to leave keys out).
      causal: a query at position p sees the keys up to p.
      window: (left, right): it sees the keys from p - left to p + right.
      kv_lengths_B: int, only the first so many keys of a row take part. q, k and v must be finite beyond them too.
      scale: 1 / sqrt(H) by default.
      implementation: 'auto' takes cuDNN on an NVIDIA GPU for float16 and bfloat16 wherever it can serve; 'cudnn'
        insists on it. XLA holds [B, N, T, S] in float32.

    Raises:
      InputError: an unknown implementation, a negative window, or 'cudnn' where it can not serve.
    """
    if implementation not in IMPLEMENTATIONS:
        raise InputError(f'unknown attention {implementation!r}', remedy=f'choose one of {", ".join(IMPLEMENTATIONS)}')
    if window is not None and min(window) < 0:
        raise InputError(f'an attention window of {window}', remedy='give (left, right) of at least 0')
    if mask is not None and mask.dtype != bool:
        raise TypeError(f'an attention mask is bool with True = takes part, not {mask.dtype}')
    if window is not None:  # cuDNN knows windows to the left only, under the causal flag
        causal = causal or window[1] == 0
        window = (window[0], 0) if causal else window
    queries, keys = q_BxTxNxH.shape[1], k_BxSxKxH.shape[1]
    aligned = queries == keys
    if kv_lengths_B is not None:
        kv_lengths_B = kv_lengths_B.astype(jnp.int32)
    if bias is not None:
        bias = _with_all(bias, queries, keys)

    if mask is None and (aligned or not (causal or window)) and not (window and kv_lengths_B is not None):
        # The kernels' own flags say it all, and only a row without keys has empty queries. It reads one key, so that
        # nothing inside the kernel divides by zero, and is zeroed below.
        lengths = None if kv_lengths_B is None else jnp.maximum(kv_lengths_B, 1)
        flags = dict(is_causal=causal, local_window_size=window, key_value_seq_lengths=lengths)
        some = None if kv_lengths_B is None else (kv_lengths_B > 0)[:, None, None, None]
    else:
        mask = _merge(mask, queries, keys, causal, window, kv_lengths_B)
        flags = dict(mask=mask, is_causal=causal and aligned)  # the flag lets the kernel skip blocks
        some = jnp.moveaxis(mask.any(-1), 1, 2)[..., None]

    attention = partial(jax.nn.dot_product_attention, bias=bias, scale=scale, **flags)
    xla, cudnn = partial(attention, implementation='xla'), partial(attention, implementation='cudnn')
    arrays = q_BxTxNxH, k_BxSxKxH, v_BxSxKxH
    on_cpu = partial(_by_heads, bias=bias, scale=scale, **flags)
    obstacle = None if implementation == 'xla' else _obstacle(*arrays, bias=bias, **flags)
    if implementation == 'cudnn':
        if obstacle:
            raise InputError(f'cuDNN attention can not serve {obstacle}', remedy="use implementation 'auto'")
        y_BxTxNxH = cudnn(*arrays)
    elif implementation == 'xla' or obstacle:
        y_BxTxNxH = jax.lax.platform_dependent(*arrays, cpu=on_cpu, default=xla)
    else:  # a program placed on the CPU of a GPU machine still runs
        y_BxTxNxH = jax.lax.platform_dependent(*arrays, cuda=cudnn, cpu=on_cpu, default=xla)
    return y_BxTxNxH if some is None else jnp.where(some, y_BxTxNxH, 0)


def _by_heads(
    q_BxTxNxH,
    k_BxSxKxH,
    v_BxSxKxH,
    *,
    bias,
    scale,
    is_causal,
    mask=None,
    local_window_size=None,
    key_value_seq_lengths=None,
):
    """`jax.nn.dot_product_attention` as plain products of one matrix a row and head of keys, which XLA on a CPU runs
    faster than its own order of axes: forward and backward of 16 x 128 x 8 x 64 in 14 ms for 34."""
    B, T, N, H = q_BxTxNxH.shape
    S, K = k_BxSxKxH.shape[1:3]
    G = N // K  # queries that share keys lie one after the other
    # The column of ones beside the values sums the weights in the same product: nothing is normalised but the result.
    v_BxSxKxE = jnp.concatenate([v_BxSxKxH, jnp.ones((B, S, K, 1), v_BxSxKxH.dtype)], axis=-1)
    if key_value_seq_lengths is not None:
        # A key that takes no part repeats the first, with zeros for its value and its one: no mask has to be read.
        seen = (jnp.arange(S)[None] < key_value_seq_lengths[:, None])[..., None, None]
        k_BxSxKxH = jnp.where(seen, k_BxSxKxH, k_BxSxKxH[:, :1])
        v_BxSxKxE = jnp.where(seen, v_BxSxKxE, 0)
        if bias is not None:
            bias = jnp.where(jnp.moveaxis(seen, 1, 3), bias, bias[..., :1])
    by_head = lambda x: jnp.moveaxis(x, 1, 2).reshape(B * K, -1, x.shape[-1])
    wide = jnp.promote_types(q_BxTxNxH.dtype, jnp.float32)
    scaled_BxTxNxH = (q_BxTxNxH.astype(wide) * (H**-0.5 if scale is None else scale)).astype(q_BxTxNxH.dtype)
    q, k, v = (by_head(x) for x in (scaled_BxTxNxH, k_BxSxKxH, v_BxSxKxE))
    product = partial(jax.lax.dot_general, preferred_element_type=wide)
    s_BxNxTxS = product(q, k, (((2,), (2,)), ((0,), (0,)))).reshape(B, N, T, S)
    if bias is not None:
        s_BxNxTxS = s_BxNxTxS + bias
    if is_causal or local_window_size is not None:
        mask = _merge(mask, T, S, is_causal, local_window_size, None)
    if mask is not None:  # added, since XLA computes a sum with the product, and a choice in a pass of its own
        s_BxNxTxS = s_BxNxTxS + jnp.where(mask, 0, jnp.finfo(wide).min / 2).astype(wide)
    s_BxNxTxS = materialize(s_BxNxTxS)  # products take the exponential into their own program, where it is slower
    most_BxNxTx1 = jax.lax.stop_gradient(s_BxNxTxS.max(-1, keepdims=True))
    p = materialize(jnp.exp(s_BxNxTxS - most_BxNxTx1).astype(v.dtype)).reshape(B * K, G * T, S)
    y = product(p, v, (((2,), (1,)), ((0,), (0,))))
    y = (y[..., :H] / y[..., H:]).reshape(B, N, T, H)
    return jnp.moveaxis(y.astype(q_BxTxNxH.dtype), 1, 2)


def _with_all(a, queries: int, keys: int):
    """[T, S], [B, T, S] or [B, N, T, S] -> four axes, the last two in full, as cuDNN wants them."""
    a = a[None, None] if a.ndim == 2 else a[:, None] if a.ndim == 3 else a
    return jnp.broadcast_to(a, (*a.shape[:2], queries, keys))


def _merge(mask, queries: int, keys: int, causal: bool, window, kv_lengths_B):
    """Everything that leaves keys out, as one mask [B or 1, N or 1, T, S]."""
    mask = jnp.ones((1, 1, queries, keys), bool) if mask is None else _with_all(mask, queries, keys)
    ahead_TxS = jnp.arange(keys)[None] - (jnp.arange(queries) + keys - queries)[:, None]
    left, right = (keys + queries, 0 if causal else keys + queries) if window is None else window
    mask = mask & ((-left <= ahead_TxS) & (ahead_TxS <= right))[None, None]
    if kv_lengths_B is not None:
        mask = mask & (jnp.arange(keys)[None] < kv_lengths_B[:, None])[:, None, None]
    return mask


def _obstacle(q, k, v, *, bias, is_causal, mask=None, local_window_size=None, key_value_seq_lengths=None) -> str | None:
    """Why cuDNN can not serve, None where it can: read off the conditions of JAX 0.10 to 0.12."""
    if not (q.dtype == k.dtype == v.dtype and q.dtype in (jnp.bfloat16, jnp.float16)):
        return f'{q.dtype} (float16 or bfloat16 only)'
    if q.shape[-1] % 8 or q.shape[-1] > 128:
        return f'heads of size {q.shape[-1]} (a multiple of 8, at most 128)'
    if local_window_size is not None and not is_causal:
        return f'a window of {local_window_size[1]} keys to the right'
    if (mask is not None or bias is not None) and (q.shape[1] % 2 or k.shape[1] % 2):
        return f'a mask or bias with odd lengths ({q.shape[1]} queries, {k.shape[1]} keys)'
    try:
        jax.devices('cuda')
    except RuntimeError:
        return 'a machine without an NVIDIA GPU'
    return None
