"""A furnished room in which people walk along closed paths: what simulated cameras look at."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from hamst3r.synthetic.bodies import Figure, PersonMesh, PersonState, sample_betas
from hamst3r.synthetic.cameras import SyntheticCamera, intrinsics, look_at
from hamst3r.synthetic.clothing import sample_outfit
from hamst3r.synthetic.poses import UPRIGHT, gait
from hamst3r.synthetic.render import Background, Renderer, SyntheticView
from hamst3r.synthetic.solids import Space
from hamst3r.synthetic.surfaces import Cast
from hamst3r.synthetic.world import Place
from hamst3r.synthetic.worlds import sample_world

F64 = NDArray[np.float64]


class ClosedPath:
    """A smooth loop (an ellipse with a wave), walked at constant speed."""

    def __init__(self, centre: F64, radii: F64, rng: np.random.Generator) -> None:
        angle = np.linspace(0, 2 * np.pi, 721)
        wave = 1 + 0.12 * np.sin(3 * angle + rng.uniform(0, 2 * np.pi))
        self._xy = centre + np.stack([np.cos(angle), np.sin(angle)], 1) * radii * wave[:, None]
        steps = np.linalg.norm(np.diff(self._xy, axis=0), axis=1)
        self._arc = np.concatenate([[0.0], np.cumsum(steps)])
        self.length = float(self._arc[-1])

    def at(self, distance: float) -> tuple[F64, float]:
        """Place (2,) in metres and heading in radians after ``distance`` metres."""
        here, ahead = (self._point(distance + d) for d in (-0.02, 0.02))
        way = ahead - here
        return (here + ahead) / 2, float(np.arctan2(way[1], way[0]))

    def _point(self, distance: float) -> F64:
        s = distance % self.length
        return np.array([np.interp(s, self._arc, self._xy[:, k]) for k in (0, 1)])


class _Walker:
    def __init__(self, id: int, path: ClosedPath, rng: np.random.Generator) -> None:
        self._id, self._path = id, path
        self._figure = Figure(sample_outfit(rng), sample_betas(rng))
        joints = self._figure.rest_joints
        leg = float(joints[1, 1] - joints[7, 1])
        self._stride = 1.97 * leg  # metres per gait cycle, measured: planted feet hardly slide
        self._speed = self._stride * rng.uniform(0.65, 0.95)
        self._start = rng.uniform(0, path.length)

    def at(self, t: float) -> tuple[PersonState, PersonMesh]:
        walked = self._speed * t
        xy, heading = self._path.at(self._start + walked)
        rotations = gait(2 * np.pi * walked / self._stride)
        # Upright, a body faces -y, which is a heading of -90 degrees.
        turn = Rotation.from_euler("z", heading + np.pi / 2) * UPRIGHT
        rotations[0] = turn.as_matrix()
        return self._figure.stand_on_floor(rotations, xy, self._id, "walk")


class MovingScene:
    """A fixed room with walking people and cameras in its corners; deterministic in time.

    Attributes:
        cameras: The rig, exactly calibrated (K, T_world_cam; the world is z-up, metres).
        half: (2,) half extents of the room, metres.
    """

    def __init__(
        self,
        seed: int,
        people: int = 2,
        size: tuple[int, int] = (320, 240),
        cameras: Sequence[SyntheticCamera] | None = None,
    ) -> None:
        """Furnish the room of ``seed``.

        Args:
            people: How many walk, 0 to 6. size: (width, height) of the images of the default rig.
            cameras: A rig of one's own; default are four in the corners that look inward.

        Raises:
            ValueError: ``people`` is not within 0 to 6.
        """
        if not 0 <= people <= 6:
            raise ValueError(f"people must be 0 to 6 (each needs room to walk), got {people}")
        rng = np.random.default_rng([seed, 0x307E])
        cells = max(people, 1)
        self.half = np.array([max(2.6, 1.25 * cells), rng.uniform(2.3, 3.0)])
        width = 2 * self.half[0] / cells
        self._walkers: list[_Walker] = []
        keep_free: list[tuple[float, float, float]] = []
        for k in range(people):
            centre = np.array([-self.half[0] + width * (k + 0.5), rng.uniform(-0.2, 0.2)])
            # The wave stretches a loop by up to 12 %; 0.5 m keeps neighbours' arms apart.
            radii = np.array([(width / 2 - 0.5) / 1.12, rng.uniform(0.8, 1.3)])
            path = ClosedPath(centre, radii, rng)
            self._walkers.append(_Walker(k + 1, path, rng))
            for distance in np.arange(0, path.length, 0.3):
                keep_free.append((*path.at(distance)[0], 0.55))
        if cameras is None:
            cameras = _corner_rig(rng, self.half, size)
        self.cameras = tuple(cameras)
        for camera in self.cameras:
            keep_free.append((*camera.T_world_cam[:2, 3], 0.5))
        blocked = np.array(keep_free, float).reshape(-1, 3)
        place = Place("room", self.half, float(rng.uniform(2.3, 3.6)))
        world = sample_world(rng, place, Space(self.half, discs=blocked))
        self.renderer = Renderer(world)
        self._backgrounds: dict[int, Background] = {}

    def at(self, t: float) -> tuple[PersonState, ...]:
        """The people at ``t`` seconds."""
        return tuple(walker.at(t)[0] for walker in self._walkers)

    def render(self, t: float, cameras: Sequence[int] | None = None) -> list[SyntheticView]:
        """Views of the given cameras (indices, default all) at ``t`` seconds.

        A camera's background is traced at its first use and kept.
        """
        chosen = range(len(self.cameras)) if cameras is None else cameras
        cast = Cast([walker.at(t)[1] for walker in self._walkers])
        return [self.renderer.render(self._background(index), cast) for index in chosen]

    def _background(self, index: int) -> Background:
        if index not in self._backgrounds:
            self._backgrounds[index] = self.renderer.background(self.cameras[index])
        return self._backgrounds[index]


def _corner_rig(
    rng: np.random.Generator, half: F64, size: tuple[int, int]
) -> list[SyntheticCamera]:
    K = intrinsics(*size, np.radians(90))
    rig = []
    for k, (x, y) in enumerate(((-1, -1), (1, -1), (1, 1), (-1, 1))):
        position = np.array([x * (half[0] - 0.2), y * (half[1] - 0.2), rng.uniform(1.7, 2.1)])
        pose = look_at(position, np.array([0.0, 0.0, 0.8]) + rng.normal(0, 0.1, 3))
        rig.append(SyntheticCamera(f"cam{k}", *size, K, pose))
    return rig
