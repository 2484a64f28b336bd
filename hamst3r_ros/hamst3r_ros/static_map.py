"""What stays where it is: a map of cubes, gathered over frame sets and without people."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hamst3r.geometry import invert, project, transform
from hamst3r.scene import LABEL_SCENE, Camera, Scene, View

HALF = 1 << 20  # cubes each way from the origin that a key can hold
CONFIRMED = 2.0  # weight from which a cube is in the map: it was seen in two frame sets
WEIGHT_MAX = 10.0  # what was seen long is gone soon all the same, once it is seen through
# A cube is seen through when the surface behind it is farther by this share and one cube.
MARGIN = 0.1


@dataclass(frozen=True, eq=False)
class _Cubes:
    """Sorted by ``key``: where the points of each cube are on average, their colour, and weight."""

    key: NDArray[np.int64]
    xyz: NDArray[np.float32]
    rgb: NDArray[np.float32]
    weight: NDArray[np.float32]

    def __getitem__(self, chosen: NDArray) -> _Cubes:
        return _Cubes(self.key[chosen], self.xyz[chosen], self.rgb[chosen], self.weight[chosen])


_EMPTY = _Cubes(
    np.empty(0, np.int64),
    np.empty((0, 3), np.float32),
    np.empty((0, 3), np.float32),
    np.empty(0, np.float32),
)


def cube_keys(xyz: NDArray, voxel: float) -> NDArray[np.int64]:
    """(N,) a number for the cube of side ``voxel`` that each point is in; -1 too far out."""
    index = np.floor(xyz / voxel).astype(np.int64) + HALF
    key = (index[:, 0] * 2 * HALF + index[:, 1]) * 2 * HALF + index[:, 2]
    return np.where(((index >= 0) & (index < 2 * HALF)).all(1), key, -1)


class StaticMap:
    """Cubes with evidence for and against them, as occupancy maps have it (Hornung et al. 2013).

    Points of people never enter. What entered wrongly (somebody whom no mask claimed) leaves
    again as soon as a camera sees the surface behind it.
    """

    def __init__(self) -> None:
        self._voxel = 0.0
        self._cubes = _EMPTY

    def clear(self) -> None:
        """Forget everything."""
        self._cubes = _EMPTY

    def add(self, scene: Scene, voxel: float, limit: int) -> None:
        """Take a frame set in.

        Args:
            voxel: Side of a cube, metres; another one than before starts a new map.
            limit: Most cubes; those with the least weight go first.
        """
        if voxel != self._voxel:
            self._voxel = voxel
            self.clear()
        known, seen = self._cubes, _cubes(scene, voxel)
        again = np.isin(known.key, seen.key, assume_unique=True)
        weight = np.where(again, known.weight, known.weight - self._seen_through(scene))
        kept = _Cubes(known.key, known.xyz, known.rgb, weight)[weight > 0]
        cubes = _merge(kept, seen)
        if len(cubes.key) > limit:
            best = np.argsort(-cubes.weight, kind="stable")[:limit]
            cubes = cubes[np.sort(best)]
        self._cubes = cubes

    def confirmed(self) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        """(N, 3) places in the world, metres, and (N, 3) colours of what is known to be there."""
        cubes = self._cubes[self._cubes.weight >= CONFIRMED]
        return cubes.xyz, np.rint(cubes.rgb).astype(np.uint8)

    def _seen_through(self, scene: Scene) -> NDArray[np.bool_]:
        through = np.zeros(len(self._cubes.key), bool)
        for camera, view in zip(scene.cameras, scene.views, strict=True):
            through |= _behind_is_seen(self._cubes.xyz, camera, view, self._voxel)
        return through


def _cubes(scene: Scene, voxel: float) -> _Cubes:
    """One frame set's cubes, each of weight 1."""
    points = scene.points
    key = cube_keys(points.xyz, voxel)
    use = (points.label == LABEL_SCENE) & (key >= 0)
    keys, group, count = np.unique(key[use], return_inverse=True, return_counts=True)

    def mean(values: NDArray) -> NDArray[np.float32]:
        sums = [np.bincount(group.reshape(-1), values[use, c], len(keys)) for c in range(3)]
        return (np.stack(sums, -1) / count[:, None]).astype(np.float32)

    return _Cubes(keys, mean(points.xyz), mean(points.rgb), np.ones(len(keys), np.float32))


def _merge(known: _Cubes, seen: _Cubes) -> _Cubes:
    at = np.searchsorted(known.key, seen.key)
    same = np.zeros(len(seen.key), bool)
    inside = at < len(known.key)
    same[inside] = known.key[at[inside]] == seen.key[inside]
    at = at[same]
    weight = known.weight.copy()
    weight[at] = np.minimum(weight[at] + 1, WEIGHT_MAX)
    share = (1 / weight[at])[:, None]
    xyz, rgb = known.xyz.copy(), known.rgb.copy()
    xyz[at] += share * (seen.xyz[same] - xyz[at])
    rgb[at] += share * (seen.rgb[same] - rgb[at])
    new = seen[~same]
    key = np.concatenate([known.key, new.key])
    order = np.argsort(key, kind="stable")
    return _Cubes(
        key,
        np.concatenate([xyz, new.xyz]),
        np.concatenate([rgb, new.rgb]),
        np.concatenate([weight, new.weight]),
    )[order]


def _behind_is_seen(xyz: NDArray, camera: Camera, view: View, voxel: float) -> NDArray[np.bool_]:
    """(N,) whether a camera sees a surface well behind the points, in their direction."""
    points = transform(invert(camera.T_world_cam), xyz)
    height, width = view.depth.shape
    with np.errstate(invalid="ignore"):
        pixels = np.rint(np.nan_to_num(project(points, view.K), nan=-1.0))
    inside = (pixels >= 0).all(1) & (pixels[:, 0] < width) & (pixels[:, 1] < height)
    u, v = pixels[inside].astype(int).T
    through = np.zeros(len(xyz), bool)
    through[inside] = view.depth[v, u] * (1 - MARGIN) - voxel > points[inside, 2]
    return through
