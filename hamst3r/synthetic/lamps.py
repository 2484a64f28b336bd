"""What lights a place: lamps and their fixtures, windows, the sun and the sky."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hamst3r.synthetic.materials import MaterialMaker
from hamst3r.synthetic.meshes import MeshBuilder
from hamst3r.synthetic.world import Light, Place, Sky

F64 = NDArray[np.float64]
MAX_LIGHTS = 4  # that cast shadows; each costs one ray per pixel


def indoor_light(
    rng: np.random.Generator,
    b: MeshBuilder,
    m: MaterialMaker,
    place: Place,
    windows: list[F64],
) -> tuple[tuple[Light, ...], F64]:
    """Lights and ambient of a room; fixtures are added where the lamps hang."""
    half, height = place.half, place.height
    b.place((0, 0, 0), 0.0)
    lights: list[Light] = []
    day = len(windows) > 0 and rng.random() < 0.6
    if day:  # several windows of one wall act as few
        sky = np.array([0.8, 0.95, 1.15]) ** rng.uniform(0.2, 1.0) * rng.uniform(0.6, 1.3)
        for at in rng.permutation(len(windows))[: int(rng.integers(1, 3))]:
            lights.append(Light(windows[at], sky, 0.45, rng.uniform(2.0, 6.0)))
    lamps = int(rng.integers(0 if day else 1, MAX_LIGHTS + 1 - len(lights)))
    shared = _tint(rng, 0.1)
    fixture = m.plain(np.full(3, 0.9), glow=0.9)
    for k in range(lamps):
        xy = rng.uniform(-0.85, 0.85, 2) * half
        hangs = rng.random() < 0.8
        radius = rng.uniform(0.03, 0.4)
        z = height - radius - rng.uniform(0.05, 0.6) if hangs else rng.uniform(1.2, height - 0.3)
        colour = shared if rng.random() < 0.8 else _tint(rng, 0.4)
        power = 1.0 if k == 0 else rng.uniform(0.15, 0.8)
        reach = rng.uniform(1.5, 6.0) * max(1.0, height / 3)
        lights.append(Light(np.array([*xy, z]), colour * power, radius, reach))
        if hangs:
            _fixture(rng, b, (xy[0], xy[1], z + radius + 0.03), height, fixture)
    for _ in range(rng.poisson(2.0) if place.kind != "room" else rng.poisson(0.6)):
        at = rng.uniform(-0.9, 0.9, 2) * half  # lamps that shine too weakly to cast shadows
        _fixture(rng, b, (at[0], at[1], height - 0.05), height, fixture)
    return tuple(lights), _tint(rng, 0.1) * rng.uniform(0.06, 0.5)


def _fixture(
    rng: np.random.Generator,
    b: MeshBuilder,
    at: tuple[float, float, float],
    height: float,
    glowing: int,
) -> None:
    """A panel, tube or bowl that shines, its lower side at ``at``, hung from the ceiling."""
    x, y, z = at
    kind = rng.integers(3)
    if kind == 0:
        b.box((x, y, z + 0.02), (rng.uniform(0.3, 0.9), rng.uniform(0.3, 1.2), 0.04), glowing)
    elif kind == 1:
        b.box((x, y, z + 0.02), (0.08, rng.uniform(0.6, 1.5), 0.04), glowing)
    else:
        b.blob((x, y, z + 0.1), (0.4, 0.4, 0.2), glowing, segments=12)
    if height - z > 0.15:
        b.box((x, y, (z + 0.04 + height) / 2), (0.015, 0.015, height - z - 0.04), glowing)


def daylight(rng: np.random.Generator) -> tuple[tuple[Light, ...], F64, Sky]:
    """Sun, ambient and sky of any hour: clear, overcast, dusk."""
    azimuth, elevation = rng.uniform(0, 2 * np.pi), rng.uniform(0.12, 1.4)
    flat = np.cos(elevation)
    direction = np.array([np.cos(azimuth) * flat, np.sin(azimuth) * flat, np.sin(elevation)])
    low = np.exp(-4 * elevation)
    overcast = rng.random() < 0.3
    strength = 0.15 if overcast else rng.uniform(0.8, 1.5)
    sun = np.array([1.0, 0.95 - 0.3 * low, 0.88 - 0.55 * low]) * strength
    if overcast:
        zenith = np.full(3, rng.uniform(0.5, 0.9))
    else:
        zenith = np.array([0.18, 0.38, 0.8]) * rng.uniform(0.6, 1.2)
    horizon = np.clip(zenith * 0.5 + np.array([0.5, 0.5, 0.5 - 0.3 * low]), 0, 1)
    ambient = (0.5 * zenith + 0.2) * rng.uniform(0.5, 1.0)
    sky = Sky(horizon, zenith, float(rng.uniform(0, 1) * 0.8))
    return (Light(direction * 500, sun, 8.0 if overcast else 3.0, np.inf),), ambient, sky


def _tint(rng: np.random.Generator, strength: float) -> F64:
    warm = rng.normal(0, strength)
    colour = np.array([1 + warm, 1.0, 1 - warm]) * np.exp(rng.normal(0, 0.3 * strength, 3))
    return np.clip(colour, 0.15, 2.0)
