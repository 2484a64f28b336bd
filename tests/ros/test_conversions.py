"""A scene as messages, read back field by field."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from bench import K, ring
from hamst3r_msgs.msg import CameraArray, Human, HumanArray
from hamst3r_ros.bodies import SMPL_FROM_ROS, CoarseBody
from hamst3r_ros.demo_collector import read_points
from hamst3r_ros.headers import (
    Link,
    from_transform,
    header_fields,
    to_nanoseconds,
    to_pose,
    to_quaternion,
)
from hamst3r_ros.wire import pack
from rclpy.serialization import deserialize_message as read
from roma import rotvec_to_rotmat
from scipy.spatial.transform import Rotation
from scipy.stats import maxwell
from sensor_msgs.msg import CameraInfo, Image, PointCloud2, PointField
from tf2_msgs.msg import TFMessage
from visualization_msgs.msg import Marker, MarkerArray

from hamst3r.people.body import JOINT_NAMES, anny24
from hamst3r.scene import (
    BodyFit,
    Camera,
    Contact,
    Person,
    PointCloud,
    ScaleSource,
    Scene,
    TrackingState,
    View,
)
from hamst3r_ros import clouds, conversions

STAMP = 1_750_000_000_123_456_789
HEAD = header_fields(STAMP, "w")
T_MAP_WORLD = ring("ab")["b"]
random = np.random.default_rng(0)


def cloud(count: int) -> PointCloud:
    body = random.random((count, 3)).astype(np.float32)
    body[::2] = np.nan
    return PointCloud(
        xyz=random.normal(size=(count, 3)).astype(np.float32),
        rgb=random.integers(0, 256, (count, 3), np.uint8),
        confidence=(1 + 10 * random.random(count)).astype(np.float32),
        label=random.integers(0, 2, count).astype(np.uint8),
        instance=random.integers(0, 60000, count).astype(np.uint16),
        camera=random.integers(0, 4, count).astype(np.uint8),
        body=body,
    )


def fitted(identity: int = 7) -> Person:
    """Somebody who stands upright (SMPL's y is the world's z), turned by 0.7 rad, at (1, 2)."""
    body = anny24()
    turn = Rotation.from_rotvec([0, 0, 0.7]) * Rotation.from_rotvec([np.pi / 2, 0, 0])
    orient, pose = turn.as_rotvec(), 0.1 * random.normal(size=69)
    betas, transl = random.normal(size=10), np.array([1.0, 2.0, 0.9])
    rotations = rotvec_to_rotmat(torch.tensor(np.r_[orient, pose].reshape(1, 24, 3)).float())
    _, joints = body.skeleton(
        rotations, torch.tensor(transl[None]).float(), torch.tensor(betas[None]).float()
    )
    fit = BodyFit(
        body.name,
        body.sha256,
        *(np.asarray(v, np.float32) for v in (betas, orient, pose, transl)),
        rmse=0.02,
        inliers=321,
    )
    return Person(
        id=identity,
        state=TrackingState.OK,
        confidence=0.9,
        fit=fit,
        joints=joints[0].numpy(),
        joint_std=np.linspace(0.01, 0.05, 24, dtype=np.float32),
        position=joints[0, 1:3].mean(0).double().numpy(),
        covariance=np.diag([1.0, 2, 3]) * 1e-4,
        velocity=np.array([0.1, 0.2, 0.3]),
        num_points=55,
        rois={"a": (1, 2, 30, 40), "b": (5, 6, 7, 8)},
        contacts=Contact.LEFT_FOOT | Contact.SEAT,
    )


def glimpsed(identity: int = 9, state: TrackingState = TrackingState.NEW) -> Person:
    """Somebody of whom only a position is known."""
    return Person(
        id=identity,
        state=state,
        confidence=0.4,
        fit=None,
        joints=np.empty((0, 3), np.float32),
        joint_std=np.empty(0, np.float32),
        position=np.array([3.0, 4, 1]),
        covariance=np.eye(3),
        velocity=None,
        num_points=0,
    )


def scene(*people: Person) -> Scene:
    cameras = tuple(
        Camera(f"/rig/{n}", f"{n}_frame", STAMP + i, 640, 480, K * (i + 1), T, 0.5)
        for i, (n, T) in enumerate(ring("ab").items())
    )
    views = tuple(
        View(
            camera=camera.name,
            K=K,
            depth=random.random((6, 8)).astype(np.float32),
            confidence=np.ones((6, 8), np.float32),
            rgb=np.zeros((6, 8, 3), np.uint8),
            instances=random.integers(0, 60000, (6, 8)).astype(np.uint16),
            densepose=np.zeros((6, 8, 3), np.float32),
        )
        for camera in cameras
    )
    return Scene(STAMP, cameras, views, cloud(20), people, ScaleSource.CALIBRATION, 0.01)


def human(person, size=None) -> Human:
    """One person's message."""
    return read(pack(Human, conversions.human(person, size)), Human)


