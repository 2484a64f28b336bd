"""Error measures: pure functions with exact definitions.

Metres and degrees; shares are in [0, 1]. Camera poses are ``T_world_cam`` (C, 4, 4), joints
(P, J, 3) with the same people in the same order on both sides; joints that are NaN on either side
are left out, and a person without any has no error (NaN). Videos: :mod:`.trajectories`, point
clouds: :mod:`.clouds`.

W-, GA- and PA-MPJPE, TE, s-TE, AE, RRA and CCA are those of HSfM (Mueller et al., CVPR 2025) and
HAMSt3R (arXiv 2508.16433, 2025); mAA is that of Jin et al., IJCV 2021; relative depth error and
inliers are those of the robust multi-view depth benchmark (Schroeppel et al., 3DV 2022).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from hamst3r.geometry import invert, lengths, make_T, mean_rotation, rotation_angle, transform

F64 = NDArray[np.float64]

NO_ROTATION = 180.0  # degrees, of a pair of cameras that was not solved
NO_TRANSLATION = 90.0
_MIN_BASELINE = 0.01  # metres; nearer cameras have no direction from one to the other
_MIN_BREADTH = 0.1  # of centres against their length; narrower ones are on a line


# --- alignment ----------------------------------------------------------------------------------


def registration(source: NDArray, target: NDArray, scale: bool) -> F64:
    """(4, 4) rigid or similarity T that minimises ``sum |T source - target|^2`` (Umeyama 1991).

    Args:
        source, target: (n, 3), n >= 1.
    """
    import roma  # takes two seconds: it imports torch's compiler

    x, y = (torch.from_numpy(np.array(a, np.float64)) for a in (source, target))
    if len(x) < 2 or not scale or float((x - x.mean(0)).abs().max()) < 1e-12:
        rotation, translation = roma.rigid_points_registration(x, y)
        return make_T(rotation.numpy(), translation.numpy())
    rotation, translation, factor = roma.rigid_points_registration(x, y, compute_scaling=True)
    return make_T(rotation.numpy(), translation.numpy(), float(factor))


def align_by_centres(predicted: F64, true: F64) -> F64:
    """(4, 4) T_true_predicted, rigid, that best maps camera centres onto each other (HSfM).

    Centres of fewer than three cameras, or (nearly) on a line, leave a turn open; then it is
    :func:`align_by_poses`.
    """
    for poses in (predicted, true):
        centres = poses[:, :3, 3]
        spread = np.linalg.svd(centres - centres.mean(0), compute_uv=False)
        if len(poses) < 3 or spread[1] < _MIN_BREADTH * spread[0] or spread[0] < 1e-9:
            return align_by_poses(predicted, true)
    return registration(predicted[:, :3, 3], true[:, :3, 3], scale=False)


def align_by_poses(predicted: F64, true: F64) -> F64:
    """(4, 4) T_true_predicted, rigid: mean turn of all cameras, then mean shift of the centres."""
    turns = true[:, :3, :3] @ np.swapaxes(predicted[:, :3, :3], 1, 2)
    rotation = mean_rotation(turns)
    shift = (true[:, :3, 3] - predicted[:, :3, 3] @ rotation.T).mean(0)
    return make_T(rotation, shift)


# --- people -------------------------------------------------------------------------------------


def known_joints(predicted: NDArray, true: NDArray) -> NDArray[np.bool_]:
    """(...) of the joints (..., 3) that are known on both sides."""
    return np.isfinite(predicted).all(-1) & np.isfinite(true).all(-1)


def mpjpe(predicted: NDArray, true: NDArray) -> F64:
    """(P,) mean distance of a person's joints, metres, as they are.

    After :func:`align_by_centres` this is W-MPJPE of unknown cameras; of calibrated ones, whose
    world is known, it is that without any alignment.
    """
    distances = lengths(np.asarray(predicted, float) - true)
    known = np.isfinite(distances)
    sums = np.where(known, distances, 0.0).sum(-1)
    return np.where(known.any(-1), sums / np.maximum(known.sum(-1), 1), np.nan)


def ga_mpjpe(predicted: NDArray, true: NDArray) -> F64:
    """(P,) as :func:`mpjpe` after one similarity for all people of the scene together."""
    predicted, true = np.asarray(predicted, float), np.asarray(true, float)
    known = known_joints(predicted, true)
    if not known.any():
        return np.full(len(true), np.nan)
    T = registration(predicted[known], true[known], scale=True)
    return mpjpe(transform(T, predicted), true)


def pa_mpjpe(predicted: NDArray, true: NDArray) -> F64:
    """(P,) as :func:`mpjpe` after one similarity per person."""
    errors = [ga_mpjpe(p[None], t[None])[0] for p, t in zip(predicted, true, strict=True)]
    return np.array(errors, float)


# --- cameras ------------------------------------------------------------------------------------


def centre_errors(predicted: F64, true: F64, scale: bool) -> F64:
    """(C,) distance of camera centres after the best rigid motion (TE) or similarity (s-TE)."""
    found, truth = predicted[:, :3, 3], true[:, :3, 3]
    return lengths(transform(registration(found, truth, scale), found) - truth)


def extent(true: F64) -> float:
    """Largest distance of a camera from the middle of all: what CCA's shares are of, metres."""
    centres = true[:, :3, 3]
    return float(lengths(centres - centres.mean(0)).max())


