"""The GPT of the micro quant chat in PyTorch, with the original's keys: for tests, benchmarks and PyTorch users."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from fjq.nn.rotary import make_table


class Sizes(NamedTuple):
    """The original's `config` dict, and what its first era adds."""

    sequence_len: int = 256
    vocab_size: int = 512
    n_layer: int = 4
    n_head: int = 4
    n_kv_head: int = 4
    n_embd: int = 256
    dropout: float = 0.0
    softcap: float = 0.0
    embedding_norm: bool = False


def norm(x):
    return F.rms_norm(x, (x.shape[-1],))


class Attention(nn.Module):
    def __init__(self, s: Sizes):
        super().__init__()
        self.heads, self.kv_heads, size = s.n_head, s.n_kv_head, s.n_embd // s.n_head
        self.c_q = nn.Linear(s.n_embd, s.n_head * size, bias=False)
        self.c_k = nn.Linear(s.n_embd, s.n_kv_head * size, bias=False)
        self.c_v = nn.Linear(s.n_embd, s.n_kv_head * size, bias=False)
        self.c_proj = nn.Linear(s.n_embd, s.n_embd, bias=False)

    def forward(self, x, cos, sin, cache=None, at=0):
        """x [B, T, D]; cache: keys and values [B, K, S, H] whose places from `at` on are filled here."""
        B, T, _ = x.shape
        q = self.c_q(x).view(B, T, self.heads, -1).transpose(1, 2)
        k = self.c_k(x).view(B, T, self.kv_heads, -1).transpose(1, 2)
        v = self.c_v(x).view(B, T, self.kv_heads, -1).transpose(1, 2)
        q, k = norm(turn(q, cos, sin)), norm(turn(k, cos, sin))
        if cache is not None:
            cache[0][:, :, at : at + T], cache[1][:, :, at : at + T] = k, v
            k, v = cache[0][:, :, : at + T], cache[1][:, :, : at + T]
        if self.heads != self.kv_heads:
            k, v = (y.repeat_interleave(self.heads // self.kv_heads, 1) for y in (k, v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=T > 1)
        return self.c_proj(y.transpose(1, 2).reshape(B, T, -1))


class Mlp(nn.Module):
    def __init__(self, s: Sizes):
        super().__init__()
        self.c_fc = nn.Linear(s.n_embd, 4 * s.n_embd, bias=False)
        self.c_proj = nn.Linear(4 * s.n_embd, s.n_embd, bias=False)

    def forward(self, x):
        return self.c_proj(F.relu(self.c_fc(x)).square())


class Block(nn.Module):
    def __init__(self, s: Sizes):
        super().__init__()
        self.attn, self.mlp = Attention(s), Mlp(s)

    def forward(self, x, cos, sin, cache=None, at=0):
        x = x + self.attn(norm(x), cos, sin, cache, at)
        return x + self.mlp(norm(x))


class Gpt(nn.Module):
    """Logits of the next token, of the padded vocabulary."""

    def __init__(self, s: Sizes):
        super().__init__()
        padded = -(-s.vocab_size // 64) * 64
        self.sizes = s
        self.wte = nn.Embedding(padded, s.n_embd)
        self.h = nn.ModuleList([Block(s) for _ in range(s.n_layer)])
        self.lm_head = nn.Linear(s.n_embd, padded, bias=False)
        cos, sin = make_table(s.sequence_len, s.n_embd // s.n_head, rounded=True)
        self.register_buffer('cos', torch.tensor(cos), persistent=False)
        self.register_buffer('sin', torch.tensor(sin), persistent=False)

    def forward(self, ids, caches=None, at=0):
        """ids [B, T] at positions from `at` on -> [B, T, V]."""
        x = self.wte(ids)
        if self.sizes.embedding_norm:
            x = norm(x)
        cos, sin = self.cos[at : at + ids.shape[1]], self.sin[at : at + ids.shape[1]]
        for i, block in enumerate(self.h):
            x = block(x, cos, sin, None if caches is None else caches[i], at)
        logits = self.lm_head(norm(x))
        cap = self.sizes.softcap
        return cap * torch.tanh(logits.float() / cap) if cap else logits

    def make_caches(self, batch: int, places: int):
        s = self.sizes
        shape = (batch, s.n_kv_head, places, s.n_embd // s.n_head)
        return [tuple(torch.zeros(shape, device=self.cos.device) for _ in range(2)) for _ in self.h]


def turn(x, cos, sin):
    """By minus the angle."""
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos + b * sin, b * cos - a * sin], -1)