def human_array(*people: Person) -> HumanArray:
    return read(conversions.human_array(scene(*people), "w", {}), HumanArray)


@pytest.mark.parametrize("count", [0, 1, 1000])
@pytest.mark.parametrize("body", [False, True])
def test_every_field_of_a_point(count, body):
    points = cloud(count)
    message = read(clouds.point_cloud(points, HEAD, body), PointCloud2)
    assert (message.height, message.width, message.is_dense) == (1, count, True)
    assert message.point_step == (36 if body else 24)
    assert message.row_step == len(message.data) == message.point_step * count
    assert not message.is_bigendian
    assert to_nanoseconds(message.header.stamp) == STAMP
    # As a reader decodes it: by the fields alone.
    types = {PointField.FLOAT32: "<f4", PointField.UINT32: "<u4"}
    types |= {PointField.UINT16: "<u2", PointField.UINT8: "u1"}
    layout = np.dtype(
        {
            "names": [f.name for f in message.fields],
            "formats": [types[f.datatype] for f in message.fields],
            "offsets": [f.offset for f in message.fields],
            "itemsize": message.point_step,
        }
    )
    records = np.frombuffer(message.data, layout)
    np.testing.assert_array_equal(np.column_stack([records[a] for a in "xyz"]), points.xyz)
    packed = np.ascontiguousarray(records["rgb"]).view("<u4")
    np.testing.assert_array_equal(
        np.column_stack([packed >> 16, packed >> 8 & 255, packed & 255]), points.rgb
    )
    for name in ("label", "instance", "camera"):
        np.testing.assert_array_equal(records[name], getattr(points, name))
    np.testing.assert_allclose(records["confidence"], 255 * (1 - 1 / points.confidence), atol=0.5)
    if body:
        np.testing.assert_array_equal(np.column_stack([records[a] for a in "uvw"]), points.body)
    offsets = {f.name: (f.offset, f.datatype) for f in message.fields}
    assert offsets["rgb"] == (12, PointField.FLOAT32)
    assert offsets["label"] == (16, PointField.UINT32)
    assert offsets["instance"] == (20, PointField.UINT16)
    assert (offsets["camera"][0], offsets["confidence"][0]) == (22, 23)


