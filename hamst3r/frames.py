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
        frame_id: Name of the frame the image was stamped with (ROS header), kept for the wire.
    """

    camera: str
    stamp: int
    image: NDArray[np.uint8]
    K: NDArray[np.float64] | None = None
    distortion: NDArray[np.float64] | None = None
    T_rig_cam: NDArray[np.float64] | None = None
    frame_id: str = ""

    def __post_init__(self) -> None:
        image = self.image
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
            raise ValueError(
                f"{self.camera}: image must be (H, W, 3) uint8 RGB, got {image.shape} {image.dtype}"
            )
        for name, value, shape in (
            ("K", self.K, (3, 3)),
            ("T_rig_cam", self.T_rig_cam, (4, 4)),
        ):
            if value is not None and (value.shape != shape or not np.isfinite(value).all()):
                raise ValueError(f"{self.camera}: {name} must be finite and of shape {shape}")


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
