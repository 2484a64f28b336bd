"""A world that stays put: poses of unknown cameras, continued from frame set to frame set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from hamst3r.alignment.placement import fit_poses, scaling
from hamst3r.frames import Frame
from hamst3r.geometry import (
    make_T,
    rotation_angle,
    rotation_matrices,
    rotation_vectors,
    split_similarity,
)

F64 = NDArray[np.float64]
# z-up world of a level camera: its x is the world's x, its view (z) the world's y.
LEVEL = make_T([[1, 0, 0], [0, 0, 1], [0, -1, 0]], np.zeros(3))


def level_start(frames: Sequence[Frame], poses: Mapping[int, F64]) -> F64:
    """(4, 4) that takes the poses of a beginning to a world that is level, z up.

    The first camera becomes the origin. Gravity is what the frames tell of it; without, the first
    camera is assumed level.

    Args:
        poses: view -> (4, 4), in any axes; the first one is the first camera.
    """
    first = next(iter(poses))
    T = LEVEL @ np.linalg.inv(poses[first])
    told = [v for v in poses if frames[v].gravity is not None]
    if not told:
        return T
    weights = np.array([frames[v].gravity_std ** -2.0 for v in told])
    down = [T[:3, :3] @ poses[v][:3, :3] @ _unit(frames[v].gravity) for v in told]
    turn, _ = Rotation.align_vectors([[0, 0, -1.0]], [_unit(weights @ np.stack(down))])
    # The heading stays that of the camera: only the shortest turn is made.
    return make_T(turn.as_matrix(), np.zeros(3)) @ T


def _unit(vector: NDArray | None) -> F64:
    direction = np.asarray(vector, float)
    unit: F64 = direction / np.linalg.norm(direction)
    return unit


@dataclass
class World:
    """Remembers where each camera was, and how often it was seen there.

    A static rig is assumed to be noise around one arrangement: poses are running means over the
    last ``window`` frame sets, and so is the network's scale. A camera that left its place beyond
    the limits is taken at its new pose at once. If all cameras move together, the world moves
    with them; only known poses can tell.

    Attributes:
        window: Frame sets that the mean remembers.
        max_turn: Radians; max_shift: of the cameras' spread, beyond which a camera has moved.
    """

    window: int = 30
    max_turn: float = np.deg2rad(5)
    max_shift: float = 0.15
    poses: dict[str, F64] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def remember(self, name: str, T_world_cam: F64) -> None:
        """Take a pose as it is."""
        self.poses[name] = T_world_cam
        self.counts[name] = 1

    def continue_with(
        self, solved: dict[str, F64], frames: Mapping[str, Frame]
    ) -> tuple[F64, dict[str, F64], list[str]]:
        """Bring a group of cameras, solved in any axes, into this world.

        Args:
            frames: Of the cameras, for what they tell of gravity.

        Returns:
            T_world_solved (4, 4) similarity; smoothed T_world_cam per camera; the names of
            cameras that moved. The first group ever is levelled: its first camera is the origin.
        """
        common = [name for name in solved if name in self.poses]
        if not common:
            T = level_start([frames[name] for name in solved], dict(enumerate(solved.values())))
            poses = {name: T @ pose for name, pose in solved.items()}
            for name, pose in poses.items():
                self.remember(name, pose)
            return T, poses, []
        T, moved = self._fit(solved, common)
        share = 1 / (1 + max(self.counts[name] for name in common))
        T = self._follow_scale(T, share)
        placed = {name: split_similarity(T @ pose)[0] for name, pose in solved.items()}
        return T, self._mean(placed, moved), moved

    def _mean(self, placed: dict[str, F64], moved: Sequence[str]) -> dict[str, F64]:
        """Running means, begun anew for cameras that moved."""
        poses = dict(placed)
        again = [name for name in placed if name in self.poses and name not in moved]
        counts = [min(self.counts[name] + 1, self.window) for name in again]
        if again:
            before, new = (np.stack([p[name] for name in again]) for p in (self.poses, placed))
            poses.update(zip(again, _between(before, new, 1 / np.array(counts)), strict=True))
        self.poses.update(poses)
        self.counts.update(dict.fromkeys(placed, 1) | dict(zip(again, counts, strict=True)))
        return poses

    def _fit(self, solved: dict[str, F64], common: list[str]) -> tuple[F64, list[str]]:
        """The similarity to the remembered poses; cameras that spoil it have moved."""
        staying = list(common)
        moved: list[str] = []
        while True:
            source = np.stack([solved[name] for name in staying])
            target = np.stack([self.poses[name] for name in staying])
            T = fit_poses(source, target)
            excess = self._excess(split_similarity(T @ source)[0], target)
            worst = int(np.argmax(excess))
            if excess[worst] < 1:
                return T, moved
            if len(staying) < 3:  # Of two that disagree nobody can say which one moved.
                return T, [*moved, *staying]
            moved.append(staying.pop(worst))

    def _excess(self, poses: F64, remembered: F64) -> F64:
        """(n,) how far from their places cameras are, in units of what is still noise."""
        centres = remembered[:, :3, 3]
        spread = float(np.linalg.norm(centres - centres.mean(0), axis=1).max())
        shift = np.linalg.norm(poses[:, :3, 3] - centres, axis=1)
        return np.maximum(
            rotation_angle(poses, remembered) / self.max_turn,
            shift / max(self.max_shift * spread, 1e-3),
        )

    def _follow_scale(self, T: F64, share: float) -> F64:
        """Let the world take its share of the newly solved scale."""
        factor = float(split_similarity(T)[1]) ** -share
        growth = scaling(factor)
        self.poses = {name: split_similarity(growth @ pose)[0] for name, pose in self.poses.items()}
        return growth @ T


def _between(a: F64, b: F64, share: F64) -> F64:
    """(n, 4, 4) on the way from poses to others, after shares (n,) of it."""
    T = a.copy()
    turn = rotation_vectors(a[:, :3, :3].transpose(0, 2, 1) @ b[:, :3, :3])
    T[:, :3, :3] = a[:, :3, :3] @ rotation_matrices(share[:, None] * turn)
    T[:, :3, 3] += share[:, None] * (b[:, :3, 3] - a[:, :3, 3])
    return T
