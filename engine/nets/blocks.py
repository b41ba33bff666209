"""The pieces that the paper's UNet and its audio encoder are both built from.

Attribute names and the positions inside each ``nn.Sequential`` are part of the checkpoint
format: published state dicts address every tensor by them.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# The group count of every normalisation layer, so every width is a multiple of it.
NORM_GROUPS = 32


def timestep_embedding(t: Tensor, dim: int) -> Tensor:
    """Sinusoids of the diffusion step (Vaswani et al., 2017, sec. 3.5), cosines first.

    Args:
        t: [B], step numbers, whole or fractional.
        dim: Width of the result; even.

    Returns:
        f32[B,dim].
    """
    half = dim // 2
    # Frequencies fall from 1 to 1/10000 rad per step: cos, sin of t * 10000^(-i/half).
    exponents = torch.arange(half, dtype=torch.float32, device=t.device) / half
    angles = t.float()[:, None] * torch.exp(-math.log(10_000.0) * exponents)
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def zero_init(module: nn.Conv1d | nn.Conv2d) -> nn.Conv1d | nn.Conv2d:
    """Zero a layer's weights, so that the residual branch it closes starts as a no-op."""
    nn.init.zeros_(module.weight)
    if module.bias is not None:
        nn.init.zeros_(module.bias)
    return module


def time_mlp(dim: int, hidden: int) -> nn.Sequential:
    """The two-layer perceptron that follows ``timestep_embedding``."""
    return nn.Sequential(nn.Linear(dim, hidden), nn.SiLU(), nn.Linear(hidden, hidden))


class GroupNorm(nn.GroupNorm):
    """Group normalisation (Wu & He, 2018) whose statistics are always float32."""

    def __init__(self, channels: int) -> None:
        super().__init__(NORM_GROUPS, channels)

    def forward(self, input: Tensor) -> Tensor:
        """Normalise [B,C,...], keeping its dtype."""
        # Half precision would overflow in the sum of squares over a whole group.
        out = F.group_norm(
            input.float(), self.num_groups, self.weight.float(), self.bias.float(), self.eps
        )
        return out.to(input.dtype)


class ResBlock(nn.Module):
    """Residual block with an additive embedding; it can also change the resolution.

    Resampling happens inside the block, as in BigGAN (Brock et al., 2019, fig. 15): after
    the first activation on the main path and directly on the skip path.
    """

    def __init__(
        self, in_channels: int, out_channels: int, emb_dim: int, resample: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.resample = nn.Identity() if resample is None else resample
        self.in_layers = nn.Sequential(
            GroupNorm(in_channels), nn.SiLU(), nn.Conv2d(in_channels, out_channels, 3, padding=1)
        )
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(emb_dim, out_channels))
        self.out_layers = nn.Sequential(
            GroupNorm(out_channels),
            nn.SiLU(),
            nn.Identity(),  # the reference's dropout: its place keeps the next key at 3
            zero_init(nn.Conv2d(out_channels, out_channels, 3, padding=1)),
        )
        self.skip_connection = (
            nn.Identity()
            if in_channels == out_channels
            else nn.Conv2d(in_channels, out_channels, 1)
        )

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """Transform ``x`` f32[B,C,H,W], given ``emb`` f32[B,emb_dim]."""
        norm, activation, conv = self.in_layers
        h = conv(self.resample(activation(norm(x))))
        h = h + self.emb_layers(emb)[:, :, None, None]
        out: Tensor = self.skip_connection(self.resample(x)) + self.out_layers(h)
        return out


class SelfAttention(nn.Module):
    """Multi-head self-attention over the pixels of a feature map, with a residual."""

    def __init__(self, channels: int, head_channels: int) -> None:
        super().__init__()
        assert channels % head_channels == 0, f"{channels} channels, heads of {head_channels}"
        self.heads = channels // head_channels
        self.norm = GroupNorm(channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = zero_init(nn.Conv1d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Attend within each image of ``x`` f32[B,C,H,W]."""
        flat = x.flatten(2)
        # Head-first layout: the 3*D channels of one head are its q, k and v in a row.
        q, k, v = self.qkv(self.norm(flat)).unflatten(1, (self.heads, -1)).chunk(3, dim=2)
        # ch^(-1/4) on both factors instead of ch^(-1/2) on the product (Vaswani et al.,
        # 2017, eq. 1): the same value, but the product stays inside half precision.
        scale = float(q.shape[2]) ** -0.25
        weight = torch.matmul((q * scale).transpose(2, 3), k * scale)
        weight = weight.float().softmax(dim=3).to(v.dtype)
        attended = torch.matmul(v, weight.transpose(2, 3)).flatten(1, 2)
        out: Tensor = (flat + self.proj_out(attended)).view_as(x)
        return out


class Stage(nn.ModuleList):
    """Layers applied in order, of which the residual blocks also get the embedding."""

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """Run ``x`` f32[B,C,H,W] through every layer, given ``emb`` f32[B,emb_dim]."""
        for layer in self:
            x = layer(x, emb) if isinstance(layer, ResBlock) else layer(x)
        return x
