"""A world that stays put: poses of unknown cameras, continued from frame set to frame set."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from hamst3r.alignment.placement import fit_poses, scaling
from hamst3r.geometry import make_T, rotation_angle, split_similarity

F64 = NDArray[np.float64]
# z-up world of a level camera: its x is the world's x, its view (z) the world's y.
LEVEL = make_T([[1, 0, 0], [0, 0, 1], [0, -1, 0]], np.zeros(3))


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

    def continue_with(self, solved: dict[str, F64]) -> tuple[F64, dict[str, F64], list[str]]:
        """Bring a group of cameras, solved in any axes, into this world.

        Returns:
            T_world_solved (4, 4) similarity; smoothed T_world_cam per camera; the names of
            cameras that moved. The first group ever is levelled: its first camera is the origin.
        """
        common = [name for name in solved if name in self.poses]
        if not common:
            first = next(iter(solved.values()))
            T = LEVEL @ np.linalg.inv(first)
            poses = {name: T @ pose for name, pose in solved.items()}
            for name, pose in poses.items():
                self.remember(name, pose)
            return T, poses, []
        T, moved = self._fit(solved, common)
        share = 1 / (1 + max(self.counts[name] for name in common))
        T = self._follow_scale(T, share)
        poses = {}
        for name, pose in solved.items():
            new = split_similarity(T @ pose)[0]
            if name in common and name not in moved:
                count = min(self.counts[name] + 1, self.window)
                new = _between(self.poses[name], new, 1 / count)
                self.counts[name] = count
            else:
                self.counts[name] = 1
            poses[name] = self.poses[name] = new
        return T, poses, moved

    def _fit(self, solved: dict[str, F64], common: list[str]) -> tuple[F64, list[str]]:
        """The similarity to the remembered poses; cameras that spoil it have moved."""
        staying = list(common)
        moved: list[str] = []
        while True:
            source = np.stack([solved[name] for name in staying])
            target = np.stack([self.poses[name] for name in staying])
            T = fit_poses(source, target)
            mapped = split_similarity(T @ source)[0]
            centres = target[:, :3, 3]
            spread = float(np.linalg.norm(centres - centres.mean(0), axis=1).max())
            shift = np.linalg.norm(mapped[:, :3, 3] - target[:, :3, 3], axis=1)
            excess = np.maximum(
                rotation_angle(mapped, target) / self.max_turn,
                shift / max(self.max_shift * spread, 1e-3),
            )
            worst = int(np.argmax(excess))
            if excess[worst] < 1:
                return T, moved
            if len(staying) < 3:  # Of two that disagree nobody can say which one moved.
                return T, [*moved, *staying]
            moved.append(staying.pop(worst))

    def _follow_scale(self, T: F64, share: float) -> F64:
        """Let the world take its share of the newly solved scale."""
        factor = float(split_similarity(T)[1]) ** -share
        growth = scaling(factor)
        self.poses = {name: split_similarity(growth @ pose)[0] for name, pose in self.poses.items()}
        return growth @ T


def _between(a: F64, b: F64, share: float) -> F64:
    turn = Rotation.from_matrix(a[:3, :3].T @ b[:3, :3]).as_rotvec()
    rotation = a[:3, :3] @ Rotation.from_rotvec(share * turn).as_matrix()
    return make_T(rotation, (1 - share) * a[:3, 3] + share * b[:3, 3])
