"""Tokens to pixels by convolutions: the dense prediction transformer's head (arXiv 2103.13413).

Tokens of four depths become maps at 4, 2, 1 and 1/2 cells per patch, and are fused from the
coarsest to the finest. Sizes are those of DUSt3R (CVPR 2024).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEVELS = (96, 192, 384, 768)
WIDTH, LAST = 256, 128


class ResidualConv(nn.Module):
    """Two 3x3 convolutions around the identity, each after a ReLU."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(dim, dim, 3, padding=1)
        self.conv2 = nn.Conv2d(dim, dim, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.relu(self.conv1(F.relu(x))))


class Fusion(nn.Module):
    """Adds a finer level to what came from the coarser ones, and doubles the resolution."""

    def __init__(self, dim: int, first: bool) -> None:
        super().__init__()
        self.finer = None if first else ResidualConv(dim)
        self.both = ResidualConv(dim)
        self.out = nn.Conv2d(dim, dim, 1)

    def forward(self, x: Tensor, finer: Tensor | None = None) -> Tensor:
        if self.finer is not None and finer is not None:
            # A coarser level of an odd grid, doubled, is one row or column too large.
            x = x[..., : finer.shape[-2], : finer.shape[-1]] + self.finer(finer)
        return self.out(_resize(self.both(x), 2.0))


class DPT(nn.Module):
    """Tokens of four depths to (B, H, W, channels) at the image's resolution.

    Args:
        dims: Widths of the four depths' tokens.
        channels: Of the output.
        patch: Side of a patch in pixels.
    """

    def __init__(self, dims: Sequence[int], channels: int, patch: int) -> None:
        super().__init__()
        # After four fusions a patch is 8 cells wide.
        self.zoom = patch / 8
        self.project = nn.ModuleList(
            nn.Conv2d(dim, level, 1) for dim, level in zip(dims, LEVELS, strict=True)
        )
        self.resample = nn.ModuleList(
            [
                nn.ConvTranspose2d(LEVELS[0], LEVELS[0], 4, stride=4),
                nn.ConvTranspose2d(LEVELS[1], LEVELS[1], 2, stride=2),
                nn.Identity(),
                nn.Conv2d(LEVELS[3], LEVELS[3], 3, stride=2, padding=1),
            ]
        )
        self.level = nn.ModuleList(
            nn.Conv2d(level, WIDTH, 3, padding=1, bias=False) for level in LEVELS
        )
        self.fusion = nn.ModuleList(Fusion(WIDTH, first=k == 3) for k in range(4))
        self.narrow = nn.Conv2d(WIDTH, LAST, 3, padding=1)
        self.smooth = nn.Conv2d(LAST, LAST, 3, padding=1)
        self.out = nn.Conv2d(LAST, channels, 1)

    def forward(
        self, tokens: Sequence[Tensor], grid: tuple[int, int], dtype: torch.dtype | None = None
    ) -> Tensor:
        """Maps of tokens (B, rows * columns, dim), shallow first, in ``dtype`` if given."""
        levels = []
        for x, project, resample, level in zip(
            tokens, self.project, self.resample, self.level, strict=True
        ):
            plane = x.unflatten(1, grid).permute(0, 3, 1, 2)
            levels.append(level(resample(project(plane))))
        x = self.fusion[3](levels[3])
        for fusion, finer in zip(reversed(self.fusion[:3]), reversed(levels[:3]), strict=True):
            x = fusion(x, finer)
        x = _resize(self.narrow(x), self.zoom)
        x = self.out(F.relu(self.smooth(x))).permute(0, 2, 3, 1)
        return x.to(dtype or x.dtype)


def _resize(x: Tensor, scale: float) -> Tensor:
    return F.interpolate(x, scale_factor=scale, mode="bilinear", align_corners=True)
