"""What cameras delivered: one image with what is known of its camera, and one set of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Frame:
    """One image of one camera.

    Attributes:
        camera: Name of the camera; the same camera keeps its name over time.
        stamp: Time of exposure in integer nanoseconds. Never a float: float64 cannot hold it.
        image: (H, W, 3) uint8, RGB.
        K: (3, 3) pinhole intrinsics in pixels of ``image`` (pixel centres at integers), or None.
        distortion: OpenCV coefficients (k1, k2, p1, p2[, k3[, k4, k5, k6]]), or None.
        T_rig_cam: (4, 4) rigid pose that maps camera (OpenCV axes, metres) to the rig, or None.
        K_std: Relative standard deviation of the focal length in ``K``; 0: taken as exact.
        T_rig_cam_covariance: (6, 6) of ``T_rig_cam``: translation (m), rotation (rad) about fixed
            axes, both along the rig's, as in ROS's PoseWithCovariance; None or zeros: exact.
        gravity: (3,) direction in which things fall, in the camera's axes (from an IMU), or None.
        gravity_std: Standard deviation of that direction, radians.
        frame_id: Name of the frame the image was stamped with (ROS header), kept for the wire.
    """

    camera: str
    stamp: int
    image: NDArray[np.uint8]
    K: NDArray[np.float64] | None = None
    distortion: NDArray[np.float64] | None = None
    T_rig_cam: NDArray[np.float64] | None = None
    frame_id: str = ""
    K_std: float = 0.0
    T_rig_cam_covariance: NDArray[np.float64] | None = None
    gravity: NDArray[np.float64] | None = None
    gravity_std: float = 0.03

    def __post_init__(self) -> None:
        image = self.image
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
            raise ValueError(
                f"{self.camera}: image must be (H, W, 3) uint8 RGB, got {image.shape} {image.dtype}"
            )
        for name, value, shape in (
            ("K", self.K, (3, 3)),
            ("T_rig_cam", self.T_rig_cam, (4, 4)),
            ("T_rig_cam_covariance", self.T_rig_cam_covariance, (6, 6)),
            ("gravity", self.gravity, (3,)),
        ):
            if value is not None and (value.shape != shape or not np.isfinite(value).all()):
                raise ValueError(f"{self.camera}: {name} must be finite and of shape {shape}")
        if not 0 <= self.K_std < 1:
            raise ValueError(f"{self.camera}: K_std must be in [0, 1), got {self.K_std}")
        if self.gravity is not None and not (self.gravity_std > 0 and self.gravity.any()):
            raise ValueError(f"{self.camera}: gravity needs a length and a gravity_std above 0")
        check_covariance(self.camera, self.T_rig_cam_covariance)

    @property
    def pose_is_exact(self) -> bool:
        """Whether ``T_rig_cam`` is there and to be taken as it is."""
        covariance = self.T_rig_cam_covariance
        return self.T_rig_cam is not None and (covariance is None or not covariance.any())


def check_covariance(where: str, covariance: NDArray[np.float64] | None) -> None:
    """Raises ValueError for a matrix that is no covariance."""
    if covariance is None:
        return
    values = np.linalg.eigvalsh((covariance + covariance.T) / 2)
    symmetric = np.allclose(covariance, covariance.T, atol=1e-9)
    if not symmetric or values[0] < -1e-9 * max(values[-1], 1e-9):
        raise ValueError(f"{where}: a covariance must be symmetric without negative eigenvalues")


@dataclass(frozen=True, eq=False)
class FrameSet:
    """Frames of different cameras at (nearly) one time.

    Attributes:
        stamp: Reference time in nanoseconds: the stamp of the reference (else the newest) frame.
        frames: At least one frame, no camera twice, in a stable order.
    """

    stamp: int
    frames: tuple[Frame, ...]

    def __post_init__(self) -> None:
        names = [frame.camera for frame in self.frames]
        if not names:
            raise ValueError("a FrameSet needs at least one frame")
        if len(set(names)) != len(names):
            raise ValueError(f"a FrameSet holds each camera once, got {names}")

    @property
    def cameras(self) -> tuple[str, ...]:
        """Names of the cameras, in order."""
        return tuple(frame.camera for frame in self.frames)
