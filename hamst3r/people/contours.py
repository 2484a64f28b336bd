"""A posed body before the outlines of a person: which places of it make which part of a contour."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from hamst3r.people.outlines import ENOUGH, Outline, features

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

_NEAREST = 0.2  # metres before the camera, nearer than which nothing is seen
_RIM = 0.35  # cosine of the angle between ray and normal, below which a place may be on the rim
_BESIDE = 1.6  # pixels beside a place where, on the rim, the body ends
_FEW = 5  # points of a contour, fewer of which say nothing


@dataclass(frozen=True, eq=False)
class Sight:
    """Places of a body (n of them) as one camera sees them.

    Attributes:
        outline: Of the person in that view.
        places: (n, 3) metres, camera. normals: (n, 3) unit, camera. pixels: (n, 2).
        covered: (gh, gw) bool, where the body is in the image.
    """

    outline: Outline
    places: F64
    normals: F64
    pixels: F64
    covered: NDArray[np.bool_]

    @staticmethod
    def of(outline: Outline, places: F64, normals: F64, spacing: float) -> Sight:
        """Of places and normals (n, 3) in the world, ``spacing`` metres apart."""
        turn = outline.T_world_cam[:3, :3]
        seen = (places - outline.centre) @ turn
        depth = np.maximum(seen[:, 2], _NEAREST)
        pixels = seen / depth[:, None] @ outline.K[:2].T
        size = spacing * outline.K[0, 0] / float(depth.mean())
        front = seen[:, 2] > _NEAREST
        covered = _drawn(pixels[front], outline.mask.shape, size)
        return Sight(outline, seen, normals @ turn, pixels, covered)

    @property
    def facing(self) -> NDArray[np.bool_]:
        """(n,) places whose surface faces the camera."""
        towards: NDArray[np.bool_] = np.einsum("nc,nc->n", self.places, self.normals) < 0
        return towards & (self.places[:, 2] > _NEAREST)

    def overlap(self) -> float:
        """Intersection over union of body and mask, of pixels that are known."""
        known = ~self.outline.unknown
        mask, body = self.outline.mask & known, self.covered & known
        return float((mask & body).sum() / max((mask | body).sum(), 1))

    def match(self, reach: float) -> Matches | None:
        """The rim of the body with the contour, each place with the nearest of the other, at most
        ``reach`` metres apart; None where either is too short, or they are nowhere so near."""
        points, normals = self.outline.contour
        rim, outwards = self._rim()
        if len(rim) < _FEW or len(points) < _FEW:
            return None
        focal = self.outline.K[0, 0]
        tree = cKDTree(features(self.pixels[rim], outwards))
        bound = reach * focal / float(self.places[rim, 2].mean())
        there, nearest = self.outline.tree.query(tree.data, distance_upper_bound=bound)
        back, own = tree.query(self.outline.tree.data, distance_upper_bound=bound)
        out, home = np.isfinite(there), np.isfinite(back)
        body = np.concatenate([rim[out], rim[own[home]]])
        if not len(body):
            return None
        contour = np.concatenate([nearest[out], np.flatnonzero(home)])
        shares = np.repeat([0.5 / len(rim), 0.5 / len(points)], [out.sum(), home.sum()])
        normal, place = normals[contour], self.places[body]
        off = np.einsum("nc,nc->n", self.pixels[body] - points[contour], normal)
        along = -np.einsum("nc,nc->n", normal, place[:, :2]) / place[:, 2]
        directions = np.column_stack([normal, along]) @ self.outline.T_world_cam[:3, :3].T
        return Matches(body, off * place[:, 2] / focal, directions, shares)

    def _rim(self) -> tuple[I64, F64]:
        """Places on the outer rim of the body, where the image and what it shows are known, and
        the directions (m, 2) in which the body ends there."""
        places, normals = self.places, self.normals
        square = np.einsum("nc,nc->n", places, places)
        slant = np.einsum("nc,nc->n", places, normals) ** 2
        rim = np.flatnonzero((slant < _RIM**2 * square) & (places[:, 2] > _NEAREST))
        depth = places[rim, 2:]
        outwards = normals[rim, :2] - normals[rim, 2:] * places[rim, :2] / depth
        outwards /= np.maximum(np.linalg.norm(outwards, axis=1, keepdims=True), 1e-9)
        height, width = self.covered.shape
        column, row = np.rint(self.pixels[rim] + _BESIDE * outwards).clip(-1, 1e6).astype(int).T
        inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
        row, column = row.clip(0, height - 1), column.clip(0, width - 1)
        ends = inside & ~self.covered[row, column] & ~self.outline.unknown[row, column]
        some = np.flatnonzero(ends)
        some = some[:: max(len(some) // ENOUGH, 1)]
        return rim[some], outwards[some]


@dataclass(frozen=True, eq=False)
class Matches:
    """Places of a body and the contour points that they should be at, m of them.

    Attributes:
        places: (m,) rows of the body's places. distances: (m,) metres across the contour, at the
            body's depth, positive outside. directions: (m, 3) their derivative by the place, in
            the world. shares: (m,) that add up to 1 where rim and contour are matched whole.
    """

    places: I64
    distances: F64
    directions: F64
    shares: F64


def _drawn(pixels: F64, shape: tuple[int, int], spacing: float) -> NDArray[np.bool_]:
    """(h, w) where pixels (n, 2) are, with the gaps between them, ``spacing`` pixels wide."""
    image = np.zeros(shape, np.uint8)
    column, row = np.rint(pixels).clip(-1, 1e6).astype(int).T
    inside = (column >= 0) & (column < shape[1]) & (row >= 0) & (row < shape[0])
    image[row[inside], column[inside]] = 1
    size = 2 * min(int(np.ceil(spacing)), 20) + 1
    return cv2.morphologyEx(image, cv2.MORPH_CLOSE, np.ones((size, size), np.uint8)) > 0
