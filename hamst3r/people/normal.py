"""The normal equations of a robust body fit: what points say, and what is known of poses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import lapack
from torch import Tensor

from hamst3r.people.body import NUM_JOINTS
from hamst3r.people.kinematics import (
    BETAS,
    F32,
    POSE,
    ROTATIONS,
    TRANSLATION,
    Line,
    Pose,
    Surface,
    hats,
    linearize,
    rotation_vectors,
    rotations,
)
from hamst3r.people.prior import LIMIT_STD, joint_limits, pose_prior, standing_prior

F64 = NDArray[np.float64]
_EYE = np.eye(3, dtype=np.float32)


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
    """Half of the loss's Hessian (Gauss-Newton) and gradient at a pose, float64.

    Attributes:
        hessian: (P, D, D). gradient: (P, D). line: The linearisation behind them.
        residual: (P, 3, N) metres, from the points to their places on the body. square: (P, N)
            its squared length. believed: (P, N) in [0, 1], the robust weight.
    """

    hessian: F64
    gradient: F64
    line: Line
    residual: F32
    square: F32
    believed: F32


# Density of a wrong point over that of a right one in its place: right ones are believed to about
# 4.3 deviations.
_OUTLIERS = 1e-4

Belief = Callable[[F32], F32]  # squared distances (P, N) -> weights in [0, 1]


def mixture(deviation: F32) -> Belief:
    """Probability that points are right: a Gaussian (``deviation`` (P, 1) metres per axis) among
    a uniform density of outliers (the E step of EM). Sharp: for the end of an optimisation."""

    def believe(square: F32) -> F32:
        exponent = np.minimum(square / (2 * deviation**2), np.float32(40.0))
        return 1 / (1 + np.float32(_OUTLIERS) * np.exp(exponent))

    return believe


def geman_mcclure(width: float) -> Belief:
    """Weights of the Geman-McClure loss: they fade slowly, which leads to good minima."""
    return lambda square: 1 / (1 + square / np.float32(width**2)) ** 2


def normal_equations(
    pose: Pose,
    surface: Surface,
    points: F32,
    information: F32,
    believe: Belief,
    prior: ShapePrior,
) -> NormalEquations:
    """At ``pose``, for points (P, 3, N) of given inverse variances (P, N) weighted further
    by how far they are to be believed, with the priors of pose and shape.

    Per point there are phi, per axis the derivatives by the betas, and the residual: their moments
    over the points, one product, are all that is needed of the points.
    """
    count, number = information.shape
    line = linearize(surface.rig, pose)
    betas, last = surface.rig.num_betas, 4 * NUM_JOINTS
    table = np.empty((count, last + 3 * (betas + 1), number), dtype=np.float32)
    features = surface.features(pose, table[:, :last])
    by_axis = table[:, last:].reshape(count, 3, betas + 1, number)
    residual = line.bones.swapaxes(1, 2) @ features - points
    square = np.einsum("pcn,pcn->pn", residual, residual)
    by_axis[:, :, betas] = residual
    # Betas move the joints, and the surface itself.
    shifts = line.shifts.reshape(count, NUM_JOINTS, 3 * betas).swapaxes(1, 2) @ surface.weights
    axes = line.turn_surface(surface)
    np.add(
        shifts.reshape(count, 3, betas, number),
        np.einsum("pcan,pban->pcbn", axes, surface.directions),
        out=by_axis[:, :, :betas],
    )
    believed = believe(square)
    table *= np.sqrt(information * believed)[:, None]
    moments = table @ table.swapaxes(1, 2)
    hessian, gradient = _condense(line, moments, betas)
    add_pose_prior(hessian, gradient, pose, line, EVERYDAY)
    known = prior.information.numpy()
    hessian[:, BETAS, BETAS] += known
    gradient[:, BETAS] += (known @ (pose.betas - prior.mean.numpy())[..., None])[..., 0]
    return NormalEquations(hessian, gradient, line, residual, square, believed)


def damped_step(hessian: F64, gradient: F64) -> tuple[F32, F32]:
    """(P, D) a damped step, and (P,) by how much the loss falls with it."""
    steps = np.empty(gradient.shape)
    for person, own in enumerate(hessian):
        # The tiny constant keeps the root solvable where there is no evidence at all.
        loaded = own.copy()
        diagonal = loaded.reshape(-1)[:: len(loaded) + 1]
        diagonal *= 1 + 1e-3
        diagonal += 1e-3
        # LAPACK wants columns; the matrix is its own transpose.
        _, step, failed = lapack.dposv(loaded.T, gradient[person], overwrite_a=1)
        if failed:
            raise np.linalg.LinAlgError(f"the equations of person {person} are not definite")
        steps[person] = step
    gain = np.einsum("pd,pd->p", steps, gradient)
    return -steps.astype(np.float32), gain.astype(np.float32)


def _condense(line: Line, moments: F32, betas: int) -> tuple[F64, F64]:
    """Hessian and gradient from the moments of the points, (P, M, M) with M = 96 + 3 (B + 1).

    Where joint k turns by w, a point moves by w x y_k, y_k linear in phi. So rotations need the
    moments of y only: (w_k x y_k) (w_l x y_l) = w_k^T (y_k y_l 1 - y_l y_k^T) w_l.
    """
    count, rows = len(moments), 4 * NUM_JOINTS
    levers = line.levers.reshape(count, rows, 3 * NUM_JOINTS)
    turned = levers.swapaxes(1, 2) @ moments[:, :rows]
    pairs = (turned[..., :rows] @ levers).reshape(count, 3, NUM_JOINTS, 3, NUM_JOINTS)
    turns = -pairs.transpose(0, 2, 3, 4, 1)
    trace = np.einsum("pakal->pkl", pairs)
    for axis in range(3):
        turns[:, :, axis, :, axis] += trace
    levered = turned[..., rows:].reshape(count, 3, NUM_JOINTS, 3, betas + 1)
    crossed = np.empty((count, NUM_JOINTS, 3, betas + 1), dtype=np.float32)
    for a, b, c in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):  # y x
        np.subtract(levered[:, b, :, c], levered[:, c, :, b], out=crossed[:, :, a])
    pulled = crossed.reshape(count, 3 * NUM_JOINTS, betas + 1)
    # A point's weights, which its place's phi are, sum to one.
    arms = turned[..., 3 * NUM_JOINTS : rows].sum(-1).reshape(count, 3, NUM_JOINTS).swapaxes(1, 2)
    total = moments[:, 3 * NUM_JOINTS : rows].sum(1)
    shifted = total[:, rows:].reshape(count, 3, betas + 1)
    own = moments[:, rows:, rows:].reshape(count, 3, betas + 1, 3, betas + 1)
    own = own[:, 0, :, 0] + own[:, 1, :, 1] + own[:, 2, :, 2]

    size = 3 * NUM_JOINTS + 3 + betas
    hessian, gradient = np.empty((count, size, size)), np.empty((count, size))
    hessian[:, ROTATIONS, ROTATIONS] = turns.reshape(count, 3 * NUM_JOINTS, 3 * NUM_JOINTS)
    hessian[:, ROTATIONS, TRANSLATION] = hats(arms).reshape(count, 3 * NUM_JOINTS, 3)
    hessian[:, ROTATIONS, BETAS] = pulled[..., :betas]
    weight = total[:, 3 * NUM_JOINTS : rows].sum(1)
    hessian[:, TRANSLATION, TRANSLATION] = weight[:, None, None] * _EYE
    hessian[:, TRANSLATION, BETAS] = shifted[..., :betas]
    hessian[:, BETAS, BETAS] = own[:, :betas, :betas]
    hessian[:, TRANSLATION, ROTATIONS] = hessian[:, ROTATIONS, TRANSLATION].swapaxes(1, 2)
    hessian[:, BETAS, POSE] = hessian[:, POSE, BETAS].swapaxes(1, 2)
    gradient[:, ROTATIONS] = pulled[..., betas]
    gradient[:, TRANSLATION] = shifted[..., betas]
    gradient[:, BETAS] = own[:, :betas, betas]
    return hessian, gradient


@dataclass(frozen=True, eq=False)
class Posture:
    """What is known of joints 1..23: mean (23, 3) rad and stiffness (23, 3), the inverse
    variance."""

    mean: F32
    stiffness: F32

    @staticmethod
    def of(mean: Tensor, std: Tensor) -> Posture:
        """Of means and deviations (24, 3) rad."""
        return Posture(mean.numpy()[1:], std.numpy()[1:] ** -2)

    def loss(self, pose: Pose) -> F64:
        """(P,) sum of squared deviations."""
        off = rotation_vectors(pose.rotations[:, 1:]) - self.mean
        return np.einsum("pjc,pjc,jc->p", off, off, self.stiffness).astype(np.float64)


EVERYDAY = Posture.of(*pose_prior())
STANDING = Posture.of(*standing_prior())
_LOW, _HIGH = (values.numpy()[1:] for values in joint_limits())
_STIFF_LIMIT = np.float32(LIMIT_STD**-2)
_ROWS = np.arange(3, 3 * NUM_JOINTS).reshape(-1, 3)


def add_pose_prior(hessian: F64, gradient: F64, pose: Pose, line: Line, posture: Posture) -> None:
    """Add joints' usual ranges and, steeply, their limits to equations (P, D, D) and (P, D)."""
    turn = rotation_vectors(pose.rotations[:, 1:])
    # A left increment w in the world's axes is above^T w in those the rotation is given in.
    jacobian = _inverse_left_jacobian(turn) @ line.above[:, 1:].swapaxes(2, 3)
    beyond = turn - np.minimum(np.maximum(turn, _LOW), _HIGH)
    stiff = posture.stiffness + (beyond != 0) * _STIFF_LIMIT
    force = (turn - posture.mean) * posture.stiffness + beyond * _STIFF_LIMIT
    hessian[:, _ROWS[:, :, None], _ROWS[:, None]] += (
        jacobian.swapaxes(2, 3) * stiff[:, :, None]
    ) @ jacobian
    pulled = (force[:, :, None] @ jacobian)[:, :, 0]
    gradient[:, ROTATIONS][:, 3:] += pulled.reshape(len(pose), 3 * NUM_JOINTS - 3)


