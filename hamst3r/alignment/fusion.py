"""Depth fusion: what all pairs say of a view becomes one depth per pixel, on the pixel's ray."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hamst3r.geometry import invert, transform, unproject

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
AGREEMENT = 0.02  # Relative depth error at which an opinion counts half.
CLEAN_TOLERANCE = 0.05, 0.3  # Least and most, relative to the depth.


@dataclass(frozen=True, eq=False)
class DepthOpinion:
    """A pair's pointmap of a view, placed.

    Attributes:
        points: (gh, gw, 3) float32. weight: (gh, gw) float32 >= 0.
        T_cam_points: (4, 4) similarity to the view's camera, world's unit.
    """

    points: F32
    weight: F32
    T_cam_points: F64


def fuse_depth(shape: tuple[int, int], opinions: Sequence[DepthOpinion]) -> tuple[F32, F32]:
    """Robust weighted mean of the opinions' depths.

    Starts from the weighted median, so that a minority, however sure of itself, does not shift it.

    Returns:
        Depth (gh, gw), 0 where nothing valid was said, and confidence (gh, gw) >= 1 (0 there): one
        plus the mean over the opinions of their weights, as far as they agree with the outcome.
    """
    if not opinions:
        return np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    row = [o.T_cam_points[2].astype(np.float32) for o in opinions]
    z = np.stack([o.points @ r[:3] + r[3] for o, r in zip(opinions, row, strict=True)])
    w = np.where(z > 0, np.stack([o.weight for o in opinions]), 0)
    depth = _weighted_median(z, w)
    agreeing = w
    for _ in range(2 if len(opinions) > 1 else 0):
        off = (z / np.maximum(depth, 1e-6) - 1) / AGREEMENT
        agreeing = w / (1 + off * off)
        total = agreeing.sum(0)
        depth = np.where(total > 0, (agreeing * z).sum(0) / np.maximum(total, 1e-12), 0)
    valid = (depth > 0) & (w.sum(0) > 0)
    confidence = 1 + agreeing.sum(0) / len(opinions)
    return (
        np.where(valid, depth, 0).astype(np.float32),
        np.where(valid, confidence, 0).astype(np.float32),
    )


def clean(
    depths: Sequence[F32],
    confidences: Sequence[F32],
    K: Sequence[F64],
    T_world_cam: F64,
    views: Sequence[int],
) -> list[F32]:
    """Confidences after taking it from points that float before another view's surface.

    A point that another view would have to see, nearer than what that view sees there with more
    confidence, is wrong; its confidence falls to 1, the least of a valid point.

    Args:
        depths, confidences: Per view (gh, gw). K, T_world_cam: of those grids.
        views: Placed views; the others are neither judged nor witnesses.
    """
    result = [confidence.copy() for confidence in confidences]
    for a in views:
        valid = depths[a] > 0
        points = unproject(depths[a], K[a]).astype(np.float32)[valid]
        own = confidences[a][valid]
        floating = np.zeros(len(own), bool)
        for b in views:
            if b == a:
                continue
            x = transform(invert(T_world_cam[b]) @ T_world_cam[a], points)
            seen, surface, trust = _look_up(x, K[b], depths[b], confidences[b])
            # Two maps never agree perfectly; only what stands out from their usual
            # disagreement is floating. (Points behind the surface are merely hidden.)
            short = 1 - x[:, 2][seen] / surface[seen]
            short = short[short > 0]
            usual = float(np.median(short)) if len(short) else 0.0
            limit = 1 - np.clip(3 * usual, *CLEAN_TOLERANCE)
            floating |= seen & (x[:, 2] < limit * surface) & (trust > own)
        cleaned = result[a][valid]
        cleaned[floating] = 1
        result[a][valid] = cleaned
    return result


def _look_up(x: F32, K: F64, depth: F32, confidence: F32) -> tuple[NDArray[np.bool_], F32, F32]:
    """What a view has at the pixels where it would see camera points x: seen, depth, confidence."""
    height, width = depth.shape
    front = x[:, 2] > 1e-3
    z = np.where(front, x[:, 2], 1)
    pixel = (x[:, :2] / z[:, None]) @ K[:2, :2].T.astype(np.float32) + K[:2, 2].astype(np.float32)
    inside = front & (pixel > -0.5).all(1) & (pixel < [width - 0.5, height - 0.5]).all(1)
    column, row = np.where(inside[:, None], np.rint(pixel), 0).astype(int).T
    column, row = column.clip(0, width - 1), row.clip(0, height - 1)
    surface = depth[row, column]
    return inside & (surface > 0), surface, confidence[row, column]


def _weighted_median(z: F32, w: F32) -> F32:
    """Along the first axis; 0 where there is no weight."""
    order = np.argsort(z, axis=0)
    z, w = np.take_along_axis(z, order, 0), np.take_along_axis(w, order, 0)
    cumulated = np.cumsum(w, axis=0)
    middle = (cumulated < cumulated[-1] / 2).sum(0).clip(max=len(z) - 1)
    return np.where(cumulated[-1] > 0, np.take_along_axis(z, middle[None], 0)[0], 0)
