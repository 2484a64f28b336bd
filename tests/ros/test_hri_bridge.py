"""REP-155: angles that put a human model's limbs where the body's are, topics that come and go.

``hri_msgs`` is not on PyPI: classes of its messages' fields stand in for it, and a recorder for
the publishers of these; everything else is published for real.
"""

from __future__ import annotations

import types
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import rclpy
import torch
from geometry_msgs.msg import PointStamped
from hamst3r_msgs.msg import Camera, CameraArray, Human, HumanArray
from hamst3r_ros.conversions import human
from hamst3r_ros.headers import header, to_pose, to_time
from hamst3r_ros.hri_kinematics import image_points, joint_angles
from hamst3r_ros.wire import pack
from rclpy.serialization import deserialize_message
from scipy.spatial.transform import Rotation
from sensor_msgs.msg import JointState
from std_msgs.msg import Header
from tf2_msgs.msg import TFMessage

from hamst3r.people.body import JOINT_NAMES, anny24
from hamst3r.people.prior import pose_prior
from hamst3r.scene import BodyFit, Person, TrackingState
from hamst3r_ros import hri_bridge

BODY = anny24()
AT = {name: index for index, name in enumerate(JOINT_NAMES)}


@dataclass
class IdsList:
    header: Header
    ids: list[str]


@dataclass
class NormalizedRegionOfInterest2D:
    header: Header
    xmin: float
    ymin: float
    xmax: float
    ymax: float
    c: float


@dataclass
class NormalizedPointOfInterest2D:
    x: float = 0.0
    y: float = 0.0
    c: float = 0.0


@dataclass
class Skeleton2D:
    header: Header
    skeleton: list[NormalizedPointOfInterest2D] = field(default_factory=list)


HRI = types.SimpleNamespace(
    IdsList=IdsList,
    NormalizedRegionOfInterest2D=NormalizedRegionOfInterest2D,
    NormalizedPointOfInterest2D=NormalizedPointOfInterest2D,
    Skeleton2D=Skeleton2D,
)


def person(identity: int, seed: int, spread: float = 1.0, **changes) -> Person:
    """Somebody in a pose drawn from the prior, as the tracker describes people."""
    mean, std = pose_prior()
    rng = torch.Generator().manual_seed(seed)
    turns = (mean + spread * std * torch.randn(24, 3, generator=rng)).numpy()
    turns[0] = (
        Rotation.from_euler("z", float(seed)) * Rotation.from_euler("x", np.pi / 2)
    ).as_rotvec()
    rotations = torch.from_numpy(Rotation.from_rotvec(turns).as_matrix()).float()[None]
    transl = torch.tensor([[0.3, -0.2, 0.95]])
    joints = BODY.skeleton(rotations, transl, torch.zeros(1, 10))[1][0].numpy()
    fit = BodyFit(
        BODY.name,
        BODY.sha256,
        np.zeros(10, np.float32),
        turns[0].astype(np.float32),
        turns[1:].ravel().astype(np.float32),
        transl[0].numpy(),
        0.02,
        300,
    )
    own = Person(
        id=identity,
        state=TrackingState.OK,
        confidence=0.8,
        fit=fit,
        joints=joints,
        joint_std=np.full(24, 0.02, np.float32),
        position=joints[1:3].mean(0).astype(float),
        covariance=np.eye(3) * 4e-4,
        velocity=np.array([0.5, 0.0, 0.0]),
        num_points=100,
        rois={"left": (10, 20, 40, 120), "right": (100, 20, 60, 180)},
    )
    return replace(own, **changes)


def turned(axis: tuple[float, float, float], angle: float) -> np.ndarray:
    return Rotation.from_rotvec(np.array(axis) * angle).as_matrix()


