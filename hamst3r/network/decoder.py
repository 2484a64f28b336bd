"""Two decoders that look at each other's tokens: one per view of a pair (DUSt3R, CVPR 2024)."""

from __future__ import annotations

from torch import Tensor, nn

from hamst3r.network.blocks import (
    MLP,
    NORM_EPS,
    CrossAttention,
    Linear,
    Rope,
    SelfAttention,
    rope_table,
)
from hamst3r.network.config import NetworkConfig


class DecoderBlock(nn.Module):
    """Self-attention, cross-attention to the other view, MLP."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.attn = SelfAttention(dim, heads)
        self.norm2 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.norm_y = nn.LayerNorm(dim, eps=NORM_EPS)
        self.cross_attn = CrossAttention(dim, heads)
        self.norm3 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.mlp = MLP(dim, 4 * dim)

    def forward(
        self,
        x: Tensor,
        other: Tensor,
        rope: Rope,
        other_rope: Rope,
    ) -> Tensor:
        # Adding into the newer tensor saves an allocation, which on CPUs costs as much as adding.
        x = self.attn(self.norm1(x), rope).add_(x)
        y = self.norm_y(other)
        x = self.cross_attn(self.norm2(x), y, y, rope, other_rope).add_(x)
        return self.mlp(self.norm3(x)).add_(x)


class TwinDecoder(nn.Module):
    """The decoder pair; every layer reads the other view's tokens of the previous layer."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        dim, heads, depth = config.decoder_dim, config.decoder_heads, config.decoder_depth
        self.embed = Linear(config.encoder_dim, dim)
        self.blocks = nn.ModuleList(DecoderBlock(dim, heads) for _ in range(depth))
        self.blocks2 = nn.ModuleList(DecoderBlock(dim, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, eps=NORM_EPS)

    def forward(
        self,
        tokens_i: Tensor,
        tokens_j: Tensor,
        grid_i: tuple[int, int],
        grid_j: tuple[int, int],
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Decode encoder tokens (B, N, encoder_dim) of both views.

        Returns:
            For each view tokens (B, N, decoder_dim): after the layers ``config.taps``, as they
            are, and after the last layer, normed.
        """
        config = self.config
        head_dim = config.decoder_dim // config.decoder_heads
        x_i, x_j = self.embed(tokens_i), self.embed(tokens_j)
        rope_i, rope_j = (
            rope_table(*grid, head_dim, config.rope_base, x_i.device, x_i.dtype)
            for grid in (grid_i, grid_j)
        )
        taps: list[tuple[Tensor, Tensor]] = []
        for layer, (block_i, block_j) in enumerate(zip(self.blocks, self.blocks2, strict=True), 1):
            x_i, x_j = block_i(x_i, x_j, rope_i, rope_j), block_j(x_j, x_i, rope_j, rope_i)
            if layer in config.taps:
                taps.append((x_i, x_j))
        tapped_i, tapped_j = (tuple(pair[side] for pair in taps) for side in range(2))
        return (*tapped_i, self.norm(x_i)), (*tapped_j, self.norm(x_j))
