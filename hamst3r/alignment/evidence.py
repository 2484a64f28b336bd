"""What a calibrated rig's rays say of the pairs' scale: where those of one thing meet is metric."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hamst3r.alignment.landmarks import Landmarks
from hamst3r.alignment.observations import Observations, Pair
from hamst3r.geometry import closest_approach, invert, pixel_rays
from hamst3r.matching import reciprocal_matches

F64 = NDArray[np.float64]
# Matched pixels: their rays meet within so many pixels, at an angle of at least this (radians).
# Fewer, a smaller share of all (chance and likeness alone give up to 0.2), or more scattered log
# ratios of depth (median deviation) are no evidence.
MAX_RAY_GAP, MIN_PARALLAX = 1.5, np.deg2rad(2.0)
MIN_MATCHES, MIN_SHARE, MAX_SCATTER = 16, 0.3, 0.35
MATCHED_SAMPLES = 600
MIN_LANDMARKS = 8
# People: the rays through the middles of their masks meet within this share of their depth.
# Masks of different sides of a body have middles some 10 % of its distance apart, and more where
# part of it is hidden; what one person says in several pairs is one opinion.
MIN_PERSON_PIXELS, MAX_PERSON_GAP, PERSON_STD = 24, 0.05, 0.15


@dataclass(frozen=True)
class Evidence:
    """``coefficients . log_scales = value`` with one standard deviation.

    Attributes:
        pairs: (index of the pair, coefficient).
    """

    pairs: tuple[tuple[int, float], ...]
    value: float
    std: float


def evidence_of_people(
    observations: Observations, T_world_cam: Mapping[int, F64], K: Sequence[F64]
) -> list[Evidence]:
    """From people whom both views of a pair see, one item per person and pair.

    Args:
        T_world_cam: view -> exact pose. K: Per view (3, 3), of the grid.
    """
    found: list[tuple[int, int, float]] = []  # person, pair, log ratio
    for index, pair in enumerate(observations.pairs):
        if pair.i == pair.j:
            continue
        views = pair.i, pair.j
        maps = [observations.grids[view].people for view in views]
        for person in np.intersect1d(maps[0], maps[1]):
            masks = [ids == person for ids in maps]
            if person <= 0 or min(mask.sum() for mask in masks) < MIN_PERSON_PIXELS:
                continue
            rays = [
                np.median(pixel_rays(K[view], *mask.shape)[mask], axis=0)[None]
                for view, mask in zip(views, masks, strict=True)
            ]
            z_i, z_j, gap, cosine = _meet(pair, T_world_cam, *rays)
            depth = pair.first.points[..., 2][masks[0] & (pair.first.weight > 0)]
            near = gap < MAX_PERSON_GAP * np.minimum(z_i, z_j)
            if len(depth) and z_i > 0 and z_j > 0 and near and cosine < np.cos(MIN_PARALLAX):
                found.append((int(person), index, float(np.log(z_i[0] / np.median(depth)))))
    opinions = Counter(person for person, _, _ in found)
    return [
        Evidence(((index, 1.0),), value, PERSON_STD * opinions[person] ** 0.5)
        for person, index, value in found
    ]


def evidence_of_matches(
    observations: Observations, T_world_cam: Mapping[int, F64], K: Sequence[F64]
) -> list[Evidence]:
    """From pixels matched by their descriptors; arguments as for people."""
    found = []
    for index, pair in enumerate(observations.pairs):
        if pair.i == pair.j or pair.descriptors is None:
            continue
        grid = observations.grids[pair.i]
        some = np.arange(0, len(grid.rows), max(1, len(grid.rows) // MATCHED_SAMPLES))
        matches = reciprocal_matches(*pair.descriptors, grid.rows[some], grid.columns[some])
        sample = some[matches.sample]
        if len(sample) < MIN_MATCHES:
            continue
        u, v = matches.pixels_j.T
        shape = observations.grids[pair.j].shape
        rays = grid.rays(K[pair.i])[sample], pixel_rays(K[pair.j], *shape)[v, u]
        z_i, z_j, gap, cosine = _meet(pair, T_world_cam, *rays)
        shown = pair.first.X[sample, 2]
        good = (z_i > 0) & (z_j > 0) & (shown > 0) & (cosine < np.cos(MIN_PARALLAX))
        good &= gap * K[pair.i][0, 0] < MAX_RAY_GAP * z_i
        if good.sum() < max(MIN_MATCHES, MIN_SHARE * len(sample)):
            continue
        ratio = np.log(z_i[good] / shown[good])
        middle, scatter, std = _agreed(ratio)
        if scatter < MAX_SCATTER:
            found.append(Evidence(((index, 1.0),), middle, std))
    return found


def evidence_of_landmarks(observations: Observations, marks: Sequence[Landmarks]) -> list[Evidence]:
    """From points that keypoints fix in space, one item per pair that shows enough of them.

    Args:
        marks: Per view.
    """
    found = []
    for index, pair in enumerate(observations.pairs):
        first, own = pair.first, marks[pair.i]
        _, nearer, _ = own.beside(np.where(first.weight > 0, first.points[..., 2], 0))
        nearer = nearer[nearer > 0]
        if len(nearer) < MIN_LANDMARKS:
            continue
        ratio = -np.log(nearer)
        middle, _, std = _agreed(ratio)
        found.append(Evidence(((index, 1.0),), middle, std))
    return found


def _agreed(ratio: F64) -> tuple[float, float, float]:
    """Median of log ratios, their median deviation from it, and the median's standard deviation."""
    middle = float(np.median(ratio))
    scatter = float(np.median(np.abs(ratio - middle)))
    # Neighbouring pixels err alike: a quarter of them counts.
    return middle, scatter, 0.03 + 1.5 * scatter / float(np.sqrt(len(ratio) / 4))


def _meet(
    pair: Pair, T_world_cam: Mapping[int, F64], ray_i: F64, ray_j: F64
) -> tuple[F64, F64, F64, F64]:
    """Where rays of both views come closest.

    Args:
        ray_i, ray_j: (n, 3), z = 1, each in its own camera.

    Returns:
        (n,) each: depth in camera i, in camera j, gap in metres, cosine of the angle between.
    """
    T_i_j = invert(T_world_cam[pair.i]) @ T_world_cam[pair.j]
    return closest_approach(ray_i, ray_j @ T_i_j[:3, :3].T, T_i_j[:3, 3])
