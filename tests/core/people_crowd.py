"""A crowd that walks about and crosses before four cameras, as a good network would see it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from people_data import calibrated, camera_at, splat
from scipy.spatial.transform import Rotation

from hamst3r.alignment.incremental import Alignment
from hamst3r.people.body import BodyModel
from hamst3r.people.instances import ViewPeople
from hamst3r.people.state import BodyState
from hamst3r.synthetic.poses import UPRIGHT, gait

GRID = (84, 112)  # rows, columns of a view
HALF = 2.2  # metres, half the side of the square in which people walk
STEP = 0.1  # seconds between frame sets


@dataclass(frozen=True)
class Flaws:
    """What is wrong with what the cameras see.

    Attributes:
        depth_scale: Deviation of a person's depth in a view as a whole, relative.
        depth: Deviation of a pixel's depth, metres. place: Of its place on the body, metres.
        wrong: Share of pixels that claim a random place of the body.
        missed: Chance that a person is not found in a view. split: that a view's mask of a person
            is not recognised as the same person as in the other views.
    """

    depth_scale: float = 0.03
    depth: float = 0.02
    place: float = 0.02
    wrong: float = 0.05
    missed: float = 0.05
    split: float = 0.1


def rig() -> tuple[np.ndarray, np.ndarray]:
    """T_world_cam (4, 4, 4) of cameras in the corners of a room, and their common K."""
    corners = [(-3.4, -3.4, 2.3), (3.4, -3.4, 2.4), (3.4, 3.4, 2.2), (-3.4, 3.4, 2.3)]
    poses = np.stack([camera_at(corner, (0.0, 0.0, 0.9)) for corner in corners])
    K = np.array([[70.0, 0, GRID[1] / 2 - 0.5], [0, 70.0, GRID[0] / 2 - 0.5], [0, 0, 1]])
    return poses, K


def floor_depth(T_world_cam: np.ndarray, K: np.ndarray, height: float = 0.0) -> np.ndarray:
    """(gh, gw) depth of a horizontal plane, 0 where it is not seen within 9 m."""
    columns, rows = np.meshgrid(np.arange(GRID[1]), np.arange(GRID[0]))
    rays = np.stack([columns, rows, np.ones(GRID)], -1) @ np.linalg.inv(K).T
    down = (rays @ T_world_cam[:3, :3].T)[..., 2]
    depth = (height - T_world_cam[2, 3]) / np.where(down < -1e-3, down, -1e-3)
    return np.where((down < -1e-3) & (depth < 9), depth, 0.0).astype(np.float32)


class Crowd:
    """People who walk to one goal after the other and step aside for each other.

    Args:
        count: How many. frames: How many frame sets, ``STEP`` apart.
        pause: How long they stay at a goal, 1 = one to three seconds.

    Attributes:
        places: (frames, count, 2) metres on the floor. headings: (frames, count) radians.
        walked: (frames, count) metres.
    """

    def __init__(
        self, body: BodyModel, count: int, frames: int, seed: int, pause: float = 1.0
    ) -> None:
        self._body, self._pause = body, pause
        self._rng = rng = np.random.default_rng(seed)
        self.betas = torch.from_numpy(np.clip(rng.normal(size=(count, 10)), -2, 2)).float()
        # On a circle, so that nobody starts in another.
        angle = 2 * np.pi * (np.arange(count) + rng.uniform(0, 0.5, count)) / count
        place = HALF * 0.8 * np.stack([np.cos(angle), np.sin(angle)], 1)
        speed = rng.uniform(0.7, 1.3, count)
        velocity = np.zeros((count, 2))
        rest = body.rest_joints(self.betas)
        # Metres per gait cycle with which planted feet hardly slide, measured.
        self._stride = 1.97 * (rest[:, 1, 1] - rest[:, 7, 1]).numpy().astype(float)
        waits, speeds = np.zeros(count), speed
        goal = -place
        walked = np.zeros(count)
        heading = angle + np.pi
        places, headings, distances = [], [], []
        substeps = 5
        for _ in range(frames):
            for _ in range(substeps):
                waits = np.maximum(waits - STEP / substeps, 0)
                velocity = self._steer(place, velocity, goal, speeds)
                # Whoever waits stands still, unless somebody comes too near.
                slow = np.linalg.norm(velocity, axis=1) < 0.25
                velocity[(waits > 0) & slow] = 0
                place = place + velocity * STEP / substeps
                walked = walked + np.linalg.norm(velocity, axis=1) * STEP / substeps
                arrived = np.linalg.norm(goal - place, axis=1) < 0.3
                goal[arrived] = rng.uniform(-HALF, HALF, (int(arrived.sum()), 2))
                waits[arrived] = rng.uniform(1.0, 3.0, int(arrived.sum())) * self._pause
                speeds = np.where(waits > 0, 0.0, speed)
            way = np.arctan2(velocity[:, 1], velocity[:, 0])
            moving = np.linalg.norm(velocity, axis=1) > 0.1
            heading = heading + 0.4 * moving * np.angle(np.exp(1j * (way - heading)))
            places.append(place.copy())
            headings.append(heading.copy())
            distances.append(walked.copy())
        self._floor = [floor_depth(pose, rig()[1]) for pose in rig()[0]]
        self.places, self.headings = np.stack(places), np.stack(headings)
        self.walked = np.stack(distances)

    def _steer(
        self, place: np.ndarray, velocity: np.ndarray, goal: np.ndarray, speed: np.ndarray
    ) -> np.ndarray:
        """Velocities that lead to the goals and past each other on the right, 0.45 m apart."""
        way = goal - place
        wanted = way / np.linalg.norm(way, axis=1, keepdims=True) * speed[:, None]
        gap = place[:, None] - place[None]
        distance = np.linalg.norm(gap, axis=-1) + 1e9 * np.eye(len(place))
        push = 4.0 * np.exp(-(distance - 0.45) / 0.12)[..., None] * gap / distance[..., None]
        aside = np.stack([gap[..., 1], -gap[..., 0]], -1) / distance[..., None]
        push = np.clip(push, -6, 6) + 0.8 * np.exp(-(distance - 0.6) / 0.3)[..., None] * aside
        return velocity + 0.3 * (wanted - velocity) + 0.12 * push.sum(1)

    def state(self, frame: int) -> BodyState:
        """Everybody, in the order of the attributes; soles on z = 0."""
        turns, lifts = [], []
        for person, heading in enumerate(self.headings[frame]):
            rotations = gait(2 * np.pi * self.walked[frame, person] / self._stride[person])
            # Upright, a body faces -y, which is a heading of -90 degrees.
            rotations[0] = (Rotation.from_euler("z", heading + np.pi / 2) * UPRIGHT).as_matrix()
            turns.append(rotations)
        rotations = torch.from_numpy(np.stack(turns)).float()
        zero = torch.zeros(len(turns), 3)
        lowest = self._body(rotations, zero, self.betas, _soles(self._body))[0][..., 2].amin(1)
        lifts = torch.cat([torch.from_numpy(self.places[frame]).float(), -lowest[:, None]], 1)
        return BodyState(rotations, lifts, self.betas)

    def see(self, state: BodyState, flaws: Flaws) -> tuple[list[ViewPeople], Alignment]:
        """What four cameras see of everybody; local ids are of this moment only."""
        rng, count = self._rng, len(state)
        vertices = self._body(state.rotations, state.transl, state.betas)[0].numpy()
        poses, K = rig()
        names = rng.permutation(count) + 1
        views, depths = [], []
        for pose, floor in zip(poses, self._floor, strict=True):
            everybody = dict(enumerate(vertices, start=1))
            instances, depth, canonical = splat(self._body, everybody, pose, K, GRID)
            seen = np.zeros_like(instances)
            for person in range(1, count + 1):
                own = instances == person
                if own.sum() < 24 or rng.random() < flaws.missed:
                    continue
                name = names[person - 1]
                if rng.random() < flaws.split:
                    name = count + 1 + len(views) * count + person
                seen[own] = name
                scale = 1 + flaws.depth_scale * rng.normal()
                depth[own] = depth[own] * scale + flaws.depth * rng.normal(size=own.sum())
                canonical[own] = self._blur(canonical[own], flaws)
            nobody = instances == 0
            depth[nobody] = floor[nobody]
            on_floor = nobody & (floor > 0)
            depth[on_floor] += flaws.depth * rng.normal(size=on_floor.sum())
            scores = {int(name): 0.9 for name in np.unique(seen) if name}
            views.append(ViewPeople(seen, scores, canonical, (seen > 0).astype(np.float32)))
            depths.append(depth.astype(np.float32))
        alignment = calibrated(poses, K, depths)
        return views, alignment

    def _blur(self, canonical: np.ndarray, flaws: Flaws) -> np.ndarray:
        template = self._body.v_template.numpy()
        blurred = canonical + flaws.place * self._rng.normal(size=canonical.shape) / np.ptp(
            template, axis=0
        )
        wrong = self._rng.random(len(canonical)) < flaws.wrong
        blurred[wrong] = self._rng.choice(self._body.canonical.numpy(), int(wrong.sum()))
        return blurred


def _soles(body: BodyModel) -> torch.Tensor:
    feet = torch.isin(body.part, torch.tensor([7, 8, 10, 11]))
    return feet.nonzero()[:, 0]
