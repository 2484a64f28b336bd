"""Loops: a pair with an old keyframe that should show what a camera sees now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from hamst3r.alignment.factors import Factor
from hamst3r.alignment.keyframes import KeyframeGraph, KeyView
from hamst3r.alignment.observations import Observations
from hamst3r.alignment.tracked import Loop, Recalled, Tracked
from hamst3r.alignment.uncalibrated import Problem, place_uncalibrated
from hamst3r.geometry import invert, rotation_angle

F64 = NDArray[np.float64]
# Views that may show the same: their distance over the usual depth, and angle, at most.
MAX_APART, MAX_ANGLE = 0.5, np.deg2rad(40)
# A loop: share of its pair's points that agree, and how far from where it should be, at most.
MIN_SCORE, MAX_TURN = 0.4, np.deg2rad(25)


def loop_candidate(
    graph: KeyframeGraph, last: Mapping[str, F64], cameras: Sequence[str], turn: int
) -> tuple[int, KeyView] | None:
    """A current view, and a view of an old keyframe that should show the same.

    Args:
        last: Camera -> (4, 4) where it was last, in the map. turn: Counts the calls; the nearest
            three are tried in turn.
    """
    old = [view for k in graph.keyframes[: -graph.window] for view in k.views.values()]
    current = [v for v, name in enumerate(cameras) if name in last]
    if not old or not current:
        return None
    reach = np.array([k.reach for k in graph.keyframes[: -graph.window] for _ in k.views])
    T_old = np.stack([graph.pose(view) for view in old])
    found: list[tuple[float, int, KeyView]] = []
    for v in current:
        T = last[cameras[v]]
        apart = np.linalg.norm(T_old[:, :3, 3] - T[:3, 3], axis=1) / (MAX_APART * reach)
        angle = rotation_angle(T_old, np.broadcast_to(T, T_old.shape)) / MAX_ANGLE
        worth = np.maximum(apart, angle)
        found += [(float(worth[k]), v, old[k]) for k in np.flatnonzero(worth < 1).tolist()]
    if not found:
        return None
    nearest = sorted(found, key=lambda entry: entry[0])[:3]
    _, v, view = nearest[turn % len(nearest)]
    return v, view


def measure_loop(
    recalled: Recalled, problem: Problem, probe: Observations, tracked: Tracked, reach: float
) -> Loop | None:
    """What the pair with an old keyframe says; None if it is not near to what is known already.

    Args:
        problem: As the frame set was placed, with all past poses known. reach: The usual depth.
    """
    assert recalled.probe is not None
    view, old = recalled.edges[recalled.probe]
    pair = probe.pairs[0]
    if view not in tracked.placed or (pair.i, pair.j) != (view, old):
        return None
    solved = place_uncalibrated(
        replace(
            problem,
            observations=probe,
            known={old: tracked.nodes[old]},
            previous={},
            metric=frozenset([old]),
        )
    )
    scores = [score for score in solved.scores if score.used]
    if not scores or scores[0].score < MIN_SCORE or not solved.measured:
        return None
    off = invert(tracked.nodes[view]) @ solved.T_world_cam[view]
    if np.linalg.norm(off[:3, 3]) > reach or rotation_angle(off, np.eye(4)) > MAX_TURN:
        return None
    to_camera = invert(solved.T_world_cam[view]) @ solved.T_world_look[0, 0]
    z = pair.first.points @ to_camera[2, :3].astype(np.float32) + np.float32(to_camera[2, 3])
    return Loop(view, solved.measured[0], np.where(pair.first.weight > 0, z, np.float32(0)))


def closing(
    graph: KeyframeGraph, loop: Loop, view: KeyView, node: NDArray[np.intp]
) -> list[Factor]:
    """The loop's measurement, in the unit of the new keyframe's depths, between nodes."""
    both = (loop.depth > 0) & (view.depth > 0)
    if not both.any():
        return []
    larger = float(np.median(loop.depth[both] / view.depth[both]))
    scaled = loop.measured.scaled(1 / larger)
    scaled = replace(scaled, log_ratio=scaled.log_ratio - np.log(larger), robust=True)
    return graph.named(scaled, node)
