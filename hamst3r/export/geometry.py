"""Triangles of what a scene holds: surfaces of views, bodies of people, cameras."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from hamst3r.geometry import rotation_matrices, transform, unproject
from hamst3r.people.body import BodyModel
from hamst3r.scene import Camera, Person, Scene, View

# Neighbouring pixels whose depths differ by more than this share are two surfaces.
DEPTH_STEP = 0.06

F32 = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Triangles:
    """(V, 3) float32 vertices in metres, world; (F, 3) int64 faces; (V, 3) uint8 colours."""

    vertices: F32
    faces: NDArray[np.int64]
    rgb: NDArray[np.uint8]


def view_surface(view: View, camera: Camera, keep: NDArray[np.bool_]) -> Triangles:
    """The depth of one view as a surface, torn where the depth jumps.

    Args:
        keep: (h, w) pixels that are good enough.
    """
    height, width = view.depth.shape
    keep = keep & (view.depth > 0)
    index = np.arange(height * width).reshape(height, width)
    a, b, c, d = index[:-1, :-1], index[:-1, 1:], index[1:, :-1], index[1:, 1:]
    # Counter-clockwise as the camera sees them.
    faces = np.concatenate(
        [np.stack([a, c, b], -1).reshape(-1, 3), np.stack([b, c, d], -1).reshape(-1, 3)]
    )
    depth = view.depth.ravel()[faces]
    whole = keep.ravel()[faces].all(1)
    whole &= np.ptp(depth, axis=1) < DEPTH_STEP * np.maximum(depth.min(1), 1e-6)
    faces = faces[whole]
    used, renumbered = np.unique(faces, return_inverse=True)
    points = transform(camera.T_world_cam, unproject(view.depth, view.K).reshape(-1, 3)[used])
    return Triangles(
        points.astype(np.float32),
        renumbered.reshape(-1, 3).astype(np.int64),
        view.rgb.reshape(-1, 3)[used],
    )


def pose_bodies(people: Sequence[Person], body: BodyModel) -> dict[int, F32]:
    """Person id -> (V, 3) vertices in world, metres, of the people who have a fit of this model."""
    fitted = [
        (p.id, p.fit) for p in people if p.fit is not None and p.fit.model_sha256 == body.sha256
    ]
    if not fitted:
        return {}
    turns = np.concatenate([np.r_[f.global_orient, f.body_pose].reshape(-1, 3) for _, f in fitted])
    rotations = rotation_matrices(turns.astype(float)).reshape(len(fitted), -1, 3, 3)
    with torch.inference_mode():
        vertices, _ = body(
            torch.from_numpy(rotations.astype(np.float32)),
            torch.from_numpy(np.stack([f.transl for _, f in fitted]).astype(np.float32)),
            torch.from_numpy(np.stack([f.betas for _, f in fitted]).astype(np.float32)),
        )
    return {person: v for (person, _), v in zip(fitted, vertices.numpy(), strict=True)}


def frustum(camera: Camera, size: float) -> tuple[F32, F32]:
    """A camera's centre (3,) and the corners (4, 3) of its image at depth ``size``, world.

    Corners go around from the image's upper left, at the outer edges of the corner pixels.
    """
    w, h = camera.width - 0.5, camera.height - 0.5
    corners = np.array([[-0.5, -0.5, 1], [w, -0.5, 1], [w, h, 1], [-0.5, h, 1]])
    rays = corners @ np.linalg.inv(camera.K).T
    world = transform(camera.T_world_cam, size * rays)
    return camera.T_world_cam[:3, 3].astype(np.float32), world.astype(np.float32)


def camera_size(scene: Scene) -> float:
    """Depth in metres at which cameras are drawn where nobody says: a share of their distances."""
    centres = np.array([camera.T_world_cam[:3, 3] for camera in scene.cameras]).reshape(-1, 3)
    if len(centres) > 1:
        nearest = float(np.median(cKDTree(centres).query(centres, k=2)[0][:, 1]))
        if nearest > 0:
            return float(np.clip(0.3 * nearest, 0.02, 0.5))
    depths = [float(np.median(v.depth[v.depth > 0])) for v in scene.views if (v.depth > 0).any()]
    return 0.1 * float(np.median(depths)) if depths else 0.2


@dataclass(frozen=True, eq=False)
class Overview:
    """Where to look at a scene from.

    Attributes:
        target: (3,) metres, world. distance: Of the eye from it, metres.
        yaw, pitch: Direction from the target to the eye, radians; pitch is above the ground.
    """

    target: NDArray[np.float64]
    distance: float
    yaw: float
    pitch: float

    @property
    def eye(self) -> NDArray[np.float64]:
        """(3,) metres, world."""
        level = np.cos(self.pitch)
        towards = [level * np.cos(self.yaw), level * np.sin(self.yaw), np.sin(self.pitch)]
        return self.target + self.distance * np.array(towards)


def overview(scene: Scene) -> Overview:
    """From behind and above the cameras, so that they, people and most points are in sight."""
    centres = np.array([c.T_world_cam[:3, 3] for c in scene.cameras]).reshape(-1, 3)
    ahead = np.array([c.T_world_cam[:3, 2] for c in scene.cameras]).reshape(-1, 3)
    people = [p.position for p in scene.people if p.num_points]
    cloud = scene.points.xyz.astype(float)
    middle = np.zeros(3)
    if len(cloud) or len(centres):
        middle = np.median(cloud, axis=0) if len(cloud) else centres.mean(0)
    target = np.mean(people, axis=0) if people else middle
    reach = np.linalg.norm(centres - target, axis=1).max(initial=0.0)
    if len(cloud):
        spread = np.linalg.norm(cloud - target, axis=1)
        # A few points fly far away: they must not shrink all the others.
        reach = max(reach, min(float(np.quantile(spread, 0.8)), 3 * max(reach, 0.3)))
    back = -ahead.mean(0) if len(ahead) else np.array([-1.0, 0, 0])
    if len(centres) and np.linalg.norm(back[:2]) < 0.25:
        back = centres[0] - target  # Cameras all around: from beside the first one.
    yaw = float(np.arctan2(back[1], back[0])) + 0.35
    return Overview(np.asarray(target, float), 2.2 * max(float(reach), 0.1), yaw, 0.45)
