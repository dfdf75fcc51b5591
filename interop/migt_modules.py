"""MIGT-TVDT in PyTorch: loads what we export, strictly, and computes the same numbers.

Names are the original's. Its mask error is not here: True = the bar takes part, and goes to the kernel as it is.
Padding may stand anywhere. `compat` is the original's function; without it, that of `fjq.models.migt`.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

ROUNDING, SMALLEST, FARTHEST, LONGEST = 1e-6, 1e-12, 5.0, 1000.0  # as in fjq.nn and fjq.models.migt


def pinball_loss(quantiles_BxHxQ: Tensor, target_BxH: Tensor, levels: tuple[float, ...]) -> Tensor:
    """The mean over rows, horizons and levels."""
    tau = torch.tensor(levels, device=target_BxH.device)
    error = target_BxH[..., None] - quantiles_BxHxQ
    return torch.maximum(tau * error, (tau - 1) * error).mean()


def harmonics(place: Tensor, period: int, turns: Tensor) -> Tensor:
    angle = (place[..., None] * turns) * (2 * math.pi / period)
    return torch.stack([angle.sin(), angle.cos()], -1).flatten(-2)


def waves(age: Tensor, width: int) -> Tensor:
    phase = age[..., None] * LONGEST ** -torch.linspace(0, 1, width // 2, device=age.device)
    return torch.stack([phase.sin(), phase.cos()], -1).flatten(-2)


class RevIN(nn.Module):
    def __init__(self, variables: int):
        super().__init__()
        self.gamma, self.beta = nn.Parameter(torch.ones(variables)), nn.Parameter(torch.zeros(variables))

    def forward(self, x_BxTxV: Tensor) -> Tensor:
        mean, deviation = x_BxTxV.mean(1, keepdim=True), x_BxTxV.std(1, keepdim=True)
        return self.gamma * (x_BxTxV - mean) / (deviation + 1e-5) + self.beta


class VariableEmbedding(nn.Module):
    """All variables at once; the parameters are those of one `Linear(1, D)` a variable."""

    def __init__(self, variables: int, width: int):
        super().__init__()
        self.projections = nn.ModuleList(nn.Linear(1, width) for _ in range(variables))

    def forward(self, x_BxTxV: Tensor) -> Tensor:
        weight = torch.stack([p.weight[:, 0] for p in self.projections])
        return x_BxTxV[..., None] * weight + torch.stack([p.bias for p in self.projections])


class TimeOfDay(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.register_buffer('frequencies', torch.arange(1, width // 2 + 1, dtype=torch.float32))


class DayOfWeek(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.embedding = nn.Embedding(7, width)


class Time2Vec(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.linear_weight = nn.Parameter(torch.randn(1) * 0.01)
        self.linear_bias = nn.Parameter(torch.zeros(1))
        self.periodic_weights = nn.Parameter(torch.randn(width - 1) * 0.1)
        self.periodic_biases = nn.Parameter(torch.zeros(width - 1))

    def forward(self, place_B: Tensor) -> Tensor:
        tau = place_B.float()[:, None] / 366
        line = tau * self.linear_weight + self.linear_bias
        return torch.cat([line, torch.sin(tau * self.periodic_weights + self.periodic_biases)], -1)


class PositionalEncoding(nn.Module):
    def __init__(self, width: int, dims: tuple[int, ...], age_dim: int, bars_per_day: int, compat: bool):
        super().__init__()
        day, week, month, year = dims
        self.dims, self.age_dim, self.bars_per_day, self.compat = dims, age_dim, bars_per_day, compat
        if compat:
            self.time_of_day = TimeOfDay(day)
        self.day_of_week = DayOfWeek(week)
        if compat:
            self.day_of_month, self.day_of_year = Time2Vec(month), Time2Vec(year)
        self.projection = nn.Linear(sum(dims) + age_dim, width)

    def forward(self, age_BxT: Tensor, bar_BxT: Tensor, weekday_B: Tensor, month_B: Tensor, year_B: Tensor) -> Tensor:
        turns = lambda dim: torch.arange(1, dim // 2 + 1, dtype=torch.float32, device=bar_BxT.device)
        day = harmonics(bar_BxT, self.bars_per_day, turns(self.dims[0]))
        if self.compat:
            month, year = self.day_of_month(month_B), self.day_of_year(year_B)
        else:
            month = harmonics(month_B - 1, 31, turns(self.dims[2]))
            year = harmonics(year_B - 1, 366, turns(self.dims[3]))
        date = torch.cat([self.day_of_week.embedding(weekday_B), month, year], -1)
        parts = [day, date[:, None].expand(*bar_BxT.shape, -1)]
        parts += [waves(age_BxT, self.age_dim)] if self.age_dim else []
        return self.projection(torch.cat(parts, -1))


class InputEmbedding(nn.Module):
    def __init__(self, variables: int, width: int, *clock):
        super().__init__()
        self.variable_embed = VariableEmbedding(variables, width)
        self.positional_encoding = PositionalEncoding(width, *clock)


class Block(nn.Module):
    def __init__(self, width: int, heads: int, hidden: int, rate: float):
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(width, width) for _ in range(3))
        self.out_proj = nn.Linear(width, width)
        self.ff = nn.Sequential(
            nn.Linear(width, hidden), nn.GELU(), nn.Dropout(rate), nn.Linear(hidden, width), nn.Dropout(rate)
        )
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.dropout, self.heads = nn.Dropout(rate), heads

    def forward(self, x_NxTxD: Tensor, mask_NxT: Tensor | None = None) -> Tensor:
        h = self.norm1(x_NxTxD)
        cut = lambda y: y.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        mask = None if mask_NxT is None else mask_NxT[:, None, None]
        y = F.scaled_dot_product_attention(*(cut(p(h)) for p in (self.q_proj, self.k_proj, self.v_proj)), mask)
        x = x_NxTxD + self.dropout(self.out_proj(y.transpose(1, 2).flatten(-2)))
        return x + self.ff(self.norm2(x))


class TemporalAggregation(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.query = nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.k_proj, self.v_proj = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, z_NxTxD: Tensor, mask_NxT: Tensor) -> Tensor:
        score = (self.k_proj(z_NxTxD) * self.query).sum(-1) / math.sqrt(z_NxTxD.shape[-1])
        weight = score.masked_fill(~mask_NxT, torch.finfo(score.dtype).min).softmax(-1)
        pooled = (weight[..., None] * self.v_proj(z_NxTxD)).sum(1)
        return torch.where(mask_NxT.any(1, keepdim=True), pooled, 0)


class Gate(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.gate_proj = nn.Linear(width, width)


class GatedNorm(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.norm, self.gate = nn.LayerNorm(width), Gate(width)

    def forward(self, x: Tensor, u: Tensor) -> Tensor:
        return x + self.gate.gate_proj(x).sigmoid() * (self.norm(u) - x)


class WindowScale(nn.Module):
    def __init__(self, variables: int, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(variables, 2, width) * 0.5)
        self.register_buffer('centre', torch.zeros(variables, 2))
        self.register_buffer('spread', torch.ones(variables, 2))

    def forward(self, log_scale_BxVx2: Tensor) -> Tensor:
        unit = ((log_scale_BxVx2 - self.centre) / self.spread).clamp(-FARTHEST, FARTHEST)
        return torch.einsum('bvs,vsd->bvd', unit, self.weight)


class Volatility(nn.Module):
    def __init__(self, horizons: int, places: int, variances: int):
        super().__init__()
        self.register_buffer('offset', torch.zeros(places, horizons))
        self.register_buffer('weight', torch.zeros(variances, horizons))

    def forward(self, place_B: Tensor, log_variance_BxK: Tensor) -> Tensor:
        return ((self.offset[place_B] + log_variance_BxK @ self.weight) / 2).exp()


class Head(nn.Module):
    def __init__(self, width: int, hidden: int, quantiles: int, compat: bool):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU())
        if compat:
            self.base_proj, self.delta_proj = nn.Linear(hidden, 1), nn.Linear(hidden, quantiles)
        else:
            self.out_proj = nn.Linear(hidden, quantiles)
        self.compat = compat

    def forward(self, x_BxD: Tensor) -> Tensor:
        x = self.mlp(x_BxD)
        if self.compat:
            return self.base_proj(x) + F.softplus(self.delta_proj(x)).cumsum(-1)
        raw = self.out_proj(x)
        middle, steps = raw.shape[-1] // 2, F.softplus(raw)
        m = raw[..., middle : middle + 1]
        below = steps[..., :middle].flip(-1).cumsum(-1).flip(-1)
        return torch.cat([m - below, m, m + steps[..., middle + 1 :].cumsum(-1)], -1)


class QuantileHead(nn.Module):
    def __init__(self, width: int, hidden: int, horizons: int, quantiles: int, compat: bool):
        super().__init__()
        self.horizon_embedding = nn.Embedding(horizons, width)
        self.heads = nn.ModuleList(Head(width, hidden, quantiles, compat) for _ in range(horizons))

    def forward(self, x_BxD: Tensor) -> Tensor:
        return torch.stack([h(x_BxD + e) for h, e in zip(self.heads, self.horizon_embedding.weight, strict=True)], 1)


class MigtTvdt(nn.Module):
    """Features [B, T, V] and their mask [B, T] -> quantiles [B, H, Q], with `compat` in units of the target, else of
    `find_unit`. `remat`: compute each temporal layer again in the backward pass."""

    def __init__(
        self,
        variables: int = 24,
        width: int = 256,
        heads: int = 8,
        hidden: int = 1024,
        temporal_layers: int = 4,
        variable_layers: int = 2,
        horizons: int = 5,
        quantiles: int = 7,
        head_hidden: int = 128,
        clock_dims: tuple[int, ...] = (32, 16, 16, 32),
        age_dim: int = 0,
        bars_per_day: int = 288,
        dropout: float = 0.1,
        compat: bool = True,
        window_scale: bool = True,
        variances: int = 6,
        remat: bool = False,
    ):
        super().__init__()
        if compat:
            self.revin = RevIN(variables)
        self.input_embedding = InputEmbedding(variables, width, clock_dims, age_dim, bars_per_day, compat)
        block = lambda: Block(width, heads, hidden, dropout)
        self.temporal_layers = nn.ModuleList(block() for _ in range(temporal_layers))
        self.temporal_aggregation = TemporalAggregation(width)
        self.volatility = None if compat else Volatility(horizons, bars_per_day, variances)
        self.window_scale = WindowScale(variables, width) if window_scale and not compat else None
        self.variable_layers = nn.ModuleList(block() for _ in range(variable_layers))
        self.gated_norms = nn.ModuleList(GatedNorm(width) for _ in range(variable_layers))
        self.output_pool = nn.Sequential(nn.Linear(variables * width, width), nn.GELU(), nn.Dropout(dropout))
        self.quantile_head = QuantileHead(width, head_hidden, horizons, quantiles, compat)
        self.dropout, self.compat, self.remat = nn.Dropout(dropout), compat, remat

    def find_unit(self, mask_BxT: Tensor, bar_BxT: Tensor, log_variance_BxK: Tensor) -> Tensor:
        """The volatility of the return over each horizon [B, H]; mask and bar_in_day as in `forward`."""
        place = torch.where(mask_BxT, torch.arange(mask_BxT.shape[1], device=mask_BxT.device), -1).argmax(1)
        return self.volatility(bar_BxT[torch.arange(len(place), device=place.device), place], log_variance_BxK)

    def forward(
        self, x_BxTxV: Tensor, mask_BxT: Tensor, *clock: Tensor, log_variance_BxK: Tensor | None = None
    ) -> Tensor:
        """clock: bar_in_day [B, T], day_of_week, day_of_month, day_of_year [B]; log_variance: of a bar over several
        half-lives (`fjq.data.bars.scale`), not needed with `compat`."""
        if self.compat:
            x = self.revin(x_BxTxV)
        else:
            x, log_scale = standardize(x_BxTxV, mask_BxT, log_variance_BxK)
        age_BxT = mask_BxT.flip(1).cumsum(1).flip(1) - 1  # valid bars after each
        clock_BxTxD = self.input_embedding.positional_encoding(age_BxT, *clock)
        z_BxTxVxD = self.dropout(self.input_embedding.variable_embed(x) + clock_BxTxD[:, :, None])
        rows, _, variables, _ = z_BxTxVxD.shape
        z = z_BxTxVxD.transpose(1, 2).flatten(0, 1)
        mask = mask_BxT.repeat_interleave(variables, 0)
        for layer in self.temporal_layers:
            z = checkpoint(layer, z, mask, use_reentrant=False) if self.remat else layer(z, mask)
        x = self.temporal_aggregation(z, mask).unflatten(0, (rows, variables))
        if self.window_scale is not None:
            x = x + self.window_scale(log_scale)
        if not self.compat:
            now = (mask_BxT & (age_BxT == 0)).to(clock_BxTxD.dtype)  # one at the last valid bar
            x = x + (clock_BxTxD * now[..., None]).sum(1)[:, None]
        for layer, gate in zip(self.variable_layers, self.gated_norms, strict=True):
            x = gate(x, layer(x))
        return self.quantile_head(self.output_pool(x.flatten(1)))


def standardize(x_BxTxV: Tensor, mask_BxT: Tensor, log_variance_BxK: Tensor) -> tuple[Tensor, Tensor]:
    """The masked normalisation of `fjq.nn.revin`, and log spread and log volatility [B, V, 2]."""
    valid, count = mask_BxT[..., None], mask_BxT.sum(1)[:, None].clamp(min=1)
    place = torch.where(mask_BxT, torch.arange(mask_BxT.shape[1], device=mask_BxT.device), -1).argmax(1)
    last = x_BxTxV[torch.arange(len(place), device=place.device), place]
    x = torch.where(valid, x_BxTxV - last[:, None], 0)
    x = torch.where(valid, x - (x.sum(1) / count)[:, None], 0)
    variance = x.square().sum(1) / count
    varies = variance > (ROUNDING * last.abs()).square()
    spread = torch.where(varies, variance, 1).sqrt()
    log_spread = torch.where(varies, spread, 0).clamp(min=SMALLEST).log()
    return x / spread[:, None], torch.stack([log_spread, (log_variance_BxK[:, :1] / 2).expand_as(spread)], -1)
