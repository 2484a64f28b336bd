"""Many small problems at once: similarities, medians and sums over stacks of points.

The solver's arrays are planar, (K, 3, S): K pointmaps of S samples, coordinates before samples, so
that numpy streams through contiguous rows; weights and distances are (K, S).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hamst3r.geometry import split_similarity

F64 = NDArray[np.float64]


def apply(T: F64, points: NDArray) -> NDArray:
    """Transforms (K, 4, 4) of planar points (K, 3, S), in the points' floating type."""
    T = T.astype(points.dtype)
    return T[:, :3, :3] @ points + T[:, :3, 3:]


def norms(points: NDArray) -> NDArray:
    """(K, S) lengths of planar points (K, 3, S)."""
    x, y, z = points[:, 0], points[:, 1], points[:, 2]
    return np.sqrt(x * x + y * y + z * z)


def similarities(
    source: NDArray, target: NDArray, weights: NDArray, problem: NDArray[np.intp] | None = None
) -> tuple[F64, NDArray[np.bool_]]:
    """The similarities that best map sources to targets, as :func:`hamst3r.geometry.umeyama` does.

    Args:
        source, target: (K, 3, S). weights: (K, S) >= 0.
        problem: (K,) which of the similarities each stack contributes to; None = one each.

    Returns:
        (E, 4, 4), and (E,) whether the points determine it; identity where they do not.
    """
    count = len(source) if problem is None else int(problem.max(initial=-1)) + 1
    of = slice(None) if problem is None else problem

    def gather(values: NDArray) -> F64:
        if problem is None:
            return values.astype(float)
        total = np.zeros((count, *values.shape[1:]))
        np.add.at(total, problem, values)
        return total

    total = gather(weights.sum(1))
    per_total = 1 / np.where(total > 0, total, 1)
    column = weights[:, :, None]
    mean_s = gather((source @ column)[..., 0]) * per_total[:, None]
    mean_t = gather((target @ column)[..., 0]) * per_total[:, None]
    s = source - mean_s[of].astype(source.dtype)[..., None]
    t = target - mean_t[of].astype(target.dtype)[..., None]
    weighted = t * weights[:, None]
    covariance = gather(weighted @ s.transpose(0, 2, 1)) * per_total[:, None, None]
    spread_t = gather(np.einsum("kas,kas->k", weighted, t))
    spread_s = gather(np.einsum("kas,kas,ks->k", s, s, weights))
    found = np.isfinite(covariance).all((1, 2)) & (total > 0) & (spread_s > 0) & (spread_t > 0)
    covariance[~found] = np.eye(3)
    U, singular, Vt = np.linalg.svd(covariance)
    # The second value vanishes on a line; a plane (third only) still fixes a proper rotation.
    found &= singular[:, 1] > 1e-7 * singular[:, 0]
    U[:, :, 2] *= np.sign(np.linalg.det(U @ Vt))[:, None]
    scale = np.sqrt(np.where(found, spread_t, 1) / np.where(found, spread_s, 1))
    T = np.tile(np.eye(4), (count, 1, 1))
    T[:, :3, :3] = scale[:, None, None] * (U @ Vt)
    T[:, :3, 3] = mean_t - (T[:, :3, :3] @ mean_s[..., None])[..., 0]
    T[~found] = np.eye(4)
    return T, found


def medians(values: NDArray, weights: NDArray) -> F64:
    """(K,) weighted medians of the rows of (K, S); NaN where a row has no weight."""
    order = np.argsort(values, axis=1)
    cumulated = np.cumsum(np.take_along_axis(weights, order, 1), axis=1, dtype=float)
    at = (cumulated < cumulated[:, -1:] / 2).sum(1).clip(max=values.shape[1] - 1)
    rows = np.arange(len(values))
    return np.where(cumulated[:, -1] > 0, values[rows, order[rows, at]], np.nan)


def log_scales(T: F64) -> F64:
    """(K,) log scales of similarities (K, 4, 4)."""
    return np.log(split_similarity(T)[1])
