"""Intrinsics of a camera, by CameraInfo or a calibration file, at the size of its images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sensor_msgs.msg import CameraInfo

F64 = NDArray[np.float64]
ASPECT_TOLERANCE = 0.01
COEFFICIENTS = {"plumb_bob": (0, 4, 5), "rational_polynomial": (0, 8, 12, 14)}


class IntrinsicsError(ValueError):
    """Intrinsics that cannot be used; the message says why and what would do."""


@dataclass(frozen=True, eq=False)
class Intrinsics:
    """K (3, 3) and OpenCV distortion of an image of (width, height) pixels; 0 = any size."""

    K: F64
    distortion: F64
    width: int
    height: int
    source: str = "camera_info"
    focal_std: float = 0.0

    def scaled(self, width: int, height: int) -> Intrinsics:
        """The same camera at another size of its image.

        Raises:
            IntrinsicsError: Another aspect: the image was cropped, and nobody says where.
        """
        if not self.width or not self.height or (self.width, self.height) == (width, height):
            return self
        x, y = width / self.width, height / self.height
        if abs(x / y - 1) > ASPECT_TOLERANCE:
            raise IntrinsicsError(
                f"intrinsics are of {self.width}x{self.height}, but images are {width}x{height}: "
                "another aspect; they are left out until those of the delivered images come"
            )
        K = self.K.copy()
        K[:2] *= np.array([[x], [y]])
        K[:2, 2] += 0.5 * np.array([x, y]) - 0.5  # pixel centres are at integers
        return Intrinsics(K, self.distortion, width, height, self.source, self.focal_std)


def from_camera_info(message: CameraInfo) -> Intrinsics | None:
    """Intrinsics of a CameraInfo; None if it says nothing (K is zero: not calibrated).

    Raises:
        IntrinsicsError: A model of distortion that is not supported, or broken numbers.
    """
    K, D = np.array(message.k, dtype=float).reshape(3, 3), np.array(message.d, dtype=float)
    if not K.any():
        return None
    if not np.isfinite(K).all() or not np.isfinite(D).all() or K[0, 0] <= 0 or K[1, 1] <= 0:
        raise IntrinsicsError("camera_info needs finite numbers and positive focal lengths")
    model = message.distortion_model or "plumb_bob"
    if model not in COEFFICIENTS:
        raise IntrinsicsError(
            f"camera_info has distortion model '{model}', expected "
            f"{' or '.join(COEFFICIENTS)}; rectify the images before (image_proc), or its "
            "intrinsics are left out"
        )
    if D.size not in COEFFICIENTS[model]:
        raise IntrinsicsError(
            f"camera_info has {D.size} coefficients of {model}, expected one of "
            f"{COEFFICIENTS[model]}"
        )
    width, height = message.width, message.height
    roi = message.roi
    if roi.width and roi.height:  # K is of the full image, of which this part is delivered
        K[0, 2] -= roi.x_offset
        K[1, 2] -= roi.y_offset
        width, height = roi.width, roi.height
    return Intrinsics(K, D, width, height)
