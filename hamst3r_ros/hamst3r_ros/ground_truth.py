"""What is true of a synthetic scene, in the type that a reconstruction has."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from hamst3r.people.body import anny24
from hamst3r.scene import (
    BodyFit,
    Camera,
    Contact,
    Person,
    PointCloud,
    ScaleSource,
    Scene,
    TrackingState,
)
from hamst3r.synthetic.bodies import PersonState
from hamst3r.synthetic.motion import MovingScene
from hamst3r.synthetic.render import SyntheticView
from hamst3r_ros.rig_publisher import optical_frame

LEFT_HIP, RIGHT_HIP = 1, 2
FEET = ((10, Contact.LEFT_FOOT), (11, Contact.RIGHT_FOOT))
LEVEL = 0.02  # metres: feet that differ by less in height both stand
STEP = 0.02  # seconds between the poses that velocities are taken from


class Truth:
    """The truth of a moving scene.

    Velocities are differences of poses, people stand on their lower foot, boxes are those of the
    visible pixels, and ``num_points`` counts these in all views.
    """

    def __init__(self, scene: MovingScene) -> None:
        self._scene = scene
        self._body = anny24()

    def at(self, time: float, views: Sequence[SyntheticView]) -> Scene:
        """The truth at ``time`` (seconds), when ``views`` were rendered; without points.

        Its stamp is the time in ns.
        """
        stamp = round(time * 1e9)
        cameras = tuple(
            Camera(
                name=v.name,
                frame_id=optical_frame(v.name),
                stamp=stamp,
                width=v.rgb.shape[1],
                height=v.rgb.shape[0],
                K=v.K,
                T_world_cam=v.T_world_cam,
                confidence=1.0,
            )
            for v in views
        )
        before, after = self._scene.at(time - STEP / 2), self._scene.at(time + STEP / 2)
        people = tuple(
            self._person(now, (later.joints - sooner.joints) / STEP, views)
            for sooner, now, later in zip(before, self._scene.at(time), after, strict=True)
        )
        return Scene(stamp, cameras, (), _nothing(), people, ScaleSource.CALIBRATION, 0.0)

    def _person(
        self, state: PersonState, motion: NDArray, views: Sequence[SyntheticView]
    ) -> Person:
        masks = {view.name: view.instances == state.id for view in views}
        hips = [LEFT_HIP, RIGHT_HIP]
        lowest = min(state.joints[joint, 2] for joint, _ in FEET)
        contacts = Contact.NONE
        for joint, foot in FEET:
            if state.joints[joint, 2] < lowest + LEVEL:
                contacts |= foot
        turns = Rotation.from_matrix(state.rotations).as_rotvec().astype(np.float32)
        fit = BodyFit(
            self._body.name,
            self._body.sha256,
            betas=state.betas.astype(np.float32),
            global_orient=turns[0],
            body_pose=turns[1:].ravel(),
            transl=state.transl.astype(np.float32),
            rmse=0.0,
            inliers=0,
        )
        return Person(
            id=state.id,
            state=TrackingState.OK,
            confidence=1.0,
            fit=fit,
            joints=state.joints.astype(np.float32),
            joint_std=np.zeros(len(state.joints), np.float32),
            position=state.joints[hips].mean(axis=0),
            covariance=np.zeros((3, 3)),
            velocity=motion[hips].mean(axis=0),
            num_points=sum(int(mask.sum()) for mask in masks.values()),
            rois={name: _box(mask) for name, mask in masks.items() if mask.any()},
            contacts=contacts,
        )


def _box(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    left, top = int(columns[0]), int(rows[0])
    return left, top, int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top


def _nothing() -> PointCloud:
    return PointCloud(
        xyz=np.zeros((0, 3), np.float32),
        rgb=np.zeros((0, 3), np.uint8),
        confidence=np.zeros(0, np.float32),
        label=np.zeros(0, np.uint8),
        instance=np.zeros(0, np.uint16),
        camera=np.zeros(0, np.uint8),
        body=np.zeros((0, 3), np.float32),
    )
