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
NEAREST = np.float32(1e-3)
OUTSIDE = -9  # A pixel that no image has.


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
    valid = (depth > 0) & (w.sum(0) > 0)
    confidence = 1 + agreeing.sum(0) / np.float32(len(w))
    return (depth * valid).reshape(shape), (confidence * valid).reshape(shape)


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
    P = _projections(K, T_world_cam)
    P_back = np.linalg.inv(P)
    for a in views:
        pixels = _scaled_pixels(depths[a])
        floating = np.zeros(depths[a].size, bool)
        for b in views:
            if b != a:
                at = _floating(pixels, P[b] @ P_back[a], depths[b], confidences[b], confidences[a])
                floating[at] = True
        floating &= pixels[2] > 0
        result[a][floating.reshape(depths[a].shape)] = 1
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
    if not kept:
        return result
    P = _projections([past.K for past in kept], np.stack([past.T_world_cam for past in kept]))
    P_back = np.linalg.inv(_projections(K, T_world_cam))
    for a in views:
        usual = cv2.medianBlur(depths[a], 3)
        lonely = (depths[a] > 0) & (np.abs(depths[a] - usual) > LONELY * usual)
        if not lonely.any():
            continue
        pixels = _scaled_pixels(depths[a])
        floating = np.zeros(depths[a].size, bool)
        for past, P_past in zip(kept, P, strict=True):
            P_b_a = P_past @ P_back[a]
            at = _floating(pixels, P_b_a, past.depth, past.confidence, confidences[a])
            floating[at] = True
        result[a][floating.reshape(depths[a].shape) & lonely] = 1
    return result


def _scaled_pixels(depth: F32) -> F32:
    """(3, pixels) homogeneous pixels times their depth."""
    height, width = depth.shape
    pixels = np.empty((3, height, width), np.float32)
    pixels[0], pixels[1] = np.arange(width), np.arange(height)[:, None]
    pixels[2] = 1
    pixels *= depth
    return pixels.reshape(3, -1)


def _projections(K: Sequence[F64], T_world_cam: F64) -> F64:
    """(N, 4, 4) from homogeneous points of the world to pixels times their depth, and 1."""
    P = invert(T_world_cam)
    P[:, :3] = np.stack(K) @ P[:, :3]
    return P


def _floating(pixels: F32, P_b_a: F64, depth: F32, confidence: F32, own: F32) -> NDArray[np.intp]:
    """Which points of view a are nearer than a surface that view b is surer of.

    Args:
        pixels: (3, P) of a, as :func:`_scaled_pixels` has them; own: (gh, gw) their confidences.
        P_b_a: (4, 4) takes them to b's; depth, confidence: (gh, gw) of b.
    """
    P = P_b_a.astype(np.float32)
    x, y, z = P[:3, :3] @ pixels + P[:3, 3:]
    behind = z < NEAREST
    np.maximum(z, NEAREST, out=z)
    inverse = 1 / z
    x *= inverse
    y *= inverse
    x[behind] = OUTSIDE
    at = x.reshape(own.shape), y.reshape(own.shape)
    surface = cv2.remap(depth, *at, cv2.INTER_NEAREST).ravel()  # 0 outside
    nearer = np.flatnonzero(z < surface)
    if len(nearer) == 0:
        return nearer
    # Two maps never agree perfectly; only what stands out from their usual disagreement is
    # floating. (Points behind the surface are merely hidden.)
    z, surface = z[nearer], surface[nearer]
    short = 1 - z / surface
    usual = float(np.partition(short, len(short) // 2)[len(short) // 2])
    least, most = CLEAN_TOLERANCE
    floating = nearer[z < np.float32(1 - min(max(3 * usual, least), most)) * surface]
    nearest = tuple(np.rint(along[floating]).astype(int) for along in (y, x))
    pixel = np.ravel_multi_index(nearest, depth.shape, mode="clip")
    return floating[confidence.ravel()[pixel] > own.ravel()[floating]]


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
    depth, far = np.zeros_like(half), np.zeros_like(half)
    for row in reversed(rows):  # The farthest that has half of the weight with what is beyond it.
        value = row.view(np.float32).reshape(-1, 2)
        far += value[:, 1 - MAJOR]
        np.maximum(depth, value[:, MAJOR] * (far >= half), out=depth)
    depth *= half > 0
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
