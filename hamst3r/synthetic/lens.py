"""Lenses and pixels: images distorted and undistorted again, or stretched from fewer pixels.

Geometry stays that of the pinhole images but for less than :data:`RESIDUE` pixels: what is left
where a lens is calibrated and its images are undistorted.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

RESIDUE = 0.8  # pixels, in the corners


def through_lenses(images: Tensor, chosen: NDArray[np.bool_], rng: np.random.Generator) -> Tensor:
    """Images (B, 3, H, W), the ``chosen`` (B,) as lenses and nearly right calibrations leave them.

    A pixel of the distorted image at radius r (1 in the corners) shows what a pinhole camera has
    at r (1 + a r^2): a barrel for a > 0, as most lenses have (Brown's model, first term).
    """
    count, _, height, width = images.shape
    # Drawn for all, so that one image's lens does not depend on which others have one.
    a, wrong = rng.uniform(-0.04, 0.3, count), rng.uniform(-1, 1, count)
    index = torch.as_tensor(np.flatnonzero(chosen), device=images.device)
    if len(index) == 0:
        return images
    corner = float(np.hypot(width, height)) / 2

    def column(values: NDArray) -> Tensor:
        part = np.asarray(values[chosen], np.float32).reshape(-1, 1, 1)
        return torch.as_tensor(part, device=images.device)

    x = torch.arange(width, device=images.device) - (width - 1) / 2
    y = torch.arange(height, device=images.device) - (height - 1) / 2
    radius = torch.hypot(x[None], y[:, None])[None] / corner
    bent = _scaled(images[index], 1 + column(a) * radius.square())
    calibrated = column(a + wrong * RESIDUE / corner)
    solved = radius.expand(len(index), -1, -1).clone()
    for _ in range(4):  # Newton, for the radius in the distorted image
        error = solved * (1 + calibrated * solved.square()) - radius
        solved -= error / (1 + 3 * calibrated * solved.square())
    out = images.clone()
    out[index] = _scaled(bent, solved / radius.clamp_min(1e-6))
    return out


def _scaled(images: Tensor, scale: Tensor) -> Tensor:
    """Images (B, 3, H, W) at ``scale`` (B, H, W) times each pixel's place from the centre."""
    _, _, height, width = images.shape
    x = torch.linspace(-1, 1, width, device=images.device)
    y = torch.linspace(-1, 1, height, device=images.device)
    grid = torch.stack([x[None, None] * scale, y[None, :, None] * scale], -1)
    return F.grid_sample(images, grid, padding_mode="reflection", align_corners=True)


def resampled(images: Tensor, chosen: NDArray[np.bool_], rng: np.random.Generator) -> Tensor:
    """Images (B, 3, H, W), the ``chosen`` (B,) stretched from 40 to 90 % of the pixels a side."""
    _, _, height, width = images.shape
    shares = rng.uniform(0.4, 0.9, len(images))
    coarse = rng.random(len(images)) < 0.3
    out = images.clone() if chosen.any() else images
    for k in np.flatnonzero(chosen):
        less = (max(8, int(height * shares[k])), max(8, int(width * shares[k])))
        small = F.interpolate(images[k : k + 1], less, mode="area")
        mode = "nearest" if coarse[k] else "bicubic"
        out[k] = F.interpolate(small, (height, width), mode=mode)[0]
    return out
