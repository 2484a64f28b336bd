"""Pinhole cameras and how several of them look at one scene."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class SyntheticCamera:
    """A camera without distortion.

    Attributes:
        name: Unique in its rig. width, height: Pixels. K: (3, 3), pixel centres at integers.
        T_world_cam: (4, 4), OpenCV axes to a z-up world, metres.
    """

    name: str
    width: int
    height: int
    K: F64
    T_world_cam: F64

    def rays(self, pixels: F64 | None = None) -> tuple[F32, F32]:
        """Origins and directions (N, 3) in world of ``pixels`` (N, 2), default all, row by row.

        Directions have z = 1 in the camera, so that the distance along them is the depth.
        """
        if pixels is None:
            v, u = np.mgrid[0 : self.height, 0 : self.width]
            pixels = np.stack([u.ravel(), v.ravel()], 1).astype(np.float64)
        x = (pixels[:, 0] - self.K[0, 2]) / self.K[0, 0]
        y = (pixels[:, 1] - self.K[1, 2]) / self.K[1, 1]
        local = np.stack([x, y, np.ones_like(x)], 1)
        world = (local @ self.T_world_cam[:3, :3].T).astype(np.float32)
        origin = self.T_world_cam[:3, 3].astype(np.float32)
        return np.broadcast_to(origin, world.shape).copy(), world

    def project(self, points: NDArray) -> tuple[F64, F64]:
        """Pixels (N, 2) and depths (N,) of world points (N, 3); pixels mean nothing behind."""
        rotation, centre = self.T_world_cam[:3, :3], self.T_world_cam[:3, 3]
        local = (points - centre) @ rotation
        z = local[:, 2]
        safe = np.where(abs(z) < 1e-6, 1e-6, z)
        u = self.K[0, 0] * local[:, 0] / safe + self.K[0, 2]
        v = self.K[1, 1] * local[:, 1] / safe + self.K[1, 2]
        return np.stack([u, v], 1), z


def intrinsics(width: int, height: int, fov: float) -> F64:
    """(3, 3) with square pixels for a field of view (radians) across the image's width."""
    f = width / 2 / np.tan(fov / 2)
    return np.array([[f, 0, (width - 1) / 2], [0, f, (height - 1) / 2], [0, 0, 1.0]])


def look_at(position: NDArray, target: NDArray, roll: float = 0.0) -> F64:
    """(4, 4) T_world_cam at ``position`` towards ``target``, upright, then rolled (radians)."""
    z = np.asarray(target, float) - position
    z /= np.linalg.norm(z)
    x = np.cross(z, [0.0, 0.0, 1.0])
    length = np.linalg.norm(x)
    x = np.array([1.0, 0.0, 0.0]) if length < 1e-6 else x / length
    c, s = np.cos(roll), np.sin(roll)
    rotation = np.stack([x, np.cross(z, x), z], 1) @ np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = rotation, position
    return pose


STYLES = ("robot", "rig", "room", "hand")
LOW, HIGH = 0.2, 3.0  # metres above the floor


@dataclass(frozen=True)
class _Plan:
    """How the cameras of one scene stand.

    Attributes:
        style: One of ``STYLES``. distance: From the first camera to what it looks at, metres.
        base_z: Height of the first. baseline: How far the others are, roughly, metres.
        fov: Radians across the image; None: each its own. roll: Radians, and its spread.
        apart: Whether views need not overlap.
    """

    style: str
    distance: float
    base_z: float
    baseline: float
    fov: float | None
    roll: float
    unsteady: float
    apart: bool

    def angle(self, rng: np.random.Generator) -> float:
        """Field of view of one camera, radians."""
        return self.fov if self.fov is not None else float(np.radians(rng.uniform(35, 110)))


def _plan(
    rng: np.random.Generator, style: str | None, height: float, reach: tuple[float, float]
) -> _Plan:
    style = style or str(rng.choice(STYLES, p=[0.3, 0.25, 0.25, 0.2]))
    u = rng.uniform
    top = min(HIGH, height - 0.1)
    if style == "robot":
        base_z = u(LOW, 0.6) if rng.random() < 0.35 else u(0.5, min(2.0, top))
        baseline = np.exp(u(np.log(0.05), np.log(1.0)))
    elif style in ("rig", "room"):
        base_z, baseline = u(1.2, top), u(1.5, 6.0)
    else:
        base_z, baseline = u(1.0, 1.8), np.exp(u(np.log(0.1), np.log(3.0)))
    return _Plan(
        style=style,
        distance=float(np.exp(u(*np.log(reach)))),
        base_z=float(base_z),
        baseline=float(baseline),
        fov=float(np.radians(u(35, 110))) if rng.random() < 0.7 else None,
        roll=float(rng.choice([0.0, np.pi / 2, -np.pi / 2], p=[0.9, 0.05, 0.05])),
        unsteady=0.12 if style == "hand" else 0.03,
        apart=bool(rng.random() < 0.1),
    )


