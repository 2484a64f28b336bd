"""Scene and cameras to labelled views; a static world is traced once, people again and again.

``Renderer.background`` does all that does not depend on people; ``Renderer.render`` traces people
inside their projected bounding boxes, relights what their shadows touch, and joins the two. What
mirrors show is a second layer of the same kind. It has no labels: the depth is the mirror's own,
and nobody stands in there.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hamst3r.synthetic.cameras import SyntheticCamera
from hamst3r.synthetic.layers import Layer, Rays, Scenery
from hamst3r.synthetic.lighting import encode, tone
from hamst3r.synthetic.surfaces import Cast
from hamst3r.synthetic.world import World

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


@dataclass(frozen=True, eq=False)
class Background:
    """A camera's image of the world without people, and what is needed to put people in.

    Attributes:
        direct: What the camera sees. mirrored: What its mirrors show; None if there are none.
        tint: (N, 3) share of the mirrored light that comes back, per ray. exposure: Factor on
            radiance.
    """

    direct: Layer
    mirrored: Layer | None
    tint: F32
    exposure: float

    @property
    def camera(self) -> SyntheticCamera:
        """Whose image it is."""
        return self.direct.camera


class Renderer:
    """Renders one static world with any people and cameras."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._scenery = Scenery(world)

    def probe(self, camera: SyntheticCamera, cast: Cast) -> F32 | None:
        """Depths (h, w) of a small camera, 0 for sky; None if it stands in or too near things."""
        origins, directions = camera.rays()
        hit = self._scenery.hits(origins, directions)
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
        direct = self._scenery.layer(camera, Rays.of(camera))
        rays, tint = self._scenery.reflected(direct)
        mirrored = self._scenery.layer(camera, rays) if len(rays.pixel) else None
        linear = direct.linear.copy()
        if mirrored is not None:
            linear[rays.pixel] = tint * mirrored.linear[rays.pixel]
        luminance = linear @ np.array([0.25, 0.6, 0.15], np.float32)
        middle = 0.5 * float(luminance.mean()) + 0.5 * float(np.median(luminance)) + 1e-3
        bright = float(np.percentile(luminance, 90)) + 1e-3
        return Background(direct, mirrored, tint, min(0.5 / middle, 1.3 / bright))

    def render(self, background: Background, cast: Cast) -> SyntheticView:
        """Put people into a background; the same as tracing everything at once."""
        camera, direct = background.camera, background.direct
        shape = (camera.height, camera.width)
        depth, key = direct.depth.copy(), direct.key.ravel().copy()
        linear = direct.linear.copy()
        instances = np.zeros(len(depth), np.uint16)
        densepose = np.full((len(depth), 3), np.nan, np.float32)
        if cast.people:
            pixel, hit = cast.trace(camera, depth)
            points, keys, ids, labels = cast.surface(camera, pixel, hit)
            depth[pixel] = hit["tfar"]
            key[pixel], instances[pixel], densepose[pixel] = keys, ids, labels
            linear = self._scenery.relight(direct, cast, points, key.reshape(shape))
        if background.mirrored is not None:
            pixel = background.mirrored.rays.pixel
            bare = instances[pixel] == 0  # nobody stands before the mirror there
            shown = self._mirrored(background.mirrored, cast)[pixel]
            linear[pixel[bare]] = (background.tint * shown)[bare]
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

    def _mirrored(self, layer: Layer, cast: Cast) -> F32:
        """Radiance (H * W, 3) of what mirrors show, people in it."""
        if not cast.people:
            return layer.linear
        rays = layer.rays
        depth = layer.depth[rays.pixel]
        index, hit = cast.front(rays.origins, rays.directions, depth, rays.before)
        pixel = rays.pixel[index]
        points, keys, _, _ = cast.surface(layer.camera, pixel, hit)
        key = layer.key.copy()
        key.ravel()[pixel] = keys
        return self._scenery.relight(layer, cast, points, key)

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
            z, sub = self._scenery.nearest(origins, directions)
            if cast.people:
                z, sub = cast.nearer(origins, directions, z, sub)
            total += _pick(image, key, depth, rows, cols, sub, z)
        image[rows, cols] = total / 4
        return image


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
