"""Depth fusion: what all pairs say of a view becomes one depth per pixel, on the pixel's ray."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

from hamst3r.geometry import invert

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
AGREEMENT = 0.02  # Relative depth error at which an opinion counts half.
# Where an integer of 64 bits has its upper half, as an array of two halves.
MAJOR = 1 if sys.byteorder == "little" else 0
CLEAN_TOLERANCE = 0.05, 0.3  # Least and most, relative to the depth.
LONELY = 0.05  # From its neighbours' depth, relative: a surface has no such pixels.


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
    z = np.empty((len(opinions), shape[0] * shape[1]), np.float32)
    w = np.empty_like(z)
    for k, opinion in enumerate(opinions):
        row = opinion.T_cam_points[2].astype(np.float32)
        np.add(opinion.points.reshape(-1, 3) @ row[:3], row[3], out=z[k])
        w[k] = opinion.weight.ravel()
    w *= z > 0
    depth = _weighted_median(z, w) if len(opinions) > 1 else z[0]
    agreeing = w
    for _ in range(2 if len(opinions) > 1 else 0):
        # w / (1 + off^2) with off = (z / depth - 1) / AGREEMENT.
        off = z * (1 / (AGREEMENT * np.maximum(depth, np.float32(1e-6))))
        off -= np.float32(1 / AGREEMENT)
        off *= off
        off += 1
        agreeing = np.divide(w, off, out=off)
        total = np.maximum(agreeing.sum(0), np.float32(1e-12))
        depth = np.einsum("kp,kp->p", agreeing, z) / total
    valid = (depth > 0) & w.any(0)
    confidence = 1 + agreeing.mean(0)
    return (
        np.where(valid, depth, np.float32(0)).reshape(shape),
        np.where(valid, confidence, np.float32(0)).reshape(shape),
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
        floating = np.zeros(depths[a].shape, bool)
        for b in views:
            if b != a:
                T_b_a = invert(T_world_cam[b]) @ T_world_cam[a]
                seen = _look_up(depths[a], K[a], T_b_a, K[b], depths[b], confidences[b])
                floating |= _floats(*seen, confidences[a])
        floating &= depths[a] > 0
        result[a][floating] = 1
    return result


@dataclass(frozen=True, eq=False)
class KeptDepth:
    """What an earlier view saw: depth and confidence (gh, gw), 0 on movers, K, T_world_cam."""

    depth: F32
    confidence: F32
    K: F64
    T_world_cam: F64


def clean_by_past(
    depths: Sequence[F32],
    confidences: Sequence[F32],
    K: Sequence[F64],
    T_world_cam: F64,
    views: Sequence[int],
    kept: Sequence[KeptDepth],
) -> list[F32]:
    """As :func:`clean`, with earlier views as witnesses.

    What stands there now may not have been there then: the past only judges pixels that differ
    from their neighbours as those between two surfaces do.
    """
    result = [confidence.copy() for confidence in confidences]
    for a in views:
        usual = cv2.medianBlur(depths[a], 3)
        lonely = (depths[a] > 0) & (np.abs(depths[a] - usual) > LONELY * usual)
        if not lonely.any():
            continue
        floating = np.zeros(depths[a].shape, bool)
        for past in kept:
            T = invert(past.T_world_cam) @ T_world_cam[a]
            seen = _look_up(depths[a], K[a], T, past.K, past.depth, past.confidence)
            floating |= _floats(*seen, confidences[a])
        result[a][floating & lonely] = 1
    return result


def _look_up(
    depth_a: F32, K_a: F64, T_b_a: F64, K_b: F64, depth_b: F32, confidence_b: F32
) -> tuple[F32, F32, F32]:
    """What view b has where it would see the points of view a.

    Returns:
        (gh, gw) of a's grid each: depth of the points in camera b, and depth and confidence that b
        has there; 0 where b does not see them.
    """
    height, width = depth_a.shape
    # Pixels of b are linear in a's pixels times depth: no point in space is needed.
    M = (K_b @ T_b_a[:3, :3] @ np.linalg.inv(K_a)).astype(np.float32)
    shift = (K_b @ T_b_a[:3, 3]).astype(np.float32)
    u, v = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)[:, None]
    x, y, z = ((m[0] * u + (m[1] * v + m[2])) * depth_a + s for m, s in zip(M, shift, strict=True))
    front = z > np.float32(1e-3)
    inverse = 1 / np.where(front, z, np.float32(1))
    # Pixel centres are integers: half a pixel more, and cutting off is rounding.
    column, row = x * inverse + np.float32(0.5), y * inverse + np.float32(0.5)
    inside = front & (column >= 0) & (row >= 0)
    inside &= (column < depth_b.shape[1]) & (row < depth_b.shape[0])
    at = np.flatnonzero(inside)
    pixel = row.ravel()[at].astype(int) * depth_b.shape[1] + column.ravel()[at].astype(int)
    surface, trust = np.zeros((2, *depth_a.shape), np.float32)
    surface.ravel()[at] = depth_b.ravel()[pixel]
    trust.ravel()[at] = confidence_b.ravel()[pixel]
    return z, surface, trust


def _floats(z: F32, surface: F32, trust: F32, own: F32) -> NDArray[np.bool_]:
    """(gh, gw) the point is nearer than the surface that the other view is surer of."""
    # Two maps never agree perfectly; only what stands out from their usual disagreement is
    # floating. (Points behind the surface are merely hidden.)
    nearer = (z < surface) & (surface > 0)
    short = 1 - z[nearer] / surface[nearer]
    usual = float(np.partition(short, len(short) // 2)[len(short) // 2]) if len(short) else 0.0
    limit = np.float32(1 - np.clip(3 * usual, *CLEAN_TOLERANCE))
    return nearer & (z < limit * surface) & (trust > own)


def _weighted_median(z: F32, w: F32) -> F32:
    """Along the first axis; 0 where there is no weight."""
    # Depth and weight travel together as one integer: bits of floats >= 0 are in their order.
    keys = np.empty((*z.shape, 2), np.float32)
    np.maximum(z, 0, out=keys[..., MAJOR])
    keys[..., 1 - MAJOR] = w
    rows = list(keys.view(np.int64)[..., 0])
    spare = np.empty_like(rows[0])
    for a, b in _sorting_network(len(rows)):
        np.maximum(rows[a], rows[b], out=spare)
        np.minimum(rows[a], rows[b], out=rows[a])
        rows[b], spare = spare, rows[b]
    half = w.sum(0) / 2
    depth, beyond = np.zeros_like(half), np.zeros_like(half)
    for row in reversed(rows):  # The last one with less than half of the weight beyond it.
        value = row.view(np.float32).reshape(-1, 2)
        np.copyto(depth, value[:, MAJOR], where=beyond < half)
        beyond += value[:, 1 - MAJOR]
    return depth


@cache
def _sorting_network(count: int) -> tuple[tuple[int, int], ...]:
    """Comparisons that sort ``count`` rows whatever they hold (Batcher's odd-even merge sort)."""
    comparisons = []
    p = 1
    while p < count:
        k = p
        while k >= 1:
            for start in range(k % p, count - k, 2 * k):
                for a in range(start, min(start + k, count - k)):
                    if a // (2 * p) == (a + k) // (2 * p):
                        comparisons.append((a, a + k))
            k //= 2
        p *= 2
    return tuple(comparisons)
