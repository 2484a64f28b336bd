"""Error measures of point clouds, in the unit of the points.

Accuracy, completeness and their mean (overall) are those of DTU (Jensen et al., CVPR 2014; Aanaes
et al., IJCV 2016), Chamfer that of JOSH.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

F64 = NDArray[np.float64]

DTU_SPACING = 0.2  # mm; a reconstruction is thinned to this
DTU_LIMIT = 20.0  # mm; what is farther away is an outlier and left out
CHAMFER_VOXEL = 0.3  # metres


def nearest(points: NDArray, others: NDArray) -> F64:
    """(n,) distance of points (n, 3) to the nearest one of the others (m, 3); inf without any."""
    if len(others) == 0:
        return np.full(len(points), np.inf)
    return cKDTree(others).query(points)[0]


def thinned(points: NDArray, spacing: float, seed: int = 0) -> F64:
    """Points so chosen, in random order, that none is nearer than ``spacing`` to another."""
    points = np.asarray(points, float)
    points = points[np.random.default_rng(seed).permutation(len(points))]
    keep = np.ones(len(points), bool)
    tree = cKDTree(points)
    for start in range(0, len(points), 20_000):  # neighbours of all at once would fill memory
        part = range(start, min(start + 20_000, len(points)))
        for index, near in zip(part, tree.query_ball_point(points[part], spacing), strict=True):
            if keep[index]:
                keep[near] = False
                keep[index] = True
    return points[keep]


def voxel_means(points: NDArray, size: float) -> F64:
    """The mean of the points (n, 3) in each cube of side ``size``."""
    points = np.asarray(points, float)
    cells = np.floor(points / size).astype(np.int64)
    _, cell, counts = np.unique(cells, axis=0, return_inverse=True, return_counts=True)
    sums = np.zeros((len(counts), 3))
    np.add.at(sums, cell.ravel(), points)
    return sums / counts[:, None]


def chamfer(predicted: NDArray, true: NDArray, voxel: float = CHAMFER_VOXEL) -> float:
    """Half of the mean distances there and back of both clouds' voxel means."""
    a, b = (voxel_means(points, voxel) for points in (predicted, true))
    return float((nearest(a, b).mean() + nearest(b, a).mean()) / 2)


@dataclass(frozen=True, eq=False)
class ScanTruth:
    """A scanned object and where it was looked at (DTU's ``stl``, ``ObsMask`` and ``Plane``).

    Attributes:
        points: (n, 3) mm. mask: (a, b, c) bool, voxels within which a reconstruction is judged.
        corner: (3,) mm of the mask's first voxel. resolution: mm per voxel.
        plane: (4,) the table; scanned points are asked for where ``plane . (x, 1) > 0``.
    """

    points: F64
    mask: NDArray[np.bool_]
    corner: F64
    resolution: float
    plane: F64

    def observed(self, points: NDArray) -> NDArray[np.bool_]:
        """(n,) which points (n, 3) are in a voxel of the mask."""
        cells = np.round((points - self.corner) / self.resolution).astype(int)
        inside = ((cells >= 0) & (cells < self.mask.shape)).all(1)
        result = np.zeros(len(points), bool)
        result[inside] = self.mask[tuple(cells[inside].T)]
        return result

    def above(self, points: NDArray) -> NDArray[np.bool_]:
        """(n,) which points (n, 3) are above the table."""
        return points @ self.plane[:3] + self.plane[3] > 0


def dtu_errors(
    points: NDArray, truth: ScanTruth, spacing: float = DTU_SPACING, limit: float = DTU_LIMIT
) -> tuple[float, float]:
    """Accuracy and completeness in mm; NaN where nothing is within the limit.

    Accuracy: mean distance of the reconstruction (n, 3), thinned and within the mask, to the
    scan. Completeness: mean distance of the scan above the table to the reconstruction.
    """
    points = np.asarray(points, float)
    points = thinned(points[truth.observed(points)], spacing)
    there = nearest(points, truth.points)
    back = nearest(truth.points[truth.above(truth.points)], points)
    accuracy, completeness = (
        float(d[d < limit].mean()) if (d < limit).any() else np.nan for d in (there, back)
    )
    return accuracy, completeness
