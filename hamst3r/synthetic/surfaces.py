"""Points that camera rays hit, and people as something to trace."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from hamst3r.synthetic.bodies import PersonMesh
from hamst3r.synthetic.cameras import SyntheticCamera
from hamst3r.synthetic.lighting import Tracer

F32 = NDArray[np.float32]
_PERSON_KEY = 1 << 20  # keys of people's pixels start here, above those of static surfaces


@dataclass(frozen=True, eq=False)
class SurfacePoints:
    """Surface points to shade, (N, ...) each; ``pixel`` is their flat index in the image."""

    pixel: NDArray[np.int64]
    position: F32
    normal: F32
    towards: F32
    albedo: F32
    gloss: F32
    glow: F32

    def take(self, index: NDArray[np.int64]) -> SurfacePoints:
        """Some of the points."""
        return SurfacePoints(*(getattr(self, field.name)[index] for field in fields(self)))


class Cast:
    """The people of one time, ready to be traced by any camera."""

    def __init__(self, people: Sequence[PersonMesh]) -> None:
        self.people = list(people)
        self.tracer = Tracer([(p.vertices, p.figure.faces) for p in people])
        self._boxes = [(p.vertices.min(0), p.vertices.max(0)) for p in people]

    def trace(
        self, camera: SyntheticCamera, depth: F32
    ) -> tuple[NDArray[np.int64], dict[str, NDArray]]:
        """Flat pixels where a person is in front of ``depth`` (H * W,), and the hits there."""
        window = np.zeros((camera.height, camera.width), bool)
        for low, high in self._boxes:
            corners = np.array(np.meshgrid(*zip(low, high, strict=True))).reshape(3, 8).T
            place, z = camera.project(corners)
            if (z < 0.05).any():  # the box reaches behind the camera: its outline is unbounded
                window |= bool((z > 0).any())
                continue
            (x0, y0), (x1, y1) = np.floor(place.min(0)) - 1, np.ceil(place.max(0)) + 2
            window[max(int(y0), 0) : max(int(y1), 0), max(int(x0), 0) : max(int(x1), 0)] = True
        rows, cols = np.nonzero(window)
        origins, directions = camera.rays(np.stack([cols, rows], 1).astype(np.float64))
        pixel = rows * camera.width + cols
        index, hit = self.front(origins, directions, depth[pixel], np.zeros(len(pixel), np.float32))
        return pixel[index], hit

    def front(
        self, origins: F32, directions: F32, depth: F32, before: F32
    ) -> tuple[NDArray[np.int64], dict[str, NDArray]]:
        """Which rays (N, 3) meet a person before ``depth`` (N,), and their hits.

        Args:
            before: (N,) way of the light to ``origins``, where mirrors sent the rays on.
        """
        hit = self.tracer.hits(origins, directions)
        index = np.flatnonzero((hit["geomID"] >= 0) & (hit["tfar"] < depth))
        kept = {name: values[index] for name, values in hit.items()}
        kept["origins"], kept["directions"] = origins[index], directions[index]
        kept["way"] = before[index] + hit["tfar"][index]
        return index, kept

    def surface(
        self, camera: SyntheticCamera, pixel: NDArray[np.int64], hit: dict[str, NDArray]
    ) -> tuple[SurfacePoints, NDArray[np.int32], NDArray[np.uint16], F32]:
        """Points to shade, keys, person ids and canonical coordinates of hits."""
        n = len(pixel)
        normal, albedo = np.zeros((n, 3), np.float32), np.zeros((n, 3), np.float32)
        label, gloss = np.zeros((n, 3), np.float32), np.full(n, 0.06, np.float32)
        ids = np.zeros(n, np.uint16)
        direction, depth = hit["directions"], hit["tfar"]
        towards = np.zeros((n, 3), np.float32)
        for k, person in enumerate(self.people):
            own = np.flatnonzero(hit["geomID"] == k)
            if len(own) == 0:
                continue
            figure, face = person.figure, hit["primID"][own]
            corners, weights = figure.faces[face], hit_weights(hit, own)
            normal[own], towards[own] = oriented(
                interpolate(person.normals, corners, weights), direction[own]
            )
            place = interpolate(figure.template, corners, weights)
            label[own] = interpolate(figure.canonical, corners, weights)
            footprint = footprint_size(camera, hit["way"][own], normal[own], towards[own])
            albedo[own] = figure.outfit.colour(figure.part[face], place, footprint)
            ids[own] = person.id
        position = hit["origins"] + direction * depth[:, None]
        keys = self._keys(hit["geomID"], hit["primID"])
        glow = np.zeros(n, np.float32)
        return (
            SurfacePoints(pixel, position, normal, towards, albedo, gloss, glow),
            keys,
            ids,
            label,
        )

    def _keys(self, geometry: NDArray, face: NDArray) -> NDArray[np.int32]:
        key = np.zeros(len(face), np.int32)
        for k, person in enumerate(self.people):
            own = geometry == k
            key[own] = _PERSON_KEY + 16 * k + person.figure.part[face[own]]
        return key

    def nearer(
        self, origins: F32, directions: F32, depth: NDArray, key: NDArray
    ) -> tuple[NDArray, NDArray]:
        """Depths and keys after people in front of (depth, key) are put in."""
        hit = self.tracer.hits(origins, directions)
        front = (hit["geomID"] >= 0) & (hit["tfar"] < depth)
        depth, key = depth.copy(), key.copy()
        depth[front] = hit["tfar"][front]
        key[front] = self._keys(hit["geomID"][front], hit["primID"][front])
        return depth, key

    def spheres(self) -> list[tuple[F32, float]]:
        """Bounding spheres, centre (3,) and radius in metres."""
        return [
            ((low + high) / 2, float(np.linalg.norm(high - low)) / 2) for low, high in self._boxes
        ]


def hit_weights(hit: dict[str, NDArray], index: NDArray) -> F32:
    """Barycentric weights (N, 3) of hits ``index``."""
    u, v = hit["u"][index], hit["v"][index]
    return np.stack([1 - u - v, u, v], 1)


def interpolate(values: F32, corners: NDArray[np.int32], weights: F32) -> F32:
    """Vertex values (V, C) blended at corners (N, 3) with weights (N, 3): (N, C)."""
    out = values[corners[:, 0]] * weights[:, :1]
    out += values[corners[:, 1]] * weights[:, 1:2]
    out += values[corners[:, 2]] * weights[:, 2:]
    return out


def oriented(normal: F32, direction: F32) -> tuple[F32, F32]:
    """Unit normals turned to the viewer, and unit directions to the viewer."""
    towards = -direction / np.sqrt(np.einsum("ij,ij->i", direction, direction))[:, None]
    normal = normal / (np.sqrt(np.einsum("ij,ij->i", normal, normal))[:, None] + 1e-12)
    away = np.einsum("ij,ij->i", normal, towards) < 0
    normal[away] *= -1
    return normal, towards


def footprint_size(camera: SyntheticCamera, depth: F32, normal: F32, towards: F32) -> F32:
    """Metres of surface under one pixel, stretched at grazing angles."""
    slant = np.abs(np.einsum("ij,ij->i", normal, towards))
    return depth / np.float32(camera.K[0, 0]) / np.sqrt(np.maximum(slant, 0.1))
