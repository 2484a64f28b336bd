"""Cameras that move: keyframes, the world and the map, rigs, loops, losing the way and back."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from simulated_drive import Drive, DriveEngine, trajectory_error
from synthetic_pairs import EXACT

from hamst3r.alignment.incremental import AlignerConfig
from hamst3r.alignment.stream import StreamConfig
from hamst3r.geometry import invert, make_T, rotation_angle
from hamst3r.pairs import Pairing
from hamst3r.people.track import TrackingConfig
from hamst3r.reconstructor import Reconstructor, ReconstructorConfig
from hamst3r.scene import ScaleSource

SMALL = {"width": 48, "height": 36}


class Run:
    """A reconstruction of a drive, and what it found and what is true of its first camera."""

    def __init__(self, stream: StreamConfig | None = None, **drive) -> None:
        self.drive = Drive(**{**SMALL, **drive})
        self.engine = DriveEngine(self.drive)
        config = ReconstructorConfig(
            pairing=Pairing.RIG,
            tracking=TrackingConfig(bodies=False),
            alignment=AlignerConfig(stream=stream or StreamConfig()),
        )
        self.reconstructor = Reconstructor(self.engine, config)
        self.world: list[np.ndarray] = []
        self.map: list[np.ndarray] = []
        self.true: list[np.ndarray] = []

    def go(self, steps, cameras=None, **known):
        """Push frame sets; the last scene."""
        for step in steps:
            self.engine.step = step
            scene = self.reconstructor.push(self.drive.frame_set(step, cameras, **known))
            if scene.cameras:
                first = scene.cameras[0]
                self.world.append(first.T_world_cam)
                self.map.append(scene.T_map_world @ first.T_world_cam)
                self.true.append(self.engine.views()[int(first.name[3:])].T_world_cam)
        return scene

    def error(self, scale=True) -> float:
        found, true = (np.stack(x)[:, :3, 3] for x in (self.map, self.true))
        return trajectory_error(found, true, scale)

    def jump(self) -> float:
        """Largest difference (m) of a step of the world from the true one, over the true scale."""
        return max(
            np.linalg.norm((invert(a) @ b)[:3, 3] - (invert(s) @ t)[:3, 3])
            for (a, b), (s, t) in zip(pairwise(self.world), pairwise(self.true), strict=True)
        )


def test_a_rig_that_drives_is_followed_without_jumps():
    run = Run()
    scene = run.go(range(45))
    travelled = np.linalg.norm(run.true[-1][:3, 3] - run.true[0][:3, 3])
    assert travelled > 1.5 and run.error() < 0.03 * travelled
    assert run.jump() < 0.1
    assert len(scene.cameras) == 4 and scene.scale_source is ScaleSource.NETWORK
    assert np.rad2deg(rotation_angle(*_relative(run))) < 3


def _relative(run):
    return invert(run.map[0]) @ run.map[-1], invert(run.true[0]) @ run.true[-1]


def test_an_exact_rig_is_exact_and_metric_while_it_moves():
    run = Run()
    drive = run.drive
    scene = run.go(range(40), K=drive.K_image, T_rig_cam=list(drive.T_rig_cam))
    assert scene.scale_source is ScaleSource.CALIBRATION and scene.scale_std < 0.05
    rig = scene.cameras[0].T_world_cam @ invert(drive.T_rig_cam[0])
    for camera, T_rig_cam, K in zip(scene.cameras, drive.T_rig_cam, drive.K_image, strict=True):
        np.testing.assert_allclose(camera.T_world_cam, rig @ T_rig_cam, atol=1e-12)
        np.testing.assert_array_equal(camera.K, K)
    assert run.error(scale=False) < 0.06


def test_the_world_of_a_rig_begins_as_its_frame():
    run = Run()
    scene = run.go([0], T_rig_cam=list(run.drive.T_rig_cam))
    for camera, T in zip(scene.cameras, run.drive.T_rig_cam, strict=True):
        np.testing.assert_allclose(camera.T_world_cam, T, atol=1e-6)


def test_a_lone_camera_that_moves_is_paired_with_its_past():
    run = Run(cameras=1)
    run.go(range(60))
    travelled = np.linalg.norm(run.true[-1][:3, 3] - run.true[0][:3, 3])
    assert len(run.map) == 60 and run.error() < 0.05 * travelled


@pytest.mark.parametrize(("cameras", "seed"), [(1, 0), (4, 0), (4, 2)])
def test_cameras_that_stand_still_converge_and_freeze(cameras, seed):
    run = Run(cameras=cameras, seed=seed, speed=0.0)
    scene = run.go(range(45))
    steps = [np.abs(b - a).max() for a, b in pairwise(run.world)]
    assert max(steps[-8:]) == 0, "frozen"
    assert run.jump() < 0.1 and np.allclose(scene.T_map_world, np.eye(4))
    assert np.linalg.norm(run.world[-1][:3, 3] - run.world[0][:3, 3]) < 0.05
    assert sum(len(k.views) for k in _graph(run).keyframes) == cameras, "one keyframe is enough"


def _graph(run):
    return run.reconstructor._aligner._stream.graph


def test_memory_is_bounded_and_old_keyframes_are_marginalised():
    config = StreamConfig(window=2, keyframes=4, parallax=0.05)
    run = Run(config, cameras=2, people=1)
    kept = []
    for step in range(40):
        run.go([step])
        graph = _graph(run)
        kept.append((len(graph.keyframes), len(graph.nodes.T), len(graph._factors)))
    assert kept[-1][0] == 4 and graph._made > 8
    assert max(nodes for _, nodes, _ in kept) <= 5 * 3
    assert len({factors for _, _, factors in kept[-8:]}) <= 2
    # All engines' features of images that are gone may be freed.
    images = [v.image for k in graph.keyframes for v in k.views.values()]
    assert len(run.engine._truth) <= len(images) + 2
    assert run.error() < 0.06


def test_cameras_leave_and_join():
    run = Run()
    run.go(range(10))
    assert len(run.go(range(10, 20), cameras=[0, 1, 3]).cameras) == 3
    scene = run.go(range(20, 30))
    assert len(scene.cameras) == 4
    true = [view.T_world_cam for view in run.engine.views()]
    found = [camera.T_world_cam for camera in scene.cameras]
    for k in range(1, 4):
        off = invert(invert(true[0]) @ true[k]) @ invert(found[0]) @ found[k]
        assert rotation_angle(off, np.eye(4)) < np.deg2rad(4)
        assert np.linalg.norm(off[:3, 3]) < 0.15


def test_a_rig_is_learned_and_then_places_a_camera_that_sees_nothing():
    run = Run(cameras=3)
    run.go(range(35))
    learned = run.reconstructor._aligner._stream._rig.trusted
    assert len(learned) == 3
    run.engine.blind = {2}
    scene = run.go(range(35, 40))
    assert [camera.name for camera in scene.cameras] == ["cam0", "cam1", "cam2"]
    true = [view.T_world_cam for view in run.engine.views()]
    found = [camera.T_world_cam for camera in scene.cameras]
    off = invert(invert(true[0]) @ true[2]) @ invert(found[0]) @ found[2]
    assert rotation_angle(off, np.eye(4)) < np.deg2rad(3) and np.linalg.norm(off[:3, 3]) < 0.12


def test_a_camera_that_is_turned_on_the_rig_is_no_longer_trusted():
    run = Run(cameras=3, speed=0.0)
    run.go(range(30))
    run.drive.T_rig_cam[2] = run.drive.T_rig_cam[2] @ make_T(
        [[0.94, 0, 0.342], [0, 1, 0], [-0.342, 0, 0.94]], [0.2, 0, 0]
    )
    run.drive.T_rig_cam[2, :3, :3] = _orthogonal(run.drive.T_rig_cam[2, :3, :3])
    scene = run.go(range(30, 45))
    true = [view.T_world_cam for view in run.engine.views()]
    found = [camera.T_world_cam for camera in scene.cameras]
    off = invert(invert(true[0]) @ true[2]) @ invert(found[0]) @ found[2]
    assert rotation_angle(off, np.eye(4)) < np.deg2rad(3)


def _orthogonal(R):
    U, _, Vt = np.linalg.svd(R)
    return U @ Vt


def test_the_way_back_is_found_after_a_gap():
    run = Run()
    run.go(range(40))
    before = run.map[-1]
    scene = run.go(range(90, 92), cameras=None)  # Five seconds, three metres further on.
    scene = run.go(range(20, 24))  # Back where a kept keyframe was made.
    assert len(scene.cameras) == 4
    assert run.error() < 0.12
    assert np.linalg.norm(before[:3, 3] - run.map[-1][:3, 3]) > 0.5


def test_blind_cameras_say_that_they_are_lost_and_come_back():
    run = Run()
    run.go(range(20))
    run.engine.blind = {0, 1, 2, 3}
    scene = run.go(range(20, 23))
    assert not scene.cameras
    assert any(note.startswith("lost: nothing of what was seen") for note in scene.notes)
    run.engine.blind = set()
    scene = run.go(range(23, 26))
    assert len(scene.cameras) == 4 and not any("lost" in note for note in scene.notes)
    assert run.error() < 0.08


def test_a_place_that_is_not_found_again_is_a_new_one():
    run = Run(StreamConfig(give_up=3), cameras=2)
    run.go(range(10))
    run.engine.blind = {0, 1}
    notes = [note for k in range(10, 16) for note in run.go([k]).notes]
    assert any("the map begins anew" in note for note in notes)
    run.engine.blind = set()
    assert len(run.go(range(16, 19)).cameras) == 2


def test_a_loop_is_closed_and_the_world_does_not_jump():
    """Once round a small circle: at its end the old keyframes are recognised."""
    config = StreamConfig(window=2, keyframes=14, loop_every=2)
    run = Run(config, cameras=2, people=2, speed=3.0)
    laps = range(120)
    run.go(laps)
    graph = _graph(run)
    robust = [f for f in graph._factors if getattr(f, "robust", False)]
    assert robust, "an old keyframe was paired with a new one"
    assert run.jump() < 0.25
    odometry = trajectory_error(np.stack(run.world)[:, :3, 3], np.stack(run.true)[:, :3, 3], True)
    assert run.error() < 1.1 * odometry
    assert not np.allclose(_stream(run).T_map_world, np.eye(4))


def _stream(run):
    return run.reconstructor._aligner._stream


def test_the_world_is_righted_slowly():
    run = Run(cameras=2)
    run.go(range(3))
    stream = _stream(run)
    tilt = make_T(
        [[1, 0, 0], [0, np.cos(0.02), -np.sin(0.02)], [0, np.sin(0.02), np.cos(0.02)]], [0, 0, 0]
    )
    stream.T_map_world = tilt @ stream.T_map_world
    found = []
    for k in range(3, 8):
        run.go([k])
        found.append(np.arccos(np.clip(stream.T_map_world[2, 2], -1, 1)))
    turns = -np.diff(found)
    assert (turns > 0).any() and turns.max() < np.deg2rad(0.051) + 5e-3
    assert found[-1] < found[0]


def test_reset_forgets_the_past():
    run = Run(cameras=2)
    run.go(range(8))
    run.reconstructor.reset()
    assert not _graph(run).keyframes
    scene = run.go([8])
    np.testing.assert_allclose(scene.cameras[0].T_world_cam[:3, 3], 0, atol=1e-9)


def test_people_who_walk_do_not_carry_the_cameras_away():
    """Five people, all of whose masks are missing: what moves is told by its residuals."""
    run = Run(missed=1.0, people=8)
    run.go(range(30))
    assert run.error() < 0.08


@pytest.mark.parametrize("cameras", [1, 2])
def test_a_beginning_in_the_dark(cameras):
    """Black images first: nothing sensible can be said, and nothing stays of it."""
    run = Run(StreamConfig(give_up=3), cameras=cameras, people=1)
    run.engine.blind = set(range(cameras))
    for step in range(3):
        check_finite(run.go([step]))
    run.engine.blind = set()
    for step in range(3, 9):
        scene = run.go([step])
        check_finite(scene)
    assert len(scene.cameras) == cameras


def check_finite(scene):
    assert np.isfinite(scene.T_map_world).all() and np.isfinite(scene.scale_std)
    assert np.isfinite(scene.points.xyz).all()
    for camera, view in zip(scene.cameras, scene.views, strict=True):
        assert np.isfinite(camera.T_world_cam).all() and np.isfinite(camera.K).all()
        assert np.isfinite(view.depth).all()


def test_a_scene_whose_camera_never_moved_has_one_map():
    """Two identical images: a robot that stands, and the same camera name again and again."""
    run = Run(cameras=1, people=0, speed=0.0, noise=EXACT)
    scene = run.go(range(5))
    check_finite(scene)
    np.testing.assert_allclose(run.world[-1], run.world[0], atol=2e-3)


@pytest.mark.parametrize(("window", "keyframes"), [(0, 5), (5, 5)])
def test_settings_are_checked(window, keyframes):
    with pytest.raises(ValueError, match="less than keyframes"):
        StreamConfig(window=window, keyframes=keyframes)


class Apart(DriveEngine):
    """Cameras that look away from each other: only a camera's pairs with its past show anything."""

    def predict(self, images, edges):
        cameras = [image.camera for image in images]
        result = []
        for p in super().predict(images, edges):
            if cameras[p.i] != cameras[p.j]:
                rng = np.random.default_rng([p.i, p.j])
                noise = rng.normal([0, 0, 2], 0.5, p.pts_j.shape).astype(np.float32)
                p = replace(p, pts_j=torch.tensor(noise), conf_j=torch.full_like(p.conf_j, 1.002))
            result.append(p)
        return result


@pytest.mark.parametrize("known", ["exact", "uncertain", "nothing"])
def test_cameras_that_look_away_from_each_other(known):
    """As on many robots. The rig ties them; where nothing does, one camera goes its way."""
    run = Run(cameras=3)
    run.engine = run.reconstructor.engine = Apart(run.drive)
    drive, covariance = run.drive, np.diag([0.01**2] * 3 + [0.01**2] * 3)
    fields = {"K": drive.K_image, "T_rig_cam": list(drive.T_rig_cam)}
    if known == "uncertain":
        fields["T_rig_cam_covariance"] = [covariance] * 3
    counts = [len(run.go([k], **(fields if known != "nothing" else {})).cameras) for k in range(25)]
    assert counts == [0] * 5 + [1 if known == "nothing" else 3] * 20, "waited for pairs that fit"
    travelled = np.linalg.norm(run.true[-1][:3, 3] - run.true[0][:3, 3])
    assert travelled > 0.6 and run.error() < 0.06 * travelled
