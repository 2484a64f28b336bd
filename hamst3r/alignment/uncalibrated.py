"""Cameras of which some or none are known: pose graph, then polish, per connected component."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from hamst3r.alignment.canonical import Canonical, canonical_pointmaps
from hamst3r.alignment.factors import DOF, Relative
from hamst3r.alignment.intrinsics import FocalHold
from hamst3r.alignment.observations import Observations
from hamst3r.alignment.placement import PairScore, Placement, fit_poses, scaling
from hamst3r.alignment.polish import Solution, polish
from hamst3r.alignment.pose_graph import (
    Edges,
    components,
    information,
    make_edges,
    robust_start,
    solve,
)
from hamst3r.alignment.similarity import log_scales
from hamst3r.geometry import invert, make_T, rotation_vectors, split_similarity

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
# A pair that agrees with the rest less than this share of the best pair is left out.
MIN_RELATIVE_AGREEMENT = 0.1
# Images do not overlap where even the surest tenth of the second view has less than this share of
# the confidence that another pair has there.
SUREST, MIN_SURENESS = 0.9, 0.02
MIN_BASELINE = 1e-3
# Of an edge's disagreement with the others, squared per degree of freedom: more is an outlier.
MAX_SQUARE = 100.0
# Agreement, relative to the last frame set's, from which on the earlier poses are a start.
STILL_AGREEING = 0.9


@dataclass(frozen=True, eq=False)
class Remembered:
    """A view's earlier pose T_world_cam (4, 4), and the share of its evidence that agreed."""

    T_world_cam: F64
    agreement: float


@dataclass(frozen=True, eq=False)
class Problem:
    """What is to be solved.

    Attributes:
        observations: All pairs. rays: Per view (S, 3), z = 1.
        known: view -> exact T_world_cam; together with a baseline they fix the scale.
        previous: What is known of views from earlier: tells where a component is, and where it is
            complete and still agrees, the solution starts there and is found sooner.
        focal_hold, polish_rounds: See :func:`hamst3r.alignment.polish.polish`.
        metric: Known views whose own pointmaps are in metres too.
        measure: Tell also what the pairs know of the poses, for fusion with other knowledge.
        alone: Where no pair fits at all, place the view that shows most.
    """

    observations: Observations
    rays: Sequence[F64]
    known: dict[int, F64]
    previous: dict[int, Remembered]
    focal_hold: FocalHold
    polish_rounds: int
    metric: frozenset[int] = frozenset()
    measure: bool = False
    alone: bool = False

    def pair_name(self, i: int, j: int) -> str:
        """As in notes."""
        grids = self.observations.grids
        return f"pair {grids[i].name}-{grids[j].name}"


