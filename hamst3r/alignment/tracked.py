"""What goes into placing a frame set among keyframes, and what comes out of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from hamst3r.alignment.factors import Factor, Relative
from hamst3r.alignment.fusion import KeptDepth
from hamst3r.alignment.keyframes import KeyframeGraph, KeyView
from hamst3r.alignment.observations import Observations
from hamst3r.alignment.placement import Placement, fit_poses, scaling
from hamst3r.alignment.world import level_start
from hamst3r.frames import Frame
from hamst3r.geometry import invert, make_T, split_similarity
from hamst3r.image import NetworkImage

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Recalled:
    """Views of the past that the network should look at beside the current ones.

    Attributes:
        views: Of keyframes. In a frame set of n they are the views n, n + 1, ...
        edges: Pairs (current view, view of the past).
        probe: Index of an edge whose place is not taken for granted (a loop), or None.
    """

    views: tuple[KeyView, ...] = ()
    edges: tuple[tuple[int, int], ...] = ()
    probe: int | None = None

    @property
    def images(self) -> list[NetworkImage]:
        """As the network saw them."""
        return [view.image for view in self.views]


def kept_depths(
    graph: KeyframeGraph, recalled: Recalled, count: int, T_world_map: F64, gain: float
) -> list[KeptDepth]:
    """What the recalled views saw, in a world ``gain`` times as large as the map; no loops.

    ``count``: Of current views, after which the recalled ones are numbered.
    """
    loop = None if recalled.probe is None else recalled.edges[recalled.probe][1]
    result = []
    for at, view in enumerate(recalled.views, count):
        if at == loop:
            continue
        T = T_world_map @ graph.pose(view)
        still = np.where(view.movers, np.float32(0), np.float32(gain))
        T = make_T(T[:3, :3], gain * T[:3, 3])
        result.append(KeptDepth(still * graph.depth(view), view.confidence, view.K, T))
    return result


@dataclass(frozen=True, eq=False)
class Seen:
    """What pairs and kept depths say of current and recalled views; the probe's pair apart."""

    observations: Observations
    probe: Observations | None


@dataclass(eq=False)
class Tracked:
    """Where a frame set is.

    Attributes:
        placement: Of the current views, in the world.
        nodes: (n + recalled + 1, 4, 4) poses in the map: current views, recalled ones, the rig.
        placed, by_pairs: Current views with a pose, and those that pairs have placed.
        measured: What the pairs know of the nodes.
        scale_std: Relative, of the depths; metric: It is a calibration that tells the scale.
        pairs_scale: Mean log scale of the pairs. loop: What the probe says, if it is believed.
    """

    placement: Placement
    nodes: F64
    placed: tuple[int, ...]
    by_pairs: tuple[int, ...]
    measured: tuple[Relative, ...]
    scale_std: float
    metric: bool
    pairs_scale: float
    loop: Loop | None = None


@dataclass(frozen=True, eq=False)
class Loop:
    """A pair with an old keyframe: what it measures, and the depths (gh, gw) it gives the view."""

    view: int
    measured: Relative
    depth: F32


def beginning(solved: Placement, group: Sequence[int], frames: Sequence[Frame]) -> F64:
    """T_map_solved of the first frame set: the rig's frame, else levelled at the first camera."""
    told = [v for v in group if frames[v].T_rig_cam is not None]
    if told:
        known = [T for v in told if (T := frames[v].T_rig_cam) is not None]
        return fit_poses(np.stack([solved.T_world_cam[v] for v in told]), np.stack(known))
    if not group:
        return np.eye(4)
    return level_start(frames, {v: solved.T_world_cam[v] for v in group})


def follow_links(poses: Mapping[int, F64], links: Sequence[Factor]) -> dict[int, F64]:
    """Nodes that are placed, and where links put those that are tied to them."""
    placed = dict(poses)
    relative = [link for link in links if isinstance(link, Relative)]
    found = True
    while found:
        found = False
        for link in relative:
            for i, j, T_i_j in zip(link.i.tolist(), link.j.tolist(), link.T_i_j, strict=True):
                if i in placed and j not in placed:
                    placed[j], found = placed[i] @ T_i_j, True
                elif j in placed and i not in placed:
                    placed[i], found = placed[j] @ invert(T_i_j), True
    return placed


def only(solved: Placement, kept: set[int], observations: Observations, T: F64) -> Placement:
    """The placement of some views, moved by a similarity."""
    growth = float(split_similarity(T)[1])
    return replace(
        solved,
        T_world_cam={
            v: split_similarity(T @ P)[0] for v, P in solved.T_world_cam.items() if v in kept
        },
        T_world_look={
            slot: T @ P
            for slot, P in solved.T_world_look.items()
            if observations.viewer(slot) in kept
        },
        groups=tuple(group for group in solved.groups if set(group) <= kept),
        measured=tuple(
            m.scaled(growth) for m in solved.measured if {int(m.i[0]), int(m.j[0])} <= kept
        ),
        log_scales=tuple(log + np.log(growth) for log in solved.log_scales) if kept else (),
    )


def own_looks(
    solved: Placement,
    observations: Observations,
    poses: F64,
    views: set[int],
    pairs_scale: float,
) -> Placement:
    """Views that only the rig has placed: with the depths that they show themselves."""
    looks = dict(solved.T_world_look)
    for v in views:
        for look in observations.own_looks(v):
            looks[look.edge, look.slot] = poses[v] @ scaling(float(np.exp(pairs_scale)))
    return replace(solved, T_world_look=looks)


def corrected(
    solved: Placement,
    observations: Observations,
    before: F64,
    log_scale: F64,
    after: F64,
    views: Sequence[int],
) -> Placement:
    """Views at their final poses, and the looks at them moved along."""
    looks = {}
    for slot, T in solved.T_world_look.items():
        v = observations.viewer(slot)
        if v in views:
            by_pairs = v in solved.T_world_cam
            grown = scaling(float(np.exp(log_scale[v])))
            looks[slot] = after[v] @ grown @ invert(before[v]) @ T if by_pairs else T
    agreement = {v: solved.agreement.get(v, 0.0) for v in views}
    return replace(
        solved, T_world_cam={v: after[v] for v in views}, T_world_look=looks, agreement=agreement
    )


def transformed(placement: Placement, T: F64, notes: tuple[str, ...]) -> Placement:
    return replace(
        placement,
        T_world_cam={v: T @ pose for v, pose in placement.T_world_cam.items()},
        T_world_look={slot: T @ pose for slot, pose in placement.T_world_look.items()},
        notes=notes,
    )
