"""Things that look like people and are not: statues, dummies, coats on stands, skeletons, cut-outs.

They teach the network that a person is more than an outline; their pixels are background.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from hamst3r.people.body import anny24
from hamst3r.synthetic.materials import MaterialMaker
from hamst3r.synthetic.meshes import MeshBuilder, upright
from hamst3r.synthetic.poses import sample_pose
from hamst3r.synthetic.skeleton import forward

F64 = NDArray[np.float64]
Size = tuple[float, float, float]
_CELL = 0.025  # metres of the grid on which the body is made coarse


@lru_cache(maxsize=1)
def coarse_body() -> tuple[F64, NDArray[np.int64], F64, F64]:
    """The template with fewer vertices: places (V, 3), faces (F, 3), weights, shapedirs."""
    model = anny24()
    template = model.v_template.numpy().astype(float)
    cell = np.floor(template / _CELL).astype(np.int64)
    _, group = np.unique(cell, axis=0, return_inverse=True)
    group = group.ravel()
    count = np.bincount(group).astype(float)

    def mean(values: NDArray) -> F64:
        flat = values.reshape(len(values), -1).astype(float)
        sums = np.stack([np.bincount(group, column) for column in flat.T], 1)
        return (sums / count[:, None]).reshape(len(count), *values.shape[1:])

    faces = group[model.faces.numpy()]
    a, b, c = faces.T
    faces = faces[(a != b) & (b != c) & (c != a)]
    return mean(template), faces, mean(model.weights.numpy()), mean(model.shapedirs.numpy())


def posed_body(
    rng: np.random.Generator, kind: str | None = None
) -> tuple[F64, NDArray[np.int64], F64]:
    """Vertices (V, 3) with the lowest at z = 0, faces, and template places (V, 3) of a figure."""
    template, faces, weights, directions = coarse_body()
    betas = np.clip(rng.normal(size=10), -2, 2)
    rotations, _ = sample_pose(rng, kind or str(rng.choice(["stand", "walk", "reach", "any"])))
    rest = anny24().joint_template.numpy().astype(float)
    rest = rest + anny24().joint_shapedirs.numpy().astype(float) @ betas
    turn, place = forward(rest, rotations)
    offset = place - np.einsum("jab,jb->ja", turn, rest)
    shaped = template + directions @ betas
    blend = weights @ np.concatenate([turn.reshape(24, 9), offset], 1)
    vertices = np.einsum("vab,vb->va", blend[:, :9].reshape(-1, 3, 3), shaped) + blend[:, 9:]
    vertices -= [*vertices[:, :2].mean(0), vertices[:, 2].min()]
    return vertices, faces, template


def _add_figure(
    b: MeshBuilder,
    vertices: F64,
    faces: NDArray[np.int64],
    material: int | NDArray[np.int64],
    facets: bool = False,
) -> None:
    used = np.unique(faces)
    if facets:  # each triangle by itself, as low-poly figures are
        vertices, faces = vertices[faces.ravel()], np.arange(faces.size).reshape(-1, 3)
    else:
        index = np.zeros(len(vertices), np.int64)
        index[used] = np.arange(len(used))
        vertices, faces = vertices[used], index[faces]
    a, c, d = (vertices[faces[:, k]] for k in range(3))
    flat = np.cross(c - a, d - a)
    normals = np.stack(
        [np.bincount(faces.ravel(), np.repeat(n, 3), len(vertices)) for n in flat.T], 1
    )
    normals = normals / (np.linalg.norm(normals, axis=1, keepdims=True) + 1e-12)
    uv = np.stack([vertices[:, 0] + 0.6 * vertices[:, 1], vertices[:, 2]], 1)
    b.triangles(vertices, normals, uv, faces, material)


def _stone(m: MaterialMaker, rng: np.random.Generator) -> int:
    """One material all over, nothing like skin and clothes."""
    if rng.random() < 0.6:
        grey = rng.choice([0.02, 0.08, 0.25, 0.5, 0.7])
        tint = np.array([[1, 1, 1], [1, 0.92, 0.8], [0.85, 0.55, 0.25], [0.6, 0.8, 0.7]])
        return m.plain(grey * tint[rng.integers(4)], gloss=float(rng.choice([0.0, 0.3])))
    return m.draw(("noise", "streaks", "planks", "weave", "blotches"), contrast=0.5)


def statue(b: MeshBuilder, m: MaterialMaker, rng: np.random.Generator, size: Size) -> None:
    """A body of one flat material: shop-window dummy, statue, headless dummy or bust."""
    w, _, h = size
    vertices, faces, template = posed_body(rng)
    row, part = _stone(m, rng), rng.random()
    plinth = rng.uniform(0.03, 0.5) * min(1.0, h / 1.8)
    lowest = 0.0
    if part < 0.25:  # headless
        faces = faces[(template[faces, 1] < 0.5).all(1)]
    elif part < 0.45:  # a bust
        faces = faces[((template[faces, 1] > 0.15) & (abs(template[faces, 0]) < 0.24)).all(1)]
        plinth = 0.55 * h
        lowest = float(vertices[np.unique(faces), 2].min())
    used = vertices[np.unique(faces)]
    span = np.ptp(used, axis=0)
    scale = min((h - plinth) / span[2], w / span[0], w / span[1])
    vertices = (vertices - [*(used.min(0) + span / 2)[:2], lowest]) * scale + [0, 0, plinth]
    _add_figure(b, vertices, faces, row, rng.random() < 0.3)
    base = row if rng.random() < 0.5 else m.draw()
    if rng.random() < 0.5:
        b.box((0, 0, plinth / 2), (0.4 * w, 0.4 * w, plinth), base)
    else:
        b.cylinder((0, 0, 0), 0.25 * w, plinth, base)


def mannequin(b: MeshBuilder, m: MaterialMaker, rng: np.random.Generator, size: Size) -> None:
    """A dressmaker's dummy: a torso without limbs on a pole, sometimes with a head."""
    w, d, h = size
    cloth = m.draw(("plain", "noise", "weave", "streaks"), contrast=0.4)
    b.cylinder((0, 0, 0), w / 2.2, 0.06, cloth)
    b.cylinder((0, 0, 0), 0.03, h * 0.5, cloth, segments=8)
    b.blob((0, 0, h * 0.62), (w * 0.75, d * 0.5, h * 0.4), cloth, 0.1)
    if rng.random() < 0.6:
        b.blob((0, 0, h * 0.92), (w * 0.32, d * 0.36, h * 0.15), cloth)


