"""``world.static_cameras``: poses that have converged are kept, and are exact from then on."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from hamst3r.frames import Frame, FrameSet
from hamst3r.geometry import make_T
from hamst3r.scene import Camera, ScaleSource, Scene

F64 = NDArray[np.float64]
SETS = 30  # in which no camera may be away from its mean by more than
SHIFT, SHARE = 0.01, 0.03  # metres, or of the cameras' spread, and
TURN = np.deg2rad(0.5)


@dataclass(frozen=True, eq=False)
class Settled:
    """What is kept.

    Attributes:
        cameras: Camera -> as it was solved, with its mean pose.
        scale_source, scale_std: Of the scene that it is of.
    """

    cameras: dict[str, Camera]
    scale_source: ScaleSource
    scale_std: float


class Settling:
    """Watches poses until they stay.

    Attributes:
        settled: None until then.
    """

    def __init__(self) -> None:
        self.settled: Settled | None = None
        self._sets: deque[tuple[Camera, ...]] = deque(maxlen=SETS)

    def reset(self) -> None:
        """Begin anew."""
        self.settled = None
        self._sets.clear()

    def known(self, frames: FrameSet) -> FrameSet:
        """The frames with what has settled of cameras about which nobody knows better."""
        if self.settled is None:
            return frames
        cameras = self.settled.cameras
        return replace(
            frames, frames=tuple(_with(frame, cameras.get(frame.camera)) for frame in frames.frames)
        )

    def seen(self, scene: Scene) -> Scene:
        """Take a scene; the same, with the scale's true origin once poses are kept."""
        kept = self.settled
        if kept is not None:
            return replace(scene, scale_source=kept.scale_source, scale_std=kept.scale_std)
        names = [camera.name for camera in scene.cameras]
        if self._sets and [camera.name for camera in self._sets[-1]] != names:
            self._sets.clear()
        self._sets.append(scene.cameras)
        if len(self._sets) == SETS and names:
            means = _means([[camera.T_world_cam for camera in cameras] for cameras in self._sets])
            if means is not None:
                cameras = {
                    camera.name: replace(camera, T_world_cam=mean)
                    for camera, mean in zip(scene.cameras, means, strict=True)
                }
                self.settled = Settled(cameras, scene.scale_source, scene.scale_std)
                self._sets.clear()
        return scene


def _with(frame: Frame, camera: Camera | None) -> Frame:
    if camera is None or frame.T_rig_cam is not None:
        return frame
    K = frame.K
    if K is None and frame.image.shape[:2] == (camera.height, camera.width):
        K = camera.K
    return replace(frame, K=K, T_rig_cam=camera.T_world_cam)


def _means(poses: Sequence[Sequence[F64]]) -> list[F64] | None:
    """Each camera's mean pose, None while one is away from it.

    Args:
        poses: Frame sets of cameras of (4, 4).
    """
    stacked = np.array(poses)  # (sets, cameras, 4, 4)
    places = stacked[..., :3, 3]
    middle = places.mean(0)
    spread = float(np.linalg.norm(middle - middle.mean(0), axis=1).max())
    if np.linalg.norm(places - middle, axis=-1).max() > max(SHIFT, SHARE * spread):
        return None
    means = []
    for camera in range(stacked.shape[1]):
        turns = Rotation.from_matrix(stacked[:, camera, :3, :3])
        mean = turns.mean()
        if (mean.inv() * turns).magnitude().max() > TURN:
            return None
        means.append(make_T(mean.as_matrix(), middle[camera]))
    return means
