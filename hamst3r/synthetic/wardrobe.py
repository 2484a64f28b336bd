"""Clothes, shoes, hats and hair that others made: a checkout of MakeHuman's CC0 assets.

A garment of MakeHuman (``.mhclo`` beside an ``.obj``) says where its vertices lie by vertices of
MakeHuman's base mesh, hm08, of which the embedded body is a part. It is laid out on hm08 first,
then brought to the embedded template as its nearest skin goes there, and moves with that skin.
Nothing of it is part of this repository; materials are drawn as for our own clothes.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from importlib.resources import files
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from hamst3r.geometry import F64, umeyama
from hamst3r.people.body import NUM_JOINTS, anny24
from hamst3r.synthetic.clothing import HAIR, HAT, SHOES, SUIT, Garment, Outfit

LOG = logging.getLogger("hamst3r.synthetic")
Index = NDArray[np.int64]
BASE = "hm08"
MOST_FACES = 40_000
NEIGHBOURS = 6  # vertices of the skin that carry a vertex of a garment
FARTHEST = 0.5  # metres between a garment and the skin, beyond which a file is not of this body
SECTIONS = ("verts", "delete_verts", "weights")
AXES = ("x_scale", "y_scale", "z_scale")


@dataclass(frozen=True, eq=False)
class Wardrobe:
    """Garments by kind; any list may be empty."""

    suits: tuple[Garment, ...]
    shoes: tuple[Garment, ...]
    hats: tuple[Garment, ...]
    hair: tuple[Garment, ...]

    def dress(self, outfit: Outfit, rng: np.random.Generator) -> Outfit:
        """The outfit with some of its pieces replaced by garments."""
        worn: list[Garment] = []
        plain = outfit.skirt is None and not outfit.bare
        if self.suits and plain and rng.random() < 0.6:
            worn.append(_one(self.suits, rng))
        if self.shoes and outfit.shoe > -0.85 and rng.random() < 0.6:
            worn.append(_one(self.shoes, rng))
        if self.hats and outfit.hat and rng.random() < 0.6:
            worn.append(_one(self.hats, rng))
            outfit = replace(outfit, hat=False)
        elif self.hair and outfit.hair and not outfit.hat and rng.random() < 0.6:
            worn.append(_one(self.hair, rng))
            outfit = replace(outfit, hair=1)
        return replace(outfit, worn=tuple(worn))


def _one(garments: tuple[Garment, ...], rng: np.random.Generator) -> Garment:
    return garments[int(rng.integers(len(garments)))]


@lru_cache(maxsize=2)
def load_wardrobe(folder: Path) -> Wardrobe:
    """Read all garments below a folder; a second or two, once per process.

    Raises:
        ValueError: None of the folder's files is a garment that can be used.
        OSError: There is no such folder.
    """
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder}: no such folder of clothes")
    found: dict[int, list[Garment]] = {SUIT: [], SHOES: [], HAT: [], HAIR: []}
    refused = 0
    for path in sorted(folder.rglob("*.mhclo")):
        try:
            garment = read_garment(path, folder)
        except (ValueError, OSError, IndexError) as error:  # others may do
            LOG.info("%s: not used: %s", path, error)
            refused += 1
        else:
            if garment is not None:
                found[garment.part].append(garment)
    if not any(found.values()):
        raise ValueError(
            f"{folder}: no clothes (.mhclo with an .obj) for MakeHuman's mesh {BASE}, "
            f"{refused} files not used; 'hamst3r -v' says why. A checkout of "
            "makehumancommunity/makehuman-assets has some"
        )
    return Wardrobe(*(tuple(found[kind]) for kind in (SUIT, SHOES, HAT, HAIR)))


def read_garment(path: Path, root: Path) -> Garment | None:
    """The garment that a ``.mhclo`` file describes; None for eyebrows, teeth and the like.

    Raises:
        ValueError: It is not for our mesh, or names what is not there.
        OSError: Its ``.obj`` cannot be read.
    """
    lines = path.read_text("utf-8", errors="replace").splitlines()
    settings: dict[str, list[str]] = {}
    tags: set[str] = {parent.name for parent in path.relative_to(root).parents}
    for words in (line.split() for line in lines):
        if len(words) > 1 and not words[0].startswith("#"):
            settings.setdefault(words[0], words[1:])
            if words[0] == "tag":
                tags.add(" ".join(words[1:]))
    part = _kind(tags)
    if part is None:
        return None
    if settings.get("basemesh", [BASE]) != [BASE]:
        raise ValueError(f"made for the mesh {settings['basemesh'][0]}, not for {BASE}")
    if "obj_file" not in settings:
        raise ValueError("names no obj_file")
    source = (path.parent / " ".join(settings["obj_file"])).resolve()
    if not source.is_relative_to(root.resolve()):
        raise ValueError(f"{source.name} is outside of the folder")
    places = _places(_section(lines, "verts"), settings)
    faces = _faces(source)
    if not 0 < len(faces) <= MOST_FACES or faces.max() >= len(places):
        raise ValueError(f"{len(faces)} triangles of {len(places)} vertices")
    template, weights = _to_template(places)
    hidden = _hidden(_section(lines, "delete_verts"))
    return Garment(path.stem, part, template, faces, weights, hidden)


def _kind(tags: set[str]) -> int | None:
    for word, kind in (("Shoes", SHOES), ("Hats", HAT), ("hair", HAIR), ("clothes", SUIT)):
        if word in tags:
            return kind
    return None


def _section(lines: list[str], name: str) -> list[list[str]]:
    """Rows of numbers after the line that starts with ``name``, up to the next such section."""
    rows: list[list[str]] = []
    inside = False
    for words in (line.split() for line in lines):
        if words and words[0] in SECTIONS:
            inside = words[0] == name
        elif inside and words and words[0].lstrip("-").replace(".", "", 1).isdigit():
            rows.append(words)
    return rows


def _places(rows: list[list[str]], settings: dict[str, list[str]]) -> F64:
    """(V, 3) metres, the garment on hm08: on one vertex, or between three with an offset."""
    base, _ = _base_mesh()
    corner = np.array(
        [[int(w) for w in (row[:3] if len(row) == 9 else row[:1] * 3)] for row in rows]
    )
    if corner.size == 0 or corner.min() < 0 or corner.max() >= len(base):
        raise ValueError(f"vertices beyond those of {BASE}")
    full = [[*map(float, row[3:9])] if len(row) == 9 else [1.0, 0, 0, 0, 0, 0] for row in rows]
    share, offset = np.split(np.array(full), 2, axis=1)
    scale = np.ones(3)
    for axis, key in enumerate(AXES):
        if key in settings:
            first, last, length = settings[key][:3]
            apart = abs(base[int(first), axis] - base[int(last), axis])
            scale[axis] = apart / max(float(length), 1e-6)
    places = np.einsum("vk,vkc->vc", share, base[corner]) + offset * scale
    if not np.isfinite(places).all():
        raise ValueError("vertices that are not finite")
    return np.asarray(places)


def _hidden(rows: list[list[str]]) -> Index:
    """Vertices of our body that the garment hides, from numbers and ranges "a - b" of hm08."""
    base, index = _base_mesh()
    gone = np.zeros(len(base), bool)
    words = [word for row in rows for word in row]
    for k, word in enumerate(words):
        if word == "-" and 0 < k < len(words) - 1:
            gone[int(words[k - 1]) : int(words[k + 1]) + 1] = True
        elif word.isdigit() and int(word) < len(gone):
            gone[int(word)] = True
    return np.flatnonzero(gone[index])


def _faces(path: Path) -> Index:
    """(F, 3) triangles of an ``.obj``, as its vertices are numbered there."""
    # trimesh would renumber the vertices, whose order binds them to the body.
    triangles = []
    for line in path.read_text("utf-8", errors="replace").splitlines():
        if line.startswith("f "):
            first, *others = (int(word.split("/")[0]) - 1 for word in line.split()[1:])
            triangles += [(first, a, b) for a, b in pairwise(others)]
    if any(k < 0 for triangle in triangles for k in triangle):
        raise ValueError("faces that count vertices backwards")
    return np.array(triangles, np.int64).reshape(-1, 3)


def _to_template(places: F64) -> tuple[F64, F64]:
    """From hm08 to the template's T-pose: places (V, 3) and weights (V, 24) of joints."""
    way = _way()
    distance, near = way.skin.query(places, NEIGHBOURS)
    if distance[:, 0].max() > FARTHEST:
        raise ValueError(f"lies up to {distance[:, 0].max():.1f} m from the body")
    share = 1 / (distance + 0.005) ** 2
    share /= share.sum(1, keepdims=True)
    carried = np.einsum("vk,vkj->vj", share, way.weights[near])
    moved = _moved(places, carried, way.joints)
    moved += np.einsum("vk,vkc->vc", share, way.missed[near])
    return moved, carried