def test_every_field_of_a_person_with_a_body():
    person = fitted()
    message = human(person)
    fit = person.fit
    assert (message.id, message.body_id, message.tracking_state) == (7, "h00007", message.OK)
    assert message.confidence == pytest.approx(0.9)
    position = message.pose.pose.position
    np.testing.assert_allclose([position.x, position.y, position.z], person.position)
    covariance = message.pose.covariance.reshape(6, 6)
    np.testing.assert_allclose(covariance[:3, :3], person.covariance)
    assert 0 < covariance[5, 5] < 0.1
    linear = message.velocity.linear
    assert ([linear.x, linear.y, linear.z], message.velocity_valid) == ([0.1, 0.2, 0.3], True)
    assert (message.body_model, message.gender, message.scale) == ("anny24", message.NEUTRAL, 1.0)
    assert message.body_model_sha256 == fit.model_sha256 and len(fit.model_sha256) == 64
    for name in ("betas", "global_orient", "body_pose", "transl"):
        np.testing.assert_array_equal(np.float32(getattr(message, name)), getattr(fit, name))
    assert (message.fit_rmse, message.fit_inliers) == (pytest.approx(0.02), 321)
    assert tuple(message.joint_names) == JOINT_NAMES
    np.testing.assert_allclose([[j.x, j.y, j.z] for j in message.joints], person.joints)
    np.testing.assert_array_equal(np.float32(message.joint_std), person.joint_std)
    sure = np.array(message.joint_confidence)
    assert ((sure > 0) & (sure <= 1)).all() and (np.diff(sure) <= 0).all()
    # The chance to be within 10 cm.
    drawn = np.linalg.norm(0.05 * np.random.default_rng(1).normal(size=(200_000, 3)), axis=1)
    assert sure[-1] == pytest.approx((drawn < 0.1).mean(), abs=0.01)
    assert message.contacts == message.LEFT_FOOT | message.SEAT
    assert message.cameras == ["a", "b"]
    assert [(r.x_offset, r.y_offset, r.width, r.height) for r in message.rois] == [
        (1, 2, 30, 40),
        (5, 6, 7, 8),
    ]
    assert message.num_points == 55
    assert len(message.joint_velocities) == len(message.joint_velocity_std) == 0  # not yet known


def test_velocities_of_joints_and_the_turning_that_they_say():
    person, turning = fitted(), np.array([0.1, -0.4, 1.5])
    arms = person.joints - person.joints[[1, 2, 12]].mean(0)
    speeds = (np.array([0.1, 0.2, 0.3]) + np.cross(turning, arms)).astype(np.float32)
    std = np.full(24, 0.3, np.float32)
    moving = replace(person, joint_velocities=speeds, joint_velocity_std=std)
    message = human(moving)
    told = np.reshape(message.joint_velocities, (24, 3))
    np.testing.assert_array_equal(np.float32(told), speeds)
    np.testing.assert_array_equal(np.float32(message.joint_velocity_std), std)
    angular = message.velocity.angular
    assert [angular.x, angular.y, angular.z] == pytest.approx(turning, abs=1e-3)


def test_the_pose_of_a_person_is_x_front_z_head():
    person = fitted()
    turn = from_transform_of(human(person).pose.pose)[:3, :3]
    left = person.joints[1] - person.joints[2]
    up = person.joints[12] - person.joints[0]
    np.testing.assert_allclose(turn[:, 1] @ left / np.linalg.norm(left), 1, atol=0.05)
    np.testing.assert_allclose(turn[:, 2] @ up / np.linalg.norm(up), 1, atol=0.05)
    np.testing.assert_allclose(np.cross(turn[:, 1], turn[:, 2]), turn[:, 0], atol=1e-9)
    # Turned by 0.7 rad: SMPL faces -y of the world when raised from its y to z, then 0.7.
    facing = Rotation.from_rotvec([0, 0, 0.7]).apply([0, -1, 0])
    np.testing.assert_allclose(turn[:, 0], facing, atol=1e-6)


@pytest.mark.parametrize("length", [0.0, 1e-7, 0.3, np.pi, 4.0, 6.5])
def test_every_orientation_of_a_body(length):
    person = fitted()
    for direction in (*np.eye(3), *random.normal(size=(5, 3))):
        vector = (length * direction / np.linalg.norm(direction)).astype(np.float32)
        turned = replace(person, fit=replace(person.fit, global_orient=vector))
        pose = human(turned).pose.pose
        expected = Rotation.from_rotvec(vector).as_matrix() @ SMPL_FROM_ROS
        np.testing.assert_allclose(from_transform_of(pose)[:3, :3], expected, atol=1e-6)
        assert pose.orientation.w >= 0


def test_how_sure_a_joint_is():
    std = np.concatenate([[0.0], np.geomspace(1e-4, 30, 5000)])
    exact = np.r_[1.0, maxwell.cdf(conversions.NEAR / std[1:])]
    np.testing.assert_allclose(conversions.joint_confidence(std), exact, atol=1e-4)
    assert (conversions.joint_confidence(np.array([100.0, np.inf])) < 1e-6).all()