# Knees and elbows, and the axis about which they bend one way only.
_HINGES, _HINGE_AXES = np.array([4, 5, 18, 19]), np.array([0, 0, 1, 1])
_HINGE_MARGIN = np.float32(0.1)  # radians beyond the limit that are let stand


def unbend(pose: Pose) -> Pose:
    """The pose with knees and elbows that noise bent the wrong way at their limit: in the equations
    limits are soft."""
    turn = rotation_vectors(pose.rotations[:, _HINGES])
    own = np.arange(len(_HINGES)), _HINGE_AXES
    angle = turn[:, own[0], own[1]]
    limits = _LOW[_HINGES - 1, _HINGE_AXES], _HIGH[_HINGES - 1, _HINGE_AXES]
    possible = angle.clip(limits[0] - _HINGE_MARGIN, limits[1] + _HINGE_MARGIN)
    if (possible == angle).all():
        return pose
    turn[:, own[0], own[1]] = possible
    changed = pose.rotations.copy()
    changed[:, _HINGES] = np.where(
        (possible != angle)[..., None, None], rotations(turn), changed[:, _HINGES]
    )
    return Pose(changed, pose.transl, pose.betas)


def _inverse_left_jacobian(turn: F32) -> F32:
    """(..., 3, 3) derivative of log(exp(w) R) by w at 0, for R = exp(turn)."""
    square = np.einsum("...i,...i->...", turn, turn)[..., None, None]
    far = np.maximum(square, np.float32(1e-3))  # nearer, what is to be divided is rounding
    half = np.sqrt(far) / 2
    second = (1 - half / np.tan(half)) / far
    inverse = second * (turn[..., :, None] * turn[..., None, :])
    inverse -= np.float32(0.5) * hats(turn)
    inverse += (1 - second * square) * _EYE
    return inverse
