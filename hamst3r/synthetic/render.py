"""Scene and cameras to labelled views; a static world is traced once, people again and again.

``Renderer.background`` does all that does not depend on people; ``Renderer.render`` traces people
inside their projected bounding boxes, relights what their shadows touch, and joins the two.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from hamst3r.synthetic.cameras import SyntheticCamera
from hamst3r.synthetic.lighting import (
    Tracer,
    encode,
    sample_index,
    shade,
    sky_colour,
    smooth,
    tone,
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
F64 = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class SyntheticView:
    """One rendered image and its labels.

    Attributes:
        name: Of the camera. rgb: (H, W, 3) uint8. depth: (H, W) float32 z in metres, 0 = none.
        instances: (H, W) uint16 person id, 0 = none.
        densepose: (H, W, 3) float32 canonical body coordinates, NaN off people.
        K: (3, 3). T_world_cam: (4, 4).
    """

    name: str
    rgb: NDArray[np.uint8]
    depth: F32
    instances: NDArray[np.uint16]
    densepose: F32
    K: F64
    T_world_cam: F64


class _ShadowReach:
    """Finds which of N points a sphere may shadow; what does not depend on the sphere is kept."""

    def __init__(self, points: F32, lights: tuple[Light, ...], occlusion: float) -> None:
        self._points, self._occlusion = points, occlusion
        self._squared = _squared(points)
        self._lights = []
        for light in lights:
            way = light.position.astype(np.float32) - points
            along = np.einsum("ij,ij->i", points, way)
            self._lights.append((way, along, _squared(way), light.radius))

    def near(self, centre: F32, radius: float) -> NDArray[np.bool_]:
        """(N,) whether the sphere can take light from a point, or be close enough to darken it."""
        offset = self._squared - 2 * (self._points @ centre) + centre @ centre
        out = offset < (radius + 2.1 * self._occlusion) ** 2
        for way, along, squared, lamp in self._lights:
            dot = along - way @ centre
            t = np.clip(-dot / squared, 0, 1)
            distance = offset + t * (2 * dot + t * squared)  # squared, from the ray to the centre
            out |= distance < (radius + t * lamp) ** 2 + 0.02
        return out


@dataclass(frozen=True, eq=False)
class Background:
    """A camera's image of the world without people, and what is needed to put people in.

    Attributes:
        camera: Which camera. depth: (H * W,) metres, inf where nothing was hit.
        key: (H, W) int32 surface ids, 0 = sky. linear: (H * W, 3) radiance without people.
        light: (H * W, L + 1) unsmoothed visibility. exposure: Factor on radiance.
        reach: Which of ``points`` somebody may shadow.
    """

    camera: SyntheticCamera
    depth: F32
    key: NDArray[np.int32]
    points: SurfacePoints
    linear: F32
    light: F32
    exposure: float
    reach: _ShadowReach


class Renderer:
    """Renders one static world with any people and cameras."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._tracer = Tracer([(world.mesh.vertices, world.mesh.faces)])
        self._occlusion_reach = 0.5

    def probe(self, camera: SyntheticCamera, cast: Cast) -> F32 | None:
        """Depths (h, w) of a small camera, 0 for sky; None if it stands in or too near things."""
        origins, directions = camera.rays()
        hit = self._tracer.hits(origins, directions)
        found = hit["geomID"] >= 0
        reach = np.where(found, hit["tfar"], np.inf)
        reach, keys = cast.nearer(origins, directions, reach, np.zeros(len(reach), np.int32))
        person = keys > 0
        found = found | person
        depth = np.where(found, reach, 0.0).astype(np.float32)
        behind = (np.einsum("ij,ij->i", hit["Ng"], directions) > 0) & ~person
        close = found & (depth < 0.45)
        if behind.mean() > 0.03 or close.mean() > 0.06 or found.mean() < 0.4:
            return None
        if np.median(depth[found]) < 1.0 or person.mean() > 0.5:
            return None
        return depth.reshape(camera.height, camera.width)

    def background(self, camera: SyntheticCamera) -> Background:
        """Trace, light and shade the static world for one camera."""
        origins, directions = camera.rays()
        hit = self._tracer.hits(origins, directions)
        found = hit["geomID"] >= 0
        depth = np.where(found, hit["tfar"], np.inf).astype(np.float32)
        key = np.zeros(len(depth), np.int32)
        key[found] = self.world.mesh.surface[hit["primID"][found]]
        keys = key.reshape(camera.height, camera.width)
        points = self._static_points(camera, origins, directions, hit)
        lights = self.world.lights
        light = np.ones((len(depth), len(lights) + 1), np.float32)
        light[points.pixel] = visibility(
            [self._tracer],
            points.position,
            points.normal,
            sample_index(points.pixel, camera.width),
            lights,
            self._occlusion_reach,
        )
        linear = np.zeros((len(depth), 3), np.float32)
        linear[points.pixel] = self._shade(points, _smoothed(light, keys)[points.pixel])
        if self.world.sky is not None:
            linear[~found] = sky_colour(self.world.sky, directions[~found])
        luminance = linear @ np.array([0.25, 0.6, 0.15], np.float32)
        middle = 0.5 * float(luminance.mean()) + 0.5 * float(np.median(luminance)) + 1e-3
        bright = float(np.percentile(luminance, 90)) + 1e-3
        exposure = min(0.5 / middle, 1.3 / bright)
        reach = _ShadowReach(points.position, lights, self._occlusion_reach)
        return Background(camera, depth, keys, points, linear, light, exposure, reach)

    def render(self, background: Background, cast: Cast) -> SyntheticView:
        """Put people into a background; the same as tracing everything at once."""
        camera = background.camera
        shape = (camera.height, camera.width)
        depth, key = background.depth.copy(), background.key.ravel().copy()
        linear = background.linear
        instances = np.zeros(len(depth), np.uint16)
        densepose = np.full((len(depth), 3), np.nan, np.float32)
        if cast.people:
            pixel, hit = cast.trace(camera, depth)
            points, keys, ids, labels = cast.surface(camera, pixel, hit)
            depth[pixel] = hit["tfar"]
            key[pixel], instances[pixel], densepose[pixel] = keys, ids, labels
            linear = self._relight(background, cast, points, key.reshape(shape))
        toned = tone(linear * np.float32(background.exposure)).reshape(*shape, 3)
        toned = self._antialias(camera, toned, key.reshape(shape), depth.reshape(shape), cast)
        return SyntheticView(
            camera.name,
            encode(toned),
            np.where(np.isfinite(depth), depth, 0).astype(np.float32).reshape(shape),
            instances.reshape(shape),
            densepose.reshape(*shape, 3),
            camera.K,
            camera.T_world_cam,
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

    def _static_points(
        self, camera: SyntheticCamera, origins: F32, directions: F32, hit: dict[str, NDArray]
    ) -> SurfacePoints:
        mesh, table = self.world.mesh, self.world.materials
        pixel = np.flatnonzero(hit["geomID"] >= 0)
        face = hit["primID"][pixel]
        corners = mesh.faces[face]
        weights = hit_weights(hit, pixel)
        direction, depth = directions[pixel], hit["tfar"][pixel]
        position = origins[pixel] + direction * depth[:, None]
        normal, towards = oriented(interpolate(mesh.normals, corners, weights), direction)
        uv = interpolate(mesh.uv, corners, weights)
        row = mesh.material[face]
        footprint = footprint_size(camera, depth, normal, towards)
        albedo = table.albedo(row, uv, footprint)
        return SurfacePoints(
            pixel, position, normal, towards, albedo, table.gloss[row], table.glow[row]
        )

    def _relight(
        self, background: Background, cast: Cast, points: SurfacePoints, key: NDArray[np.int32]
    ) -> F32:
        """Radiance (H * W, 3) with people: their own, and the background in their shadow."""
        width, lights = background.camera.width, self.world.lights
        light = background.light.copy()
        covered = np.zeros(len(light), bool)
        covered[points.pixel] = True
        ground = background.points
        near = np.zeros(len(ground.pixel), bool)
        for centre, radius in cast.spheres():
            near |= background.reach.near(centre, radius)
        rest = np.flatnonzero(near & ~covered[ground.pixel])
        pixel = ground.pixel[rest]
        shadow = visibility(
            [cast.tracer],
            ground.position[rest],
            ground.normal[rest],
            sample_index(pixel, width),
            lights,
            self._occlusion_reach,
        )
        light[pixel] *= shadow
        light[points.pixel] = visibility(
            [cast.tracer, self._tracer],
            points.position,
            points.normal,
            sample_index(points.pixel, width),
            lights,
            self._occlusion_reach,
        )
        smoothed = _smoothed(light, key)
        linear = background.linear.copy()
        changed = np.flatnonzero(_spread(pixel[(shadow < 1).any(axis=1)], key.shape)[ground.pixel])
        changed = changed[~covered[ground.pixel[changed]]]
        part = SurfacePoints(
            *(getattr(ground, name)[changed] for name in SurfacePoints.__annotations__)
        )
        linear[part.pixel] = self._shade(part, smoothed[part.pixel])
        linear[points.pixel] = self._shade(points, smoothed[points.pixel])
        return linear

    def _antialias(
        self,
        camera: SyntheticCamera,
        image: F32,
        key: NDArray[np.int32],
        depth: F32,
        cast: Cast,
    ) -> F32:
        """Average pixels on edges with what three more rays see, coloured by their neighbours."""
        edge = np.zeros(key.shape, bool)
        for axis in (0, 1):
            change = np.diff(key, axis=axis) != 0
            head, tail = [slice(None)] * 2, [slice(None)] * 2
            head[axis], tail[axis] = slice(1, None), slice(None, -1)
            edge[tuple(head)] |= change
            edge[tuple(tail)] |= change
        rows, cols = np.nonzero(edge)
        if len(rows) == 0:
            return image
        total = image[rows, cols].copy()
        for du, dv in ((-0.33, -0.17), (0.17, -0.33), (0.1, 0.36)):
            pixels = np.stack([cols + du, rows + dv], 1)
            origins, directions = camera.rays(pixels)
            hit = self._tracer.hits(origins, directions)
            found = hit["geomID"] >= 0
            z = np.where(found, hit["tfar"], np.inf)
            sub = np.where(found, self.world.mesh.surface[hit["primID"]], 0)
            if cast.people:
                z, sub = cast.nearer(origins, directions, z, sub)
            total += _pick(image, key, depth, rows, cols, sub, z)
        image[rows, cols] = total / 4
        return image


def _squared(vectors: F32) -> F32:
    return np.einsum("ij,ij->i", vectors, vectors)


def _smoothed(light: F32, key: NDArray[np.int32]) -> F32:
    return smooth(light.reshape(*key.shape, -1), key).reshape(light.shape)


def _spread(pixel: NDArray[np.int64], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Flat image mask of the pixels whose smoothing window touches ``pixel`` (N,)."""
    image = np.zeros(shape[0] * shape[1], np.uint8)
    image[pixel] = 1
    return cv2.dilate(image.reshape(shape), np.ones((9, 9), np.uint8)).ravel() > 0


def _pick(
    image: F32,
    key: NDArray[np.int32],
    depth: F32,
    rows: NDArray,
    cols: NDArray,
    sub: NDArray,
    z: NDArray,
) -> F32:
    """Colour (N, 3) of the neighbour or pixel itself with key ``sub`` and the nearest depth."""
    out = image[rows, cols]
    other = np.flatnonzero(key[rows, cols] != sub)
    rows, cols, sub, z = rows[other], cols[other], sub[other], z[other]
    best = np.full(len(rows), np.inf, np.float32)
    best_row, best_col = rows.copy(), cols.copy()
    finite = np.where(np.isfinite(z), z, 1e6).astype(np.float32)
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            y = np.clip(rows + dy, 0, key.shape[0] - 1)
            x = np.clip(cols + dx, 0, key.shape[1] - 1)
            here = depth[y, x]
            gap = np.abs(np.where(np.isfinite(here), here, 1e6) - finite)
            gap = np.where(key[y, x] == sub, gap + 1e-3 * (abs(dx) + abs(dy)), np.inf)
            better = gap < best
            best[better] = gap[better]
            best_row[better], best_col[better] = y[better], x[better]
    out[other] = image[best_row, best_col]
    return out