def from_transform_of(pose) -> np.ndarray:
    from geometry_msgs.msg import Transform, Vector3

    place = Vector3(x=pose.position.x, y=pose.position.y, z=pose.position.z)
    return from_transform(Transform(rotation=pose.orientation, translation=place))


@pytest.mark.parametrize(("facing", "least", "most"), [(1.0, 0, 0.1), (0.9, 0.9, 1.1), (0.5, 3, 4)])
def test_who_may_face_the_other_way_has_a_wide_yaw(facing, least, most):
    person = fitted()
    person = replace(person, fit=replace(person.fit, facing=facing))
    covariance = human(person).pose.covariance.reshape(6, 6)
    assert least < covariance[5, 5] < most
    assert 0 < covariance[3, 3] < 0.1  # the body is upright all the same


def test_a_person_without_a_body_leaves_fields_empty():
    message = human(glimpsed())
    assert message.body_model == "" and math.isnan(message.fit_rmse)
    for name in ("betas", "global_orient", "body_pose", "transl", "joint_names", "joints"):
        assert len(getattr(message, name)) == 0
    assert not message.velocity_valid and message.velocity.linear.x == 0
    assert message.size.x == 0 and message.pose.pose.orientation.w == 1
    assert message.pose.covariance.reshape(6, 6)[3, 3] > 3


def test_people_of_a_scene():
    message = human_array(fitted(), glimpsed())
    assert message.cameras == ["/rig/a", "/rig/b"]
    assert message.scale_source == HumanArray.CALIBRATION
    assert message.scale_std == pytest.approx(0.01)
    assert [human.id for human in message.humans] == [7, 9]
    assert human_array().humans == []


def test_cameras_and_frames():
    given = scene()
    message = read(conversions.camera_array(given, HEAD), CameraArray)
    for found, camera in zip(message.cameras, given.cameras, strict=True):
        assert (found.name, found.frame_id) == (camera.name, camera.frame_id)
        assert to_nanoseconds(found.stamp) == camera.stamp
        assert (found.width, found.height, found.confidence) == (640, 480, 0.5)
        np.testing.assert_array_equal(found.k.reshape(3, 3), camera.K)
        np.testing.assert_allclose(from_transform_of(found.pose), camera.T_world_cam, atol=1e-12)
    links = [*conversions.links(given, "w", "p/"), Link("map", "w", T_MAP_WORLD)]
    frames = read(conversions.transforms(links, STAMP), TFMessage).transforms
    above = frames.pop()
    assert (above.header.frame_id, above.child_frame_id) == ("map", "w")
    assert to_nanoseconds(above.header.stamp) == STAMP
    np.testing.assert_allclose(from_transform(above.transform), T_MAP_WORLD, atol=1e-12)
    assert [t.child_frame_id for t in frames] == ["p/rig/a_optical_frame", "p/rig/b_optical_frame"]
    for found, camera in zip(frames, given.cameras, strict=True):
        assert (found.header.frame_id, to_nanoseconds(found.header.stamp)) == ("w", STAMP)
        np.testing.assert_allclose(from_transform(found.transform), camera.T_world_cam, atol=1e-12)


def test_frames_that_stay_are_sent_at_their_new_time():
    links = [Link("w", name, T.astype(np.float32)) for name, T in ring("abc").items()]
    for stamp in (STAMP, STAMP + 7, 0, STAMP):
        frames = read(conversions.transforms(links, stamp), TFMessage).transforms
        assert [to_nanoseconds(frame.header.stamp) for frame in frames] == [stamp] * 3
        for found, link in zip(frames, links, strict=True):
            np.testing.assert_allclose(
                from_transform(found.transform), link.T_parent_child, atol=1e-6
            )
    # A place whose bytes are those that stand for the stamp.
    odd = np.eye(4)
    odd[1, 3] = np.frombuffer(conversions._SOME_TIME)[0]
    frames = read(conversions.transforms([*links, Link("w", "odd", odd)], 5), TFMessage).transforms
    assert [to_nanoseconds(frame.header.stamp) for frame in frames] == [5] * 4
    assert frames[3].transform.translation.y == odd[1, 3]
    assert read(conversions.transforms([], STAMP), TFMessage).transforms == []