@pytest.mark.parametrize("seed", range(12))
def test_the_model_of_rep_155_has_its_limbs_where_the_body_has_them(seed):
    """The chain of human_description, put together here from its axes alone."""
    someone = person(1, seed)
    root = Rotation.from_rotvec(someone.fit.global_orient).as_matrix()
    axes = root[:, [2, 0, 1]]  # SMPL's z is to the front, x to the left, y up
    turns = np.vstack([np.zeros(3), someone.fit.body_pose.reshape(-1, 3)])
    joints = someone.joints.astype(float)
    angle = joint_angles(joints, axes, turns)
    assert len(angle) == 20
    torso = turned((0, 1, 0), angle["waist"])
    down = np.array([0, 0, -1.0])
    for side, long, sign in (("l", "left", 1), ("r", "right", -1)):
        arm = torso @ turned((0, 0, -sign), angle[f"{side}_y_shoulder"])
        arm = arm @ turned((sign, 0, 0), angle[f"{side}_p_shoulder"])
        arm = arm @ turned((0, 0, sign), angle[f"{side}_r_shoulder"])
        forearm = arm @ turned((0, -1, 0), angle[f"{side}_elbow"])
        leg = turned((0, 0, -1), angle[f"{side}_y_hip"])
        leg = leg @ turned((sign, 0, 0), angle[f"{side}_p_hip"])
        leg = leg @ turned((0, -1, 0), angle[f"{side}_r_hip"])
        shin = leg @ turned((0, -1, 0), angle[f"{side}_knee"])
        assert angle[f"{side}_elbow"] >= 0 and angle[f"{side}_knee"] <= 0
        for link, start, end in (
            (arm, "shoulder", "elbow"),
            (forearm, "elbow", "wrist"),
            (leg, "hip", "knee"),
            (shin, "knee", "ankle"),
        ):
            way = (joints[AT[f"{long}_{end}"]] - joints[AT[f"{long}_{start}"]]) @ axes
            cosine = float(link @ down @ way / np.linalg.norm(way))
            assert cosine > np.cos(0.12), (side, start, np.degrees(np.arccos(cosine)))
    head = turned((1, 0, 0), angle["r_head"]) @ turned((0, 0, 1), angle["y_head"])
    head = torso @ head @ turned((0, -1, 0), angle["p_head"])
    chain = np.eye(3)
    for joint in (3, 6, 9, 12, 15):
        chain = chain @ Rotation.from_rotvec(turns[joint]).as_matrix()
    # SMPL's head looks along its z, up is y.
    for own, smpl in (((1.0, 0, 0), (0, 0, 1.0)), ((0, 0, 1.0), (0, 1.0, 0))):
        expected = (chain @ smpl)[[2, 0, 1]]
        np.testing.assert_allclose(head @ own, expected, atol=1e-5)


class Recorder:
    def __init__(self) -> None:
        self.messages: list = []

    def publish(self, message) -> None:
        self.messages.append(message)


class Bridge(hri_bridge.HriBridge):
    """Whose topics of hri_msgs are recorded."""

    def create_publisher(self, kind, topic, *args, **options):
        if kind.__module__ != __name__:
            return super().create_publisher(kind, topic, *args, **options)
        if not hasattr(self, "told"):
            self.told: dict[str, Recorder] = {}
        return self.told.setdefault(topic, Recorder())

    def destroy_publisher(self, publisher) -> bool:
        return isinstance(publisher, Recorder) or super().destroy_publisher(publisher)


@pytest.fixture
def bridge():
    context = rclpy.Context()
    rclpy.init(context=context, domain_id=78)
    node = Bridge(HRI, context)
    listener = rclpy.create_node("listener", context=context)
    executor = rclpy.executors.SingleThreadedExecutor(context=context)
    executor.add_node(node)
    executor.add_node(listener)
    yield types.SimpleNamespace(node=node, listener=listener, executor=executor, told=node.told)
    executor.shutdown()
    listener.destroy_node()
    node.destroy_node()
    rclpy.try_shutdown(context=context)


def people(*persons: Person, stamp: int = 10**9) -> HumanArray:
    humans = [deserialize_message(pack(Human, human(p, None)), Human) for p in persons]
    return HumanArray(header=header(stamp, "world"), humans=humans)


def cameras() -> CameraArray:
    T = np.eye(4)
    T[:3, :3] = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])  # looks along y
    T[:3, 3] = (0.3, -4.0, 1.0)
    K = [200.0, 0.0, 159.5, 0.0, 200.0, 119.5, 0.0, 0.0, 1.0]
    own = [
        Camera(
            name=name,
            frame_id=f"{name}_optical",
            stamp=to_time(10**9),
            pose=to_pose(T),
            width=320,
            height=240,
            k=K,
        )
        for name in ("left", "right")
    ]
    return CameraArray(header=header(10**9, "world"), cameras=own)


def until(bridge, condition, send) -> None:
    for _ in range(200):
        send()
        for _ in range(5):
            bridge.executor.spin_once(timeout_sec=0.02)
        if condition():
            return
    raise AssertionError("nothing came")


