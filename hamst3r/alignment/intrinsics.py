"""Focal lengths: from pointmaps, robustly, and averaged over time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hamst3r.alignment.observations import Observations
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


def scaled_focal(K: F64, factor: float) -> F64:
    """The same lens with another focal length."""
    scaled = K.copy()
    scaled[[0, 1], [0, 1]] *= factor
    return scaled


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


@dataclass(frozen=True, eq=False)
class Lens:
    """K (3, 3) of a view's grid, and how firmly the focal length is held.

    ``hold`` is how many times what one frame set shows speaks for it: 0 = it is only a guess,
    infinite = it is known.
    """

    K: F64
    hold: float


class FocalSpread:
    """How far looks disagree about focal lengths: the network's precision, as it shows itself.

    Begins with an opinion that weighs like one measurement.
    """

    USUAL, LEAST = 0.015, 0.002

    def __init__(self) -> None:
        self._squares, self._freedom = self.USUAL**2, 1.0

    def of(self, observations: Observations, view: int) -> tuple[float, float]:
        """Relative standard deviations: by a view's own looks, and by all looks at it."""
        own = observations.own_looks(view)
        grid = observations.grids[view]
        pixels = grid.pixels - grid.centre
        found = [weiszfeld_focal(look.X, pixels, look.w) for look in own]
        logs = np.log([f for f in found if f and plausible_focal(f, grid.shape[1])])
        if len(logs) > 1:
            # Slowly forgetful, so that it follows a change of scene.
            self._squares = 0.99 * self._squares + float(((logs - logs.mean()) ** 2).sum())
            self._freedom = 0.99 * self._freedom + len(logs) - 1
        single = (self._squares / self._freedom) ** 0.5
        every = sum(look.usable for look in observations.looks_at[view])
        by_own, by_all = (
            float(np.hypot(single / max(n, 1) ** 0.5, self.LEAST)) for n in (len(logs), every)
        )
        return by_own, by_all


def uncertain_lens(
    K: F64, K_std: float, average: FocalAverage, width: int, measured_std: tuple[float, float]
) -> Lens:
    """Known intrinsics of some standard deviation, together with what the pointmaps say.

    ``measured_std``: as :meth:`FocalSpread.of` has it, of one frame set.
    """
    by_own, by_all = ((std / K_std) ** 2 for std in measured_std)
    if average.value is None:
        return Lens(K, by_all)
    offset = np.log(average.value * width / K[0, 0])
    factor = float(np.exp(offset / (1 + by_own / average.count)))
    return Lens(scaled_focal(K, factor), by_all + average.count - 1)
