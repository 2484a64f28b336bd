"""Which fits to believe, and how exactly: what comes with a body's parameters."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import lapack
from torch import Tensor

from hamst3r.geometry import rotation_vectors
from hamst3r.people.body import NUM_JOINTS, BodyModel
from hamst3r.people.kinematics import (
    BETAS,
    F32,
    POSE,
    Line,
    Pose,
    Rig,
    Surface,
    skeleton,
)
from hamst3r.people.normal import F64, NormalEquations
from hamst3r.people.state import BodyState
from hamst3r.scene import BodyFit


@dataclass(frozen=True)
class JudgeConfig:
    """Which fits to believe. Metres.

    Attributes:
        inflation: Posterior deviations are multiplied by this, and
        slip_inflation: more where points are off along the surface rather than across it, which
            is a doubt about places on the body and pulls all limbs alike: the root of 1 + this x
            (variance along - variance across) / variance. Both are calibrated on simulated
            points so that 68 % of the errors lie within one deviation (benchmarks/fitting.py).
        inlier_distance: A point this near its vertex supports the fit.
        min_points: Fewer usable points: no fit.
        min_inlier_ratio: Smallest weighted share of inliers.
        min_parts: Smallest number of the 24 body parts with inliers.
        min_height, max_height: Of the standing body.
        believable_shape: Largest |beta| of a believed fit.
    """

    inflation: float = 1.03
    slip_inflation: float = 2.5
    inlier_distance: float = 0.10
    min_points: int = 150
    min_inlier_ratio: float = 0.4
    min_parts: int = 7
    min_height: float = 0.6
    max_height: float = 2.3
    believable_shape: float = 3.5


@dataclass(frozen=True, eq=False)
class FitResult:
    """Fitted bodies of P people.

    Attributes:
        state: Parameters; pass them as ``start`` of the next frame.
        joints: (P, 24, 3) metres, world. joint_std: (P, 24) one deviation per axis, calibrated.
        shape_information: (P, 10, 10) float64, posterior information of the betas (pose
            marginalised out); with ``state.betas`` it is the next frame's ``ShapePrior``.
        pose_information: (P, 75, 75) float64, information of rotations (increments in the world's
            axes) and translation where the betas are held.
        noise: (P,) metres, deviation per axis of the points that are believed.
        rmse: (P,) metres, of the inliers. inliers: (P,) int64. inlier_ratio: (P,), weighted.
        height: (P,) metres, of the standing body.
        flipped: (P,) whether the points' left and right were exchanged as a whole.
        reasons: Per person "" where the fit is to be believed, else why not.
    """

    state: BodyState
    joints: Tensor
    joint_std: Tensor
    shape_information: Tensor
    pose_information: Tensor
    noise: Tensor
    rmse: Tensor
    inliers: Tensor
    inlier_ratio: Tensor
    height: Tensor
    flipped: Tensor
    reasons: tuple[str, ...]

    def body_fit(
        self, body: BodyModel, person: int, state: BodyState | None = None
    ) -> BodyFit | None:
        """One person's parameters for the scene; None where the fit is not to be believed.

        Args:
            state: Of this person alone, in place of the fitted one.
        """
        if self.reasons[person]:
            return None
        state = state or self.state.person(person)
        return body_fit(body, state, float(self.rmse[person]), int(self.inliers[person]))

    def replaced(self, other: FitResult, chosen: Tensor, people: NDArray[np.int64]) -> FitResult:
        """This result with some people replaced by those of another result.

        Args:
            other: Of Q people. chosen: (Q,) bool, whom to take from it. people: (Q,) whose places
                they take here.
        """
        places = torch.from_numpy(people)[chosen]

        def put(own: Tensor, theirs: Tensor) -> Tensor:
            return own.index_copy(0, places, theirs[chosen])

        tensors = {n: v for n, v in vars(self).items() if isinstance(v, Tensor)}
        changed = {name: put(value, getattr(other, name)) for name, value in tensors.items()}
        state = BodyState(
            put(self.state.rotations, other.state.rotations),
            put(self.state.transl, other.state.transl),
            put(self.state.betas, other.state.betas),
        )
        reasons = list(self.reasons)
        for row in torch.nonzero(chosen)[:, 0].tolist():
            reasons[people[row]] = other.reasons[row]
        return FitResult(state=state, reasons=tuple(reasons), **changed)


def body_fit(
    body: BodyModel, state: BodyState, rmse: float, inliers: int, facing: float = 1.0
) -> BodyFit:
    """The parameters of one person for the scene."""
    turns = rotation_vectors(state.rotations[0].double().cpu().numpy())
    return BodyFit(
        model=body.name,
        model_sha256=body.sha256,
        betas=state.betas[0].cpu().numpy().astype(np.float32),
        global_orient=turns[0].astype(np.float32),
        body_pose=turns[1:].reshape(-1).astype(np.float32),
        transl=state.transl[0].cpu().numpy().astype(np.float32),
        rmse=rmse,
        inliers=inliers,
        facing=facing,
    )


def judge(
    pose: Pose,
    surface: Surface,
    weights: F32,
    noise: F32,
    equations: NormalEquations,
    config: JudgeConfig,
) -> FitResult:
    """Of the solution ``pose``, near which the ``equations`` were made."""
    rig, count = surface.rig, len(pose)
    joint_std, shape_information = posterior(rig, equations.line, equations.hessian)
    inflation = _inflation(surface, weights, equations, config)
    usable = weights > 0
    inside = usable & (equations.square < config.inlier_distance**2)
    inliers = inside.sum(1)
    rmse = np.sqrt((equations.square * inside).sum(1) / np.maximum(inliers, 1))
    ratio = (weights * inside).sum(1) / np.maximum(weights.sum(1), 1e-9)
    height = np.ptp(rig.template[:, 1] + pose.betas @ rig.heights, axis=1)
    person = np.arange(count)[:, None] * NUM_JOINTS
    seen = (person + rig.part[surface.vertices])[inside]
    parts = np.bincount(seen, minlength=count * NUM_JOINTS).reshape(count, NUM_JOINTS)
    measured = zip(
        usable.sum(1).tolist(),
        ratio.tolist(),
        (parts >= 3).sum(1).tolist(),
        height.tolist(),
        np.abs(pose.betas).max(1).tolist(),
        strict=True,
    )
    information = equations.hessian[:, POSE, POSE] / (inflation**2)[..., None]
    return FitResult(
        state=BodyState.of(pose),
        joints=torch.from_numpy(skeleton(rig, pose)[1]),
        joint_std=torch.from_numpy((joint_std * inflation).astype(np.float32)),
        shape_information=torch.from_numpy(shape_information),
        pose_information=torch.from_numpy(information),
        noise=torch.from_numpy(noise[:, 0]),
        rmse=torch.from_numpy(rmse.astype(np.float32)),
        inliers=torch.from_numpy(inliers),
        inlier_ratio=torch.from_numpy(ratio.astype(np.float32)),
        height=torch.from_numpy(height),
        flipped=torch.zeros(count, dtype=torch.bool),
        reasons=tuple(_reason(config, *values) for values in measured),
    )


def posterior(rig: Rig, line: Line, hessian: F64) -> tuple[F64, F64]:
    """Deviations of the joints (P, 24) in metres and information of the betas (P, B, B).

    Args:
        line: The bones where the information ``hessian`` (P, D, D) holds.
    """
    # Products summed in float32 leave directions without evidence slightly negative: the load
    # is relative, above that rounding and far below what any evidence says.
    loaded = hessian.copy()
    axes = np.arange(loaded.shape[-1])
    loaded[:, axes, axes] *= 1 + 1e-4
    loaded[:, axes, axes] += 1e-6
    joints = line.joint_derivatives(rig)
    joints = joints.reshape(len(loaded), 3 * NUM_JOINTS, loaded.shape[-1])
    std = np.empty((len(loaded), NUM_JOINTS))
    information = np.empty((len(loaded), rig.num_betas, rig.num_betas))
    for person, own_hessian in enumerate(loaded):
        lower, failed = lapack.dpotrf(own_hessian, lower=1)
        if failed:
            raise np.linalg.LinAlgError(f"the information of person {person} is not definite")
        # J H^-1 J^T = |L^-1 J^T|^2, and the betas, last, are what is left of L by themselves.
        spread = lapack.dtrtrs(lower, joints[person].T, lower=1)[0]
        variance = np.einsum("dn,dn->n", spread, spread).reshape(NUM_JOINTS, 3)
        std[person] = np.sqrt(variance.mean(1))
        own = np.tril(lower[BETAS, BETAS])
        information[person] = own @ own.T
    return std, information


def _inflation(
    surface: Surface, weights: F32, equations: NormalEquations, config: JudgeConfig
) -> F32:
    """(P, 1) factor of the posterior's deviations."""
    share = weights * equations.believed
    share = share / np.maximum(share.sum(1, keepdims=True), 1e-9)
    normals = np.ascontiguousarray(surface.rig.normals[surface.vertices].swapaxes(1, 2))
    normals = np.einsum("pcan,pan->pcn", equations.line.turn_surface(surface), normals)
    across = np.einsum("pcn,pcn->pn", normals, equations.residual) ** 2
    across /= np.einsum("pcn,pcn->pn", normals, normals)
    whole = (share * equations.square).sum(1, keepdims=True)
    across = (share * across).sum(1, keepdims=True)
    slip = (whole - across) / 2 - across  # variance along the surface, per axis, beyond across
    excess = np.maximum(slip, 0) / np.maximum(whole / 3, 1e-9)
    return config.inflation * np.sqrt(1 + config.slip_inflation * excess)


def _reason(
    config: JudgeConfig, points: int, ratio: float, parts: int, height: float, shape: float
) -> str:
    if points < config.min_points:
        return f"{points} points, {config.min_points} needed"
    if ratio < config.min_inlier_ratio:
        return f"{ratio:.0%} of the points agree, {config.min_inlier_ratio:.0%} needed"
    if parts < config.min_parts:
        return f"{parts} body parts seen, {config.min_parts} needed"
    if not config.min_height <= height <= config.max_height:
        return f"a height of {height:.2f} m"
    if shape > config.believable_shape:
        return f"a shape {shape:.1f} deviations off the mean"
    return ""
