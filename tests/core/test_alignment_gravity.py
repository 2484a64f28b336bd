"""Gravity from the floor and from people who stand, where no IMU tells it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from synthetic_pairs import EXACT, look_at, make_room, predict

from hamst3r.alignment.gravity import floor_gravity, people_gravity, seen_gravity, with_gravity
from hamst3r.alignment.incremental import Aligner, AlignerConfig
from hamst3r.alignment.observations import observe
from hamst3r.frames import FrameSet
from hamst3r.pairs import choose_pairs


def observed(room, pairs, people=True):
    masks = [p.astype(np.int32) if people else np.zeros_like(p) for p in room.people]
    names = [f"cam{v}" for v in range(len(room))]
    return observe(names, [m.shape for m in masks], pairs, masks, 300)


def both_ways(cameras):
    edges = choose_pairs(cameras)
    return [*edges, *((j, i) for i, j in edges)]


def down(room, view):
    return room.T_world_cam[view][:3, :3].T @ [0, 0, -1.0]


def angle(a, b):
    return float(np.arccos(np.clip(np.dot(a, b) / np.linalg.norm(a) / np.linalg.norm(b), -1, 1)))


def errors_and_stds(find):
    """Over 15 noisy rooms of 4 views: errors and stated deviations in radians, and the share."""
    found = []
    for seed in range(15):
        room = make_room(4, seed)
        observations = observed(room, predict(room, both_ways(4), seed))
        for view in range(4):
            gravity = find(observations, view)
            found.append(
                None if gravity is None else (angle(gravity.down, down(room, view)), gravity.std)
            )
    told = np.array([entry for entry in found if entry is not None])
    return told[:, 0], told[:, 1], len(told) / len(found)


def by_floor(observations, view):
    look = max(observations.own_looks(view), key=lambda look: float(look.w.sum()))
    return floor_gravity(look.X, look.w.astype(float))


def by_people(observations, view):
    look = max(observations.own_looks(view), key=lambda look: float(look.w.sum()))
    return people_gravity(look, observations.grids[view].people)


@pytest.mark.parametrize(
    ("find", "usual", "share"),
    [(by_floor, 0.02, 0.9), (by_people, 0.07, 0.9), (seen_gravity, 0.015, 1)],
)
def test_the_direction_is_as_sure_as_it_says(find, usual, share):
    errors, stds, found = errors_and_stds(find)
    assert np.median(errors) < usual and found >= share
    # Two angles err: 2 is expected of the squares; floors of real houses are less level than these.
    assert 0.1 < np.median((errors / stds) ** 2) / np.log(4) * 2 < 2.5
    assert np.mean(errors > 3 * stds) < 0.02


@pytest.mark.parametrize("pitch", [-60, -30, 0, 15])
def test_a_camera_may_look_up_or_down(pitch):
    rng = np.random.default_rng(0)
    floor = np.column_stack([rng.uniform(-4, 4, (400, 2)), np.zeros(400)])
    wall = np.column_stack([rng.uniform(-4, 4, 300), np.full(300, 4.0), rng.uniform(0, 3, 300)])
    side = np.column_stack([np.full(300, -2.0), rng.uniform(-4, 4, 300), rng.uniform(0, 3, 300)])
    T = look_at(np.array([0, -3.0, 1.6]), np.array([0, -2.0, 1.6 + np.tan(np.deg2rad(pitch))]))
    points = (np.concatenate([floor, wall, side]) - T[:3, 3]) @ T[:3, :3]
    seen = (points[:, 2] > 0.3) & (np.abs(points[:, :2]) < 0.8 * points[:, 2:]).all(1)
    gravity = floor_gravity(points, seen.astype(float))
    if (seen[:400]).sum() < 0.1 * seen.sum():
        assert gravity is None, "no floor is seen"
    else:
        # (The walls' feet are nearly of the floor.)
        assert angle(gravity.down, T[:3, :3].T @ [0, 0, -1.0]) < 0.02 and gravity.std < 0.03


def test_walls_alone_say_nothing():
    rng = np.random.default_rng(1)
    ahead = np.column_stack([rng.uniform(-2, 2, (300, 2)), np.full(300, 4.0)])
    left = np.column_stack([np.full(300, -2.0), rng.uniform(-2, 2, 300), rng.uniform(2, 4, 300)])
    ones = np.ones(600)
    assert floor_gravity(np.concatenate([ahead, left]), ones) is None
    assert floor_gravity(rng.normal([0, 0, 5], size=(600, 3)), ones) is None
    assert floor_gravity(np.zeros((600, 3)), ones) is None
    assert floor_gravity(ahead, np.zeros(300)) is None


def test_who_lies_is_not_asked():
    room = make_room(2, 3)
    pairs = predict(room, both_ways(2), 3, EXACT)
    look = observed(room, pairs).own_looks(0)[0]
    people = room.people[0].astype(np.int32)
    assert people_gravity(look, people) is not None
    assert people_gravity(look, -people) is None, "somebody, but nobody knows who"
    assert people_gravity(look, np.zeros_like(people)) is None
    lying = replace(look, points=look.points[..., [1, 0, 2]])
    assert people_gravity(lying, people) is None


def test_an_imu_is_believed_rather_than_the_floor():
    room = make_room(2, 5)
    observations = observed(room, predict(room, both_ways(2), 5, EXACT))
    frames = room.frames().frames
    told = replace(frames[0], gravity=np.array([0, 9.0, 1.0]), gravity_std=0.2)
    result = with_gravity([told, frames[1]], observations)
    assert result[0] is told
    assert angle(result[1].gravity, down(room, 1)) < 0.01 and 0.02 < result[1].gravity_std < 0.1


@pytest.mark.parametrize("floor", [True, False])
def test_a_world_of_unknown_cameras_is_righted_by_what_is_seen(floor):
    """By the floor, or, where nobody is sure of anything but people, by them."""
    tilts = {False: [], True: []}
    for seed in range(5):
        room = make_room(3, seed)
        pairs = predict(room, both_ways(3), seed)
        if not floor:
            pairs = [
                replace(
                    p,
                    conf_i=torch.where(torch.tensor(room.people[p.i] > 0), p.conf_i, 1.02),
                    conf_j=torch.where(torch.tensor(room.people[p.j] > 0), p.conf_j, 1.02),
                )
                for p in pairs
            ]
            pairs = [replace(p, pts_i=rough(p.pts_i, room.people[p.i], seed)) for p in pairs]
        people = [p.astype(np.int32) for p in room.people]
        for find in tilts:
            aligner = Aligner(AlignerConfig(find_gravity=find))
            result = aligner.solve(room.frames(), room.images(), pairs, people)
            turns = result.T_world_cam[:, :3, :3] @ room.T_world_cam[:, :3, :3].transpose(0, 2, 1)
            tilts[find].append(np.arccos(np.clip(turns[:, 2, 2], -1, 1)).mean())
    assert np.mean(tilts[False]) > np.deg2rad(10), "the first camera was taken for level"
    assert np.mean(tilts[True]) < np.deg2rad(1.5 if floor else 6)


def rough(points, people, seed):
    """What is not a person, too rough to be a floor."""
    noise = 1 + 0.15 * np.random.default_rng(seed).standard_normal(people.shape)
    return points * torch.tensor(np.where(people > 0, 1, noise)[..., None], dtype=torch.float32)


def test_a_tilted_calibration_is_righted_by_the_floor():
    room = make_room(4, 9)
    tilt = Rotation.from_euler("x", 4, degrees=True).as_matrix()
    frames = []
    for frame in room.frames(True).frames:
        T = frame.T_rig_cam.copy()
        T[:3] = tilt @ T[:3]
        loose = np.diag([0.1**2] * 3 + [np.deg2rad(5) ** 2] * 3)
        frames.append(replace(frame, T_rig_cam=T, T_rig_cam_covariance=loose))
    pairs = predict(room, choose_pairs(4), 9)
    people = [p.astype(np.int32) for p in room.people]
    tilts = []
    for find in (False, True):
        aligner = Aligner(AlignerConfig(find_gravity=find))
        result = aligner.solve(FrameSet(0, tuple(frames)), room.images(True), pairs, people)
        turns = result.T_world_cam[:, :3, :3] @ room.T_world_cam[:, :3, :3].transpose(0, 2, 1)
        tilts.append(np.rad2deg(np.arccos(np.clip(turns[:, 2, 2], -1, 1)).mean()))
    assert tilts[0] > 3 and tilts[1] < 1.5
