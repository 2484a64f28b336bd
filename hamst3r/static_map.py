"""What stays where it is: a map of cubes, gathered over frame sets and without people."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from hamst3r.geometry import invert, project, transform
from hamst3r.scene import LABEL_SCENE, Scene, View

HALF = 1 << 20  # cubes each way from the origin that a key can hold
# Weight from which a cube is in the map: it was seen in so many frame sets. Who walks does not stay
# in one cube for as long, even if no mask claims him.
CONFIRMED = 4.0
WEIGHT_MAX = 10.0  # what was seen long is gone soon all the same, once it is seen through
# Below this weight a cube is provisional: unseen for so many frame sets, it is forgotten. Who was
# there for a moment leaves the map so even where no camera looks again.
LASTING, FORGOTTEN = 8.0, 100
# Metres around a tracked person's middle, level and upright, in which a view that does not show the
# person is not believed to show the place.
REACH, HALF_HEIGHT = 0.6, 1.2
# A cube is seen through when the surface behind it is farther by this share and one cube.
MARGIN = 0.1


@dataclass(frozen=True, eq=False)
class _Cubes:
    """Sorted by ``key``: where the points of each cube are on average, their colour, the weight,
    and in which frame set it was seen last."""

    key: NDArray[np.int64]
    xyz: NDArray[np.float32]
    rgb: NDArray[np.float32]
    weight: NDArray[np.float32]
    last: NDArray[np.int64]

    def __getitem__(self, chosen: NDArray) -> _Cubes:
        return _Cubes(*(getattr(self, f.name)[chosen] for f in fields(self)))


_EMPTY = _Cubes(
    np.empty(0, np.int64),
    np.empty((0, 3), np.float32),
    np.empty((0, 3), np.float32),
    np.empty(0, np.float32),
    np.empty(0, np.int64),
)


def cube_keys(xyz: NDArray, voxel: float) -> NDArray[np.int64]:
    """(N,) a number for the cube of side ``voxel`` that each point is in; -1 too far out."""
    index = np.floor(xyz / voxel).astype(np.int64) + HALF
    key = (index[:, 0] * 2 * HALF + index[:, 1]) * 2 * HALF + index[:, 2]
    return np.where(((index >= 0) & (index < 2 * HALF)).all(1), key, -1)


class StaticMap:
    """Cubes with evidence for and against them, as occupancy maps have it (Hornung et al. 2013).

    Points of people never enter, nor what a view shows of the place of a tracked person whom it
    does not show (its mask is missing). What entered wrongly all the same leaves again as soon as a
    camera sees the surface behind it, or when it was not seen for long enough to last and is not
    seen again. Cubes are those of the map (see
    ``Scene.T_map_world``), so that a corrected drift of moving cameras does not blur it.
    """

    def __init__(self) -> None:
        self._voxel = 0.0
        self._cubes = _EMPTY
        self._T_map_world = np.eye(4)
        self._step = 0

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
        self._T_map_world = scene.T_map_world
        self._step += 1
        known, seen = self._cubes, _cubes(scene, voxel, self._step)
        again = np.isin(known.key, seen.key, assume_unique=True)
        through, people = self._contradicted(scene, known)
        # Where a person is now, what is not known well was one whom no mask had claimed.
        weight = known.weight - (through & ~again) - (people & (known.weight <= CONFIRMED))
        lasting = (known.weight >= LASTING) | (self._step - known.last <= FORGOTTEN)
        kept = replace(known, weight=weight)[(weight > 0) & lasting]
        cubes = _merge(kept, seen)
        if len(cubes.key) > limit:
            best = np.argsort(-cubes.weight, kind="stable")[:limit]
            cubes = cubes[np.sort(best)]
        self._cubes = cubes

    def holds(self, keys: NDArray[np.int64], confirmed: bool) -> NDArray[np.bool_]:
        """(N,) whether cubes of these keys (:func:`cube_keys`) are known, or even confirmed."""
        cubes = self._cubes
        if len(cubes.key) == 0:
            return np.zeros(len(keys), bool)
        at = np.searchsorted(cubes.key, keys).clip(max=len(cubes.key) - 1)
        there = cubes.key[at] == keys
        return there & (cubes.weight[at] >= CONFIRMED) if confirmed else there

    def confirmed(self) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        """(N, 3) places and (N, 3) colours of what is known to be there.

        The places are in the world of the frame set that was added last, metres.
        """
        cubes = self._cubes[self._cubes.weight >= CONFIRMED]
        xyz = transform(invert(self._T_map_world), cubes.xyz)
        return xyz, np.rint(cubes.rgb).astype(np.uint8)

    def _contradicted(
        self, scene: Scene, known: _Cubes
    ) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """(N,) each: whether a camera sees through it, and whether one sees a person in it."""
        through = np.zeros(len(known.key), bool)
        people = np.zeros(len(known.key), bool)
        for camera, view in zip(scene.cameras, scene.views, strict=True):
            T_map_cam = scene.T_map_world @ camera.T_world_cam
            at, z, depth, instance = _looked_up(known.xyz, T_map_cam, view)
            through[at] |= depth * (1 - MARGIN) - self._voxel > z
            near = np.abs(depth - z) < MARGIN * depth + self._voxel
            people[at] |= near & (depth > 0) & (instance > 0)
        return through, people


def _cubes(scene: Scene, voxel: float, step: int) -> _Cubes:
    """One frame set's cubes, each of weight 1."""
    points = scene.points
    xyz = transform(scene.T_map_world, points.xyz)
    key = cube_keys(xyz, voxel)
    use = (points.label == LABEL_SCENE) & (key >= 0) & ~_of_somebody(scene)
    keys, group, count = np.unique(key[use], return_inverse=True, return_counts=True)

    def mean(values: NDArray) -> NDArray[np.float32]:
        sums = [np.bincount(group.reshape(-1), values[use, c], len(keys)) for c in range(3)]
        return (np.stack(sums, -1) / count[:, None]).astype(np.float32)

    weight, last = np.ones(len(keys), np.float32), np.full(len(keys), step)
    return _Cubes(keys, mean(xyz), mean(points.rgb), weight, last)


