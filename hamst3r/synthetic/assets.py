"""Models that others made, as furniture: any folder of meshes that trimesh reads.

Tried with aws-robotics/aws-robomaker-small-house-world (MIT-0). Nothing of it is part of this
repository; the user names a checkout. Files are read within that folder only.
"""

from __future__ import annotations

import io
import logging
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from hamst3r.synthetic.materials import MaterialMaker
from hamst3r.synthetic.meshes import MeshBuilder
from hamst3r.synthetic.portraits import SIDE, picture_planes
from hamst3r.synthetic.textures import TextureBank

LOG = logging.getLogger("hamst3r.synthetic")
F64 = NDArray[np.float64]
SUFFIXES = (".dae", ".obj", ".glb", ".gltf", ".ply", ".stl", ".off")
_Y_UP = (".obj", ".glb", ".gltf")
MOST_FACES = 12_000
LONGEST, SMALLEST = 2.7, 0.25  # metres; smaller and larger things are no furniture


@dataclass(frozen=True, eq=False)
class Piece:
    """A part of a model with one texture or colour.

    Attributes:
        vertices, normals: (V, 3) metres, unit. uv: (V, 2) of the image, row down. faces: (F, 3).
        image: Index into the pack's textures, -1 = none. colour: (3,) linear, if none.
    """

    vertices: F64
    normals: F64
    uv: F64
    faces: NDArray[np.int64]
    image: int
    colour: F64


@dataclass(frozen=True, eq=False)
class Model:
    """One piece of furniture: it stands on z = 0 around the origin and fills ``size`` metres."""

    name: str
    pieces: tuple[Piece, ...]
    size: tuple[float, float, float]

    def build(
        self,
        b: MeshBuilder,
        m: MaterialMaker,
        rng: np.random.Generator,
        size: tuple[float, float, float],
    ) -> None:
        """Add it to a world, as builders of :mod:`hamst3r.synthetic.furniture` do."""
        tint = np.exp(rng.normal(0, 0.15, 3))
        for piece in self.pieces:
            if piece.image >= 0:
                row = m.pictured(piece.image, tint)
            else:
                row = m.plain(np.clip(piece.colour * tint, 0.01, 0.95))
            b.triangles(piece.vertices, piece.normals, piece.uv, piece.faces, row)


@dataclass(frozen=True, eq=False)
class AssetPack:
    """Models, and the pictures of people (:mod:`portraits`) together with the models' textures."""

    models: tuple[Model, ...]
    pictures: TextureBank


@lru_cache(maxsize=2)
def load_pack(folder: Path) -> AssetPack:
    """Read all models of a folder that are of furniture's size; seconds, once per process.

    Raises:
        ValueError: trimesh is missing, or the folder has no model that can be used.
        OSError: There is no such folder.
    """
    try:
        import trimesh
    except ImportError:
        raise ValueError("asset packs are read by trimesh: pip install 'hamst3r[assets]'") from None
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder}: no such folder of models")
    family, planes = picture_planes()
    textures: list[NDArray[np.float32]] = []
    models, refused = [], 0
    for path in _files(folder):
        try:
            scene = trimesh.load_scene(
                io.BytesIO(path.read_bytes()),
                file_type=path.suffix[1:].lower(),
                resolver=cast(Any, _Within(folder.resolve(), path.parent.resolve())),
            )
            model = _model(scene, path, textures, len(planes) // 3)
        except Exception as error:  # whatever is wrong with one file, others may do
            LOG.info("%s: not used: %s", path, error)
            model = None
        refused += model is None
        if model is not None:
            models.append(model)
    LOG.info("%s: %d models, %d files not used", folder, len(models), refused)
    if not models:
        raise ValueError(
            f"{folder}: none of {refused} files ({', '.join(SUFFIXES)}) is a model of "
            f"{SMALLEST} to {LONGEST} m that can be read; 'hamst3r -v' says why (.dae needs "
            "pycollada)"
        )
    bank = TextureBank(np.concatenate([planes, *textures]), family)
    return AssetPack(tuple(models), bank)


def _files(folder: Path) -> list[Path]:
    """Meshes in order of their names; only those to be looked at, where a folder has such."""
    found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES)
    visual = {path.parent for path in found if "visual" in path.name.lower()}
    return [
        path
        for path in found
        if "collision" not in path.name.lower()
        and (path.parent not in visual or "visual" in path.name.lower())
    ]


