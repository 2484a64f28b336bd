"""Parameters of people as tensors, as they are handed around; ``kinematics.py`` has them as arrays,
and what follows from them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hamst3r.people.kinematics import F32, Pose


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
