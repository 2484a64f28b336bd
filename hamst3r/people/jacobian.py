"""Posed points of a body and their exact derivatives, without automatic differentiation.

The unknowns, in this order (D = 75 + B): 24 x 3 rotation increments, each applied from the left to
a joint's rotation relative to its parent (``exp(w) R``), 3 of the translation, B betas.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from hamst3r.people.body import NUM_JOINTS, PARENTS, BodyModel

ROTATIONS = slice(0, 3 * NUM_JOINTS)
TRANSLATION = slice(3 * NUM_JOINTS, 3 * NUM_JOINTS + 3)
BETAS = slice(3 * NUM_JOINTS + 3, None)


@dataclass(frozen=True, eq=False)
class BodyState:
    """Parameters of P people: where an optimisation stands.

    Attributes:
        rotations: (P, 24, 3, 3) relative to the parent; the root's is global.
        transl: (P, 3) metres.
        betas: (P, 10).
    """

    rotations: Tensor
    transl: Tensor
    betas: Tensor

    def __len__(self) -> int:
        return len(self.transl)

    def person(self, index: int) -> BodyState:
        """The state of one person, still with a leading dimension of 1."""
        keep = slice(index, index + 1)
        return BodyState(self.rotations[keep], self.transl[keep], self.betas[keep])

    @staticmethod
    def stack(states: list[BodyState]) -> BodyState:
        """People of several states as one batch."""
        return BodyState(
            torch.cat([state.rotations for state in states]),
            torch.cat([state.transl for state in states]),
            torch.cat([state.betas for state in states]),
        )


@dataclass(frozen=True, eq=False)
class Linearization:
    """A body around one state, metres.

    Attributes:
        points: (P, N, 3). joints: (P, 24, 3).
        turned: (P, N, 3, D) derivative of the points where rotation increments are expressed in
            the world's axes (constant per point, so cheaper); see ``to_local``.
        turned_joints: (P, 24, 3, D) of the joints.
        to_local: (P, D, D): multiply a derivative from the right to have the increments in the
            axes of each joint's parent, as the module says.
    """

    points: Tensor
    joints: Tensor
    turned: Tensor
    turned_joints: Tensor
    to_local: Tensor


@lru_cache(maxsize=8)
def _descendants(device: torch.device) -> Tensor:
    """(24, 24), [k, j] = 1 where joint j moves when joint k turns (k itself too)."""
    below = torch.zeros(NUM_JOINTS, NUM_JOINTS, device=device)
    for joint in range(NUM_JOINTS):
        above = joint
        while above >= 0:
            below[above, joint] = 1.0
            above = PARENTS[above]
    return below


def linearize(body: BodyModel, state: BodyState, vertices: Tensor) -> Linearization:
    """Points of the body and derivatives at ``state``; vertices (P, N) int64."""
    count, num_betas = len(state), state.betas.shape[1]
    below = _descendants(state.transl.device)
    turn, joints = body.skeleton(state.rotations, state.transl, state.betas)
    rest = body.rest_joints(state.betas)
    weights, directions = body.weights[vertices], body.shapedirs[vertices]
    shaped = body.v_template[vertices] + torch.einsum("pnck,pk->pnc", directions, state.betas)

    # Each point as a weighted sum of its images under every joint's rigid motion.
    offset = joints - (turn @ rest[..., None])[..., 0]
    images = torch.einsum("pjab,pnb->pnja", turn, shaped) + offset[:, None]
    images = weights[..., None] * images
    points = images.sum(2)

    # Turning joint k about its centre moves the share of the point that hangs below it.
    lever = torch.einsum("kj,pnja->pnka", below, images)
    lever = lever - (weights @ below.T)[..., None] * joints[:, None]
    joint_lever = below.T[None, :, :, None] * (joints[:, :, None] - joints[:, None])

    # Betas move the rest joints, hence every joint's motion, and the surface itself.
    drift = _joint_shift(body, turn)
    motion = drift - turn @ body.joint_shapedirs
    blended = torch.einsum("pnj,pjab->pnab", weights, turn)
    by_betas = blended @ directions + torch.einsum("pnj,pjak->pnak", weights, motion)

    size = 3 * NUM_JOINTS + 3 + num_betas
    to_local = torch.eye(size, device=points.device).repeat(count, 1, 1)
    for joint in range(1, NUM_JOINTS):
        block = slice(3 * joint, 3 * joint + 3)
        to_local[:, block, block] = turn[:, PARENTS[joint]]
    return Linearization(
        points=points,
        joints=joints,
        turned=_assemble(lever, by_betas),
        turned_joints=_assemble(joint_lever, drift),
        to_local=to_local,
    )


def _joint_shift(body: BodyModel, turn: Tensor) -> Tensor:
    """(P, 24, 3, B) derivative of the posed joints by the betas."""
    rest = body.joint_shapedirs
    shift = [rest[0].expand(len(turn), -1, -1)]
    for joint in range(1, NUM_JOINTS):
        parent = PARENTS[joint]
        shift.append(shift[parent] + turn[:, parent] @ (rest[joint] - rest[parent]))
    return torch.stack(shift, 1)


def _assemble(lever: Tensor, by_betas: Tensor) -> Tensor:
    """(P, N, 3, D) from lever arms (P, N, 24, 3), using d x / d w = w x lever."""
    size = 3 * NUM_JOINTS + 3 + by_betas.shape[-1]
    jacobian = lever.new_zeros(*lever.shape[:2], 3, size)
    last = 3 * NUM_JOINTS
    jacobian[:, :, 0, 1:last:3] = lever[..., 2]
    jacobian[:, :, 0, 2:last:3] = -lever[..., 1]
    jacobian[:, :, 1, 0:last:3] = -lever[..., 2]
    jacobian[:, :, 1, 2:last:3] = lever[..., 0]
    jacobian[:, :, 2, 0:last:3] = lever[..., 1]
    jacobian[:, :, 2, 1:last:3] = -lever[..., 0]
    jacobian[..., TRANSLATION] = torch.eye(3, device=lever.device)
    jacobian[..., BETAS] = by_betas
    return jacobian
