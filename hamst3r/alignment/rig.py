"""Which cameras are rigid to each other: told by a calibration, or learned and then trusted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from hamst3r.alignment.factors import DOF, Relative, pose_information
from hamst3r.frames import Frame
from hamst3r.geometry import invert, make_T

F64 = NDArray[np.float64]
# What stands for exact: a micrometre, a microradian.
EXACT = 1e12


@dataclass
class _Link:
    """Running mean and scatter of one camera's pose in another one's axes."""

    mean: F64
    scatter: F64  # (6,) mean squares of steps
    count: int = 1
    strikes: int = 0


@dataclass
class LearnedRig:
    """Relative poses that stay the same while all cameras move are those of a rig.

    A link of two cameras is trusted after ``trust_after`` frame sets whose scatter is that of a
    rigid link: its mean then is a prior, with the scatter over the square root of the count, at
    least a fifth of the scatter (a network's errors repeat themselves). A camera that is elsewhere
    ``forget_after`` times in a row has been moved: what was learned of it is forgotten.

    Attributes:
        max_shift: Of the baseline or depth unit (metres), and max_turn (radians): a scatter above
            is no rig.
    """

    trust_after: int = 20
    forget_after: int = 5
    max_shift: float = 0.15
    max_turn: float = np.deg2rad(4)
    window: int = 200
    _links: dict[tuple[str, str], _Link] = field(default_factory=dict)

    def learn(self, poses: Mapping[str, F64]) -> list[str]:
        """Take the poses of one frame set, solved without what was learned; names that moved."""
        blamed: dict[str, int] = {}
        for a, b in combinations(sorted(poses), 2):
            T = invert(poses[a]) @ poses[b]
            link = self._links.get((a, b))
            if link is None:
                self._links[a, b] = _Link(T, np.zeros(6))
                continue
            E = invert(link.mean) @ T
            step = np.append(E[:3, 3], Rotation.from_matrix(E[:3, :3]).as_rotvec())
            limit = 4 * np.sqrt(link.scatter) + np.repeat([0.02, 0.01], 3)
            if link.count >= self.trust_after and (np.abs(step) > limit).any():
                link.strikes += 1
                if link.strikes >= self.forget_after:
                    for name in (a, b):
                        blamed[name] = blamed.get(name, 0) + 1
                continue
            link.strikes = 0
            link.count = min(link.count + 1, self.window)
            share = 1 / link.count
            turn = Rotation.from_rotvec(share * step[3:]).as_matrix()
            link.mean = link.mean @ make_T(turn, share * step[:3])
            link.scatter = link.scatter + share * (step**2 - link.scatter)
        return self._forget(blamed)

    def _forget(self, blamed: dict[str, int]) -> list[str]:
        """The cameras that most of the broken links share are those that moved."""
        most = max(blamed.values(), default=0)
        moved = [name for name, count in blamed.items() if count == most]
        for link in [link for link in self._links if set(link) & set(moved)]:
            del self._links[link]
        return moved

    @property
    def trusted(self) -> dict[tuple[str, str], tuple[F64, F64]]:
        """(a, b) -> T_a_b and the (6,) standard deviations of a step of it."""
        result = {}
        for names, link in self._links.items():
            std = np.sqrt(link.scatter)
            rigid = (std[:3] < self.max_shift).all() and (std[3:] < self.max_turn).all()
            if link.count >= self.trust_after and rigid:
                least = np.array([1e-3] * 3 + [5e-4] * 3)
                spread = np.maximum(std * np.maximum(link.count**-0.5, 0.2), least)
                result[names] = link.mean, spread
        return result


def rig_factors(frames: Sequence[Frame], learned: LearnedRig, rig: int) -> list[Relative]:
    """What is known of the cameras' poses relative to each other.

    Nodes are the views, and ``rig`` is one of the rig's frame, to which told poses are relative.
    """
    told = {v: f.T_rig_cam for v, f in enumerate(frames) if f.T_rig_cam is not None}
    factors: list[Relative] = []
    if told:
        known = np.stack([_information(frames[v]) for v in told])
        factors.append(_links([rig] * len(told), list(told), np.stack(list(told.values())), known))
    at = {f.camera: v for v, f in enumerate(frames)}
    rows = [
        (at[a], at[b], T, np.diag(std**-2.0))
        for (a, b), (T, std) in learned.trusted.items()
        if a in at and b in at and not (frames[at[a]].pose_is_exact and frames[at[b]].pose_is_exact)
    ]
    if rows:
        i, j, T_i_j, known_links = (list(column) for column in zip(*rows, strict=True))
        factors.append(_links(i, j, np.stack(T_i_j), np.stack(known_links)))
    return factors


def _links(i: Sequence[int], j: Sequence[int], T_i_j: F64, known: F64) -> Relative:
    information = np.zeros((len(known), DOF, DOF))
    information[:, :6, :6] = known
    none = np.zeros(len(known))
    return Relative(np.array(i), np.array(j), T_i_j, none, information, metric=True)


def _information(frame: Frame) -> F64:
    covariance = frame.T_rig_cam_covariance
    if frame.pose_is_exact or covariance is None or frame.T_rig_cam is None:
        return EXACT * np.eye(6)
    return pose_information(frame.T_rig_cam, covariance)
