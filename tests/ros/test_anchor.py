"""The world in a frame that the robot knows, over real DDS."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from bench import FAILURE, ring
from geometry_msgs.msg import PoseStamped
from hamst3r_msgs.srv import SetAnchor
from hamst3r_ros.anchor import in_map
from hamst3r_ros.headers import from_transform, to_nanoseconds, to_pose, to_transform
from scipy.spatial.transform import Rotation
from std_msgs.msg import Header
from test_conversions import scene
from tf2_msgs.msg import TFMessage

T_MAP_RIG = np.eye(4)
T_MAP_RIG[:3, :3] = Rotation.from_rotvec([0, 0, 0.7]).as_matrix()
T_MAP_RIG[:3, 3] = [3.0, -2.0, 0.5]


def world_in(frames: list[TFMessage], parent: str) -> np.ndarray | None:
    """T_parent_world of the newest message, None if it is not in there."""
    for transform in frames[-1].transforms if frames else ():
        if transform.child_frame_id == "hamst3r_world" and transform.header.frame_id == parent:
            first = frames[-1].transforms[0].header.stamp
            assert to_nanoseconds(transform.header.stamp) == to_nanoseconds(first)
            return from_transform(transform.transform)
    return None


def set_anchor(it, **fields) -> SetAnchor.Response:
    client = it.peer.create_client(SetAnchor, "/hamst3r/set_anchor")
    it.until(client.service_is_ready)
    answer = client.call_async(SetAnchor.Request(**fields))
    it.until(answer.done)
    return answer.result()


@pytest.fixture
def anchored(bench):
    it = bench(
        ("a", "b"),
        world__known_extrinsics="tf",
        tf__mode="anchor",
        world__anchor_camera="a",
        world__anchor_frame="map",
    )
    it.put_up()
    frames = it.listen(TFMessage, "/tf", 100)
    it.activate()
    return it, frames


def test_a_camera_known_on_tf_ties_the_world_to_its_frame(anchored):
    it, frames = anchored
    it.until(lambda: "on TF; the world is not anchored" in it.message("world"), it.shoot)
    assert world_in(frames, "map") is None
    it.static([to_transform(0, "map", "rig", T_MAP_RIG)])
    it.until(lambda: world_in(frames, "map") is not None, it.shoot)
    # The world is the rig's frame: every camera is known.
    np.testing.assert_allclose(world_in(frames, "map"), T_MAP_RIG, atol=1e-6)
    it.until(lambda: it.value("world", "anchor") == "a in map", it.shoot)
    it.until(lambda: float(it.value("world", "anchor_residual_m") or 9) < 1e-3, it.shoot)
    it.until(lambda: "anchored" not in it.message("world"), it.shoot)


def test_cameras_that_move_have_their_world_in_a_map():
    """REP-105: corrections go between map and world."""
    values = {"pairs": "rig", "world.map_frame": "hamst3r_map", "world.frame": "hamst3r_world"}
    moved = dataclasses.replace(scene(), T_map_world=T_MAP_RIG)
    found = in_map(moved, values)
    assert (found.parent, found.child) == ("hamst3r_map", "hamst3r_world")
    np.testing.assert_array_equal(found.T_parent_child, T_MAP_RIG)
    assert in_map(moved, values | {"world.map_frame": ""}) is None
    assert in_map(moved, values | {"pairs": "complete"}) is None


def test_the_service_pins_a_camera_to_a_pose(anchored):
    it, frames = anchored
    T_odom_cam = T_MAP_RIG @ ring(it.cameras)["b"]
    pose = PoseStamped(header=Header(frame_id="odom"), pose=to_pose(T_odom_cam))
    answer = set_anchor(it, camera="b", pose=pose)
    assert answer.success, answer.message
    it.until(lambda: world_in(frames, "odom") is not None, it.shoot)
    np.testing.assert_allclose(world_in(frames, "odom"), T_MAP_RIG, atol=1e-6)


def test_anchors_that_cannot_be_are_refused(anchored, bench):
    it, _ = anchored
    answer = set_anchor(it, camera="x", use_tf=True)
    assert not answer.success and "only a, b" in answer.message
    answer = set_anchor(it, camera="a", pose=PoseStamped(pose=to_pose(np.eye(4))))
    assert not answer.success and "frame_id is ''" in answer.message
    broken = PoseStamped(header=Header(frame_id="odom"))
    broken.pose.orientation.w = 0.0
    answer = set_anchor(it, camera="a", pose=broken)
    assert not answer.success and "unit quaternion" in answer.message


def test_parameters_of_an_anchor_that_contradict_each_other(bench):
    it = bench(("a", "b"), tf__mode="anchor", world__anchor_frame="hamst3r_world")
    answer = set_anchor(it, camera="a", use_tf=True)
    assert not answer.success and "configure the node" in answer.message
    assert it.node.trigger_configure() == FAILURE
    it.until(lambda: it.problems("one is the other's parent"))
    assert it.set(world__anchor_frame="map", world__anchor_camera="x") == []
    assert it.node.trigger_configure() == FAILURE
    it.until(lambda: it.problems("'world.anchor_camera' is 'x', expected one of a, b"))
