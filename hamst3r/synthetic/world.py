"""A static place as the renderer takes it: surfaces, materials, lights, sky."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from hamst3r.synthetic.materials import MaterialTable
from hamst3r.synthetic.meshes import Mesh

F64 = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Light:
    """A lamp or the sun.

    Attributes:
        position: (3,) metres. colour: (3,) linear intensity. radius: Of the lamp, metres.
        reach: Distance at which half of the light is left; inf for the sun.
    """

    position: F64
    colour: F64
    radius: float
    reach: float


@dataclass(frozen=True, eq=False)
class Sky:
    """Colours (3,) at the horizon and overhead, and the seed of its clouds."""

    horizon: F64
    zenith: F64
    clouds: float


@dataclass(frozen=True, eq=False)
class Place:
    """What kind of place it is, and how large.

    Attributes:
        kind: One of ``worlds.PLACES``.
        half: (2,) half extents of the accessible area around the origin, metres.
        height: Of the ceiling; of nothing in particular outdoors.
    """

    kind: str
    half: F64
    height: float


@dataclass(frozen=True, eq=False)
class World:
    """A static place on the floor z = 0.

    Attributes:
        half: (2,) half extents of the accessible area around the origin, metres.
        height: Of the ceiling; of nothing in particular outdoors.
        ambient: (3,) light from everywhere. sky: None indoors.
        lookalikes: (L, 3) middles of the things that look like people and are none.
    """

    mesh: Mesh
    materials: MaterialTable
    lights: tuple[Light, ...]
    ambient: F64
    sky: Sky | None
    half: F64
    height: float
    lookalikes: F64 = field(default_factory=lambda: np.zeros((0, 3)))
