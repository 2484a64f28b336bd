"""Boxes that furniture fills, and whether they meet people or each other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hamst3r.synthetic.meshes import yaw_matrix

F64 = NDArray[np.float64]
Triple = tuple[float, float, float]


@dataclass(frozen=True)
class Solid:
    """An upright box: ``centre`` and full ``size`` (x, y, z) in metres, turned by ``yaw``."""

    centre: Triple
    size: Triple
    yaw: float = 0.0

    @property
    def top(self) -> float:
        """Height of its upper side, metres."""
        return self.centre[2] + self.size[2] / 2

    def moved(self, x: float, y: float, yaw: float) -> Solid:
        """Turned about the z axis by ``yaw``, then shifted in the plane."""
        cx, cy, cz = yaw_matrix(yaw) @ np.array(self.centre)
        return Solid((float(cx) + x, float(cy) + y, float(cz)), self.size, self.yaw + yaw)

    def inside(self, points: NDArray, margin: float = 0.0) -> NDArray[np.bool_]:
        """(N,) which points (N, 3) are in the box grown by ``margin`` on every side."""
        local = (points - np.array(self.centre)) @ yaw_matrix(self.yaw)
        return (abs(local) < np.array(self.size) / 2 + margin).all(1)

    def corners(self) -> F64:
        """(4, 2) of its outline on the floor."""
        flat = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * np.array(self.size[:2]) / 2
        return flat @ yaw_matrix(self.yaw)[:2, :2].T + self.centre[:2]

    def overlaps(self, other: Solid, apart: float = 0.0) -> bool:
        """Whether the boxes come nearer than ``apart`` (separating axes of the outlines)."""
        gap = abs(self.centre[2] - other.centre[2]) - (self.size[2] + other.size[2]) / 2
        if gap >= 0:
            return False
        reach = np.hypot(*self.size[:2]) + np.hypot(*other.size[:2])
        if np.hypot(*np.subtract(self.centre[:2], other.centre[:2])) > reach / 2 + apart:
            return False
        a, b = self.corners(), other.corners()
        for yaw in (self.yaw, other.yaw):
            axes = yaw_matrix(yaw)[:2, :2]
            p, q = a @ axes, b @ axes
            if ((p.min(0) > q.max(0) + apart) | (q.min(0) > p.max(0) + apart)).any():
                return False
        return True


class Space:
    """What of a place is taken: by people (points on their surfaces) and by furniture.

    Args:
        half: (2,) half extents of the place, metres. points: (N, 3), spaced by at most 4 cm.
        discs: (D, 3) x, y, radius of places where nothing may stand.
    """

    def __init__(
        self, half: F64, points: NDArray | None = None, discs: NDArray | None = None
    ) -> None:
        self.half = np.asarray(half, float)
        self._points = np.zeros((0, 3)) if points is None else np.asarray(points, np.float64)
        self._discs = np.zeros((0, 3)) if discs is None else np.asarray(discs, np.float64)
        self.solids: list[Solid] = []

    def clear_of_people(self, solid: Solid, margin: float = 0.06) -> bool:
        """Whether nobody touches the box."""
        return len(self._points) == 0 or not solid.inside(self._points, margin).any()

    def fits(self, solid: Solid, apart: float = 0.05, walls: bool = True) -> bool:
        """Whether a box is within the place and meets neither people nor other boxes."""
        if walls and (abs(solid.corners()) > self.half + 0.005).any():
            return False
        if any(solid.overlaps(other, apart) for other in self.solids):
            return False
        if len(self._discs):
            local = (self._discs[:, :2] - solid.centre[:2]) @ yaw_matrix(solid.yaw)[:2, :2]
            beyond = np.maximum(abs(local) - np.array(solid.size[:2]) / 2, 0)
            if (np.hypot(*beyond.T) < self._discs[:, 2]).any():
                return False
        x, y, z = solid.centre
        w, d, h = solid.size
        if solid.top < 1.3:  # things may stand on it
            z, h = z + 0.2, h + 0.4
        return self.clear_of_people(Solid((x, y, z), (w, d, h), solid.yaw))

    def take(self, *solids: Solid) -> None:
        """Nothing else may stand there."""
        self.solids.extend(solids)