def coat_stand(b: MeshBuilder, m: MaterialMaker, rng: np.random.Generator, size: Size) -> None:
    """A pole with a coat on it: a torso with sleeves, but nobody in it; a hat at times."""
    w, _, h = size
    pole = m.draw(("plain", "planks"), value=(0.01, 0.5))
    b.cylinder((0, 0, 0), 0.16, 0.03, pole)
    b.cylinder((0, 0, 0), 0.018, h, pole, segments=8)
    template, faces, _, _ = coarse_body()
    keep = (abs(template[:, 0]) < rng.uniform(0.5, 0.62)) & (template[:, 1] < 0.46)
    keep &= template[:, 1] > rng.uniform(-0.35, 0.0)
    coat = template.copy()
    arm = (abs(coat[:, 0]) > 0.17) & (coat[:, 1] > 0.28)
    side = np.sign(coat[:, 0])
    along = abs(coat[:, 0]) - 0.17
    drop = coat[:, 1] - 0.42
    coat[arm, 0] = (side * (0.17 + 0.12 * along - 0.9 * drop))[arm]  # empty sleeves hang
    coat[arm, 1] = (0.42 - along + 0.1 * drop)[arm]
    coat[:, [0, 2]] *= 1.12 * min(1.0, w / 0.5)
    upright = np.stack([coat[:, 0], -coat[:, 2], coat[:, 1] - 0.46 + 0.92 * h], 1)
    rows = m.draw(("plain", "weave", "plaid", "noise", "stripes"), (0.1, 0.6), 0.6, (0.01, 0.6))
    _add_figure(b, upright, faces[keep[faces].all(1)], rows)
    if rng.random() < 0.4:
        b.blob((0, 0, h), (0.22, 0.26, 0.16), m.draw(("plain", "weave")), segments=12)


