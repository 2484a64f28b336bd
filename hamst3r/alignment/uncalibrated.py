"""Cameras of which some or none are known: pose graph, then polish, per connected component."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hamst3r.alignment.observations import Look, Observations
from hamst3r.alignment.placement import Placement, fit_poses, scaling
from hamst3r.alignment.polish import Solution, polish
from hamst3r.alignment.pose_graph import (
    GraphEdge,
    components,
    make_edge,
    robust_start,
    solve,
)
from hamst3r.alignment.resection import resect, weighted_median
from hamst3r.geometry import make_T, split_similarity, transform

F64 = NDArray[np.float64]
# A pair that agrees with the rest less than this share of the best pair is left out.
MIN_RELATIVE_AGREEMENT = 0.2
MIN_BASELINE = 1e-3


@dataclass(frozen=True, eq=False)
class Canonical:
    """A view's pointmap in its own axes, in a unit of its own.

    Attributes:
        depth: (S,) of the samples. weight: (S,).
        unit: pair index -> what multiplies that pair's own look to reach this unit.
    """

    depth: F64
    weight: F64
    unit: dict[int, float]


def place_uncalibrated(
    observations: Observations,
    rays: Sequence[F64],
    known: dict[int, F64],
    previous: set[int],
    polish_rounds: int,
) -> Placement:
    """Place what hangs together.

    Args:
        observations: All pairs. rays: Per view (S, 3), z = 1.
        known: view -> exact T_world_cam; together with a baseline they fix the scale.
        previous: Views whose earlier pose is a fallback for telling where a component is.
        polish_rounds: See :mod:`hamst3r.alignment.polish`.

    Returns:
        Each group in the world of its known cameras, else in axes of one of its cameras with the
        network's mean scale. Of groups without known or previous cameras only the largest is
        placed, if nothing else fixes the world.
    """
    views = range(len(observations.grids))
    canonical = {v: c for v in views if (c := _canonical(observations, v, rays)) is not None}
    edges, notes = _edges(observations, canonical, rays)
    groups = components(len(views), list(edges.values()))
    world_exists = bool(known) or bool(previous)
    result = Placement({}, {}, {}, (), (), ())
    placed: list[tuple[int, ...]] = []
    log_scales: list[float] = []
    for position, group in enumerate(groups):
        anchored = any(v in known or v in previous for v in group)
        if not anchored and (position > 0 or world_exists or (len(group) == 1 and len(views) > 1)):
            continue
        inside = {k: e for k, e in edges.items() if e.i in group}
        if len(group) == 1:
            _place_alone(result, observations, group[0], canonical.get(group[0]), known)
        else:
            scales = _place_group(
                result, observations, canonical, inside, rays, group, known, polish_rounds, notes
            )
            log_scales += scales
        placed.append(tuple(group))
    return Placement(
        result.T_world_cam,
        result.T_world_look,
        result.agreement,
        tuple(log_scales),
        tuple(placed),
        tuple(notes),
    )


def _canonical(observations: Observations, view: int, rays: Sequence[F64]) -> Canonical | None:
    own = observations.own_looks(view)
    if not own:
        return _resected(observations.looks_at[view], view, rays)
    reference = max(own, key=lambda look: float(look.w.mean()))
    unit: dict[int, float] = {}
    total, moment, square = (np.zeros(len(reference.w)) for _ in range(3))
    for look in own:
        both = np.sqrt(look.w * reference.w)
        ratio = reference.X[:, 2] / np.where(look.w > 0, look.X[:, 2], 1)
        scale = weighted_median(ratio, both)
        if not (np.isfinite(scale) and scale > 0):
            continue
        unit[look.edge] = scale
        total += look.w
        moment += look.w * scale * look.X[:, 2]
        square += look.w**2
    seen = np.maximum(total, 1e-12)
    return Canonical(np.where(total > 0, moment / seen, 0), square / seen, unit)


def _resected(looks: Sequence[Look], view: int, rays: Sequence[F64]) -> Canonical | None:
    """The view was only looked at from elsewhere: find its camera in the best of those looks."""
    found = [
        (r.error, look, r)
        for look in looks
        if look.usable and (r := resect(look.X, rays[view], look.w)) is not None
    ]
    if not found:
        return None
    _, look, resection = min(found, key=lambda entry: entry[0])
    z = transform(resection.T_cam_points, look.X)[:, 2]
    return Canonical(np.where(z > 0, z, 0), np.where(z > 0, look.w, 0), {})


def _edges(
    observations: Observations, canonical: dict[int, Canonical], rays: Sequence[F64]
) -> tuple[dict[int, GraphEdge], list[str]]:
    edges, notes = {}, []
    for index, pair in enumerate(observations.pairs):
        if pair.i == pair.j:
            continue
        edge = None
        unit = canonical[pair.i].unit.get(index) if pair.i in canonical else None
        if unit is not None and pair.j in canonical and pair.second.usable:
            target = canonical[pair.j]
            w = np.sqrt(pair.second.w * target.weight) * (target.depth > 0)
            p = rays[pair.j] * target.depth[:, None]
            edge = make_edge(pair.i, pair.j, unit * pair.second.X, p, w)
        if edge is None:
            names = observations.grids[pair.i].name, observations.grids[pair.j].name
            notes.append(f"pair {names[0]}-{names[1]} rejected: its pointmaps do not fit")
        else:
            edges[index] = edge
    return edges, notes


def _place_alone(
    result: Placement,
    observations: Observations,
    view: int,
    canonical: Canonical | None,
    known: dict[int, F64],
) -> None:
    """A view without a partner: its pose is known, or the caller's to tell."""
    T = known.get(view, np.eye(4))
    result.T_world_cam[view] = T
    result.agreement[view] = 0.0
    if canonical is None:
        return
    for look in observations.own_looks(view):
        if look.edge in canonical.unit:
            slot = 0 if observations.pairs[look.edge].first is look else 1
            result.T_world_look[look.edge, slot] = T @ scaling(canonical.unit[look.edge])


