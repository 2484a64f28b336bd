"""A robot with cameras drives through a hall in which people walk; pairs as a network says them.

Rendered analytically like the rooms of :mod:`synthetic_pairs`, whose noise the predictions have.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import torch
from scipy.spatial.transform import Rotation
from synthetic_pairs import Noise, Room, _render, predict

from hamst3r.frames import Frame, FrameSet
from hamst3r.geometry import invert, make_T, pixel_rays
from hamst3r.image import NetworkImage

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
        self.truth: dict[int, View] = {}  # id of an image -> what is true of it

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

    def frame_set(
        self, step: int, **known
    ) -> tuple[FrameSet, list[NetworkImage], list[np.ndarray]]:
        """Frames without content, their images, and the masks of the people that were found.

        Args:
            known: Per camera fields of the frames: ``known[name][camera]``.
        """
        rng = np.random.default_rng([self.seed, step])
        frames, images, masks = [], [], []
        for k, view in enumerate(self.views(step)):
            rgb = np.zeros((self.height, self.width, 3), np.uint8)
            more = {name: values[k] for name, values in known.items()}
            frames.append(Frame(f"cam{k}", step * PERIOD_NS, rgb, **more))
            image = NetworkImage(
                f"cam{k}", torch.zeros(3, 2, 2), rgb, more.get("K"), more.get("K"), np.eye(3)
            )
            self.truth[id(image)] = replace(view)
            images.append(image)
            found = np.append(True, rng.random(self.people) >= self.missed)
            masks.append(np.where(found[view.people], view.people, 0))
        return FrameSet(step * PERIOD_NS, tuple(frames)), images, masks

    def predict(self, images, edges, seed: int):
        """What the network says of pairs of images that :meth:`frame_set` made."""
        views = [self.truth[id(image)] for image in images]
        K = [self.K[int(image.camera[3:])] for image in images]
        room = Room(
            np.stack([v.T_world_cam for v in views]),
            K,
            [v.depth for v in views],
            [v.people for v in views],
            np.empty((0, 2)),
        )
        return predict(room, edges, seed, self.noise)

    def forget(self, images) -> None:
        """Keep what is true of these images only."""
        kept = {id(image) for image in images}
        self.truth = {key: view for key, view in self.truth.items() if key in kept}


def relative(T: np.ndarray) -> np.ndarray:
    """Poses (n, 4, 4) relative to the first."""
    return invert(T[0]) @ T
