"""Cameras that stand still: their poses converge, and then do not change at all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from hamst3r.geometry import invert, make_T

F64 = NDArray[np.float64]


@dataclass
class Stillness:
    """Means of poses for as long as nothing moves by more than its standard deviation allows.

    A frame set's deviations are estimated of few pairs, and small by chance now and then: where
    their mean squares are larger, those decide.

    Attributes:
        gate: Standard deviations beyond which something has moved. floor: Metres and radians that
            are always taken for noise. freeze_after: Frame sets after which poses are constant,
            until their mean is off by more than twice the floor.
    """

    gate: float = 3.0
    floor: tuple[float, float] = (0.003, 0.001)
    freeze_after: int = 30
    _mean: dict[str, F64] = field(default_factory=dict)
    _variance: dict[str, F64] = field(default_factory=dict)
    _shown: dict[str, F64] = field(default_factory=dict)
    _count: int = 0

    def calm(self, poses: Mapping[str, F64], std: Mapping[str, F64]) -> dict[str, F64]:
        """The poses (4, 4) to be used; ``std``: (6,) of a step of each."""
        common = [name for name in poses if name in self._mean]
        floor = np.repeat(self.floor, 3)
        steps = {name: _step(self._mean[name], poses[name]) for name in common}
        still = bool(common) and all(
            _excess(steps[name], np.maximum(std[name], self._variance[name] ** 0.5), floor)
            < self.gate
            for name in common
        )
        if not still:
            self._mean = {name: pose.copy() for name, pose in poses.items()}
            self._variance = {name: std[name] ** 2 for name in poses}
            self._shown = dict(self._mean)
            self._count = 1
            return dict(poses)
        self._count += 1
        share = 1 / min(self._count, 10 * self.freeze_after)
        for name, pose in poses.items():
            if name in steps:
                self._mean[name] = _moved(self._mean[name], share * steps[name])
                self._variance[name] += share * (std[name] ** 2 - self._variance[name])
            else:
                self._mean[name], self._variance[name] = pose, std[name] ** 2
        frozen = self._count > self.freeze_after
        for name in poses:
            shown = self._shown.get(name)
            off = None if shown is None else np.abs(_step(shown, self._mean[name]))
            if off is None or not frozen or (off > 2 * floor).any():
                self._shown[name] = self._mean[name]
        return {name: self._shown[name] for name in poses}

    def carry(self, T: F64) -> None:
        """The frame that the poses are in has moved: T_new_old (4, 4)."""
        self._mean = {name: T @ pose for name, pose in self._mean.items()}
        self._shown = {name: T @ pose for name, pose in self._shown.items()}


def _excess(step: F64, std: F64, floor: F64) -> float:
    """How many standard deviations, on average over the axes, a step goes beyond the floor."""
    beyond = np.maximum(np.abs(step) - floor, 0) / np.maximum(std, 1e-9)
    return float(np.sqrt((beyond**2).mean()))


def _step(a: F64, b: F64) -> F64:
    """(6,) that takes pose a to b, from the right."""
    E = invert(a) @ b
    return np.append(E[:3, 3], Rotation.from_matrix(E[:3, :3]).as_rotvec())


def _moved(T: F64, step: F64) -> F64:
    return T @ make_T(Rotation.from_rotvec(step[3:]).as_matrix(), step[:3])