class _Within:
    """Gives trimesh the files that a model refers to, if they are in the pack."""

    def __init__(self, root: Path, base: Path) -> None:
        self._root, self._base = root, base

    def get(self, name: str) -> bytes:
        """Contents of a file named by a model."""
        path = (self._base / str(name).replace("\\", "/")).resolve()
        if not path.is_relative_to(self._root):
            raise ValueError(f"{name} is outside the pack")
        return path.read_bytes()

    def __getitem__(self, name: str) -> bytes:
        return self.get(name)

    def namespaced(self, namespace: str) -> _Within:
        """The same in a folder below."""
        return _Within(self._root, self._base / namespace)


def _model(scene: Any, path: Path, textures: list[NDArray[np.float32]], first: int) -> Model | None:
    """The model in a trimesh scene; appends its images to ``textures``. None: of no use."""
    scale = _metres(scene)
    upright = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])
    turn = upright if path.suffix.lower() in _Y_UP else np.eye(3)
    parts = []
    for node in scene.graph.nodes_geometry:
        transform, name = scene.graph[node]
        mesh = scene.geometry[name]
        if not hasattr(mesh, "faces") or len(mesh.faces) == 0:
            continue
        mesh = mesh.copy()
        mesh.apply_transform(transform)
        parts.append(mesh)
    if not parts or sum(len(mesh.faces) for mesh in parts) > MOST_FACES:
        return None
    corners = np.concatenate([mesh.vertices for mesh in parts]) @ turn.T * scale
    low, high = corners.min(0), corners.max(0)
    size = high - low
    if size.max() > LONGEST or np.sort(size)[1] < SMALLEST or size.min() < 0.02:
        return None
    middle = np.array([*(low + high)[:2] / 2, low[2]])
    pieces = []
    for mesh in parts:
        image, colour = _look(mesh, textures, first)
        uv = getattr(mesh.visual, "uv", None)
        vertices = np.asarray(mesh.vertices, float) @ turn.T * scale - middle
        flipped = np.zeros((len(vertices), 2)) if uv is None else np.asarray(uv, float) * [1, -1]
        normals = np.asarray(mesh.vertex_normals, float) @ turn.T
        faces = np.asarray(mesh.faces, np.int64)
        pieces.append(
            Piece(vertices, normals, flipped, faces, image if uv is not None else -1, colour)
        )
    w, d, h = (float(v) for v in size)
    return Model(path.stem, tuple(pieces), (w, d, h))


def _metres(scene: Any) -> float:
    """Metres per unit; files that do not say are in metres."""
    if not scene.units:
        return 1.0
    from trimesh.units import unit_conversion

    return float(unit_conversion(scene.units, "meters"))


def _look(mesh: Any, textures: list[NDArray[np.float32]], first: int) -> tuple[int, F64]:
    """Index of the mesh's image, -1 if it has none, and its colour."""
    material = getattr(mesh.visual, "material", None)
    image = getattr(material, "image", None)
    if image is None:
        image = getattr(material, "baseColorTexture", None)
    if image is not None:
        pixels = np.asarray(image.convert("RGB"), np.float32)
        small = cv2.resize(pixels, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
        textures.append(((small / 255) ** 2.2).astype(np.float32).transpose(2, 0, 1))
        return first + len(textures) - 1, np.ones(3)
    rgba = getattr(material, "main_color", None)
    if rgba is None:
        return -1, np.full(3, 0.3)
    return -1, (np.asarray(rgba, np.float64)[:3] / 255) ** 2.2
