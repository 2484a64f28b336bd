"""A scene with everything in it: exact geometry, people, and one of them with a body."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from roma import rotvec_to_rotmat
from synthetic_pairs import make_room
from test_reconstructor import ExactEngine

from hamst3r.people.body import anny24
from hamst3r.reconstructor import Reconstructor
from hamst3r.scene import BodyFit, Contact, Person, Scene, TrackingState


def body_fit() -> tuple[BodyFit, np.ndarray]:
    """A standing body in a z-up world, and its joints (24, 3)."""
    rng = np.random.default_rng(3)
    body = anny24()
    parameters = {
        "betas": rng.normal(0, 0.5, 10),
        "global_orient": np.array([np.pi / 2, 0, 0]),
        "body_pose": rng.normal(0, 0.1, 69),
        "transl": np.array([0.4, 0.5, 1.0]),
    }
    arrays = {name: value.astype(np.float32) for name, value in parameters.items()}
    turns = np.r_[arrays["global_orient"], arrays["body_pose"]].reshape(1, 24, 3)
    _, joints = body(
        rotvec_to_rotmat(torch.from_numpy(turns)),
        torch.from_numpy(arrays["transl"])[None],
        torch.from_numpy(arrays["betas"])[None],
    )
    fit = BodyFit(body.name, body.sha256, **arrays, rmse=0.02, inliers=321, facing=0.75)
    return fit, joints[0].numpy()


def make_scene() -> tuple[Scene, dict[str, np.ndarray]]:
    """A scene, and camera -> image."""
    room = make_room(3, 1)
    frames = room.frames(poses=True)
    scene = Reconstructor(ExactEngine(room)).push(frames)
    fit, joints = body_fit()
    person = Person(
        id=7,
        state=TrackingState.OK,
        confidence=0.8,
        fit=fit,
        joints=joints,
        joint_std=np.full(24, 0.03, np.float32),
        position=joints[:3].mean(0).astype(float),
        covariance=0.01 * np.eye(3),
        velocity=np.array([0.1, 0, 0]),
        num_points=0,
        rois={"cam0": (1, 2, 30, 40)},
        contacts=Contact.LEFT_FOOT | Contact.SEAT,
    )
    scene = replace(scene, people=(*scene.people, person), notes=("a note",))
    return scene, {frame.camera: frame.image for frame in frames.frames}
