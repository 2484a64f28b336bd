"""What people sit on, lie on, lean over and hold, made to measure for those who are there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hamst3r.synthetic.materials import MaterialMaker
from hamst3r.synthetic.meshes import MeshBuilder
from hamst3r.synthetic.solids import Solid

F64 = NDArray[np.float64]
_TOUCH = 0.004  # metres by which things may dent clothes
_COVERS = ("weave", "plaid", "stripes", "plain", "dots", "noise", "planks", "streaks")
_FRAMES = ("planks", "streaks", "plain", "noise", "gratings")


@dataclass(frozen=True)
class Part:
    """A box of a prop, or the upright cylinder in it; ``slot`` 0 is its cover, 1 its frame."""

    solid: Solid
    slot: int = 0
    round: bool = False


@dataclass(frozen=True)
class Prop:
    """A thing made of parts.

    Attributes:
        kind: Such as chair, bed, table; of ``HELD`` if it is in a hand, which it touches.
    """

    kind: str
    parts: tuple[Part, ...]

    def moved(self, x: float, y: float, yaw: float) -> Prop:
        """Turned about the z axis by ``yaw``, then shifted in the plane."""
        return Prop(
            self.kind, tuple(Part(p.solid.moved(x, y, yaw), p.slot, p.round) for p in self.parts)
        )

    def raised(self, by: float) -> Prop:
        """The same, ``by`` metres higher."""
        parts = []
        for part in self.parts:
            x, y, z = part.solid.centre
            solid = Solid((x, y, z + by), part.solid.size, part.solid.yaw)
            parts.append(Part(solid, part.slot, part.round))
        return Prop(self.kind, tuple(parts))

    @property
    def solids(self) -> tuple[Solid, ...]:
        """What it fills."""
        return tuple(part.solid for part in self.parts)

    def clear_of(self, points: NDArray, margin: float = -_TOUCH) -> bool:
        """Whether none of points (N, 3) is inside."""
        return not any(solid.inside(points, margin).any() for solid in self.solids)

    def build(self, b: MeshBuilder, m: MaterialMaker, rng: np.random.Generator) -> None:
        """Add it to a world."""
        cover = m.draw(() if self.kind in HELD else _COVERS, (0.15, 1.0))
        frame = m.draw(_FRAMES, value=(0.01, 0.6))
        for part in self.parts:
            material, solid = (cover, frame)[part.slot], part.solid
            x, y, z = solid.centre
            if part.round:
                b.place((x, y, z - solid.size[2] / 2), solid.yaw)
                b.cylinder((0, 0, 0), solid.size[0] / 2, solid.size[2], material, segments=14)
            else:
                b.place((x, y, 0.0), solid.yaw)
                b.box((0, 0, z), solid.size, material)


HELD = ("box", "phone", "cup", "bag", "stick", "tray")


def _box(x: tuple[float, float], y: tuple[float, float], z: tuple[float, float]) -> Solid:
    """From its limits."""
    limits = np.array([x, y, z], float)
    centre, size = limits.mean(1), limits[:, 1] - limits[:, 0]
    return Solid(tuple(centre.tolist()), tuple(size.tolist()))


def _legs(x: tuple[float, float], y: tuple[float, float], top: float, t: float) -> list[Part]:
    return [
        Part(_box((a, a + t), (b, b + t), (0, top)), 1)
        for a in (x[0], x[1] - t)
        for b in (y[0], y[1] - t)
    ]


def seat_height(points: NDArray, pelvis: NDArray) -> float:
    """Height of what carries a sitting person who faces -y: metres, from surface points (N, 3)."""
    offset = points[:, :2] - pelvis[:2]
    under = (abs(offset[:, 0]) < 0.14) & (offset[:, 1] > -0.2) & (offset[:, 1] < 0.13)
    return float(points[under, 2].min())


def seat(rng: np.random.Generator, points: NDArray, pelvis: NDArray) -> Prop | None:
    """A chair, stool, box or sofa under a person who sits and faces -y; None if none fits.

    Args:
        points: (N, 3) all of the surface, metres. pelvis: (3,).
    """
    z = seat_height(points, pelvis)
    x, y = float(pelvis[0]), float(pelvis[1])
    if z < 0.16:
        return None
    half = rng.uniform(0.18, 0.25)
    limits = _seat_limits(points, x, y, z, half)
    if limits is None:
        return None
    front, back = limits
    wide, deep = (x - half, x + half), (front, back)
    plate = Part(_box(wide, deep, (z - 0.06, z)))
    rest = Part(_box(wide, (back, back + 0.04), (z + 0.1, z + rng.uniform(0.25, 0.6))))
    designs = {
        "chair": [plate, rest, *_legs(wide, (front, back + 0.04), z - 0.06, 0.04)],
        "stool": [
            Part(_box(wide, (y - half, y + half), (z - 0.06, z)), 0, True),
            Part(_box((x - 0.03, x + 0.03), (y - 0.03, y + 0.03), (0.0, z - 0.06)), 1, True),
        ],
        "cube": [Part(_box(wide, deep, (0, z)))],
        "armchair": [
            Part(_box((wide[0] - 0.12, wide[1] + 0.12), deep, (0, z))),
            Part(_box((wide[0] - 0.25, wide[1] + 0.25), (back, back + 0.15), (0, z + 0.45))),
            *(
                Part(_box((a, a + 0.13), deep, (0, z + 0.2)))
                for a in (x - half - 0.25, x + half + 0.12)
            ),
        ],
    }
    for kind in rng.permutation(list(designs)):
        prop = Prop(str(kind), tuple(designs[str(kind)]))
        if prop.clear_of(points):
            return prop
    return None


def _seat_limits(
    points: NDArray, x: float, y: float, z: float, half: float
) -> tuple[float, float] | None:
    """Front and back (y) of a seat of height z behind the calves and before the back's rest."""
    offset = abs(points[:, 0] - x)
    below = (offset < half) & (points[:, 2] < z - _TOUCH) & (points[:, 1] < y)
    front = float(points[below, 1].max(initial=y - 0.45)) + 0.015
    behind = (offset < half + 0.02) & (points[:, 2] > z + 0.06) & (points[:, 2] < z + 0.65)
    back = float(points[behind, 1].max(initial=y)) + 0.01
    return (front, back) if y - front > 0.06 and back - front > 0.2 else None