def place_uncalibrated(problem: Problem) -> Placement:
    """Place what hangs together.

    Returns:
        Each group in the world of its known cameras, else in axes of one of its cameras with the
        network's mean scale. Of groups without known or previous cameras only the largest is
        placed, if nothing else fixes the world.
    """
    observations, known, previous = problem.observations, problem.known, problem.previous
    count = len(observations.grids)
    canonical = canonical_pointmaps(observations, problem.rays)
    edges, unfit = _edges(problem, canonical)
    notes = [f"{problem.pair_name(i, j)} rejected: {reason}" for i, j, reason in unfit]
    scores = [PairScore(i, j, 0.0, False) for i, j, _ in unfit]
    parts: list[Placement] = []
    apart = components(range(count), edges)
    if problem.alone:
        apart.sort(key=lambda g: (len(g), canonical.weight[g].sum()), reverse=True)
    waiting = [(g, edges.select(np.isin(edges.i, g))) for g in apart]
    while waiting:
        group, inside = waiting.pop(0)
        anchored = any(v in known or v in previous for v in group)
        if not anchored and (
            parts or known or previous or (len(group) == 1 < count and not problem.alone)
        ):
            if len(group) > 1:
                together = ", ".join(observations.grids[v].name for v in group)
                notes.append(f"cameras {together} see nothing of what the others see")
            continue
        if len(group) == 1:
            parts.append(_place_alone(problem, canonical, group[0]))
            continue
        start = _start(problem, inside, group)
        agreeing = start.agreement >= MIN_RELATIVE_AGREEMENT * start.agreement.max()
        for i, j, score, used in zip(
            inside.i.tolist(), inside.j.tolist(), start.agreement.tolist(), agreeing, strict=True
        ):
            if not used:
                notes.append(f"{problem.pair_name(i, j)} rejected: it contradicts the other pairs")
                scores.append(PairScore(i, j, score, False))
        kept = inside.select(agreeing)
        split = components(group, kept)
        if len(split) > 1:  # What only wrong pairs held together.
            waiting = [(g, kept.select(np.isin(kept.i, g))) for g in split] + waiting
            continue
        start = replace(start, agreement=start.agreement[agreeing])
        parts.append(_place_group(problem, canonical, kept, group, start))
        ends = zip(kept.i.tolist(), kept.j.tolist(), start.agreement.tolist(), strict=True)
        scores += [PairScore(i, j, score, True) for i, j, score in ends]
    return Placement(
        T_world_cam={v: T for part in parts for v, T in part.T_world_cam.items()},
        T_world_look={slot: T for part in parts for slot, T in part.T_world_look.items()},
        agreement={v: share for part in parts for v, share in part.agreement.items()},
        log_scales=tuple(log for part in parts for log in part.log_scales),
        groups=tuple(group for part in parts for group in part.groups),
        notes=tuple(notes),
        focal_factor={v: f for part in parts for v, f in part.focal_factor.items()},
        focal_variance={v: f for part in parts for v, f in part.focal_variance.items()},
        scores=tuple(sorted(scores, key=lambda score: (score.i, score.j))),
        measured=tuple(m for part in parts for m in part.measured),
    )


def _edges(problem: Problem, canonical: Canonical) -> tuple[Edges, list[tuple[int, int, str]]]:
    """The pairs whose pointmaps fit each other; (i, j) and what is wrong of those that do not."""
    observations = problem.observations
    pair = np.array([k for k, p in enumerate(observations.pairs) if p.i != p.j], int)
    i, j = (np.array([getattr(observations.pairs[k], end) for k in pair], int) for end in "ij")
    overlap = _overlap(observations, pair)
    usable = np.array([observations.pairs[k].second.usable for k in pair], bool)
    usable &= overlap & np.isfinite(canonical.unit[pair]) & canonical.known[j]
    tried, i_tried, j_tried = pair[usable], i[usable], j[usable]
    directions = np.stack([r.T for r in problem.rays]).astype(np.float32)
    q = observations.X[2 * tried + 1] * canonical.unit[tried, None, None].astype(np.float32)
    p = (directions * canonical.depth[:, None])[j_tried]
    w = np.sqrt(observations.w[2 * tried + 1] * canonical.weight[j_tried])
    w *= canonical.depth[j_tried] > 0
    edges, good = make_edges(tried, i_tried, j_tried, q, p, w)
    unfit = [
        (a, b, "its pointmaps do not fit" if overlaps else "its images do not overlap")
        for k, a, b, overlaps in zip(
            pair.tolist(), i.tolist(), j.tolist(), overlap.tolist(), strict=True
        )
        if k not in tried[good]
    ]
    return edges.select(good), unfit


def _overlap(observations: Observations, pair: NDArray[np.intp]) -> NDArray[np.bool_]:
    """(E,) whether the network is anywhere as sure of the second view as it is in other pairs.

    What confidence means differs by network, and some are never sure of second views: pairs can
    only be compared with each other, and a lone pair with nothing.
    """
    at = round(SUREST * (observations.w.shape[1] - 1))
    surest = np.partition(observations.w[2 * pair + 1], at, axis=1)[:, at]
    overlaps: NDArray[np.bool_] = surest >= MIN_SURENESS * surest.max(initial=0)
    return overlaps


def _place_alone(problem: Problem, canonical: Canonical, view: int) -> Placement:
    """A view without a partner: its pose is known, or the caller's to tell."""
    T = problem.known.get(view, np.eye(4))
    looks = {
        (look.edge, look.slot): T @ scaling(canonical.unit[look.edge])
        for look in problem.observations.own_looks(view)
        if np.isfinite(canonical.unit[look.edge])
    }
    return Placement({view: T}, looks, {view: 0.0}, (), ((view,),))