@dataclass(frozen=True, eq=False)
class _Way:
    """How the body's skin goes from hm08 to the template.

    Attributes:
        skin: Its places on hm08. weights: (13348, 24) of the joints.
        joints: (24, 4, 4) similarities that take each joint's skin there.
        missed: (13348, 3) what these leave of the way: what is worn goes it too.
    """

    skin: cKDTree
    weights: F64
    joints: F64
    missed: F64


@cache
def _way() -> _Way:
    base, index = _base_mesh()
    skin, body = base[index], anny24()
    target, weights = body.v_template.double().numpy(), body.weights.double().numpy()
    weights = weights / weights.sum(1, keepdims=True)
    found = (umeyama(skin, target, weights[:, joint] ** 2) for joint in range(NUM_JOINTS))
    joints = np.stack([np.eye(4) if T is None else T for T in found])
    return _Way(cKDTree(skin), weights, joints, target - _moved(skin, weights, joints))


def _moved(points: F64, weights: F64, joints: F64) -> F64:
    """Points (V, 3) moved by the joints' similarities, blended by weights (V, 24)."""
    each = np.einsum("jab,vb->vja", joints[:, :3, :3], points) + joints[:, :3, 3]
    return np.asarray(np.einsum("vj,vja->va", weights, each))


@cache
def _base_mesh() -> tuple[F64, Index]:
    """hm08's vertices (19158, 3) in metres, and which of them are the embedded body's (13348,)."""
    with (files("hamst3r") / "data" / "hm08.npz").open("rb") as file:
        data = np.load(file, allow_pickle=False)
        return data["vertices"].astype(np.float64), data["body"].astype(np.int64)
