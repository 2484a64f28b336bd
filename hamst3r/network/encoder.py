"""The shared image encoder: a ViT with rotary positions, run once per image."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from hamst3r.network.blocks import MLP, NORM_EPS, SelfAttention, rope_table
from hamst3r.network.config import NetworkConfig


class PatchEmbed(nn.Module):
    """Image to tokens: optionally a strided convolution, then one linear map per patch."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        channels, side = 3, config.patch
        self.stem: nn.Module | None = None
        if config.stem_dim:
            self.stem = nn.Conv2d(3, config.stem_dim, 4, stride=2, padding=1)
            channels, side = config.stem_dim, config.patch // 2
        self.proj = nn.Conv2d(channels, config.encoder_dim, side, stride=side)

    def forward(self, images: Tensor) -> Tensor:
        if self.stem is not None:
            images = F.gelu(self.stem(images))
        return self.proj(images)


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
        self.patch_embed = PatchEmbed(config)
        self.blocks = nn.ModuleList(
            EncoderBlock(config.encoder_dim, config.encoder_heads)
            for _ in range(config.encoder_depth)
        )
        self.norm = nn.LayerNorm(config.encoder_dim, eps=NORM_EPS)

    def forward(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Encode.

        Args:
            images: (B, 3, H, W) in [-1, 1], RGB, H and W multiples of the patch.

        Returns:
            Tokens (B, rows * columns, encoder_dim) and the grid (rows, columns).
        """
        config = self.config
        if images.shape[-2] % config.patch or images.shape[-1] % config.patch:
            raise ValueError(
                f"image {tuple(images.shape[-2:])} is not a multiple of the patch {config.patch}"
            )
        x = self.patch_embed(images)
        rows, columns = x.shape[-2:]
        x = x.flatten(2).transpose(1, 2)
        head_dim = config.encoder_dim // config.encoder_heads
        rope = rope_table(rows, columns, head_dim, config.rope_base, x.device)
        for block in self.blocks:
            x = block(x, rope)
        return self.norm(x), (rows, columns)
