"""What the soak's cameras see: a room whose images say how far away things are and who is a person,
and what reads that out of them where the network would be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from ros_common import NoEngine

from hamst3r.engine import PairPrediction
from hamst3r.geometry import invert, make_T, pixel_rays, transform
from hamst3r.image import NetworkImage

CAMERAS = ("left", "middle", "right")
WIDTH, HEIGHT = 128, 96
K = np.array([[110.0, 0, (WIDTH - 1) / 2], [0, 110, (HEIGHT - 1) / 2], [0, 0, 1]])
METRE = 32.0  # of depth, in levels of grey
PEOPLE = 3  # as many as there are colours
PERIOD = 400  # frame sets until everybody walks as before
BROKEN = 250  # a blue corner of this level: the network runs out of memory


def poses() -> dict[str, NDArray[np.float64]]:
    """T_world_cam: three cameras 1.5 m high, two metres apart, that look at (0, 0, 1)."""
    made = {}
    for index, name in enumerate(CAMERAS):
        centre = np.array([-3.0, 1.0 * (1 - index), 1.5])
        z = np.array([0, 0, 1.0]) - centre
        z /= np.linalg.norm(z)
        x = np.cross(z, [0, 0, 1.0])
        x /= np.linalg.norm(x)
        made[name] = make_T(np.stack([x, np.cross(z, x), z], 1), centre)
    return made


def walkers(phase: int) -> dict[int, tuple[float, float]]:
    """Who is there and where (x, y): each comes in on one side and leaves on the other."""
    found = {}
    for person in range(PEOPLE):
        own = (phase + 170 * person) % PERIOD
        if own < 260:  # and then nobody for a while
            found[person] = (0.6 * person - 0.4, -2.2 + 4.4 * own / 260)
    return found


@cache
def render(camera: str, phase: int) -> NDArray[np.uint8]:
    """(H, W, 3) of one of PERIOD phases: the wall x = 2 in grey, people as coloured ellipsoids."""
    T_world_cam = poses()[camera]
    rays = pixel_rays(K, HEIGHT, WIDTH) @ T_world_cam[:3, :3].T
    centre = T_world_cam[:3, 3]
    along = (2.0 - centre[0]) / rays[..., 0]
    depth, who = np.where(along > 0, along, 7.0), np.full((HEIGHT, WIDTH), -1)
    for person, (x, y) in walkers(phase).items():
        half = np.array([0.22, 0.3, 0.85])
        direction, origin = rays / half, (centre - [x, y, 0.9]) / half
        a, b, c = (direction**2).sum(-1), (direction * origin).sum(-1), (origin**2).sum() - 1
        under = b**2 - a * c
        hit = (-b - np.sqrt(np.maximum(under, 0))) / a
        nearer = (under > 0) & (hit > 0) & (hit < depth)
        depth, who = np.where(nearer, hit, depth), np.where(nearer, person, who)
    level = np.clip(np.rint(depth * METRE), 1, 240).astype(np.uint8)
    image = np.repeat(level[..., None], 3, axis=2)
    for person in range(PEOPLE):
        image[who == person] = 0
        image[who == person, person] = level[who == person]
    return image


@dataclass(frozen=True)
class ReadingEngine(NoEngine):
    """Reads from the colours what a network would guess."""

    patch: int = 16
    stride: int = 2
    image_size: int = WIDTH

    def predict(
        self, images: Sequence[NetworkImage], edges: Sequence[tuple[int, int]]
    ) -> list[PairPrediction]:
        """One prediction per edge."""
        T = [poses()[image.camera] for image in images]
        seen = [_Seen.of(image) for image in images]
        return [_pair(i, j, seen[i], seen[j], invert(T[i]) @ T[j]) for i, j in edges]


@dataclass(frozen=True, eq=False)
class _Seen:
    """Of one view: points in its camera, who is where (-1 nobody), place on the body."""

    points: NDArray
    who: NDArray
    body: NDArray

    @classmethod
    def of(cls, image: NetworkImage) -> _Seen:
        rgb = image.rgb.astype(int)
        if rgb[0, 0, 2] >= BROKEN and rgb[0, 0, 0] < 5:
            raise torch.OutOfMemoryError("the corner says so")
        grid_K = image.K if image.K is not None else np.diag([0.4, 0.4, 1.0]) @ K
        level, least = rgb.max(-1), rgb.min(-1)
        who = np.where(least < 0.5 * level, rgb.argmax(-1), -1)
        points = pixel_rays(grid_K, *level.shape) * (level / METRE)[..., None]
        body = np.full((*level.shape, 3), 0.5)
        for person in range(PEOPLE):
            rows, columns = np.nonzero(who == person)
            if len(rows):
                body[rows, columns, 0] = _share(columns)
                body[rows, columns, 1] = 1 - _share(rows)
                body[rows, columns, 2] = 0.8
        return cls(points, who, body)


def _share(values: NDArray) -> NDArray:
    return (values - values.min()) / max(np.ptp(values), 1)


def _pair(i: int, j: int, a: _Seen, b: _Seen, T_i_j: NDArray) -> PairPrediction:
    def tensor(values: NDArray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))

    people = range(PEOPLE)
    masks = [tensor(np.stack([np.where(s.who == p, 8, -8) for p in people])) for s in (a, b)]
    present = [float((a.who == p).any() or (b.who == p).any()) for p in people]
    return PairPrediction(
        i,
        j,
        tensor(a.points),
        tensor(transform(T_i_j, b.points)),
        tensor(np.full(a.who.shape, 3)),
        tensor(np.full(b.who.shape, 3)),
        mask_logits_i=masks[0],
        mask_logits_j=masks[1],
        person_prob=tensor(0.98 * np.array(present)),
        densepose_i=tensor(a.body),
        densepose_j=tensor(b.body),
        body_logits_i=tensor(np.where(a.who >= 0, 8, -8)),
        body_logits_j=tensor(np.where(b.who >= 0, 8, -8)),
    )


def rig_file() -> dict:
    """calibration.json of the cameras."""
    entries = {}
    for name, T_world_cam in poses().items():
        T = invert(T_world_cam)
        entries[name] = {
            "K": K.tolist(),
            "R": T[:3, :3].tolist(),
            "t": T[:3, 3].tolist(),
            "width": WIDTH,
            "height": HEIGHT,
        }
    return {"cameras": entries}
