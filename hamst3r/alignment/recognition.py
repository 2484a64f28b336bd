"""When unknown cameras are looked at by keypoints, and what is remembered of that."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from hamst3r.alignment.intrinsics import FocalAverage, Lens, scaled_focal
from hamst3r.alignment.observations import Observations
from hamst3r.alignment.placement import Placement
from hamst3r.alignment.structure import Structure, build
from hamst3r.alignment.two_views import FEWEST
from hamst3r.keypoints import Keypoints

F64 = NDArray[np.float64]
# Frame sets in a row that are looked at, and how rarely from then on: that takes longer than all of
# the rest of the alignment, and cameras stand.
FIRST, EVERY = 5, 10
# Looks in a row that find others but not this camera, or everything elsewhere, after which what is
# remembered is not believed.
GIVE_UP = 3
# Share of a view's points that known poses explain, if they are right.
EXPLAINED = 0.5


@dataclass(frozen=True, eq=False)
class Recognised:
    """Views whose poses keypoints tell.

    Attributes:
        poses: view -> T_world_cam (4, 4). In the world that is known already; if ``fresh``, in axes
            of their own.
        K: view -> (3, 3) on the grid.
        agreement: view -> in [0, 1], from the number of points that it shares with others.
    """

    poses: dict[int, F64] = field(default_factory=dict)
    K: dict[int, F64] = field(default_factory=dict)
    agreement: dict[int, float] = field(default_factory=dict)
    fresh: bool = False


@dataclass
class _Memory:
    """Of one camera: focal length over the grid's width, agreement, looks that missed it."""

    focal: FocalAverage
    agreement: float = 0.0
    missed: int = 0


class Recognition:
    """Looks at frame sets now and then; in between, cameras are where they were.

    Args:
        window: Frame sets over which focal lengths are averaged.
    """

    def __init__(self, window: int) -> None:
        self._window = window
        self._cameras: dict[str, _Memory] = {}
        self._sets = self._doubts = 0

    @property
    def cameras(self) -> frozenset[str]:
        """Whose poses are known by keypoints."""
        return frozenset(self._cameras)

    def due(self, names: Sequence[str]) -> bool:
        """Whether the next frame set, of these cameras, should be looked at."""
        unknown = not set(names) <= set(self._cameras)
        return (
            self._sets < FIRST
            or self._doubts > 0
            or self._sets % (FIRST if unknown else EVERY) == 0
        )

    def look(
        self,
        keypoints: Sequence[Keypoints] | None,
        lenses: Sequence[Lens],
        observations: Observations,
        known: Mapping[int, F64],
        world: Mapping[str, F64],
        by_network: Callable[[], Placement],
    ) -> Recognised:
        """Poses of views that are not ``known``, fresh or from before.

        Args:
            keypoints: Per view; None = not this time. lenses: Per view.
            observations: Of the network.
            known: view -> exact pose. world: Camera -> pose that is remembered.
            by_network: Asked for what the network's pairs say of the poses. Where that explains the
                keypoints, too, nothing is better known by them: dense pairs are more exact.

        What is remembered stays as long as it explains what is seen: cameras stand, and another
        look at the same things tells little more.
        """
        self._sets += 1
        kept = self._remembered(lenses, observations, known, world)
        if keypoints is None:
            return kept
        structure = build(keypoints, lenses, observations, known, kept.K)
        if structure is None:
            return kept
        if kept.poses and structure.explained(kept.poses, kept.K) > EXPLAINED:
            self._doubts = 0
            return self._joined(kept, structure, keypoints, lenses, observations, known)
        self._doubts += bool(kept.poses)
        if kept.poses and self._doubts < GIVE_UP:
            return kept
        self._doubts = 0
        if kept.poses:  # Nor are the focal lengths believed any more.
            structure = build(keypoints, lenses, observations, known)
            if structure is None:
                return kept
        return self._anew(structure, lenses, observations, known, by_network())

    def _remembered(
        self,
        lenses: Sequence[Lens],
        observations: Observations,
        known: Mapping[int, F64],
        world: Mapping[str, F64],
    ) -> Recognised:
        """Views of cameras that were recognised before."""
        found = Recognised()
        for v, grid in enumerate(observations.grids):
            camera = self._cameras.get(grid.name)
            if camera is not None and v not in known and grid.name in world:
                found.poses[v] = world[grid.name]
                found.K[v] = _K(lenses[v], camera, grid.shape[1])
                found.agreement[v] = camera.agreement
        return found

    def _joined(
        self,
        kept: Recognised,
        structure: Structure,
        keypoints: Sequence[Keypoints],
        lenses: Sequence[Lens],
        observations: Observations,
        known: Mapping[int, F64],
    ) -> Recognised:
        """What is remembered and was confirmed, and beside it cameras that are new."""
        self._confirm([grid.name for grid in observations.grids], structure.views)
        if set(structure.views) <= kept.poses.keys() | known.keys():
            return kept
        lenses = [Lens(kept.K[v], 0.0) if v in kept.K else lens for v, lens in enumerate(lenses)]
        beside = build(keypoints, lenses, observations, {**known, **kept.poses})
        if beside is None:
            return kept
        new = [v for v in beside.views if v not in kept.poses and v not in known]
        return self._with(kept, beside, new, lenses, observations)

    def _anew(
        self,
        structure: Structure,
        lenses: Sequence[Lens],
        observations: Observations,
        known: Mapping[int, F64],
        placed: Placement,
    ) -> Recognised:
        """All cameras of a structure, or none if the network's pairs explain it, too."""
        factor = placed.focal_factor
        guess = {v: scaled_focal(x.K, factor.get(v, 1.0)) for v, x in enumerate(lenses)}
        everyone = set(structure.views) <= placed.T_world_cam.keys()
        # What else is remembered of these cameras is of another world.
        gone = {grid.name for grid in observations.grids}
        self._cameras = {n: camera for n, camera in self._cameras.items() if n not in gone}
        if everyone and structure.explained(placed.T_world_cam, guess) > EXPLAINED:
            return Recognised()
        views = [v for v in structure.views if v not in known]
        return self._with(Recognised(fresh=True), structure, views, lenses, observations)

    def _with(
        self,
        before: Recognised,
        structure: Structure,
        views: Sequence[int],
        lenses: Sequence[Lens],
        observations: Observations,
    ) -> Recognised:
        """What was recognised, and some views of a structure, which are remembered."""
        poses, K, agreement = dict(before.poses), dict(before.K), dict(before.agreement)
        for v in views:
            grid, shared = observations.grids[v], structure.points_of(v)
            camera = self._cameras.setdefault(grid.name, _Memory(FocalAverage(self._window)))
            camera.focal.add(structure.bundle.adjusted_K[v][0, 0] / grid.shape[1])
            camera.agreement = agreement[v] = shared / (shared + FEWEST)
            poses[v] = structure.bundle.T_world_cam[v]
            K[v] = _K(lenses[v], camera, grid.shape[1])
        return Recognised(poses, K, agreement, before.fresh)

    def _confirm(self, names: Sequence[str], views: Sequence[int]) -> None:
        """Some cameras were found; of the others those are forgotten that never are."""
        for v, name in enumerate(names):
            if (camera := self._cameras.get(name)) is not None:
                camera.missed = 0 if v in views else camera.missed + 1
                if camera.missed >= GIVE_UP:
                    del self._cameras[name]


def _K(lens: Lens, camera: _Memory, width: int) -> F64:
    focal = camera.focal.value
    if lens.K_std == 0 or focal is None:
        return lens.K
    return scaled_focal(lens.K, focal * width / lens.K[0, 0])