def test_views():
    given = scene()
    camera, view = given.cameras[1], given.views[1]
    head = conversions.camera_header(camera)
    assert head == header_fields(STAMP + 1, "b_frame")
    depth = read(conversions.depth_image(view, head), Image)
    assert (depth.encoding, depth.width, depth.height, depth.step) == ("32FC1", 8, 6, 32)
    np.testing.assert_array_equal(np.frombuffer(depth.data, "<f4").reshape(6, 8), view.depth)
    ids = read(conversions.instance_image(view, head), Image)
    assert (ids.encoding, ids.width, ids.height, ids.step) == ("16UC1", 8, 6, 16)
    np.testing.assert_array_equal(np.frombuffer(ids.data, "<u2").reshape(6, 8), view.instances)
    info = read(conversions.grid_camera_info(view, head), CameraInfo)
    assert (info.width, info.height, info.distortion_model) == (8, 6, "plumb_bob")
    np.testing.assert_array_equal(info.k.reshape(3, 3), view.K)
    np.testing.assert_array_equal(info.p.reshape(3, 4)[:, :3], view.K)
    assert not np.any(info.d)


def decoded(message) -> np.ndarray:
    return read_points(message).reshape(message.height, message.width)


def test_obstacles_are_the_points_of_people():
    points = cloud(500)
    points.xyz[:] = np.round(points.xyz, 1) + 0.01  # many in a cube
    people = points.label == 1
    everybody = decoded(read(clouds.obstacle_cloud(points, HEAD, 0.0), PointCloud2))[0]
    assert len(everybody) == people.sum() and set(everybody["label"]) == {1}
    np.testing.assert_array_equal(everybody["x"], points.xyz[people, 0])
    thinned = decoded(read(clouds.obstacle_cloud(points, HEAD, 0.5), PointCloud2))[0]
    xyz = np.stack([thinned[a] for a in "xyz"], 1)
    cubes, known = (np.floor(places / 0.5) for places in (xyz, points.xyz[people]))
    assert 0 < len(thinned) < people.sum()
    assert len(np.unique(cubes, axis=0)) == len(thinned) == len(np.unique(known, axis=0))
    # Nobody there: an empty cloud, so that planners clear.
    nobody = read(clouds.obstacle_cloud(cloud(0), HEAD, 0.05), PointCloud2)
    assert (nobody.width, len(nobody.data), len(nobody.fields)) == (0, 0, 8)


def test_the_cloud_of_a_view_is_organised():
    view = scene().views[1]
    view.depth[2, 3] = 0
    message = read(clouds.view_cloud(view, 1, HEAD), PointCloud2)
    assert (message.height, message.width, message.is_dense) == (6, 8, False)
    assert message.row_step == 8 * message.point_step
    records = decoded(message)
    assert np.isnan(records["x"][2, 3]) and np.isnan(records["z"][2, 3])
    assert np.isnan(records["z"]).sum() == 1
    point = np.array([records[a][4, 5] for a in "xyz"])
    np.testing.assert_allclose((view.K @ point / point[2])[:2], [5, 4], atol=1e-4)
    np.testing.assert_allclose(point[2], view.depth[4, 5])
    np.testing.assert_array_equal(records["instance"], view.instances)
    np.testing.assert_array_equal(records["label"], view.instances > 0)
    assert set(records["camera"].ravel()) == {1}


def test_the_map_has_places_and_colours():
    xyz = random.normal(size=(9, 3)).astype(np.float32)
    rgb = random.integers(0, 256, (9, 3), np.uint8)
    message = read(clouds.map_cloud(xyz, rgb, HEAD), PointCloud2)
    assert (message.point_step, [f.name for f in message.fields]) == (16, ["x", "y", "z", "rgb"])
    records = decoded(message)[0]
    np.testing.assert_array_equal(records["y"], xyz[:, 1])
    np.testing.assert_array_equal(records["rgb"] & 255, rgb[:, 2])