def bench(
    rng: np.random.Generator, people: Sequence[tuple[NDArray, NDArray]], z: float
) -> Prop | None:
    """A bench or couch of height z under people in a row (points, pelvis) who face -y."""
    limits = [_seat_limits(points, p[0], p[1], z, 0.16) for points, p in people]
    if any(pair is None for pair in limits):
        return None
    front = max(pair[0] for pair in limits if pair)
    back = max(pair[1] for pair in limits if pair)
    xs = [float(p[0]) for _, p in people]
    wide = (min(xs) - rng.uniform(0.25, 0.6), max(xs) + rng.uniform(0.25, 0.6))
    plate = Part(_box(wide, (front, back), (z - 0.06, z)))
    rest = Part(_box(wide, (back, back + 0.05), (z + 0.08, z + rng.uniform(0.3, 0.5))))
    legs = _legs(wide, (front, back), z - 0.06, 0.05)
    couch = [
        Part(_box(wide, (front, back), (0.0, z))),
        Part(_box(wide, (back, back + 0.14), (0.0, z + 0.4))),
    ]
    designs = [[plate, rest, *legs], couch, [plate, *legs]]
    points = np.concatenate([points for points, _ in people])
    for k in rng.permutation(len(designs)):
        prop = Prop("bench", tuple(designs[k]))
        if prop.clear_of(points):
            return prop
    return None


def table(
    rng: np.random.Generator, points: NDArray, torso_front: float, thighs: float, x: float
) -> Prop | None:
    """A table before people who sit and face -y: its edge near y = ``torso_front``."""
    z = thighs + rng.uniform(0.06, 0.14)
    long, deep = rng.uniform(0.7, 1.6), rng.uniform(0.5, 0.9)
    for gap in (0.03, 0.08, 0.15, 0.22, 0.3):
        edge = torso_front - gap
        wide, far = (x - long / 2, x + long / 2), (edge - deep, edge)
        parts = [Part(_box(wide, far, (z - 0.03, z))), *_legs(wide, far, z - 0.03, 0.05)]
        if (prop := Prop("table", tuple(parts))).clear_of(points, 0.008):
            return prop
    return None