def _place_group(
    result: Placement,
    observations: Observations,
    canonical: dict[int, Canonical],
    edges: dict[int, GraphEdge],
    rays: Sequence[F64],
    group: Sequence[int],
    known: dict[int, F64],
    polish_rounds: int,
    notes: list[str],
) -> list[float]:
    """Solve one component and enter it into the result; returns the log scales of its pairs."""
    fixed = [v for v in group if v in known]
    root = max(fixed or group, key=lambda v: sum(e.mass for e in edges.values() if v in (e.i, e.j)))
    listed = list(edges.values())
    # Nodes of views outside of the group stay at the identity and take no part.
    G = np.tile(np.eye(4), (len(observations.grids), 1, 1))
    start = robust_start(group, listed, root)
    G[list(group)] = start[list(group)]
    metric = _has_baseline([known[v] for v in fixed])
    free = np.ones((len(G), 7), bool)
    free[[v for v in range(len(G)) if v not in group]] = False
    if fixed:
        rigid, _ = split_similarity(G[fixed])
        G = fit_poses(rigid, np.stack([known[v] for v in fixed])) @ G
        for v in fixed:
            scale = float(split_similarity(G[v])[1])
            G[v] = known[v] @ scaling(scale)
            free[v, :6] = False
    if not metric:
        free[root] = False
    G, agreement = solve(listed, G, free)
    best = max(agreement)
    pairs: dict[int, F64] = {}
    for (index, edge), share in zip(edges.items(), agreement, strict=True):
        if share < MIN_RELATIVE_AGREEMENT * best:
            names = observations.grids[edge.i].name, observations.grids[edge.j].name
            notes.append(f"pair {names[0]}-{names[1]} rejected: it contradicts the other pairs")
        else:
            pairs[index] = G[edge.i] @ scaling(canonical[edge.i].unit[index])
    cameras = split_similarity(G)[0]
    movable = np.array([v in group and v not in known for v in range(len(G))])
    if not fixed:
        movable[root] = False
    solution = polish(
        observations, Solution(cameras, pairs), rays, movable, not metric, polish_rounds
    )
    cameras, pairs = solution.T_world_cam, solution.T_world_pair
    if not metric:
        cameras, pairs = _to_network_scale(cameras, pairs, root)
    for view in group:
        result.T_world_cam[view] = known.get(view, cameras[view])
        shares = [a for e, a in zip(listed, agreement, strict=True) if view in (e.i, e.j)]
        result.agreement[view] = 1.0 if view in known else float(np.mean(shares))
    for index, T in pairs.items():
        result.T_world_look[index, 0] = result.T_world_look[index, 1] = T
    return [float(np.log(split_similarity(T)[1])) for T in pairs.values()]


def _has_baseline(poses: Sequence[F64]) -> bool:
    if len(poses) < 2:
        return False
    centres = np.stack(poses)[:, :3, 3]
    return bool(np.linalg.norm(centres - centres[0], axis=1).max() > MIN_BASELINE)


def _to_network_scale(cameras: F64, pairs: dict[int, F64], root: int) -> tuple[F64, dict[int, F64]]:
    """Scale the group about the root's centre so that the pairs, on average, keep their unit."""
    mean = np.mean([np.log(split_similarity(T)[1]) for T in pairs.values()])
    factor = float(np.exp(-mean))
    centre = cameras[root, :3, 3]
    about = make_T(np.eye(3), (1 - factor) * centre, factor)
    return split_similarity(about @ cameras)[0], {k: about @ T for k, T in pairs.items()}
