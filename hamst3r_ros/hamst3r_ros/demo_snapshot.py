"""What the demo's subscriber has of one moment, and its picture shows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class CameraShot:
    """A camera and what it saw.

    Attributes:
        name: Of the camera.
        image: (H, W, 3) uint8 RGB as delivered, None if none arrived.
        instances: (h, w) person ids on the output grid, None if none arrived.
        K_grid, K_image: (3, 3) intrinsics of the grid and of the delivered image.
        T_world_cam: (4, 4), None for a camera without a pose.
    """

    name: str
    image: NDArray[np.uint8] | None
    instances: NDArray[np.integer] | None
    K_grid: NDArray[np.float64] | None
    K_image: NDArray[np.float64] | None
    T_world_cam: NDArray[np.float64] | None


@dataclass(frozen=True, eq=False)
class Body:
    """A person: id, (24, 3) joints in the world (or none) and SMPL parameters (or None)."""

    id: int
    joints: NDArray[np.float32]
    betas: NDArray[np.float32] | None
    global_orient: NDArray[np.float32] | None
    body_pose: NDArray[np.float32] | None
    transl: NDArray[np.float32] | None


@dataclass(frozen=True, eq=False)
class Snapshot:
    """Everything the picture shows; all of it was received over the wire.

    Attributes:
        xyz, rgb, instance, camera: The cloud, (N, 3), (N, 3), (N,), (N,); ``camera`` indexes
            ``cameras`` as the node listed them.
        cameras, bodies: See the classes.
        title, subtitle: Text above the picture.
    """

    xyz: NDArray[np.float32]
    rgb: NDArray[np.uint8]
    instance: NDArray[np.integer]
    camera: NDArray[np.integer]
    cameras: tuple[CameraShot, ...]
    bodies: tuple[Body, ...]
    title: str
    subtitle: str
