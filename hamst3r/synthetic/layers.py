"""A static world as rays meet it: what they hit, how it is lit, and how people's shadows change it.

A :class:`Layer` holds that for the rays of one image: those of the camera itself, or those that its
mirrors send on.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from hamst3r.synthetic.cameras import SyntheticCamera
from hamst3r.synthetic.lighting import (
    OFF_SURFACE,
    Tracer,
    sample_index,
    shade,
    sky_colour,
    smooth,
    visibility,
)
from hamst3r.synthetic.surfaces import (
    Cast,
    SurfacePoints,
    footprint_size,
    hit_weights,
    interpolate,
    oriented,
)
from hamst3r.synthetic.world import Light, World

F32 = NDArray[np.float32]
_OCCLUSION = 0.5  # metres within which things take ambient light from each other


@dataclass(frozen=True, eq=False)
class Rays:
    """Rays through some pixels of an image, each with z = 1 in the camera that they come from.

    Attributes:
        pixel: (N,) flat indices. origins, directions: (N, 3) world. before: (N,) length of the way
            to ``origins``, in units of ``directions``: 0 but for what mirrors send on.
    """

    pixel: NDArray[np.int64]
    origins: F32
    directions: F32
    before: F32

    @staticmethod
    def of(camera: SyntheticCamera) -> Rays:
        """Of all pixels."""
        origins, directions = camera.rays()
        count = len(origins)
        return Rays(np.arange(count), origins, directions, np.zeros(count, np.float32))


@dataclass(frozen=True, eq=False)
class Layer:
    """What the rays of an image meet in the world without people.

    Attributes:
        camera: Whose image it is. rays: Of all its pixels, or of those that look into mirrors.
        depth: (H * W,) along the rays, metres; inf where nothing was hit, 0 where no ray is.
        key: (H, W) int32 surface ids, 0 = sky. points: What was hit.
        row: (P,) material of each of the points. linear: (H * W, 3) radiance.
        light: (H * W, L + 1) unsmoothed visibility. reach: Which of ``points`` somebody may shadow.
    """

    camera: SyntheticCamera
    rays: Rays
    depth: F32
    key: NDArray[np.int32]
    points: SurfacePoints
    row: NDArray[np.int32]
    linear: F32
    light: F32
    reach: ShadowReach


class ShadowReach:
    """Finds which of N points a sphere may shadow; what does not depend on the sphere is kept."""

    def __init__(self, points: F32, lights: tuple[Light, ...]) -> None:
        self._points = points
        self._squared = _squared(points)
        self._lights = []
        for light in lights:
            way = light.position.astype(np.float32) - points
            along = np.einsum("ij,ij->i", points, way)
            self._lights.append((way, along, _squared(way), light.radius))

    def near(self, centre: F32, radius: float) -> NDArray[np.bool_]:
        """(N,) whether the sphere can take light from a point, or be close enough to darken it."""
        offset = self._squared - 2 * (self._points @ centre) + centre @ centre
        out = offset < (radius + 2.1 * _OCCLUSION) ** 2
        for way, along, squared, lamp in self._lights:
            dot = along - way @ centre
            t = np.clip(-dot / squared, 0, 1)
            distance = offset + t * (2 * dot + t * squared)  # squared, from the ray to the centre
            out |= distance < (radius + t * lamp) ** 2 + 0.02
        return out


class Scenery:
    """Traces and lights one static world."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._tracer = Tracer([(world.mesh.vertices, world.mesh.faces)])

    def hits(self, origins: F32, directions: F32) -> dict[str, NDArray]:
        """As :meth:`Tracer.hits`."""
        return self._tracer.hits(origins, directions)

    def nearest(self, origins: F32, directions: F32) -> tuple[F32, NDArray[np.int32]]:
        """Depths (N,), inf where nothing is, and surface ids (N,), 0 = sky, of rays."""
        return self._met(self.hits(origins, directions))

    def layer(self, camera: SyntheticCamera, rays: Rays) -> Layer:
        """Trace, light and shade what rays meet."""
        hit = self.hits(rays.origins, rays.directions)
        found = hit["geomID"] >= 0
        count, lights = camera.width * camera.height, self.world.lights
        depth, key = np.zeros(count, np.float32), np.zeros(count, np.int32)
        depth[rays.pixel], key[rays.pixel] = self._met(hit)
        keys = key.reshape(camera.height, camera.width)
        points, row = self._points(camera, rays, hit)
        light = np.ones((count, len(lights) + 1), np.float32)
        light[points.pixel] = self._visibility([self._tracer], points, camera.width)
        linear = np.zeros((count, 3), np.float32)
        linear[points.pixel] = self._shade(points, _smoothed(light, keys)[points.pixel])
        if self.world.sky is not None:
            linear[rays.pixel[~found]] = sky_colour(self.world.sky, rays.directions[~found])
        reach = ShadowReach(points.position, lights)
        return Layer(camera, rays, depth, keys, points, row, linear, light, reach)

    def reflected(self, layer: Layer) -> tuple[Rays, F32]:
        """The rays that mirrors send on, and the share (N, 3) of their light that comes back."""
        share = self.world.materials.mirror[layer.row]
        index = np.flatnonzero(share > 0)
        p = layer.points
        normal, towards, pixel = p.normal[index], p.towards[index], p.pixel[index]
        cosine = np.einsum("ij,ij->i", normal, towards)
        length = np.linalg.norm(layer.rays.directions, axis=1)[
            np.searchsorted(layer.rays.pixel, pixel)
        ]
        directions = (2 * cosine[:, None] * normal - towards) * length[:, None]
        origins = p.position[index] + OFF_SURFACE * normal
        tint = share[index, None] * (0.9 + 0.1 * p.albedo[index])
        return Rays(pixel, origins, directions.astype(np.float32), layer.depth[pixel]), tint

    def relight(
        self, layer: Layer, cast: Cast, points: SurfacePoints, key: NDArray[np.int32]
    ) -> F32:
        """Radiance (H * W, 3) with people: their own, and the layer's in their shadow.

        Args:
            points: Of the people, in the pixels that they cover. key: (H, W) with theirs.
        """
        width = layer.camera.width
        light = layer.light.copy()
        covered = np.zeros(len(light), bool)
        covered[points.pixel] = True
        ground = layer.points
        near = np.zeros(len(ground.pixel), bool)
        for centre, radius in cast.spheres():
            near |= layer.reach.near(centre, radius)
        rest = ground.take(np.flatnonzero(near & ~covered[ground.pixel]))
        shadow = self._visibility([cast.tracer], rest, width)
        light[rest.pixel] *= shadow
        light[points.pixel] = self._visibility([cast.tracer, self._tracer], points, width)
        smoothed = _smoothed(light, key)
        linear = layer.linear.copy()
        touched = _spread(rest.pixel[(shadow < 1).any(axis=1)], key.shape)
        part = ground.take(np.flatnonzero(touched[ground.pixel] & ~covered[ground.pixel]))
        linear[part.pixel] = self._shade(part, smoothed[part.pixel])
        linear[points.pixel] = self._shade(points, smoothed[points.pixel])
        return linear

    def _met(self, hit: dict[str, NDArray]) -> tuple[F32, NDArray[np.int32]]:
        """Depths and surface ids of hits, as :meth:`nearest` has them."""
        found = hit["geomID"] >= 0
        key = np.where(found, self.world.mesh.surface[hit["primID"]], 0).astype(np.int32)
        return np.where(found, hit["tfar"], np.inf).astype(np.float32), key

    def _visibility(self, tracers: list[Tracer], points: SurfacePoints, width: int) -> F32:
        sample = sample_index(points.pixel, width)
        return visibility(
            tracers, points.position, points.normal, sample, self.world.lights, _OCCLUSION
        )

    def _shade(self, points: SurfacePoints, light: F32) -> F32:
        p = points
        return shade(
            p.position,
            p.normal,
            p.towards,
            p.albedo,
            p.gloss,
            p.glow,
            light,
            self.world.lights,
            self.world.ambient,
        )

    def _points(
        self, camera: SyntheticCamera, rays: Rays, hit: dict[str, NDArray]
    ) -> tuple[SurfacePoints, NDArray[np.int32]]:
        """What was hit, and its materials."""
        mesh, table = self.world.mesh, self.world.materials
        index = np.flatnonzero(hit["geomID"] >= 0)
        face = hit["primID"][index]
        corners = mesh.faces[face]
        weights = hit_weights(hit, index)
        direction, depth = rays.directions[index], hit["tfar"][index]
        position = rays.origins[index] + direction * depth[:, None]
        normal, towards = oriented(interpolate(mesh.normals, corners, weights), direction)
        uv = interpolate(mesh.uv, corners, weights)
        row = mesh.material[face]
        footprint = footprint_size(camera, rays.before[index] + depth, normal, towards)
        albedo = table.albedo(row, uv, footprint)
        points = SurfacePoints(
            rays.pixel[index], position, normal, towards, albedo, table.gloss[row], table.glow[row]
        )
        return points, row


def _squared(vectors: F32) -> F32:
    return np.einsum("ij,ij->i", vectors, vectors)


def _smoothed(light: F32, key: NDArray[np.int32]) -> F32:
    return smooth(light.reshape(*key.shape, -1), key).reshape(light.shape)


def _spread(pixel: NDArray[np.int64], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Flat image mask of the pixels whose smoothing window touches ``pixel`` (N,)."""
    image = np.zeros(shape[0] * shape[1], np.uint8)
    image[pixel] = 1
    return cv2.dilate(image.reshape(shape), np.ones((9, 9), np.uint8)).ravel() > 0
