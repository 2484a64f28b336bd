"""Focal lengths: from pointmaps, robustly, and averaged over time."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

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

    def correct(self, relative_focal: float) -> None:
        """What was added last, better measured: draws the mean as one value does.

        Before the first value there is nothing to correct.
        """
        if self._count:
            self._log += (np.log(relative_focal) - self._log) / self._count

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
    """K (3, 3) of a view's grid, and what speaks for a focal length besides the frame set's pairs.

    Attributes:
        K_std: Relative standard deviation of the calibration: 0 = K is known, infinite = no more
            than a guess.
        calibrated: Log of the calibration's focal length over K's.
        earlier: How many frame sets before this one speak for K's focal length times
            exp(``by_earlier``).
        usual_std: Relative standard deviation of what one frame set says.
    """

    K: F64
    K_std: float = np.inf
    calibrated: float = 0.0
    earlier: int = 0
    by_earlier: float = 0.0
    usual_std: float = 0.0

    def besides(self, variance: float | None = None) -> tuple[float, float]:
        """How many times what this frame set says speaks for which log focal length over K's.

        Args:
            variance: Of the log focal length that this frame set's pairs say; None = the usual.
        """
        if self.K_std == 0:
            return np.inf, 0.0
        variance = self.usual_std**2 if variance is None else variance
        calibration = variance / self.K_std**2
        weight = self.earlier + calibration
        together = self.earlier * self.by_earlier + calibration * self.calibrated
        return weight, together / weight if weight > 0 else 0.0


@dataclass(frozen=True, eq=False)
class FocalHold:
    """What is known of several views' focal lengths besides their pairs: their N lenses."""

    lenses: tuple[Lens, ...]

    @cached_property
    def free(self) -> NDArray[np.bool_]:
        """(N,) focal lengths that may change."""
        return np.array([lens.K_std > 0 for lens in self.lenses])

    def besides(self, variance: F64 | None = None) -> tuple[F64, F64]:
        """(N,) weights and logs, as :meth:`Lens.besides` has them; zeros where one is known."""
        variances = [None] * len(self.lenses) if variance is None else variance.tolist()
        told = np.array([x.besides(v) for x, v in zip(self.lenses, variances, strict=True)])
        weight, log = np.where(self.free[:, None], told, 0).T
        return weight, log


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
    by_own, by_all = measured_std
    if average.value is None:
        return Lens(K, K_std, usual_std=by_all)
    offset = float(np.log(average.value * width / K[0, 0]))
    start = offset / (1 + (by_own / K_std) ** 2 / average.count)
    # This frame set's own looks are in the start, but will be counted with all the others.
    return Lens(
        scaled_focal(K, float(np.exp(start))),
        K_std,
        calibrated=-start,
        earlier=average.count - 1,
        by_earlier=offset - start,
        usual_std=by_all,
    )
