"""What the tests of the node share: the node among its peers in one executor, over real DDS."""

from __future__ import annotations

import time
from collections.abc import Callable

import cv2
import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from hamst3r_ros.headers import byte_array, header, to_nanoseconds, to_transform
from hamst3r_ros.node import Hamst3rNode
from rcl_interfaces.msg import Log
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from tf2_msgs.msg import TFMessage

SUCCESS = TransitionCallbackReturn.SUCCESS
FAILURE = TransitionCallbackReturn.FAILURE
DEADLINE = 30.0  # seconds; only a hang reaches it
STEP = 100_000_000  # ns between two sets of images
LATCHED = QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL)


K = np.array([[60.0, 0, 31.5], [0, 60, 23.5], [0, 0, 1]])


def ring(names) -> dict[str, np.ndarray]:
    """T_rig_cam of cameras on a circle that look at its middle, z up."""
    poses = {}
    for index, name in enumerate(names):
        angle = 0.5 * index
        T = np.eye(4)
        back = np.array([np.cos(angle), np.sin(angle), 0.0])
        right = np.array([-np.sin(angle), np.cos(angle), 0.0])
        T[:3, :3] = np.column_stack([right, [0, 0, -1.0], -back])
        T[:3, 3] = 3 * back + [0, 0, 1.5]
        poses[name] = T
    return poses


def camera_info() -> CameraInfo:
    """Intrinsics of every camera."""
    return CameraInfo(
        width=64, height=48, k=K.ravel().tolist(), d=[0.0] * 5, distortion_model="plumb_bob"
    )


def picture(seed: int, height: int = 48, width: int = 64) -> np.ndarray:
    """(H, W, 3) uint8: smooth random blobs."""
    noise = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    return cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)


def image(stamp: int, camera: str, pixels: np.ndarray) -> Image:
    """An rgb8 Image."""
    message = Image(
        header=header(stamp, f"{camera}_optical_frame"),
        height=pixels.shape[0],
        width=pixels.shape[1],
        encoding="rgb8",
        step=pixels.shape[1] * 3,
    )
    message.data = byte_array(pixels)
    return message


def jpeg(stamp: int, camera: str, pixels: np.ndarray) -> CompressedImage:
    """A JPEG."""
    message = CompressedImage(header=header(stamp, f"{camera}_optical_frame"), format="jpeg")
    message.data = byte_array(cv2.imencode(".jpg", pixels[..., ::-1])[1])
    return message


class Bench:
    """The node under test beside a node that plays cameras, operator and consumer.

    Attributes:
        said: Lines of the node's log, as they arrived on /rosout: (level, text).
        status: Name of a status -> its newest DiagnosticStatus.
    """

    def __init__(self, cameras: list[str], weights: str, **values) -> None:
        self.cameras = cameras
        self._calibrated = False
        self._since = time.time_ns()
        self.peer = Node("peer")
        self.node = Hamst3rNode(parameter_overrides=parameters(cameras, weights, values))
        self.said: list[tuple[int, str]] = []
        self.status: dict[str, DiagnosticStatus] = {}
        self.stamp = 1_700_000_000_000_000_000
        self.got: dict[str, list] = {}
        self.pixels = {name: picture(index) for index, name in enumerate(cameras)}
        self._publishers: dict[str, object] = {}
        self.peer.create_subscription(Log, "/rosout", self._log, LATCHED)
        self.peer.create_subscription(DiagnosticArray, "/diagnostics", self._diagnose, 10)
        self.executor = SingleThreadedExecutor()
        self.executor.add_node(self.node)
        self.executor.add_node(self.peer)

    def _log(self, message: Log) -> None:
        stamp = to_nanoseconds(message.stamp)
        # What nodes of earlier tests said is still on the wire.
        if message.name == self.node.get_logger().name and stamp >= self._since:
            self.said.append((int.from_bytes(bytes([message.level]), "little"), message.msg))

    def _diagnose(self, message: DiagnosticArray) -> None:
        for status in message.status:
            self.status[status.name.rpartition(" ")[2]] = status

    def listen(self, kind: type, topic: str, qos: object = 10) -> list:
        """Subscribe; the list that fills with messages."""
        received = self.got.setdefault(topic, [])
        self.peer.create_subscription(kind, topic, received.append, qos)
        return received

    def publish(self, topic: str, message: object, qos: object = 10) -> None:
        """Publish, on a publisher made when first needed."""
        if topic not in self._publishers:
            self._publishers[topic] = self.peer.create_publisher(type(message), topic, qos)
        self._publishers[topic].publish(message)

    def put_up(self) -> None:
        """Make the cameras a rig that is known: poses on TF, intrinsics with each image."""
        self.static(
            [
                to_transform(0, "rig", f"{name}_optical_frame", T)
                for name, T in ring(self.cameras).items()
            ]
        )
        self._calibrated = True

    def shoot(self, only: list[str] | None = None) -> None:
        """One good image of each camera (or of ``only`` these), of the next time."""
        self.stamp += STEP
        for name in self.cameras if only is None else only:
            if self._calibrated:
                self.publish(f"{name}/camera_info", camera_info())
            self.publish(f"{name}/image_raw", image(self.stamp, name, self.pixels[name]))

    def until(self, done: Callable[[], object], each: Callable[[], None] | None = None) -> None:
        """Spin until something is the case; ``each`` is called every now and then meanwhile."""
        end, due = time.monotonic() + DEADLINE, 0.0
        while not done():
            assert time.monotonic() < end, f"never came about; log: {self.said}"
            if each is not None and time.monotonic() >= due:
                each()
                due = time.monotonic() + 0.05
            self.executor.spin_once(timeout_sec=0.02)

    def activate(self) -> None:
        """Configure and activate."""
        assert self.node.trigger_configure() == SUCCESS
        assert self.node.trigger_activate() == SUCCESS

    def problems(self, text: str) -> list[str]:
        """Lines of the log, warnings or worse, with this text in it."""
        return [line for level, line in self.said if level >= 30 and text in line]

    def message(self, status: str) -> str:
        """The sentence of a status on /diagnostics."""
        return self.status[status].message if status in self.status else ""

    def value(self, status: str, key: str) -> str:
        """One of a status's values."""
        values = self.status[status].values if status in self.status else ()
        return next((v.value for v in values if v.key == key), "")

    def set(self, **values) -> list[str]:
        """Set parameters as ``ros2 param set`` does; reasons of those refused."""
        given = [Parameter(name.replace("__", "."), value=v) for name, v in values.items()]
        return [r.reason for r in self.node.set_parameters(given) if not r.successful]

    def static(self, transforms: list) -> None:
        """Publish on /tf_static."""
        self.publish("/tf_static", TFMessage(transforms=transforms), LATCHED)

    def close(self) -> None:
        """Take everything down."""
        self.node.close()
        self.executor.shutdown()
        self.node.destroy_node()
        self.peer.destroy_node()


def parameters(cameras: list[str], weights: str, values: dict) -> list[Parameter]:
    """Overrides for a quick node; ``a__b`` is the parameter ``a.b``."""
    settings: dict = {
        "cameras": cameras,
        "model.weights": weights,
        "model.device": "cpu",
        "model.precision": "fp32",
        "model.warmup": 0,
        "diagnostics.period": 0.1,
        "diagnostics.max_delay": 0.0,  # stamps are of no clock
        "lazy": False,
    }
    settings.update({name.replace("__", "."): value for name, value in values.items()})
    return [Parameter(name, value=value) for name, value in settings.items()]
