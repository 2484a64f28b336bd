"""The map keeps what stays, never people, and loses what turns out not to be there."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hamst3r.geometry import invert, transform, unproject
from hamst3r.scene import Camera, Person, PointCloud, ScaleSource, Scene, TrackingState, View
from hamst3r.static_map import StaticMap

K = np.array([[40.0, 0, 19.5], [0, 40, 14.5], [0, 0, 1]])
H, W = 30, 40
T = np.array([[0.0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 1], [0, 0, 0, 1]])  # looks along world x


def scene(depth: np.ndarray, person: np.ndarray | None = None, colour: int = 100) -> Scene:
    """What one camera at (0, 0, 1) sees: its depth, and where a person is in the image."""
    instances = np.zeros((H, W), np.uint16) if person is None else person.astype(np.uint16)
    count = depth.size
    points = PointCloud(
        xyz=transform(T, unproject(depth, K)).reshape(-1, 3).astype(np.float32),
        rgb=np.full((count, 3), colour, np.uint8),
        confidence=np.full(count, 2, np.float32),
        label=(instances.ravel() > 0).astype(np.uint8),
        instance=instances.ravel(),
        camera=np.zeros(count, np.uint8),
        body=np.full((count, 3), np.nan, np.float32),
    )
    view = View(
        "a",
        K,
        depth.astype(np.float32),
        np.full((H, W), 2, np.float32),
        np.full((H, W, 3), colour, np.uint8),
        instances,
        np.full((H, W, 3), np.nan, np.float32),
    )
    camera = Camera("a", "a_frame", 1, W, H, K, T, 1.0)
    return Scene(1, (camera,), (view,), points, (), ScaleSource.CALIBRATION, 0.0)


WALL = np.full((H, W), 4.0)
PATCH = np.zeros((H, W), bool)
PATCH[10:20, 15:25] = True
IN_FRONT = np.where(PATCH, 2.0, 4.0)


def near(xyz: np.ndarray) -> int:
    return int((xyz[:, 0] < 3).sum())


def test_a_wall_is_in_the_map_once_it_was_seen_often_enough():
    it = StaticMap()
    for colour in (50, 150, 50):
        it.add(scene(WALL, colour=colour), 0.2, 10000)
    assert len(it.confirmed()[0]) == 0
    it.add(scene(WALL, colour=150), 0.2, 10000)
    xyz, rgb = it.confirmed()
    assert len(xyz) and np.allclose(xyz[:, 0], 4, atol=1e-4)
    # One point per cube, and as many as the wall (4.0 x 3.0 m) has.
    assert len(np.unique(np.floor(xyz / 0.2), axis=0)) == len(xyz)
    assert 15 * 20 <= len(xyz) <= 17 * 22
    assert set(rgb.ravel()) == {100}


def test_people_never_enter():
    it = StaticMap()
    for _ in range(5):
        it.add(scene(IN_FRONT, PATCH), 0.1, 10000)
    xyz, _ = it.confirmed()
    assert len(xyz) and near(xyz) == 0


def test_what_went_away_goes_from_the_map_and_what_is_hidden_stays():
    it = StaticMap()
    for _ in range(30):
        it.add(scene(WALL), 0.1, 10000)
    wall = len(it.confirmed()[0])
    for _ in range(30):
        it.add(scene(IN_FRONT), 0.1, 10000)
    xyz, _ = it.confirmed()
    assert near(xyz) > 20
    assert len(xyz) - near(xyz) == wall  # the wall behind is hidden, not gone
    for _ in range(10):
        it.add(scene(WALL), 0.1, 10000)
    xyz, _ = it.confirmed()
    assert near(xyz) == 0 and len(xyz) == wall


def test_a_person_whom_a_mask_claims_later_leaves_at_once():
    it = StaticMap()
    for _ in range(4):
        it.add(scene(IN_FRONT), 0.1, 10000)
    assert near(it.confirmed()[0])
    it.add(scene(IN_FRONT, PATCH), 0.1, 10000)
    assert near(it.confirmed()[0]) == 0
    for _ in range(10):
        it.add(scene(WALL), 0.1, 10000)
    known = len(it.confirmed()[0])
    # What is known well stays, though somebody leans against it.
    it.add(scene(np.where(PATCH, 3.9, 4.0), PATCH), 0.1, 10000)
    assert len(it.confirmed()[0]) == known


def tracked(made: Scene, at: np.ndarray, known: bool = True) -> Scene:
    """The scene with a person there, whom its view does not show."""
    person = Person(
        7,
        TrackingState.PREDICTED,
        0.5,
        None,
        np.empty((0, 3), np.float32),
        np.empty(0, np.float32),
        at,
        np.eye(3),
        None,
        0,
    )
    return replace(made, people=(person,) if known else ())


@pytest.mark.parametrize("known", [True, False])
def test_whom_a_view_misses_does_not_enter_where_the_tracker_knows_him(known):
    it = StaticMap()
    for _ in range(12):
        it.add(tracked(scene(IN_FRONT), np.array([2.0, 0, 1]), known), 0.1, 10000)
    xyz, _ = it.confirmed()
    assert len(xyz) > 100 and (near(xyz) == 0) == known


def test_bodies_without_an_instance_do_not_enter():
    it = StaticMap()
    made = scene(IN_FRONT)
    made.points.body[PATCH.ravel()] = 0.5
    for _ in range(12):
        it.add(made, 0.1, 10000)
    assert len(it.confirmed()[0]) and near(it.confirmed()[0]) == 0


@pytest.mark.parametrize(("sets", "stays"), [(5, False), (30, True)])
def test_what_was_there_for_a_moment_is_forgotten_where_nobody_looks(sets, stays):
    it = StaticMap()
    for _ in range(sets):
        it.add(scene(WALL), 0.1, 10000)
    seen = len(it.confirmed()[0])
    elsewhere = scene(np.zeros((H, W)))
    elsewhere = replace(
        elsewhere, points=PointCloud(**{k: c[:0] for k, c in vars(elsewhere.points).items()})
    )
    for _ in range(100):
        it.add(elsewhere, 0.1, 10000)
    assert len(it.confirmed()[0]) == seen
    it.add(elsewhere, 0.1, 10000)
    assert (len(it.confirmed()[0]) > 0) == stays


def test_the_map_follows_what_is_corrected_between_map_and_world():
    it = StaticMap()
    for _ in range(6):
        it.add(scene(WALL), 0.1, 10000)
    before, _ = it.confirmed()
    drifted = scene(WALL)
    shift = np.eye(4)
    shift[:3, 3] = 5, 0, 0  # The world has drifted; in the map all is where it was.
    moved = replace(
        drifted,
        cameras=(replace(drifted.cameras[0], T_world_cam=invert(shift) @ T),),
        points=replace(drifted.points, xyz=drifted.points.xyz - np.float32([5, 0, 0])),
        T_map_world=shift,
    )
    it.add(moved, 0.1, 10000)
    after, _ = it.confirmed()
    np.testing.assert_allclose(after, before - np.float32([5, 0, 0]), atol=1e-3)


def test_a_limit_keeps_what_is_known_best():
    it = StaticMap()
    for _ in range(5):
        it.add(scene(WALL), 0.1, 10000)
    it.add(scene(np.full((H, W), 3.9)), 0.1, 200)
    xyz, _ = it.confirmed()
    assert len(xyz) == 200 and np.allclose(xyz[:, 0], 4, atol=1e-4)


def test_another_size_of_cubes_and_clearing_start_anew():
    it = StaticMap()
    for _ in range(4):
        it.add(scene(WALL), 0.1, 10000)
    it.add(scene(WALL), 0.2, 10000)
    assert len(it.confirmed()[0]) == 0
    for _ in range(3):
        it.add(scene(WALL), 0.2, 10000)
    assert len(it.confirmed()[0])
    it.clear()
    assert len(it.confirmed()[0]) == 0


@pytest.mark.parametrize("far", [1e7, -1e7])
def test_points_beyond_all_cubes_are_left_out(far):
    it = StaticMap()
    made = scene(WALL)
    made.points.xyz[:, 2] += far
    for _ in range(4):
        it.add(made, 0.05, 10000)
    assert len(it.confirmed()[0]) == 0


def test_nothing_at_all():
    it = StaticMap()
    nothing = Scene(1, (), (), scene(WALL).points, (), ScaleSource.UNKNOWN, 0.0)
    empty = PointCloud(**{name: column[:0] for name, column in vars(nothing.points).items()})
    it.add(Scene(1, (), (), empty, (), ScaleSource.UNKNOWN, 0.0), 0.1, 10)
    assert it.confirmed()[0].shape == (0, 3)
