"""Rooms and yards: what stands where, its materials, the lights. Static; people come separately."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hamst3r.synthetic.furniture import INDOOR, OUTDOOR, footprint_of
from hamst3r.synthetic.materials import MaterialMaker, random_colour
from hamst3r.synthetic.meshes import MeshBuilder, upright
from hamst3r.synthetic.portraits import ASPECT, picture_bank
from hamst3r.synthetic.world import Light, Sky, World

F64 = NDArray[np.float64]


def free(
    obstacles: F64 | list, xy: NDArray, radius: float, half: NDArray, margin: float = 0.05
) -> bool:
    """Whether a disc (metres) lies within the area and touches no obstacle's disc."""
    if (abs(np.asarray(xy)) > half - radius - margin).any():
        return False
    if len(obstacles) == 0:
        return True
    rows = np.asarray(obstacles)
    gap = np.hypot(rows[:, 0] - xy[0], rows[:, 1] - xy[1]) - rows[:, 2]
    return bool((gap > radius).all())


def sample_world(
    rng: np.random.Generator,
    outdoor: bool,
    keep_free: F64,
    stools: F64,
    half: F64,
    clutter: float = 1.0,
) -> World:
    """A furnished room or a yard.

    Args:
        keep_free: (P, 3) x, y, radius of places that must stay empty (people stand there).
        stools: (S, 3) x, y, z: seats of height z to put under people who sit.
        half: (2,) half extents in metres. clutter: Scales how much stands around.
    """
    maker, builder = MaterialMaker(rng, picture_bank()), MeshBuilder(rng)
    for x, y, z in stools:
        builder.place((x, y, 0.0), rng.uniform(0, np.pi))
        material = maker.draw()
        if rng.random() < 0.5:
            builder.cylinder((0, 0, 0), 0.19, z, material)
        else:
            builder.box((0, 0, z / 2), (0.36, 0.36, z), material)
    height = float(rng.uniform(2.3, 3.8))
    if outdoor:
        lights, ambient, sky = _daylight(rng)
        _yard(rng, builder, maker, half)
    else:
        lights, ambient = _lamps(rng, half, height)
        sky = None
        _room(rng, builder, maker, half, height)
    obstacles: list[tuple[float, ...]] = []
    kinds = OUTDOOR if outdoor else INDOOR
    area = float(4 * half[0] * half[1])
    for _ in range(rng.poisson(clutter * (4 + 0.25 * min(area, 80)))):
        kind = kinds[rng.integers(len(kinds))]
        size = footprint_of(kind, rng)
        radius = float(np.hypot(*size[:2]) / 2)
        wall_yaw = int(rng.integers(4))
        yaw = wall_yaw * np.pi / 2 if rng.random() < 0.6 else rng.uniform(0, 2 * np.pi)
        xy = rng.uniform(-half, half)
        if rng.random() < 0.55:  # against a wall
            axis = wall_yaw % 2
            sign = 1 if wall_yaw in (0, 3) else -1
            yaw = wall_yaw * np.pi / 2
            depth = size[1] / 2 + 0.02
            xy[1 - axis] = sign * (half[1 - axis] - depth)
            room = np.array(half) - (depth if axis else size[0] / 2)
            room[axis] = half[axis] - size[0] / 2
            if (abs(xy) > half - min(size[:2]) / 2 + 0.01).any() or abs(xy[axis]) > room[axis]:
                continue
        elif (abs(xy) > half - radius).any():
            continue
        if not free(list(keep_free), xy, radius, half + 9):
            continue
        if obstacles and not free(np.array(obstacles), xy, 0.75 * radius, half + 9):
            continue
        builder.place((float(xy[0]), float(xy[1]), 0.0), yaw)
        kind(builder, maker, rng, size)
        obstacles.append((*xy, radius, 0.0, size[2]))
    return World(builder.build(), maker.table(), lights, ambient, sky, np.asarray(half), height)


