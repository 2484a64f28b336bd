"""Places under the sky: ground, buildings, fences, trees, cars, lamp posts."""

from __future__ import annotations

import numpy as np

from hamst3r.synthetic.materials import MaterialMaker, random_colour
from hamst3r.synthetic.meshes import MeshBuilder, upright
from hamst3r.synthetic.solids import Solid
from hamst3r.synthetic.world import Place

# Linear colours of grounds, and the patterns that go with them.
_GROUNDS = (
    ((0.07, 0.16, 0.03), ("noise", "blotches", "weave")),  # grass
    ((0.10, 0.10, 0.11), ("noise", "plain", "cobbles")),  # asphalt
    ((0.35, 0.33, 0.30), ("tiles", "bricks", "cobbles", "checker", "plain")),  # paving
    ((0.35, 0.26, 0.15), ("noise", "blotches")),  # sand, earth
    ((0.28, 0.12, 0.07), ("bricks", "planks", "tiles")),  # brick, wood
    ((0.75, 0.78, 0.82), ("noise", "plain")),  # snow
)


def build_yard(
    rng: np.random.Generator, b: MeshBuilder, m: MaterialMaker, place: Place
) -> list[Solid]:
    """Add everything around ``place``; returns what of it reaches into the place itself."""
    half = place.half
    b.place((0, 0, 0), 0.0)
    colour, families = _GROUNDS[rng.integers(len(_GROUNDS))]
    tint = np.array(colour) * np.exp(rng.normal(0, [0.3, 0.15, 0.15], 3))
    ground = m.tinted(families, tint, (1.0, 5.0), 0.5)
    b.box((0, 0, -0.5), (240, 240, 1), ground, sides=(4,))
    for _ in range(rng.poisson(1.2)):  # a path, a lawn, a road with its markings
        other, kinds = _GROUNDS[rng.integers(len(_GROUNDS))]
        b.place((*rng.uniform(-1.5, 1.5, 2) * half, 0.0), rng.uniform(0, np.pi))
        w, d = rng.uniform(1.5, 6), rng.uniform(4, 40)
        b.box((0, 0, 0.0), (w, d, 0.004), m.tinted(kinds, np.array(other), (1.0, 4.0)))
        if rng.random() < 0.4:
            b.box((0, 0, 0.0), (0.15, d, 0.008), m.plain(np.full(3, 0.7)))
    wall = float(np.hypot(*half))
    for _ in range(int(rng.integers(1, 8))):
        angle = rng.uniform(0, 2 * np.pi)
        far = wall + rng.uniform(0.5, 28)
        b.place((far * np.cos(angle), far * np.sin(angle), 0.0), angle - np.pi / 2)
        _house(rng, b, m)
    for k in range(4):  # fences, hedges and walls close by
        if rng.random() < 0.3:
            length, depth = (half[0], half[1]) if k % 2 == 0 else (half[1], half[0])
            b.place((0, 0, 0), k * np.pi / 2)
            _fence(rng, b, m, length, depth + rng.uniform(0.1, 3.0))
    solids = []
    for _ in range(rng.poisson(1.5)):
        xy = rng.uniform(-2.2, 2.2, 2) * half
        if (abs(xy) < half + 2.6).all():
            continue
        b.place((*xy, 0.0), rng.uniform(0, 6.3))
        _car(rng, b, m)
    for _ in range(rng.poisson(3.0)):
        xy = rng.uniform(-2.5, 2.5, 2) * half
        trunk = Solid((float(xy[0]), float(xy[1]), 1.0), (0.3, 0.3, 2.0))
        if (abs(xy) < half).all():
            if rng.random() < 0.5:
                continue
            solids.append(trunk)
        b.place((*xy, 0.0), 0.0)
        _tree(rng, b, m, inside=bool((abs(xy) < half + 1.0).all()))
    for _ in range(rng.poisson(0.7)):
        xy = rng.uniform(-1.6, 1.6, 2) * half
        if (abs(xy) > half + 0.1).any():
            b.place((*xy, 0.0), rng.uniform(0, 6.3))
            _lamp_post(rng, b, m)
    return solids