def skeleton(b: MeshBuilder, m: MaterialMaker, rng: np.random.Generator, size: Size) -> None:
    """The bones of an anatomy class on a rolling stand, at times under a cloth."""
    w, _, h = size
    bone = m.plain(np.array([0.75, 0.68, 0.52]) * rng.uniform(0.6, 1.1))
    red = m.plain(np.array([0.5, 0.06, 0.05])) if rng.random() < 0.5 else bone
    rest = anny24().joint_template.numpy().astype(float)
    s = h / 1.75

    def at(joint: int) -> F64:
        x, y, z = rest[joint]
        return np.array([x, -z, y + 0.92]) * s

    pairs = [(1, 4), (4, 7), (7, 10), (2, 5), (5, 8), (8, 11), (0, 12), (16, 17), (1, 2)]
    for k, (i, j) in enumerate(pairs):
        b.bar(at(i), at(j), 0.02 * s, red if k % 3 == 1 else bone, 6)
    for x, shoulder in ((1, 16), (-1, 17)):
        elbow = at(shoulder) + np.array([0.03 * x, 0.02, -0.27]) * s
        b.bar(at(shoulder), elbow, 0.017 * s, bone, 6)
        b.bar(elbow, elbow + np.array([0.02 * x, -0.05, -0.3]) * s, 0.015 * s, red, 6)
    for k in range(7):
        z = (0.18 + 0.04 * k + 0.92) * s
        b.blob((0, 0, z), (0.26 * s * (1 - 0.05 * abs(k - 3)), 0.18 * s, 0.016 * s), bone)
    b.blob((0, 0, 0.93 * s), (0.24 * s, 0.14 * s, 0.14 * s), bone, 0.3)
    b.blob((0, -0.03 * s, 1.56 * s), (0.15 * s, 0.2 * s, 0.22 * s), bone)
    for eye in (-0.03, 0.03):
        b.blob((eye * s, -0.115 * s, 1.57 * s), (0.035, 0.03, 0.035), m.plain(np.full(3, 0.02)))
    steel = m.plain(np.full(3, 0.4), gloss=0.4)
    b.bar(np.array([0, 0.09 * s, 0.05]), np.array([0, 0.09 * s, 1.6 * s]), 0.012, steel)
    b.cylinder((0, 0.05, 0), 0.45 * w, 0.05, steel)
    if rng.random() < 0.4:
        cloth = m.draw(("plain", "weave"), contrast=0.3, value=(0.3, 0.9))
        b.blob((0, 0, 1.42 * s), (0.5 * s, 0.36 * s, 0.62 * s), cloth, 0.25)


def standee(b: MeshBuilder, m: MaterialMaker, rng: np.random.Generator, size: Size) -> None:
    """A board with a picture of people on it, standing on the floor."""
    w, _, h = size
    face, edge = m.portrait("tall"), m.draw(("plain",))
    b.box((0, 0.012, h / 2), (w, 0.02, h), edge)
    b.picture(upright(-w / 2, w / 2, 0.03, h - 0.03, 0.0), face)
    b.box((0, 0.15, 0.02), (w * 0.6, 0.3, 0.04), edge)


HUMANLIKE = {
    statue: ((0.5, 0.8), (0.5, 0.8), (0.9, 2.1)),
    mannequin: ((0.3, 0.45), (0.3, 0.45), (1.2, 1.8)),
    coat_stand: ((0.4, 0.6), (0.4, 0.5), (1.4, 1.9)),
    skeleton: ((0.45, 0.6), (0.45, 0.6), (1.4, 1.85)),
    standee: ((0.5, 0.9), (0.34, 0.36), (1.0, 1.9)),
}
