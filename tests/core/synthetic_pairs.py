"""A synthetic room seen by several cameras, with pair predictions as noisy as a network's.

Rendered analytically (planes and ellipsoids), so that pointmaps are exact before the noise: 2 %
smooth and 0.5 % independent depth noise (more outside of the overlap), 2 % outliers of which a
fifth is confident, a wrong relative pose per pair, a scale and a focal error per pair.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from scipy.spatial.transform import Rotation

from hamst3r.engine import PairPrediction
from hamst3r.frames import Frame, FrameSet
from hamst3r.geometry import invert, make_T, pixel_rays, project, transform, umeyama
from hamst3r.image import NetworkImage

STRIDE = 2


@dataclass(frozen=True)
class Noise:
    """Standard deviations; relative ones except ``rotation`` (degrees)."""

    scale: float = 0.1
    smooth: float = 0.02
    independent: float = 0.005
    rotation: float = 0.7
    translation: float = 0.01
    outliers: float = 0.02
    focal: float = 0.01


EXACT = Noise(0, 0, 0, 0, 0, 0, 0)


@dataclass(frozen=True)
class Room:
    """Ground truth: T_world_cam (N, 4, 4), K per view on the grid, depth and people per view.

    People are maps of 1, 2, ... (0 = nobody); ``standing_at`` (P, 2) is where they stand.
    """

    T_world_cam: np.ndarray
    K: list[np.ndarray]
    depth: list[np.ndarray]
    people: list[np.ndarray]
    standing_at: np.ndarray

    def __len__(self) -> int:
        return len(self.K)

    def points(self, view: int) -> np.ndarray:
        """(gh, gw, 3) in the camera."""
        return pixel_rays(self.K[view], *self.depth[view].shape) * self.depth[view][..., None]

    def frames(self, poses: bool = False, intrinsics: bool = False, stamp: int = 0) -> FrameSet:
        frames = []
        for view, depth in enumerate(self.depth):
            height, width = (STRIDE * side for side in depth.shape)
            K = np.diag([STRIDE, STRIDE, 1.0]) @ self.K[view]
            K[:2, 2] += (STRIDE - 1) / 2
            image = np.full((height, width, 3), 30 * view, np.uint8)
            T = self.T_world_cam[view] if poses else None
            frames.append(
                Frame(f"cam{view}", stamp, image, K if intrinsics or poses else None, None, T)
            )
        return FrameSet(stamp, tuple(frames))

    def images(self, intrinsics: bool = False) -> list[NetworkImage]:
        T = np.array([[STRIDE, 0, (STRIDE - 1) / 2], [0, STRIDE, (STRIDE - 1) / 2], [0, 0, 1]])
        result = []
        for view, depth in enumerate(self.depth):
            height, width = depth.shape
            result.append(
                NetworkImage(
                    camera=f"cam{view}",
                    tensor=torch.zeros(3, STRIDE * height, STRIDE * width),
                    rgb=np.zeros((height, width, 3), np.uint8),
                    K=self.K[view] if intrinsics else None,
                    K_image=T @ self.K[view] if intrinsics else None,
                    T_image_grid=T,
                )
            )
        return result


def make_room(
    cameras: int,
    seed: int,
    width: int = 80,
    height: int = 60,
    focals: Sequence[float] | None = None,
    turned: Mapping[int, float] | None = None,
    spread: float = 0.6,
) -> Room:
    """A 7 x 6 x 3 m room with four standing people and some furniture, cameras around.

    ``focals``: Per camera over the width; None = between 0.85 and 1.15. ``turned``: Degrees by
    which cameras are turned to the side. ``spread``: Share of the room's circumference that they
    stand along.
    """
    rng = np.random.default_rng(seed)
    planes = [(2, 0.0), (2, 3.0), (0, -3.5), (0, 3.5), (1, -3.0), (1, 3.0)]
    people = []
    for _ in range(4):
        x, y = rng.uniform(-1.2, 1.2, 2)
        people.append((np.array([x, y, 0.85]), np.array([0.22, 0.18, 0.85])))
        people.append((np.array([x, y, 1.62]), np.array([0.1, 0.1, 0.13])))
    things = [
        (rng.uniform([-3, -2.5, 0.2], [3, 2.5, 1.2]), rng.uniform(0.15, 0.5, 3)) for _ in range(6)
    ]
    poses, intrinsics = [], []
    for k in range(cameras):
        angle = 2 * np.pi * k / cameras * spread + rng.uniform(-0.1, 0.1)
        centre = np.array([2.9 * np.cos(angle), 2.5 * np.sin(angle), rng.uniform(1.3, 2.3)])
        poses.append(look_at(centre, np.array([0, 0, 0.9]) + rng.uniform(-0.3, 0.3, 3)))
        turn = Rotation.from_euler("y", (turned or {}).get(k, 0.0), degrees=True)
        poses[-1] = poses[-1] @ make_T(turn.as_matrix(), np.zeros(3))
        focal = width * rng.uniform(0.85, 1.15)
        focal = focal if focals is None else width * focals[k]
        intrinsics.append(
            np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]])
        )
    rendered = [
        _render(T, pixel_rays(K, height, width), planes, people, things)
        for T, K in zip(poses, intrinsics, strict=True)
    ]
    depths, masks = zip(*rendered, strict=True)
    standing_at = np.stack([centre[:2] for centre, _ in people[::2]])
    return Room(np.stack(poses), intrinsics, list(depths), list(masks), standing_at)


def look_at(centre: np.ndarray, target: np.ndarray) -> np.ndarray:
    """T_world_cam of a level camera."""
    z = (target - centre) / np.linalg.norm(target - centre)
    x = np.cross(z, [0, 0, 1.0])
    x /= np.linalg.norm(x)
    return make_T(np.stack([x, np.cross(z, x), z], 1), centre)


def _render(T, rays, planes, people, things):
    directions, origin = rays @ T[:3, :3].T, T[:3, 3]
    depth = np.full(rays.shape[:2], np.inf)
    person = np.zeros(rays.shape[:2], int)
    for axis, value in planes:
        d = directions[..., axis]
        t = (value - origin[axis]) / np.where(np.abs(d) < 1e-9, 1e-9, d)
        depth = np.minimum(depth, np.where(t > 1e-3, t, np.inf))
    for is_person, solids in ((False, things), (True, people)):
        for index, (centre, radius) in enumerate(solids):
            offset, d = (origin - centre) / radius, directions / radius
            a, b, c = (d * d).sum(-1), d @ offset, offset @ offset - 1
            root = b * b - a * c
            t = np.where(root > 0, (-b - np.sqrt(np.maximum(root, 0))) / a, np.inf)
            nearer = (t > 1e-3) & (t < depth)
            depth = np.where(nearer, t, depth)
            person = np.where(nearer, 1 + index // 2 if is_person else 0, person)
    return depth, person


def predict(
    room: Room, edges: list[tuple[int, int]], seed: int, noise: Noise | None = None
) -> list[PairPrediction]:
    """What a network of the given noise says of these pairs (people's heads left empty)."""
    rng = np.random.default_rng(seed)
    return [_pair(room, i, j, rng, noise or Noise()) for i, j in edges]


def _pair(room: Room, i: int, j: int, rng, noise: Noise) -> PairPrediction:
    T_i_j = invert(room.T_world_cam[i]) @ room.T_world_cam[j]
    scale = np.exp(noise.scale * rng.standard_normal())
    squeeze = np.array([1, 1, 0]) * noise.focal * rng.standard_normal() + 1
    seen_i, seen_j = _visible(room, i, j), _visible(room, j, i)
    pts_i, conf_i = _noisy(room.points(i), np.where(seen_i, 1, 1.5), rng, noise)
    pts_j, conf_j = _noisy(room.points(j), np.where(seen_j, 1, 2.5), rng, noise)
    turn = np.deg2rad(noise.rotation) * rng.standard_normal(3) / np.sqrt(3)
    baseline = np.linalg.norm(T_i_j[:3, 3])
    wrong = make_T(
        Rotation.from_rotvec(turn).as_matrix() @ T_i_j[:3, :3],
        T_i_j[:3, 3] + noise.translation * baseline * rng.standard_normal(3),
    )
    if i != j:
        conf_j = 1 + (conf_j - 1) * np.where(seen_j, 1, 0.35) * max(0.2, seen_j.mean()) ** 0.5
    pts_j = transform(wrong, pts_j)
    return prediction(i, j, scale * pts_i * squeeze, scale * pts_j * squeeze, conf_i, conf_j)


def _visible(room: Room, a: int, b: int) -> np.ndarray:
    """(gh, gw) pixels of a that b sees too."""
    x = transform(invert(room.T_world_cam[b]) @ room.T_world_cam[a], room.points(a))
    pixel = np.nan_to_num(project(x, room.K[b]), nan=-9)
    height, width = room.depth[b].shape
    column, row = np.rint(pixel).astype(int)[..., 0], np.rint(pixel).astype(int)[..., 1]
    inside = (column >= 0) & (row >= 0) & (column < width) & (row < height)
    surface = room.depth[b][row.clip(0, height - 1), column.clip(0, width - 1)]
    return inside & (np.abs(surface - x[..., 2]) < 0.03 * x[..., 2])


def _noisy(points, amplitude, rng, noise: Noise):
    height, width = points.shape[:2]
    coarse = rng.standard_normal((6, 6))
    smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    error = noise.smooth * smooth * amplitude
    error = error + noise.independent * rng.standard_normal((height, width))
    outlier = rng.random((height, width)) < noise.outliers
    error = np.where(outlier, rng.uniform(0.2, 0.8, (height, width)), error)
    confidence = 1 + np.exp(2.2 - 25 * np.abs(error))
    sure = outlier & (rng.random((height, width)) < 0.2)
    confidence = np.where(sure, 1 + np.exp(2.0), confidence)
    confidence = np.maximum(
        confidence * np.exp(0.15 * rng.standard_normal((height, width))), 1.0001
    )
    sideways = 0.4 * noise.independent * rng.standard_normal(points.shape) * points[..., 2:]
    return points * (1 + error)[..., None] + sideways, confidence


def prediction(i, j, pts_i, pts_j, conf_i, conf_j, queries: int = 2) -> PairPrediction:
    """A PairPrediction with this geometry; the heads for people say that nobody is there."""

    def tensor(array) -> torch.Tensor:
        return torch.tensor(np.asarray(array), dtype=torch.float32)

    grid_i, grid_j = np.shape(conf_i), np.shape(conf_j)
    return PairPrediction(
        i=i,
        j=j,
        pts_i=tensor(pts_i),
        pts_j=tensor(pts_j),
        conf_i=tensor(conf_i),
        conf_j=tensor(conf_j),
        desc_i=torch.zeros(*grid_i, 4),
        desc_j=torch.zeros(*grid_j, 4),
        desc_conf_i=torch.ones(grid_i),
        desc_conf_j=torch.ones(grid_j),
        mask_logits_i=torch.full((queries, *grid_i), -9.0),
        mask_logits_j=torch.full((queries, *grid_j), -9.0),
        person_prob=torch.zeros(queries),
        densepose_i=torch.zeros(*grid_i, 3),
        densepose_j=torch.zeros(*grid_j, 3),
        body_logits_i=torch.full(grid_i, -9.0),
        body_logits_j=torch.full(grid_j, -9.0),
    )


def garbage(p: PairPrediction, seed: int) -> PairPrediction:
    """The same pair with confident nonsense for its second view."""
    rng = np.random.default_rng(seed)
    nonsense = torch.tensor(rng.normal(size=p.pts_j.shape) * 2, dtype=torch.float32)
    return replace(p, pts_j=nonsense, conf_j=torch.full_like(p.conf_j, 12.0))


def misplaced(p: PairPrediction, seed: int) -> PairPrediction:
    """The same pair as of things that look alike: consistent in itself, sure, and wrong."""
    rng = np.random.default_rng(seed)
    turn = Rotation.from_euler("y", rng.choice([-1, 1]) * rng.uniform(40, 90), degrees=True)
    wrong = make_T(turn.as_matrix(), rng.uniform(-1, 1, 3))
    points = torch.tensor(transform(wrong, p.pts_j.numpy().astype(float))).float()
    return replace(p, pts_j=points, conf_j=1 + 3 * (p.conf_j - 1))


def described(room: Room, p: PairPrediction, seed: int) -> PairPrediction:
    """The same pair with descriptors that depend on the place in the world alone."""
    rng = np.random.default_rng(seed)
    waves, phases = rng.normal(size=(3, 24)) * 2.5, rng.uniform(0, 2 * np.pi, 24)

    def descriptors(view: int) -> torch.Tensor:
        places = transform(room.T_world_cam[view], room.points(view))
        values = torch.tensor(np.cos(places @ waves + phases), dtype=torch.float32)
        return torch.nn.functional.normalize(values, dim=-1)

    return replace(p, desc_i=descriptors(p.i), desc_j=descriptors(p.j))


@dataclass(frozen=True)
class Errors:
    """After the best similarity: camera centres and points in metres, rotations in degrees."""

    camera: float
    rotation: float
    focal: float
    points: float


def errors(room: Room, T_world_cam, K, depth) -> Errors:
    """Mean errors of a reconstruction up to a similarity (fitted to the nearer 80 % of points)."""
    found, true = [], []
    for view in range(len(room)):
        rays = pixel_rays(K[view], *depth[view].shape)
        found.append(transform(T_world_cam[view], rays * depth[view][..., None]).reshape(-1, 3))
        true.append(transform(room.T_world_cam[view], room.points(view)).reshape(-1, 3))
    X, Y = np.concatenate(found), np.concatenate(true)
    keep = np.arange(len(X)) % 7 == 0
    for _ in range(4):
        S = umeyama(X[keep], Y[keep])
        residual = np.linalg.norm(transform(S, X) - Y, axis=1)
        keep = (np.arange(len(X)) % 7 == 0) & (residual < np.quantile(residual, 0.8))
    turn = S[:3, :3] / np.cbrt(np.linalg.det(S[:3, :3]))
    centres = transform(S, T_world_cam[:, :3, 3]) - room.T_world_cam[:, :3, 3]
    relative = (turn @ T_world_cam[:, :3, :3]).transpose(0, 2, 1) @ room.T_world_cam[:, :3, :3]
    return Errors(
        camera=float(np.linalg.norm(centres, axis=1).mean()),
        rotation=float(np.rad2deg(Rotation.from_matrix(relative).magnitude().mean())),
        focal=float(np.mean([abs(K[v][0, 0] / room.K[v][0, 0] - 1) for v in range(len(room))])),
        points=float(np.linalg.norm(transform(S, X) - Y, axis=1).mean()),
    )
