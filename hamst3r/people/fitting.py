"""Body parameters from 3D points whose place on the body is known.

A closed-form start (``start.py``) is refined by robust Gauss-Newton: the Geman-McClure loss of the
distances between points and their vertices, the pose prior of ``prior.py`` and a Gaussian prior of
the betas. Derivatives are exact (``jacobian.py``), people are solved in one batch, and a previous
result warm-starts the next frame.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import roma
import torch
from torch import Tensor

from hamst3r.people.body import NUM_JOINTS, BodyModel
from hamst3r.people.jacobian import BETAS, ROTATIONS, TRANSLATION, BodyState, linearize
from hamst3r.people.prior import pose_prior
from hamst3r.people.start import analytic_start
from hamst3r.scene import BodyFit


@dataclass(frozen=True)
class FitConfig:
    """How to fit, and which fits to believe. Metres and radians.

    Attributes:
        cold_iterations, warm_iterations: Gauss-Newton steps without and with a previous result.
        cold_scale, scale: Width of the robust loss, at first and in the end.
        point_std: Assumed noise of a point.
        effective_points: Points of one person are correlated: together they count as this many.
        max_turn, max_shift, max_shape: Longest step of a joint, the translation, a beta.
        shape_limit: Betas stay within +- this.
        std_inflation: Posterior deviations are multiplied by this. Correlated errors of
            correspondences made the bare posterior 2.5 times too sure in our simulations.
        inlier_distance: A point this near its vertex supports the fit.
        min_points: Fewer usable points: no fit.
        min_inlier_ratio: Smallest weighted share of inliers.
        min_parts: Smallest number of the 24 body parts with inliers.
        min_height, max_height: Of the standing body.
        believable_shape: Largest |beta| of a believed fit.
    """

    cold_iterations: int = 10
    warm_iterations: int = 3
    cold_scale: float = 0.25
    scale: float = 0.09
    point_std: float = 0.025
    effective_points: float = 400.0
    max_turn: float = 0.7
    max_shift: float = 0.5
    max_shape: float = 1.5
    shape_limit: float = 4.0
    std_inflation: float = 2.5
    inlier_distance: float = 0.10
    min_points: int = 150
    min_inlier_ratio: float = 0.4
    min_parts: int = 7
    min_height: float = 0.6
    max_height: float = 2.3
    believable_shape: float = 3.5


@dataclass(frozen=True, eq=False)
class ShapePrior:
    """What earlier frames say of the betas: mean (P, 10) and information (P, 10, 10) float64."""

    mean: Tensor
    information: Tensor

    @staticmethod
    def standard(count: int, num_betas: int = 10) -> ShapePrior:
        """The population: zero mean, unit variance."""
        eye = torch.eye(num_betas, dtype=torch.float64)
        return ShapePrior(torch.zeros(count, num_betas), eye.repeat(count, 1, 1))


@dataclass(frozen=True, eq=False)
class FitResult:
    """Fitted bodies of P people.

    Attributes:
        state: Parameters; pass them as ``start`` of the next frame.
        joints: (P, 24, 3) metres, world. joint_std: (P, 24) one deviation per axis, inflated.
        shape_information: (P, 10, 10) float64, posterior information of the betas (pose
            marginalised out); with ``state.betas`` it is the next frame's :class:`ShapePrior`.
        rmse: (P,) metres, of the inliers. inliers: (P,) int64. inlier_ratio: (P,), weighted.
        height: (P,) metres, of the standing body.
        reasons: Per person "" where the fit is to be believed, else why not.
    """

    state: BodyState
    joints: Tensor
    joint_std: Tensor
    shape_information: Tensor
    rmse: Tensor
    inliers: Tensor
    inlier_ratio: Tensor
    height: Tensor
    reasons: tuple[str, ...]

    def body_fit(self, body: BodyModel, person: int) -> BodyFit | None:
        """One person's parameters for the scene; None where the fit is not to be believed."""
        if self.reasons[person]:
            return None
        turns = roma.rotmat_to_rotvec(self.state.rotations[person]).cpu().numpy()
        return BodyFit(
            model=body.name,
            model_sha256=body.sha256,
            betas=self.state.betas[person].cpu().numpy().astype(np.float32),
            global_orient=turns[0].astype(np.float32),
            body_pose=turns[1:].reshape(-1).astype(np.float32),
            transl=self.state.transl[person].cpu().numpy().astype(np.float32),
            rmse=float(self.rmse[person]),
            inliers=int(self.inliers[person]),
        )


