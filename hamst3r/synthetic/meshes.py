"""Triangle meshes of static things, built from a few primitives with texture coordinates."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Mesh:
    """Triangles with everything shading needs.

    Attributes:
        vertices: (V, 3) world metres. normals: (V, 3) unit. uv: (V, 2) metres along the surface.
        faces: (F, 3) int32, counter-clockwise seen from outside.
        material: (F,) int32 row of the material table. surface: (F,) int32 smooth piece the face
            belongs to (one side of a box, a whole sphere): edges between pieces are anti-aliased.
    """

    vertices: F32
    normals: F32
    uv: F32
    faces: NDArray[np.int32]
    material: NDArray[np.int32]
    surface: NDArray[np.int32]


def yaw_matrix(yaw: float) -> NDArray[np.float64]:
    """(3, 3) rotation about z, radians."""
    c, s = np.cos(yaw), np.sin(yaw)
    return np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])


# Corners of the six sides of a unit box (-1..1), counter-clockwise from outside: u then v.
_SIDES = (
    ((1, -1, -1), (1, 1, -1), (1, 1, 1), (1, -1, 1)),
    ((-1, 1, -1), (-1, -1, -1), (-1, -1, 1), (-1, 1, 1)),
    ((1, 1, -1), (-1, 1, -1), (-1, 1, 1), (1, 1, 1)),
    ((-1, -1, -1), (1, -1, -1), (1, -1, 1), (-1, -1, 1)),
    ((-1, -1, 1), (1, -1, 1), (1, 1, 1), (-1, 1, 1)),
    ((-1, 1, -1), (1, 1, -1), (1, -1, -1), (-1, -1, -1)),
)
_CORNERS = np.array(_SIDES, float)
_NORMALS = np.cross(_CORNERS[:, 1] - _CORNERS[:, 0], _CORNERS[:, 3] - _CORNERS[:, 0]) / 4
_AXES = np.array(
    [[np.argmax(abs(c[1] - c[0])), np.argmax(abs(c[3] - c[0]))] for c in _CORNERS], np.int64
)
_UNIT = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
_QUAD = np.array([[0, 1, 2], [0, 2, 3]])


def upright(left: float, right: float, low: float, high: float, y: float) -> np.ndarray:
    """Corners (4, 3) of a rectangle in the plane y that faces -y, for :meth:`MeshBuilder.quad`."""
    return np.array([[left, y, low], [right, y, low], [right, y, high], [left, y, high]])


class MeshBuilder:
    """Collects primitives; :meth:`build` joins them. ``origin`` and ``yaw`` place what follows."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._parts: list[tuple[np.ndarray, ...]] = []
        self._count = 0
        self._surfaces = 0
        self.place((0.0, 0.0, 0.0), 0.0)

    def place(self, origin: tuple[float, float, float], yaw: float) -> None:
        """Set the frame of the primitives that follow: metres and radians about z."""
        self._origin = np.asarray(origin, float)
        self._turn = yaw_matrix(yaw)

    @contextmanager
    def within(self, origin: Sequence[float], yaw: float = 0.0) -> Iterator[None]:
        """Primitives in the block are placed relative to the frame so far."""
        before = self._origin, self._turn
        self._origin = self._origin + self._turn @ np.asarray(origin, float)
        self._turn = self._turn @ yaw_matrix(yaw)
        try:
            yield
        finally:
            self._origin, self._turn = before

    def _add(
        self,
        v: np.ndarray,
        n: np.ndarray,
        uv: np.ndarray,
        f: np.ndarray,
        material: int | np.ndarray,
        piece: np.ndarray | None = None,
    ) -> None:
        """``piece``: (F,) smooth piece of each face, counted from 0; default all one."""
        v = v @ self._turn.T + self._origin
        surface = np.zeros(len(f), int) if piece is None else piece
        surface = surface + self._surfaces + 1
        self._surfaces = int(surface.max(initial=self._surfaces))
        rows = np.broadcast_to(material, len(f))
        self._parts.append((v, n @ self._turn.T, uv, f + self._count, rows, surface))
        self._count += len(v)

    def quad(self, corners: np.ndarray, material: int) -> None:
        """A parallelogram, corners (4, 3) counter-clockwise; texture starts at a random place."""
        a, b, c, d = (np.asarray(corner, float) for corner in corners)
        normal = np.cross(b - a, d - a)
        normal /= np.linalg.norm(normal) + 1e-12
        width, height = np.linalg.norm(b - a), np.linalg.norm(d - a)
        uv = np.array([[0, 0], [width, 0], [width, height], [0, height]])
        faces = np.array([[0, 1, 2], [0, 2, 3]])
        offset = self._rng.random(2) * 7
        self._add(np.stack([a, b, c, d]), np.tile(normal, (4, 1)), uv + offset, faces, material)

    def picture(self, corners: np.ndarray, material: int) -> None:
        """A quad that shows its texture exactly once (its material's tile must be 1 m)."""
        self.quad(corners, material)
        part = self._parts[-1]
        uv = np.array([[0.0, 1.0], [1.0, 1.0], [1.0, 0.0], [0.0, 0.0]])
        self._parts[-1] = (*part[:2], uv, *part[3:])

    def box(
        self,
        centre: tuple[float, float, float],
        size: tuple[float, float, float],
        material: int,
        inward: bool = False,
        sides: tuple[int, ...] = (0, 1, 2, 3, 4, 5),
    ) -> None:
        """An axis-aligned box of full ``size``; ``inward`` turns it inside out (a room)."""
        half, n = np.asarray(size, float) / 2, len(sides)
        chosen = list(sides)
        corners = _CORNERS[chosen] * half + np.asarray(centre, float)  # (n, 4, 3)
        normals, extent = _NORMALS[chosen], 2 * half[_AXES[chosen]]  # (n, 3), (n, 2)
        uv = np.stack([_UNIT[:, 0] * extent[:, :1], _UNIT[:, 1] * extent[:, 1:]], -1)
        uv = uv + self._rng.random((n, 1, 2)) * 7
        if inward:
            corners, normals = corners[:, ::-1], -normals
        faces = (_QUAD[None] + 4 * np.arange(n)[:, None, None]).reshape(-1, 3)
        pieces = np.repeat(np.arange(n), 2)
        self._add(
            corners.reshape(-1, 3),
            np.repeat(normals, 4, 0),
            uv.reshape(-1, 2),
            faces,
            material,
            pieces,
        )

    def bar(
        self, start: np.ndarray, end: np.ndarray, radius: float, material: int, segments: int = 6
    ) -> None:
        """A round bar between two points of the current frame: legs, cables, pipes, bones."""
        start, end = np.asarray(start, float), np.asarray(end, float)
        way = end - start
        length = float(np.linalg.norm(way))
        if length < 1e-6:
            return
        way /= length
        side = np.cross(way, [0.0, 0.0, 1.0] if abs(way[2]) < 0.9 else [1.0, 0.0, 0.0])
        side /= np.linalg.norm(side)
        angle = np.linspace(0, 2 * np.pi, segments + 1)
        ring = np.cos(angle)[:, None] * side + np.sin(angle)[:, None] * np.cross(way, side)
        v = np.concatenate([ring * radius + start, ring * radius + end])
        arc = np.tile(angle * radius, 2)
        uv = np.stack([arc, np.repeat([0.0, length], segments + 1)], 1)
        i, n = np.arange(segments), segments + 1
        faces = np.concatenate(
            [np.stack([i, i + 1, i + n + 1], 1), np.stack([i, i + n + 1, i + n], 1)]
        )
        self._add(v, np.tile(ring, (2, 1)), uv, faces, material)

    def triangles(
        self,
        vertices: np.ndarray,
        normals: np.ndarray,
        uv: np.ndarray,
        faces: np.ndarray,
        material: int | np.ndarray,
    ) -> None:
        """A mesh of one smooth piece: (V, 3), (V, 3), (V, 2), (F, 3); one material or (F,)."""
        self._add(vertices, normals, uv, faces, material)

    def cylinder(
        self,
        base: tuple[float, float, float],
        radius: float,
        height: float,
        material: int,
        top_radius: float | None = None,
        segments: int = 20,
    ) -> None:
        """An upright (frustum of a) cone with caps, standing on ``base``."""
        top = radius if top_radius is None else top_radius
        angle = np.linspace(0, 2 * np.pi, segments + 1)
        ring = np.stack([np.cos(angle), np.sin(angle), np.zeros_like(angle)], 1)
        low = ring * radius + base
        high = ring * top + base + np.array([0, 0, height])
        slope = ring + np.array([0, 0, (radius - top) / max(height, 1e-6)])
        normals = slope / np.linalg.norm(slope, axis=1, keepdims=True)
        arc = angle * max(radius, top)
        uv = np.concatenate(
            [np.stack([arc, np.zeros_like(arc)], 1), np.stack([arc, np.full_like(arc, height)], 1)]
        )
        i = np.arange(segments)
        n = segments + 1
        faces = np.concatenate(
            [np.stack([i, i + 1, i + n + 1], 1), np.stack([i, i + n + 1, i + n], 1)]
        )
        self._add(np.concatenate([low, high]), np.tile(normals, (2, 1)), uv, faces, material)
        fan = np.stack([np.zeros_like(i), i + 1, i + 2], 1)
        for points, up in ((high, 1.0), (low, -1.0)):
            centre = points[:-1].mean(0)
            cap = np.concatenate([centre[None], points])
            turned = fan if up > 0 else fan[:, ::-1]
            normal = np.tile([0.0, 0.0, up], (len(cap), 1))
            self._add(cap, normal, cap[:, :2] - centre[:2], turned, material)

    def blob(
        self,
        centre: tuple[float, float, float],
        size: tuple[float, float, float],
        material: int,
        rough: float = 0.0,
        segments: int = 16,
    ) -> None:
        """An ellipsoid of full ``size``; ``rough`` dents it (bushes, rocks, cushions)."""
        m = segments // 2
        theta, phi = np.meshgrid(
            np.linspace(0, np.pi, m + 1), np.linspace(0, 2 * np.pi, segments + 1), indexing="ij"
        )
        unit = np.stack(
            [np.sin(theta) * np.cos(phi), np.sin(theta) * np.sin(phi), np.cos(theta)], -1
        )
        waves = self._rng.normal(size=(6, 3)) * 3
        phase = self._rng.random(6) * 6.3
        radius = 1 + rough * np.sin(unit @ waves.T + phase).mean(-1, keepdims=True) * 2
        grid = unit * radius * (np.asarray(size) / 2)
        du = np.roll(grid[:, :-1], -1, 1) - np.roll(grid[:, :-1], 1, 1)
        du = np.concatenate([du, du[:, :1]], 1)
        dv = np.gradient(grid, axis=0)
        normal = np.cross(dv, du)
        normal[0], normal[-1] = (0, 0, 1), (0, 0, -1)
        normal /= np.linalg.norm(normal, axis=-1, keepdims=True) + 1e-12
        i, j = (a.ravel() for a in np.meshgrid(np.arange(m), np.arange(segments), indexing="ij"))
        n = segments + 1
        a, b, c, d = i * n + j, (i + 1) * n + j, (i + 1) * n + j + 1, i * n + j + 1
        faces = np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)])
        reach = float(np.mean(size)) / 2
        uv = np.stack([phi, theta], -1).reshape(-1, 2) * reach
        vertices = grid.reshape(-1, 3) + centre
        self._add(vertices, normal.reshape(-1, 3), uv, faces, material)

    def build(self) -> Mesh:
        """Everything added so far as one mesh."""
        v, n, uv, f, mat, surface = (np.concatenate(x) for x in zip(*self._parts, strict=True))
        return Mesh(
            v.astype(np.float32),
            n.astype(np.float32),
            uv.astype(np.float32),
            f.astype(np.int32),
            mat.astype(np.int32),
            surface.astype(np.int32),
        )
