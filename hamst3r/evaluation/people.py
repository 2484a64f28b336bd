"""People of a scene against true people: who is who, and what stands in for a body not fitted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.spatial.transform import Rotation

from hamst3r.export.geometry import pose_bodies
from hamst3r.geometry import transform
from hamst3r.people.body import JOINT_NAMES, BodyModel, anny24
from hamst3r.people.joint_sets import JOINT_SETS
from hamst3r.people.joint_sets import joints as regressed
from hamst3r.scene import Person, Scene, TrackingState

F64 = NDArray[np.float64]

MIN_IOU = 0.25  # of masks over all views together; less is not the same person


@dataclass(frozen=True, eq=False)
class People:
    """People that a scene reports as seen now (not those remembered from before).

    Attributes:
        ids: (P,). joints: (P, J, 3) metres in the scene's world, of one set of joints.
        joint_std: (P, J) metres, NaN without a fitted body, and for joints that are not its own.
        fitted: (P,) whether the joints are those of a fitted body. Otherwise a body stands in: mean
            shape, upright, arms hanging, its hips where the person's are said to be, facing the
            middle of the cameras. So a person found but not fitted has an error like any other.
    """

    ids: NDArray[np.int64]
    joints: F64
    joint_std: F64
    fitted: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.ids)

    def moved(self, T: F64) -> People:
        """The same people after T (4, 4)."""
        return replace(self, joints=transform(T, self.joints))


def people_of(scene: Scene, joint_set: str | None = None) -> People:
    """Everybody whom the scene reports as seen now.

    Args:
        joint_set: Of :data:`~hamst3r.people.joint_sets.JOINT_SETS`, regressed from the surface of
            the embedded body model; None: the body's own 24.

    Raises:
        ValueError: Joints are to be regressed from another body model's surface.
    """
    seen = [p for p in scene.people if p.state in (TrackingState.NEW, TrackingState.OK)]
    centres = [camera.T_world_cam[:3, 3] for camera in scene.cameras]
    middle = np.mean(centres, axis=0) if centres else np.zeros(3)
    fitted = [p for p in seen if p.fit is not None]
    own = {p.id: p.joints.astype(float) for p in fitted}
    std = {p.id: p.joint_std.astype(float) for p in fitted}
    if joint_set is not None:
        own, std = _regressed(fitted, joint_set), {}
    joints = [own[p.id] if p.id in own else standing(p.position, middle, joint_set) for p in seen]
    number = len(JOINT_NAMES if joint_set is None else JOINT_SETS[joint_set])
    unknown = np.full(number, np.nan)
    return People(
        np.array([p.id for p in seen], np.int64),
        np.array(joints, float).reshape(-1, number, 3),
        np.array([std.get(p.id, unknown) for p in seen], float).reshape(-1, number),
        np.array([p.fit is not None for p in seen], bool),
    )


def _regressed(fitted: Sequence[Person], joint_set: str) -> dict[int, F64]:
    """Id -> (J, 3) joints of a set, from the surfaces of fitted bodies."""
    body = anny24()
    others = {p.fit.model for p in fitted if p.fit and p.fit.model_sha256 != body.sha256}
    if others:
        raise ValueError(f"{joint_set} needs fits of {body.name}, not of {', '.join(others)}")
    surfaces = {k: torch.from_numpy(v)[None] for k, v in pose_bodies(fitted, body).items()}
    return {
        k: regressed(body, joint_set, surface)[0].numpy().astype(float)
        for k, surface in surfaces.items()
    }


def standing(position: NDArray, towards: NDArray, joint_set: str | None = None) -> F64:
    """(J, 3) joints of a mean body whose hips are at ``position``, facing ``towards``, z up."""
    x, y = (np.asarray(towards, float) - position)[:2]
    yaw = np.arctan2(y, x) + np.pi / 2  # the body below faces -y
    return position + _standing(anny24(), joint_set) @ Rotation.from_euler("z", yaw).as_matrix().T


@lru_cache(maxsize=4)
def _standing(body: BodyModel, joint_set: str | None = None) -> F64:
    """Joints of the mean body, arms down, facing -y in a z-up world, its hips at the origin."""
    rotations = np.tile(np.eye(3), (len(JOINT_NAMES), 1, 1))
    rotations[0] = Rotation.from_euler("x", 90, degrees=True).as_matrix()
    for side, turn in (("left", -75), ("right", 75)):
        joint = JOINT_NAMES.index(f"{side}_shoulder")
        rotations[joint] = Rotation.from_euler("z", turn, degrees=True).as_matrix()
    vertices, joints = body(
        torch.from_numpy(rotations).float()[None],
        torch.zeros(1, 3),
        torch.zeros(1, body.shapedirs.shape[-1]),
    )
    hips = joints[0, 1:3].mean(0)
    if joint_set is not None:
        joints = regressed(body, joint_set, vertices)
    return (joints[0] - hips).numpy().astype(float)


def match(ious: NDArray, least: float = MIN_IOU) -> list[tuple[int, int]]:
    """Who is who: pairs (predicted, true) of the largest sum of overlaps, each at least ``least``.

    Args:
        ious: (P, Q) intersections over unions of masks, over all views together.
    """
    rows, columns = linear_sum_assignment(-np.asarray(ious, float))
    return [
        (int(row), int(column))
        for row, column in zip(rows, columns, strict=True)
        if ious[row, column] >= least
    ]
