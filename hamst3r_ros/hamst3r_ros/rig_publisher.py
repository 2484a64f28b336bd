"""What a rig of cameras puts on the wire: images, CameraInfo and the static frames."""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np
from numpy.typing import NDArray
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header
from tf2_msgs.msg import TFMessage

from hamst3r.alignment.calibration import CameraCalibration
from hamst3r_ros.headers import byte_array, header, to_transform

TRANSPORTS = ("raw", "compressed", "both")
# Reliable, so that readers of either kind match; depth 1, because an old image helps nobody.
IMAGE_QOS = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
TF_STATIC_QOS = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)


def optical_frame(camera: str) -> str:
    """Frame of a camera's images: ``<camera>_optical_frame`` (OpenCV axes, REP-103)."""
    return f"{camera.strip('/')}_optical_frame"


class RigPublisher:
    """Publishers of a rig's cameras.

    For every camera ``c``: ``c/image_raw`` (rgb8) and/or ``c/image_raw/compressed`` (JPEG), and
    with a calibration ``c/camera_info`` and its frame in ``/tf_static`` (all in one message).

    Args:
        node: Node the publishers belong to.
        cameras: camera -> calibration of the images that will be published, None if unknown.
        transport: "raw", "compressed" or "both".
        world_frame: Parent of the cameras' frames.
        jpeg_quality: In [1, 100].
    """

    def __init__(
        self,
        node: Node,
        cameras: Mapping[str, CameraCalibration | None],
        transport: str,
        world_frame: str,
        jpeg_quality: int = 92,
    ) -> None:
        if transport not in TRANSPORTS:
            raise ValueError(f"transport is '{transport}', expected {', '.join(TRANSPORTS)}")
        self._cameras = dict(cameras)
        self._jpeg = [cv2.IMWRITE_JPEG_QUALITY, int(jpeg_quality)]
        raw, compressed = transport != "compressed", transport != "raw"
        self._raw = {
            name: node.create_publisher(Image, f"{name}/image_raw", IMAGE_QOS)
            for name in cameras
            if raw
        }
        self._compressed = {
            name: node.create_publisher(CompressedImage, f"{name}/image_raw/compressed", IMAGE_QOS)
            for name in cameras
            if compressed
        }
        self._info = {
            name: node.create_publisher(CameraInfo, f"{name}/camera_info", IMAGE_QOS)
            for name, known in cameras.items()
            if known is not None
        }
        self._tf_static = node.create_publisher(TFMessage, "/tf_static", TF_STATIC_QOS)
        self._publish_frames(node.get_clock().now().nanoseconds, world_frame)

    def _publish_frames(self, stamp: int, world_frame: str) -> None:
        transforms = [
            to_transform(stamp, world_frame, optical_frame(name), known.T_rig_cam)
            for name, known in self._cameras.items()
            if known is not None
        ]
        if transforms:
            self._tf_static.publish(TFMessage(transforms=transforms))

    def watched(self) -> bool:
        """Whether every camera's image has a subscriber."""
        kinds = [kind for kind in (self._raw, self._compressed) if kind]
        return all(
            any(kind[name].get_subscription_count() for kind in kinds) for name in self._cameras
        )

    def publish(self, stamp: int, images: Mapping[str, NDArray[np.uint8]]) -> None:
        """Publish images of one time.

        Args:
            stamp: Nanoseconds; every message of the set carries it.
            images: camera -> (H, W, 3) uint8 RGB.
        """
        for name, image in images.items():
            head = header(stamp, optical_frame(name))
            known = self._cameras[name]
            if known is not None:
                self._info[name].publish(camera_info(head, known, image.shape))
            raw, compressed = self._raw.get(name), self._compressed.get(name)
            if raw is not None and raw.get_subscription_count():
                raw.publish(image_message(head, image))
            if compressed is not None and compressed.get_subscription_count():
                compressed.publish(self._encode(head, image))

    def _encode(self, head: Header, image: NDArray[np.uint8]) -> CompressedImage:
        bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
        _, data = cv2.imencode(".jpg", bgr, self._jpeg)
        message = CompressedImage(header=head, format="rgb8; jpeg compressed bgr8")
        message.data = byte_array(data)
        return message


def image_message(head: Header, image: NDArray[np.uint8]) -> Image:
    """sensor_msgs/Image (rgb8) of an (H, W, 3) uint8 RGB array."""
    height, width = image.shape[:2]
    message = Image(
        header=head, height=height, width=width, encoding="rgb8", is_bigendian=0, step=3 * width
    )
    message.data = byte_array(image)
    return message


def camera_info(head: Header, known: CameraCalibration, shape: tuple[int, ...]) -> CameraInfo:
    """CameraInfo of a calibrated camera whose images have this (height, width, ...)."""
    D = [float(d) for d in known.distortion]
    message = CameraInfo(header=head, height=shape[0], width=shape[1])
    message.distortion_model = "rational_polynomial" if len(D) == 8 else "plumb_bob"
    message.d = D + [0.0] * (5 - len(D))
    message.k = known.K.ravel().tolist()
    message.r = np.eye(3).ravel().tolist()
    message.p = np.hstack([known.K, np.zeros((3, 1))]).ravel().tolist()
    return message