def _house(rng: np.random.Generator, b: MeshBuilder, m: MaterialMaker) -> None:
    """A building that looks to -y: walls with windows, a roof, a door."""
    w, d, h = rng.uniform(3, 20), rng.uniform(0.3, 9), rng.uniform(2.2, 12)
    walls = ("facade", "facade", "bricks", "planks", "noise", "plain")
    b.box((0, d / 2, h / 2), (w, d, h), m.draw(walls, (1.5, 6.0), value=(0.1, 0.8)))
    if d > 3 and rng.random() < 0.6:  # two slopes with the ridge along x
        top, out = h + rng.uniform(0.3, 0.8) * d / 2, 0.3
        roof = m.draw(("bricks", "tiles", "planks", "plain"), (1.0, 3.0), value=(0.03, 0.4))
        for y in (-out, d + out):
            ridge = [[w / 2, d / 2, top], [-w / 2, d / 2, top]]
            eave = [[-w / 2, y, h - 0.1], [w / 2, y, h - 0.1]]
            b.quad(np.array(eave + ridge if y < 0 else eave[::-1] + ridge[::-1]), roof)
    x, depth = rng.uniform(-0.4, 0.4) * w, -0.03
    b.picture(upright(x - 0.5, x + 0.5, 0.0, 2.1, depth), m.draw(("plain", "planks"), (1.0, 1.0)))
    if rng.random() < 0.3:  # a billboard or shop window
        left, high = x + 0.8, min(3.2, h)
        face = m.portrait("wide") if rng.random() < 0.6 else m.draw(("text", "poster"), (1.0, 1.0))
        b.picture(upright(left, left + 2.4, high - 1.7, high, depth), face)


def _fence(
    rng: np.random.Generator, b: MeshBuilder, m: MaterialMaker, length: float, y: float
) -> None:
    kind, h = rng.integers(3), rng.uniform(0.6, 2.2)
    if kind == 0:
        b.box((0, y, h / 2), (2 * length, 0.2, h), m.draw(("bricks", "planks", "noise", "plain")))
    elif kind == 1:
        green = np.array([0.06, 0.16, 0.03]) * rng.uniform(0.6, 1.6)
        hedge = m.tinted(("noise", "blotches"), green, (0.3, 0.8), 0.8)
        for x in np.arange(-length, length, 0.9):
            b.blob((x, y, h / 2), (1.3, 0.8, h), hedge, 0.3, 10)
    else:
        post = m.draw(("plain", "planks"))
        for x in np.arange(-length, length, rng.uniform(0.3, 1.5)):
            b.box((x, y, h / 2), (0.06, 0.06, h), post)
        for z in np.linspace(0.2, h - 0.1, int(rng.integers(2, 4))):
            b.box((0, y, z), (2 * length, 0.04, 0.06), post)


def _tree(rng: np.random.Generator, b: MeshBuilder, m: MaterialMaker, inside: bool) -> None:
    h = rng.uniform(2.4, 3.5) if inside else rng.uniform(1, 3.5)  # nobody's head in the leaves
    trunk = m.tinted(("streaks", "noise"), np.array([0.12, 0.08, 0.05]), (0.2, 0.6))
    b.cylinder((0, 0, 0), 0.13, h + 0.4, trunk, 0.08)
    green = np.array([0.1, 0.25, 0.05]) * rng.uniform(0.5, 1.6, 3)
    leaves = m.tinted(("noise", "blotches", "cobbles"), green, (0.5, 1.5), 0.8)
    if not inside and rng.random() < 0.3:  # a conifer
        for z in (0.6, 1.4, 2.2):
            b.cylinder((0, 0, z), 1.3 - 0.35 * z, 1.3, leaves, 0.05, 10)
        return
    for _ in range(int(rng.integers(2, 5))):
        s = rng.uniform(1.0, 2.5)
        at = (*rng.normal(0, 0.4, 2), h + 0.4 * s + rng.uniform(0, 1))
        b.blob(at, (s, s, s * 0.8), leaves, 0.5)


def _car(rng: np.random.Generator, b: MeshBuilder, m: MaterialMaker) -> None:
    paint, glass = m.plain(random_colour(rng), gloss=0.5), m.plain(np.full(3, 0.03), gloss=0.5)
    long, h = rng.uniform(3.6, 5.0), rng.uniform(1.3, 2.1)
    b.box((0, 0, 0.25 + 0.27 * h), (1.75, long, 0.54 * h), paint)
    b.box((0, 0.1 * long, 0.25 + 0.7 * h), (1.5, 0.55 * long, 0.34 * h), glass)
    b.box((0, 0.1 * long, 0.27 + 0.87 * h), (1.5, 0.5 * long, 0.04), paint)
    for x in (-0.8, 0.6):
        for y in (-0.3, 0.3):
            wheel = np.array([x, y * long, 0.32])
            b.bar(wheel, wheel + np.array([0.2, 0, 0]), 0.32, glass, 12)


def _lamp_post(rng: np.random.Generator, b: MeshBuilder, m: MaterialMaker) -> None:
    h, post = rng.uniform(2.8, 6.0), m.draw(("plain",), value=(0.02, 0.5))
    b.cylinder((0, 0, 0), 0.07, h, post, 0.04, 8)
    b.bar(np.array([0, 0, h]), np.array([0, -0.9, h + 0.1]), 0.03, post)
    b.box((0, -0.9, h + 0.06), (0.2, 0.5, 0.08), post)