def test_places_on_the_body_as_colours():
    view = scene().views[0]
    view.densepose[:] = np.nan
    view.densepose[1, 2] = [0.0, 0.5, 1.0]
    message = read(conversions.densepose_image(view, HEAD), Image)
    assert (message.encoding, message.width, message.height, message.step) == ("rgb8", 8, 6, 24)
    pixels = np.frombuffer(message.data, np.uint8).reshape(6, 8, 3)
    assert pixels[1, 2].tolist() == [1, 128, 255]
    assert np.count_nonzero(pixels.any(-1)) == 1


def test_markers_come_and_go():
    body = CoarseBody(anny24())
    people = (fitted(), glimpsed(), glimpsed(10, TrackingState.LOST))
    vertices, shown = body.pose(people), {3}
    message = read(
        conversions.markers(scene(*people), HEAD, 1.5, vertices, body.faces, shown), MarkerArray
    )
    by_name = {marker.ns: marker for marker in message.markers}
    assert shown == {7, 9}
    assert len(by_name) == len(message.markers)
    assert {m.ns for m in message.markers if m.action == Marker.DELETE} == {
        "h00003/skeleton",
        "h00003/body",
        "h00003/uncertainty",
        "h00003/id",
    }
    skeleton = by_name["h00007/skeleton"]
    assert (skeleton.type, len(skeleton.points)) == (Marker.LINE_LIST, 2 * 23)
    first = skeleton.points[1]
    np.testing.assert_allclose([first.x, first.y, first.z], people[0].joints[1])
    mesh = by_name["h00007/body"]
    assert (mesh.type, len(mesh.points)) == (Marker.TRIANGLE_LIST, body.faces.size)
    assert (by_name["h00007/id"].text, by_name["h00009/id"].text) == ("7", "9")
    blob = by_name["h00007/uncertainty"]
    sizes = sorted([blob.scale.x, blob.scale.y, blob.scale.z])
    np.testing.assert_allclose(sizes, [0.02, 0.02 * 2**0.5, 0.02 * 3**0.5], rtol=1e-6)
    assert blob.color.a < 0.5 and "h00009/uncertainty" in by_name
    assert "h00009/skeleton" not in by_name and "h00010/id" not in by_name
    assert (mesh.lifetime.sec, mesh.lifetime.nanosec) == (1, 500_000_000)
    assert all(marker.header.frame_id == "w" for marker in message.markers)
    gone = read(conversions.markers(scene(), HEAD, 1.5, {}, body.faces, shown), MarkerArray).markers
    assert {m.action for m in gone} == {Marker.DELETE} and len(gone) == 8 and shown == set()


def test_quaternions_of_every_kind_of_turn():
    turns = Rotation.random(200, random_state=0).as_matrix()
    halves = [np.diag(signs) for signs in ((1.0, -1, -1), (-1, 1, -1), (-1, -1, 1), (1, 1, 1))]
    for turn in [*turns, *halves]:
        q = to_quaternion(turn)
        found = Rotation.from_quat([q.x, q.y, q.z, q.w])
        np.testing.assert_allclose(found.as_matrix(), turn, atol=1e-14)
        assert q.w >= 0 and abs(q.x**2 + q.y**2 + q.z**2 + q.w**2 - 1) < 1e-14


def test_poses_keep_every_digit():
    T = ring("abc")["c"]
    np.testing.assert_allclose(from_transform_of(to_pose(T)), T, atol=1e-12)


@pytest.mark.parametrize(
    ("model", "gender"),
    [("anny24", 0), ("SMPL_FEMALE", 1), ("basicmodel_m_lbs", 2), ("smplx_male", 2)],
)
def test_the_gender_of_a_model_is_in_its_name(model, gender):
    person = fitted()
    message = human(replace(person, fit=replace(person.fit, model=model)))
    assert message.gender == gender
