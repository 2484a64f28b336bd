"""Closed-form polish: given a good start, alternate similarities, cameras and depths.

Each round fits every pair's similarity to the current points, every free camera to the pixels in
which it sees the pairs' points, and every sample's depth to what the pairs say of it; all with
least distances (not squares). It removes what the pose graph's condensed moments leave.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hamst3r.alignment.observations import Observations, Pair
from hamst3r.alignment.resection import normal_equations, reprojection, rigid_step
from hamst3r.geometry import invert, lengths, split_similarity, transform, umeyama

F64 = NDArray[np.float64]
FLOOR = 0.004  # Relative errors below this are equally good.


@dataclass(frozen=True, eq=False)
class Solution:
    """Cameras and pairs placed in the world.

    Attributes:
        T_world_cam: (N, 4, 4) rigid.
        T_world_pair: pair index -> (4, 4) similarity of its points (camera i's axes, network's
            unit) to the world; pairs that are not in it were rejected.
    """

    T_world_cam: F64
    T_world_pair: dict[int, F64]


def polish(
    observations: Observations,
    solution: Solution,
    rays: Sequence[F64],
    free: NDArray[np.bool_],
    hold_scale: bool,
    rounds: int,
) -> Solution:
    """Refine a solution.

    Args:
        rays: Per view (S, 3) with z = 1.
        free: (N,) cameras that may move; the others are known or the gauge.
        hold_scale: Nothing known fixes the scale: keep the pairs' mean scale as it is.
    """
    cameras = solution.T_world_cam.copy()
    pairs = dict(solution.T_world_pair)
    members = {index: observations.pairs[index] for index in pairs}
    depths = _depths(observations, cameras, pairs, None)
    for _ in range(rounds):
        scale_before = _mean_log_scale(pairs)
        for index, pair in members.items():
            pairs[index] = _fit_pair(pair, pairs[index], cameras, rays, depths)
        if hold_scale:
            gauge = cameras[np.flatnonzero(~free)[0], :3, 3]
            _rescale(pairs, gauge, np.exp(scale_before - _mean_log_scale(pairs)))
        for view in np.flatnonzero(free).tolist():
            cameras[view] = _fit_camera(view, observations, pairs, cameras[view], rays[view])
        depths = _depths(observations, cameras, pairs, depths)
    return Solution(cameras, pairs)


def _mean_log_scale(pairs: dict[int, F64]) -> float:
    return float(np.mean([np.log(split_similarity(T)[1]) for T in pairs.values()]))


def _rescale(pairs: dict[int, F64], about: F64, factor: float) -> None:
    """Scale the pairs' similarities about a world point."""
    for index, T in pairs.items():
        scaled = T.copy()
        scaled[:3] *= factor
        scaled[:3, 3] += (1 - factor) * about
        pairs[index] = scaled


def _fit_pair(pair: Pair, T: F64, cameras: F64, rays: Sequence[F64], depths: dict[int, F64]) -> F64:
    """The similarity that takes both of the pair's pointmaps to the current points."""
    target, source, weight, depth = [], [], [], []
    for look in pair.looks:
        if look.view not in depths:
            continue
        z = depths[look.view]
        target.append(transform(cameras[look.view], rays[look.view] * z[:, None]))
        source.append(look.X)
        weight.append(np.where(z > 0, look.w, 0))
        depth.append(np.maximum(z, 1e-6))
    if not target:
        return T
    dst, src = np.concatenate(target), np.concatenate(source)
    distance = lengths(transform(T, src) - dst) / np.concatenate(depth)
    fitted = umeyama(src, dst, np.concatenate(weight) / np.maximum(distance, FLOOR))
    return T if fitted is None else fitted


def _fit_camera(
    view: int, observations: Observations, pairs: dict[int, F64], T_world_cam: F64, rays: F64
) -> F64:
    """One Gauss-Newton step of the reprojection of all pairs' points of this view."""
    T_cam_world = invert(T_world_cam)
    H, g = np.zeros((6, 6)), np.zeros(6)
    for look in observations.looks_at[view]:
        if look.edge not in pairs:
            continue
        x = transform(T_cam_world @ pairs[look.edge], look.X)
        residual, jacobian, front = reprojection(x, rays[:, :2])
        w = look.w * front / np.maximum(lengths(residual), FLOOR / 2)
        H_look, g_look = normal_equations(residual, jacobian[..., :6], w)
        H, g = H + H_look, g + g_look
    if not np.trace(H) > 0:
        return T_world_cam
    step = np.linalg.solve(H + 1e-6 * np.diag(H.diagonal()) + 1e-12 * np.eye(6), -g)
    if not np.isfinite(step).all() or np.linalg.norm(step[3:]) > 0.5:
        return T_world_cam
    return invert(rigid_step(step.astype(np.float64)) @ T_cam_world)


def _depths(
    observations: Observations, cameras: F64, pairs: dict[int, F64], previous: dict[int, F64] | None
) -> dict[int, F64]:
    """Per view (S,) depths of the samples, 0 where nothing was seen."""
    depths = {}
    for view, looks in observations.looks_at.items():
        looks = [look for look in looks if look.edge in pairs]
        if not looks:
            continue
        T_cam_world = invert(cameras[view])
        z = np.stack([transform(T_cam_world @ pairs[k.edge], k.X)[:, 2] for k in looks])
        w = np.stack([k.w for k in looks]) * (z > 0)
        own = np.array([[1.0] if k.own else [0.25] for k in looks])
        d = previous[view] if previous else _average(z, w * own)
        for _ in range(1 if previous else 3):
            off = np.abs(z / np.maximum(d, 1e-6) - 1)
            d = _average(z, w / np.maximum(off, FLOOR))
        depths[view] = d
    return depths


def _average(values: F64, weights: F64) -> F64:
    total = weights.sum(0)
    return np.where(total > 0, (weights * values).sum(0) / np.maximum(total, 1e-12), 0)
