"""The shared image encoder: a ViT, run once per image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hamst3r.network.blocks import MLP, NORM_EPS, Rope, SelfAttention, rope_table
from hamst3r.network.config import NetworkConfig
from hamst3r.network.pyramid import Stem

# DINOv2 scales its learned positions by (n + 0.1) / n0, not to n: the tenth shifts every position.
POSITION_OFFSET = 0.1


class Encoded(NamedTuple):
    """Images as the encoder sees them; B images of one size.

    Attributes:
        tokens: (B, rows * columns, encoder_dim). grid: (rows, columns).
        details: Maps (B, h, w, C) of the convolutional stem, coarse first; empty without one.
    """

    tokens: Tensor
    grid: tuple[int, int]
    details: tuple[Tensor, ...] = ()

    def select(self, rows: slice) -> Encoded:
        """Some of the images."""
        return Encoded(self.tokens[rows], self.grid, tuple(part[rows] for part in self.details))

    @staticmethod
    def cat(parts: Sequence[Encoded]) -> Encoded:
        """Images of one size together."""
        if len(parts) == 1:
            return parts[0]
        details = zip(*(part.details for part in parts), strict=True)
        return Encoded(
            torch.cat([part.tokens for part in parts]),
            parts[0].grid,
            tuple(torch.cat(maps) for maps in details),
        )


class PatchEmbed(nn.Module):
    """Image to tokens by one linear map per patch."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, config.encoder_dim, config.patch, stride=config.patch)

    def forward(self, images: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        return self.proj(images), ()


class LayerScale(nn.Module):
    """A learned factor per channel (arXiv 2103.17239)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((dim,), 1e-4))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class EncoderBlock(nn.Module):
    """Pre-norm self-attention and MLP."""

    def __init__(self, dim: int, heads: int, scaled: bool) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.attn = SelfAttention(dim, heads)
        self.norm2 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.mlp = MLP(dim, 4 * dim)
        self.ls1 = LayerScale(dim) if scaled else nn.Identity()
        self.ls2 = LayerScale(dim) if scaled else nn.Identity()

    def forward(self, x: Tensor, rope: Rope | None) -> Tensor:
        x = self.ls1(self.attn(self.norm1(x), rope)).add_(x)
        return self.ls2(self.mlp(self.norm2(x))).add_(x)


class LearnedPositions(nn.Module):
    """Class token, learned positions and registers of DINOv2; the patches' tokens come last."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        dim, side = config.encoder_dim, config.position_grid
        self.side = side
        self.extra = 1 + config.registers
        self.class_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.positions = nn.Parameter(torch.zeros(1, 1 + side * side, dim))
        self.registers = nn.Parameter(torch.zeros(1, config.registers, dim))

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """Patch tokens (B, N, D) to (B, 1 + registers + N, D)."""
        first = self.class_token + self.positions[:, :1]
        extra = torch.cat([first, self.registers], 1).expand(len(x), -1, -1)
        return torch.cat([extra, x + self._patch_positions(grid).to(x.dtype)], 1)

    def _patch_positions(self, grid: tuple[int, int]) -> Tensor:
        side = self.side
        positions = self.positions[:, 1:]
        if grid == (side, side):
            return positions
        scale = [(count + POSITION_OFFSET) / side for count in grid]
        planes = positions.float().unflatten(1, (side, side)).permute(0, 3, 1, 2)
        resized = F.interpolate(planes, scale_factor=scale, mode="bicubic", antialias=False)
        return resized.permute(0, 2, 3, 1).flatten(1, 2)


class Encoder(nn.Module):
    """ViT encoder."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.patch_embed = Stem(config) if config.stem_dim else PatchEmbed(config)
        dinov2 = config.encoder == "dinov2"
        self.learned = LearnedPositions(config) if dinov2 else None
        self.blocks = nn.ModuleList(
            EncoderBlock(config.encoder_dim, config.encoder_heads, scaled=dinov2)
            for _ in range(config.encoder_depth)
        )
        self.norm = nn.LayerNorm(config.encoder_dim, eps=config.token_eps)

    def forward(self, images: Tensor) -> Encoded:
        """Encode.

        Args:
            images: (B, 3, H, W) in [-1, 1], RGB, H and W multiples of the patch.
        """
        config = self.config
        if images.shape[-2] % config.patch or images.shape[-1] % config.patch:
            raise ValueError(
                f"image {tuple(images.shape[-2:])} is not a multiple of the patch {config.patch}"
            )
        x, details = self.patch_embed(images)
        grid = (x.shape[-2], x.shape[-1])
        x = x.flatten(2).transpose(1, 2)
        rope, extra = None, 0
        if self.learned is not None:
            x, extra = self.learned(x, grid), self.learned.extra
        else:
            head_dim = config.encoder_dim // config.encoder_heads
            rope = rope_table(*grid, head_dim, config.rope_base, x.device, x.dtype)
        for block in self.blocks:
            x = block(x, rope)
        return Encoded(self.norm(x[:, extra:]), grid, details)
