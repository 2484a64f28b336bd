"""Resection: the camera that sees given 3D points in given pixels, robustly, focal known or not.

A pair shows its second view only from the first camera. Resection turns that around: it finds the
second camera among those points, and with it the view's depths in its own axes.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from hamst3r.geometry import lengths, make_T, transform

F64 = NDArray[np.float64]
NEAREST = 1e-3
PRECISION = 2e-3  # Radians, about a pixel's quarter: nearer is no better.
PNP_POINTS = 250
# Long side over focal length of a tele and a wide lens, and between.
FOCAL_GUESSES = (0.6, 0.85, 1.2, 1.8)


@dataclass(frozen=True, eq=False)
class Resection:
    """A camera found among points.

    Attributes:
        T_cam_points: (4, 4) rigid, maps the points to the camera, units of the points.
        focal_factor: Multiplies the focal length that ``rays`` were made with; 1 if that is known.
        error: Weighted median distance on the plane z = 1 (about radians).
    """

    T_cam_points: F64
    focal_factor: float
    error: float


def resect(
    points: NDArray,
    rays: NDArray,
    weights: NDArray,
    free_focal: bool = False,
    start: F64 | None = None,
    iterations: int = 12,
) -> Resection | None:
    """Find the camera whose pixel rays meet the points.

    Args:
        points: (n, 3) in any frame and unit.
        rays: (n, 3) with z = 1, of the pixels that see the points.
        weights: (n,) >= 0.
        free_focal: The rays' focal length is a guess; refine it too.
        start: Optional T_cam_points to begin from, tried beside the closed form.

    Returns:
        The best found, or None if no camera has the points in front of it.
    """
    keep = weights > 0
    if keep.sum() < 8:
        return None
    points, plane, weights = points[keep], rays[keep, :2], weights[keep]
    starts: list[tuple[F64, float]] = [] if start is None else [(start, 1.0)]
    for factor in FOCAL_GUESSES if free_focal else (1.0,):
        T = _closed_form(points, plane / factor, weights)
        if T is not None:
            starts.append((T, factor))
    # The median tells the starts apart cheaply; only the best is refined.
    scored = [(_error(points, plane, weights, T, factor), T, factor) for T, factor in starts]
    if not scored:
        return None
    error, T, factor = min(scored, key=lambda entry: entry[0])
    if not np.isfinite(error):
        return None
    T, factor = _refine(points, plane, weights, T, factor, free_focal, iterations)
    error = _error(points, plane, weights, T, factor)
    return Resection(T, factor, error) if np.isfinite(error) else None


def weighted_median(values: NDArray, weights: NDArray) -> float:
    """The value at half of the weight; NaN if there is none."""
    order = np.argsort(values)
    cumulated = np.cumsum(weights[order])
    if len(order) == 0 or not cumulated[-1] > 0:
        return float("nan")
    return float(values[order[np.searchsorted(cumulated, cumulated[-1] / 2)]])


def _closed_form(points: F64, plane: F64, weights: F64) -> F64 | None:
    """SQPnP (Terzakis, Lourakis 2020) of the more confident half, then of what fits it best."""
    trusted = np.flatnonzero(weights >= np.median(weights))
    chosen = trusted[:: max(1, len(trusted) // PNP_POINTS)]
    points, plane = points[chosen], plane[chosen]
    T = _sqpnp(points, plane)
    if T is None:
        return None
    residual, _, front = reprojection(transform(T, points), plane)
    distance = np.where(front, lengths(residual), np.inf)
    fitting = distance <= np.median(distance)
    return _sqpnp(points[fitting], plane[fitting]) if fitting.sum() >= 8 else T


def _sqpnp(points: F64, plane: F64) -> F64 | None:
    try:
        found, rotation, translation = cv2.solvePnP(
            np.ascontiguousarray(points),
            np.ascontiguousarray(plane),
            np.eye(3),
            None,
            flags=cv2.SOLVEPNP_SQPNP,
        )
    except cv2.error:
        return None
    if not found or not (np.isfinite(rotation).all() and np.isfinite(translation).all()):
        return None
    return make_T(Rotation.from_rotvec(rotation.ravel()).as_matrix(), translation.ravel())


def _error(points: F64, plane: F64, weights: F64, T: F64, factor: float) -> float:
    x = transform(T, points)
    front = x[:, 2] > NEAREST
    if weights[front].sum() < 0.5 * weights.sum():
        return float("inf")
    z = np.where(front, x[:, 2], 1.0)
    distance = lengths(factor * x[:, :2] / z[:, None] - plane)
    return weighted_median(np.where(front, distance, np.inf), weights) / factor


def _refine(
    points: F64,
    plane: F64,
    weights: F64,
    T: F64,
    factor: float,
    free_focal: bool,
    iterations: int,
) -> tuple[F64, float]:
    """Robust Gauss-Newton over pose and, if free, focal length.

    The first half minimises distances (not squares), which finds its way from afar; the second
    forgets outliers altogether.
    """
    for iteration in range(iterations):
        residual, jacobian, front = reprojection(transform(T, points), plane, factor)
        if not free_focal:
            jacobian = jacobian[..., :6]
        distance = lengths(residual)
        if iteration < iterations // 2:
            w = weights * front / np.maximum(distance, PRECISION)
        else:
            usual = max(weighted_median(distance, weights * front), PRECISION)
            w = weights * front / (1 + (distance / (2 * usual)) ** 2) ** 2
        hessian, gradient = normal_equations(residual, jacobian, w)
        hessian += 1e-9 * np.trace(hessian) * np.eye(len(hessian))
        try:
            step = np.linalg.solve(hessian, -gradient)
        except np.linalg.LinAlgError:
            break
        if not np.isfinite(step).all():
            break
        # A long step is a bad linearisation: cut it.
        step[3:6] *= min(1.0, 0.5 / max(float(np.linalg.norm(step[3:6])), 1e-12))
        T = rigid_step(np.asarray(step[:6], float)) @ T
        if free_focal:
            factor = float(np.clip(factor * np.exp(np.clip(step[6], -0.3, 0.3)), 0.1, 10))
        if np.abs(step).max() < 1e-6 and iteration >= iterations // 2:
            break
    return T, factor


def reprojection(x: F64, plane: F64, factor: float = 1.0) -> tuple[F64, F64, NDArray[np.bool_]]:
    """Residuals on the plane z = 1 and their derivatives.

    Args:
        x: (n, 3) points in the camera. plane: (n, 2) where they are seen. factor: of the focal.

    Returns:
        (n, 2) residuals, (n, 2, 7) derivatives by translation, rotation (both applied from the
        left to x) and log focal, (n,) whether the point is in front (else the residual is void).
    """
    front = x[:, 2] > NEAREST
    inverse = 1 / np.where(front, x[:, 2], 1.0)
    a, b = x[:, 0] * inverse, x[:, 1] * inverse
    zero = np.zeros_like(a)
    across = np.stack([inverse, zero, -a * inverse, -a * b, 1 + a * a, -b, a], -1)
    down = np.stack([zero, inverse, -b * inverse, -1 - b * b, a * b, a, b], -1)
    residual = factor * np.stack([a, b], -1) - plane
    return residual, factor * np.stack([across, down], 1), front


def normal_equations(residual: F64, jacobian: F64, weights: F64) -> tuple[F64, F64]:
    """Gauss-Newton's (k, k) matrix and (k,) gradient of weighted (n, 2) residuals."""
    J = jacobian.reshape(-1, jacobian.shape[-1])
    weighted = (weights[:, None, None] * jacobian).reshape(J.shape)
    return weighted.T @ J, weighted.T @ residual.ravel()


def rigid_step(step: F64) -> F64:
    """(4, 4) for a small (translation, rotation vector)."""
    return make_T(Rotation.from_rotvec(step[3:6]).as_matrix(), step[:3])
