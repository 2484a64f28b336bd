"""A small software renderer: points as discs in a depth buffer, enough for a good still picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

NEAR = 0.05  # metres
MAX_RADIUS = 10.0  # pixels of a disc, so that one close point does not fill the picture
SHADE = 0.9  # strength of the depth shading
OVERLAY_SLACK = 0.25  # metres an overlay may lie behind the points that show the same thing

F32 = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Splats:
    """Discs that face the viewer.

    Attributes:
        xyz: (N, 3) metres, world.
        rgb: (N, 3) uint8.
        radius: Of the discs in metres, one for all or (N,).
        min_pixels: Smallest radius on the picture.
    """

    xyz: F32
    rgb: NDArray[np.uint8]
    radius: float | F32
    min_pixels: float = 0.5


@dataclass(frozen=True, eq=False)
class Viewpoint:
    """A virtual pinhole camera: (3, 3) intrinsics, (4, 4) pose, size in pixels."""

    K: NDArray[np.float64]
    T_world_cam: NDArray[np.float64]
    width: int
    height: int

    def scaled(self, factor: int) -> Viewpoint:
        """The same view with ``factor`` times the pixels along each side."""
        K = self.K * factor
        K[2, 2] = 1.0
        return Viewpoint(K, self.T_world_cam, self.width * factor, self.height * factor)


def look_at(
    eye: NDArray, target: NDArray, width: int, height: int, field_of_view: float
) -> Viewpoint:
    """A view from ``eye`` to ``target`` with z up; the field of view (radians) is horizontal."""
    forward = (target - eye) / np.linalg.norm(target - eye)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    T = np.eye(4)
    T[:3, :3] = np.stack([right, np.cross(forward, right), forward], axis=1)
    T[:3, 3] = eye
    focal = width / 2 / np.tan(field_of_view / 2)
    K = np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1.0]])
    return Viewpoint(K, T, width, height)


def render(
    view: Viewpoint,
    layers: Sequence[Splats],
    overlays: Sequence[Splats] = (),
    *,
    background: tuple[int, int, int] = (18, 20, 26),
    opacity: float = 0.8,
    supersample: int = 2,
) -> NDArray[np.uint8]:
    """Draw the layers, and over them the overlays blended with ``opacity``.

    An overlay is hidden by a layer only where it lies clearly behind it: a body and the points
    measured on it share their surface.

    Returns:
        (height, width, 3) uint8 RGB.
    """
    fine = view.scaled(supersample)
    color, depth = _draw(fine, layers, background)
    image = color * _depth_shading(depth)[..., None]
    over_color, over_depth = _draw(fine, overlays, background)
    shown = np.isfinite(over_depth) & (over_depth < depth + OVERLAY_SLACK)
    shaded = over_color * _depth_shading(over_depth)[..., None]
    image[shown] = (1 - opacity) * image[shown] + opacity * shaded[shown]
    image = np.clip(image, 0, 255).astype(np.uint8)
    return cv2.resize(image, (view.width, view.height), interpolation=cv2.INTER_AREA)


def _draw(
    view: Viewpoint, layers: Sequence[Splats], background: tuple[int, int, int]
) -> tuple[F32, F32]:
    """Colour (H, W, 3) and depth (H, W), infinite where nothing is."""
    pixels, depths, colors = [], [], []
    for layer in layers:
        x, y, z, kept = _visible(view, layer.xyz)
        rgb, size = layer.rgb[kept], np.broadcast_to(layer.radius, len(layer.xyz))[kept]
        radius = np.clip(view.K[0, 0] * size / z, layer.min_pixels, MAX_RADIUS)
        rings = np.ceil(radius).astype(int)
        for ring in np.unique(rings):
            some = np.flatnonzero(rings == ring)
            for dx, dy in _disc(int(ring)):
                u, v = x[some] + dx, y[some] + dy
                inside = (
                    (dx * dx + dy * dy <= radius[some] ** 2 + 0.5)
                    & (u >= 0) & (u < view.width) & (v >= 0) & (v < view.height)
                )  # fmt: skip
                pixels.append((v * view.width + u)[inside])
                depths.append(z[some][inside])
                colors.append(rgb[some][inside])
    color = np.tile(np.array(background, np.float32), (view.height * view.width, 1))
    depth = np.full(view.height * view.width, np.inf, dtype=np.float32)
    if pixels:
        pixel, z, rgb = (np.concatenate(part) for part in (pixels, depths, colors))
        order = np.argsort(-z, kind="stable")  # of several writes to a pixel the nearest is last
        color[pixel[order]] = rgb[order]
        depth[pixel[order]] = z[order]
    return color.reshape(view.height, view.width, 3), depth.reshape(view.height, view.width)


def project(view: Viewpoint, xyz: NDArray) -> tuple[NDArray, NDArray, NDArray]:
    """Pixels u, v and depth (N,) each of points (N, 3); pixels mean nothing behind the viewer."""
    rotation, position = view.T_world_cam[:3, :3], view.T_world_cam[:3, 3]
    camera = (xyz - position) @ rotation
    z = camera[:, 2]
    ahead = np.maximum(z, NEAR)
    u = camera[:, 0] / ahead * view.K[0, 0] + view.K[0, 2]
    v = camera[:, 1] / ahead * view.K[1, 1] + view.K[1, 2]
    return u, v, z


def _visible(view: Viewpoint, xyz: NDArray) -> tuple[NDArray, NDArray, NDArray, NDArray]:
    """Integer pixels and depths of the points on or near the picture, and which these are."""
    u, v, z = project(view, xyz)
    kept = np.flatnonzero(
        (z > NEAR)
        & (np.abs(u - view.width / 2) < view.width)
        & (np.abs(v - view.height / 2) < view.height)
    )
    return np.rint(u[kept]).astype(int), np.rint(v[kept]).astype(int), z[kept], kept


def _disc(radius: int) -> list[tuple[int, int]]:
    span = range(-radius, radius + 1)
    return [(dx, dy) for dx in span for dy in span if dx * dx + dy * dy <= radius * radius + 0.5]


def _depth_shading(depth: F32) -> F32:
    """Eye-dome lighting: a pixel darkens by how far it lies behind its neighbours."""
    far = np.where(np.isfinite(depth), depth, 0).max(initial=1.0) + 1
    log = np.log2(np.where(np.isfinite(depth), depth, far))
    behind = np.zeros_like(log)
    for step in (2, 5):
        for dx, dy in ((step, 0), (-step, 0), (0, step), (0, -step)):
            behind += np.clip(log - np.roll(log, (dy, dx), axis=(0, 1)), 0, 0.12)
    shade = np.exp(-SHADE * behind)
    return np.where(np.isfinite(depth), shade, 1).astype(np.float32)


def segments(start: NDArray, end: NDArray, spacing: float) -> F32:
    """(M, 3) points along the segments from ``start`` to ``end``, both (N, 3), metres."""
    parts = [
        np.linspace(a, b, max(2, int(np.linalg.norm(b - a) / spacing)))
        for a, b in zip(start, end, strict=True)
    ]
    return np.concatenate(parts).astype(np.float32) if parts else np.zeros((0, 3), np.float32)
