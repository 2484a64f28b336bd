"""When unknown cameras are looked at by keypoints, and what is remembered of that."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from hamst3r.alignment.intrinsics import FocalAverage, Lens, scaled_focal
from hamst3r.alignment.observations import Observations
from hamst3r.alignment.placement import Placement
from hamst3r.alignment.sightings import FEWEST
from hamst3r.alignment.structure import Structure, build
from hamst3r.keypoints import Keypoints

F64 = NDArray[np.float64]
# Frame sets in a row that are looked at, and how rarely from then on: that takes longer than all of
# the rest of the alignment, and cameras stand.
FIRST, EVERY = 5, 10
# Looks in a row that find others but not this camera, after which its place is not believed.
GIVE_UP = 3
# Share of the keypoints' observations.
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
        self._sets = 0

    @property
    def cameras(self) -> frozenset[str]:
        """Whose poses are known by keypoints."""
        return frozenset(self._cameras)

    def due(self, names: Sequence[str]) -> bool:
        """Whether the next frame set, of these cameras, should be looked at."""
        unknown = not set(names) <= set(self._cameras)
        return self._sets < FIRST or self._sets % (FIRST if unknown else EVERY) == 0

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
        """
        self._sets += 1
        names = [grid.name for grid in observations.grids]
        structure = None
        if keypoints is not None:
            structure = build(keypoints, lenses, observations, known)
        if structure is not None:
            placed = by_network()
            factors = placed.focal_factor
            K = [scaled_focal(lens.K, factors.get(v, 1.0)) for v, lens in enumerate(lenses)]
            if structure.explained(placed.T_world_cam, K) > EXPLAINED:
                self._cameras.clear()
                return Recognised()
            self._remember(structure, known, observations)
        cameras = {v: self._cameras[name] for v, name in enumerate(names) if name in self._cameras}
        views = set(world) if structure is None else {names[v] for v in structure.views}
        told = {v: c for v, c in cameras.items() if v not in known and names[v] in views}
        poses = (
            {v: world[names[v]] for v in told}
            if structure is None
            else {v: structure.bundle.T_world_cam[v] for v in told}
        )
        return Recognised(
            poses,
            {v: _K(lenses[v], c, observations.grids[v].shape[1]) for v, c in told.items()},
            {v: c.agreement for v, c in told.items()},
            fresh=structure is not None,
        )

    def _remember(
        self, structure: Structure, known: Mapping[int, F64], observations: Observations
    ) -> None:
        grids = observations.grids
        views = [v for v in structure.views if v not in known]
        for v in views:
            camera = self._cameras.setdefault(grids[v].name, _Memory(FocalAverage(self._window)))
            camera.focal.add(structure.bundle.adjusted_K[v][0, 0] / grids[v].shape[1])
            shared = structure.points_of(v)
            camera.agreement, camera.missed = shared / (shared + FEWEST), 0
        here = {grid.name for grid in grids} & set(self._cameras)
        for name in here - {grids[v].name for v in views}:
            self._cameras[name].missed += 1
            if self._cameras[name].missed >= GIVE_UP:
                del self._cameras[name]


def _K(lens: Lens, camera: _Memory, width: int) -> F64:
    focal = camera.focal.value
    if lens.K_std == 0 or focal is None:
        return lens.K
    return scaled_focal(lens.K, focal * width / lens.K[0, 0])
