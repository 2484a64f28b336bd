"""Pairs as witnesses of whole poses: pixels of a pair err alike, so a pair counts as one.

The polish treats pixels as if each erred on its own. A network also errs about a pair as a whole:
where its second camera is, how long its lens is. So each view is found again in each pair that
shows it (resection, from the polished solution): that makes of every pair one relative pose and
one ratio of scales, and of every look one focal length. They are averaged robustly, with variances
that their disagreement shows (variance components, as geodesy has them): nothing is assumed of how
errors divide into turns, shifts and scales.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from hamst3r.alignment.factors import (
    DOF,
    ROBUST,
    Absolute,
    Factor,
    Metric,
    Nodes,
    Relative,
    adjoint,
)
from hamst3r.alignment.fusing import stepped
from hamst3r.alignment.intrinsics import FocalHold
from hamst3r.alignment.looks import FLOOR, NEAREST, Looks, rigid_steps
from hamst3r.alignment.similarity import apply
from hamst3r.geometry import invert, split_similarity

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
# Neighbouring pixels err alike: a look is worth this many independent ones.
INDEPENDENT = 30.0
# Standard deviations of a pair's translation (over its length), rotation (radians) and log ratio
# of scales, and of a look's log focal length, before any pair was seen; worth one pair.
USUAL = np.array([0.01, 0.01, 0.01])
USUAL_FOCAL = 0.01
WORTH = 1.0
# Of a usual variance, the least that is believed.
LEAST = 0.05
ROUNDS, STEPS, MAX_STEP = 2, 2, 0.2
PINNED, SCALE_HOLD = 1e-6, 0.1
# An error in pose turns the second camera about a point so far ahead, over the depth of what it
# sees: 0 = itself, 1 = the scene. Which, the pairs show; so much before, and never more than:
LEVER, MAX_LEVER = 0.5, 1.5
# A baseline's error does not vanish with it: this share of the depth counts as baseline.
DEPTH_SHARE = 0.1


@dataclass(frozen=True, eq=False)
class Averaged:
    """What the pairs agree on.

    Attributes:
        T_world_cam: (N, 4, 4) rigid. T_world_look: (L, 4, 4) similarities.
        focal: (N,) what multiplies the focal lengths. focal_variance: (N,) of its log, as far as
            the pairs alone tell it; infinite where they do not.
        measured: The result as the pairs' measurement, as precise as they agree.
    """

    T_world_cam: F64
    T_world_look: F64
    focal: F64
    focal_variance: F64
    measured: Relative


def average(
    looks: Looks,
    cameras: F64,
    pairs: F64,
    depth: F32,
    free: NDArray[np.bool_],
    focal_hold: FocalHold,
    log_focal: F64,
) -> Averaged | None:
    """Average what the pairs say of cameras and focal lengths.

    Args:
        looks: Of pairs that agree with the solution.
        cameras: (N, 4, 4), pairs: (P, 4, 4), depth: (N, S): the polished solution.
        free: (N,) cameras that may move. focal_hold: (N,) as in the polish.
        log_focal: (N,) log of what has multiplied the focal lengths so far.

    Returns:
        None where the views cannot be found in the pairs well enough to say anything.
    """
    start = invert(cameras)[looks.view] @ pairs[looks.pair]
    found = _resected(looks, start, depth)
    focal, focal_variance = _focals(looks, found, focal_hold, log_focal)
    T, covariance = found.with_focal(np.log(focal)[looks.view])
    log_ratio = _log_depth_ratios(looks, T, depth)
    known = np.isfinite(covariance).all((1, 2)) & np.isfinite(log_ratio)
    first, second = looks.ends
    usable = np.flatnonzero(known[first] & known[second])
    first, second = first[usable], second[usable]
    seen = np.isin(np.arange(len(cameras)), looks.view)
    told = np.isin(np.arange(len(cameras)), looks.view[[*first, *second]])
    if (seen & free & ~told).any() or not told.any():
        return None
    pairs_say = _pairs(looks, T, covariance, log_ratio, depth, first, second)
    nodes, information = _solved(pairs_say, cameras, free & told)
    grown = np.tile(np.eye(4), (len(T), 1, 1))
    log = np.where(known, log_ratio, 0) + nodes.log_scale[looks.view]
    grown[:, :3, :3] *= np.exp(log)[:, None, None]
    i, j = pairs_say.measured.i, pairs_say.measured.j
    agreed = Relative(i, j, invert(nodes.T[i]) @ nodes.T[j], np.zeros(len(i)), information)
    return Averaged(nodes.T, nodes.T[looks.view] @ grown @ T, focal, focal_variance, agreed)


@dataclass(frozen=True, eq=False)
class _Resected:
    """Where each view is in each look, and how long its lens is there, by reprojection alone.

    Attributes:
        T: (L, 4, 4) similarities from the looks' points to their views. log_focal: (L,).
        information: (L, 7, 7) of a step from the left and of the log focal length, for unit noise.
        noise: (L,) its variance, NaN where a look says nothing.
    """

    T: F64
    log_focal: F64
    information: F64
    noise: F64

    @property
    def focal_variance(self) -> F64:
        """(L,)"""
        variance: F64 = self.noise * np.linalg.inv(self.information)[:, 6, 6]
        return variance

    def with_focal(self, log_focal: F64) -> tuple[F64, F64]:
        """T for these log focal lengths (L,), and (L, 7, 7) covariances, of the pose alone."""
        inverse = np.linalg.inv(self.information[:, :6, :6])
        coupling = (inverse @ self.information[:, :6, 6:])[..., 0]
        step = _bounded(coupling * (self.log_focal - log_focal)[:, None])
        covariance = np.zeros((len(step), DOF, DOF))
        covariance[:, :6, :6] = self.noise[:, None, None] * inverse
        return rigid_steps(step) @ self.T, covariance


def _bounded(step: F64) -> F64:
    """Steps (L, 6 or 7) that a linearisation allows."""
    step = np.where(np.isfinite(step).all(axis=1, keepdims=True), step, 0)
    largest = np.maximum(np.abs(step[:, 3:]).max(1), MAX_STEP)
    bounded: F64 = step * (MAX_STEP / largest)[:, None]
    return bounded


def _focals(
    looks: Looks, found: _Resected, focal_hold: FocalHold, log_focal: F64
) -> tuple[F64, F64]:
    """(N,) factors, and variances of what the looks say: as sure as those of their kind agree.

    A look's kind is whether it is in the view's own axes.
    """
    log, variance = found.log_focal, found.focal_variance
    use = np.isfinite(variance)
    information, agreement = np.zeros((2, len(log)))
    for kind in (looks.own, ~looks.own):
        of_kind = use & kind
        if not of_kind.any():
            continue
        mean = looks.per_view(of_kind * log) / np.maximum(looks.per_view(of_kind * 1.0), 1)
        square = (log - mean[looks.view])[of_kind] ** 2
        views = len(np.unique(looks.view[of_kind]))
        shared = (square.sum() + WORTH * USUAL_FOCAL**2) / (len(square) - views + WORTH)
        information[of_kind] = 1 / (shared + variance[of_kind])
        agreement[of_kind] = 1 / shared  # which has the variances of these looks in it
    total = looks.per_view(information)
    mean = looks.per_view(information * np.where(use, log, 0)) / np.where(total > 0, total, 1)
    told = total > 0
    spread = np.where(told, 1 / np.where(told, looks.per_view(agreement), 1), np.inf)
    weight, held = focal_hold.besides(np.where(told, spread, 0))
    agreed = (mean + log_focal + weight * held) / (1 + weight)
    factor: F64 = np.exp(np.where(focal_hold.free & told, agreed - log_focal, 0))
    return factor, spread


def _resected(looks: Looks, T: F64, depth: F32) -> _Resected:
    """Find the views again, from where they are roughly: T (L, 4, 4)."""
    eye = np.eye(DOF)
    log_focal = np.zeros(len(T))
    for _ in range(STEPS):
        H, g, square, total = looks.normal(apply(T, looks.X), depth, np.exp(log_focal))
        total = np.where(total > 0, total, np.nan)
        H /= total[:, None, None]
        H += (1e-9 * np.trace(H, axis1=1, axis2=2)[:, None, None] + 1e-12) * eye
        H = np.where(np.isfinite(H), H, eye)
        step = _bounded(np.linalg.solve(H, -g[..., None])[..., 0] / total[:, None])
        T = rigid_steps(step) @ T
        log_focal += step[:, 6]
    return _Resected(T, log_focal, H, square / total / INDEPENDENT)


def _log_depth_ratios(looks: Looks, T: F64, depth: F32) -> F64:
    """(L,) log of what multiplies each look's depths to be those of its view; NaN unknown."""
    z = apply(T, looks.X)[:, 2]
    there = depth[looks.view]
    use = (z > NEAREST) & (there > NEAREST)
    log = np.log(np.where(use, there, 1) / np.where(use, z, 1))
    w = looks.w * use
    ratio = np.zeros(len(T))
    for _ in range(2):
        robust = w / np.maximum(np.abs(log - ratio[:, None]), FLOOR)
        total = robust.sum(1, dtype=float)
        ratio = (robust * log).sum(1, dtype=float) / np.where(total > 0, total, np.nan)
    return ratio


