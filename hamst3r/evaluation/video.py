"""A person's and a moving camera's way through a video, and what is wrong with them.

A chunk of 100 frames is solved as one place: every fifth frame is a view (JOSH's keyframes), and
chunks share a frame, by which the next one continues the world of the last. With the cameras found,
every keyframe is reconstructed once more by itself for its person; between keyframes joints and
cameras are interpolated.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hamst3r.evaluation.datasets.base import Case, Clip, Shot
from hamst3r.evaluation.people import MIN_IOU, people_of
from hamst3r.evaluation.samples import Samples
from hamst3r.evaluation.trajectories import (
    CHUNK,
    root_translation_error,
    trajectory_errors,
    w_mpjpe,
    wa_mpjpe,
)
from hamst3r.frames import Frame, FrameSet
from hamst3r.geometry import invert, project, transform
from hamst3r.people.body import JOINT_NAMES
from hamst3r.reconstructor import Engine, Reconstructor, ReconstructorConfig

F64 = NDArray[np.float64]

STEP = 5  # frames from one keyframe to the next


def score_clip(engine: Engine, case: Case | Clip, config: ReconstructorConfig) -> Samples:
    """Errors of one video."""
    assert isinstance(case, Clip)
    samples = Samples()
    count = len(case.shots)
    keys = sorted({*range(0, count, STEP), count - 1})
    poses = camera_way(engine, case, keys, config)
    samples.add("placed", *[key in poses for key in keys])
    joints = np.full((count, len(JOINT_NAMES), 3), np.nan)
    for key, pose in poses.items():
        found = _person(engine, case, key, pose, config)
        if np.isfinite(case.joints[key]).any():
            samples.add("found", found is not None)
        if found is not None:
            joints[key] = found
    joints = interpolated(joints)
    samples.add("w", *w_mpjpe(joints, case.joints))
    samples.add("wa", *wa_mpjpe(joints, case.joints))
    samples.add("rte", root_translation_error(joints[:, 0], case.joints[:, 0]))
    centres = np.full((count, 3), np.nan)
    for key, pose in poses.items():
        centres[key] = pose[:3, 3]
    true = np.array([_pose(shot)[:3, 3] for shot in case.shots])
    errors = trajectory_errors(interpolated(centres), true)
    if np.isfinite(errors).any():
        samples.add("ate", float(np.sqrt(np.nanmean(errors**2))))
    return samples


def camera_way(
    engine: Engine, clip: Clip, keys: Sequence[int], config: ReconstructorConfig
) -> dict[int, F64]:
    """T_world_cam of the keyframes that could be placed, in the world of the first chunk."""
    poses: dict[int, F64] = {}
    T_world_chunk = np.eye(4)
    per_chunk = CHUNK // STEP
    for start in range(0, max(len(keys) - 1, 1), per_chunk):
        part = keys[start : start + per_chunk + 1]  # the last one is the next chunk's first
        frames = tuple(_frame(clip.shots[key]) for key in part)
        scene = Reconstructor(engine, config).push(FrameSet(0, frames))
        by_name = {clip.shots[key].name: key for key in part}
        found = {by_name[camera.name]: camera.T_world_cam for camera in scene.cameras}
        shared = next((key for key in found if key in poses), None)
        if poses and shared is None:
            continue  # this chunk has no place among the others
        if shared is not None:
            T_world_chunk = poses[shared] @ invert(found[shared])
        poses |= {key: T_world_chunk @ T for key, T in found.items() if key not in poses}
    return poses


def _person(
    engine: Engine, clip: Clip, key: int, pose: F64, config: ReconstructorConfig
) -> F64 | None:
    """(24, 3) joints of whoever has the true person's pixels, None if nobody does."""
    shot = clip.shots[key]
    true = clip.joints[key][np.isfinite(clip.joints[key]).all(-1)]
    if len(true) == 0 or shot.K is None:
        return None
    scene = Reconstructor(engine, config).push(FrameSet(0, (_frame(shot, pose),)))
    people = people_of(scene)
    if len(people) == 0 or not scene.views:
        return None
    view = scene.views[0]
    T_grid_image = view.K @ np.linalg.inv(scene.cameras[0].K)
    pixels = project(transform(invert(_pose(shot)), true), T_grid_image @ shot.K)
    height, width = view.instances.shape
    places = pixels[np.isfinite(pixels).all(1)].round().astype(int)
    u, v = places[((places >= 0) & (places < [width, height])).all(1)].T
    held = (view.instances[v, u] == people.ids[:, None]).sum(1)
    best = int(held.argmax())
    return people.joints[best] if held[best] >= max(1, MIN_IOU * len(u)) else None


def _frame(shot: Shot, pose: F64 | None = None) -> Frame:
    return Frame(shot.name, 0, shot.image(), K=shot.K, T_rig_cam=pose)


def _pose(shot: Shot) -> F64:
    if shot.T_world_cam is None:
        raise ValueError(f"{shot.name}: a video needs the true pose of every frame")
    return shot.T_world_cam


def interpolated(values: F64) -> F64:
    """Values (T, ...) with the NaN ones between known ones filled linearly, the ends held."""
    flat = values.reshape(len(values), -1)
    times = np.arange(len(values))
    result = flat.copy()
    for column in range(flat.shape[1]):
        known = np.isfinite(flat[:, column])
        if known.any():
            result[:, column] = np.interp(times, times[known], flat[known, column])
    return result.reshape(values.shape)
