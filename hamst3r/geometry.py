"""Rigid and similarity transforms, pinhole projection: small float64 helpers, nothing else.

``T_a_b`` (4, 4) maps coordinates in b to coordinates in a. A similarity (Sim3) is the same matrix
with a scaled rotation in its upper left. Pixel centres lie at integers: the pixel in row v and
column u sees along ``K^-1 (u, v, 1)``.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.transform import Rotation

F64 = NDArray[np.float64]
# Cosine of an angle from which on the antisymmetric part tells little of a rotation's axis.
BACKWARDS = -0.9
# (3, 9): makes the matrix of a cross product of a vector.
_CROSS = np.cross(np.eye(3)[:, None], np.eye(3)).transpose(0, 2, 1).reshape(3, 9)


def make_T(rotation: ArrayLike, translation: ArrayLike, scale: float = 1.0) -> F64:
    """(4, 4) from a (3, 3) rotation, a (3,) translation and a scale of the rotation."""
    T = np.eye(4)
    T[:3, :3] = scale * np.asarray(rotation)
    T[:3, 3] = translation
    return T


def invert(T: F64) -> F64:
    """T_b_a of T_a_b, rigid or similarity, also for a stack (..., 4, 4)."""
    A = np.linalg.inv(T[..., :3, :3])
    inverse = np.zeros_like(T)
    inverse[..., :3, :3] = A
    inverse[..., :3, 3] = -(A @ T[..., :3, 3:])[..., 0]
    inverse[..., 3, 3] = 1
    return inverse


def split_similarity(T: F64) -> tuple[F64, F64]:
    """The rigid part (..., 4, 4), translation kept, and the scale (...) of similarities."""
    scale = np.cbrt(np.linalg.det(T[..., :3, :3]))
    rigid = T.copy()
    rigid[..., :3, :3] /= scale[..., None, None]
    return rigid, scale


def transform(T_a_b: F64, points_b: NDArray) -> NDArray:
    """Points (..., 3) in a, for points in b; keeps the points' floating type."""
    T = T_a_b.astype(points_b.dtype)
    return points_b @ T[:3, :3].T + T[:3, 3]


def lengths(vectors: NDArray) -> NDArray:
    """Euclidean lengths (...) of vectors (..., k); several times faster than ``linalg.norm``."""
    return np.sqrt(np.einsum("...k,...k->...", vectors, vectors))


def pixel_rays(K: F64, height: int, width: int) -> F64:
    """(height, width, 3) directions with z = 1 along which the pixels' centres see."""
    v, u = np.mgrid[0:height, 0:width].astype(float)
    pixels = np.stack([u, v, np.ones_like(u)], -1)
    return pixels @ np.linalg.inv(K).T


def unproject(depth: NDArray, K: F64) -> F64:
    """Points (h, w, 3) in the camera, for z in ``depth`` (h, w) and that grid's ``K``."""
    return pixel_rays(K, *depth.shape) * depth[..., None]


def project(points_cam: NDArray, K: F64) -> F64:
    """Pixels (..., 2) as (u, v) of points in the camera; NaN where z is not positive."""
    points = np.asarray(points_cam, dtype=float)
    z = np.where(points[..., 2:] > 0, points[..., 2:], np.nan)
    return (points / z) @ K[:2].T


def closest_approach(rays_a: F64, rays_b: F64, base: F64) -> tuple[F64, F64, F64, F64]:
    """Where rays of two origins come closest.

    Args:
        rays_a, rays_b: (n, 3) in common axes, of any length. base: (3,) or (n, 3) origin b minus
            origin a.

    Returns:
        (n,) each: factors along the rays of a and of b (depths, where rays have unit depth), the
        gap between the two points, and the cosine of the rays' angle.
    """
    aa, bb, ab = (
        np.einsum("nk,nk->n", x, y)
        for x, y in ((rays_a, rays_a), (rays_b, rays_b), (rays_a, rays_b))
    )
    determinant = np.maximum(aa * bb - ab**2, 1e-12)
    a, b = ((rays * base).sum(-1) for rays in (rays_a, rays_b))
    along_a, along_b = (bb * a - ab * b) / determinant, (ab * a - aa * b) / determinant
    gap = lengths(along_a[:, None] * rays_a - along_b[:, None] * rays_b - base)
    return along_a, along_b, gap, ab / np.sqrt(aa * bb)