@dataclass(frozen=True, eq=False)
class _Pairs:
    """What E pairs say as wholes.

    Attributes:
        measured: Relative poses, in the unit of the first view's depths.
        resected: (E, 7, 7) covariances of resection, of a step of the second view.
        unit: (E,) what errors of translations are relative to.
        ahead: (E,) how far the second view's points are, on the whole.
    """

    measured: Relative
    resected: F64
    unit: F64
    ahead: F64


def _pairs(
    looks: Looks,
    T: F64,
    covariance: F64,
    log_ratio: F64,
    depth: F32,
    first: NDArray[np.intp],
    second: NDArray[np.intp],
) -> _Pairs:
    i, j = looks.view[first], looks.view[second]
    T_i_j = split_similarity(T[first] @ invert(T[second]))[0]
    T_i_j[:, :3, 3] *= np.exp(log_ratio[first])[:, None]
    turn = adjoint(invert(T_i_j))
    resected = covariance[second] + turn @ covariance[first] @ turn.transpose(0, 2, 1)
    ahead = np.array([np.median(d[d > 0]) if (d > 0).any() else 1.0 for d in depth])[j]
    unit = np.linalg.norm(T_i_j[:, :3, 3], axis=1) + DEPTH_SHARE * ahead
    anything = np.tile(np.eye(DOF), (len(first), 1, 1))
    ratio = log_ratio[first] - log_ratio[second]
    measured = Relative(i, j, T_i_j, ratio, anything, robust=True)
    return _Pairs(measured, resected, unit, ahead)


