"""Posed points of a body and their exact derivatives, in numpy and without automatic
differentiation: one step of a fit is dozens of tiny operations, of which each costs torch several
times as much as numpy.

A posed point is linear in the rigid motions of the joints ("bones"): ``x = bones^T phi`` with
``phi = w_j (s - J_j, 1)`` over joints j, where s is the point and J_j the joint at rest. Few
numbers describe the bones, so derivatives are taken of them, not of every point. Points are the
last axis here: numpy is fast along long axes.

The unknowns, in this order (D = 75 + B): 24 x 3 rotation increments in the world's axes, each
turning a joint and all below it about that joint's place; 3 of the translation, B betas.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation
from torch import Tensor

from hamst3r.people.body import ANCESTORS, NUM_JOINTS, PARENTS, BodyModel

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]

ROTATIONS = slice(0, 3 * NUM_JOINTS)
TRANSLATION = slice(3 * NUM_JOINTS, 3 * NUM_JOINTS + 3)
POSE = slice(0, 3 * NUM_JOINTS + 3)  # rotations and translation
BETAS = slice(3 * NUM_JOINTS + 3, None)
ABOVE = np.array(PARENTS[1:])  # the parents of joints 1..23
_EYE = np.eye(3, dtype=np.float32)
# As products with flattened matrices: v -> [v]x, and R -> (R - R^T)'s vector and R's trace.
_HAT = np.array(
    [[0, 0, 0, 0, 0, -1, 0, 1, 0], [0, 0, 1, 0, 0, 0, -1, 0, 0], [0, -1, 0, 1, 0, 0, 0, 0, 0]],
    dtype=np.float32,
)
_SKEW = np.vstack([_HAT, _EYE.ravel()]).T.copy()


def _hanging() -> F32:
    """(24, 24), [j, k] = 1 where joint j moves when joint k turns (k itself too)."""
    below = np.eye(NUM_JOINTS, dtype=np.float32)
    for joint in range(1, NUM_JOINTS):
        below[joint] += below[PARENTS[joint]]
    return below


_ANCESTORS = [above.numpy() for above in ANCESTORS]
_HANGING = _hanging()


@dataclass(frozen=True, eq=False)
class Pose:
    """Parameters of P people, float32.

    Attributes:
        rotations: (P, 24, 3, 3) relative to the parent; the root's is global.
        transl: (P, 3) metres.
        betas: (P, B).
    """

    rotations: F32
    transl: F32
    betas: F32

    def __len__(self) -> int:
        return len(self.transl)


@dataclass(frozen=True, eq=False)
class Rig:
    """A body model as arrays, of which most share its memory.

    Attributes:
        template: (V, 3) metres. normals: (V, 3). directions: (V, B 3). weights: (V, 24).
        part: (V,) joint. mirror: (V,) vertex. bends: (V, 3, 207) or None: see ``posedirs``.
        heights: (B, V) metres, change of the vertices' heights.
        joints: (24, 3) metres, of the mean shape. joint_shapes: (24, 3, B) their change.
    """

    template: F32
    normals: F32
    directions: F32
    weights: F32
    part: I64
    mirror: I64
    bends: F32 | None
    heights: F32
    joints: F32
    joint_shapes: F32

    @property
    def num_betas(self) -> int:
        """B."""
        return self.joint_shapes.shape[2]

    def rest_joints(self, betas: F32) -> F32:
        """(P, 24, 3) metres, in the rest pose, for betas (P, B)."""
        moved = betas @ self.joint_shapes.reshape(-1, self.num_betas).T
        return self.joints + moved.reshape(len(betas), NUM_JOINTS, 3)


@lru_cache(maxsize=4)
def rig(body: BodyModel) -> Rig:
    """The arrays of a body model."""

    def array(values: Tensor) -> NDArray:
        return values.detach().cpu().contiguous().numpy()

    return Rig(
        template=array(body.v_template),
        normals=array(body.normals),
        directions=array(body.shapedirs.mT.flatten(1)),
        weights=array(body.weights),
        part=array(body.part),
        mirror=array(body.mirror),
        bends=None if body.posedirs is None else array(body.posedirs),
        heights=array(body.shapedirs[:, 1].T),
        joints=array(body.joint_template),
        joint_shapes=array(body.joint_shapedirs),
    )


def skeleton(rig: Rig, pose: Pose) -> tuple[F32, F32]:
    """Global rotations (P, 24, 3, 3) and joints (P, 24, 3) in metres."""
    rest = rig.rest_joints(pose.betas)
    # Each round multiplies with twice as many rotations above: the tree is nine joints deep.
    turn = np.empty((len(pose), NUM_JOINTS + 1, 3, 3), dtype=np.float32)
    turn[:, :-1], turn[:, -1] = pose.rotations, _EYE
    for above in _ANCESTORS:
        turn = turn[:, above] @ turn
    turn = turn[:, :-1]
    # A joint is where the bones above it, end to end, lead.
    steps = np.empty_like(rest)
    steps[:, 0] = rest[:, 0] + pose.transl
    steps[:, 1:] = (turn[:, ABOVE] @ (rest[:, 1:] - rest[:, ABOVE])[..., None])[..., 0]
    return turn, _HANGING @ steps


@dataclass(frozen=True, eq=False)
class Surface:
    """Chosen vertices of the body at rest: what of them does not depend on the pose.

    Attributes:
        vertices: (P, N). template: (P, 3, N) metres. directions: (P, B, 3, N).
        weights: (P, 24, N). bends: (P, 3 N, 207) or None; points before axes.
    """

    rig: Rig
    vertices: I64
    template: F32
    directions: F32
    weights: F32
    bends: F32 | None

    @staticmethod
    def of(rig: Rig, vertices: I64) -> Surface:
        """Of vertices (P, N)."""

        def last(values: F32) -> F32:
            return np.ascontiguousarray(values[vertices].swapaxes(1, 2))

        count, number = vertices.shape
        return Surface(
            rig,
            vertices,
            last(rig.template),
            last(rig.directions).reshape(count, rig.num_betas, 3, number),
            last(rig.weights),
            None if rig.bends is None else rig.bends[vertices].reshape(count, 3 * number, 207),
        )

    def shaped(self, pose: Pose) -> F32:
        """(P, 3, N) metres, at rest; with what the pose makes of the shape."""
        count, number = self.vertices.shape
        directions = self.directions.reshape(count, self.rig.num_betas, 3 * number)
        shaped = (pose.betas[:, None] @ directions).reshape(count, 3, number)
        shaped += self.template
        if self.bends is not None:
            bent = self.bends @ (pose.rotations[:, 1:] - _EYE).reshape(count, 207, 1)
            shaped += bent.reshape(count, number, 3).swapaxes(1, 2)
        return shaped

    def features(self, pose: Pose, out: F32 | None = None) -> F32:
        """(P, 96, N) phi: posed points are ``bones^T @ phi``.

        What poses make of the shape is taken in, but not differentiated: it changes little within
        a step.
        """
        count, number = self.vertices.shape
        if out is None:
            out = np.empty((count, 4 * NUM_JOINTS, number), dtype=np.float32)
        features = out.reshape(count, 4, NUM_JOINTS, number)
        rest = self.rig.rest_joints(pose.betas).swapaxes(1, 2)
        np.subtract(self.shaped(pose)[:, :, None], rest[..., None], out=features[:, :3])
        features[:, :3] *= self.weights[:, None]
        features[:, 3] = self.weights
        return out

    def posed(self, pose: Pose) -> F32:
        """(P, 3, N) metres in the world."""
        return pose_bones(self.rig, pose).swapaxes(1, 2) @ self.features(pose)


@dataclass(frozen=True, eq=False)
class Line:
    """The bones around one pose, metres.

    Attributes:
        bones: (P, 96, 3); row 24 c + j is axis c of joint j in the world, for c = 3 its place.
        levers: (P, 96, 3, 24) what of the bones turns with joint k, from its place: turning it by
            w moves them by w x lever.
        shifts: (P, 24, 3, B) derivative of the last 24 rows by the betas: these move the joints,
            and the arms from them to the surface the other way.
        turn: (P, 24, 3, 3) global rotations.
        above: (P, 24, 3, 3) of each joint's parent, identity for the root's.
    """

    bones: F32
    levers: F32
    shifts: F32
    turn: F32
    above: F32

    @property
    def turned(self) -> F32:
        """(P, 96, 3, D) derivative of the bones."""
        last, betas = 3 * NUM_JOINTS, self.shifts.shape[-1]
        turned = np.zeros((*self.bones.shape, last + 3 + betas), dtype=np.float32)
        _cross(self.levers, turned)
        turned[:, last:, :, TRANSLATION] = _EYE
        turned[:, last:, :, BETAS] = self.shifts
        return turned

    def joint_derivatives(self, rig: Rig) -> F32:
        """(P, 24, 3, D) of the joints' places."""
        last = 3 * NUM_JOINTS
        turned = np.empty((len(self.bones), NUM_JOINTS, 3, last + 3 + rig.num_betas), np.float32)
        turned[..., ROTATIONS] = 0
        _cross(self.levers[:, last:], turned)
        turned[..., TRANSLATION] = _EYE
        np.add(self.shifts, self.turn @ rig.joint_shapes, out=turned[..., BETAS])
        return turned

    def turn_surface(self, surface: Surface) -> F32:
        """(P, 3, 3, N): how the surface around each point is turned (not quite a rotation)."""
        axes = self.turn.reshape(len(self.turn), NUM_JOINTS, 9).swapaxes(1, 2) @ surface.weights
        return axes.reshape(len(axes), 3, 3, axes.shape[-1])


