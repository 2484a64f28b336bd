"""A calibrated rig: the poses are given, exactly; what is left to solve is the pairs' scale.

Every pair has one scale s_e (the network's unit to metres). All evidence is linear in log s_e and
solved together, robustly: the known baseline over the one the pair shows (resection of the second
view among its points; unlike triangulation this ignores a common rotation error), people and
matched pixels triangulated with the known poses (``evidence.py``; they hold even where the network
has the other camera in a wrong place), the ratio of the depths that two pairs give the same view,
and, weakly, that the network was trained to be metric.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from hamst3r.alignment.evidence import (
    Evidence,
    evidence_of_landmarks,
    evidence_of_matches,
    evidence_of_people,
)
from hamst3r.alignment.landmarks import Landmarks
from hamst3r.alignment.observations import Look, Observations
from hamst3r.alignment.placement import Placement, Slot, scaling
from hamst3r.alignment.resection import Resection, resect, weighted_median
from hamst3r.geometry import invert, rotation_angle, transform

F64 = NDArray[np.float64]
MIN_BASELINE = 1e-3
# How weakly the network's own scale holds the solution: on a strange scene it may be far off.
PRIOR_STD = 0.5
# A scale no more open than this needs no more evidence.
ENOUGH_STD = 0.05
# Metres per network unit outside of this is no measurement but a failure.
MIN_SCALE, MAX_SCALE = 0.2, 5.0
# A second view whose own pixels miss its points by more (radians, median) was not recognised.
MAX_RESECTION_ERROR = 0.05
# Relative error of a second view's depths per radian by which its pixels miss.
DEPTH_PER_RESECTION_ERROR = 5.0


@dataclass(frozen=True, eq=False)
class Calibrated:
    """Every look, placed with the known poses.

    Attributes:
        placement: Of all views.
        scale_std: Relative standard deviation of the metric scale; None if the calibration says
            less about it than the network does.
        marks: Per view what keypoints fix in space, if they were asked for.
    """

    placement: Placement
    scale_std: float | None
    marks: Sequence[Landmarks]


def place_calibrated(
    observations: Observations,
    T_world_cam: Mapping[int, F64],
    K: Sequence[F64],
    rays: Sequence[F64],
    network_std: float,
    look: Callable[[], Sequence[Landmarks]] | None = None,
    metric: bool = True,
) -> Calibrated:
    """Place every look with the known poses.

    Args:
        observations: All pairs. T_world_cam: view -> exact pose, of all of them.
        K: Per view (3, 3), of the grid.
        rays: Per view (S, 3), z = 1. network_std: Relative, of the network's own metric scale.
        look: Finds what keypoints fix in space. Asked where the pairs do not show the known
            baselines: a network that does knows depths better than they do.
        metric: Baselines are known in metres. Else the pairs keep the network's scale.
    """
    resected = {
        index: found
        for index, pair in enumerate(observations.pairs)
        if pair.i != pair.j
        and (found := _second_view(pair.second, T_world_cam, pair.i, rays)) is not None
    }
    notes = [
        f"pair {observations.grids[pair.i].name}-{observations.grids[pair.j].name}: "
        "its second view was not recognised"
        for index, pair in enumerate(observations.pairs)
        if pair.i != pair.j and index not in resected
    ]
    depths = _depths(observations, resected)
    ties = _ties(observations, depths, resected)
    evidence: list[Evidence] = []
    if metric:
        evidence += _baseline_evidence(observations, T_world_cam, resected, depths)
    log_scales, std = _solve_scales(evidence, ties, len(observations.pairs), network_std)
    marks: Sequence[Landmarks] = ()
    if look is not None and (std is None or std > ENOUGH_STD):
        marks = look()
        evidence += evidence_of_landmarks(observations, marks)
        log_scales, std = _solve_scales(evidence, ties, len(observations.pairs), network_std)
    # Matching takes longer than all the rest: only where nothing else tells the scale.
    for more, enough in ((evidence_of_people, ENOUGH_STD), (evidence_of_matches, network_std)):
        if metric and (std is None or std > enough):
            evidence += more(observations, T_world_cam, K)
            log_scales, std = _solve_scales(evidence, ties, len(observations.pairs), network_std)
    sane = (log_scales > np.log(MIN_SCALE)) & (log_scales < np.log(MAX_SCALE))
    if not sane.all():
        bad = np.exp(log_scales[~sane])
        notes.append(
            f"{len(bad)} of {len(sane)} pairs need a scale outside [{MIN_SCALE}, {MAX_SCALE}] "
            "to meet the calibration (check units and network); the network's own scale is used"
        )
        log_scales = np.where(sane, log_scales, 0.0)
        if not sane.any():
            std = None
    elif metric and std is None and len(T_world_cam) > 1:
        notes.append("the pairs do not show the known baselines; the scale is the network's")
    looks: dict[Slot, F64] = {}
    for index, pair in enumerate(observations.pairs):
        scale = scaling(float(np.exp(log_scales[index])))
        looks[index, 0] = T_world_cam[pair.i] @ scale
        if pair.i == pair.j:
            looks[index, 1] = looks[index, 0]
        elif index in resected:
            looks[index, 1] = T_world_cam[pair.j] @ scale @ resected[index].T_cam_points
    everyone = range(len(observations.grids))
    placement = Placement(
        T_world_cam=dict(T_world_cam),
        T_world_look=looks,
        agreement=dict.fromkeys(everyone, 1.0),
        log_scales=tuple(log_scales),
        groups=(tuple(everyone),),
        notes=tuple(notes),
    )
    return Calibrated(placement, std, marks)


def _second_view(
    look: Look, T_world_cam: Mapping[int, F64], i: int, rays: Sequence[F64]
) -> Resection | None:
    if not look.usable:
        return None
    start = invert(T_world_cam[look.view]) @ T_world_cam[i]
    found = resect(look.X, rays[look.view], look.w, start=start)
    return found if found is not None and found.error < MAX_RESECTION_ERROR else None


def _depths(
    observations: Observations, resected: dict[int, Resection]
) -> dict[Slot, tuple[F64, F64]]:
    """Depths and weights of the samples, in each look's own camera and the network's unit."""
    depths = {}
    for index, pair in enumerate(observations.pairs):
        for slot, look in enumerate(pair.looks):
            if look.own:
                z = look.X[:, 2]
            elif index in resected:
                z = transform(resected[index].T_cam_points, look.X)[:, 2]
            else:
                continue
            depths[index, slot] = z, np.where(z > 0, look.w, 0)
    return depths


def _baseline_evidence(
    observations: Observations,
    T_world_cam: Mapping[int, F64],
    resected: dict[int, Resection],
    depths: dict[Slot, tuple[F64, F64]],
):
    for index, found in resected.items():
        pair = observations.pairs[index]
        known = invert(T_world_cam[pair.j]) @ T_world_cam[pair.i]
        shown = found.T_cam_points
        lengths = [float(np.linalg.norm(T[:3, 3])) for T in (known, shown)]
        depth = weighted_median(*depths[index, 1])
        if min(lengths) < MIN_BASELINE or not depth > 0:
            continue
        # Compared in camera i, where a rotation error of view j does not enter.
        towards = [invert(T)[:3, 3] for T in (known, shown)]
        cosine = float(towards[0] @ towards[1]) / (lengths[0] * lengths[1])
        if cosine < 0.5:
            continue  # The network has the other camera somewhere else entirely.
        disagreement = np.arccos(min(cosine, 1.0)) + float(rotation_angle(known, shown))
        std = 0.03 + 0.03 * depth / lengths[1] + disagreement + found.error
        yield Evidence(((index, 1.0),), float(np.log(lengths[0] / lengths[1])), std)


def _ties(
    observations: Observations,
    depths: dict[Slot, tuple[F64, F64]],
    resected: dict[int, Resection],
) -> list[Evidence]:
    """Two pairs that see one view give it the same depth."""

    def doubt(slot: Slot) -> float:
        """Relative error of a look's depths; a view's own look has that of the tie's spread."""
        index, second = slot
        found = resected.get(index) if second else None
        return DEPTH_PER_RESECTION_ERROR * found.error if found is not None else 0.0

    at_view: dict[int, list[Slot]] = {}
    for (index, slot), (_, w) in depths.items():
        if (w > 0).any():
            view = observations.pairs[index].looks[slot].view
            at_view.setdefault(view, []).append((index, slot))
    ties = []
    for slots in at_view.values():
        for first, second in pairwise(slots):
            (z_a, w_a), (z_b, w_b) = depths[first], depths[second]
            w = np.sqrt(w_a * w_b)
            if first[0] == second[0] or not (w > 0).any():
                continue
            ratio = np.log(np.where(w > 0, z_b, 1) / np.where(w > 0, z_a, 1))
            middle = weighted_median(ratio, w)
            spread = weighted_median(np.abs(ratio - middle), w)
            std = 0.02 + 0.5 * spread + doubt(first) + doubt(second)
            ties.append(Evidence(((first[0], 1.0), (second[0], -1.0)), middle, std))
    return ties