def _of_somebody(scene: Scene) -> NDArray[np.bool_]:
    """(N,) points that may be of a person although no mask claims them.

    They are on a body, or where a tracked person is whom their view does not show.
    """
    points = scene.points
    result: NDArray[np.bool_] = np.isfinite(points.body[:, 0])
    for index, view in enumerate(scene.views):
        shown = set(np.unique(view.instances).tolist())
        missing = [person.position for person in scene.people if person.id not in shown]
        at = np.flatnonzero(points.camera == index) if missing else np.empty(0, int)
        for position in missing:
            off = points.xyz[at] - position
            near = (np.hypot(off[:, 0], off[:, 1]) < REACH) & (np.abs(off[:, 2]) < HALF_HEIGHT)
            result[at[near]] = True
    return result


def _merge(known: _Cubes, seen: _Cubes) -> _Cubes:
    at = np.searchsorted(known.key, seen.key)
    same = np.zeros(len(seen.key), bool)
    inside = at < len(known.key)
    same[inside] = known.key[at[inside]] == seen.key[inside]
    at = at[same]
    weight = known.weight.copy()
    weight[at] = np.minimum(weight[at] + 1, WEIGHT_MAX)
    last = known.last.copy()
    last[at] = seen.last[same]
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
        np.concatenate([last, new.last]),
    )[order]


def _looked_up(
    xyz: NDArray, T_map_cam: NDArray, view: View
) -> tuple[NDArray[np.intp], NDArray, NDArray, NDArray]:
    """What a view has in the direction of points (N, 3) of the map.

    Returns:
        (M,) each: index of a point in the image, its depth, the view's depth and instance there.
    """
    points = transform(invert(T_map_cam), xyz)
    height, width = view.depth.shape
    with np.errstate(invalid="ignore"):
        pixels = np.rint(np.nan_to_num(project(points, view.K), nan=-1.0))
    inside = (pixels >= 0).all(1) & (pixels[:, 0] < width) & (pixels[:, 1] < height)
    at = np.flatnonzero(inside)
    u, v = pixels[at].astype(int).T
    return at, points[at, 2], view.depth[v, u], view.instances[v, u]
