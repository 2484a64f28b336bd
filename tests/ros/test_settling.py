"""Cameras that never move: their poses are kept once they have converged."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from bench import FAILURE, K, ring
from hamst3r_ros.headers import from_transform, to_nanoseconds
from hamst3r_ros.settling import SETS, Settling
from scipy.spatial.transform import Rotation
from test_conversions import scene
from tf2_msgs.msg import TFMessage

from hamst3r.frames import Frame, FrameSet
from hamst3r.scene import ScaleSource


def looks(count: int, noise: float, degrees: float = 0.0):
    """Scenes of two cameras, each as far from its place as the noise takes it."""
    random = np.random.default_rng(0)
    base = replace(scene(), scale_source=ScaleSource.BODIES, scale_std=0.07)
    for _ in range(count):
        cameras = []
        for camera in base.cameras:
            T = camera.T_world_cam.copy()
            T[:3, 3] += noise * random.normal(size=3)
            turn = np.deg2rad(degrees) * random.normal(size=3)
            T[:3, :3] = Rotation.from_rotvec(turn).as_matrix() @ T[:3, :3]
            cameras.append(replace(camera, T_world_cam=T))
        yield replace(base, cameras=tuple(cameras))


def frame_set(**more) -> FrameSet:
    pixels = np.zeros((480, 640, 3), np.uint8)
    return FrameSet(5, (Frame("/rig/a", 5, pixels, **more), Frame("late", 5, pixels)))


def test_poses_that_have_converged_are_kept():
    it = Settling()
    for look in looks(SETS - 1, 1e-3):
        assert it.seen(look) is look and it.known(frame_set()).frames[0].T_rig_cam is None
    it.seen(next(looks(1, 1e-3)))
    assert set(it.settled.cameras) == {"/rig/a", "/rig/b"}
    first, late = it.known(frame_set()).frames
    np.testing.assert_allclose(first.T_rig_cam, ring("ab")["a"], atol=1e-3)
    np.testing.assert_array_equal(first.K, scene().cameras[0].K)
    assert late.T_rig_cam is None and late.K is None
    # Nothing better that is known is put aside, and no K of another size is taken.
    known = it.known(frame_set(T_rig_cam=np.eye(4), K=2 * K)).frames[0]
    assert (known.T_rig_cam == np.eye(4)).all() and (known.K == 2 * K).all()
    small = FrameSet(5, (Frame("/rig/a", 5, np.zeros((48, 64, 3), np.uint8)),))
    assert it.known(small).frames[0].K is None and it.known(small).frames[0].T_rig_cam is not None
    # Known poses look like a calibration: where the scale was from is not forgotten.
    after = it.seen(replace(scene(), scale_source=ScaleSource.CALIBRATION))
    assert (after.scale_source, after.scale_std) == (ScaleSource.BODIES, 0.07)
    it.reset()
    assert it.settled is None and it.known(frame_set()).frames[0].T_rig_cam is None


def test_poses_that_wander_are_not_kept():
    for noise, degrees in ((0.05, 0.0), (0.0, 1.0)):
        it = Settling()
        for look in looks(3 * SETS, noise, degrees):
            it.seen(look)
        assert it.settled is None
    it = Settling()
    for look in looks(2 * SETS, 1e-3):  # and not while cameras come and go
        it.seen(look)
        it.seen(replace(look, cameras=look.cameras[:1]))
    assert it.settled is None


def test_the_node_keeps_poses_and_goes_on_saying_where_cameras_are(bench):
    it = bench(("a", "b"), world__static_cameras=True, tf__rate=20.0, world__known_extrinsics="tf")
    it.put_up()
    frames = it.listen(TFMessage, "/tf", 100)
    it.activate()
    it.until(lambda: it.value("world", "kept_poses") == "a, b", it.shoot)
    it.shoot()

    def stamps() -> list[int]:
        return [to_nanoseconds(m.transforms[0].header.stamp) for m in frames]

    it.until(lambda: len(frames) > SETS and it.stamp in stamps())  # all that was shot is out
    count = len(frames)
    it.until(lambda: len(frames) > count + 5)  # without images
    last = stamps()[-3:]
    assert last[1] - last[0] > 0 and last[-1] > it.stamp
    poses = [[from_transform(t.transform) for t in m.transforms] for m in frames[-4:]]
    for other in poses[1:]:
        np.testing.assert_array_equal(other, poses[0])


def test_cameras_cannot_both_move_and_not(bench):
    it = bench(("a", "b"), world__static_cameras=True, pairs="rig")
    assert it.node.trigger_configure() == FAILURE
    it.until(lambda: it.problems("'world.static_cameras' is true, but 'pairs' is 'rig'"))
