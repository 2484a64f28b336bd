"""Shells of rooms, corridors and halls: floor, walls, ceiling, and what is fixed to them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from hamst3r.synthetic.materials import MaterialMaker, random_colour
from hamst3r.synthetic.meshes import MeshBuilder, upright, yaw_matrix
from hamst3r.synthetic.portraits import ASPECT
from hamst3r.synthetic.world import Place

F64 = NDArray[np.float64]
_FLOORS = (
    *("planks", "tiles", "checker", "noise", "plain", "cobbles", "streaks", "plaid", "blotches"),
)
_WALLS = (
    *("plain", "plain", "plain", "noise", "stripes", "bricks", "tiles", "weave", "blotches"),
    "planks",
)


@dataclass
class Wall:
    """One wall; its frame is turned so that the wall is at y = ``depth`` and faces -y.

    Attributes:
        yaw: Of the frame. half: Half its length, metres. taken: x0, x1, z0, z1 of what hangs there.
    """

    yaw: float
    half: float
    depth: float
    height: float
    taken: list[tuple[float, float, float, float]] = field(default_factory=list)

    def take(self, x: float, z: float, w: float, h: float) -> bool:
        """Reserve a rectangle around (x, z); False where something is or where the wall ends."""
        if abs(x) + w / 2 > self.half or z + h / 2 > self.height or z - h / 2 < -0.01:
            return False
        for x0, x1, z0, z1 in self.taken:
            if x - w / 2 < x1 and x + w / 2 > x0 and z - h / 2 < z1 and z + h / 2 > z0:
                return False
        self.taken.append((x - w / 2, x + w / 2, z - h / 2, z + h / 2))
        return True


def build_interior(
    rng: np.random.Generator, b: MeshBuilder, m: MaterialMaker, place: Place
) -> list[F64]:
    """Add the shell of ``place``; returns a point (3,) in front of every window."""
    b.place((0, 0, 0), 0.0)
    (x, y), height = place.half, place.height
    calm = 0.35 if place.kind == "hall" else 0.5
    floor = m.draw(_FLOORS, (0.6, 3.0), contrast=2 * calm)
    ceiling = m.draw(("plain", "plain", "tiles", "planks", "noise"), (0.5, 2.5), 0.4, (0.3, 0.9))
    shared = m.draw(_WALLS, (0.6, 3.0), contrast=calm, value=(0.15, 0.85))
    size, centre = (2 * x, 2 * y, height), (0.0, 0.0, height / 2)
    b.box(centre, size, ceiling, True, (4,))
    b.box(centre, size, floor, True, (5,))
    for side in range(4):
        other = rng.random() < 0.35
        face = m.draw(_WALLS, (0.5, 3.0), 0.6, (0.1, 0.85)) if other else shared
        b.box(centre, size, face, True, (side,))
    trim = m.plain(random_colour(rng, (0.2, 0.9), 0.3))
    dado = m.draw(contrast=0.4) if rng.random() < 0.25 else None
    skirting, windowed = rng.random() < 0.7, rng.integers(4)
    lit: list[F64] = []
    for k in range(4):
        half, depth = (x, y) if k % 2 == 0 else (y, x)
        wall = Wall(k * np.pi / 2, half, depth, height)
        b.place((0, 0, 0), wall.yaw)
        if skirting:
            b.box((0, depth - 0.01, 0.05), (2 * half, 0.02, 0.1), trim)
        if dado is not None:
            b.box((0, depth - 0.015, 0.45), (2 * half, 0.01, 0.9), dado)
        if k == windowed or rng.random() < 0.25:
            lit += _windows(rng, b, m, wall, trim)
        doors = rng.poisson(0.15 * half if place.kind != "corridor" else 0.5 * half)
        for _ in range(doors):
            _door(rng, b, m, wall, trim)
        for _ in range(rng.poisson(0.4 + 0.45 * min(half, 6.0))):
            _hanging(rng, b, m, wall, trim)
    _ceiling(rng, b, m, place, trim)
    b.place((0, 0, 0), 0.0)
    for level in range(rng.poisson(0.6)):
        b.place((*rng.uniform(-place.half * 0.7, place.half * 0.7), 0.0), rng.uniform(0, 3))
        w, h = rng.uniform(0.5, 1.4), rng.uniform(0.4, 1.0)
        rug = m.draw(("plaid", "stripes", "dots", "weave", "cobbles", "poster"), (0.5, 2.0))
        b.box((0, 0, 0.0), (2 * w, 2 * h, 0.006 + 0.003 * level), rug)
    return lit


def _windows(
    rng: np.random.Generator, b: MeshBuilder, m: MaterialMaker, wall: Wall, trim: int
) -> list[F64]:
    """A row of equal windows, bright, at times behind blinds or drapes."""
    w, h = rng.uniform(0.6, 2.4), rng.uniform(0.8, max(0.9, 0.55 * wall.height))
    z = min(rng.uniform(0.85, 1.2) + h / 2, wall.height - h / 2 - 0.05)
    kinds = ("outside", "outside", "plain", "blinds", "drapes", "noise")
    glow = float(rng.uniform(0.4, 1.0))
    if rng.random() < 0.75:
        day = np.array([0.7, 0.8, 0.9]) * rng.uniform(0.5, 1.05)
        pane = m.tinted(kinds, day, (1.0, 1.0), 0.6, glow)
    else:
        pane = m.draw(kinds, (1.0, 1.0), 0.7, (0.45, 0.95), glow)
    bars = int(rng.integers(0, 3))
    lit = []
    for x in np.arange(-wall.half + w / 2 + 0.3, wall.half, w * rng.uniform(1.15, 2.2)):
        if not wall.take(x, z, w + 0.1, h + 0.1):
            continue
        framed_picture(b, x, z, w, h, wall.depth, trim, pane)
        for k in range(bars):
            at = x - w / 2 + w * (k + 1) / (bars + 1)
            b.box((at, wall.depth - 0.035, z), (0.04, 0.02, h), trim)
        lit.append(yaw_matrix(wall.yaw) @ np.array([x, wall.depth - 0.5, z]))
    return lit


def framed_picture(
    b: MeshBuilder, x: float, z: float, w: float, h: float, depth: float, frame: int, face: int
) -> None:
    """A flat thing (w, h) around (x, z) with a frame, on the wall at y = ``depth``."""
    b.box((x, depth - 0.012, z), (w + 0.08, 0.025, h + 0.08), frame)
    b.picture(upright(x - w / 2, x + w / 2, z - h / 2, z + h / 2, depth - 0.03), face)


def _door(
    rng: np.random.Generator, b: MeshBuilder, m: MaterialMaker, wall: Wall, trim: int
) -> None:
    w, x = rng.uniform(0.8, 1.1), rng.uniform(-wall.half, wall.half)
    if not wall.take(x, 1.03, w + 0.1, 2.06):
        return
    glass = rng.random() < 0.2
    kinds = ("outside", "plain") if glass else ("plain", "streaks", "planks", "gratings")
    face = m.draw(kinds, (1.0, 1.0), 0.5, glow=0.4 if glass else 0.0)
    framed_picture(b, x, 1.02, w, 2.04, wall.depth, trim, face)
    knob = m.plain(np.full(3, rng.uniform(0.05, 0.6)), gloss=0.5)
    side = rng.choice([-1, 1]) * (w / 2 - 0.08)
    b.box((x + side, wall.depth - 0.05, 1.03), (0.12, 0.03, 0.03), knob)


def _hanging(
    rng: np.random.Generator, b: MeshBuilder, m: MaterialMaker, wall: Wall, trim: int
) -> None:
    """A picture (often of people), board, mirror, panel, shelf, pipe, or coats on hooks."""
    kind = rng.choice(list(_SHARES), p=list(_SHARES.values()))
    x = rng.uniform(-wall.half, wall.half)
    if kind == "people":
        shape = str(rng.choice(list(ASPECT)))
        w = rng.uniform(0.3, 1.3)
        h = w / ASPECT[shape]
        z = rng.uniform(max(0.7, 0.1 + h / 2), 1.9)
        if wall.take(x, z, w + 0.1, h + 0.1):
            glow = 0.5 * float(rng.random() < 0.15)
            framed_picture(b, x, z, w, h, wall.depth, trim, m.portrait(shape, glow))
    elif kind in ("picture", "panel"):
        w, h, z = rng.uniform(0.25, 1.8), rng.uniform(0.25, 1.3), rng.uniform(0.5, 2.0)
        families = ("poster", "poster", "text", "blotches") if kind == "picture" else ()
        if wall.take(x, z, w + 0.1, h + 0.1):
            face = m.draw(families, (1.0, 1.0), 1.3 if families else 0.8)
            framed_picture(b, x, z, w, h, wall.depth, trim, face)
    elif kind == "mirror":
        large = rng.random() < 0.35  # as in gyms, shops and lifts
        w = rng.uniform(0.3, 1.2) if not large else rng.uniform(0.5, 1.4) * wall.half
        h = rng.uniform(0.4, 1.8) if not large else rng.uniform(1.5, 0.9 * wall.height)
        z = rng.uniform(max(1.0, 0.1 + h / 2), 1.6) if not large else 0.08 + h / 2
        if wall.take(x, z, w + 0.1, h + 0.1):
            framed_picture(b, x, z, w, h, wall.depth, trim, m.mirror())
    elif kind == "shelf":
        w, z = rng.uniform(0.5, 1.6), rng.uniform(1.1, 1.9)
        if wall.take(x, z + 0.15, w, 0.4):
            b.box((x, wall.depth - 0.1, z), (w, 0.2, 0.03), trim)
            for _ in range(int(rng.integers(1, 7))):
                s = rng.uniform(0.05, 0.24, 2)
                at = x + rng.uniform(-0.45, 0.45) * w
                b.box((at, wall.depth - 0.1, z + 0.015 + s[1] / 2), (s[0], 0.12, s[1]), m.draw())
    elif kind == "pipe":
        radius = rng.uniform(0.02, 0.1)
        if wall.take(x, wall.height / 2, 2 * radius, wall.height - 0.1):
            foot = (x, wall.depth - 1.3 * radius, 0.0)
            b.cylinder(foot, radius, wall.height, m.draw(("plain", "noise")), segments=10)
    elif wall.take(x, 1.35, 0.6, 1.1):  # coats on hooks
        b.box((x, wall.depth - 0.02, 1.75), (0.6, 0.03, 0.08), trim)
        for k in range(int(rng.integers(1, 4))):
            cloth = m.draw(("plain", "weave", "plaid", "drapes"), (0.2, 0.6), value=(0.01, 0.5))
            h = rng.uniform(0.6, 1.0)
            middle = (x + 0.2 * (k - 1), wall.depth - 0.12, 1.72 - h / 2)
            b.blob(middle, (0.3, 0.2, h), cloth, 0.2, 12)


_SHARES = {
    "people": 0.3,
    "picture": 0.18,
    "panel": 0.12,
    "shelf": 0.11,
    "pipe": 0.07,
    "coats": 0.09,
    "mirror": 0.13,
}


def _ceiling(
    rng: np.random.Generator, b: MeshBuilder, m: MaterialMaker, place: Place, trim: int
) -> None:
    """Beams and ducts of halls, at times of rooms."""
    b.place((0, 0, 0), 0.0)
    (x, y), height = place.half, place.height
    if rng.random() < (0.8 if place.kind == "hall" else 0.15):
        thick = 0.04 * height
        for at in np.arange(-y + 0.5, y, rng.uniform(1.2, 3.0)):
            b.box((0, at, height - thick), (2 * x, thick, 2 * thick), trim)
    if rng.random() < (0.6 if place.kind == "hall" else 0.15):
        radius = rng.uniform(0.08, 0.3)
        end = np.array([rng.uniform(-x, x) * 0.8, -y, height - 0.1 * height - radius])
        b.bar(end, end + np.array([0, 2 * y, 0]), radius, m.draw(("plain", "noise")), 12)