@contextmanager
def single_thread() -> Iterator[None]:
    """Torch on one thread within: a fit is hundreds of tiny operations, and on a busy machine
    handing each to a second thread costs ten times what it saves."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@torch.no_grad()
def fit(
    body: BodyModel,
    points: Tensor,
    vertex_ids: Tensor,
    weights: Tensor,
    start: BodyState | None = None,
    shape_prior: ShapePrior | None = None,
    config: FitConfig | None = None,
    generator: torch.Generator | None = None,
) -> FitResult:
    """Fit bodies to the points of P people, N each (pad with zero weights).

    Args:
        points: (P, N, 3) world metres; points that are not finite are ignored.
        vertex_ids: (P, N) int64 vertex of the body each point lies on, -1 = unknown, ignored.
        weights: (P, N) >= 0, any scale.
        start: Earlier parameters of the same people: few steps then do. None: found from scratch.
        shape_prior: What is known of the betas; the population if None.
        generator: Draws hypotheses of a cold start; a fixed one by default.

    Raises:
        ValueError: Shapes that do not agree, or a vertex the body does not have.
    """
    config = config or FitConfig()
    _check(body, points, vertex_ids, weights, start)
    usable = torch.isfinite(points).all(-1) & (vertex_ids >= 0) & (weights > 0)
    points = torch.where(usable[..., None], points, 0.0).float()
    vertex_ids = torch.where(usable, vertex_ids, 0)
    weights = torch.where(usable, weights, 0.0).float()
    prior = shape_prior or ShapePrior.standard(len(points), body.shapedirs.shape[-1])
    generator = generator or torch.Generator().manual_seed(0)
    with single_thread():
        if start is not None:
            state = _recentre(body, start, points, vertex_ids, weights)
        elif points.numel():
            state = analytic_start(body, vertex_ids, points, weights, generator)
        else:
            state = _empty(body, len(points))
        scales = _scales(config, warm=start is not None)
        for scale in scales:
            state, _ = _step(body, state, points, vertex_ids, weights, prior, scale, config)
        # One more linearisation, not applied, for the uncertainty at the solution.
        _, posterior = _step(body, state, points, vertex_ids, weights, prior, scales[-1], config)
        return _judge(body, state, posterior, points, vertex_ids, weights, config)


def _recentre(
    body: BodyModel, start: BodyState, points: Tensor, vertex_ids: Tensor, weights: Tensor
) -> BodyState:
    """A warm start moved by the median residual: people walk, and depth as a whole may jump."""
    if not points.numel():
        return start
    posed, _ = body(start.rotations, start.transl, start.betas, vertex_ids)
    residual = torch.where(weights[..., None] > 0, points - posed, torch.nan)
    shift = residual.nanmedian(1).values.nan_to_num(0.0)
    return BodyState(start.rotations, start.transl + shift, start.betas)


@dataclass(frozen=True, eq=False)
class _Posterior:
    joint_std: Tensor
    shape_information: Tensor


def _step(
    body: BodyModel,
    state: BodyState,
    points: Tensor,
    vertex_ids: Tensor,
    weights: Tensor,
    prior: ShapePrior,
    scale: float,
    config: FitConfig,
) -> tuple[BodyState, _Posterior]:
    """One damped, clipped Gauss-Newton step of the robust loss."""
    line = linearize(body, state, vertex_ids)
    residual = line.points - points
    robust = 1 / (1 + residual.square().sum(-1) / scale**2) ** 2
    root = (_information(weights, config) * robust).sqrt()
    flat = (line.turned * root[..., None, None]).flatten(1, 2)
    error = (residual * root[..., None]).flatten(1)
    local = line.to_local.double()
    hessian = local.mT @ (flat.mT @ flat).double() @ local
    gradient = (local.mT @ (flat.mT @ error[..., None]).double())[..., 0]

    pose_hessian, pose_gradient = _pose_prior_terms(state.rotations)
    for joint in range(1, NUM_JOINTS):
        block = slice(3 * joint, 3 * joint + 3)
        hessian[:, block, block] += pose_hessian[:, joint]
    gradient[:, ROTATIONS] += pose_gradient.flatten(1)
    hessian[:, BETAS, BETAS] += prior.information
    off = (state.betas - prior.mean).double()
    gradient[:, BETAS] += (prior.information @ off[..., None])[..., 0]

    # The tiny constant keeps the root solvable where there are no points at all.
    diagonal = hessian.diagonal(dim1=1, dim2=2)
    factor = torch.linalg.cholesky(hessian + torch.diag_embed(1e-3 * diagonal + 1e-3))
    step = -torch.cholesky_solve(gradient[..., None], factor)[..., 0].float()
    turn = _clip(step[:, ROTATIONS].unflatten(1, (NUM_JOINTS, 3)), config.max_turn)
    moved = BodyState(
        rotations=roma.rotvec_to_rotmat(turn) @ state.rotations,
        transl=state.transl + _clip(step[:, TRANSLATION], config.max_shift),
        betas=(state.betas + step[:, BETAS].clamp(-config.max_shape, config.max_shape)).clamp(
            -config.shape_limit, config.shape_limit
        ),
    )
    return moved, _posterior(hessian, (line.turned_joints.double() @ local[:, None]), config)


def _posterior(hessian: Tensor, joint_jacobian: Tensor, config: FitConfig) -> _Posterior:
    # Products summed in float32 leave directions without evidence slightly negative: the load
    # is relative, above that rounding and far below what any evidence says.
    diagonal = hessian.diagonal(dim1=1, dim2=2)
    factor = torch.linalg.cholesky(hessian + torch.diag_embed(1e-4 * diagonal + 1e-6))
    covariance = torch.cholesky_inverse(factor)
    spread = (joint_jacobian @ covariance[:, None] * joint_jacobian).sum(-1)  # (P, 24, 3)
    std = spread.mean(-1).clamp_min(0).sqrt() * config.std_inflation
    information = torch.linalg.inv(covariance[:, BETAS, BETAS])
    return _Posterior(std.float(), (information + information.mT) / 2)


def _pose_prior_terms(rotations: Tensor) -> tuple[Tensor, Tensor]:
    """Hessian (P, 24, 3, 3) and gradient (P, 24, 3) by rotation increments; zero for the root."""
    mean, std = pose_prior(rotations.device)
    turn = roma.rotmat_to_rotvec(rotations)
    jacobian = _inverse_left_jacobian(turn) / std[..., None]
    jacobian[:, 0] = 0
    error = (turn - mean) / std
    return (jacobian.mT @ jacobian).double(), (jacobian.mT @ error[..., None])[..., 0].double()


def _inverse_left_jacobian(turn: Tensor) -> Tensor:
    """(..., 3, 3) derivative of log(exp(w) R) by w at 0, for R = exp(turn)."""
    square = turn.square().sum(-1)[..., None, None]
    angle = square.clamp_min(1e-12).sqrt()
    zero = torch.zeros_like(turn[..., 0])
    x, y, z = turn.unbind(-1)
    hat = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).unflatten(-1, (3, 3))
    exact = 1 / square.clamp_min(1e-12) - (1 + angle.cos()) / (
        2 * angle * angle.sin().clamp_min(1e-4)
    )
    second = torch.where(angle < 1e-2, torch.full_like(angle, 1 / 12), exact)
    return torch.eye(3, device=turn.device) - hat / 2 + second * (hat @ hat)


def _information(weights: Tensor, config: FitConfig) -> Tensor:
    """Weights (P, N) as inverse variances that sum to the effective number of points."""
    number = (weights > 0).sum(1, keepdim=True).clamp_max(int(config.effective_points))
    return weights * (number / weights.sum(1, keepdim=True).clamp_min(1e-9)) / config.point_std**2


def _scales(config: FitConfig, warm: bool) -> list[float]:
    """Width of the robust loss per step: narrowed over the first 60 % of a cold start."""
    if warm:
        return [config.scale] * max(config.warm_iterations, 1)
    number = max(config.cold_iterations, 1)
    ratio = config.scale / config.cold_scale
    return [config.cold_scale * ratio ** min(k / (0.6 * number), 1.0) for k in range(number)]


def _clip(vectors: Tensor, longest: float) -> Tensor:
    return vectors * (longest / vectors.norm(dim=-1, keepdim=True).clamp_min(longest))


def _judge(
    body: BodyModel,
    state: BodyState,
    posterior: _Posterior,
    points: Tensor,
    vertex_ids: Tensor,
    weights: Tensor,
    config: FitConfig,
) -> FitResult:
    posed, joints = body(state.rotations, state.transl, state.betas, vertex_ids)
    distance = (posed - points).norm(dim=-1)
    inside = (weights > 0) & (distance < config.inlier_distance)
    inliers = inside.sum(1)
    rmse = ((distance.square() * inside).sum(1) / inliers.clamp_min(1)).sqrt()
    ratio = (weights * inside).sum(1) / weights.sum(1).clamp_min(1e-9)
    standing = body.v_template[..., 1] + state.betas @ body.shapedirs[:, 1].T
    height = standing.amax(1) - standing.amin(1)
    used = (weights > 0).sum(1)
    reasons = []
    for p in range(len(points)):
        parts = torch.bincount(body.part[vertex_ids[p][inside[p]]], minlength=NUM_JOINTS)
        reasons.append(
            _reason(
                config,
                int(used[p]),
                float(ratio[p]),
                int((parts >= 3).sum()),
                float(height[p]),
                float(state.betas[p].abs().max()),
            )
        )
    return FitResult(
        state=state,
        joints=joints,
        joint_std=posterior.joint_std,
        shape_information=posterior.shape_information,
        rmse=rmse,
        inliers=inliers,
        inlier_ratio=ratio,
        height=height,
        reasons=tuple(reasons),
    )


def _reason(
    config: FitConfig, points: int, ratio: float, parts: int, height: float, shape: float
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


def _empty(body: BodyModel, count: int) -> BodyState:
    return BodyState(
        torch.eye(3).repeat(count, NUM_JOINTS, 1, 1),
        torch.zeros(count, 3),
        torch.zeros(count, body.shapedirs.shape[-1]),
    )


def _check(
    body: BodyModel,
    points: Tensor,
    vertex_ids: Tensor,
    weights: Tensor,
    start: BodyState | None,
) -> None:
    if points.dim() != 3 or points.shape[-1] != 3:
        raise ValueError(f"points must be (P, N, 3), got {tuple(points.shape)}")
    for name, value in (("vertex_ids", vertex_ids), ("weights", weights)):
        if value.shape != points.shape[:2]:
            raise ValueError(
                f"{name} must be {tuple(points.shape[:2])} as points, got {tuple(value.shape)}"
            )
    if vertex_ids.numel() and int(vertex_ids.max()) >= len(body.v_template):
        raise ValueError(
            f"vertex {int(vertex_ids.max())} asked for, but {body.name} has "
            f"{len(body.v_template)}; look vertices up in the same body model"
        )
    if start is not None and len(start) != len(points):
        raise ValueError(f"start holds {len(start)} people, points {len(points)}")
