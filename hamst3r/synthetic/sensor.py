"""What a camera does to a clean image: lens, exposure, colour, blur, noise, compression."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from hamst3r.synthetic.lens import resampled, through_lenses

REACH = 3  # pixels from the middle of a blur to its border
# JPEG's example tables (ITU-T T.81, annex K), brightness and colour.
_LUMA = """16 11 10 16 24 40 51 61 12 12 14 19 26 58 60 55 14 13 16 24 40 57 69 56 14 17 22 29 51
 87 80 62 18 22 37 56 68 109 103 77 24 35 55 64 81 104 113 92 49 64 78 87 103 121 120 101 72 92 95
 98 112 100 103 99"""
_CHROMA = (
    """17 18 24 47 99 99 99 99 18 21 26 66 99 99 99 99 24 26 56 99 99 99 99 99 47 66 99 99 99
 99 99 99"""
    + " 99" * 32
)
_YCC = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))


def expose(
    rgb: NDArray[np.uint8], rng: np.random.Generator, strength: float = 1.0
) -> NDArray[np.uint8]:
    """A photograph of ``rgb`` (H, W, 3) uint8 by a random camera, undistorted.

    Geometry stays exact but for :data:`lens.RESIDUE` pixels.

    Args:
        strength: 0 returns the image as it is, 1 is meant for training.
    """
    if strength <= 0:
        return rgb
    image = torch.from_numpy(np.ascontiguousarray(rgb)).permute(2, 0, 1)[None].float() / 255
    out = photograph(image, rng, strength)[0].permute(1, 2, 0)
    return (out * 255).round().to(torch.uint8).contiguous().numpy()


def photograph(images: Tensor, rng: np.random.Generator, strength: float = 1.0) -> Tensor:
    """Photographs of images (B, 3, H, W) in [0, 1], each by a random camera; of the same range."""
    count, _, height, width = images.shape
    device = images.device

    def column(values: NDArray, channels: int = 1) -> Tensor:
        shaped = np.asarray(values, np.float32).reshape(count, channels, 1, 1)
        return torch.as_tensor(shaped, device=device)

    def some(share: float) -> NDArray[np.bool_]:
        return np.asarray(rng.random(count) < share * strength)

    images = through_lenses(images, some(0.3), rng)
    # Light: exposure, white balance, vignette, then the camera's tone curve.
    gain = rng.normal(0, 0.35 * strength, (count, 1)) + rng.normal(0, 0.08 * strength, (count, 3))
    y, x = (torch.linspace(-1, 1, n, device=device) for n in (height, width))
    corner = (x.square()[None] + y.square()[:, None]) / 2
    vignette = column(rng.uniform(0, 0.4, count) * rng.random(count) * strength)
    light = (images**2.2).mul_(column(np.exp(gain), 3)).mul_(1 - vignette * corner)
    # Light of two colours from two sides, or mains flicker under a rolling shutter.
    waves, phase = column(rng.uniform(0.5, 6, count)), column(rng.uniform(0, 6.3, count))
    tint = rng.normal(0, 0.08, (count, 3)) * some(0.2)[:, None]
    light *= 1 + column(tint, 3) * torch.sin(y.view(1, 1, -1, 1) * waves + phase)
    image = light.clamp_(0, 1).pow_(column(1 / rng.uniform(1.9, 2.6, count)))
    # Colour: saturation, then contrast about a middle grey.
    contrast, saturation = (column(np.exp(rng.normal(0, 0.12 * strength, count))) for _ in range(2))
    saturation = saturation * column(~some(0.04))  # infrared and old cameras see grey
    grey = image.mean(1, keepdim=True)
    image = torch.lerp(grey, image, saturation).sub_(0.45).mul_(contrast).add_(0.45)
    image = resampled(image, some(0.12), rng)
    # Optics: out of focus, moved, sharpened. One small kernel each.
    blur = torch.where(
        column(some(0.5)) > 0, _gaussians(rng.uniform(0.3, 1.1, count), device), _point(device)
    )
    moved = column(some(0.08)) > 0
    blur = torch.where(moved, _streaks(rng, count).to(device), blur)
    sharpen = column(np.where(some(0.3), rng.uniform(0.2, 0.8, count), 0.0))
    soft = F.conv2d(blur, _gaussians(np.ones(1), device), padding=REACH)
    kernel = blur + sharpen * (blur - soft)
    kernel = (kernel / kernel.sum((2, 3), keepdim=True)).repeat_interleave(3, 0)
    padded = F.pad(image.reshape(1, 3 * count, height, width), [REACH] * 4, mode="replicate")
    image = F.conv2d(padded, kernel, groups=3 * count).view(images.shape)
    # Noise, then eight bits and compression.
    generator = torch.Generator(device=device).manual_seed(int(rng.integers(1 << 62)))
    noise = torch.randn(image.shape, device=device, generator=generator)
    image += noise.mul_(column(rng.uniform(0, 0.035, count) * rng.random(count) * strength))
    image = image.clamp_(0, 1).mul_(255).round_().div_(255)
    packed = torch.as_tensor(np.flatnonzero(some(0.6)), device=device)
    quality = rng.integers(35, 96, count)[packed.cpu().numpy()]
    image[packed] = compress(image[packed], torch.as_tensor(quality, device=device))
    return image


def compress(images: Tensor, quality: Tensor) -> Tensor:
    """Images (B, 3, H, W) in [0, 1] as JPEG files of quality (B,) in 1..100 would show them.

    Baseline JPEG with colour at half the resolution (ITU-T T.81, JFIF; quality as libjpeg's).
    """
    height, width = images.shape[2:]
    padded = F.pad(images, [0, -width % 16, 0, -height % 16], mode="replicate")
    mix = torch.tensor(_YCC, device=images.device)
    ycc = torch.einsum("cd,bdhw->bchw", mix, padded) * 255
    brightness = _quantised(ycc[:, :1] - 128, _LUMA, quality) + 128
    colour = _quantised(F.avg_pool2d(ycc[:, 1:], 2), _CHROMA, quality)
    colour = F.interpolate(colour, scale_factor=2.0, mode="bilinear", align_corners=False)
    rgb = torch.einsum("cd,bdhw->bchw", mix.inverse(), torch.cat([brightness, colour], 1))
    return (rgb.round().clamp(0, 255) / 255)[..., :height, :width]


def _quantised(planes: Tensor, table: str, quality: Tensor) -> Tensor:
    """Planes (B, C, H, W) after the rounding of their 8x8 cosine transforms."""
    k = torch.arange(8, device=planes.device, dtype=torch.float32)
    cosine = torch.cos((2 * k[None] + 1) * k[:, None] * math.pi / 16) / 2
    cosine[0] /= math.sqrt(2)
    q = quality.float()
    percent = torch.where(q < 50, 5000 / q.clamp_min(1), 200 - 2 * q).floor()
    base = torch.tensor([float(value) for value in table.split()], device=planes.device)
    steps = ((base.view(8, 8) * percent[:, None, None] + 50) / 100).floor().clamp(1, 255)
    steps = steps[:, None, None, :, None, :]  # (B, C, rows, 8, columns, 8)
    blocks = planes.unflatten(2, (-1, 8)).unflatten(4, (-1, 8))
    waves = torch.einsum("ui,bcrixj,vj->bcruxv", cosine, blocks, cosine)
    waves = (waves / steps).round() * steps
    out = torch.einsum("ui,bcruxv,vj->bcrixj", cosine, waves, cosine)
    return out.flatten(4, 5).flatten(2, 3)


def _point(device: torch.device) -> Tensor:
    kernel = torch.zeros(1, 1, 2 * REACH + 1, 2 * REACH + 1, device=device)
    kernel[..., REACH, REACH] = 1
    return kernel


def _gaussians(sigma: NDArray, device: torch.device) -> Tensor:
    """(B, 1, 7, 7) with standard deviations (B,) in pixels."""
    offset = torch.arange(-REACH, REACH + 1, device=device, dtype=torch.float32)
    spread = torch.as_tensor(np.asarray(sigma, np.float32), device=device)[:, None]
    line = torch.exp(-0.5 * (offset / spread) ** 2)
    line = line / line.sum(1, keepdim=True)
    return (line[:, :, None] * line[:, None, :])[:, None]


def _streaks(rng: np.random.Generator, count: int) -> Tensor:
    """(B, 1, 7, 7): a camera that moved while it looked."""
    angle, half = rng.uniform(0, np.pi, count), rng.uniform(1.0, REACH, count)
    way = np.linspace(-1, 1, 25)[None] * half[:, None]
    place = np.stack([np.sin(angle)[:, None] * way, np.cos(angle)[:, None] * way], -1)
    kernel = np.zeros((count, 2 * REACH + 1, 2 * REACH + 1), np.float32)
    cell = np.rint(place).astype(int) + REACH
    np.add.at(kernel, (np.arange(count)[:, None], cell[..., 0], cell[..., 1]), 1 / 25)
    return torch.from_numpy(kernel)[:, None]
