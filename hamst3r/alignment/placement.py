"""What a solver hands to the depth fusion: cameras, and every usable look, placed in the world."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from hamst3r.alignment.factors import Relative
from hamst3r.geometry import make_T, mean_rotation

F64 = NDArray[np.float64]
Slot = tuple[int, int]  # (index of the pair, 0 for its first view or 1 for its second)


@dataclass(frozen=True)
class PairScore:
    """How far a pair agrees with all the others.

    Attributes:
        i, j: Views.
        score: In [0, 1], the share of its points that agree with the solution.
        used: Whether the solution rests on it.
    """

    i: int
    j: int
    score: float
    used: bool


@dataclass(frozen=True, eq=False)
class Placement:
    """Cameras and looks in the world.

    Attributes:
        T_world_cam: view -> (4, 4) rigid; views that are missing were not placed.
        T_world_look: (pair, 0 or 1) -> (4, 4) similarity from the pair's points to the world.
        agreement: view -> share in [0, 1] of its evidence that agrees with the pose.
        log_scales: Per used pair, log of its scale in the world (0 = as the network says).
        groups: Placed views that hang together.
        notes: What went wrong.
        focal_factor: view -> what multiplies its guessed focal length. focal_variance: view -> of
            the log of what the pairs alone say of it, where that was found out.
        scores: Of all pairs of two views that could be judged.
        measured: Per group, what its pairs know of the poses, if that was asked for.
    """

    T_world_cam: dict[int, F64]
    T_world_look: dict[Slot, F64]
    agreement: dict[int, float]
    log_scales: tuple[float, ...]
    groups: tuple[tuple[int, ...], ...] = ()
    notes: tuple[str, ...] = ()
    focal_factor: dict[int, float] = field(default_factory=dict)
    focal_variance: dict[int, float] = field(default_factory=dict)
    scores: tuple[PairScore, ...] = ()
    measured: tuple[Relative, ...] = ()

    def without(self, views: Collection[int]) -> Placement:
        """The same, some views not placed."""
        groups = (tuple(v for v in group if v not in views) for group in self.groups)
        return replace(
            self,
            T_world_cam={v: T for v, T in self.T_world_cam.items() if v not in views},
            groups=tuple(group for group in groups if group),
        )


def fit_poses(source: F64, target: F64) -> F64:
    """The similarity that best maps camera poses (n, 4, 4) to others of the same cameras.

    Rotations decide the rotation (one camera suffices), centres the rest; the scale is 1 where
    all centres coincide.
    """
    rotation = mean_rotation(target[:, :3, :3] @ source[:, :3, :3].transpose(0, 2, 1))
    centres = [poses[:, :3, 3] for poses in (source, target)]
    means = [c.mean(0) for c in centres]
    spread = [float(np.linalg.norm(c - m)) for c, m in zip(centres, means, strict=True)]
    scale = spread[1] / spread[0] if min(spread) > 1e-6 else 1.0
    return make_T(rotation, means[1] - scale * rotation @ means[0], scale)


def scaling(factor: float) -> F64:
    """(4, 4) scaling about the origin."""
    return make_T(np.eye(3), np.zeros(3), factor)
