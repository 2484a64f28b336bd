"""A robot with cameras drives through a hall in which people walk; pairs as a network says them.

Rendered analytically like the rooms of :mod:`synthetic_pairs`, whose noise the predictions have.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from weakref import WeakKeyDictionary

import numpy as np
import torch
from scipy.spatial.transform import Rotation
from synthetic_pairs import STRIDE, Noise, Room, _render, predict

from hamst3r.frames import Frame, FrameSet
from hamst3r.geometry import lengths, make_T, pixel_rays, rigid_fit, transform, umeyama

LENGTH, WIDTH, HEIGHT = 18.0, 12.0, 3.0
PERIOD_NS = 100_000_000
# z forward, x right, y down of a level camera that looks along the robot's x.
FORWARD = np.array([[0, 0, 1.0], [-1, 0, 0], [0, -1, 0]])


@dataclass(frozen=True)
class View:
    """What is true of an image: T_world_cam (4, 4), depth and people (gh, gw)."""

    T_world_cam: np.ndarray
    depth: np.ndarray
    people: np.ndarray


@dataclass
class Drive:
    """A hall, people who walk in it, and a robot on a loop (or at rest).

    Attributes:
        cameras: On the robot, looking around. people: Who walk. speed: m/s of the robot.
        width, height: Of the grids. missed: Share of the people that no mask shows.
    """

    seed: int = 0
    cameras: int = 4
    people: int = 5
    speed: float = 0.6
    width: int = 64
    height: int = 48
    missed: float = 0.0
    noise: Noise = field(default_factory=Noise)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.seed)
        half = LENGTH / 2, WIDTH / 2
        self.planes = [(2, 0.0), (2, HEIGHT)]
        self.planes += [(axis, sign * half[axis]) for axis in (0, 1) for sign in (-1, 1)]
        # Pillars and furniture: along the walls, and an island in the middle.
        self.things = [
            (np.array([x, y, 1.5]), np.array([0.3, 0.3, 1.6]))
            for x in (-4, 0, 4)
            for y in (-0.6, 0.6)
        ]
        for _ in range(16):
            side = rng.choice([-1, 1])
            if rng.random() < LENGTH / (LENGTH + WIDTH):
                at = [rng.uniform(-8.5, 8.5), side * rng.uniform(5.0, 5.7)]
            else:
                at = [side * rng.uniform(8.0, 8.7), rng.uniform(-5.5, 5.5)]
            size = rng.uniform(0.2, 0.7, 3)
            self.things.append((np.array([*at, size[2]]), size))
        yaws = (
            np.deg2rad([0.0])
            if self.cameras == 1
            else np.deg2rad(np.linspace(-105, 105, self.cameras))
        )
        self.T_rig_cam = np.stack(
            [
                make_T(
                    Rotation.from_euler("z", -yaw).as_matrix() @ FORWARD,
                    [0.25 * np.cos(yaw), -0.25 * np.sin(yaw), 1.2 + 0.05 * k],
                )
                for k, yaw in enumerate(yaws)
            ]
        )
        self.K = [
            np.array(
                [
                    [f * self.width, 0, (self.width - 1) / 2],
                    [0, f * self.width, (self.height - 1) / 2],
                    [0, 0, 1],
                ]
            )
            for f in rng.uniform(0.45, 0.5, self.cameras)
        ]
        self._walks = rng.uniform(
            [0.4, 2.0, 1.0, 0, -4, -2.5], [1.2, 4.0, 2.2, 2 * np.pi, 4, 2.5], (self.people, 6)
        )

    def T_world_rig(self, step: int) -> np.ndarray:
        """(4, 4) on an ellipse around the middle, with a sway."""
        angle = self.speed * step * PERIOD_NS / 1e9 / 4.4
        at = np.array([6.2 * np.cos(angle), 3.2 * np.sin(angle), 0.0])
        ahead = np.array([-6.2 * np.sin(angle), 3.2 * np.cos(angle)])
        sway = 0.15 * np.sin(0.11 * step) if self.speed else 0.0
        yaw = np.arctan2(ahead[1], ahead[0]) + sway
        return make_T(Rotation.from_euler("z", yaw).as_matrix(), at)

    def bodies(self, step: int):
        """Ellipsoids of the people: body and head."""
        t = step * PERIOD_NS / 1e9
        result = []
        for speed, rx, ry, phase, x, y in self._walks:
            angle = phase + speed * t / (0.5 * (rx + ry))
            at = np.array([x + rx * np.cos(angle), y + ry * np.sin(angle)])
            result.append((np.array([*at, 0.85]), np.array([0.24, 0.2, 0.85])))
            result.append((np.array([*at, 1.66]), np.array([0.1, 0.1, 0.13])))
        return result

    def views(self, step: int) -> list[View]:
        """What the cameras see."""
        result = []
        for T_rig_cam, K in zip(self.T_rig_cam, self.K, strict=True):
            T = self.T_world_rig(step) @ T_rig_cam
            rays = pixel_rays(K, self.height, self.width)
            result.append(View(T, *_render(T, rays, self.planes, self.bodies(step), self.things)))
        return result

    def frame_set(self, step: int, cameras=None, **known) -> FrameSet:
        """Frames without content, twice the size of the grids.

        Args:
            cameras: Which are there; None = all.
            known: Fields of the frames, per camera: ``known[name][camera]``.
        """
        stamp = step * PERIOD_NS
        rgb = np.zeros((STRIDE * self.height, STRIDE * self.width, 3), np.uint8)
        return FrameSet(
            stamp,
            tuple(
                Frame(f"cam{k}", stamp, rgb, **{name: v[k] for name, v in known.items()})
                for k in (range(self.cameras) if cameras is None else cameras)
            ),
        )

    @property
    def K_image(self) -> list[np.ndarray]:
        """Per camera, of the frames."""
        result = []
        for K in self.K:
            scaled = np.diag([STRIDE, STRIDE, 1.0]) @ K
            scaled[:2, 2] += (STRIDE - 1) / 2
            result.append(scaled)
        return result


class DriveEngine:
    """Says of a drive's images what a network of its noise would; people are queries of their own.

    Attributes:
        step: Of the drive, when images were taken that are new to the engine.
        blind: Cameras that see nothing at present.
    """

    patch, stride = STRIDE, STRIDE

    def __init__(self, drive: Drive) -> None:
        self.drive = drive
        self.image_size = STRIDE * drive.width
        self.step = 0
        self.blind: set[int] = set()
        self._truth: WeakKeyDictionary = WeakKeyDictionary()
        self._now: tuple[int, list[View]] = (-1, [])

    def views(self) -> list[View]:
        """What is true at present."""
        if self._now[0] != self.step:
            self._now = self.step, self.drive.views(self.step)
        return self._now[1]

    def predict(self, images, edges):
        cameras = [int(image.camera[3:]) for image in images]
        for image, k in zip(images, cameras, strict=True):
            self._truth.setdefault(image, self.views()[k])
        views = [self._truth[image] for image in images]
        room = Room(
            np.stack([v.T_world_cam for v in views]),
            [self.drive.K[k] for k in cameras],
            [v.depth for v in views],
            [v.people for v in views],
            np.empty((0, 2)),
        )
        rng = np.random.default_rng([self.drive.seed, self.step])
        found = np.append(False, rng.random(self.drive.people) >= self.drive.missed)
        seed = int(rng.integers(2**32))
        predictions = predict(room, list(edges), seed, self.drive.noise)
        return [
            unsure(self._with_people(p, views, found), cameras, self.blind) for p in predictions
        ]

    def _with_people(self, p, views, found):
        changes = {}
        queries = np.flatnonzero(found)[:, None, None]
        for view, suffix in ((p.i, "i"), (p.j, "j")):
            mask = torch.tensor(views[view].people == queries).reshape(-1, *views[view].depth.shape)
            changes[f"mask_logits_{suffix}"] = torch.where(mask, 6.0, -6.0)
            changes[f"body_logits_{suffix}"] = torch.where(mask.any(0), 6.0, -6.0)
        return replace(p, person_prob=torch.full((len(queries),), 0.9), **changes)


def unsure(p, cameras, blind):
    """The same pair, with noise for what a blind camera shows."""
    if not {cameras[p.i], cameras[p.j]} & blind:
        return p
    rng = np.random.default_rng([p.i, p.j])

    def noise(points):
        shape = tuple(points.shape)
        return torch.tensor(rng.normal([0, 0, 2], 0.5, shape), dtype=torch.float32)

    doubt = torch.full_like(p.conf_j, 1.002)
    if cameras[p.i] in blind:
        p = replace(p, pts_i=noise(p.pts_i), conf_i=doubt)
    return replace(p, pts_j=noise(p.pts_j), conf_j=doubt)


def trajectory_error(found: np.ndarray, true: np.ndarray, scale: bool) -> float:
    """RMSE (m) of positions (n, 3) after the best alignment, with or without a scale."""
    T = (umeyama if scale else rigid_fit)(found, true)
    return float(np.sqrt((lengths(transform(T, found) - true) ** 2).mean()))