def _solve_scales(
    baselines: list[Evidence], ties: list[Evidence], pairs: int, network_std: float
) -> tuple[F64, float | None]:
    """Log scale per pair, and the relative standard deviation of the whole.

    The deviation is None where the baselines tell less than the network.
    """
    if pairs == 0 or not baselines:
        return np.zeros(pairs), None
    # One opinion of the network, shared among its pairs.
    prior = [Evidence(((k, 1.0),), 0.0, PRIOR_STD * np.sqrt(pairs)) for k in range(pairs)]
    evidence = [*baselines, *ties, *prior]
    A, b = np.zeros((len(evidence), pairs)), np.zeros(len(evidence))
    for row, item in enumerate(evidence):
        for index, coefficient in item.pairs:
            A[row, index] = coefficient / item.std
        b[row] = item.value / item.std
    start = weighted_median(
        np.array([item.value for item in baselines]), 1 / np.array([e.std for e in baselines])
    )
    solved = least_squares(
        lambda x: A @ x - b,
        np.full(pairs, start),
        jac=lambda x: A.copy(),  # scipy 1.15 scales it in place
        loss="soft_l1",
    )
    log_scales = solved.x
    misfits = np.array([(log_scales[e.pairs[0][0]] - e.value) / e.std for e in baselines])
    stated = float(1 / np.sqrt(np.sum([e.std**-2 for e in baselines])))
    std = stated * max(1.0, float(np.sqrt(np.mean(misfits**2))))
    # Baselines that tell less than the network does are no calibration of the scale.
    return log_scales, std if std < network_std else None
