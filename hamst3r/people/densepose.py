"""Which place of the body a pixel shows: fusing estimates, and finding the vertex."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from hamst3r.people.body import BodyModel

F32 = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class DensePoseEstimate:
    """One pair's opinion of one view.

    Attributes:
        coordinates: (gh, gw, 3) in [0, 1]. body: (gh, gw) probability that a pixel is on a body.
        confidence: (gh, gw) of the pointmap, >= 1.
    """

    coordinates: F32
    body: F32
    confidence: F32


# Estimates farther apart than this are opposite opinions (left or right, front or back), whose
# mean would lie inside the body and be neither.
_AGREEMENT = 0.1


def fuse(estimates: Sequence[DensePoseEstimate]) -> tuple[F32, F32]:
    """One map from several of the same view.

    The estimate of the largest weight (body probability x pointmap confidence) leads at each
    pixel; those near it are averaged in, the others lower the confidence.

    Returns:
        Coordinates (gh, gw, 3), NaN off the body, and their confidence (gh, gw) in [0, 1].
    """
    if not estimates:
        raise ValueError("fuse needs at least one DensePose estimate")
    coordinates = np.stack([e.coordinates for e in estimates])
    body = np.stack([e.body for e in estimates])
    weight = body * np.stack([e.confidence for e in estimates])
    lead = np.take_along_axis(coordinates, weight.argmax(0)[None, ..., None], 0)
    agrees = (np.linalg.norm(coordinates - lead, axis=-1) < _AGREEMENT) * weight
    total = np.maximum(weight.sum(0), 1e-9)
    agreed = np.maximum(agrees.sum(0), 1e-9)
    fused = (coordinates * agrees[..., None]).sum(0) / agreed[..., None]
    probability = (body * weight).sum(0) / total
    on_body = probability > 0.5
    confidence = np.where(on_body, probability * agrees.sum(0) / total, 0.0)
    fused = np.where(on_body[..., None], fused, np.nan)
    return fused.astype(np.float32), confidence.astype(np.float32)


class VertexLookup:
    """From canonical body coordinates to the nearest vertex.

    Args:
        body: Whose ``canonical`` coordinates are meant.
        max_distance: Coordinates farther than this from the surface, in metres of the template,
            belong to no vertex.
    """

    def __init__(self, body: BodyModel, max_distance: float = 0.06) -> None:
        template = body.v_template.numpy().astype(np.float64)
        self._low = template.min(0)
        self._size = template.max(0) - self._low
        self._tree = cKDTree(template)
        self.max_distance = max_distance

    def heights(self, coordinates: NDArray[np.floating]) -> NDArray[np.float64]:
        """Of (..., 3) coordinates above the soles of the template, metres; NaN where they are."""
        return np.asarray(coordinates[..., 1], dtype=np.float64) * self._size[1]

    def __call__(self, coordinates: NDArray[np.floating]) -> NDArray[np.int64]:
        """Vertex of each (..., 3) coordinate in [0, 1]; -1 for none, also for NaN."""
        flat = np.asarray(coordinates, dtype=np.float64).reshape(-1, 3)
        known = np.isfinite(flat).all(1)
        found = np.full(len(flat), -1, dtype=np.int64)
        places = self._low + flat[known] * self._size
        nearest = self._tree.query(places, distance_upper_bound=self.max_distance)[1]
        found[known] = np.where(nearest < self._tree.n, nearest, -1)
        return found.reshape(coordinates.shape[:-1])