def _room(
    rng: np.random.Generator, builder: MeshBuilder, maker: MaterialMaker, half: F64, height: float
) -> None:
    builder.place((0, 0, 0), 0.0)
    x, y = half
    floor = maker.draw(
        ("planks", "tiles", "checker", "noise", "plain", "cobbles", "streaks", "plaid", "blotches"),
        (0.6, 3.0),
    )
    ceiling = maker.draw(
        ("plain", "plain", "tiles", "planks", "noise"), contrast=0.4, value=(0.3, 0.9)
    )
    families = (
        "plain",
        "plain",
        "noise",
        "stripes",
        "bricks",
        "tiles",
        "weave",
        "blotches",
        "planks",
    )
    shared = maker.draw(families, (0.6, 3.0), contrast=0.5, value=(0.15, 0.85))
    size = (2 * x, 2 * y, height)
    centre = (0.0, 0.0, height / 2)
    builder.box(centre, size, ceiling, True, (4,))
    builder.box(centre, size, floor, True, (5,))
    for side in range(4):
        other = rng.random() < 0.35
        wall = maker.draw(families, (0.5, 3.0), 0.6, (0.1, 0.85)) if other else shared
        builder.box(centre, size, wall, True, (side,))
    trim = maker.plain(random_colour(rng, (0.2, 0.9), 0.3))
    dado = maker.draw(contrast=0.4) if rng.random() < 0.25 else None
    for wall in range(4):
        yaw = wall * np.pi / 2
        length, depth = (x, y) if wall % 2 == 0 else (y, x)
        builder.place((0, 0, 0), yaw)
        if rng.random() < 0.7:
            builder.box((0, depth - 0.01, 0.05), (2 * length, 0.02, 0.1), trim)
        if dado is not None:
            builder.box((0, depth - 0.015, 0.45), (2 * length, 0.01, 0.9), dado)
        for _ in range(rng.poisson(0.5 + 0.4 * length)):
            _wall_thing(rng, builder, maker, length, depth - 0.02, height, trim)
    for _ in range(rng.poisson(0.6)):
        builder.place((*rng.uniform(-half * 0.7, half * 0.7), 0.0), rng.uniform(0, 3))
        w, h = rng.uniform(0.5, 1.4), rng.uniform(0.4, 1.0)
        rug = maker.draw(("plaid", "stripes", "dots", "weave", "cobbles", "poster"), (0.5, 2.0))
        builder.box((0, 0, 0.004), (2 * w, 2 * h, 0.008), rug)


def _wall_thing(
    rng: np.random.Generator,
    builder: MeshBuilder,
    maker: MaterialMaker,
    length: float,
    depth: float,
    height: float,
    trim: int,
) -> None:
    """A picture, window, door or board on the wall at y = ``depth`` of the builder's frame."""
    kind = rng.choice(["picture", "window", "door", "panel"], p=[0.5, 0.2, 0.15, 0.15])
    if kind == "door":
        w, h, z = rng.uniform(0.8, 1.1), 2.05, 1.025
        face = maker.draw(("plain", "streaks", "planks"), contrast=0.5)
    elif kind == "window":
        w, h = rng.uniform(0.7, 2.2), rng.uniform(0.7, 1.4)
        z = rng.uniform(1.0 + h / 2, max(1.1 + h / 2, height - h / 2 - 0.1))
        face = maker.draw(
            ("facade", "noise", "blotches", "plain"), (1.0, 1.0), 0.7, (0.5, 0.95), 0.8
        )
    elif kind == "picture":
        w, h = rng.uniform(0.25, 1.5), rng.uniform(0.25, 1.3)
        z = rng.uniform(0.9 + h / 2, 1.2 + h / 2)
        if rng.random() < 0.5:
            shape = str(rng.choice(list(ASPECT)))
            h = w / ASPECT[shape]
            z = rng.uniform(0.9 + h / 2, 1.2 + h / 2)
            face = maker.portrait(shape)
        else:
            face = maker.draw(("poster", "poster", "text", "blotches"), (1.0, 1.0), 1.3)
    else:
        w, h = rng.uniform(0.4, 2.0), rng.uniform(0.3, 1.5)
        z = rng.uniform(h / 2 + 0.1, max(h / 2 + 0.2, height - h / 2 - 0.1))
        face = maker.draw()
    if w > 1.8 * length or z + h / 2 > height:
        return
    x = rng.uniform(-length + w / 2, length - w / 2)
    builder.box((x, depth - 0.012, z), (w + 0.08, 0.025, h + 0.08), trim)
    corners = upright(x - w / 2, x + w / 2, z - h / 2, z + h / 2, depth - 0.03)
    builder.picture(corners, face)


