"""Small things: on tables and shelves, on floors, hanging about."""

from __future__ import annotations

import numpy as np

from hamst3r.synthetic.materials import MaterialMaker
from hamst3r.synthetic.meshes import MeshBuilder, upright
from hamst3r.synthetic.solids import Solid, Space

DARK = (0.01, 0.12)


def things(
    b: MeshBuilder,
    m: MaterialMaker,
    rng: np.random.Generator,
    area: tuple[float, float],
    z: float,
    n: int,
) -> None:
    """``n`` cups, boxes, screens, books, bottles, tools on a plate (width, depth) at height z."""
    kinds = (_box, _cup, _screen, _ball, _book, _bottle, _keyboard, _laptop, _cloth, _tool, _doll)
    for _ in range(n):
        x, y = rng.uniform(-1, 1, 2) * np.maximum(np.array(area) / 2 - 0.17, 0)
        with b.within((x, y, z), rng.normal(0, 0.5) + rng.choice([0, np.pi], p=[0.85, 0.15])):
            kinds[rng.integers(len(kinds))](b, m, rng)


def floor_clutter(
    b: MeshBuilder, m: MaterialMaker, rng: np.random.Generator, size: tuple[float, float, float]
) -> None:
    """A few things lying on the floor within (width, depth, height)."""
    kinds = (_box, _ball, _book, _bottle, _cloth, _tool, _doll, _shoes, _toys, _bag)
    for _ in range(int(rng.integers(1, 5))):
        x, y = rng.uniform(-0.3, 0.3, 2) * size[:2]
        with b.within((x, y, 0.0), rng.uniform(0, 6.3)):
            kinds[rng.integers(len(kinds))](b, m, rng)


def cable(
    b: MeshBuilder, m: MaterialMaker, rng: np.random.Generator, space: Space, steps: int
) -> None:
    """A cable or hose that meanders over the floor and ends where somebody stands."""
    radius = float(rng.choice([0.006, 0.01, 0.02]))
    vivid = rng.random() < 0.5
    row = m.draw(("plain",), value=(0.1, 0.6) if vivid else DARK)
    at = np.array([*rng.uniform(-0.6, 0.6, 2) * space.half, radius])
    angle = rng.uniform(0, 6.3)
    for _ in range(steps):
        angle += rng.normal(0, 0.5)
        after = at + 0.22 * np.array([np.cos(angle), np.sin(angle), 0.0])
        x, y, _ = (at + after) / 2
        if not space.clear_of_people(Solid((x, y, 0.03), (0.22, 0.06, 0.06), angle)):
            return
        b.bar(at, after, radius, row, 5)
        at = after


def _box(b: MeshBuilder, m: MaterialMaker, rng: np.random.Generator) -> None:
    w, d, h = (float(v) for v in rng.uniform(0.05, 0.3, 3))
    b.box((0, 0, h / 2), (w, d, h), m.draw())


def _cup(b: MeshBuilder, m: MaterialMaker, rng: np.random.Generator) -> None:
    r = rng.uniform(0.03, 0.08)
    b.cylinder((0, 0, 0), r, rng.uniform(0.06, 0.3), m.draw(), r * rng.uniform(0.4, 1.2), 12)


def _screen(b: MeshBuilder, m: MaterialMaker, rng: np.random.Generator) -> None:
    w, h = rng.uniform(0.3, 0.6), rng.uniform(0.2, 0.4)
    dark = m.plain(np.full(3, rng.choice([0.01, 0.03, 0.5])))
    b.box((0, 0, h / 2 + 0.1), (w, 0.03, h), dark)
    show = rng.random()
    if show < 0.2:
        face = m.portrait("wide", 0.4)
    elif show < 0.8:
        face = m.draw(("text", "poster", "outside"), (1.0, 1.0))
    else:
        face = m.plain(np.full(3, 0.01), gloss=0.4)
    b.picture(upright(-0.47 * w, 0.47 * w, 0.05 * h + 0.1, 0.95 * h + 0.1, -0.02), face)
    b.box((0, 0.02, 0.06), (0.05, 0.03, 0.12), dark)
    b.box((0, 0, 0.006), (0.22, 0.16, 0.012), dark)


def _ball(b: MeshBuilder, m: MaterialMaker, rng: np.random.Generator) -> None:
    r = rng.uniform(0.04, 0.13)
    b.blob((0, 0, r), (2 * r, 2 * r, 2 * r), m.draw(), segments=12)


def _book(b: MeshBuilder, m: MaterialMaker, rng: np.random.Generator) -> None:
    for k in range(int(rng.integers(1, 4))):
        w, d = rng.uniform(0.12, 0.3, 2)
        b.box((rng.normal(0, 0.01), 0, 0.02 + 0.035 * k), (w, d, 0.033), m.draw(contrast=0.6))


