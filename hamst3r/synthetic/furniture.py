"""Things that stand in rooms and yards; each builder fills a footprint around its own origin.

A builder gets ``size`` = (width, depth, height) in metres; its back is towards +y (a wall).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from hamst3r.synthetic.clutter import floor_clutter, things
from hamst3r.synthetic.humanlike import HUMANLIKE
from hamst3r.synthetic.materials import MaterialMaker
from hamst3r.synthetic.meshes import MeshBuilder, upright

Size = tuple[float, float, float]
Builder = Callable[[MeshBuilder, MaterialMaker, np.random.Generator, Size], None]

WOOD = ("planks", "streaks", "plain", "noise")
CLOTH = ("weave", "plaid", "stripes", "plain", "dots", "noise", "blotches")


def table(b: MeshBuilder, m: MaterialMaker, rng: np.random.Generator, size: Size) -> None:
    """A table or desk, often with things on it."""
    w, d, h = size
    top, leg = m.draw(WOOD), m.draw(WOOD, value=(0.02, 0.5))
    b.box((0, 0, h - 0.02), (w, d, 0.04), top)
    for x in (-1, 1):
        for y in (-1, 1):
            b.box(
                (x * (w / 2 - 0.05), y * (d / 2 - 0.05), h / 2 - 0.02), (0.05, 0.05, h - 0.04), leg
            )
    things(b, m, rng, (w, d), h, int(rng.integers(0, 6)))


def chair(b: MeshBuilder, m: MaterialMaker, rng: np.random.Generator, size: Size) -> None:
    """A chair with a back."""
    w, d, h = size
    seat = 0.45
    cover, frame = m.draw(CLOTH + WOOD), m.draw(WOOD, value=(0.01, 0.5))
    b.box((0, 0, seat - 0.03), (w, d, 0.06), cover)
    for x in (-1, 1):
        for y in (-1, 1):
            top = h if y > 0 else seat - 0.06
            b.box((x * (w / 2 - 0.025), y * (d / 2 - 0.025), top / 2), (0.04, 0.04, top), frame)
    if rng.random() < 0.6:
        b.box((0, d / 2 - 0.025, (h + seat) / 2 + 0.05), (w - 0.08, 0.025, h - seat - 0.1), cover)
    else:
        for k in range(3):
            b.box((0, d / 2 - 0.025, seat + 0.12 + 0.13 * k), (w - 0.08, 0.02, 0.05), frame)


def shelf(b: MeshBuilder, m: MaterialMaker, rng: np.random.Generator, size: Size) -> None:
    """Boards between two sides, filled with books and boxes."""
    w, d, h = size
    wood = m.draw(WOOD)
    for x in (-1, 1):
        b.box((x * (w / 2 - 0.015), 0, h / 2), (0.03, d, h), wood)
    if rng.random() < 0.7:
        b.box((0, d / 2 - 0.01, h / 2), (w - 0.06, 0.02, h), wood)
    books = [m.draw(contrast=0.5) for _ in range(6)]
    rows = max(2, int(h / rng.uniform(0.28, 0.5)))
    for k in range(rows + 1):
        z = 0.02 + k * (h - 0.04) / rows
        b.box((0, 0, z), (w - 0.06, d, 0.025), wood)
        left = -w / 2 + 0.05
        while k < rows and left < w / 2 - 0.12 and rng.random() < 0.93:
            bw, bh = rng.uniform(0.025, 0.12), rng.uniform(0.1, 0.9) * (h / rows - 0.04)
            bd = d * rng.uniform(0.5, 0.9)
            b.box((left + bw / 2, 0, z + 0.0125 + bh / 2), (bw, bd, bh), books[rng.integers(6)])
            left += bw + rng.choice([0.004, 0.1], p=[0.8, 0.2])


def sofa(b: MeshBuilder, m: MaterialMaker, rng: np.random.Generator, size: Size) -> None:
    """A sofa or armchair with cushions."""
    w, d, h = size
    cover = m.draw(CLOTH, (0.15, 1.0))
    b.box((0, 0, 0.21), (w, d, 0.42), cover)
    b.box((0, d / 2 - 0.1, 0.42 + (h - 0.42) / 2), (w, 0.2, h - 0.42), cover)
    for x in (-1, 1):
        b.box((x * (w / 2 - 0.09), 0, 0.52), (0.18, d, 0.2), cover)
    for _ in range(int(rng.integers(0, 4))):
        at = (rng.uniform(-0.35, 0.35) * w, d / 2 - 0.3, 0.56)
        b.blob(at, (0.42, 0.2, 0.36), m.draw(CLOTH, (0.1, 0.5)), 0.1)


def cabinet(b: MeshBuilder, m: MaterialMaker, rng: np.random.Generator, size: Size) -> None:
    """A closed box with fronts and knobs: wardrobe, machine, counter."""
    w, d, h = size
    body, front = m.draw((*WOOD, "plain"), value=(0.05, 0.85)), m.draw((*WOOD, "plain", "text"))
    b.box((0, 0, h / 2), size, body)
    cols, rows = int(rng.integers(1, 4)), int(rng.integers(1, 4))
    knob = m.plain(np.full(3, rng.uniform(0.02, 0.8)), gloss=0.5)
    for i in range(cols):
        for j in range(rows):
            x, z = (i + 0.5) / cols * w - w / 2, (j + 0.5) / rows * h
            b.box((x, -d / 2 - 0.008, z), (w / cols * 0.92, 0.016, h / rows * 0.92), front)
            b.blob((x + w / cols * 0.35, -d / 2 - 0.03, z), (0.035, 0.035, 0.035), knob, segments=8)
    if h < 1.3:
        things(b, m, rng, (w, d), h, int(rng.integers(0, 5)))


def column(b: MeshBuilder, m: MaterialMaker, rng: np.random.Generator, size: Size) -> None:
    """A round or square post up to the ceiling, or a barrel."""
    w, _, h = size
    material = m.draw()
    if rng.random() < 0.6:
        b.cylinder((0, 0, 0), w / 2, h, material, segments=28)
    else:
        b.box((0, 0, h / 2), (w, w, h), material)


def crates(b: MeshBuilder, m: MaterialMaker, rng: np.random.Generator, size: Size) -> None:
    """A stack of boxes that grows narrower."""
    w, d, h = size
    z = 0.0
    while z < h - 0.1:
        step = rng.uniform(0.12, 0.5)
        shrink = rng.uniform(0.75, 1.0)
        w, d = w * shrink, d * shrink
        b.box((rng.normal(0, 0.02), rng.normal(0, 0.02), z + step / 2), (w, d, step), m.draw())
        z += step


def plant(b: MeshBuilder, m: MaterialMaker, rng: np.random.Generator, size: Size) -> None:
    """A pot with leaves."""
    w, _, h = size
    b.cylinder((0, 0, 0), w * 0.25, h * 0.3, m.draw(), w * 0.35)
    green = np.array([0.08, 0.22, 0.04]) * rng.uniform(0.5, 2.0, 3)
    leaf = [m.plain(np.clip(green * k, 0, 0.9)) for k in (0.6, 1.0, 1.4)]
    for _ in range(int(rng.integers(15, 40))):
        angle, reach = rng.uniform(0, 6.3), rng.uniform(0.15, 0.48) * w
        z0, z1 = h * rng.uniform(0.3, 0.6), h * rng.uniform(0.5, 1.0)
        out = np.array([np.cos(angle), np.sin(angle), 0.0])
        side = np.array([-out[1], out[0], 0.0]) * rng.uniform(0.02, 0.06)
        root, tip = np.array([0, 0, z0]) + 0.3 * reach * out, np.array([0, 0, z1]) + reach * out
        corners = np.array([root - side, root + side, tip + side, tip - side])
        b.quad(corners, leaf[rng.integers(3)])
        b.quad(corners[::-1], leaf[rng.integers(3)])


def bin_or_cone(b: MeshBuilder, m: MaterialMaker, rng: np.random.Generator, size: Size) -> None:
    """A bucket, cone, stool or drum."""
    w, _, h = size
    top = w / 2 * rng.choice([0.1, 0.6, 1.0, 1.2])
    b.cylinder((0, 0, 0), w / 2, h, m.draw(), min(top, w / 2 * 1.2))


def lamp(b: MeshBuilder, m: MaterialMaker, rng: np.random.Generator, size: Size) -> None:
    """A standing lamp or coat stand."""
    w, _, h = size
    pole = m.plain(np.full(3, rng.uniform(0.02, 0.6)), gloss=0.4)
    b.cylinder((0, 0, 0), 0.14, 0.03, pole)
    b.cylinder((0, 0, 0), 0.015, h, pole, segments=8)
    shade = m.draw(("plain", "weave", "stripes"), (0.2, 0.5), value=(0.4, 0.95), glow=rng.random())
    b.cylinder((0, 0, h - 0.3), w / 2, 0.3, shade, w / 3)


def heap(b: MeshBuilder, m: MaterialMaker, rng: np.random.Generator, size: Size) -> None:
    """Balls, sacks, rocks on the floor."""
    w, d, h = size
    for _ in range(int(rng.integers(1, 4))):
        s = rng.uniform(0.4, 0.9)
        at = (rng.uniform(-0.2, 0.2) * w, rng.uniform(-0.2, 0.2) * d, h * s / 2)
        b.blob(at, (w * s * 0.6, d * s * 0.6, h * s), m.draw(), rng.choice([0.0, 0.25, 0.5]))


def frame(b: MeshBuilder, m: MaterialMaker, rng: np.random.Generator, size: Size) -> None:
    """A rack of bars: scaffold, railing, robot cell fence, ladder."""
    w, d, h = size
    bar = m.draw(("plain", "noise", "stripes"), value=(0.02, 0.7))
    t = rng.uniform(0.02, 0.06)
    for x in (-1, 1):
        for y in (-1, 1):
            b.box((x * (w - t) / 2, y * (d - t) / 2, h / 2), (t, t, h), bar)
    for z in np.linspace(h * rng.uniform(0.1, 0.4), h - t, int(rng.integers(2, 7))):
        for y in (-1, 1):
            b.box((0, y * (d - t) / 2, z), (w, t, t), bar)
        if rng.random() < 0.3:
            b.box((0, 0, z), (w, d, 0.02), bar)


def desk_set(b: MeshBuilder, m: MaterialMaker, rng: np.random.Generator, size: Size) -> None:
    """A table with chairs pushed to it."""
    w, d, h = size
    depth = d - 0.7
    with b.within((0, 0.35, 0)):
        table(b, m, rng, (w, depth, h))
    for x in np.arange(-w / 2 + 0.35, w / 2 - 0.2, rng.uniform(0.55, 1.0)):
        if rng.random() < 0.8:
            yaw = np.pi + rng.normal(0, 0.2)
            with b.within((x, -d / 2 + 0.32, 0), yaw):
                chair(b, m, rng, (0.42, 0.42, float(rng.uniform(0.8, 1.0))))


def bench(b: MeshBuilder, m: MaterialMaker, rng: np.random.Generator, size: Size) -> None:
    """A plain bench of slats."""
    w, d, h = size
    wood, leg = m.draw(WOOD), m.draw(("plain",), value=(0.01, 0.4))
    for y in np.linspace(-d / 2 + 0.06, d / 2 - 0.06, 3):
        b.box((0, y, h - 0.02), (w, 0.1, 0.04), wood)
    for x in (-1, 1):
        b.box((x * (w / 2 - 0.15), 0, h / 2 - 0.02), (0.06, d - 0.05, h - 0.04), leg)


def bed(b: MeshBuilder, m: MaterialMaker, rng: np.random.Generator, size: Size) -> None:
    """A bed or couch with blanket and pillow."""
    w, d, h = size
    b.box((0, 0, h * 0.3), (w, d, h * 0.6), m.draw(WOOD))
    b.box((0, 0, h * 0.75), (w - 0.06, d - 0.06, h * 0.5), m.draw(CLOTH, (0.2, 1.5)))
    b.box((-0.2 * w, 0, h * 1.02), (w * 0.6, d - 0.02, 0.06), m.draw(CLOTH, (0.2, 1.5)))
    pillow = m.draw(CLOTH, (0.2, 0.8), contrast=0.4)
    b.blob((w / 2 - 0.3, 0, h + 0.08), (0.4, d * 0.6, 0.2), pillow, 0.1)


def platform(b: MeshBuilder, m: MaterialMaker, rng: np.random.Generator, size: Size) -> None:
    """A stage, treadmill, pallet or mat: low and wide."""
    w, d, h = size
    top = m.draw(("plain", "weave", "planks", "noise", "tiles"), contrast=0.5, value=(0.01, 0.7))
    b.box((0, 0, h / 2), (w, d, h), top)
    for y in (-0.42, -0.2, 0.2, 0.42)[: int(rng.integers(0, 5))]:
        b.box((0, y * d, h), (w * 0.95, 0.03, 0.02), m.draw(("plain",), value=(0.01, 0.5)))


def tripod(b: MeshBuilder, m: MaterialMaker, rng: np.random.Generator, size: Size) -> None:
    """A tripod with a camera or lamp; a fan of three legs."""
    w, _, h = size
    leg = m.draw(("plain",), value=(0.01, 0.3))
    top = np.array([0, 0, h - 0.2])
    for angle in np.arange(3) * 2.1 + rng.random():
        foot = np.array([np.cos(angle), np.sin(angle), 0.0]) * w * 0.45
        b.bar(foot, top, 0.012, leg)
    b.box((0, 0, h - 0.1), (0.12, 0.2, 0.14), m.draw(("plain",), value=(0.01, 0.2)))
    b.cylinder((0, -0.1, h - 0.13), 0.04, 0.06, m.plain(np.full(3, 0.02), gloss=0.4), segments=10)


def robot(b: MeshBuilder, m: MaterialMaker, rng: np.random.Generator, size: Size) -> None:
    """A mobile robot: a base on wheels, a mast, an arm of two links."""
    w, d, h = size
    shell, dark = m.draw(("plain", "stripes")), m.plain(np.full(3, 0.03))
    b.cylinder((0, 0, 0.05), w / 2, 0.25, shell)
    for x in (-0.35, 0.35):
        b.bar(np.array([x * w - 0.03, 0, 0.09]), np.array([x * w + 0.03, 0, 0.09]), 0.09, dark, 12)
    b.box((0, 0, 0.3 + (h - 0.3) / 2), (w * 0.35, d * 0.3, h - 0.3), shell)
    elbow = np.array([rng.uniform(-0.3, 0.3) * w, -0.35 * d, h * 0.7])
    b.bar(np.array([0, 0, h * 0.85]), elbow, 0.05, dark, 8)
    b.bar(elbow, elbow + np.array([0, -0.1 * d, -0.3 * h]), 0.04, shell, 8)
    b.blob((0, -0.05, h - 0.06), (0.22, 0.16, 0.14), dark, segments=10)


def cart(b: MeshBuilder, m: MaterialMaker, rng: np.random.Generator, size: Size) -> None:
    """A trolley with two or three shelves, loaded."""
    w, d, h = size
    bar, plate = m.draw(("plain",), value=(0.02, 0.6)), m.draw(("plain", "gratings", *WOOD))
    for x in (-1, 1):
        for y in (-1, 1):
            foot = np.array([x * (w / 2 - 0.03), y * (d / 2 - 0.03), 0.0])
            b.bar(foot, foot + np.array([0, 0, h]), 0.018, bar)
    for z in np.linspace(0.15, h - 0.1, int(rng.integers(2, 4))):
        b.box((0, 0, z), (w, d, 0.03), plate)
        things(b, m, rng, (w, d), z + 0.015, int(rng.integers(0, 4)))


def screen_wall(b: MeshBuilder, m: MaterialMaker, rng: np.random.Generator, size: Size) -> None:
    """A partition, pin board or roll-up banner; people are pictured on some."""
    w, d, h = size
    frame = m.draw(("plain",))
    b.box((0, 0.02, h / 2 + 0.03), (w, 0.03, h - 0.06), m.draw(("weave", "plain", "noise")))
    show = m.portrait("tall") if rng.random() < 0.4 else m.draw(("text", "poster"), (1.0, 1.0))
    b.picture(upright(-0.48 * w, 0.48 * w, 0.1 * h, 0.96 * h, 0.0), show)
    for x in (-1, 1):
        b.box((x * (w / 2 - 0.03), 0, 0.02), (0.05, d, 0.04), frame)


def partition(b: MeshBuilder, m: MaterialMaker, rng: np.random.Generator, size: Size) -> None:
    """A piece of wall."""
    kinds = ("plain", "plain", "noise", "bricks", "tiles", "planks", "stripes")
    b.box((0, 0, size[2] / 2), size, m.draw(kinds, (0.5, 3.0), 0.5, (0.1, 0.85)))


def clutter(b: MeshBuilder, m: MaterialMaker, rng: np.random.Generator, size: Size) -> None:
    """Small things on the floor."""
    floor_clutter(b, m, rng, size)


_RANGES: dict[Builder, tuple[tuple[float, float], ...]] = {
    table: ((0.6, 2.0), (0.5, 1.0), (0.45, 1.05)),
    chair: ((0.4, 0.5), (0.4, 0.5), (0.8, 1.1)),
    shelf: ((0.6, 1.8), (0.25, 0.45), (0.8, 2.2)),
    sofa: ((0.8, 2.2), (0.75, 0.95), (0.7, 1.0)),
    cabinet: ((0.4, 1.8), (0.35, 0.7), (0.5, 2.1)),
    column: ((0.2, 0.6), (0.2, 0.6), (0.8, 2.3)),
    crates: ((0.3, 0.9), (0.3, 0.9), (0.3, 1.8)),
    plant: ((0.4, 0.9), (0.4, 0.9), (0.5, 1.9)),
    bin_or_cone: ((0.2, 0.5), (0.2, 0.5), (0.25, 1.0)),
    lamp: ((0.3, 0.5), (0.3, 0.5), (1.2, 1.9)),
    heap: ((0.3, 0.8), (0.3, 0.8), (0.25, 0.7)),
    frame: ((0.5, 2.0), (0.3, 0.9), (0.7, 2.2)),
    desk_set: ((1.0, 2.4), (1.3, 1.7), (0.68, 0.78)),
    bench: ((0.9, 2.0), (0.3, 0.45), (0.4, 0.5)),
    bed: ((1.9, 2.1), (0.9, 1.8), (0.4, 0.6)),
    platform: ((0.8, 3.0), (0.8, 2.0), (0.03, 0.4)),
    tripod: ((0.5, 0.9), (0.5, 0.9), (1.0, 2.0)),
    robot: ((0.4, 0.7), (0.6, 0.8), (0.5, 1.6)),
    cart: ((0.5, 1.0), (0.4, 0.6), (0.7, 1.1)),
    screen_wall: ((0.7, 1.6), (0.35, 0.5), (1.4, 2.1)),
    clutter: ((0.4, 0.9), (0.4, 0.9), (0.25, 0.5)),
    partition: ((0.8, 2.2), (0.1, 0.16), (1.8, 3.0)),
    **HUMANLIKE,
}
TO_THE_CEILING: tuple[Builder, ...] = (column, partition)
_FEW = (column, frame, plant, bin_or_cone, lamp, heap, tripod, robot, bed, platform, screen_wall)
_MANY = (table, chair, shelf, sofa, cabinet, crates, desk_set, bench, cart, clutter)
INDOOR: tuple[Builder, ...] = (*_FEW, *_MANY, *_MANY, chair, table, partition)
HALL: tuple[Builder, ...] = (*INDOOR, crates, crates, frame, cart, platform, robot, column, column)
CORRIDOR: tuple[Builder, ...] = (bench, plant, bin_or_cone, cabinet, chair, cart, clutter, shelf)
OUTDOOR: tuple[Builder, ...] = (
    *(crates, plant, plant, bin_or_cone, heap, frame, table, bench, bench, cart, clutter),
    *(robot, platform, tripod, column),
)


def footprint_of(kind: Builder, rng: np.random.Generator) -> Size:
    """A random (width, depth, height) for ``kind``, metres."""
    w, d, h = (float(rng.uniform(*limits)) for limits in _RANGES[kind])
    return w, d, h
