"""hamst3r view --live: what the node publishes becomes a scene again, over DDS."""

from __future__ import annotations

import time
from threading import Thread

import numpy as np
import rclpy
from hamst3r_msgs.msg import CameraArray, HumanArray
from rclpy.qos import qos_profile_sensor_data
from rclpy.serialization import deserialize_message as read
from sensor_msgs.msg import PointCloud2
from test_conversions import HEAD, STAMP, fitted, glimpsed, scene

from hamst3r.live import cloud_of, scene_of, watch_node
from hamst3r_ros import clouds, conversions


def test_messages_become_the_scene_they_were_made_of():
    sent = scene(fitted(), glimpsed())
    got = scene_of(
        read(clouds.point_cloud(sent.points, HEAD, True), PointCloud2),
        read(conversions.camera_array(sent, HEAD), CameraArray),
        read(conversions.human_array(sent, "w", {}), HumanArray),
    )
    assert got.stamp == STAMP and got.scale_source == sent.scale_source
    for name in ("xyz", "rgb", "label", "instance", "camera", "body"):
        np.testing.assert_array_equal(getattr(got.points, name), getattr(sent.points, name))
    # Confidence travels as a byte.
    share = [1 - 1 / points.confidence for points in (got.points, sent.points)]
    np.testing.assert_allclose(*share, atol=0.6 / 255)
    for a, b in zip(got.cameras, sent.cameras, strict=True):
        assert (a.name, a.stamp, a.width, a.height) == (b.name, b.stamp, b.width, b.height)
        np.testing.assert_allclose(a.K, b.K)
        np.testing.assert_allclose(a.T_world_cam, b.T_world_cam, atol=1e-9)
    for p, q in zip(got.people, sent.people, strict=True):
        assert (p.id, p.state, p.contacts, p.num_points) == (
            q.id,
            q.state,
            q.contacts,
            q.num_points,
        )
        np.testing.assert_allclose(p.position, q.position, atol=1e-6)
        np.testing.assert_allclose(p.joints, q.joints, atol=1e-6)
        assert (p.fit is None) == (q.fit is None)
    np.testing.assert_array_equal(got.people[0].fit.body_pose, sent.people[0].fit.body_pose)


def test_a_cloud_without_body_coordinates_has_none():
    got = cloud_of(read(clouds.point_cloud(scene().points, HEAD, False), PointCloud2))
    assert np.isnan(got.body).all() and len(got) == 20


def test_a_node_is_watched(ros):
    sent = scene(fitted())
    node = rclpy.create_node("hamst3r")
    domain = node.context.get_domain_id()
    seen, ended = [], []
    watcher = Thread(
        target=watch_node,
        args=("/hamst3r", lambda s, images: seen.append(s), lambda: not ended, domain),
    )
    watcher.start()
    messages = {
        "points": clouds.point_cloud(sent.points, HEAD, False),
        "cameras": conversions.camera_array(sent, HEAD),
        "humans": conversions.human_array(sent, "w", {}),
    }
    kinds = {"points": PointCloud2, "cameras": CameraArray, "humans": HumanArray}
    publishers = {
        topic: node.create_publisher(kind, f"~/{topic}", qos_profile_sensor_data)
        for topic, kind in kinds.items()
    }
    try:
        end = time.monotonic() + 30
        while not any(s.people and s.cameras for s in seen):
            assert time.monotonic() < end, "nothing was seen"
            for topic in ("humans", "cameras", "points"):
                publishers[topic].publish(messages[topic])
            time.sleep(0.1)
    finally:
        ended.append(True)
        watcher.join(30)
        node.destroy_node()
    whole = next(s for s in seen if s.people and s.cameras)
    np.testing.assert_array_equal(whole.points.xyz, sent.points.xyz)
    assert whole.people[0].id == 7 and len(whole.cameras) == 2
