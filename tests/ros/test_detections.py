"""People as vision_msgs: where the boxes are, and that the node sends them."""

from __future__ import annotations

import numpy as np
from bench import LATCHED
from hamst3r_ros.bodies import CoarseBody
from hamst3r_ros.headers import header_fields, to_nanoseconds
from rclpy.serialization import deserialize_message as read
from scipy.spatial.transform import Rotation
from test_bodies import posed
from test_conversions import HEAD, STAMP, fitted, glimpsed, human, scene
from vision_msgs.msg import Detection2DArray, Detection3DArray, LabelInfo

from hamst3r.people.body import anny24
from hamst3r.scene import TrackingState
from hamst3r_ros import detections


def test_the_box_of_a_person_holds_the_body():
    person, gone = fitted(), glimpsed(10, TrackingState.LOST)
    boxes = CoarseBody(anny24()).boxes([person])
    message = read(
        detections.detections_3d([person, glimpsed(), gone], HEAD, boxes), Detection3DArray
    )
    assert (message.header.frame_id, to_nanoseconds(message.header.stamp)) == ("w", STAMP)
    whole, place = message.detections
    assert (whole.id, place.id) == ("h00007", "h00009")
    assert whole.results[0].hypothesis.class_id == "person"
    assert whole.results[0].hypothesis.score == person.confidence
    assert whole.results[0].pose == human(person).pose
    c, q, size = whole.bbox.center.position, whole.bbox.center.orientation, whole.bbox.size
    T = Rotation.from_quat([q.x, q.y, q.z, q.w])
    inside = T.inv().apply(posed(anny24(), person) - [c.x, c.y, c.z])
    half = np.array([size.x, size.y, size.z]) / 2
    assert half.min() > 0.08
    np.testing.assert_allclose(inside.max(0), half, atol=0.04)
    np.testing.assert_allclose(inside.min(0), -half, atol=0.04)
    p = place.bbox.center.position
    assert [p.x, p.y, p.z] == [3.0, 4.0, 1.0] and place.bbox.size.x == 0


def test_boxes_in_the_image():
    camera = scene().cameras[0]
    person = fitted()
    person.rois[camera.name] = (10, 20, 30, 80)
    message = read(detections.detections_2d([person, glimpsed()], camera), Detection2DArray)
    assert message.header.frame_id == camera.frame_id
    assert to_nanoseconds(message.header.stamp) == camera.stamp
    (found,) = message.detections
    assert (found.id, found.results[0].hypothesis.class_id) == ("h00007", "person")
    assert (found.bbox.center.position.x, found.bbox.center.position.y) == (25.0, 60.0)
    assert (found.bbox.size_x, found.bbox.size_y) == (30.0, 80.0)


def test_labels():
    message = read(detections.label_info(header_fields(5, "w"), 0.6), LabelInfo)
    assert {c.class_id: c.class_name for c in message.class_map} == {0: "scene", 1: "person"}
    assert message.threshold == np.float32(0.6)


def test_the_node_sends_them(bench):
    it = bench(("a", "b"), world__known_extrinsics="tf")
    it.put_up()
    labels = it.listen(LabelInfo, "/hamst3r/label_info", LATCHED)
    it.activate()
    it.until(lambda: len(labels) == 1)  # before any image
    it.shoot()
    assert int(it.value("inference", "frame_sets") or 0) == 0  # labels alone ask for no frame set
    people = it.listen(Detection3DArray, "/hamst3r/humans/detections")
    boxes = it.listen(Detection2DArray, "/hamst3r/a/detections")
    it.until(lambda: people and boxes, it.shoot)
    assert people[-1].header.frame_id == "hamst3r_world"
    assert boxes[-1].header.frame_id == "a_optical_frame"
