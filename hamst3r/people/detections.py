"""One frame set's people in space, before they are matched with those known."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hamst3r.geometry import project
from hamst3r.people.densepose import VertexLookup
from hamst3r.people.instances import ViewPeople
from hamst3r.people.lifting import Glimpse, LiftingConfig, lift
from hamst3r.people.looks import Looks
from hamst3r.people.triangulation import Triangulator
from hamst3r.scene import ScaleSource

if TYPE_CHECKING:
    from hamst3r.alignment.incremental import Alignment

F64 = NDArray[np.float64]


@dataclass(frozen=True)
class DetectionConfig:
    """What makes a person in space.

    Attributes:
        min_pixels: Fewer pixels with depth: nobody.
        merge_distance: Local ids of no common view this near are one person, metres.
        max_points: Points handed to the fit. max_triangulated: Of these, from crossed rays.
        triangulated_weight: Of such a point against a pixel's.
        hidden: A view whose depth is less than this share of a place's does not show the place.
        beside: Pixels that a place may be beside a mask and still be in it.
    """

    min_pixels: int = 20
    merge_distance: float = 0.5
    max_points: int = 500
    max_triangulated: int = 200
    triangulated_weight: float = 3.0
    hidden: float = 0.7
    beside: int = 2
    lifting: LiftingConfig = field(default_factory=LiftingConfig)


@dataclass(frozen=True, eq=False)
class Detection:
    """One person now.

    Attributes:
        local_ids: Of the frame set; several if views were joined here. views: Indices.
        score: In [0, 1]. num_points: Pixels with depth, over all views.
        centre: (3,) median of the points, each moved from the skin to where the hips are, world
            metres. size: The points' median distance from their own median.
        covariance: (3, 3) of the centre, by where the views are that show the person.
        points: (n, 3), vertex_ids: (n,) (-1 unknown), weights: (n,): for the body fit.
        depth_factors: View -> what its depth of this person is to be multiplied with, as crossed
            rays say.
        camera: (3,) where the camera that sees most of the person is, world metres.
        stature: How many times as large as the body model they look, NaN = unknown.
        missed: Of somebody whom one view shows, the number of others that should and do not.
        doubtful: Whether nobody is there unless somebody is expected there.
        looks: By camera, where colours are known.
    """

    local_ids: tuple[int, ...]
    views: frozenset[int]
    score: float
    num_points: int
    centre: F64
    covariance: F64
    size: float
    points: F64
    vertex_ids: NDArray[np.int64]
    weights: F64
    depth_factors: dict[int, float]
    camera: F64
    stature: float = math.nan
    missed: int = 0
    doubtful: bool = False
    looks: Looks = field(default_factory=dict)

    @property
    def known(self) -> int:
        """Number of points with a vertex."""
        return int((self.vertex_ids >= 0).sum())


def detect(
    views: Sequence[ViewPeople],
    alignment: Alignment,
    lookup: VertexLookup,
    triangulator: Triangulator,
    rng: np.random.Generator,
    config: DetectionConfig | None = None,
) -> list[Detection]:
    """People in space; the shapes and errors are those of :func:`lift`."""
    config = config or DetectionConfig()
    glimpses = lift(views, alignment, lookup, rng, config.lifting)
    scores: dict[int, list[float]] = {}
    believed = {int(k) for view in views for k in np.unique(view.instances)}
    for view in views:
        for local, score in view.scores.items():
            scores.setdefault(local, []).append(score)
    found = []
    metric = alignment.scale_source is ScaleSource.CALIBRATION
    for group in _join(glimpses, triangulator, config.merge_distance):
        own = [glimpse for local in group for glimpse in glimpses[local]]
        if sum(glimpse.count for glimpse in own) < config.min_pixels:
            continue
        sure = [local for local in group if local in believed]
        score = float(np.mean([value for local in sure or group for value in scores[local]]))
        one = _detection(tuple(group), score, own, triangulator, rng, config, metric)
        found.append(replace(one, doubtful=not sure))
    return _doubt(_gather(found, views, alignment, config), views, alignment, config)


def _gather(
    found: list[Detection],
    views: Sequence[ViewPeople],
    alignment: Alignment,
    config: DetectionConfig,
) -> list[Detection]:
    """Without the pieces into which masks fall apart: what one view alone claims and at least two
    others, most of them, see within somebody's mask is that person's."""
    whole = [own for own in found if len(own.views) > 2]
    kept = list(whole)
    for piece in (own for own in found if len(own.views) <= 2):
        homes = []
        for k, own in enumerate(whole if len(piece.views) == 1 else ()):
            others = own.views - piece.views
            inside = sum(
                _within(views[v].claimed, own.local_ids, pixel, config.beside)
                for v in others
                if (pixel := _pixel(piece.centre, alignment, v)) is not None
            )
            if inside >= max(2, 0.6 * len(others)):
                homes.append((inside, own.num_points, k))
        if homes:
            home = max(homes)[-1]
            kept[home] = absorb(kept[home], piece)
        else:
            kept.append(piece)
    return kept


def _doubt(
    found: list[Detection],
    views: Sequence[ViewPeople],
    alignment: Alignment,
    config: DetectionConfig,
) -> list[Detection]:
    """With the number of views that should show somebody whom only one does."""
    result = []
    for own in found:
        missed = 0
        if len(own.views) == 1:
            others = set(range(len(views))) - own.views
            missed = sum(_shown(own.centre, alignment, v, config) for v in others)
        result.append(replace(own, missed=missed))
    return result


def _shown(place: F64, alignment: Alignment, view: int, config: DetectionConfig) -> bool:
    """Whether a view sees a place (3,): in its image, with nothing before it."""
    pixel = _pixel(place, alignment, view)
    if pixel is None:
        return False
    T = alignment.T_world_cam[view]
    return not 0 < alignment.depth[view][pixel] < config.hidden * (place - T[:3, 3]) @ T[:3, 2]


def _pixel(place: F64, alignment: Alignment, view: int) -> tuple[int, int] | None:
    """Row and column of a place (3,) in a view, None outside of it."""
    if not alignment.placed[view]:
        return None
    T, depth = alignment.T_world_cam[view], alignment.depth[view]
    seen = (place - T[:3, 3]) @ T[:3, :3]
    if seen[2] <= 0:
        return None
    column, row = np.rint(project(seen, alignment.K[view]))
    if not (0 <= row < depth.shape[0] and 0 <= column < depth.shape[1]):
        return None
    return int(row), int(column)


def _within(
    instances: NDArray[np.int32], ids: tuple[int, ...], pixel: tuple[int, int], beside: int
) -> bool:
    rows, columns = (slice(max(at - beside, 0), at + beside + 1) for at in pixel)
    return bool(np.isin(instances[rows, columns], ids).any())


def _join(
    glimpses: dict[int, list[Glimpse]], triangulator: Triangulator, distance: float
) -> list[list[int]]:
    """Groups of local ids that are one person seen by views that do not share a pair.

    Nearest first; a group never holds two ids of one view, which are two people.
    """
    groups = {local: [local] for local in glimpses}
    seen_in = {local: {g.view for g in own} for local, own in glimpses.items()}
    shapes = {local: _Shape.of(own, triangulator) for local, own in glimpses.items()}
    gaps = sorted((shapes[a].gap(shapes[b]), a, b) for a, b in combinations(glimpses, 2))
    for gap, a, b in gaps:
        if gap >= distance:
            break
        if groups[a] is groups[b]:
            continue
        views_a = set().union(*(seen_in[local] for local in groups[a]))
        views_b = set().union(*(seen_in[local] for local in groups[b]))
        if views_a & views_b:
            continue
        groups[a].extend(groups[b])
        for local in groups[b]:
            groups[local] = groups[a]
    unique = {id(group): group for group in groups.values()}
    return [sorted(group) for group in unique.values()]


# Places of the body that two views must share for their agreement to count.
_COMMON_PLACES = 6


@dataclass(frozen=True, eq=False)
class _Shape:
    """Where one local id is: its middle (3,), and the mean point (n, 3) per place of the body."""

    centre: F64
    places: NDArray[np.int64]
    points: F64

    @staticmethod
    def of(glimpses: Sequence[Glimpse], triangulator: Triangulator) -> _Shape:
        points = np.concatenate([glimpse.points for glimpse in glimpses])
        vertex_ids = np.concatenate([glimpse.vertex_ids for glimpse in glimpses])
        known = vertex_ids >= 0
        places, row = np.unique(triangulator.cell[vertex_ids[known]], return_inverse=True)
        count = np.bincount(row, minlength=len(places))
        sums = [np.bincount(row, column, len(places)) for column in points[known].T]
        return _Shape(np.median(points, axis=0), places, np.stack(sums, 1) / count[:, None])

    def gap(self, other: _Shape) -> float:
        """Metres between equal places of the body; between the middles where few are common."""
        _, own, theirs = np.intersect1d(
            self.places, other.places, assume_unique=True, return_indices=True
        )
        if len(own) < _COMMON_PLACES:
            return float(np.linalg.norm(self.centre - other.centre))
        return float(np.median(np.linalg.norm(self.points[own] - other.points[theirs], axis=1)))


def _detection(
    local_ids: tuple[int, ...],
    score: float,
    glimpses: list[Glimpse],
    triangulator: Triangulator,
    rng: np.random.Generator,
    config: DetectionConfig,
    metric: bool,
) -> Detection:
    crossed, corrected = triangulator(glimpses)
    if metric:  # Else it is people who tell how large the world is.
        corrected = [glimpse.no_giant() for glimpse in corrected]
    factors = {
        before.view: float(after.depth[0] / before.depth[0])
        for before, after in zip(glimpses, corrected, strict=True)
    }
    glimpses = corrected
    some = _draw(len(crossed.points), config.max_triangulated, rng)
    room = max(config.max_points - len(some), 0)
    points = np.concatenate([glimpse.points for glimpse in glimpses])
    vertex_ids = np.concatenate([glimpse.vertex_ids for glimpse in glimpses])
    weights = np.concatenate([glimpse.weights for glimpse in glimpses])
    centre = np.median(np.concatenate([glimpse.inner for glimpse in glimpses]), axis=0)
    size = float(np.median(np.linalg.norm(points - np.median(points, axis=0), axis=1)))
    statures = [own for glimpse in glimpses if math.isfinite(own := glimpse.stature)]
    labelled = np.flatnonzero(vertex_ids >= 0)
    rest = labelled[_draw(len(labelled), room, rng)]
    return Detection(
        local_ids=local_ids,
        views=frozenset(glimpse.view for glimpse in glimpses),
        score=score,
        num_points=sum(glimpse.count for glimpse in glimpses),
        centre=centre,
        covariance=_covariance(glimpses),
        size=max(size, 0.05),
        points=np.concatenate([crossed.points[some], points[rest]]).astype(np.float32),
        vertex_ids=np.concatenate([crossed.vertex_ids[some], vertex_ids[rest]]),
        weights=np.concatenate(
            [config.triangulated_weight * crossed.weights[some], weights[rest]]
        ).astype(np.float32),
        depth_factors=factors,
        camera=max(glimpses, key=lambda glimpse: glimpse.count).T_world_cam[:3, 3],
        stature=float(np.median(statures)) if statures else math.nan,
    )


def _covariance(glimpses: Sequence[Glimpse]) -> F64:
    """(3, 3) of the middle of a person: one view tells it across the line of sight only."""
    information: F64 = np.zeros((3, 3))
    for glimpse in glimpses:
        information += sum(glimpse.information(float(np.median(glimpse.depth))))
    return np.linalg.inv(information).astype(np.float64)


def absorb(whole: Detection, piece: Detection) -> Detection:
    """A person with a piece of the same person in other views, whose points were not joined."""
    return replace(
        whole,
        local_ids=(*whole.local_ids, *piece.local_ids),
        views=whole.views | piece.views,
        num_points=whole.num_points + piece.num_points,
        depth_factors=whole.depth_factors | piece.depth_factors,
        doubtful=whole.doubtful and piece.doubtful,
    )


def _draw(available: int, number: int, rng: np.random.Generator) -> NDArray[np.int64]:
    if available <= number:
        return np.arange(available)
    return rng.choice(available, number, replace=False)
