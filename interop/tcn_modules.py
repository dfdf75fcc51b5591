"""The TCN in PyTorch: what the exported files load into, and what our model is held against.

Names, key order and functions are those of `fjq.models.tcn`; a chunk is 256 ticks of one 10-second frame.
Shapes: chunks [K, L, F], weights [K] (real ticks), frame_id [K], frame_scalars [T, S], bounds [N, 2] (frames of a
sample, half open), ticker_ids [K, L] (negative: no ticker, as in padding).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint


class Block(nn.Module):
    """Two dilated convolutions of width 3 with one-group norms, and a shortcut (Bai et al., 2018, not causal)."""

    def __init__(self, channels: int, hidden: int, dilation: int, dropout: float):
        super().__init__()
        self.conv1 = nn.Conv1d(channels, hidden, 3, padding=dilation, dilation=dilation)
        self.conv2 = nn.Conv1d(hidden, hidden, 3, padding=dilation, dilation=dilation)
        self.norm1 = nn.GroupNorm(1, hidden)
        self.norm2 = nn.GroupNorm(1, hidden)
        self.dropout = nn.Dropout(dropout)
        self.downsample = nn.Conv1d(channels, hidden, 1) if channels != hidden else None

    def forward(self, x_KxCxL: Tensor) -> Tensor:
        h = self.dropout(self.norm1(self.conv1(x_KxCxL)).relu())
        h = self.dropout(self.norm2(self.conv2(h)).relu())
        shortcut = x_KxCxL if self.downsample is None else self.downsample(x_KxCxL)
        return (h + shortcut).relu()


class Tcn(nn.Module):
    """Blocks of dilation 1, 2, 4, ..., then the plain mean over all positions, padding included."""

    def __init__(self, in_features, hidden_dim, num_layers, dropout, checkpoint_every, num_tickers, ticker_embed_dim):
        super().__init__()
        if num_tickers:
            self.ticker_embed = nn.Embedding(num_tickers, ticker_embed_dim)
            in_features += ticker_embed_dim
        self.num_tickers, self.checkpoint_every = num_tickers, checkpoint_every
        self.layers = nn.ModuleList(
            Block(hidden_dim if i else in_features, hidden_dim, 2**i, dropout) for i in range(num_layers)
        )

    def forward(self, chunks_KxLxF: Tensor, ticker_ids_KxL: Tensor | None = None) -> Tensor:
        x = chunks_KxLxF
        if self.num_tickers:
            if ticker_ids_KxL is None:
                raise ValueError('this encoder embeds tickers: pass ticker_ids [K, L]')
            known = ticker_ids_KxL >= 0
            x = torch.cat([x, self.ticker_embed(ticker_ids_KxL.clamp(min=0)) * known[..., None]], dim=-1)
        elif ticker_ids_KxL is not None:
            raise ValueError('this encoder has no ticker embedding: num_tickers is 0')
        x = x.mT
        every = self.checkpoint_every if self.training and torch.is_grad_enabled() else 0
        if not every:
            return self._blocks(0, len(self.layers), x).mean(-1)
        for start in range(0, len(self.layers), every):
            stop = min(start + every, len(self.layers))
            x = checkpoint(self._blocks, start, stop, x, use_reentrant=False)
        return x.mean(-1)

    def _blocks(self, start: int, stop: int, x: Tensor) -> Tensor:
        for block in self.layers[start:stop]:
            x = block(x)
        return x


class FrameEncoder(nn.Module):
    """[K, L, F] -> [K, hidden_dim]. With `checkpoint_every` = n > 0, training keeps the activations of every n-th block
    only and computes the others again in the backward pass."""

    def __init__(
        self,
        kind: str = 'tcn',
        in_features: int = 3,
        hidden_dim: int = 512,
        num_layers: int = 12,
        dropout: float = 0.1,
        checkpoint_every: int = 0,
        num_tickers: int = 0,
        ticker_embed_dim: int = 16,
    ):
        super().__init__()
        if kind != 'tcn':
            raise ValueError(f"kind is {kind!r}; the only frame encoder is 'tcn'")
        self.encoder = Tcn(
            in_features, hidden_dim, num_layers, dropout, checkpoint_every, num_tickers, ticker_embed_dim
        )
        self.out_dim = hidden_dim

    def forward(self, chunks_KxLxF: Tensor, ticker_ids_KxL: Tensor | None = None) -> Tensor:
        return self.encoder(chunks_KxLxF, ticker_ids_KxL)


class ChunkedFrameEncoder(nn.Module):
    """[K, L, F] -> [T, d_model]: the mean of a frame's chunks, weighted by ticks, joined with log1p of its scalars.

    With `stream_chunks`, `stream_chunk_size` chunks go through the frame encoder at a time: the same numbers, and with
    gradients off a bounded memory.
    """

    def __init__(
        self,
        frame_encoder: FrameEncoder,
        d_model: int,
        num_scalars: int = 3,
        stream_chunks: bool = False,
        stream_chunk_size: int = 2048,
    ):
        super().__init__()
        self.frame_encoder = frame_encoder
        self.out_proj = nn.Sequential(
            nn.Linear(frame_encoder.out_dim + num_scalars, d_model), nn.LayerNorm(d_model), nn.GELU()
        )
        self.stream_chunk_size = stream_chunk_size if stream_chunks else 0

    def forward(
        self,
        chunks_KxLxF: Tensor,
        weights_K: Tensor,
        frame_id_K: Tensor,
        frame_scalars_TxS: Tensor,
        ticker_ids_KxL: Tensor | None = None,
    ) -> Tensor:
        size = self.stream_chunk_size or max(len(chunks_KxLxF), 1)
        parts = []
        for start in range(0, len(chunks_KxLxF), size):
            part = slice(start, start + size)
            ids = None if ticker_ids_KxL is None else ticker_ids_KxL[part]
            parts.append(self.frame_encoder(chunks_KxLxF[part], ids))
        embedding_KxD = torch.cat(parts).float()
        count = len(frame_scalars_TxS)
        total_TxD = embedding_KxD.new_zeros(count, embedding_KxD.shape[1])
        total_TxD = total_TxD.index_add(0, frame_id_K, embedding_KxD * weights_K[:, None])
        ticks_T = weights_K.new_zeros(count).index_add(0, frame_id_K, weights_K)
        pooled_TxD = total_TxD / (ticks_T + 1e-8)[:, None]
        return self.out_proj(torch.cat([pooled_TxD, frame_scalars_TxS.log1p()], dim=-1))


class RVHead(nn.Module):
    """Sample embedding [N, d_model] -> log1p of the forward volatility, [N], or [N, outputs] for several."""

    def __init__(self, d_model: int, hidden_dim: int = 256, dropout: float = 0.1, outputs: int = 1):
        super().__init__()
        layers: list[nn.Module] = []
        for width in (d_model, hidden_dim):
            layers += [nn.Linear(width, hidden_dim), nn.LayerNorm(hidden_dim), nn.GELU(), nn.Dropout(dropout)]
        self.mlp = nn.Sequential(*layers, nn.Linear(hidden_dim, outputs))

    def forward(self, embedding_NxD: Tensor) -> Tensor:
        return self.mlp(embedding_NxD).squeeze(-1)


class TcnModel(nn.Module):
    """The whole model. The frame encoder is a submodule twice, as in the original: 210 keys, 112 parameters."""

    def __init__(
        self,
        in_features: int = 3,
        hidden_dim: int = 512,
        num_layers: int = 12,
        d_model: int = 128,
        num_scalars: int = 3,
        head_hidden_dim: int = 256,
        dropout: float = 0.1,
        checkpoint_every: int = 0,
        num_tickers: int = 0,
        ticker_embed_dim: int = 16,
        outputs: int = 1,
    ):
        super().__init__()
        self.frame_encoder = FrameEncoder(
            'tcn', in_features, hidden_dim, num_layers, dropout, checkpoint_every, num_tickers, ticker_embed_dim
        )
        self.chunked_encoder = ChunkedFrameEncoder(self.frame_encoder, d_model, num_scalars)
        self.rv_head = RVHead(d_model, head_hidden_dim, dropout, outputs)

    def forward(
        self,
        chunks_KxLxF: Tensor,
        weights_K: Tensor,
        frame_id_K: Tensor,
        frame_scalars_TxS: Tensor,
        bounds_Nx2: Tensor,
        ticker_ids_KxL: Tensor | None = None,
    ) -> Tensor:
        frames_TxD = self.chunked_encoder(chunks_KxLxF, weights_K, frame_id_K, frame_scalars_TxS, ticker_ids_KxL)
        time_T = torch.arange(len(frames_TxD), device=frames_TxD.device)
        own_NxT = ((bounds_Nx2[:, :1] <= time_T) & (time_T < bounds_Nx2[:, 1:])).to(frames_TxD.dtype)
        return self.rv_head(own_NxT @ frames_TxD / own_NxT.sum(1, keepdim=True))


def huber_loss(prediction: Tensor, target: Tensor, delta: float = 0.1) -> Tensor:
    """The mean Huber loss of the spec, of log1p volatilities."""
    return functional.huber_loss(prediction, target, delta=delta)


def model_from_dimensions(config: dict[str, int], **options) -> TcnModel:
    """The model of an exported file's `config`; `options` are dropout and checkpoint_every."""
    return TcnModel(
        in_features=config['tcn_dim_in'],
        hidden_dim=config['tcn_hidden_dim'],
        num_layers=config['tcn_num_layers'],
        d_model=config['d_model'],
        num_scalars=config['num_scalars'],
        head_hidden_dim=config['head_hidden_dim'],
        num_tickers=config['num_tickers'],
        ticker_embed_dim=config['ticker_embed_dim'],
        outputs=config['head_outputs'],
        **options,
    )
