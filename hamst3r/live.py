"""A running node's topics as scenes; the only place of the library that imports ROS, if asked.

What a page shows needs only the standard message and ``hamst3r_msgs``: points, cameras and
people. Pictures and depth stay where they are.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import fields
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from hamst3r.geometry import make_T
from hamst3r.reconstructor import ReconstructorConfig, fuse_points
from hamst3r.scene import (
    BodyFit,
    Camera,
    Contact,
    Person,
    PointCloud,
    ScaleSource,
    Scene,
    TrackingState,
)
from hamst3r.viewer import Images

# sensor_msgs/PointField's datatypes.
_TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 8: "f8"}
SHOW_EVERY = 0.2  # seconds; browsers need not see every frame set


def watch_node(
    node: str,
    show: Callable[[Scene, Images], None],
    go_on: Callable[[], bool],
    domain: int | None = None,
) -> None:
    """Show what a node publishes for as long as ``go_on`` says so.

    Args:
        node: Its full name, such as ``/hamst3r``.
        domain: ROS domain; None: that of the environment (``ROS_DOMAIN_ID``).

    Raises:
        ValueError: ROS or ``hamst3r_msgs`` cannot be imported.
    """
    try:
        import rclpy
        from hamst3r_msgs.msg import CameraArray, HumanArray
        from rclpy.qos import qos_profile_sensor_data
        from sensor_msgs.msg import PointCloud2
    except ImportError as error:
        raise ValueError(
            f"watching a node needs ROS 2 and hamst3r_msgs ({error}); enter the workspace first: "
            "source install/setup.bash (or scripts/env.sh)"
        ) from None
    latest: dict[str, Any] = {}
    context = rclpy.Context()
    rclpy.init(args=[], context=context, domain_id=domain)
    try:
        own = rclpy.create_node("hamst3r_view", context=context)
        kinds = {"points": PointCloud2, "cameras": CameraArray, "humans": HumanArray}
        for topic, kind in kinds.items():
            name, take = f"{node.rstrip('/')}/{topic}", partial(latest.__setitem__, topic)
            own.create_subscription(kind, name, take, qos_profile_sensor_data)
        executor = rclpy.executors.SingleThreadedExecutor(context=context)
        executor.add_node(own)
        shown = 0.0
        while go_on():
            executor.spin_once(timeout_sec=0.1)
            if "points" in latest and time.monotonic() - shown > SHOW_EVERY:
                show(scene_of(latest["points"], latest.get("cameras"), latest.get("humans")), {})
                del latest["points"]
                shown = time.monotonic()
    finally:
        rclpy.try_shutdown(context=context)


def scene_of(points: Any, cameras: Any = None, humans: Any = None) -> Scene:
    """A scene from messages (PointCloud2, CameraArray, HumanArray); without views.

    Raises:
        ValueError: A cloud without x, y, z.
    """
    stamp = points.header.stamp.sec * 1_000_000_000 + points.header.stamp.nanosec
    return Scene(
        stamp=stamp,
        cameras=tuple(_camera(c) for c in cameras.cameras) if cameras is not None else (),
        views=(),
        points=cloud_of(points),
        people=tuple(_person(h) for h in humans.humans) if humans is not None else (),
        scale_source=ScaleSource(humans.scale_source) if humans is not None else ScaleSource(0),
        scale_std=float(humans.scale_std) if humans is not None else 0.0,
    )


def cloud_of(message: Any) -> PointCloud:
    """A PointCloud2 with at least x, y, z; what it lacks is unknown (grey, nobody)."""
    known = {field.name: field for field in message.fields}
    if not {"x", "y", "z"} <= set(known):
        raise ValueError(f"a cloud needs fields x, y, z, got {', '.join(known)}")
    order = ">" if message.is_bigendian else "<"
    layout = np.dtype(
        {
            "names": list(known),
            "formats": [order + _TYPES[field.datatype] for field in known.values()],
            "offsets": [field.offset for field in known.values()],
            "itemsize": message.point_step,
        }
    )
    count = message.width * message.height
    records = np.frombuffer(bytes(message.data), layout, count)
    xyz = np.stack([records[axis] for axis in "xyz"], -1).astype(np.float32)
    good = np.isfinite(xyz).all(-1)
    records, xyz = records[good], xyz[good]
    columns: dict[str, NDArray] = {
        "xyz": xyz,
        "rgb": np.full((len(xyz), 3), 128, np.uint8),
        "body": np.full((len(xyz), 3), np.nan, np.float32),
    }
    if "rgb" in known:
        packed = np.ascontiguousarray(records["rgb"]).view(f"{order}u4")
        columns["rgb"] = np.stack([packed >> 16 & 255, packed >> 8 & 255, packed & 255], -1)
    if "confidence" in known and records["confidence"].dtype == np.uint8:
        # ~/points has 255 (1 - 1 / c) in a byte.
        columns["confidence"] = 255 / (255 - np.minimum(records["confidence"], 254).astype(float))
    if {"u", "v", "w"} <= set(known):
        columns["body"] = np.stack([records[axis] for axis in "uvw"], -1)
    empty = fuse_points((), (), ReconstructorConfig())
    for field in fields(PointCloud):
        dtype = getattr(empty, field.name).dtype
        default = np.ones(len(xyz)) if field.name == "confidence" else np.zeros(len(xyz))
        told = records[field.name] if field.name in known else default
        columns[field.name] = columns.get(field.name, told).astype(dtype)
    return PointCloud(**columns)


def _pose(pose: Any) -> NDArray[np.float64]:
    q, p = pose.orientation, pose.position
    return make_T(Rotation.from_quat([q.x, q.y, q.z, q.w]).as_matrix(), [p.x, p.y, p.z])


def _camera(message: Any) -> Camera:
    return Camera(
        name=message.name,
        frame_id=message.frame_id,
        stamp=message.stamp.sec * 1_000_000_000 + message.stamp.nanosec,
        width=message.width,
        height=message.height,
        K=np.array(message.k, float).reshape(3, 3),
        T_world_cam=_pose(message.pose),
        confidence=message.confidence,
    )


def _person(message: Any) -> Person:
    def array(values: Sequence[float]) -> NDArray[np.float32]:
        return np.array(values, np.float32)

    fit = None
    if message.body_model:
        fit = BodyFit(
            model=message.body_model,
            model_sha256=message.body_model_sha256,
            betas=array(message.betas),
            global_orient=array(message.global_orient),
            body_pose=array(message.body_pose),
            transl=array(message.transl),
            rmse=float(message.fit_rmse),
            inliers=message.fit_inliers,
        )
    linear = message.velocity.linear
    return Person(
        id=message.id,
        state=TrackingState(message.tracking_state),
        confidence=message.confidence,
        fit=fit,
        joints=np.array([(p.x, p.y, p.z) for p in message.joints], np.float32).reshape(-1, 3),
        joint_std=array(message.joint_std),
        position=_pose(message.pose.pose)[:3, 3],
        covariance=np.array(message.pose.covariance, float).reshape(6, 6)[:3, :3],
        velocity=np.array([linear.x, linear.y, linear.z]) if message.velocity_valid else None,
        num_points=message.num_points,
        rois={
            camera: (roi.x_offset, roi.y_offset, roi.width, roi.height)
            for camera, roi in zip(message.cameras, message.rois, strict=False)
        },
        contacts=Contact(message.contacts),
    )
