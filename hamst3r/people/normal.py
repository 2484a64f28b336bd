"""The normal equations of a robust body fit: what points say, and what is known of poses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import roma
import torch
from torch import Tensor

from hamst3r.people.body import NUM_JOINTS, BodyModel
from hamst3r.people.jacobian import (
    BETAS,
    ROTATIONS,
    BodyState,
    Linearization,
    Surface,
    linearize,
)
from hamst3r.people.prior import LIMIT_STD, joint_limits, pose_prior


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
class NormalEquations:
    """Half of the loss's Hessian (Gauss-Newton) and gradient at a state, float64.

    Attributes:
        hessian: (P, D, D). gradient: (P, D). line: The linearisation behind them.
        residual: (P, N, 3) metres, from the points to their places on the body. square: (P, N)
            its squared length. believed: (P, N) in [0, 1], the robust weight.
    """

    hessian: Tensor
    gradient: Tensor
    line: Linearization
    residual: Tensor
    square: Tensor
    believed: Tensor


# Density of a wrong point over that of a right one in its place: right ones are believed to about
# 4.3 deviations.
_OUTLIERS = 1e-4

Belief = Callable[[Tensor], Tensor]  # squared distances (P, N) -> weights in [0, 1]


def mixture(deviation: Tensor) -> Belief:
    """Probability that points are right: a Gaussian (``deviation`` (P, 1) metres per axis) among
    a uniform density of outliers (the E step of EM). Sharp: for the end of an optimisation."""

    def believe(square: Tensor) -> Tensor:
        exponent = (square / (2 * deviation**2)).clamp_max(40.0)
        return 1 / (1 + _OUTLIERS * exponent.exp())

    return believe


def geman_mcclure(width: float) -> Belief:
    """Weights of the Geman-McClure loss: they fade slowly, which leads to good minima."""
    return lambda square: 1 / (1 + square / width**2) ** 2


def normal_equations(
    body: BodyModel,
    state: BodyState,
    surface: Surface,
    points: Tensor,
    information: Tensor,
    believe: Belief,
    prior: ShapePrior,
) -> NormalEquations:
    """At ``state``, for points (P, N, 3) of given inverse variances (P, N) weighted further
    by how far they are to be believed, with the priors of pose and shape.

    The pose's share is condensed to 96 x 96 sums over the points before derivatives come in.
    """
    line = linearize(body, state)
    features = surface.features(body, state)
    residual = torch.baddbmm(points, features, line.bones, beta=-1)
    square = residual.square().sum(-1)
    believed = believe(square)
    weight = information * believed
    weighted = features * weight[..., None]
    count, size = len(state), line.turned.shape[-1]

    turned = line.turned.flatten(2)  # (P, 96, 3 D)
    by_bones = turned.view(count, 12 * NUM_JOINTS, size)
    moments = features.mT @ weighted
    hessian = by_bones.mT @ (moments @ turned).view_as(by_bones)
    pull = (weighted.mT @ residual).flatten(1)
    gradient = (by_bones.mT @ pull[..., None])[..., 0]

    # Betas also move the surface itself.
    axes = line.turn_surface(surface)
    number = points.shape[1]
    moved = axes @ surface.directions.view(count, number, 3, state.betas.shape[-1])  # (P, N, 3, B)
    cross = (weighted.mT @ moved.flatten(2)).view(count, by_bones.shape[1], moved.shape[-1])
    cross = by_bones.mT @ cross
    hessian[:, :, BETAS] += cross
    hessian[:, BETAS] += cross.mT
    pressed = (moved * weight[..., None, None]).flatten(1, 2)
    hessian[:, BETAS, BETAS] += pressed.mT @ moved.flatten(1, 2)
    gradient[:, BETAS] += (pressed.mT @ residual.flatten(1)[..., None])[..., 0]

    hessian, gradient = hessian.double(), gradient.double()
    _add_pose_prior(hessian, gradient, state, line)
    hessian[:, BETAS, BETAS] += prior.information
    off = (state.betas - prior.mean).double()
    gradient[:, BETAS] += (prior.information @ off[..., None])[..., 0]
    return NormalEquations(hessian, gradient, line, residual, square, believed)


def _add_pose_prior(
    hessian: Tensor, gradient: Tensor, state: BodyState, line: Linearization
) -> None:
    """Joints' usual ranges and, steeply, their limits."""
    mean, std = pose_prior(state.rotations.device)
    low, high = joint_limits(state.rotations.device)
    turn = rotation_vectors(state.rotations[:, 1:])
    # A left increment w in the world's axes is above^T w in those the rotation is given in.
    jacobian = _inverse_left_jacobian(turn) @ line.above[:, 1:].mT
    beyond = turn - torch.minimum(torch.maximum(turn, low[1:]), high[1:])
    stiff = std[1:] ** -2 + (beyond != 0) * LIMIT_STD**-2
    force = (turn - mean[1:]) * std[1:] ** -2 + beyond * LIMIT_STD**-2
    blocks = (jacobian.mT * stiff[:, :, None]) @ jacobian
    rows = _joint_rows(hessian.device)
    hessian[:, rows[:, :, None], rows[:, None]] += blocks.double()
    gradient[:, ROTATIONS][:, 3:] += (jacobian.mT @ force[..., None])[..., 0].flatten(1).double()


def _joint_rows(device: torch.device) -> Tensor:
    return torch.arange(3, 3 * NUM_JOINTS, device=device).view(-1, 3)


def rotation_vectors(rotations: Tensor) -> Tensor:
    """Axis-angle (..., 3) of rotations that are no half turns; those go the slow way."""
    skew = torch.stack(
        [
            rotations[..., 2, 1] - rotations[..., 1, 2],
            rotations[..., 0, 2] - rotations[..., 2, 0],
            rotations[..., 1, 0] - rotations[..., 0, 1],
        ],
        -1,
    )
    cosine = rotations.diagonal(dim1=-2, dim2=-1).sum(-1, keepdim=True) - 1  # doubled, as sine is
    if bool((cosine < -1.9).any()):
        return roma.rotmat_to_rotvec(rotations)
    sine = skew.norm(dim=-1, keepdim=True)
    factor = torch.where(sine > 1e-4, torch.atan2(sine, cosine) / sine.clamp_min(1e-4), 0.5)
    return skew * factor


def _inverse_left_jacobian(turn: Tensor) -> Tensor:
    """(..., 3, 3) derivative of log(exp(w) R) by w at 0, for R = exp(turn)."""
    square = turn.square().sum(-1)[..., None, None].clamp_min(1e-6)
    half = square.sqrt() / 2
    second = (1 - half / half.tan()) / square
    second = torch.where(square < 1e-4, 1 / 12, second)
    x, y, z = turn.unbind(-1)
    zero = torch.zeros_like(x)
    hat = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).unflatten(-1, (3, 3))
    outer = turn[..., :, None] * turn[..., None, :]
    eye = torch.eye(3, device=turn.device)
    return (1 - second * square) * eye - hat / 2 + second * outer