def _yard(rng: np.random.Generator, builder: MeshBuilder, maker: MaterialMaker, half: F64) -> None:
    builder.place((0, 0, 0), 0.0)
    ground = maker.draw(
        ("noise", "cobbles", "tiles", "blotches", "bricks", "planks"), (1.0, 5.0), 0.7
    )
    builder.box((0, 0, -0.5), (160, 160, 1), ground, sides=(4,))
    for _ in range(int(rng.integers(1, 7))):  # buildings and walls around
        angle = rng.uniform(0, 2 * np.pi)
        far = float(np.hypot(*half)) + rng.uniform(1, 25)
        w, d, h = rng.uniform(2, 18), rng.uniform(0.3, 8), rng.uniform(1.2, 12)
        builder.place((far * np.cos(angle), far * np.sin(angle), 0.0), angle + np.pi / 2)
        house = maker.draw(("facade", "facade", "bricks", "planks", "noise", "plain"), (1.5, 7.0))
        builder.box((0, -d / 2 if d > 3 else 0, h / 2), (w, d, h), house)
    for _ in range(int(rng.integers(0, 7))):  # trees
        xy = rng.uniform(-2.5, 2.5, 2) * half
        if (abs(xy) < half + 0.6).all():
            continue
        builder.place((*xy, 0.0), 0.0)
        h = rng.uniform(1, 3)
        builder.cylinder((0, 0, 0), 0.12, h, maker.draw(("streaks", "noise"), (0.2, 0.6)), 0.08)
        green = np.array([0.1, 0.25, 0.05]) * rng.uniform(0.5, 1.6, 3)
        for _ in range(3):
            s = rng.uniform(1.0, 2.5)
            at = (*rng.normal(0, 0.4, 2), h + rng.uniform(0, 1))
            builder.blob(at, (s, s, s * 0.8), maker.plain(green, gloss=0), 0.5)


def _lamps(rng: np.random.Generator, half: F64, height: float) -> tuple[tuple[Light, ...], F64]:
    def tint(strength: float) -> F64:
        warm = rng.normal(0, strength)
        colour = np.array([1 + warm, 1.0, 1 - warm]) * np.exp(rng.normal(0, 0.3 * strength, 3))
        return np.clip(colour, 0.15, 2.0)

    lights = []
    for k in range(int(rng.integers(1, 4))):
        xy = rng.uniform(-0.85, 0.85, 2) * half
        z = (
            height - rng.uniform(0.05, 0.5)
            if rng.random() < 0.75
            else rng.uniform(1.2, height - 0.2)
        )
        power = 1.0 if k == 0 else rng.uniform(0.15, 0.8)
        colour = tint(0.1 if rng.random() < 0.85 else 0.4) * power
        lights.append(
            Light(np.array([*xy, z]), colour, rng.uniform(0.03, 0.4), rng.uniform(1.5, 6.0))
        )
    return tuple(lights), tint(0.1) * rng.uniform(0.08, 0.5)


def _daylight(rng: np.random.Generator) -> tuple[tuple[Light, ...], F64, Sky]:
    azimuth, elevation = rng.uniform(0, 2 * np.pi), rng.uniform(0.15, 1.4)
    direction = np.array(
        [
            np.cos(azimuth) * np.cos(elevation),
            np.sin(azimuth) * np.cos(elevation),
            np.sin(elevation),
        ]
    )
    low = np.exp(-4 * elevation)
    overcast = rng.random() < 0.3
    strength = 0.15 if overcast else rng.uniform(0.8, 1.5)
    sun = np.array([1.0, 0.95 - 0.3 * low, 0.88 - 0.55 * low]) * strength
    grey = rng.uniform(0.5, 0.9)
    zenith = (
        np.array([grey] * 3) if overcast else np.array([0.18, 0.38, 0.8]) * rng.uniform(0.6, 1.2)
    )
    horizon = np.clip(zenith * 0.5 + np.array([0.5, 0.5, 0.5 - 0.3 * low]), 0, 1)
    ambient = (0.5 * zenith + 0.2) * rng.uniform(0.5, 1.0)
    sky = Sky(horizon, zenith, float(rng.uniform(0, 1) * 0.8))
    return (Light(direction * 500, sun, 8.0 if overcast else 3.0, np.inf),), ambient, sky
