"""Parameters of people as tensors, as they are handed around, and their derivatives as tensors;
``kinematics.py`` computes these and says what they are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hamst3r.people import kinematics
from hamst3r.people.body import BodyModel
from hamst3r.people.kinematics import F32, Line, Pose, rig


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

    def pose(self) -> Pose:
        """The same as arrays."""
        return Pose(_array(self.rotations), _array(self.transl), _array(self.betas))

    @staticmethod
    def of(pose: Pose) -> BodyState:
        """Of arrays, sharing their memory."""
        parts = (pose.rotations, pose.transl, pose.betas)
        return BodyState(*map(torch.from_numpy, parts))

    @staticmethod
    def stack(states: list[BodyState]) -> BodyState:
        """People of several states as one batch."""
        return BodyState(
            torch.cat([state.rotations for state in states]),
            torch.cat([state.transl for state in states]),
            torch.cat([state.betas for state in states]),
        )


def _array(values: Tensor) -> F32:
    return np.ascontiguousarray(values.detach().cpu().numpy(), dtype=np.float32)


@dataclass(frozen=True, eq=False)
class Linearization:
    """:class:`~hamst3r.people.kinematics.Line` as tensors.

    Attributes:
        bones: (P, 96, 3) metres. turned: (P, 96, 3, D). line: The arrays.
    """

    bones: Tensor
    turned: Tensor
    line: Line

    @property
    def joints(self) -> Tensor:
        """(P, 24, 3)."""
        return self.bones[:, 3 * kinematics.NUM_JOINTS :]


def pose_bones(body: BodyModel, state: BodyState) -> Tensor:
    """(P, 96, 3) as in :class:`Linearization`."""
    return torch.from_numpy(kinematics.pose_bones(rig(body), state.pose()))


def linearize(body: BodyModel, state: BodyState) -> Linearization:
    """Bones and derivatives at ``state``."""
    line = kinematics.linearize(rig(body), state.pose())
    return Linearization(torch.from_numpy(line.bones), torch.from_numpy(line.turned), line)


def apply_increment(
    state: BodyState, linearization: Linearization, turn: Tensor, transl: Tensor, betas: Tensor
) -> BodyState:
    """The state after a step: increments (P, 24, 3) rad in world axes, (P, 3) m and (P, B)."""
    step = (_array(turn), _array(transl), _array(betas))
    return BodyState.of(kinematics.apply_increment(state.pose(), linearization.line, *step))
