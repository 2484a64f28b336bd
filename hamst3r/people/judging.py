"""Which fits to believe, and how exactly: what comes with a body's parameters."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import roma
import torch
from torch import Tensor

from hamst3r.people.body import NUM_JOINTS, BodyModel
from hamst3r.people.jacobian import BETAS, POSE, BodyState, Surface, joint_derivatives
from hamst3r.people.normal import NormalEquations
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
        turns = roma.rotmat_to_rotvec(state.rotations[0]).cpu().numpy()
        return BodyFit(
            model=body.name,
            model_sha256=body.sha256,
            betas=state.betas[0].cpu().numpy().astype(np.float32),
            global_orient=turns[0].astype(np.float32),
            body_pose=turns[1:].reshape(-1).astype(np.float32),
            transl=state.transl[0].cpu().numpy().astype(np.float32),
            rmse=float(self.rmse[person]),
            inliers=int(self.inliers[person]),
        )

    def take(self, other: FitResult, people: Tensor) -> FitResult:
        """This result with some people (P,) bool replaced by those of another result."""

        def choose(own: Tensor, theirs: Tensor) -> Tensor:
            return torch.where(people.view(-1, *[1] * (own.dim() - 1)), theirs, own)

        tensors = {n: v for n, v in vars(self).items() if isinstance(v, Tensor)}
        chosen = {name: choose(value, getattr(other, name)) for name, value in tensors.items()}
        state = BodyState(
            choose(self.state.rotations, other.state.rotations),
            choose(self.state.transl, other.state.transl),
            choose(self.state.betas, other.state.betas),
        )
        reasons = tuple(
            theirs if swap else own
            for own, theirs, swap in zip(self.reasons, other.reasons, people.tolist(), strict=True)
        )
        return FitResult(state=state, reasons=reasons, **chosen)


def judge(
    body: BodyModel,
    state: BodyState,
    surface: Surface,
    weights: Tensor,
    noise: Tensor,
    equations: NormalEquations,
    config: JudgeConfig,
) -> FitResult:
    """Of the solution ``state``, near which the ``equations`` were made."""
    joint_std, shape_information = _posterior(body, equations)
    inflation = _inflation(surface, weights, equations, config)
    inside = (weights > 0) & (equations.square < config.inlier_distance**2)
    inliers = inside.sum(1)
    rmse = ((equations.square * inside).sum(1) / inliers.clamp_min(1)).sqrt()
    ratio = (weights * inside).sum(1) / weights.sum(1).clamp_min(1e-9)
    standing = body.v_template[..., 1] + state.betas @ body.shapedirs[:, 1].T
    height = standing.amax(1) - standing.amin(1)
    parts = torch.zeros(len(state), NUM_JOINTS).scatter_add_(1, surface.part, inside.float())
    measured = zip(
        (weights > 0).sum(1).tolist(),
        ratio.tolist(),
        (parts >= 3).sum(1).tolist(),
        height.tolist(),
        state.betas.abs().amax(1).tolist(),
        strict=True,
    )
    return FitResult(
        state=state,
        joints=body.skeleton(state.rotations, state.transl, state.betas)[1],
        joint_std=joint_std * inflation,
        shape_information=shape_information,
        pose_information=equations.hessian[:, POSE, POSE] / inflation[..., None] ** 2,
        noise=noise[:, 0],
        rmse=rmse,
        inliers=inliers,
        inlier_ratio=ratio,
        height=height,
        flipped=torch.zeros(len(state), dtype=torch.bool),
        reasons=tuple(_reason(config, *values) for values in measured),
    )


def _posterior(body: BodyModel, equations: NormalEquations) -> tuple[Tensor, Tensor]:
    """Deviations of the joints (P, 24) and information of the betas (P, B, B)."""
    # Products summed in float32 leave directions without evidence slightly negative: the load
    # is relative, above that rounding and far below what any evidence says.
    hessian = equations.hessian
    diagonal = hessian.diagonal(dim1=1, dim2=2)
    factor = torch.linalg.cholesky(hessian + torch.diag_embed(1e-4 * diagonal + 1e-6))
    covariance = torch.cholesky_inverse(factor)
    joints = joint_derivatives(body, equations.line).flatten(1, 2).double()
    spread = ((joints @ covariance) * joints).sum(-1).unflatten(1, (NUM_JOINTS, 3))
    information = torch.linalg.inv(covariance[:, BETAS, BETAS])
    std = spread.mean(-1).clamp_min(0).sqrt()
    return std.float(), (information + information.mT) / 2


def _inflation(
    surface: Surface, weights: Tensor, equations: NormalEquations, config: JudgeConfig
) -> Tensor:
    """(P, 1) factor of the posterior's deviations."""
    share = weights * equations.believed
    share = share / share.sum(1, keepdim=True).clamp_min(1e-9)
    axes = equations.line.turn_surface(surface)
    normals = (axes @ surface.normals[..., None])[..., 0]
    across = (normals * equations.residual).sum(-1).square() / normals.square().sum(-1)
    whole = (share * equations.square).sum(1, keepdim=True)
    across = (share * across).sum(1, keepdim=True)
    slip = (whole - across) / 2 - across  # variance along the surface, per axis, beyond across
    excess = slip.clamp_min(0) / (whole / 3).clamp_min(1e-9)
    return config.inflation * (1 + config.slip_inflation * excess).sqrt()


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
