"""A hand-made prior of joint rotations: free of any data set, and enough to place unseen limbs.

Mean and standard deviation of the axis-angle of each joint relative to its parent, in radians, per
axis of SMPL's rest frame (x left, y up, z front). Ranges follow what joints do in everyday poses.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from hamst3r.people.body import JOINT_NAMES, NUM_JOINTS

Triple = tuple[float, float, float]

# Name without side -> (mean, standard deviation) on the left; the right mirrors y and z.
_RANGES = {
    "hip": ((-0.3, 0.0, 0.0), (0.7, 0.35, 0.3)),
    "knee": ((0.4, 0.0, 0.0), (0.7, 0.15, 0.12)),
    "ankle": ((0.0, 0.0, 0.0), (0.35, 0.25, 0.2)),
    "foot": ((0.0, 0.0, 0.0), (0.15, 0.1, 0.1)),
    "spine1": ((0.05, 0.0, 0.0), (0.25, 0.2, 0.15)),
    "spine2": ((0.05, 0.0, 0.0), (0.25, 0.2, 0.15)),
    "spine3": ((0.05, 0.0, 0.0), (0.25, 0.2, 0.15)),
    "neck": ((0.0, 0.0, 0.0), (0.3, 0.3, 0.25)),
    "head": ((0.0, 0.0, 0.0), (0.3, 0.4, 0.25)),
    "collar": ((0.0, 0.0, -0.15), (0.12, 0.2, 0.2)),
    "shoulder": ((0.1, -0.3, -0.8), (0.5, 0.7, 0.6)),
    "elbow": ((0.0, -0.6, 0.0), (0.35, 0.7, 0.25)),
    "wrist": ((0.0, 0.0, 0.0), (0.4, 0.3, 0.35)),
    "hand": ((0.0, 0.0, 0.0), (0.1, 0.1, 0.1)),
}


# The same of somebody who stands or walks, arms down: where evidence tells little of the limbs.
_STANDING = {
    "hip": ((-0.1, 0.0, 0.03), (0.4, 0.15, 0.12)),
    "knee": ((0.2, 0.0, 0.0), (0.4, 0.05, 0.05)),
    "ankle": ((0.0, 0.0, 0.0), (0.2, 0.1, 0.1)),
    "foot": ((0.0, 0.0, 0.0), (0.05, 0.05, 0.05)),
    "spine1": ((0.03, 0.0, 0.0), (0.12, 0.1, 0.08)),
    "spine2": ((0.03, 0.0, 0.0), (0.12, 0.1, 0.08)),
    "spine3": ((0.03, 0.0, 0.0), (0.12, 0.1, 0.08)),
    "neck": ((0.0, 0.0, 0.0), (0.15, 0.15, 0.12)),
    "head": ((0.0, 0.0, 0.0), (0.15, 0.2, 0.12)),
    "collar": ((0.0, 0.0, -0.1), (0.05, 0.08, 0.08)),
    "shoulder": ((0.1, -0.1, -1.05), (0.3, 0.3, 0.35)),
    "elbow": ((0.0, -0.3, 0.0), (0.1, 0.35, 0.1)),
    "wrist": ((0.0, 0.0, 0.0), (0.1, 0.1, 0.1)),
    "hand": ((0.0, 0.0, 0.0), (0.05, 0.05, 0.05)),
}


@lru_cache(maxsize=8)
def pose_prior(device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """Mean and standard deviation, each (24, 3) float32 radians; the root's are not to be used.

    Shared between calls: copy before changing.
    """
    mean, std = _table(_RANGES)
    return mean.to(device), std.to(device)


@lru_cache(maxsize=1)
def standing_prior() -> tuple[Tensor, Tensor]:
    """As :func:`pose_prior`, of people who stand."""
    return _table(_STANDING)


def _table(ranges: dict[str, tuple[Triple, Triple]]) -> tuple[Tensor, Tensor]:
    mean = torch.zeros(NUM_JOINTS, 3)
    std = torch.ones(NUM_JOINTS, 3)
    for joint, name in enumerate(JOINT_NAMES):
        if joint == 0:
            continue
        side, _, part = name.rpartition("_")
        centre, spread = ranges[part]
        mirror = torch.tensor([1.0, -1.0, -1.0]) if side == "right" else torch.ones(3)
        mean[joint] = torch.tensor(centre) * mirror
        std[joint] = torch.tensor(spread)
    return mean, std


# What joints cannot do, from anatomy (ranges of motion with a margin): lowest and highest
# axis-angle on the left, radians; None where the range above says enough.
_LIMITS = {
    "hip": ((-2.4, -1.1, -1.0), (0.7, 1.1, 1.2)),
    "knee": ((-0.1, -0.5, -0.4), (2.7, 0.5, 0.4)),
    "ankle": ((-0.8, -0.7, -0.6), (1.0, 0.7, 0.6)),
    "elbow": ((-1.3, -2.7, -0.8), (1.3, 0.15, 0.8)),
    "wrist": ((-1.4, -0.9, -1.3), (1.4, 0.9, 1.3)),
}
LIMIT_STD = 0.1  # radians, softness of a limit


@lru_cache(maxsize=8)
def joint_limits(device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """Lowest and highest rotation vector, each (24, 3) float32 radians, infinite where free.

    Shared between calls: copy before changing.
    """
    low = torch.full((NUM_JOINTS, 3), -torch.inf)
    high = torch.full((NUM_JOINTS, 3), torch.inf)
    for joint, name in enumerate(JOINT_NAMES):
        side, _, part = name.rpartition("_")
        if part not in _LIMITS:
            continue
        least, most = (torch.tensor(limit) for limit in _LIMITS[part])
        if side == "right":  # mirrored: y and z turn the other way
            mirror = torch.tensor([1.0, -1.0, -1.0])
            least, most = (
                torch.minimum(least * mirror, most * mirror),
                torch.maximum(least * mirror, most * mirror),
            )
        low[joint], high[joint] = least, most
    return low.to(device), high.to(device)
