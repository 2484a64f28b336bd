"""What comes with the frames, and how sure it is, fused with what the pairs say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from hamst3r.alignment.factors import (
    DOF,
    ROBUST,
    Absolute,
    Factor,
    Level,
    Metric,
    Nodes,
    Relative,
    pose_information,
)
from hamst3r.alignment.fusing import fuse
from hamst3r.alignment.observations import Observations
from hamst3r.alignment.placement import Placement, fit_poses, scaling
from hamst3r.frames import Frame
from hamst3r.geometry import invert, split_similarity

F64 = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Uncertain:
    """A pose T_rig_cam (4, 4) and its covariance (6, 6), as in :class:`hamst3r.frames.Frame`."""

    T: F64
    covariance: F64


def exact_poses(frames: Sequence[Frame]) -> dict[int, F64]:
    """view -> T_rig_cam, of those that are to be taken as they are."""
    return {
        v: f.T_rig_cam for v, f in enumerate(frames) if f.T_rig_cam is not None and f.pose_is_exact
    }


def uncertain_poses(frames: Sequence[Frame]) -> dict[int, Uncertain]:
    """view -> pose, of those that are known with a covariance."""
    return {
        v: Uncertain(f.T_rig_cam, f.T_rig_cam_covariance)
        for v, f in enumerate(frames)
        if f.T_rig_cam is not None and f.T_rig_cam_covariance is not None and not f.pose_is_exact
    }


def gravity_factors(frames: Sequence[Frame], views: Sequence[int]) -> list[Level]:
    """Which way is up, of the views that were told."""
    told = [v for v in views if frames[v].gravity is not None]
    if not told:
        return []
    down = np.stack([np.asarray(frames[v].gravity, float) for v in told])
    up = -down / np.linalg.norm(down, axis=1, keepdims=True)
    return [Level(np.array(told), up, np.array([frames[v].gravity_std for v in told]))]


@dataclass(frozen=True, eq=False)
class Knowledge:
    """What is known apart from the pairs.

    Attributes:
        exact, uncertain: view -> pose in the rig's frame. frames: Of all views.
        network_std: Relative, of the network's own metric scale.
        seen: view -> frame sets that its solved pose is the mean of.
    """

    exact: Mapping[int, F64]
    uncertain: Mapping[int, Uncertain]
    frames: Sequence[Frame]
    network_std: float
    seen: Mapping[int, int]


def fuse_priors(
    observations: Observations, placement: Placement, knowledge: Knowledge
) -> tuple[Placement, float]:
    """Move the cameras to where the pairs and the uncertain poses together want them.

    Args:
        placement: Solved with exact poses held, and with what the pairs know (``measured``).

    Returns:
        The placement in the rig's frame, of all known cameras at least, and the relative standard
        deviation of its scale: the network's where no pairs fit.
    """
    exact, uncertain = knowledge.exact, knowledge.uncertain
    cameras, looks = dict(placement.T_world_cam), dict(placement.T_world_look)
    growth: dict[int, float] = {}
    for group in placement.groups:
        told = [v for v in group if v in uncertain]
        if not told and not any(v in exact for v in group):
            continue
        T = np.eye(4)
        if not any(v in exact for v in group):
            # Roughly; the factors do it well.
            T = fit_poses(
                np.stack([cameras[v] for v in told]), np.stack([uncertain[v].T for v in told])
            )
        cameras |= {v: split_similarity(T @ cameras[v])[0] for v in group}
        growth |= dict.fromkeys(group, float(split_similarity(T)[1]))
        looks |= {slot: T @ looks[slot] for slot in looks if observations.viewer(slot) in group}
    for v, prior in uncertain.items():
        cameras.setdefault(v, prior.T)
    views = sorted(cameras)
    count = len(observations.grids)
    before = np.tile(np.eye(4), (count, 1, 1))
    before[views] = np.stack([cameras[v] for v in views])
    free = np.isin(np.arange(count), views) & ~np.isin(np.arange(count), list(exact))
    # Of poses that are means of several frame sets the pairs know as much as of so many.
    seen = np.array([knowledge.seen.get(v, 1) for v in range(count)])
    measured: list[Factor] = [
        _believable(
            replace(m, T_i_j=invert(before[m.i]) @ before[m.j]).weighted(
                np.minimum(seen[m.i], seen[m.j])
            ),
            knowledge,
            count,
        )
        for m in (
            m.scaled(growth[int(m.i[0])]) for m in placement.measured if int(m.i[0]) in growth
        )
    ]
    solved = np.array(sorted(growth), int)
    fused = fuse(
        Nodes.at(before),
        [
            *measured,
            *_prior_factors(knowledge, views),
            _network_scale(placement, growth, knowledge),
        ],
        free,
    )
    after = fused.nodes
    correction = {
        v: after.T[v] @ scaling(float(np.exp(after.log_scale[v]))) @ invert(before[v])
        for v in views
    }
    looks = {slot: correction[observations.viewer(slot)] @ T for slot, T in looks.items()}
    placed = {v: exact.get(v, after.T[v]) for v in views}
    for v in set(uncertain) - {v for group in placement.groups for v in group}:
        # No pair ties it to others: what it shows itself, as large as the network means it.
        looks |= {(look.edge, look.slot): placed[v] for look in observations.own_looks(v)}
    std = fused.scale_std(solved) if len(solved) else knowledge.network_std
    return replace(placement, T_world_cam=placed, T_world_look=looks), std


def _believable(measured: Relative, knowledge: Knowledge, count: int) -> Relative:
    """Less sure where pairs contradict known poses by more than both admit."""
    T = np.tile(np.eye(4), (count, 1, 1))
    spread = np.zeros((count, DOF, DOF))
    for v, prior in knowledge.uncertain.items():
        T[v] = prior.T
        information = pose_information(prior.T, prior.covariance)
        spread[v, :6, :6] = np.linalg.inv(information)
    for v, pose in knowledge.exact.items():
        T[v] = pose
    told = np.isin(np.arange(count), [*knowledge.uncertain, *knowledge.exact])
    spread[:, 6, 6] = knowledge.network_std**2
    nodes = Nodes.at(T)
    J_i, J_j = measured.jacobians(nodes)
    covariance = np.linalg.inv(measured.information)
    for J, at in ((J_i, measured.i), (J_j, measured.j)):
        covariance += J @ spread[at] @ J.transpose(0, 2, 1)
    off = measured.residuals(nodes)
    square = np.einsum("fa,fab,fb->f", off, np.linalg.inv(covariance), off) / DOF
    judged = told[measured.i] & told[measured.j]
    return measured.weighted(np.where(judged, np.maximum(1, square / ROBUST) ** -2.0, 1.0))


def _prior_factors(knowledge: Knowledge, views: Sequence[int]) -> list[Factor]:
    told = sorted(knowledge.uncertain)
    poses = [knowledge.uncertain[v] for v in told]
    information = np.stack([pose_information(p.T, p.covariance) for p in poses])
    known = Absolute(np.array(told), np.stack([p.T for p in poses]), information)
    return [known, *gravity_factors(knowledge.frames, views)]


def _network_scale(
    placement: Placement, growth: Mapping[int, float], knowledge: Knowledge
) -> Metric:
    """The network means the mean of its pairs to be metric: one opinion, shared by the views."""
    views = np.array(sorted(growth), int)
    own = float(np.mean(placement.log_scales)) if placement.log_scales else 0.0
    log = np.array([-own - np.log(growth[v]) for v in views.tolist()])
    return Metric(views, log, np.full(len(views), knowledge.network_std * len(views) ** 0.5))
