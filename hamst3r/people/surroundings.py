"""What stands still around people: points of the scene, and the plane near a place."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

F64 = NDArray[np.float64]
_FARTHEST = 2**20  # cells from the origin along an axis, so that three fit into 63 bits


@dataclass(frozen=True)
class SurroundingsConfig:
    """How the scene is remembered. Metres.

    Attributes:
        cell: Points within one cube of this edge become one.
        half_life: Frame sets after which a place that is no longer seen counts half.
        forgotten: Places that count less than this many sightings are dropped.
        refresh: Frame sets after which what was seen is searched anew.
        reach, neighbours: A plane is of that many points not farther than this.
        flatness: Largest deviation of these points from it.
    """

    cell: float = 0.04
    half_life: float = 100.0
    forgotten: float = 0.3
    refresh: int = 5
    reach: float = 0.25
    neighbours: int = 24
    flatness: float = 0.04


@dataclass(frozen=True, eq=False)
class Planes:
    """The surface near each of n places.

    Attributes:
        points: (n, 3) on it, metres. normals: (n, 3), upwards or, on walls, any way.
        known: (n,) False where there is none; the rest is then meaningless.
    """

    points: F64
    normals: F64
    known: NDArray[np.bool_]


class Surroundings:
    """Static points of the scene, gathered over frame sets.

    Args:
        floor: Height of the floor in a z-up world, where it is known for certain.
    """

    def __init__(
        self, config: SurroundingsConfig | None = None, floor: float | None = None
    ) -> None:
        self.config = config or SurroundingsConfig()
        self._floor = floor
        self._keys: NDArray[np.int64] = np.empty(0, dtype=np.int64)
        self._sums: F64 = np.empty((0, 4))
        self._tree: cKDTree | None = None
        self._age = 0

    def __len__(self) -> int:
        return len(self._sums)

    @property
    def points(self) -> F64:
        """(n, 3) metres in world."""
        return self._sums[:, :3] / np.maximum(self._sums[:, 3:], 1e-9)

    def add(self, points: F64) -> None:
        """Take in static points (n, 3) of one frame set, metres in world; NaN are left out."""
        keys, near = self._cells(points)
        own = np.insert(points[near], 3, 1.0, axis=1)
        fade = 0.5 ** (1 / self.config.half_life)
        self._gather(np.concatenate([self._keys, keys]), np.concatenate([fade * self._sums, own]))
        self._age += 1
        if self._age >= self.config.refresh:
            self._tree = None

    def grow(self, factor: float) -> None:
        """The world has become ``factor`` times as large."""
        self._sums[:, :3] *= factor
        keys, near = self._cells(self.points)
        self._gather(keys, self._sums[near])
        self._tree = None

    def _cells(self, points: F64) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """The cubes of those points (n, 3) that are finite and not too far, and which these are."""
        near: NDArray[np.bool_] = np.all(  # nor NaN
            np.abs(points) < _FARTHEST * self.config.cell, axis=1
        )
        cells = np.floor(points[near] / self.config.cell).astype(np.int64) + _FARTHEST
        return (cells[:, 0] * 2 * _FARTHEST + cells[:, 1]) * 2 * _FARTHEST + cells[:, 2], near

    def _gather(self, keys: NDArray[np.int64], sums: F64) -> None:
        """Keep (n, 4) sums of points and their numbers, one per cube."""
        every, row = np.unique(keys, return_inverse=True)
        gathered: F64 = np.stack([np.bincount(row, v, len(every)) for v in sums.T], 1)
        kept = gathered[:, 3] >= self.config.forgotten
        self._keys, self._sums = every[kept], gathered[kept]

    def planes(self, places: F64) -> Planes:
        """The surface near places (n, 3)."""
        count = len(places)
        found = Planes(np.zeros((count, 3)), np.zeros((count, 3)), np.zeros(count, dtype=bool))
        if len(self._sums) >= self.config.neighbours:
            if self._tree is None:
                self._tree, self._age = cKDTree(self.points), 0
            distance, index = self._tree.query(
                places, k=self.config.neighbours, distance_upper_bound=self.config.reach
            )
            near = np.isfinite(distance)
            points = self._tree.data[np.where(near, index, 0)]
            found = self._fit(points, near)
        if self._floor is None:
            return found
        ground = np.column_stack([places[:, :2], np.full(count, self._floor)])
        under = (np.abs(places[:, 2] - self._floor) < self.config.reach) & ~found.known
        return Planes(
            np.where(under[:, None], ground, found.points),
            np.where(under[:, None], [0.0, 0.0, 1.0], found.normals),
            found.known | under,
        )

    def _fit(self, points: F64, near: NDArray[np.bool_]) -> Planes:
        """Planes through (n, k, 3) points, those that count given by (n, k)."""
        weights = near[..., None] / np.maximum(near.sum(1), 1)[:, None, None]
        middle = (weights * points).sum(1)
        off = points - middle[:, None]
        values, vectors = np.linalg.eigh(np.einsum("nka,nkb->nab", weights * off, off))
        normals = vectors[:, :, 0]
        normals = np.where(normals[:, 2:] < 0, -normals, normals)
        # Enough points, that lie in a plane and not merely along a line.
        known = near.sum(1) >= self.config.neighbours // 3
        known &= values[:, 0] < np.minimum(self.config.flatness**2, 0.25 * values[:, 1])
        return Planes(middle, normals, known)