def pair_rotation_errors(predicted: F64, true: F64) -> F64:
    """(C (C - 1) / 2,) degrees between true and predicted relative rotation, pairs i < j (AE)."""
    i, j = np.triu_indices(len(true), 1)
    return np.degrees(rotation_angle(*(invert(T[i]) @ T[j] for T in (predicted, true))))


def pair_translation_errors(predicted: F64, true: F64) -> F64:
    """As :func:`pair_rotation_errors`, between the directions from camera i to camera j.

    The angle is taken between lines (at most 90 degrees), as is usual for pairs of unknown scale.
    NaN where the true cameras stand in one place.
    """
    i, j = np.triu_indices(len(true), 1)
    a, b = ((invert(T[i]) @ T[j])[:, :3, 3] for T in (predicted, true))
    cosine = np.abs((a * b).sum(1)) / np.maximum(lengths(a) * lengths(b), 1e-12)
    angle = np.degrees(np.arccos(np.clip(cosine, 0, 1)))
    return np.where(lengths(b) < _MIN_BASELINE, np.nan, angle)


def mean_average_accuracy(errors: Sequence[float] | NDArray, limit: int = 30) -> float:
    """mAA: mean over thresholds of 1, 2, ... ``limit`` degrees of the share of pairs below.

    Args:
        errors: Degrees; of a pair the larger one of rotation and translation.
    """
    worst = np.asarray(errors, float)
    return float(np.mean([(worst < threshold).mean() for threshold in range(1, limit + 1)]))


# --- pixels -------------------------------------------------------------------------------------


def relative_distances(predicted: NDArray, true: NDArray) -> F64:
    """(n,) distance of points (n, 3) as a share of the true point's distance from the camera."""
    return lengths(np.asarray(predicted, float) - true) / lengths(np.asarray(true, float))


def median_scale(predicted: NDArray, true: NDArray) -> float:
    """Median ratio of the points' (n, 3) distances from the camera, true over predicted."""
    return float(np.median(lengths(true) / np.maximum(lengths(predicted), 1e-6)))


def depth_errors(predicted: NDArray, true: NDArray, inlier: float = 1.03) -> tuple[float, float]:
    """Mean relative error of depths (n,) and the share that is right within a factor.

    After scaling by the ratio of medians. Pixels whose true depth is not within 0.1 to 100 m are
    left out, and predictions are limited to that; NaN where no pixel is left. A pixel without a
    prediction (0) has no part in the scale and counts as wrong.
    """
    near = (true >= 0.1) & (true <= 100.0)
    predicted, true = np.asarray(predicted, float)[near], true[near]
    there = predicted > 0
    if len(true) == 0:
        return np.nan, np.nan
    scale = np.median(true[there]) / np.median(predicted[there]) if there.any() else 1.0
    scaled = np.clip(scale * predicted, 0.1, 100.0)
    ratio = np.maximum(scaled / true, true / scaled)
    return float((np.abs(scaled - true) / true).mean()), float((there & (ratio < inlier)).mean())


def overlaps(
    predicted: NDArray[np.integer], true: NDArray[np.integer]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Ids of two maps (...) of ids (0 = none) and how many pixels each two of them share.

    Returns:
        (n,) predicted ids, (m,) true ids, (n + 1, m + 1) counts; the last row and column count
        the pixels that are on nobody in the one map.
    """
    found, truth = (np.unique(ids[ids > 0]).astype(np.int64) for ids in (predicted, true))
    counts = np.zeros((len(found) + 1, len(truth) + 1), np.int64)
    rows = np.where(predicted > 0, np.searchsorted(found, predicted), len(found))
    columns = np.where(true > 0, np.searchsorted(truth, true), len(truth))
    np.add.at(counts, (rows.ravel(), columns.ravel()), 1)
    return found, truth, counts


def intersections_over_unions(counts: NDArray[np.int64]) -> F64:
    """(n, m) of the ids' masks, from the counts of :func:`overlaps`."""
    shared = counts[:-1, :-1]
    sizes = counts.sum(1)[:-1, None] + counts.sum(0)[None, :-1]
    return shared / np.maximum(sizes - shared, 1)
