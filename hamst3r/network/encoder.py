"""The shared image encoder: a ViT with rotary positions, run once per image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from hamst3r.network.blocks import MLP, NORM_EPS, SelfAttention, rope_table
from hamst3r.network.config import NetworkConfig
from hamst3r.network.pyramid import Stem


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


class EncoderBlock(nn.Module):
    """Pre-norm self-attention and MLP."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.attn = SelfAttention(dim, heads)
        self.norm2 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.mlp = MLP(dim, 4 * dim)

    def forward(self, x: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
        x = x + self.attn(self.norm1(x), rope)
        return x + self.mlp(self.norm2(x))


class Encoder(nn.Module):
    """ViT encoder."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.patch_embed = Stem(config) if config.stem_dim else PatchEmbed(config)
        self.blocks = nn.ModuleList(
            EncoderBlock(config.encoder_dim, config.encoder_heads)
            for _ in range(config.encoder_depth)
        )
        self.norm = nn.LayerNorm(config.encoder_dim, eps=NORM_EPS)

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
        rows, columns = x.shape[-2:]
        x = x.flatten(2).transpose(1, 2)
        head_dim = config.encoder_dim // config.encoder_heads
        rope = rope_table(rows, columns, head_dim, config.rope_base, x.device)
        for block in self.blocks:
            x = block(x, rope)
        return Encoded(self.norm(x), (rows, columns), details)
