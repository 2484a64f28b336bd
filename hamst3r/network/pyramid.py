"""Convolutions around a small ViT: a stem that halves the image step by step, and the way back up.

A ViT learns what an edge is from millions of images; convolutions know before they start. The
compact network has both; the full-size one has neither and reads pixels from tokens (``stem_dim``
0). The stem follows "Early convolutions help transformers see better" (arXiv 2106.14881), the way
back is a feature pyramid (arXiv 1612.03144).
"""

from __future__ import annotations

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from hamst3r.network.blocks import NORM_EPS
from hamst3r.network.config import NetworkConfig


class ConvBlock(nn.Module):
    """Residual pair of 3x3 convolutions on (B, h, w, C)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps=NORM_EPS)
        self.conv1 = nn.Conv2d(dim, dim, 3, padding=1)
        self.conv2 = nn.Conv2d(dim, dim, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x).permute(0, 3, 1, 2)
        return x + self.conv2(F.gelu(self.conv1(y))).permute(0, 2, 3, 1)


class Stem(nn.Module):
    """Image to tokens in steps of two; what the steps saw is kept for :class:`Neck`."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        widths = config.stem_widths
        self.first = nn.Conv2d(3, widths[0], 4, stride=2, padding=1)
        self.norms = nn.ModuleList(nn.LayerNorm(width, eps=NORM_EPS) for width in widths)
        self.down = nn.ModuleList(nn.Conv2d(a, b, 2, stride=2) for a, b in pairwise(widths))
        self.blocks = nn.ModuleList(ConvBlock(width) for width in widths[1:])
        self.proj = nn.Conv2d(widths[-1], config.encoder_dim, 2, stride=2)

    def forward(self, images: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Images (B, 3, H, W) to a token map (B, D, rows, columns) and details, coarse first.

        A detail is (B, h, w, C) at strides ``patch / 2``, ... , ``NECK_STRIDE``.
        """
        x = F.gelu(self.norms[0](self.first(images).permute(0, 2, 3, 1)))
        details = []
        for down, block, norm in zip(self.down, self.blocks, self.norms[1:], strict=True):
            x = norm(block(down(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)))
            details.append(x)
        return self.proj(x.permute(0, 3, 1, 2)), tuple(reversed(details))


class Neck(nn.Module):
    """Decoded tokens back up to stride ``NECK_STRIDE``, meeting the stem's details on the way."""

    def __init__(self, config: NetworkConfig, dim_in: int) -> None:
        super().__init__()
        widths = config.stem_widths[:0:-1]  # coarse first, without the first convolution's
        self.up = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise((dim_in, *widths)))
        self.lateral = nn.ModuleList(nn.Linear(width, width) for width in widths)
        self.blocks = nn.ModuleList(ConvBlock(width) for width in widths)
        self.norm = nn.LayerNorm(widths[-1], eps=NORM_EPS)

    def forward(
        self, tokens: Tensor, grid: tuple[int, int], details: tuple[Tensor, ...]
    ) -> tuple[Tensor, tuple[int, int]]:
        """Tokens (B, rows * columns, D) to finer ones (B, h * w, C) and their grid (h, w)."""
        x = tokens.unflatten(1, grid)
        for up, lateral, block, detail in zip(
            self.up, self.lateral, self.blocks, details, strict=True
        ):
            x = F.interpolate(up(x).permute(0, 3, 1, 2), scale_factor=2.0, mode="nearest")
            x = block(x.permute(0, 2, 3, 1) + lateral(detail))
        return self.norm(x).flatten(1, 2), (x.shape[1], x.shape[2])
