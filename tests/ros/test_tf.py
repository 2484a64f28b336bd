"""Looking up frames."""

from __future__ import annotations

import numpy as np
import pytest
from geometry_msgs.msg import TransformStamped
from hamst3r_ros.headers import to_time, to_transform
from hamst3r_ros.tf import HISTORY, FrameBuffer
from scipy.spatial.transform import Rotation


def pose(seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    T = np.eye(4)
    T[:3, :3] = Rotation.random(random_state=seed).as_matrix()
    T[:3, 3] = random.normal(size=3)
    return T


@pytest.fixture
def buffer() -> FrameBuffer:
    """map -> base -> (arm -> cam1, cam2), and island on its own."""
    it = FrameBuffer()
    it.add(
        [to_transform(5, "map", "base", pose(1)), to_transform(5, "base", "arm", pose(2))], False
    )
    it.add(
        [to_transform(0, "arm", "cam1", pose(3)), to_transform(0, "base", "cam2", pose(4))], True
    )
    it.add([to_transform(0, "sea", "island", pose(5))], True)
    return it


def test_up_down_and_across(buffer):
    T = pose(1) @ pose(2) @ pose(3)
    np.testing.assert_allclose(buffer.lookup("map", "cam1", 5), T, atol=1e-12)
    np.testing.assert_allclose(buffer.lookup("cam1", "map", 5), np.linalg.inv(T), atol=1e-12)
    across = np.linalg.inv(pose(4)) @ pose(2) @ pose(3)
    np.testing.assert_allclose(buffer.lookup("cam2", "cam1", 5), across, atol=1e-12)
    np.testing.assert_allclose(buffer.lookup("/map", "/cam1", 5), T, atol=1e-12)
    np.testing.assert_allclose(buffer.lookup("cam1", "cam1", 5), np.eye(4))


def test_frames_that_are_not_connected(buffer):
    assert buffer.lookup("map", "island", 5) is None
    assert buffer.lookup("map", "nowhere", 5) is None


def test_moving_frames_are_taken_at_the_nearest_time():
    it = FrameBuffer()
    for step in range(2 * HISTORY):
        it.add([to_transform(100 * step, "w", "c", pose(step))], False)
    last = 2 * HISTORY - 1
    for stamp, step in ((100 * last, last), (100 * last + 999, last), (100 * 300 + 49, 300)):
        np.testing.assert_allclose(it.lookup("w", "c", stamp), pose(step), atol=1e-12)
    # Older than what is kept: the oldest kept.
    np.testing.assert_allclose(it.lookup("w", "c", 0), pose(last - HISTORY + 1), atol=1e-12)


def test_time_that_begins_anew():
    it = FrameBuffer()
    it.add([to_transform(100_000_000_000, "w", "c", pose(1))], False)
    it.add([to_transform(99_000_000_000, "w", "c", pose(2))], False)  # merely late
    np.testing.assert_allclose(it.lookup("w", "c", 0), pose(1), atol=1e-12)
    it.add([to_transform(1_000_000_000, "w", "c", pose(3))], False)
    np.testing.assert_allclose(it.lookup("w", "c", 100_000_000_000), pose(3), atol=1e-12)


def test_a_frame_may_change_its_parent_and_static_frames_their_pose(buffer):
    buffer.add([to_transform(9, "map", "arm", pose(8))], False)
    np.testing.assert_allclose(buffer.lookup("map", "cam1", 9), pose(8) @ pose(3), atol=1e-12)
    buffer.add([to_transform(0, "arm", "cam1", pose(9))], True)
    np.testing.assert_allclose(buffer.lookup("map", "cam1", 9), pose(8) @ pose(9), atol=1e-12)


def test_loops_and_broken_transforms_do_no_harm(buffer):
    broken = TransformStamped(child_frame_id="cam1")
    broken.header.frame_id, broken.header.stamp = "arm", to_time(9)
    broken.transform.rotation.w = float("nan")
    before = buffer.lookup("map", "cam1", 5)
    buffer.add([broken], True)
    np.testing.assert_array_equal(buffer.lookup("map", "cam1", 5), before)
    broken.transform.rotation.w = 0.0  # no rotation at all
    buffer.add([broken, TransformStamped()], True)
    np.testing.assert_array_equal(buffer.lookup("map", "cam1", 5), before)
    buffer.add([to_transform(5, "cam1", "map", pose(1))], False)  # map below cam1 below map
    assert buffer.lookup("nowhere", "cam1", 5) is None
    assert buffer.lookup("base", "cam1", 5) is not None
