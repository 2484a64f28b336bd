"""People as ROS4HRI (REP-155) has them, of what a node publishes on ~/humans and ~/cameras.

    ros2 run hamst3r_ros hri_bridge --ros-args -r hamst3r/humans:=/robot1/hamst3r/humans ...

/humans/bodies/tracked, and for each body /humans/bodies/<id>/{roi,skeleton2d,joint_states,position,
velocity}; /tf: body_<id> in the frame of ~/humans, since several cameras see a body. Regions and 2D
points are of the camera that sees most of the body: their header names its frame. Needs hri_msgs.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import numpy as np
import rclpy
from geometry_msgs.msg import PointStamped, TransformStamped, TwistStamped
from hamst3r_msgs.msg import Camera, CameraArray, Human, HumanArray
from rclpy.context import Context
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from sensor_msgs.msg import JointState
from std_msgs.msg import Header
from tf2_msgs.msg import TFMessage

from hamst3r.people.body import JOINT_NAMES
from hamst3r_ros import qos
from hamst3r_ros.headers import from_pose
from hamst3r_ros.hri_kinematics import OPENPOSE, image_points, joint_angles

ROOT = "/humans/bodies"
_NAME = re.compile("[A-Za-z][A-Za-z0-9_]*")


class Bodies:
    """What is published of every body; topics appear and go with the bodies.

    Args:
        node: Owns the publishers. hri: The module ``hri_msgs.msg``.
    """

    def __init__(self, node: Node, hri: ModuleType) -> None:
        self._node, self._hri = node, hri
        self._tracked = node.create_publisher(hri.IdsList, f"{ROOT}/tracked", qos.latched())
        self._frames = node.create_publisher(TFMessage, "/tf", qos.TF)
        self._types: dict[str, type] = {
            "roi": hri.NormalizedRegionOfInterest2D,
            "skeleton2d": hri.Skeleton2D,
            "joint_states": JointState,
            "position": PointStamped,
            "velocity": TwistStamped,
        }
        self._publishers: dict[str, dict[str, Any]] = {}

    def publish(self, people: HumanArray, cameras: dict[str, Camera]) -> None:
        """One frame set. ``cameras``: By name, as far as known."""
        here = [human for human in people.humans if human.tracking_state != Human.LOST]
        nameless = [human for human in here if not _NAME.fullmatch(human.body_id)]
        if nameless:
            self._node.get_logger().warning(
                f"body_id '{nameless[0].body_id}' cannot name a topic: it needs letters, digits "
                "and _, a letter first; left out",
                once=True,
            )
            here = [human for human in here if human not in nameless]
        for gone in set(self._publishers) - {human.body_id for human in here}:
            for publisher in self._publishers.pop(gone).values():
                self._node.destroy_publisher(publisher)
        frames = []
        for human in here:
            topics = self._topics(human.body_id)
            frames.append(body_frame(human, people.header))
            topics["position"].publish(
                PointStamped(header=people.header, point=human.pose.pose.position)
            )
            if human.velocity_valid:
                topics["velocity"].publish(TwistStamped(header=people.header, twist=human.velocity))
            joints = _joints(human)
            if joints is not None and len(human.body_pose) == 3 * (len(JOINT_NAMES) - 1):
                topics["joint_states"].publish(joint_states(human, joints, people.header))
            camera = _nearest(human, cameras)
            if camera is not None:
                topics["roi"].publish(self._roi(human, camera))
                if joints is not None:
                    topics["skeleton2d"].publish(self._skeleton(human, joints, camera))
        # After the topics, so that who reads the list finds them.
        self._tracked.publish(
            self._hri.IdsList(header=people.header, ids=[human.body_id for human in here])
        )
        if frames:
            self._frames.publish(TFMessage(transforms=frames))

    def _topics(self, body: str) -> dict[str, Any]:
        if body not in self._publishers:
            self._publishers[body] = {
                name: self._node.create_publisher(kind, f"{ROOT}/{body}/{name}", qos.output())
                for name, kind in self._types.items()
            }
        return self._publishers[body]

    def _roi(self, human: Human, camera: Camera) -> Any:
        box = human.rois[list(human.cameras).index(camera.name)]
        right, low = box.x_offset + box.width, box.y_offset + box.height
        return self._hri.NormalizedRegionOfInterest2D(
            header=_header(camera),
            xmin=min(box.x_offset / camera.width, 1.0),
            ymin=min(box.y_offset / camera.height, 1.0),
            xmax=min(right / camera.width, 1.0),
            ymax=min(low / camera.height, 1.0),
            c=human.confidence,
        )

    def _skeleton(self, human: Human, joints: np.ndarray, camera: Camera) -> Any:
        """Points that are not seen, or not known, have no confidence."""
        T = from_pose(camera.pose)
        size = (camera.width, camera.height)
        none = np.full((len(OPENPOSE), 2), np.nan)
        places = none if T is None else image_points(joints, T, np.reshape(camera.k, (3, 3)), size)
        sure = dict(zip(JOINT_NAMES, human.joint_confidence, strict=True))
        point = self._hri.NormalizedPointOfInterest2D
        return self._hri.Skeleton2D(
            header=_header(camera),
            skeleton=[
                point(x=float(x), y=float(y), c=float(sure[name])) if x == x else point()
                for name, (x, y) in zip(OPENPOSE, places, strict=True)
            ],
        )


def body_frame(human: Human, head: Header) -> TransformStamped:
    """World -> body_<id>: the middle of the hips, x to the front, z to the head."""
    transform = TransformStamped(header=head, child_frame_id=f"body_{human.body_id}")
    place, pose = transform.transform.translation, human.pose.pose
    place.x, place.y, place.z = pose.position.x, pose.position.y, pose.position.z
    transform.transform.rotation = pose.orientation
    return transform


def joint_states(human: Human, joints: np.ndarray, head: Header) -> JointState:
    """Angles of REP-155's kinematic model; names end in the body's id."""
    T = from_pose(human.pose.pose)
    turns = np.vstack([np.zeros(3), np.reshape(human.body_pose, (-1, 3))])
    angles = joint_angles(joints, np.eye(3) if T is None else T[:3, :3], turns)
    return JointState(
        header=head,
        name=[f"{name}_{human.body_id}" for name in angles],
        position=list(angles.values()),
    )


def _joints(human: Human) -> np.ndarray | None:
    """(24, 3), None where they are not known, or not all there."""
    count = len(JOINT_NAMES)
    if list(human.joint_names) != list(JOINT_NAMES) or len(human.joint_confidence) != count:
        return None
    joints = np.array([(joint.x, joint.y, joint.z) for joint in human.joints])
    return joints if joints.shape == (count, 3) and np.isfinite(joints).all() else None


def _nearest(human: Human, cameras: dict[str, Camera]) -> Camera | None:
    """The camera in whose image the person is largest."""
    seen = [
        (roi.width * roi.height / (camera.width * camera.height), name)
        for name, roi in zip(human.cameras, human.rois, strict=False)
        if (camera := cameras.get(name)) is not None and camera.width and camera.height
    ]
    return cameras[max(seen)[1]] if seen else None


def _header(camera: Camera) -> Header:
    return Header(stamp=camera.stamp, frame_id=camera.frame_id)


class HriBridge(Node):
    """Listens to hamst3r/humans and hamst3r/cameras.

    Args:
        hri: The module ``hri_msgs.msg``. context: Of ROS; None = the process's.
    """

    def __init__(self, hri: ModuleType, context: Context | None = None) -> None:
        super().__init__("hri_bridge", context=context)
        self._bodies = Bodies(self, hri)
        self._cameras: dict[str, Camera] = {}
        self.create_subscription(CameraArray, "hamst3r/cameras", self._take, qos.output())
        self.create_subscription(HumanArray, "hamst3r/humans", self._pass_on, qos.output())

    def _take(self, message: CameraArray) -> None:
        self._cameras = {camera.name: camera for camera in message.cameras}

    def _pass_on(self, message: HumanArray) -> None:
        self._bodies.publish(message, self._cameras)


def messages() -> ModuleType:
    """The module of REP-155's messages.

    Raises:
        ImportError: It is not installed.
    """
    import hri_msgs.msg

    return hri_msgs.msg  # type: ignore[no-any-return]


def main(args: Sequence[str] | None = None, find: Callable[[], ModuleType] = messages) -> int:
    """Console entry point: 0, or 1 without hri_msgs."""
    try:
        hri = find()
    except ImportError:
        sys.stderr.write(
            "error: hri_bridge needs the messages of REP-155: sudo apt install "
            "ros-$ROS_DISTRO-hri-msgs, and source ROS again\n"
        )
        return 1
    rclpy.init(args=None if args is None else list(args))
    executor, bridge = SingleThreadedExecutor(), HriBridge(hri)
    executor.add_node(bridge)
    try:
        executor.spin()
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        bridge.destroy_node()
        rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