def rotation_angle(T_a: F64, T_b: F64) -> F64:
    """Angle in radians between the rotations of two rigid transforms (also of stacks)."""
    relative = np.swapaxes(T_a[..., :3, :3], -1, -2) @ T_b[..., :3, :3]
    return Rotation.from_matrix(relative).magnitude()


def rotation_matrices(vectors: F64) -> F64:
    """Rotations (n, 3, 3) of rotation vectors (n, 3): axes times angles in radians.

    As scipy's, but for a few at a time in a fraction of its overhead; so are
    :func:`rotation_vectors`.
    """
    angle = lengths(vectors) + 1e-150  # Nothing is divided by zero, and no turn is the identity.
    half = vectors * (np.sin(angle / 2) / angle)[:, None]
    turn = (half * (2 * np.cos(angle / 2))[:, None]) @ _CROSS
    result: F64 = 2 * half[:, :, None] * half[:, None] + turn.reshape(-1, 3, 3)
    result.reshape(-1, 9)[:, ::4] += np.cos(angle)[:, None]
    return result


def rotation_vectors(rotations: F64) -> F64:
    """Rotation vectors (n, 3), no longer than pi, of rotations (n, 3, 3)."""
    across = rotations.reshape(-1, 9) @ _CROSS.T / 2
    sine, cosine = lengths(across), (np.einsum("nkk->n", rotations) - 1) / 2
    vectors: F64 = across * (np.arctan2(sine, cosine) / np.maximum(sine, 1e-150))[:, None]
    small, reverse = sine < 1e-12, cosine < BACKWARDS
    if small.any():
        vectors[small] = across[small]
    if reverse.any():  # The axis is lost in the difference of what is nearly symmetric.
        vectors[reverse] = Rotation.from_matrix(rotations[reverse]).as_rotvec()
    return vectors


def cross_matrices(vectors: F64) -> F64:
    """(n, 3, 3) that multiply by vectors (n, 3) from the left, as the cross product."""
    return (vectors @ _CROSS).reshape(-1, 3, 3)


def umeyama(source: NDArray, target: NDArray, weights: NDArray | None = None) -> F64 | None:
    """The similarity T_target_source that best maps ``source`` to ``target``, both (n, 3).

    The scale is the symmetric one (Horn 1987), the ratio of the spreads, which noise on either
    side does not shrink. The weights (n,) are non-negative.

    Returns:
        (4, 4), or None where the points do not determine it: fewer than three, no weight, all
        (nearly) on one line, or not finite.
    """
    source, target = np.asarray(source, float), np.asarray(target, float)
    weights = np.ones(len(source)) if weights is None else np.asarray(weights, float)
    total = weights.sum()
    if len(source) < 3 or not np.isfinite(total) or total <= 0:
        return None
    mean_s, mean_t = weights @ source / total, weights @ target / total
    s, t = source - mean_s, target - mean_t
    covariance = (weights[:, None] * t).T @ s / total
    spread_s, spread_t = weights @ (s * s).sum(1), weights @ (t * t).sum(1)
    if not (np.isfinite(covariance).all() and spread_s > 0 and spread_t > 0):
        return None
    U, singular, Vt = np.linalg.svd(covariance)
    # The second value vanishes on a line; a plane (third only) still fixes a proper rotation.
    if singular[1] <= 1e-9 * singular[0] or singular[0] <= 0:
        return None
    flip = np.diag([1, 1, np.sign(np.linalg.det(U @ Vt))])
    rotation = U @ flip @ Vt
    scale = np.sqrt(spread_t / spread_s)
    return make_T(rotation, mean_t - scale * rotation @ mean_s, scale)


def rigid_fit(source: NDArray, target: NDArray, weights: NDArray | None = None) -> F64 | None:
    """As :func:`umeyama`, with the scale held at 1."""
    T = umeyama(source, target, weights)
    if T is None:
        return None
    weights = np.ones(len(source)) if weights is None else np.asarray(weights, float)
    rotation = split_similarity(T)[0][:3, :3]
    mean_s, mean_t = (weights @ np.asarray(x, float) / weights.sum() for x in (source, target))
    return make_T(rotation, mean_t - rotation @ mean_s)


def mean_rotation(rotations: F64, weights: NDArray | None = None) -> F64:
    """(3, 3) chordal mean of rotations (n, 3, 3): the rotation that is nearest to their sum."""
    weights = np.ones(len(rotations)) if weights is None else weights
    U, _, Vt = np.linalg.svd(np.einsum("n,nij->ij", weights, rotations))
    U[:, 2] *= np.sign(np.linalg.det(U @ Vt))
    mean: F64 = U @ Vt
    return mean