@dataclass(frozen=True, eq=False)
class Start:
    """Nodes (N, 4, 4) of a group, (E,) agreement of its edges, and what may still move.

    Attributes:
        root: The gauge, or one of the known cameras. metric: Known cameras fix the scale.
        anchored: Known cameras with metric pointmaps do.
        polish_rounds: How many are still worthwhile.
    """

    G: F64
    agreement: F64
    root: int
    metric: bool
    anchored: bool
    polish_rounds: int


def _start(problem: Problem, edges: Edges, group: Sequence[int]) -> Start:
    """Solve the pose graph of one component, all of whose edges are taken for good."""
    known = problem.known
    fixed = [v for v in group if v in known]
    root = max(fixed or group, key=lambda v: edges.mass[(edges.i == v) | (edges.j == v)].sum())
    anchors = [v for v in fixed if v in problem.metric]
    metric = _has_baseline([known[v] for v in fixed]) and not anchors
    # Nodes of views outside of the group stay at the identity and take no part.
    free = np.ones((len(problem.observations.grids), 7), bool)
    free[[v for v in range(len(free)) if v not in group]] = False
    free[fixed, :6] = False
    free[anchors] = False
    if anchors:
        root = max(anchors, key=lambda v: edges.mass[(edges.i == v) | (edges.j == v)].sum())
    elif not metric:
        free[root] = False
    continued = _continued(problem, edges, group, free)
    if continued is not None:
        # Averaging needs no better start than this; where two or three pairs tie a frame set to the
        # past, it may not follow.
        rounds = (problem.polish_rounds + 1) // 2 if anchors else (problem.polish_rounds - 1) // 2
        return Start(*continued, root, metric, bool(anchors), max(rounds, 0))
    G = np.tile(np.eye(4), (len(free), 1, 1))
    tree = robust_start(group, edges, root)
    G[list(group)] = tree[list(group)]
    if anchors:
        G[list(group)] = known[root] @ G[list(group)]
        G[anchors] = np.stack([known[v] for v in anchors])
    elif fixed:
        rigid, _ = split_similarity(G[fixed])
        G = fit_poses(rigid, np.stack([known[v] for v in fixed])) @ G
        for v in fixed:
            G[v] = known[v] @ scaling(float(split_similarity(G[v])[1]))
    return Start(*solve(edges, G, free), root, metric, bool(anchors), problem.polish_rounds)


def _place_group(
    problem: Problem, canonical: Canonical, edges: Edges, group: Sequence[int], start: Start
) -> Placement:
    """Polish one component's start; ``edges`` are those that agree with it."""
    known = problem.known
    pairs = {
        k: start.G[i] @ scaling(canonical.unit[k])
        for k, i in zip(edges.pair.tolist(), edges.i, strict=True)
    }
    movable = np.array([v in group and v not in known for v in range(len(start.G))])
    solution = polish(
        problem.observations,
        Solution(split_similarity(start.G)[0], pairs, np.ones(len(start.G))),
        problem.rays,
        movable,
        problem.focal_hold,
        not start.metric,
        start.polish_rounds,
        pairs_as_wholes=problem.polish_rounds > 0,
    )
    cameras, pairs = solution.T_world_cam, solution.T_world_pair
    looks = solution.T_world_look or {(k, slot): T for k, T in pairs.items() for slot in (0, 1)}
    measured = solution.measured
    if not (start.metric or start.anchored):
        about = _network_scale(cameras, pairs, start.root)
        cameras = split_similarity(about @ cameras)[0]
        pairs = {k: about @ T for k, T in pairs.items()}
        looks = {slot: about @ T for slot, T in looks.items()}
        measured = measured and measured.scaled(float(split_similarity(about)[1]))
    return Placement(
        T_world_cam={v: known.get(v, cameras[v]) for v in group},
        T_world_look=dict(looks),
        agreement={
            v: 1.0 if v in known else float(start.agreement[(edges.i == v) | (edges.j == v)].mean())
            for v in group
        },
        log_scales=tuple(log_scales(np.stack(list(pairs.values()))).tolist()),
        groups=(tuple(group),),
        focal_factor={v: float(solution.focal_factor[v]) for v in group},
        focal_variance={}
        if solution.focal_variance is None
        else {v: x for v in group if np.isfinite(x := float(solution.focal_variance[v]))},
        measured=(measured or _measured(edges, start, cameras, pairs, canonical),)
        if problem.measure
        else (),
    )


