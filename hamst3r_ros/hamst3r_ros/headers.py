"""Stamps, buffers and transforms between messages and plain values: each conversion once."""

from __future__ import annotations

import array
import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from builtin_interfaces.msg import Time
from geometry_msgs.msg import Point, Pose, Quaternion, Transform, TransformStamped, Vector3
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation
from std_msgs.msg import Header

from hamst3r_ros.wire import Fields

NANOSECONDS = 1_000_000_000


@dataclass(frozen=True, eq=False)
class Link:
    """Where one frame is in another: (4, 4) rigid ``T_parent_child``, metres."""

    parent: str
    child: str
    T_parent_child: NDArray[np.float64]

    def fields(self, stamp: int) -> Fields:
        """Its TransformStamped for :mod:`hamst3r_ros.wire`, at integer nanoseconds."""
        T = np.asarray(self.T_parent_child, np.float64)
        return {
            "header": header_fields(stamp, self.parent),
            "child_frame_id": self.child,
            "transform": _transform(T.tobytes()),
        }


@lru_cache(maxsize=256)
def _transform(T: bytes) -> tuple[float, ...]:
    """Place and quaternion of a (4, 4) in float64; most cameras stay where they are."""
    matrix = np.frombuffer(T).reshape(4, 4)
    return (*matrix[:3, 3].tolist(), *quaternion(matrix[:3, :3]))


def type_name(kind: Any) -> str:
    """A message's class as ROS names its type: "sensor_msgs/msg/Image"."""
    return f"{kind.__module__.split('.')[0]}/msg/{kind.__name__}"


def to_nanoseconds(stamp: Time) -> int:
    """Integer nanoseconds of a stamp; float64 could not hold them."""
    return stamp.sec * NANOSECONDS + stamp.nanosec


def to_time(stamp: int) -> Time:
    """Stamp of integer nanoseconds."""
    seconds, nanoseconds = divmod(stamp, NANOSECONDS)
    return Time(sec=seconds, nanosec=nanoseconds)


def header(stamp: int, frame_id: str) -> Header:
    """Header of integer nanoseconds and a frame."""
    return Header(stamp=to_time(stamp), frame_id=frame_id)


def byte_array(data: NDArray) -> array.array:
    """uint8[] content, in the one form that rclpy takes without looking at each byte."""
    result = array.array("B")
    if data.size:  # memoryview cannot cast empty shapes
        result.frombytes(np.ascontiguousarray(data).view(np.uint8).reshape(-1).data)
    return result


def header_fields(stamp: int, frame_id: str) -> Fields:
    """The same for :mod:`hamst3r_ros.wire`."""
    return {"stamp": divmod(stamp, NANOSECONDS), "frame_id": frame_id}


def quaternion(rotation: NDArray) -> tuple[float, float, float, float]:
    """(x, y, z, w), w >= 0, of a (3, 3) rotation matrix.

    The largest component comes from the diagonal, the others from sums and differences (Shepperd
    1978). In floats: at one matrix a call scipy takes twenty times as long, and there are many.
    """
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = rotation.tolist()
    squares = (1 + xx - yy - zz, 1 - xx + yy - zz, 1 - xx - yy + zz, 1 + xx + yy + zz)
    largest = max(range(4), key=squares.__getitem__)
    components = (
        (squares[0], xy + yx, xz + zx, zy - yz),
        (xy + yx, squares[1], yz + zy, xz - zx),
        (xz + zx, yz + zy, squares[2], yx - xy),
        (zy - yz, xz - zx, yx - xy, squares[3]),
    )[largest]
    norm = math.copysign(math.hypot(*components), components[3])
    x, y, z, w = (component / norm for component in components)
    return x, y, z, w


def to_quaternion(rotation: NDArray) -> Quaternion:
    """Quaternion, w >= 0, of a (3, 3) rotation matrix."""
    x, y, z, w = quaternion(rotation)
    return Quaternion(x=x, y=y, z=z, w=w)


def to_pose(T: NDArray) -> Pose:
    """Pose of a (4, 4) rigid transform."""
    pose = Pose()
    pose.orientation = to_quaternion(T[:3, :3])
    pose.position.x, pose.position.y, pose.position.z = T[:3, 3].tolist()
    return pose


def to_transform(stamp: int, parent: str, child: str, T_parent_child: NDArray) -> TransformStamped:
    """TransformStamped of a (4, 4) rigid transform that maps child to parent, metres."""
    # Field by field: what is passed to a message's constructor is made twice.
    message = TransformStamped()
    head, transform = message.header, message.transform
    head.stamp.sec, head.stamp.nanosec = divmod(stamp, NANOSECONDS)
    head.frame_id, message.child_frame_id = parent, child
    transform.rotation = to_quaternion(T_parent_child[:3, :3])
    place = transform.translation
    place.x, place.y, place.z = T_parent_child[:3, 3].tolist()
    return message


def from_transform(message: Transform) -> NDArray[np.float64] | None:
    """(4, 4) of a Transform; None if it is not a rigid transform."""
    return _rigid(message.rotation, message.translation)


def from_pose(message: Pose) -> NDArray[np.float64] | None:
    """(4, 4) of a Pose; None if it is not a rigid transform."""
    return _rigid(message.orientation, message.position)


def _rigid(q: Quaternion, t: Vector3 | Point) -> NDArray[np.float64] | None:
    values = np.array([q.x, q.y, q.z, q.w, t.x, t.y, t.z])
    norm = np.linalg.norm(values[:4])
    if not np.isfinite(values).all() or abs(norm - 1) > 0.1:
        return None
    T = np.eye(4)
    T[:3, :3] = Rotation.from_quat(values[:4]).as_matrix()
    T[:3, 3] = values[4:]
    return T
