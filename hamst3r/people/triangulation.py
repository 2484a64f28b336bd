"""Points of a body from several views at once: the same place of the body, seen along two rays.

Where cameras are calibrated this is far more exact than a weak network's depth, so it yields both
extra points for the fit and one correction per view of that person's depth. Where too few places
of the body agree, the middles of the masks still say how far away the person is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from hamst3r.geometry import closest_approach
from hamst3r.people.body import BodyModel
from hamst3r.people.lifting import INTO_BODY, Glimpse

F64 = NDArray[np.float64]


@dataclass(frozen=True)
class TriangulationConfig:
    """When to believe a crossing of rays.

    Attributes:
        cell: Edge of the cells of the body's surface that count as one place, metres.
        max_error: Largest distance of a ray from the point, as a share of the point's depth.
        min_angle: Smallest angle between the rays, radians.
        min_cells, max_scatter: With fewer places in a view, or with logarithms of the ratios of
            depth that are more scattered (median deviation), its depth follows the masks' middles.
        cells_std: Relative deviation of a depth that enough places agree about.
        max_correction: Largest factor, and its inverse, by which a view's depth is corrected.
    """

    cell: float = 0.07
    max_error: float = 0.03
    min_angle: float = 0.07
    min_cells: int = 8
    max_scatter: float = 0.15
    cells_std: float = 0.1
    max_correction: float = 1.8


@dataclass(frozen=True, eq=False)
class Triangulated:
    """Places of one person's body in the world.

    Attributes:
        points: (M, 3) metres. vertex_ids: (M,) int64. weights: (M,) of the pixels involved.
    """

    points: F64
    vertex_ids: NDArray[np.int64]
    weights: F64


@dataclass(frozen=True, eq=False)
class _Places:
    """Mean pixel per visible cell of one glimpse: cell ids, ray directions, depths, weights."""

    cells: NDArray[np.int64]
    directions: F64
    depth: F64
    vertices: F64
    weights: F64


class Triangulator:
    """Crosses rays of equal places of the body; built once per body model.

    Attributes:
        cell: (V,) int64, the place of the body that each vertex belongs to.
    """

    def __init__(self, body: BodyModel, config: TriangulationConfig | None = None) -> None:
        self.config = config or TriangulationConfig()
        self._template = body.v_template.numpy().astype(np.float64)
        keys = np.floor(self._template / self.config.cell).astype(np.int64)
        self.cell: NDArray[np.int64] = np.unique(keys, axis=0, return_inverse=True)[1].reshape(-1)
        self._tree = cKDTree(self._template)

    def __call__(self, glimpses: Sequence[Glimpse]) -> tuple[Triangulated, list[Glimpse]]:
        """Triangulate one person's glimpses, one per view.

        Returns:
            The places, and the glimpses with their depth corrected where enough places agree.
        """
        places = [self._places(glimpse) for glimpse in glimpses]
        points, vertices, weights = [], [], []
        ratios: list[list[F64]] = [[] for _ in glimpses]
        for a, b in combinations(range(len(glimpses)), 2):
            if glimpses[a].view == glimpses[b].view:
                continue
            cross, rows_a, rows_b, depth_a, depth_b = self._cross(glimpses, places, a, b)
            points.append(cross)
            mean = (places[a].vertices[rows_a] + places[b].vertices[rows_b]) / 2
            vertices.append(self._tree.query(mean)[1] if len(mean) else np.empty(0, int))
            weights.append(np.minimum(places[a].weights[rows_a], places[b].weights[rows_b]))
            ratios[a].append(depth_a / places[a].depth[rows_a])
            ratios[b].append(depth_b / places[b].depth[rows_b])
        middle = self._middle_ratios(glimpses)
        corrected = [
            glimpse.scaled(self._factor(own, other, glimpse.depth_std))
            for glimpse, own, other in zip(glimpses, ratios, middle, strict=True)
        ]
        if not points:
            return Triangulated(
                np.empty((0, 3)), np.empty(0, dtype=np.int64), np.empty(0)
            ), corrected
        return (
            Triangulated(
                np.concatenate(points),
                np.concatenate(vertices).astype(np.int64),
                np.concatenate(weights),
            ),
            corrected,
        )

    def _places(self, glimpse: Glimpse) -> _Places:
        known = glimpse.vertex_ids >= 0
        ids, weights = glimpse.vertex_ids[known], glimpse.weights[known]
        cells, row = np.unique(self.cell[ids], return_inverse=True)
        total = np.bincount(row, weights, minlength=len(cells))

        def mean(values: F64) -> F64:
            sums = [np.bincount(row, weights * column, len(cells)) for column in values.T]
            return np.stack(sums, 1) / total[:, None]

        return _Places(
            cells=cells,
            directions=mean(glimpse.directions[known]),
            depth=mean(glimpse.depth[known, None])[:, 0],
            vertices=mean(self._template[ids]),
            weights=total / np.bincount(row, minlength=len(cells)),
        )

    def _cross(
        self, glimpses: Sequence[Glimpse], places: Sequence[_Places], a: int, b: int
    ) -> tuple[F64, NDArray[np.intp], NDArray[np.intp], F64, F64]:
        """Midpoints of the rays' closest approach, with rows and depths in both views."""
        _, rows_a, rows_b = np.intersect1d(
            places[a].cells, places[b].cells, assume_unique=True, return_indices=True
        )
        da, db = places[a].directions[rows_a], places[b].directions[rows_b]
        middle, depth_a, depth_b, good = self._approach(glimpses[a], da, glimpses[b], db)
        return middle[good], rows_a[good], rows_b[good], depth_a[good], depth_b[good]

    def _approach(
        self, a: Glimpse, da: F64, b: Glimpse, db: F64
    ) -> tuple[F64, F64, F64, NDArray[np.bool_]]:
        """Where rays (n, 3) of two glimpses come closest: points, depths, whether to believe it.

        Directions have unit depth, so the factors along them are the depths in each camera.
        """
        base = b.T_world_cam[:3, 3] - a.T_world_cam[:3, 3]
        depth_a, depth_b, gap, cosine = closest_approach(da, db, base)
        on_a = a.T_world_cam[:3, 3] + da * depth_a[:, None]
        on_b = b.T_world_cam[:3, 3] + db * depth_b[:, None]
        nearest = np.minimum(depth_a, depth_b)
        good = (nearest > 0.1) & (gap / 2 < self.config.max_error * nearest)
        good &= np.abs(cosine) < np.cos(self.config.min_angle)
        return (on_a + on_b) / 2, depth_a, depth_b, good

    def _middle_ratios(self, glimpses: Sequence[Glimpse]) -> list[list[float]]:
        """Per glimpse, none or one ratio of the depth just before the place where the rays through
        the middles of all masks come closest, which is inside of the body, to the depth that the
        view shows. A ray that passes farther from there than a quarter of its mask's extent, where
        parts may be hidden, has none."""
        none: list[list[float]] = [[] for _ in glimpses]
        rays = np.array([glimpse.ray for glimpse in glimpses])
        unit = rays / np.linalg.norm(rays, axis=1, keepdims=True)
        if np.abs(unit @ unit.T).min() > np.cos(self.config.min_angle):
            return none
        eyes = np.array([glimpse.T_world_cam[:3, 3] for glimpse in glimpses])
        shown = np.array([np.median(glimpse.depth) for glimpse in glimpses])
        extent = np.array([glimpse.extent for glimpse in glimpses])
        ahead = np.array([glimpse.T_world_cam[:3, 2] for glimpse in glimpses])
        told = rays * shown[:, None] + INTO_BODY * unit
        depth = shown
        for _ in range(2):  # what is nearer is seen more exactly
            # Rays at small angles cross anywhere: then it counts how far the view has it.
            known = [glimpse.information(z) for glimpse, z in zip(glimpses, depth, strict=True)]
            beside, before = (np.stack(part) for part in zip(*known, strict=True))
            aim = np.einsum("nkl,nl->k", beside + before, eyes)
            aim += np.einsum("nkl,nl->k", before, told)
            place = np.linalg.solve((beside + before).sum(0), aim)
            found = np.einsum("nk,nk->n", place - eyes, ahead)
            depth = np.maximum(found, 0.1)
        off = np.linalg.norm(np.cross(unit, place - eyes), axis=1)
        good = (found > 0.1) & (off < 0.25 * depth * extent)
        if len({g.view for g, fine in zip(glimpses, good, strict=True) if fine}) < 2:
            return none
        return [
            [float(max(z - INTO_BODY, 0.1) / own)] if fine else []
            for own, z, fine in zip(shown, found, good, strict=True)
        ]

    def _factor(self, ratios: list[F64], middle: list[float], depth_std: float) -> float:
        cells = np.concatenate(ratios) if ratios else np.empty(0)
        if self._agree(cells):
            # All places of a body err alike where one of the masks is somebody else's.
            share = depth_std**2 / (depth_std**2 + self.config.cells_std**2)
            together = np.median(cells) ** share
        else:
            together = np.median(middle or [1.0])  # weighed against the depth already
        limit = self.config.max_correction
        return float(np.clip(together, 1 / limit, limit))

    def _agree(self, ratios: F64) -> bool:
        """Whether enough places of the body say of a view's depth what others do."""
        if len(ratios) < self.config.min_cells:
            return False
        logs = np.log(ratios)
        return bool(np.median(np.abs(logs - np.median(logs))) < self.config.max_scatter)