def _measured(
    edges: Edges, start: Start, cameras: F64, pairs: dict[int, F64], canonical: Canonical
) -> Relative:
    """What :func:`average` says of the pairs' precision, where it can not: by the pose graph."""
    before = split_similarity(start.G)[1]
    after = np.stack([pairs[k] for k in edges.pair.tolist()])
    growth = log_scales(after) - np.log(before[edges.i] * canonical.unit[edges.pair])
    unit = before[edges.j] * float(np.exp(growth.mean()))  # metres per unit of the views j
    known = information(edges, start.G)
    E = invert(invert(start.G[edges.i]) @ start.G[edges.j]) @ edges.T_i_j
    rigid, scale = split_similarity(E)
    turn = rotation_vectors(rigid[:, :3, :3])
    off = np.concatenate([E[:, :3, 3], turn, np.log(scale)[:, None]], 1)
    square = np.minimum(np.einsum("ea,eab,eb->e", off, known, off), MAX_SQUARE * DOF)
    spare = max(len(edges) + 1 - len(np.unique([edges.i, edges.j])), 0)
    known /= (DOF + square.sum()) / (DOF * (1 + spare))
    known[:, :3] /= unit[:, None, None]
    known[:, :, :3] /= unit[:, None, None]
    T = invert(cameras[edges.i]) @ cameras[edges.j]
    return Relative(edges.i, edges.j, T, np.zeros(len(edges)), known)


def _continued(
    problem: Problem, edges: Edges, group: Sequence[int], free: NDArray[np.bool_]
) -> tuple[F64, F64] | None:
    """Nodes and agreement from the views' earlier poses; None where they no longer fit."""
    known, previous = problem.known, problem.previous
    moving = [v for v in group if v not in known]
    if not moving or any(v not in previous for v in moving):
        return None
    G = np.tile(np.eye(4), (len(free), 1, 1))
    for v in group:
        G[v] = known[v] if v in known else previous[v].T_world_cam
    # The canonical units in the world: from their ratios in each edge, and from the baselines.
    count, rows = len(edges), np.arange(len(edges))
    anchors = [v for v in group if v in problem.metric]
    shown, told = edges.T_i_j, invert(G[edges.i]) @ G[edges.j]
    base = [np.maximum(np.linalg.norm(T[:, :3, 3], axis=1), MIN_BASELINE) for T in (shown, told)]
    A, b = np.zeros((2 * count + len(anchors), len(G))), np.zeros(2 * count + len(anchors))
    A[rows, edges.j], A[rows, edges.i] = 1, -1
    A[np.arange(2 * count, len(A)), anchors] = 1e3
    b[:count] = log_scales(shown)
    A[count + rows, edges.i] = 0.1
    b[count : 2 * count] = 0.1 * np.log(base[1] / base[0])
    unit = np.exp(np.linalg.lstsq(A, b, rcond=None)[0])
    G[:, :3, :3] *= unit[:, None, None]
    G, shares = solve(edges, G, free, rounds=1)
    usual = np.mean([previous[v].agreement for v in moving])
    return (G, shares) if shares.mean() > STILL_AGREEING * usual else None


def _has_baseline(poses: Sequence[F64]) -> bool:
    if len(poses) < 2:
        return False
    centres = np.stack(poses)[:, :3, 3]
    return bool(np.linalg.norm(centres - centres[0], axis=1).max() > MIN_BASELINE)


def _network_scale(cameras: F64, pairs: dict[int, F64], root: int) -> F64:
    """(4, 4) scaling of a group about the root's centre: pairs, on average, keep their unit."""
    factor = float(np.exp(-log_scales(np.stack(list(pairs.values()))).mean()))
    return make_T(np.eye(3), (1 - factor) * cameras[root, :3, 3], factor)