def _cross(levers: F32, turned: F32) -> None:
    """Write the derivatives of w x lever by w."""
    last = 3 * NUM_JOINTS
    for a, b, c in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
        turned[:, :, a, b:last:3] = levers[:, :, c]
        turned[:, :, a, c:last:3] = -levers[:, :, b]


def _bones(turn: F32, joints: F32) -> F32:
    """(P, 4, 24, 3): the axes of all joints, then their places."""
    bones = np.empty((len(turn), 4, NUM_JOINTS, 3), dtype=np.float32)
    bones[:, :3], bones[:, 3] = turn.transpose(0, 3, 1, 2), joints
    return bones


def pose_bones(rig: Rig, pose: Pose) -> F32:
    """(P, 96, 3) as in :class:`Line`."""
    return _bones(*skeleton(rig, pose)).reshape(len(pose), 4 * NUM_JOINTS, 3)


def linearize(rig: Rig, pose: Pose) -> Line:
    """Bones and derivatives at a pose."""
    count = len(pose)
    turn, joints = skeleton(rig, pose)
    bones = _bones(turn, joints)
    above = np.empty_like(turn)
    above[:, 0], above[:, 1:] = _EYE, turn[:, ABOVE]

    # Turning joint k about its centre moves whatever hangs below it.
    levers = np.empty((count, 4, NUM_JOINTS, 3, NUM_JOINTS), dtype=np.float32)
    np.multiply(bones[..., None], _HANGING[:, None], out=levers)
    levers[:, 3] -= joints.swapaxes(1, 2)[:, None] * _HANGING[:, None]

    step = rig.joint_shapes.copy()
    step[1:] -= rig.joint_shapes[ABOVE]
    moved = (above @ step).reshape(count, NUM_JOINTS, 3 * rig.num_betas)
    shifts = (_HANGING @ moved).reshape(count, NUM_JOINTS, 3, rig.num_betas)
    shifts -= turn @ rig.joint_shapes
    rows = 4 * NUM_JOINTS
    return Line(
        bones.reshape(count, rows, 3),
        levers.reshape(count, rows, 3, NUM_JOINTS),
        shifts,
        turn,
        above,
    )