def test_bodies_are_published_as_rep_155_says(bridge):
    heard: dict[str, list] = {"joint_states": [], "position": [], "tf": []}
    listen = bridge.listener.create_subscription
    root = "/humans/bodies/h00007"
    listen(JointState, f"{root}/joint_states", heard["joint_states"].append, 5)
    listen(PointStamped, f"{root}/position", heard["position"].append, 5)
    listen(TFMessage, "/tf", heard["tf"].append, 5)
    to_cameras = bridge.listener.create_publisher(CameraArray, "hamst3r/cameras", 5)
    to_humans = bridge.listener.create_publisher(HumanArray, "hamst3r/humans", 5)
    seven, eight = person(7, 0, 0.2), person(8, 1, fit=None, joints=np.empty((0, 3)), velocity=None)
    eight = replace(eight, joint_std=np.empty(0), rois={})

    def send():
        to_cameras.publish(cameras())
        to_humans.publish(people(seven, eight))

    until(bridge, lambda: all(heard.values()) and f"{root}/skeleton2d" in bridge.told, send)
    tracked = bridge.told["/humans/bodies/tracked"]
    assert tracked.messages[-1].ids == ["h00007", "h00008"]
    (frame, other) = heard["tf"][-1].transforms
    assert (frame.header.frame_id, frame.child_frame_id) == ("world", "body_h00007")
    assert other.child_frame_id == "body_h00008"
    place = frame.transform.translation
    np.testing.assert_allclose([place.x, place.y, place.z], seven.position, atol=1e-6)
    names = heard["joint_states"][-1].name
    assert len(names) == 20 and all(name.endswith("_h00007") for name in names)
    assert {"waist_h00007", "l_y_shoulder_h00007", "r_knee_h00007"} <= set(names)
    roi = bridge.told[f"{root}/roi"].messages[-1]
    assert roi.header.frame_id == "right_optical"  # where the person is larger
    assert (roi.xmin, roi.ymax) == pytest.approx((100 / 320, 200 / 240))
    skeleton = bridge.told[f"{root}/skeleton2d"].messages[-1].skeleton
    assert len(skeleton) == 18
    neck, nose = skeleton[1], skeleton[0]
    assert neck.c > 0.9 and abs(neck.x - 0.5) < 0.1 and neck.y < skeleton[8].y < skeleton[10].y
    assert nose.c == 0  # no point of the face is known
    assert "/humans/bodies/h00008/skeleton2d" not in {
        topic for topic, r in bridge.told.items() if r.messages
    }

    lost = replace(seven, state=TrackingState.LOST)
    until(
        bridge,
        lambda: tracked.messages[-1].ids == ["h00008"],
        lambda: to_humans.publish(people(lost, eight)),
    )
    topics = {
        name
        for name, _ in bridge.node.get_publisher_names_and_types_by_node(
            "hri_bridge", bridge.node.get_namespace()
        )
    }
    assert f"{root}/joint_states" not in topics
    assert "/humans/bodies/h00008/joint_states" in topics


def test_broken_people_do_not_stop_the_others(bridge):
    message = people(person(1, 0), person(2, 1), person(3, 2))
    first, second, _ = message.humans
    first.body_id = "7 of nine"
    second.joints[4].x = float("nan")
    second.joint_confidence = second.joint_confidence[:3]
    second.rois = second.rois[:1]
    message.humans[2].body_pose = message.humans[2].body_pose[:5]
    by_name = {camera.name: camera for camera in cameras().cameras}
    for _ in range(2):
        bridge.node._bodies.publish(message, by_name)
    assert bridge.told["/humans/bodies/tracked"].messages[-1].ids == ["h00002", "h00003"]
    assert bridge.told["/humans/bodies/h00002/roi"].messages[-1].header.frame_id == "left_optical"
    assert not bridge.told["/humans/bodies/h00002/skeleton2d"].messages
    assert len(bridge.told["/humans/bodies/h00003/skeleton2d"].messages) == 2


def test_points_outside_of_the_image_are_not_told():
    someone = person(1, 3)
    camera = cameras().cameras[0]
    K = np.reshape(camera.k, (3, 3))
    behind = np.eye(4)
    behind[:3, 3] = (0, 0, 9.0)  # looks up, everybody is behind
    assert np.isnan(image_points(someone.joints.astype(float), behind, K, (320, 240))).all()


def test_without_hri_msgs_the_error_says_what_to_install(capsys):
    def missing():
        raise ImportError("No module named 'hri_msgs'")

    assert hri_bridge.main([], missing) == 1
    assert "ros-$ROS_DISTRO-hri-msgs" in capsys.readouterr().err