def _solved(pairs: _Pairs, cameras: F64, free: NDArray[np.bool_]) -> tuple[Nodes, F64]:
    """Nodes that agree best with the pairs, and the pairs' (E, 7, 7) information: as they agree."""
    measured, nodes = pairs.measured, Nodes.at(cameras)
    views = np.unique([measured.i, measured.j])
    pinned = views[~free[views]]
    pinned = pinned if len(pinned) else views[:1]
    gauge: list[Factor] = [
        Absolute(pinned, cameras[pinned], np.tile(np.eye(6) / PINNED**2, (len(pinned), 1, 1))),
        Metric(views[:1], np.zeros(1), np.full(1, SCALE_HOLD)),
    ]
    count = len(measured)
    # As many of the pairs' errors are seen as are not used up by placing the views.
    seen = (count - (len(views) - 1)) / count
    usual, lever, square = USUAL, LEVER, np.zeros(count)
    for _ in range(ROUNDS):
        spread = np.repeat(np.tile(usual, (count, 1)), [3, 3, 1], axis=1)
        spread[:, :3] *= pairs.unit[:, None]
        about = _about(lever * pairs.ahead)
        covariance = pairs.resected + (about * spread[:, None] ** 2) @ about.transpose(0, 2, 1)
        measured = replace(measured, information=np.linalg.inv(covariance))
        nodes, _ = stepped(nodes, [measured, *gauge], views)
        off = measured.residuals(nodes)
        square = np.einsum("ea,eab,eb->e", off, measured.information, off) / DOF
        weight = 1 / (1 + square / ROBUST) ** 2
        lever = _lever(off, weight / pairs.unit**2, pairs.ahead)
        back = _about(-lever * pairs.ahead)
        off = (back @ off[..., None])[..., 0] ** 2
        off -= np.einsum("eab,ebc,eac->ea", back, pairs.resected, back)
        off[:, :3] /= pairs.unit[:, None] ** 2
        excess = np.add.reduceat(weight @ off, [0, 3, 6]) / [3, 3, 1]
        variance = (excess + WORTH * USUAL**2) / (seen * weight.sum() + WORTH)
        usual = np.sqrt(np.maximum(variance, LEAST * USUAL**2))
    outlying = np.maximum(1, square / ROBUST)
    return nodes, measured.weighted(outlying**-2).information


def _lever(off: F64, weight: F64, ahead: F64) -> float:
    """How far ahead, over ``ahead``, the point is about which steps (E, 7) turn a camera."""
    across = np.stack([-off[:, 4], off[:, 3]], 1) * ahead[:, None]
    little = WORTH * USUAL[0] ** 2
    with_shift = weight @ (across * off[:, :2]).sum(1) + LEVER * little
    return float(np.clip(with_shift / (weight @ (across**2).sum(1) + little), 0, MAX_LEVER))


def _about(z: F64) -> F64:
    """(E, 7, 7) from a shift and a turn at the points (0, 0, z) to the camera's own."""
    A = np.tile(np.eye(DOF), (len(z), 1, 1))
    A[:, 0, 4], A[:, 1, 3] = -z, z
    return A