def apply_increment(pose: Pose, line: Line, turn: F32, transl: F32, betas: F32) -> Pose:
    """The pose after a step: increments (P, 24, 3) rad in world axes, (P, 3) m and (P, B)."""
    local = (turn[:, :, None] @ line.above)[:, :, 0]
    return Pose(rotations(local) @ pose.rotations, pose.transl + transl, pose.betas + betas)


class StepLimits(Protocol):
    """Longest step of a joint (rad), of the translation (m) and of a beta; betas stay within +-
    ``shape_limit``."""

    @property
    def max_turn(self) -> float: ...
    @property
    def max_shift(self) -> float: ...
    @property
    def max_shape(self) -> float: ...
    @property
    def shape_limit(self) -> float: ...


def bounded_step(pose: Pose, line: Line, step: F32, limits: StepLimits) -> Pose:
    """The pose after a step (P, D), as far as the limits allow."""
    betas = pose.betas + step[:, BETAS].clip(-limits.max_shape, limits.max_shape)
    return apply_increment(
        pose,
        line,
        _clipped(step[:, ROTATIONS].reshape(len(pose), NUM_JOINTS, 3), limits.max_turn),
        _clipped(step[:, TRANSLATION], limits.max_shift),
        betas.clip(-limits.shape_limit, limits.shape_limit) - pose.betas,
    )


def hats(vectors: F32) -> F32:
    """(..., 3, 3) matrices of the cross products with vectors (..., 3)."""
    return (vectors @ _HAT).reshape(*vectors.shape, 3)


def rotations(vectors: F32) -> F32:
    """(..., 3, 3) of axis-angle (..., 3) rad (Rodrigues)."""
    square = np.einsum("...i,...i->...", vectors, vectors)[..., None, None]
    angle = np.sqrt(np.maximum(square, np.float32(1e-8)))
    cosine = np.cos(angle)
    turn = (1 - cosine) / (angle * angle) * (vectors[..., :, None] * vectors[..., None, :])
    turn += np.sin(angle) / angle * hats(vectors)
    turn += cosine * _EYE
    return turn


def rotation_vectors(turns: F32) -> F32:
    """Axis-angle (..., 3) of rotations that are no half turns; those go the slow way."""
    skew = turns.reshape(*turns.shape[:-2], 9) @ _SKEW
    cosine = skew[..., 3:] - 1  # doubled, as sine is
    if (cosine < -1.9).any():
        vectors = Rotation.from_matrix(turns.reshape(-1, 3, 3)).as_rotvec()
        return vectors.reshape(turns.shape[:-1]).astype(np.float32)
    skew = skew[..., :3]
    sine = np.sqrt(np.einsum("...i,...i->...", skew, skew))[..., None]
    sine = np.maximum(sine, np.float32(1e-4))
    return skew * (np.arctan2(sine, cosine) / sine)


def nearest_rotations(moments: F32) -> F32:
    """The rotations (..., 3, 3) nearest to matrices."""
    u, _, vh = np.linalg.svd(moments)
    u[..., 2] *= np.linalg.det(u @ vh)[..., None]
    return u @ vh


def _clipped(vectors: F32, longest: float) -> F32:
    """Vectors (..., k), those longer than that shortened."""
    length = np.sqrt((vectors * vectors).sum(-1, keepdims=True))
    return vectors * (np.float32(longest) / np.maximum(length, np.float32(longest)))