def _bottle(b: MeshBuilder, m: MaterialMaker, rng: np.random.Generator) -> None:
    row, r, h = m.draw(contrast=0.5), rng.uniform(0.025, 0.05), rng.uniform(0.12, 0.26)
    b.cylinder((0, 0, 0), r, h, row, r, 10)
    b.cylinder((0, 0, h), r, 0.04, row, r * 0.4, 10)
    b.cylinder((0, 0, h + 0.04), r * 0.4, 0.05, m.draw(("plain",)), segments=8)


def _keyboard(b: MeshBuilder, m: MaterialMaker, rng: np.random.Generator) -> None:
    b.box((0, 0, 0.012), (0.44, 0.15, 0.024), m.draw(("tiles", "checker"), (0.15, 0.3), value=DARK))
    b.blob((0.3, 0, 0.015), (0.06, 0.1, 0.035), m.draw(("plain",), value=DARK), segments=8)


def _laptop(b: MeshBuilder, m: MaterialMaker, rng: np.random.Generator) -> None:
    shell = m.plain(np.full(3, rng.choice([0.02, 0.3, 0.5])))
    b.box((0, 0, 0.01), (0.34, 0.24, 0.02), shell)
    tilt = np.array([0.0, rng.uniform(0.03, 0.12), 0.22])
    low = np.array([[-0.17, 0.12, 0.02], [0.17, 0.12, 0.02]])
    front = np.concatenate([low, low[::-1] + tilt])
    face = m.draw(("text", "poster", "plain", "outside"), (1.0, 1.0), glow=0.4 * rng.random())
    b.picture(front, face)
    b.quad((front + np.array([0, 0.012, 0]))[::-1], shell)


def _cloth(b: MeshBuilder, m: MaterialMaker, rng: np.random.Generator) -> None:
    row = m.draw(("weave", "plaid", "stripes", "plain", "noise"), (0.1, 0.5))
    w, d = rng.uniform(0.2, 0.6, 2)
    b.blob((0, 0, 0.02), (w, d, rng.uniform(0.06, 0.2)), row, 0.4, 14)


def _tool(b: MeshBuilder, m: MaterialMaker, rng: np.random.Generator) -> None:
    length, row = rng.uniform(0.1, 0.4), m.draw(("plain", "stripes"))
    b.bar(np.array([0, 0, 0.015]), np.array([length, 0, 0.015]), 0.012, row, 6)
    b.box((length, 0, 0.02), (0.05, rng.uniform(0.03, 0.14), 0.04), m.draw(("plain",), value=DARK))


def _shoes(b: MeshBuilder, m: MaterialMaker, rng: np.random.Generator) -> None:
    row = m.draw(("plain", "weave"))
    for x in (-0.06, 0.06):
        b.blob((x, 0, 0.04), (0.09, 0.26, 0.1), row, 0.05, 10)


def _toys(b: MeshBuilder, m: MaterialMaker, rng: np.random.Generator) -> None:
    for _ in range(int(rng.integers(2, 8))):
        x, y = rng.normal(0, 0.12, 2)
        s = rng.uniform(0.03, 0.1)
        b.box((x, y, s / 2), (s, s * rng.uniform(0.6, 2), s), m.draw(("plain", "text")))


def _bag(b: MeshBuilder, m: MaterialMaker, rng: np.random.Generator) -> None:
    w, d, h = rng.uniform(0.25, 0.5), rng.uniform(0.15, 0.3), rng.uniform(0.25, 0.5)
    row = m.draw(("plain", "weave", "noise", "plaid"), (0.1, 0.5))
    b.blob((0, 0, h * 0.45), (w, d, h * 0.95), row, 0.15, 12)
    for x in (-0.2, 0.2):
        b.bar(np.array([x * w, 0, h * 0.8]), np.array([x * 0.4 * w, 0, h + 0.1]), 0.012, row, 5)


def _doll(b: MeshBuilder, m: MaterialMaker, rng: np.random.Generator) -> None:
    """A teddy or rag doll: a head, a body, four limbs, smaller than anybody."""
    s = rng.uniform(0.12, 0.4)
    fur, cloth = m.draw(("noise", "plain", "weave")), m.draw(("plain", "stripes", "dots"))
    b.blob((0, 0, 0.3 * s), (0.4 * s, 0.32 * s, 0.55 * s), cloth, segments=10)
    b.blob((0, 0, 0.72 * s), (0.36 * s, 0.34 * s, 0.36 * s), fur, segments=10)
    for x in (-1, 1):
        shoulder, hip = np.array([x * 0.17, 0, 0.45]) * s, np.array([x * 0.12, 0, 0.1]) * s
        b.bar(shoulder, shoulder + np.array([x * 0.2, -0.12, -0.15]) * s, 0.07 * s, cloth, 6)
        b.bar(hip, hip + np.array([x * 0.06, -0.4, 0.0]) * s, 0.08 * s, fur, 6)
