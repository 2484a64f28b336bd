"""Posed points of a body and their exact derivatives, without automatic differentiation.

A posed point is linear in the rigid motions of the joints ("bones"): ``x = phi @ bones`` with
``phi = w_j (s - J_j, 1)`` over joints j, where s is the point and J_j the joint at rest. Few
numbers describe the bones, so derivatives are taken of them, not of every point.

The unknowns, in this order (D = 75 + B): 24 x 3 rotation increments in the world's axes, each
turning a joint and all below it about that joint's place; 3 of the translation, B betas.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import roma
import torch
from torch import Tensor

from hamst3r.people.body import NUM_JOINTS, PARENT_INDEX, BodyModel, descendants, pose_features

ROTATIONS = slice(0, 3 * NUM_JOINTS)
TRANSLATION = slice(3 * NUM_JOINTS, 3 * NUM_JOINTS + 3)
POSE = slice(0, 3 * NUM_JOINTS + 3)  # rotations and translation
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
class Surface:
    """Chosen vertices of the body at rest: what of them does not depend on the state.

    Attributes:
        template: (P, N, 3) metres. normals: (P, N, 3). directions: (P, N, 3 B).
        weights: (P, N, 24). part: (P, N) joint. bends: (P, 3 N, 207) or None: see ``posedirs``.
    """

    template: Tensor
    normals: Tensor
    directions: Tensor
    weights: Tensor
    part: Tensor
    bends: Tensor | None

    @staticmethod
    def of(body: BodyModel, vertices: Tensor) -> Surface:
        """Of vertices (P, N) int64."""
        return Surface(
            body.v_template[vertices],
            body.normals[vertices],
            body.shapedirs.flatten(1)[vertices],
            body.weights[vertices],
            body.part[vertices],
            None if body.posedirs is None else body.posedirs[vertices].flatten(1, 2),
        )

    def features(self, body: BodyModel, state: BodyState) -> Tensor:
        """(P, N, 96) phi: posed points are ``phi @ bones``.

        What poses make of the shape is taken in, but not differentiated: it changes little within
        a step.
        """
        betas = state.betas
        count, number = self.template.shape[:2]
        by_shape = self.directions.view(count, 3 * number, betas.shape[-1]) @ betas[..., None]
        if self.bends is not None:
            by_shape = by_shape + self.bends @ pose_features(state.rotations)[..., None]
        shaped = self.template + by_shape.view(count, number, 3)
        features = shaped.new_empty(count, number, 4, NUM_JOINTS)
        # The longest axis last: these few lines are a good part of a fit's time.
        arms = features[:, :, :3]
        torch.sub(shaped[..., None], body.rest_joints(betas).mT[:, None], out=arms)
        arms *= self.weights[:, :, None]
        features[:, :, 3] = self.weights
        return features.flatten(2)


@dataclass(frozen=True, eq=False)
class Linearization:
    """The bones around one state, metres.

    Attributes:
        bones: (P, 96, 3); row 24 c + j is axis c of joint j in the world, for c = 3 its place.
        turned: (P, 96, 3, D) their derivative.
        turn: (P, 24, 3, 3) global rotations.
        above: (P, 24, 3, 3) of each joint's parent, identity for the root's.
    """

    bones: Tensor
    turned: Tensor
    turn: Tensor
    above: Tensor

    @property
    def joints(self) -> Tensor:
        """(P, 24, 3)."""
        return self.bones[:, 3 * NUM_JOINTS :]

    def turn_surface(self, surface: Surface) -> Tensor:
        """(P, N, 3, 3): how the surface around each point is turned (not quite a rotation)."""
        return (surface.weights @ self.turn.flatten(2)).unflatten(-1, (3, 3))


def pose_bones(body: BodyModel, state: BodyState) -> Tensor:
    """(P, 96, 3) as in :class:`Linearization`."""
    turn, joints = body.skeleton(state.rotations, state.transl, state.betas)
    return torch.cat([turn.permute(0, 3, 1, 2), joints[:, None]], 1).flatten(1, 2)


@lru_cache(maxsize=8)
def _below(device: torch.device) -> Tensor:
    """(24 j, 24 k, 1), 1 where joint j moves when joint k turns."""
    return descendants(device).mT[..., None].contiguous()


def linearize(body: BodyModel, state: BodyState) -> Linearization:
    """Bones and derivatives at ``state``."""
    count, num_betas = len(state), state.betas.shape[1]
    turn, joints = body.skeleton(state.rotations, state.transl, state.betas)
    bones = torch.cat([turn.permute(0, 3, 1, 2), joints[:, None]], 1)  # (P, 4, 24, 3)
    identity = torch.eye(3, device=turn.device).expand(count, 1, 3, 3)
    above = torch.cat([identity, turn[:, PARENT_INDEX]], 1)

    # Turning joint k about its centre moves whatever hangs below it.
    lever = bones[:, :, :, None] * _below(turn.device)
    lever[:, 3] -= joints[:, None] * _below(turn.device)
    lever = lever.flatten(1, 2)  # (P, 96, 24, 3)
    last = 3 * NUM_JOINTS
    turned = lever.new_zeros(count, 4 * NUM_JOINTS, 3, last + 3 + num_betas)
    turned[:, :, 0, 1:last:3] = lever[..., 2]
    turned[:, :, 0, 2:last:3] = -lever[..., 1]
    turned[:, :, 1, 0:last:3] = -lever[..., 2]
    turned[:, :, 1, 2:last:3] = lever[..., 0]
    turned[:, :, 2, 0:last:3] = lever[..., 1]
    turned[:, :, 2, 1:last:3] = -lever[..., 0]
    turned[:, last:, :, TRANSLATION] = identity
    # Betas move the joints, and the arms from them to the surface the other way.
    turned[:, last:, :, BETAS] = _joint_shift(body, above) - turn @ body.joint_shapedirs
    return Linearization(bones.flatten(1, 2), turned, turn, above)


def joint_derivatives(body: BodyModel, line: Linearization) -> Tensor:
    """(P, 24, 3, D) of the joints' places."""
    turned = line.turned[:, 3 * NUM_JOINTS :].clone()
    turned[..., BETAS] += line.turn @ body.joint_shapedirs
    return turned


def _joint_shift(body: BodyModel, above: Tensor) -> Tensor:
    """(P, 24, 3, B) derivative of the posed joints by the betas."""
    rest = body.joint_shapedirs
    step = rest.clone()
    step[1:] -= rest[PARENT_INDEX]
    moved = above @ step
    below = descendants(above.device)
    return (below.mT @ moved.flatten(2)).view_as(moved)


def apply_increment(
    state: BodyState, line: Linearization, turn: Tensor, transl: Tensor, betas: Tensor
) -> BodyState:
    """The state after a step: increments (P, 24, 3) rad in world axes, (P, 3) m and (P, B)."""
    local = roma.rotvec_to_rotmat((line.above.mT @ turn[..., None])[..., 0])
    return BodyState(local @ state.rotations, state.transl + transl, state.betas + betas)