def sample_cameras(
    rng: np.random.Generator,
    views: int,
    size: tuple[int, int],
    half: F64,
    height: float,
    targets: F64,
    probe: Callable[[SyntheticCamera], F32 | None],
    style: str | None = None,
    reach: tuple[float, float] = (1.0, 10.0),
) -> tuple[list[SyntheticCamera], str]:
    """Cameras of one of ``STYLES`` that see enough and mostly overlap.

    Args:
        size: (width, height) pixels. half, height: Of the room, metres.
        targets: (T, 3) points worth looking at (people, middle of the room).
        probe: Gives the depths (h, w) of a small version of a camera, or None where it stands in
            something or sees too little. The small version is 1/8 of the size.
        reach: Range of the distance to what is looked at, metres, as far as the place allows.

    Returns:
        Cameras and their style.
    """
    plan = _plan(rng, style, height, reach)
    width, rows = size
    target = targets[rng.integers(len(targets))]
    limit = half - 0.12
    base = np.zeros(2)
    cameras: list[SyntheticCamera] = []
    seen: list[tuple[SyntheticCamera, F32]] = []
    for k in range(views):
        best: tuple[float, SyntheticCamera, F32] | None = None
        for attempt in range(24):
            if k == 0 and (attempt % 3 == 0 or plan.style in ("rig", "room")):
                base = _around(rng, target, plan.distance * (1 - attempt / 60), limit)
            spread = 0.0 if k == 0 else plan.baseline * (1 - attempt / 48)
            away = rng.normal(0, 0.7, 2) * spread
            if plan.style == "rig" and k:  # anywhere around, not one beside the other
                away = rng.uniform(-0.6, 0.6, 2) * spread
            place = np.clip(base + away, -limit, limit)
            if plan.style == "room" and k:  # all around what they look at
                place = _around(rng, target, plan.distance * rng.uniform(0.7, 1.4), limit)
            position = np.array([*place, plan.base_z])
            position[2] += rng.normal(0, 0.15) * min(spread, 2.0)
            position[2] = np.clip(position[2], LOW, max(0.4, min(HIGH, height - 0.08)))
            aim = targets[rng.integers(len(targets))] if plan.apart else target
            aim = aim + rng.normal(0, 0.25, 3)
            if np.linalg.norm(aim[:2] - position[:2]) < 0.6:
                continue
            K = intrinsics(width, rows, plan.angle(rng))
            pose = look_at(position, aim, plan.roll + rng.normal(0, plan.unsteady))
            camera = SyntheticCamera(f"cam{k}", width, rows, K, pose)
            depth = probe(camera)
            if depth is None:
                continue
            free = not seen or plan.apart or plan.style == "room"
            overlap = 1.0 if free else max(_overlap(camera, *s) for s in seen)
            if best is None or overlap > best[0]:
                best = (overlap, camera, depth)
            if overlap > 0.3 + 0.2 * rng.random():
                break
        if best is None:  # nowhere free: stand as the view before, or in the middle
            pose = cameras[-1].T_world_cam if cameras else look_at(np.array([0, 0, 1.5]), target)
            K = intrinsics(width, rows, plan.angle(rng))
            cameras.append(SyntheticCamera(f"cam{k}", width, rows, K, pose))
            continue
        cameras.append(best[1])
        seen.append((best[1], best[2]))
        if k == 0:
            base = best[1].T_world_cam[:2, 3]
    return cameras, plan.style


def _around(rng: np.random.Generator, target: F64, distance: float, limit: F64) -> F64:
    """A place (2,) about ``distance`` from the target, of a few the one that is nearest to that."""
    angle = rng.uniform(0, 2 * np.pi, 4)
    ways = distance * np.stack([np.cos(angle), np.sin(angle)], 1)
    places = np.clip(target[:2] + ways, -limit, limit)
    gap = abs(np.linalg.norm(places - target[:2], axis=1) - distance)
    return np.asarray(places[int(gap.argmin())])


def small(camera: SyntheticCamera, step: int = 8) -> SyntheticCamera:
    """The camera at 1 / ``step`` of its size."""
    w, h = max(4, camera.width // step), max(4, camera.height // step)
    K = camera.K.copy()
    K[:2] *= [[w / camera.width], [h / camera.height]]
    K[:2, 2] = (w - 1) / 2, (h - 1) / 2
    return SyntheticCamera(camera.name, w, h, K, camera.T_world_cam)


def _overlap(camera: SyntheticCamera, other: SyntheticCamera, depth: F32) -> float:
    """Share of the other's (small) depth map that falls into this camera's image."""
    origins, directions = small(other).rays()
    z = depth.ravel()[:, None]
    points = (origins + directions * z)[z[:, 0] > 0]
    if len(points) == 0:
        return 0.0
    pixel, ahead = camera.project(points)
    inside = (pixel >= 0).all(1) & (pixel < [camera.width, camera.height]).all(1) & (ahead > 0)
    return float(inside.mean())