def bed(rng: np.random.Generator, points: NDArray, height: float) -> Prop:
    """A bed, couch or slab whose top at ``height`` carries a lying person."""
    low, high = points[:, :2].min(0), points[:, :2].max(0)
    grow = rng.uniform(0.03, 0.3, 4)
    x, y = (low[0] - grow[0], high[0] + grow[1]), (low[1] - grow[2], high[1] + grow[3])
    if rng.random() < 0.5:
        parts = [Part(_box(x, y, (0.0, height)))]
    else:
        parts = [Part(_box(x, y, (0.5 * height, height)))]
        parts.append(Part(_box(x, y, (0.2 * height, 0.5 * height)), 1))
        parts += _legs(x, y, 0.2 * height, 0.08)
    return Prop("bed", tuple(parts))


def platform(rng: np.random.Generator, points: NDArray, top: float) -> Prop:
    """A stage, treadmill or mat of height ``top`` under people (N, 3) who stand on it."""
    feet = points[points[:, 2] < top + 0.3]
    low, high = feet[:, :2].min(0), feet[:, :2].max(0)
    grow = rng.uniform(0.05, 1.0, 4)
    x, y = (low[0] - grow[0], high[0] + grow[1]), (low[1] - grow[2], high[1] + grow[3])
    parts = [Part(_box(x, y, (0.0, top)))]
    if top > 0.08 and rng.random() < 0.5:  # rails that frame it, level with its top
        parts.append(Part(_box((x[0] - 0.1, x[0]), y, (0.0, top)), 1))
        parts.append(Part(_box((x[1], x[1] + 0.1), y, (0.0, top)), 1))
    return Prop("platform", tuple(parts))


def held(rng: np.random.Generator, kind: str, hand: NDArray, size: float = 1.0) -> Prop:
    """A thing in a hand at (3,): phone, cup, bag, stick or tray; ``size`` 1 suits adults."""
    x, y, z = (float(v) for v in hand)
    if kind == "phone":
        parts = [Part(_box((x - 0.035, x + 0.035), (y - 0.05, y - 0.04), (z - 0.03, z + 0.11)))]
    elif kind == "cup":
        parts = [
            Part(_box((x - 0.04, x + 0.04), (y - 0.07, y + 0.01), (z - 0.03, z + 0.08)), 0, True)
        ]
    elif kind == "bag":
        w, h = size * rng.uniform(0.1, 0.2), size * rng.uniform(0.2, 0.4)
        low = max(z - 0.15 - h, 0.0)
        parts = [
            Part(_box((x - 0.05, x + 0.05), (y - w, y + w), (low, z - 0.15))),
            Part(_box((x - 0.01, x + 0.01), (y - 0.04, y + 0.04), (z - 0.15, z))),
        ]
    elif kind == "stick":
        top = z + rng.choice([0.06, 0.5])
        parts = [Part(_box((x - 0.014, x + 0.014), (y - 0.014, y + 0.014), (0.0, top)), 1, True)]
    else:
        w = size * rng.uniform(0.15, 0.22)
        parts = [Part(_box((x - w, x + w), (y - w, y + w), (z + 0.03, z + 0.045)), 1)]
        parts.append(
            Part(_box((x - 0.04, x + 0.04), (y - 0.04, y + 0.04), (z + 0.045, z + 0.15)), 0, True)
        )
    return Prop(kind, tuple(parts))


def parcel(rng: np.random.Generator, wrists: NDArray, points: NDArray) -> Prop | None:
    """A box between two wrists (2, 3) of a person who faces -y; None if the body is in its way."""
    middle = wrists.mean(0)
    between = abs(float(wrists[0, 0] - wrists[1, 0])) - 0.06
    deep, high = rng.uniform(0.15, 0.4), rng.uniform(0.12, 0.4)
    for shrink in (1.0, 0.9, 0.8, 0.7, 0.6):
        width = shrink * between
        for shift in (0.0, 0.06, 0.12):
            y = float(middle[1]) - 0.04 - shift
            solid = _box(
                (middle[0] - width / 2, middle[0] + width / 2),
                (y - deep / 2, y + deep / 2),
                (middle[2] - shrink * high / 2, middle[2] + shrink * high / 2),
            )
            prop = Prop("box", (Part(solid),))
            if width > 0.08 and middle[2] - high / 2 > 0.02 and prop.clear_of(points):
                return prop
    return None
