"""Rooms, corridors, halls and yards: their size, and what stands where. People come first."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hamst3r.synthetic.assets import AssetPack
from hamst3r.synthetic.clutter import cable
from hamst3r.synthetic.furniture import (
    CORRIDOR,
    HALL,
    INDOOR,
    OUTDOOR,
    TO_THE_CEILING,
    Builder,
    footprint_of,
)
from hamst3r.synthetic.humanlike import HUMANLIKE
from hamst3r.synthetic.interiors import build_interior
from hamst3r.synthetic.lamps import daylight, indoor_light
from hamst3r.synthetic.materials import MaterialMaker
from hamst3r.synthetic.meshes import MeshBuilder
from hamst3r.synthetic.portraits import picture_bank
from hamst3r.synthetic.props import Prop
from hamst3r.synthetic.solids import Solid, Space
from hamst3r.synthetic.world import Place, Sky, World
from hamst3r.synthetic.yards import build_yard

F64 = NDArray[np.float64]
PLACES = ("room", "corridor", "hall", "yard")
_STOCK = {"room": INDOOR, "corridor": CORRIDOR, "hall": HALL, "yard": OUTDOOR}
_DENSITY = {"room": 0.28, "corridor": 0.2, "hall": 0.12, "yard": 0.12}  # pieces per square metre


def sample_place(rng: np.random.Generator, kind: str) -> Place:
    """Size of a place of one of ``PLACES``; ways on foot in it are up to 20 m long."""
    if kind == "corridor":
        half = np.array([rng.uniform(0.8, 1.5), rng.uniform(3.5, 9.0)])
        return Place(kind, half[:: rng.choice([-1, 1])].copy(), float(rng.uniform(2.2, 3.2)))
    low, high = {"room": (1.5, 5.0), "hall": (4.0, 10.0), "yard": (2.5, 10.0)}[kind]
    half = np.exp(rng.uniform(np.log(low), np.log(high), 2))
    heights = (3.5, 8.0) if kind == "hall" else (2.3, 3.6)
    return Place(kind, half, float(rng.uniform(*heights)))


def sample_world(
    rng: np.random.Generator,
    place: Place,
    space: Space,
    props: Sequence[Prop] = (),
    clutter: float = 1.0,
    lookalikes: float = 0.8,
    pack: AssetPack | None = None,
) -> World:
    """A furnished place.

    Args:
        space: What of it is taken by people; everything that is added is taken from it.
        props: What people sit on, lie on and hold; they are there already in ``space``.
        clutter: Scales how much stands around. lookalikes: Mean number of things that look like
            people (:mod:`hamst3r.synthetic.humanlike`). pack: Models to furnish with, too.
    """
    maker, builder = MaterialMaker(rng, pack.pictures if pack else picture_bank()), MeshBuilder(rng)
    sky: Sky | None = None
    if place.kind == "yard":
        space.take(*build_yard(rng, builder, maker, place))
        lights, ambient, sky = daylight(rng)
    else:
        windows = build_interior(rng, builder, maker, place)
        lights, ambient = indoor_light(rng, builder, maker, place, windows)
    for prop in props:
        prop.build(builder, maker, rng)
    stand_ins = list(HUMANLIKE)
    middles: list[tuple[float, float, float]] = []
    for _ in range(rng.poisson(lookalikes)):
        odd = stand_ins[rng.integers(len(stand_ins))]
        if _stand(rng, builder, maker, place, space, odd, footprint_of(odd, rng), 4):
            x, y, z = space.solids[-1].centre
            middles.append((x, y, z))
    stock = _STOCK[place.kind]
    area = 4 * float(np.prod(place.half))
    for _ in range(rng.poisson(clutter * (3 + min(_DENSITY[place.kind] * area, 22)))):
        if pack is not None and rng.random() < 0.6:
            model = pack.models[rng.integers(len(pack.models))]
            _stand(rng, builder, maker, place, space, model.build, model.size, 2)
            continue
        kind = stock[rng.integers(len(stock))]
        size = footprint_of(kind, rng)
        if kind in TO_THE_CEILING and place.kind != "yard" and rng.random() < 0.7:
            size = (*size[:2], place.height)
        _stand(rng, builder, maker, place, space, kind, size, 2)
    for _ in range(rng.poisson(0.3 * clutter)):
        builder.place((0, 0, 0), 0.0)
        cable(builder, maker, rng, space, int(rng.integers(3, 12)))
    return World(
        builder.build(),
        maker.table(),
        lights,
        ambient,
        sky,
        place.half.copy(),
        place.height,
        np.array(middles, float).reshape(-1, 3),
    )


def _stand(
    rng: np.random.Generator,
    builder: MeshBuilder,
    maker: MaterialMaker,
    place: Place,
    space: Space,
    kind: Builder,
    size: tuple[float, float, float],
    attempts: int,
) -> bool:
    """Put one piece where it fits, against a wall or anywhere; whether there was such a place."""
    w, d, h = size
    if place.kind != "yard" and h > place.height:
        return False
    for _ in range(attempts):
        wall = int(rng.integers(4))
        if place.kind != "yard" and rng.random() < 0.6:
            yaw, depth = wall * np.pi / 2, place.half[(wall + 1) % 2] - d / 2 - 0.03
            along = place.half[wall % 2] - w / 2
            if along < 0 or depth < 0:
                continue
            local = np.array([rng.uniform(-along, along), depth])
            c, s = np.cos(yaw), np.sin(yaw)
            xy = np.array([[c, -s], [s, c]]) @ local
        else:
            yaw = wall * np.pi / 2 if rng.random() < 0.4 else rng.uniform(0, 2 * np.pi)
            xy = rng.uniform(-place.half, place.half)
        solid = Solid((0.0, 0.0, h / 2), (w, d, h)).moved(float(xy[0]), float(xy[1]), yaw)
        if space.fits(solid):
            builder.place((float(xy[0]), float(xy[1]), 0.0), yaw)
            kind(builder, maker, rng, (w, d, h))
            space.take(solid)
            return True
    return False
