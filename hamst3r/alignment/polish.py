"""Closed-form polish: given a good start, alternate similarities, cameras and depths.

Each round fits every pair's similarity to the current points, every free camera to the pixels in
which it sees the pairs' points, and every sample's depth to what the pairs say of it. All three
minimise Huber's function of the errors in space relative to the depth, as a network errs. It
removes what the pose graph's condensed moments leave. In the end pairs are taken as wholes, which
err as such (see :mod:`hamst3r.alignment.averaging`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hamst3r.alignment.averaging import average
from hamst3r.alignment.factors import Relative
from hamst3r.alignment.intrinsics import FocalHold
from hamst3r.alignment.looks import Looks
from hamst3r.alignment.observations import Observations
from hamst3r.alignment.placement import Slot
from hamst3r.alignment.similarity import apply, log_scales
from hamst3r.geometry import invert, make_T

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Solution:
    """Cameras and pairs placed in the world.

    Attributes:
        T_world_cam: (N, 4, 4) rigid.
        T_world_pair: pair index -> (4, 4) similarity of its points (camera i's axes, network's
            unit) to the world; pairs that are not in it were rejected.
        focal_factor: (N,) what multiplies the focal lengths that the rays were made with.
        focal_variance: (N,) of the log focal lengths by the pairs alone, if that was found out.
        T_world_look: Where each of a pair's looks is by itself; None = where the pair is.
        measured: What the pairs know of the cameras, if that was found out.
    """

    T_world_cam: F64
    T_world_pair: dict[int, F64]
    focal_factor: F64
    T_world_look: Mapping[Slot, F64] | None = None
    focal_variance: F64 | None = None
    measured: Relative | None = None


def polish(
    observations: Observations,
    solution: Solution,
    rays: Sequence[F64],
    free: NDArray[np.bool_],
    focal_hold: FocalHold,
    hold_scale: bool,
    rounds: int,
    pairs_as_wholes: bool = True,
) -> Solution:
    """Refine a solution.

    Args:
        rays: Per view (S, 3) with z = 1.
        free: (N,) cameras that may move; the others are known.
        focal_hold: Of all N views.
        hold_scale: Nothing known fixes the scale: keep the pairs' mean scale as it is.
        rounds: Over the pixels. pairs_as_wholes: Average the pairs in the end.
    """
    if not solution.T_world_pair or not (rounds or pairs_as_wholes):
        return solution
    looks = Looks(observations, list(solution.T_world_pair), rays)
    cameras = solution.T_world_cam.copy()
    pairs = np.stack(list(solution.T_world_pair.values()))
    mean_log_scale = log_scales(pairs).mean()
    focal_factor = solution.focal_factor
    x = apply(invert(cameras)[looks.view] @ pairs[looks.pair], looks.X)
    depth = looks.depths(x[:, 2], None)
    for _ in range(rounds):
        pairs = looks.fit_pairs(pairs, cameras, depth, x)
        if hold_scale:
            factor = np.exp(mean_log_scale - log_scales(pairs).mean())
            gauge = cameras[looks.view[0], :3, 3]
            pairs = make_T(np.eye(3), (1 - factor) * gauge, factor) @ pairs
        T_cam_world = invert(cameras)
        x = apply(T_cam_world[looks.view] @ pairs[looks.pair], looks.X)
        steps, factor = looks.camera_steps(x, depth, free, focal_hold, np.log(focal_factor))
        cameras = np.where(free[:, None, None], invert(steps @ T_cam_world), cameras)
        focal_factor = focal_factor * factor
        looks.rays[:, :2] /= factor[:, None, None].astype(np.float32)
        x = apply(invert(cameras)[looks.view] @ pairs[looks.pair], looks.X)
        depth = looks.depths(x[:, 2], depth)
    members = list(solution.T_world_pair)
    averaged = None
    if pairs_as_wholes:
        averaged = average(looks, cameras, pairs, depth, free, focal_hold, np.log(focal_factor))
    if averaged is None:
        return Solution(cameras, dict(zip(members, pairs, strict=True)), focal_factor)
    placed = averaged.T_world_look[looks.ends]  # (2, pairs, 4, 4)
    return Solution(
        averaged.T_world_cam,
        dict(zip(members, placed[0], strict=True)),
        focal_factor * averaged.focal,
        {(k, slot): T for slot in (0, 1) for k, T in zip(members, placed[slot], strict=True)},
        averaged.focal_variance,
        averaged.measured,
    )
