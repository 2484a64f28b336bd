"""Focal lengths: from pointmaps, robustly, and averaged over time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hamst3r.geometry import lengths

F64 = NDArray[np.float64]
# Horizontal fields of view beyond these (169 and 5.7 degrees) are garbage, not lenses.
MIN_FOCAL, MAX_FOCAL = 0.05, 10.0


def weiszfeld_focal(
    points: NDArray, pixels: NDArray, weights: NDArray, iterations: int = 10
) -> float | None:
    """The focal length that minimises the weighted sum of distances in the image (not squares).

    Args:
        points: (n, 3) in the camera, z > 0.
        pixels: (n, 2) relative to the principal point.
        weights: (n,) >= 0.

    Returns:
        Pixels, or None where the points do not determine it.
    """
    keep = (weights > 0) & (points[:, 2] > 0)
    if keep.sum() < 3:
        return None
    plane = points[keep, :2] / points[keep, 2:]
    pixels, weights = pixels[keep], weights[keep]
    along, square = (plane * pixels).sum(1), (plane * plane).sum(1)
    w, focal = weights, 0.0
    for _ in range(iterations):
        denominator = w @ square
        if not np.isfinite(denominator) or denominator <= 0:
            return None
        before, focal = focal, float(w @ along / denominator)
        if abs(focal - before) < 1e-5 * focal:
            break
        # Half a pixel: nearer than that, a pixel is no better evidence.
        w = weights / np.maximum(lengths(pixels - focal * plane), 0.5)
    return focal if np.isfinite(focal) and focal > 0 else None


def plausible_focal(focal: float | None, width: int) -> bool:
    """Whether a lens of this focal length (pixels) exists for images of this width."""
    return focal is not None and MIN_FOCAL * width < focal < MAX_FOCAL * width


def pinhole(focal: float, centre: NDArray) -> F64:
    """(3, 3) intrinsics with square pixels."""
    return np.array([[focal, 0, centre[0]], [0, focal, centre[1]], [0, 0, 1.0]])


@dataclass
class FocalAverage:
    """Running geometric mean of a camera's focal length, in units of the grid's width.

    The first ``window`` values count alike, later ones are smoothed exponentially.
    """

    window: int = 30
    _log: float = 0.0
    _count: int = 0

    @property
    def count(self) -> int:
        """How many values the mean stands for."""
        return self._count

    def correct(self, factor: float) -> None:
        """Multiply the mean, after what is better than a single value."""
        self._log += float(np.log(factor))

    @property
    def value(self) -> float | None:
        """Focal length over grid width, or None before the first value."""
        return float(np.exp(self._log)) if self._count else None

    def add(self, relative_focal: float) -> float:
        """Take a new value in; returns the mean."""
        self._count = min(self._count + 1, self.window)
        self._log += (np.log(relative_focal) - self._log) / self._count
        return float(np.exp(self._log))
