"""What the demo hears from a running node: numbers for its table, frame sets for its picture."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import Pose
from hamst3r_msgs.msg import CameraArray, Human, HumanArray
from numpy.typing import NDArray
from rclpy.node import Node
from rclpy.qos import QoSProfile
from scipy.spatial.transform import Rotation
from sensor_msgs.msg import CameraInfo, Image, PointCloud2, PointField
from tf2_msgs.msg import TFMessage

from hamst3r_ros.demo_snapshot import Body, CameraShot, Snapshot
from hamst3r_ros.headers import from_transform, to_nanoseconds

QOS = QoSProfile(depth=10)
WINDOW = 5.0  # seconds of the past that rates are of
KEPT_NS = 15_000_000_000  # messages wait this long for the others of their frame set
SHOWN_STATES = (Human.NEW, Human.OK)
_TYPES = {
    PointField.UINT8: "u1",
    PointField.UINT16: "u2",
    PointField.UINT32: "u4",
    PointField.FLOAT32: "f4",
}


@dataclass
class Status:
    """The running node in numbers.

    Attributes:
        sets: Frame sets received. rate: Of them per second.
        latency: Seconds from an image's stamp to the points' arrival.
        points, people_points: Of the latest cloud, and how many of them are on people.
        people: (id, tracking state, body's root mean square distance or NaN) of the latest set.
        diagnostics: Name of a status ("cameras", ...) -> its message; values -> its values.
    """

    sets: int = 0
    rate: float = 0.0
    latency: float = float("nan")
    points: int = 0
    people_points: int = 0
    people: list[tuple[int, int, float]] = field(default_factory=list)
    diagnostics: dict[str, str] = field(default_factory=dict)
    values: dict[str, dict[str, str]] = field(default_factory=dict)


class DemoCollector(Node):
    """Listens to the node ``/hamst3r`` and to its cameras; safe from any thread.

    Args:
        cameras: Their names; images come raw.
        truth: Topic with the true poses (hamst3r_msgs/CameraArray), "" if there is none.
    """

    def __init__(self, cameras: Sequence[str], truth: str = "") -> None:
        super().__init__("hamst3r_demo")
        self._lock = threading.Lock()
        self._arrivals: deque[float] = deque(maxlen=200)
        self._status = Status()
        self._held: dict[tuple[str, str, int], object] = {}  # (kind, camera, stamp) -> message
        self._best: tuple[tuple[int, int, int], dict[tuple[str, str, int], object], int] | None = (
            None
        )
        self._tf: dict[str, NDArray[np.float64]] = {}
        self._truth: dict[str, NDArray[np.float64]] = {}
        hear = self._hear
        hear(PointCloud2, "/hamst3r/points", "points")
        hear(HumanArray, "/hamst3r/humans", "humans")
        hear(CameraArray, "/hamst3r/cameras", "cameras")
        for name in cameras:
            hear(Image, f"/{name}/image_raw", "image", name)
            hear(Image, f"/hamst3r/{name}/instances", "instances", name)
            hear(CameraInfo, f"/hamst3r/{name}/camera_info", "grid", name)
        self.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, QOS)
        self.create_subscription(TFMessage, "/tf", self._on_tf, QoSProfile(depth=100))
        if truth:
            self.create_subscription(CameraArray, truth, self._on_truth, QOS)

    def status(self) -> Status:
        """A copy of the numbers as they are now."""
        now = time.monotonic()
        with self._lock:
            recent = [at for at in self._arrivals if at >= now - WINDOW]
            self._status.rate = 0.0
            if len(recent) > 1:
                self._status.rate = (len(recent) - 1) / (recent[-1] - recent[0])
            return Status(**vars(self._status))

    @property
    def complete(self) -> bool:
        """Whether a frame set was heard completely."""
        with self._lock:
            return self._best is not None

    def snapshot(self, title: str) -> Snapshot | None:
        """The best set heard completely: most bodies, most people, then the newest; or None."""
        with self._lock:
            if self._best is None:
                return None
            _, held, stamp = self._best
        return _snapshot(held, stamp, title)

    def frame_errors(
        self, expected: Mapping[str, NDArray[np.float64]] | None
    ) -> dict[str, tuple[float, float]]:
        """How far the cameras' frames on /tf are from what is known.

        Args:
            expected: camera -> (4, 4) T_rig_cam; None: the truth as heard.

        Returns:
            camera -> (metres, radians); infinite for a camera without a frame on /tf.
        """
        with self._lock:
            found = dict(self._tf)
            known = dict(self._truth) if expected is None else dict(expected)
        missing = (float("inf"), float("inf"))
        return {
            name: _difference(found[name], T) if name in found else missing
            for name, T in known.items()
        }

    # ------------------------------------------------------------------------------- messages

    def _hear(self, kind: type, topic: str, what: str, camera: str = "") -> None:
        def receive(message: Image) -> None:
            stamp = to_nanoseconds(message.header.stamp)
            with self._lock:
                self._held[(what, camera, stamp)] = message
                if what == "points":
                    self._on_points(message, stamp)
                if what == "humans":
                    self._on_humans(message)
                if what != "image":
                    self._keep_if_complete()

        self.create_subscription(kind, topic, receive, QOS)

    def _on_points(self, message: PointCloud2, stamp: int) -> None:
        self._arrivals.append(time.monotonic())
        status = self._status
        status.sets += 1
        status.latency = (self.get_clock().now().nanoseconds - stamp) / 1e9
        status.points = message.width * message.height
        status.people_points = int(np.count_nonzero(read_points(message)["instance"]))
        for key in [key for key in self._held if key[2] < stamp - KEPT_NS]:
            del self._held[key]

    def _on_humans(self, message: HumanArray) -> None:
        self._status.people = [(h.id, h.tracking_state, h.fit_rmse) for h in message.humans]

    def _keep_if_complete(self) -> None:
        stamps = [stamp for what, _, stamp in self._held if what == "points"]
        for stamp in stamps:
            needed = _needed(self._held, stamp)
            if needed is None or not all(key in self._held for key in needed):
                continue
            humans = self._held[("humans", "", stamp)]
            shown = list(_shown(humans))
            score = (sum(bool(human.betas) for human in shown), len(shown), stamp)
            if self._best is None or score > self._best[0]:
                self._best = (score, {key: self._held[key] for key in needed}, stamp)
            for key in [key for key in self._held if key[2] <= stamp]:
                del self._held[key]

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        with self._lock:
            for status in message.status:
                name = status.name.partition(": ")[2]
                self._status.diagnostics[name] = status.message
                self._status.values[name] = {v.key: v.value for v in status.values}

    def _on_tf(self, message: TFMessage) -> None:
        with self._lock:
            for transform in message.transforms:
                T = from_transform(transform.transform)
                child = transform.child_frame_id
                if T is not None and child.startswith("hamst3r/"):
                    name = child.removeprefix("hamst3r/").removesuffix("_optical_frame")
                    self._tf[name] = T

    def _on_truth(self, message: CameraArray) -> None:
        with self._lock:
            self._truth = {camera.name: _matrix(camera.pose) for camera in message.cameras}


def read_points(cloud: PointCloud2) -> NDArray[np.void]:
    """(N,) records with the cloud's fields; ``rgb`` is 0x00RRGGBB."""
    layout = np.dtype(
        {
            "names": [f.name for f in cloud.fields],
            "formats": ["u4" if f.name == "rgb" else _TYPES[f.datatype] for f in cloud.fields],
            "offsets": [f.offset for f in cloud.fields],
            "itemsize": cloud.point_step,
        }
    ).newbyteorder(">" if cloud.is_bigendian else "<")
    return np.frombuffer(cloud.data, layout)


def read_image(message: Image) -> NDArray:
    """(H, W, 3) uint8 of rgb8, (H, W) uint16 of 16UC1."""
    if message.encoding == "rgb8":
        rows = np.frombuffer(message.data, np.uint8).reshape(message.height, message.step)
        return rows[:, : 3 * message.width].reshape(message.height, message.width, 3)
    if message.encoding == "16UC1":
        return np.frombuffer(message.data, "<u2").reshape(message.height, message.width)
    raise ValueError(f"image encoding is '{message.encoding}', expected rgb8 or 16UC1")


def _needed(held: Mapping, stamp: int) -> list[tuple[str, str, int]] | None:
    """Keys of all messages of a frame set; None while its cameras are not known."""
    cameras = held.get(("cameras", "", stamp))
    if cameras is None:
        return None
    needed = [(what, "", stamp) for what in ("points", "humans", "cameras")]
    for camera in cameras.cameras:
        taken = to_nanoseconds(camera.stamp)
        needed += [(what, camera.name, taken) for what in ("image", "instances", "grid")]
    return needed


def _shown(humans: HumanArray) -> Iterable[Human]:
    return (human for human in humans.humans if human.tracking_state in SHOWN_STATES)


def _snapshot(held: Mapping, stamp: int, title: str) -> Snapshot:
    points = read_points(held[("points", "", stamp)])
    rgb = points["rgb"]
    cameras = held[("cameras", "", stamp)].cameras
    shots = []
    for camera in cameras:
        taken = to_nanoseconds(camera.stamp)
        shots.append(
            CameraShot(
                camera.name,
                read_image(held[("image", camera.name, taken)]),
                read_image(held[("instances", camera.name, taken)]),
                np.reshape(held[("grid", camera.name, taken)].k, (3, 3)),
                np.reshape(camera.k, (3, 3)),
                _matrix(camera.pose),
            )
        )
    bodies = tuple(_body(human) for human in _shown(held[("humans", "", stamp)]))
    return Snapshot(
        xyz=np.stack([points["x"], points["y"], points["z"]], axis=1),
        rgb=np.stack([rgb >> 16 & 255, rgb >> 8 & 255, rgb & 255], axis=1).astype(np.uint8),
        instance=points["instance"],
        camera=points["camera"],
        cameras=tuple(shots),
        bodies=bodies,
        title=title,
        subtitle=f"{len(points):,} points from {len(shots)} cameras",
    )


def _body(human: Human) -> Body:
    joints = np.array([[p.x, p.y, p.z] for p in human.joints], np.float32).reshape(-1, 3)
    fitted = len(human.betas) > 0
    parameters: list[NDArray[np.float32] | None] = [
        np.array(values, np.float32) if fitted else None
        for values in (human.betas, human.global_orient, human.body_pose, human.transl)
    ]
    return Body(human.id, joints, *parameters)


def _matrix(pose: Pose) -> NDArray[np.float64]:
    q, p = pose.orientation, pose.position
    T = np.eye(4)
    T[:3, :3] = Rotation.from_quat([q.x, q.y, q.z, q.w]).as_matrix()
    T[:3, 3] = p.x, p.y, p.z
    return T


def _difference(A: NDArray, B: NDArray) -> tuple[float, float]:
    turn = Rotation.from_matrix(A[:3, :3].T @ B[:3, :3]).magnitude()
    return float(np.linalg.norm(A[:3, 3] - B[:3, 3])), float(turn)
