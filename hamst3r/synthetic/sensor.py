"""What a camera does to a clean image: exposure, colour, blur, vignette, noise, compression."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray


def expose(
    rgb: NDArray[np.uint8], rng: np.random.Generator, strength: float = 1.0
) -> NDArray[np.uint8]:
    """A photograph of ``rgb`` (H, W, 3) uint8 by a random camera; geometry stays exact.

    Args:
        strength: 0 returns the image as it is, 1 is meant for training.
    """
    if strength <= 0:
        return rgb
    height, width = rgb.shape[:2]
    image: NDArray[np.float32] = (rgb.astype(np.float32) / 255) ** np.float32(2.2)
    image *= np.exp(rng.normal(0, 0.35 * strength))
    image *= np.exp(rng.normal(0, 0.08 * strength, 3)).astype(np.float32)
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    vignette = rng.uniform(0, 0.4) * strength * rng.random()
    image *= (1 - vignette * (x * x + y * y) / 2).astype(np.float32)[..., None]
    image = np.clip(image, 0, 1) ** np.float32(1 / rng.uniform(1.9, 2.6))
    contrast, saturation = np.exp(rng.normal(0, 0.12 * strength, 2)).astype(np.float32)
    grey = image.mean(2, keepdims=True)
    image = (grey + (image - grey) * saturation - 0.45) * contrast + 0.45
    if rng.random() < 0.5 * strength:
        soft = cv2.GaussianBlur(image, (0, 0), float(rng.uniform(0.3, 1.1)))
        image = np.asarray(soft, np.float32)
    if rng.random() < 0.08 * strength:
        image = _motion_blur(image, rng)
    if rng.random() < 0.3 * strength:  # cameras like to sharpen
        smooth = cv2.GaussianBlur(image, (0, 0), 1.0)
        image = image + np.float32(rng.uniform(0.2, 0.8)) * (image - smooth)
    noise = rng.uniform(0, 0.035) * strength * rng.random()
    image = image + noise * rng.standard_normal(image.shape, np.float32)
    out = (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)
    if rng.random() < 0.6 * strength:
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(35, 96))]
        packed = cv2.imencode(".jpg", np.ascontiguousarray(out[..., ::-1]), quality)[1]
        out = np.asarray(cv2.imdecode(packed, cv2.IMREAD_COLOR))[..., ::-1]
    return np.ascontiguousarray(out)


def _motion_blur(image: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    length = int(rng.integers(3, 8))
    kernel = np.zeros((length, length), np.float32)
    angle = rng.uniform(0, np.pi)
    middle = (length - 1) / 2
    reach = np.array([np.cos(angle), np.sin(angle)]) * middle
    start, end = (tuple(round(v) for v in middle + s * reach) for s in (-1, 1))
    cv2.line(kernel, start, end, 1.0)
    return np.asarray(cv2.filter2D(image, -1, kernel / kernel.sum()), np.float32)
