"""Direct light with soft shadows, ambient light with occlusion, sky and tone curve."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

try:
    from embreex import rtcore_scene as rtcs
    from embreex.mesh_construction import TriangleMesh
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "generated scenes are traced by embreex; install it: pip install 'hamst3r[synthetic]'",
        name=error.name,
    ) from None

from hamst3r.synthetic.textures import texture_bank
from hamst3r.synthetic.world import Light, Sky

F32 = NDArray[np.float32]
PATTERN = 4  # shadow samples alternate over blocks of 4 x 4 pixels and are averaged over them
OFF_SURFACE = 2e-3  # metres that secondary rays start off the surface


class Tracer:
    """Embree acceleration structure over (vertices, faces) pairs; hits tell which pair."""

    def __init__(self, meshes: list[tuple[F32, NDArray[np.int32]]]) -> None:
        self._scene = rtcs.EmbreeScene()
        self._empty = not meshes
        for vertices, faces in meshes:
            TriangleMesh(self._scene, vertices, faces)

    def hits(self, origins: F32, directions: F32) -> dict[str, NDArray]:
        """``u, v, Ng, tfar, primID, geomID`` (-1 = miss) of rays (N, 3)."""
        return self._scene.run(origins, directions, output=1)

    def blocked(self, origins: F32, directions: F32, reach: float) -> NDArray[np.bool_]:
        """Whether something lies within ``reach`` times the direction of each ray."""
        if self._empty or len(origins) == 0:
            return np.zeros(len(origins), bool)
        limit = np.full(len(origins), reach, np.float32)
        return self._scene.run(origins, directions, dists=limit, query="OCCLUDED") >= 0


def _sphere_points() -> F32:
    k = np.arange(PATTERN * PATTERN)
    order = (k * 7) % len(k)  # neighbours in the block get distant samples
    z = 1 - 2 * (order + 0.5) / len(k)
    phi = order * 2.399963
    ring = np.sqrt(1 - z * z)
    return np.stack([ring * np.cos(phi), ring * np.sin(phi), z], 1).astype(np.float32)


_SPHERE = _sphere_points()


def sample_index(pixel: NDArray[np.int64], width: int) -> NDArray[np.int64]:
    """Which of the PATTERN**2 samples each flat pixel index (N,) uses."""
    return (pixel // width % PATTERN) * PATTERN + pixel % width % PATTERN


def visibility(
    tracers: list[Tracer],
    points: F32,
    normals: F32,
    sample: NDArray[np.int64],
    lights: tuple[Light, ...],
    room: float,
) -> F32:
    """(N, L + 1): for each light 1 where it reaches the point, last the ambient's openness.

    Args:
        sample: (N,) from :func:`sample_index`. room: Reach of ambient occlusion, metres.
    """
    out = np.ones((len(points), len(lights) + 1), np.float32)
    start = points + OFF_SURFACE * normals
    jitter = _SPHERE[sample]
    rays = [
        ((light.position.astype(np.float32) + light.radius * jitter) - start, 1.0)
        for light in lights
    ]
    rays.append((normals * 1.001 + jitter, room))
    for column, (direction, reach) in enumerate(rays):
        facing = np.einsum("ij,ij->i", direction, normals) > 0
        out[~facing, column] = 0.0
        if column == len(lights):
            out[:, column] = 1.0
        index = np.flatnonzero(facing)
        for tracer in tracers:
            stop = tracer.blocked(start[index], np.ascontiguousarray(direction[index]), reach)
            out[index[stop], column] = 0.0
            index = index[~stop]
    return out


def smooth(values: F32, key: NDArray[np.int32]) -> F32:
    """Average (H, W, C) over PATTERN x PATTERN pixels of the same ``key`` (H, W)."""
    kernel = np.ones((PATTERN, PATTERN), np.uint8)
    blurred = cv2.blur(values, (PATTERN, PATTERN), borderType=cv2.BORDER_REPLICATE)
    mean: F32 = np.asarray(blurred, np.float32).reshape(values.shape)
    keys = key.astype(np.float32)
    mixed = cv2.dilate(keys, kernel) != cv2.erode(keys, kernel)
    rows, cols = np.nonzero(mixed)
    if len(rows) == 0:
        return mean
    total = np.zeros((len(rows), values.shape[2]), np.float32)
    weight = np.zeros((len(rows), 1), np.float32)
    own = key[rows, cols]
    for dy in range(-PATTERN // 2, PATTERN // 2):
        for dx in range(-PATTERN // 2, PATTERN // 2):
            y = np.clip(rows + dy, 0, key.shape[0] - 1)
            x = np.clip(cols + dx, 0, key.shape[1] - 1)
            same = (key[y, x] == own)[:, None]
            total += values[y, x] * same
            weight += same
    mean[rows, cols] = total / np.maximum(weight, 1)
    return mean


def shade(
    points: F32,
    normals: F32,
    towards: F32,
    albedo: F32,
    gloss: F32,
    glow: F32,
    light: F32,
    lights: tuple[Light, ...],
    ambient: NDArray,
) -> F32:
    """Linear RGB (N, 3): Lambert, a mild highlight, ambient, own glow.

    Args:
        towards: (N, 3) unit directions to the camera. light: As from :func:`visibility`.
    """
    up = 0.75 + 0.25 * normals[:, 2:]
    colour = ambient.astype(np.float32) * up * (0.25 + 0.75 * light[:, -1:])
    shine = np.zeros_like(colour)
    for column, lamp in enumerate(lights):
        way = lamp.position.astype(np.float32) - points
        distance = np.sqrt(np.einsum("ij,ij->i", way, way))
        way /= distance[:, None]
        cosine = np.maximum(np.einsum("ij,ij->i", way, normals), 0) * light[:, column]
        if np.isfinite(lamp.reach):
            cosine = cosine / (1 + (distance / lamp.reach) ** 2)
        tint = lamp.colour.astype(np.float32)
        colour += cosine[:, None] * tint
        half = way + towards
        half /= np.sqrt(np.einsum("ij,ij->i", half, half))[:, None] + 1e-6
        peak = np.maximum(np.einsum("ij,ij->i", half, normals), 0) ** 24
        shine += (gloss * peak * light[:, column])[:, None] * tint
    return albedo * (colour + glow[:, None] * 1.2) + shine


def sky_colour(sky: Sky, directions: F32) -> F32:
    """Linear RGB (N, 3) of the sky along directions (N, 3)."""
    unit = directions / np.linalg.norm(directions, axis=1, keepdims=True)
    height = np.clip(unit[:, 2], 0, 1)
    blend = (height**0.5)[:, None]
    colour = sky.horizon * (1 - blend) + sky.zenith * blend
    plane = unit[:, :2] / (height[:, None] + 0.15) * 0.08
    bank = texture_bank()
    pattern = np.full(len(unit), bank.family["noise"][2])
    cloud = bank.sample(pattern, plane[:, 0] + sky.clouds, plane[:, 1], np.full(len(unit), 0.004))
    amount = np.clip((cloud - 0.75 + 0.5 * sky.clouds) * 3, 0, 1)[:, None] * blend
    return (colour + (0.95 - colour) * amount).astype(np.float32)


def tone(linear: F32) -> F32:
    """Soft shoulder: [0, inf) to [0, 1), still linear near zero."""
    return 1 - np.exp(-linear)


def encode(toned: F32) -> NDArray[np.uint8]:
    """Display gamma and eight bits."""
    return (np.clip(toned, 0, 1) ** np.float32(1 / 2.2) * 255 + 0.5).astype(np.uint8)
